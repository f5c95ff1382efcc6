//! `ambit install`, `ambit upgrade` and `ambit uninstall`: the mesh on a Kubernetes cluster.
//!
//! What is installed is the chart that this executable carries, and the `helm` of the PATH installs it. Here is only what
//! helm cannot do: label the namespace, say how far it has come, and remove what the mesh has made while it ran.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use mesh::keys::Keys;
use serde_json::{Value, json};

use crate::{
    Failure,
    cluster::{Cluster, Place, whole_object},
    length,
    paint::Paint,
};
use chart::Chart;
use helm::Helm;

pub(crate) mod chart;
mod helm;
pub(crate) mod kinds;
mod left;
pub(crate) mod names;
pub(crate) mod rollout;

/// On a namespace that `install` has made: `uninstall` removes it.
const MADE: &str = "ambit.dev/made-by";

/// Between two looks at what comes up or goes away.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    values: Values,

    /// Print what would be applied, and change nothing.
    #[arg(long)]
    dry_run: bool,

    /// How long it may take until all of it runs.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = length::parse)]
    timeout: Duration,
}

/// What the chart is set to.
#[derive(Debug, clap::Args)]
struct Values {
    /// A value of the chart, as helm takes it; may be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// A file of values of the chart; may be given again.
    #[arg(long, value_name = "FILE")]
    values: Vec<PathBuf>,

    /// Image of every component [default: the chart's].
    #[arg(long, value_name = "REPOSITORY:TAG", env = "AMBIT_IMAGE")]
    image: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Removal {
    #[command(flatten)]
    place: Place,

    /// Leave what is on the nodes as it is, for where no agent can run that would restore them.
    #[arg(long)]
    leave_nodes: bool,

    /// How long it may take.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = length::parse)]
    timeout: Duration,
}

/// Installs the mesh.
pub(crate) fn install(arguments: &Arguments) -> Result<(), Failure> {
    let chart = Chart::unpack()?;
    let helm = Helm::find(&arguments.place)?;
    let namespace = &arguments.place.namespace;
    if arguments.dry_run {
        let manifests = helm.render(&chart, &arguments.values.flags()?)?;
        let first = namespace_object(namespace, true);
        return crate::print(&format!("{first:#}\n{manifests}"));
    }
    let cluster = Cluster::of(&arguments.place)?;
    let path = namespace_path(namespace);
    let there = cluster.get(&path)?;
    if let Some(release) = helm.release()?
        && release["status"] == "deployed"
    {
        return Err(Failure::Failed(format!(
            "{} is installed in {namespace} already. To change it: ambit upgrade",
            release["chart"].as_str().unwrap_or("it")
        )));
    }
    kinds::refuse_older(&kinds::served(&cluster)?)?;
    let made = there.is_none_or(|it| !it["metadata"]["annotations"][MADE].is_null());
    let mut flags = arguments.values.flags()?;
    let keys = arguments.names(&cluster, &helm.render(&chart, &flags)?)?;
    let shared = keys == Keys::Shared;
    flags.extend(["--set".to_owned(), format!("{}={shared}", names::VALUE)]);
    cluster.apply(&path, &namespace_object(namespace, made))?;
    helm.install(&chart, &flags)?;
    arguments.follow(&cluster)
}

/// Brings an installed mesh to this executable's version, or to other values. What was set before stays set.
pub(crate) fn upgrade(arguments: &Arguments) -> Result<(), Failure> {
    let chart = Chart::unpack()?;
    let helm = Helm::find(&arguments.place)?;
    let cluster = Cluster::of(&arguments.place)?;
    // A better answer than helm's where nobody is.
    cluster.get("/version")?;
    if helm.release()?.is_none() {
        let namespace = &arguments.place.namespace;
        return Err(Failure::Failed(format!(
            "nothing is installed in {namespace}: ambit install"
        )));
    }
    let served = kinds::served(&cluster)?;
    kinds::refuse_older(&served)?;
    if !arguments.dry_run {
        kinds::apply_absent(&cluster, &served)?;
    }
    let said = helm.upgrade(&chart, &arguments.values.flags()?, arguments.dry_run)?;
    if arguments.dry_run {
        return crate::print(&said);
    }
    arguments.follow(&cluster)
}

/// Removes the mesh, and what it has made. Definitions of kinds and users' objects stay.
pub(crate) fn uninstall(arguments: &Removal) -> Result<(), Failure> {
    let helm = Helm::find(&arguments.place)?;
    let cluster = Cluster::of(&arguments.place)?;
    cluster.get("/version")?;
    let end = Instant::now() + arguments.timeout;
    let namespace = &arguments.place.namespace;
    let mut removed = Vec::new();
    if let Some(release) = helm.release()? {
        helm.uninstall(arguments.timeout, arguments.leave_nodes)?;
        wait_until_gone(&cluster, namespace, end)?;
        removed.push(format!(
            "the release {}",
            release["chart"].as_str().unwrap_or("ambit")
        ));
    }
    let (more, stays) = left::remove(&cluster, namespace, end)?;
    removed.extend(more);
    let mut said = match &removed[..] {
        [] => format!("nothing is installed in {namespace}\n"),
        all => format!("removed: {}\n", all.join(", ")),
    };
    if !stays.is_empty() {
        said += &format!(
            "the namespace {namespace} stays, it has: {}\n",
            stays.join(", ")
        );
    }
    crate::print(&said)
}

impl Values {
    /// As flags of helm.
    fn flags(&self) -> Result<Vec<String>, Failure> {
        let mut flags = Vec::new();
        for file in &self.values {
            flags.extend(["--values".to_owned(), file.display().to_string()]);
        }
        if let Some(image) = &self.image {
            for (key, value) in image_values(image)? {
                flags.extend(["--set-string".to_owned(), format!("{key}={value}")]);
            }
        }
        for value in &self.set {
            flags.extend(["--set".to_owned(), value.clone()]);
        }
        Ok(flags)
    }
}

/// The chart's values for an image: `registry:5000/ambit:1`, `ambit@sha256:…`.
fn image_values(image: &str) -> Result<[(&'static str, &str); 2], Failure> {
    match image.rsplit_once(':') {
        Some((repository, tag))
            if !tag.contains('/') && !tag.is_empty() && !repository.is_empty() =>
        {
            Ok([("image.repository", repository), ("image.tag", tag)])
        }
        _ => Err(Failure::Usage(format!(
            "the image {image:?} has no tag: REPOSITORY:TAG"
        ))),
    }
}

fn namespace_path(name: &str) -> String {
    format!("/api/v1/namespaces/{name}")
}

/// The namespace of the mesh. What runs on nodes needs more than the default of a cluster may allow.
fn namespace_object(name: &str, made: bool) -> Value {
    let mode = |mode: &str| {
        (
            format!("pod-security.kubernetes.io/{mode}"),
            Value::from("privileged"),
        )
    };
    let labels: Value = ["enforce", "audit", "warn"].into_iter().map(mode).collect();
    let mut namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    });
    if made {
        namespace["metadata"]["annotations"] = json!({ MADE: "install" });
    }
    namespace
}

impl Arguments {
    /// Under which names the mesh is installed that has these manifests.
    fn names(&self, cluster: &Cluster, manifests: &str) -> Result<Keys, Failure> {
        let wanted = names::wanted(manifests);
        let others = names::Holders::of(cluster)?.others(&self.place.namespace);
        let keys = names::decide(wanted, &others).map_err(Failure::Failed)?;
        if let Some(said) = names::announce(wanted, keys, &others) {
            crate::print(&format!("{said}\n"))?;
        }
        Ok(keys)
    }

    /// Waits until all parts run; says how far they are, on a terminal.
    fn follow(&self, cluster: &Cluster) -> Result<(), Failure> {
        let (begin, namespace) = (Instant::now(), &self.place.namespace);
        let terminal = io::stderr().is_terminal();
        let clear = || {
            if terminal {
                eprint!("\r\x1b[K")
            }
        };
        loop {
            let workloads = workloads(cluster, namespace)?;
            let parts = rollout::parts(&workloads);
            if parts.iter().all(rollout::Part::is_rolled_out) {
                clear();
                let keys = names::installed(&workloads);
                return done(&parts, keys, namespace, begin.elapsed());
            }
            if begin.elapsed() >= self.timeout {
                clear();
                let pods = cluster.list(&pods_path(namespace), whole_object)?;
                return Err(late(&parts, &pods, namespace, self.timeout));
            }
            if terminal {
                eprint!(
                    "\r\x1b[K{} ({} s)",
                    rollout::line(&parts),
                    begin.elapsed().as_secs()
                );
                // Progress is a courtesy.
                let _ = io::stderr().flush();
            }
            thread::sleep(PAUSE);
        }
    }
}

fn done(
    parts: &[rollout::Part],
    keys: Keys,
    namespace: &str,
    took: Duration,
) -> Result<(), Failure> {
    let paint = Paint::stdout();
    let lines: String = parts
        .iter()
        .map(|part| format!("{} {part}\n", paint.mark(true)))
        .collect();
    crate::print(&format!(
        "{lines}Ambit {} runs in {namespace} ({} s). Next, put the running pods of a namespace into the mesh:\n\n  \
         kubectl label namespace default {}=ambient\n",
        env!("CARGO_PKG_VERSION"),
        took.as_secs(),
        keys.dataplane_mode(),
    ))
}

fn late(parts: &[rollout::Part], pods: &[Value], namespace: &str, timeout: Duration) -> Failure {
    let mut why = format!(
        "after {} s not all of it runs: {}",
        timeout.as_secs(),
        rollout::line(parts)
    );
    for trouble in rollout::troubles(pods) {
        why += &format!("\n  {trouble}");
    }
    why += &format!(
        "\nIt goes on without this command. To see more: ambit check; kubectl -n {namespace} get events"
    );
    Failure::Failed(why)
}

/// The Deployments and DaemonSets of a namespace.
pub(crate) fn workloads(cluster: &Cluster, namespace: &str) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    for (kind, plural) in [("Deployment", "deployments"), ("DaemonSet", "daemonsets")] {
        let list = cluster.list(
            &format!("/apis/apps/v1/namespaces/{namespace}/{plural}"),
            whole_object,
        )?;
        all.extend(list.into_iter().map(|mut it| {
            // Items of a list do not say what they are.
            it["kind"] = kind.into();
            it
        }));
    }
    Ok(all)
}

pub(crate) fn pods_path(namespace: &str) -> String {
    format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/instance%3D{}",
        helm::RELEASE
    )
}

/// What still runs could make again what is removed next.
fn wait_until_gone(cluster: &Cluster, namespace: &str, end: Instant) -> Result<(), Failure> {
    loop {
        let pods = cluster.list(&pods_path(namespace), whole_object)?;
        if pods.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Failure::Failed(format!(
                "{} pods of the mesh still end: kubectl -n {namespace} get pods; then again: ambit uninstall",
                pods.len()
            )));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_at_its_tag() {
        for (image, repository, tag) in [
            ("ambit:1", "ambit", "1"),
            ("localhost:5000/ambit:1", "localhost:5000/ambit", "1"),
            ("ambit@sha256:00ff", "ambit@sha256", "00ff"),
        ] {
            let values = image_values(image).unwrap();
            assert_eq!(values.map(|(_, value)| value), [repository, tag]);
        }
        for wrong in ["ambit", "localhost:5000/ambit", "ambit:", ":1", ""] {
            assert!(image_values(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_namespace_lets_node_pods_run_and_says_who_made_it() {
        let made = namespace_object("m", true);
        assert_eq!(
            made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
            "privileged"
        );
        assert_eq!(made["metadata"]["annotations"][MADE], "install");
        assert!(namespace_object("m", false)["metadata"]["annotations"].is_null());
    }
}
