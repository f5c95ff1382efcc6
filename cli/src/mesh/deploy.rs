//! A pod for the waypoint of each Gateway, as a controller makes one in a cluster: written into the directory of manifests.
//!
//! Where the waypoint is and who it is, no more; the process is started like the others. A Gateway that has a pod already is
//! left alone. What is there is compared with what ought to be, each time from the start: a call that failed half-way is made
//! good by the next one. What is wrong with other manifests is the control plane's to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use control::{
    compile::{Settings, gateways},
    source::{self, Loaded, files::Files},
    world::World,
};

use super::{
    CONTROL, MANIFESTS, Mesh, NETNS,
    pod::{self, Pod},
};
use crate::{
    Failure,
    lab::{self, Node},
};

/// The label that says which Gateway's waypoint a pod is.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
/// Where the addresses of waypoints begin in a node's range.
const FIRST: u8 = 200;
/// How a generated file begins; then come the Gateway, as `NAMESPACE/NAME`, and [`GENERATED`].
const HEAD: &str = "# The waypoint of the Gateway ";
const GENERATED: &str = ". Generated: the Gateway is what to edit.";

/// Namespace and name.
type Key = (String, String);

/// The manifests as they were read last: the source of last good versions, as for the control plane.
#[derive(Debug, Default)]
pub(super) struct Seen {
    files: Files,
    loaded: Loaded,
    /// Every file was read while nobody wrote it: only from then on is it known what has gone.
    whole: bool,
}

/// What a look at the manifests has changed.
#[derive(Debug, Default)]
pub struct Deployed {
    /// Names of the pods in which a waypoint was started.
    pub started: Vec<String>,
    /// Names of the pods whose waypoint was ended.
    pub ended: Vec<String>,
    /// Why Gateways have no waypoint, or still have one; a sentence each.
    pub refused: Vec<String>,
    /// Names of the pods whose waypoint has no credential from the control plane yet.
    pub waiting: Vec<String>,
    /// All manifests were read as they are: none is being written.
    pub settled: bool,
}

/// What to do with the directory of manifests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    write: Vec<(PathBuf, String)>,
    remove: Vec<PathBuf>,
    refused: Vec<String>,
}

impl Seen {
    /// Reads a directory to which nobody writes yet, and adds what is missing.
    ///
    /// # Errors
    /// A sentence; also if a Gateway cannot have its waypoint, or a manifest is faulty.
    pub(super) fn first(directory: &Path) -> Result<(Self, pod::Read), String> {
        let failed = |error: io::Error| format!("{}: {error}", directory.display());
        let mut texts = source::read_dir(directory).map_err(failed)?;
        let loaded = source::load(&texts, None);
        let plan = plan(&loaded.world, &texts, directory, &[]);
        if let Some(refused) = plan.refused.into_iter().next() {
            return Err(refused);
        }
        write(&plan.write).map_err(failed)?;
        texts.extend(plan.write);
        let loaded = source::load(&texts, None);
        if let Some(problem) = loaded.problems.first() {
            return Err(problem.to_string());
        }
        let read = pod::read(&loaded.world)?;
        let seen = Self {
            loaded,
            ..Self::default()
        };
        Ok((seen, read))
    }

    /// Reads the directory again, adds what is missing to it and removes what is no longer needed. Returns the pods in which
    /// a waypoint has to run.
    fn again(
        &mut self,
        directory: &Path,
        running: &[Pod],
        told: &mut Deployed,
    ) -> io::Result<Vec<Pod>> {
        let now = Instant::now();
        self.files = self.files.look(directory, now)?;
        told.settled = self.files.look_again(now).is_none();
        self.whole |= told.settled;
        if !self.whole {
            let waypoints = running.iter().filter(|pod| pod.gateway.is_some());
            return Ok(waypoints.cloned().collect());
        }
        let mut texts = self.files.texts().clone();
        // Generated files are whole at any time, however new.
        let all = source::read_dir(directory)?;
        texts.extend(all.into_iter().filter(|(_, text)| whose(text).is_some()));
        self.loaded = source::load(&texts, Some(&self.loaded));
        let plan = plan(&self.loaded.world, &texts, directory, running);
        write(&plan.write)?;
        for file in &plan.remove {
            fs::remove_file(file)?;
            texts.remove(file);
        }
        told.refused.extend(plan.refused);
        texts.extend(plan.write);
        self.loaded = source::load(&texts, Some(&self.loaded));
        let world = &self.loaded.world;
        let ours = ours(world);
        let mut wanted = Vec::new();
        for found in world.pods.values() {
            let gateway = found.meta.labels.get(GATEWAY).cloned();
            let key = gateway.map(|gateway| (found.meta.namespace.clone(), gateway));
            if key.is_none_or(|key| !ours.contains(&key)) {
                continue;
            }
            match pod::of(world, found) {
                Ok(pod) => wanted.push(pod),
                Err(reason) => told.refused.push(reason),
            }
        }
        Ok(wanted)
    }
}

impl Mesh {
    /// Has a waypoint run for each Gateway that there is now, and for no other. Waits for nothing: who calls it calls it again
    /// when the manifests have changed, and as long as anything is waiting or not settled.
    ///
    /// # Errors
    /// The manifests cannot be read or written. What is wrong with a single Gateway is in what is returned.
    pub fn deploy(&mut self) -> Result<Deployed, Failure> {
        let directory = self.path(MANIFESTS);
        let mut told = Deployed::default();
        let wanted = self.seen.again(&directory, &self.pods, &mut told);
        let wanted =
            wanted.map_err(|error| Failure::Failed(format!("{}: {error}", directory.display())))?;
        let over = |pod: &&Pod| pod.gateway.is_some() && !wanted.contains(pod);
        let over: Vec<_> = self.pods.iter().filter(over).cloned().collect();
        for pod in over {
            match self.end_waypoint(&pod) {
                Ok(()) => told.ended.push(pod.netns),
                Err(error) => told.refused.push(format!("pod {}: {error}", pod.netns)),
            }
        }
        for pod in wanted {
            let runs = self.processes.id(&process(&pod)).is_some();
            let Some(gateway) = pod.gateway.as_ref().filter(|_| !runs) else {
                continue;
            };
            if !self.waypoint_token(&pod.namespace, gateway).exists() {
                told.waiting.push(pod.netns);
                continue;
            }
            let placed = self.place(&pod);
            let placed =
                placed.map_err(|error| Failure::Failed(format!("cannot make its pod: {error}")));
            match placed.and_then(|()| self.start_waypoint(&pod)) {
                Ok(()) => told.started.push(pod.netns),
                Err(failure) => {
                    let of = format!("Gateway {}/{gateway}", pod.namespace);
                    told.refused.push(format!("{of}: {failure}"));
                }
            }
        }
        Ok(told)
    }

    /// Makes a pod's namespace and its link, unless they are there.
    fn place(&mut self, pod: &Pod) -> io::Result<()> {
        if !self.pods.contains(pod) {
            self.lab.add_pod(&pod.netns, pod.node, &pod.addresses)?;
            self.pods.push(pod.clone());
        }
        let link = self.path(NETNS).join(&pod.netns);
        let place = self.lab.pod(&pod.netns).ok_or(io::ErrorKind::NotFound)?;
        lab::publish(&place.netns, &link)
    }

    /// Ends a waypoint, and takes its pod away.
    fn end_waypoint(&mut self, pod: &Pod) -> io::Result<()> {
        self.processes.end(&process(pod))?;
        if self.lab.pod(&pod.netns).is_some() {
            self.lab.remove_pod(&pod.netns)?;
        }
        self.pods.retain(|it| it != pod);
        match fs::remove_file(self.path(NETNS).join(&pod.netns)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The name of a waypoint's process.
fn process(pod: &Pod) -> String {
    format!("waypoint-{}", pod.netns)
}

/// Whoever watches the directory sees the whole file or none.
fn write(files: &[(PathBuf, String)]) -> io::Result<()> {
    for (file, text) in files {
        let new = file.with_extension("yaml.new");
        fs::write(&new, text)?;
        fs::rename(&new, file)?;
    }
    Ok(())
}

/// The Gateways that are to have a waypoint, as the control plane of the mesh that runs sees it.
fn ours(world: &World) -> BTreeSet<Key> {
    let settings = Settings {
        deploys: true,
        ..Settings::default()
    };
    gateways(world, &settings).into_iter().collect()
}

/// The Gateway whose generated file this is.
fn whose(text: &str) -> Option<Key> {
    let line = text.lines().next()?;
    let (namespace, name) = line
        .strip_prefix(HEAD)?
        .strip_suffix(GENERATED)?
        .split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// A file for each Gateway that has no pod, and none for those that are gone.
fn plan(
    world: &World,
    files: &BTreeMap<PathBuf, String>,
    directory: &Path,
    running: &[Pod],
) -> Plan {
    let ours = ours(world);
    let generated = files
        .iter()
        .filter_map(|(file, text)| Some((whose(text)?, file)));
    let generated: BTreeMap<Key, &PathBuf> = generated.collect();
    let gone = generated.iter().filter(|(key, _)| !ours.contains(*key));
    let mut plan = Plan {
        remove: gone.map(|(_, file)| (*file).clone()).collect(),
        ..Plan::default()
    };
    let mut room = Room::of(world, running);
    for key in &ours {
        let (namespace, name) = key;
        let is_its = |of: &str, label: Option<&String>| of == namespace && label == Some(name);
        let mut pods = world.pods.values();
        if pods.any(|pod| is_its(&pod.meta.namespace, pod.meta.labels.get(GATEWAY))) {
            continue;
        }
        let own = directory.join(format!("waypoint-{namespace}.{name}.yaml"));
        let file = generated.get(key).map(|file| (*file).clone());
        let clash = match file {
            Some(_) => None,
            None if world.service_accounts.contains_key(key) => Some("ServiceAccount"),
            None if world.pods.contains_key(key) => Some("Pod"),
            None => files.contains_key(&own).then_some("file"),
        };
        if let Some(what) = clash {
            plan.refused.push(format!(
                "Gateway {namespace}/{name} gets no waypoint: there is a {what} already that is called as its own would be; rename one of them"
            ));
            continue;
        }
        let same = running
            .iter()
            .find(|pod| is_its(&pod.namespace, pod.gateway.as_ref()));
        let place = match same {
            Some(pod) => Some((pod.netns.clone(), pod.node, pod.addresses[0])),
            None => room.take(namespace, name),
        };
        let Some((netns, node, address)) = place else {
            plan.refused.push(format!(
                "Gateway {namespace}/{name} gets no waypoint: there is no address left for one"
            ));
            continue;
        };
        let text = manifest(namespace, name, &netns, node, address);
        plan.write.push((file.unwrap_or(own), text));
    }
    plan
}

/// What pods have already.
struct Room {
    addresses: BTreeSet<IpAddr>,
    names: BTreeSet<String>,
    counts: [usize; 2],
}

impl Room {
    /// By the manifests, and by what runs whatever they say.
    fn of(world: &World, running: &[Pod]) -> Self {
        let pods = world.pods.values();
        let addresses = pods.clone().flat_map(|pod| &pod.addresses);
        let names = pods.filter_map(|pod| pod.meta.annotations.get(pod::NETNS));
        // Those are links beside the pods'.
        let reserved = Node::ALL.map(Node::name).into_iter().chain([CONTROL]);
        Self {
            addresses: addresses
                .chain(running.iter().flat_map(|pod| &pod.addresses))
                .copied()
                .collect(),
            names: names
                .chain(running.iter().map(|pod| &pod.netns))
                .cloned()
                .chain(reserved.map(str::to_owned))
                .collect(),
            counts: Node::ALL.map(|node| {
                let here = world.pods.values().filter(|pod| pod.node == node.name());
                here.count()
            }),
        }
    }

    /// A place for one more, on the node that has fewer. `None` if that has no address left.
    fn take(&mut self, namespace: &str, name: &str) -> Option<(String, Node, IpAddr)> {
        let at = usize::from(self.counts[1] < self.counts[0]);
        let node = Node::ALL[at];
        let mut addresses = (FIRST..=u8::MAX - 1).map(|host| node.v4(host));
        let address = addresses.find(|address| self.addresses.insert(*address))?;
        self.counts[at] += 1;
        let whole = format!("{namespace}-{name}");
        let numbered = (2..).map(|number| format!("{whole}-{number}"));
        let mut names = [name.to_owned(), whole.clone()].into_iter().chain(numbered);
        let netns = names.find(|name| self.names.insert(name.clone()))?;
        Some((netns, node, address))
    }
}

fn manifest(namespace: &str, name: &str, netns: &str, node: Node, address: IpAddr) -> String {
    let node = node.name();
    format!(
        "{HEAD}{namespace}/{name}{GENERATED}
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    {GATEWAY}: {name}
    networking.istio.io/tunnel: http
    istio.io/dataplane-mode: none
  annotations: {{{}: {netns}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  containers:
  - {{name: waypoint, image: ambit, args: [waypoint]}}
status:
  podIPs: [{{ip: {address}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
",
        pod::NETNS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
        let own = |(name, text): &(&str, &str)| (PathBuf::from(name), (*text).to_owned());
        texts.iter().map(own).collect()
    }

    fn planned(files: &BTreeMap<PathBuf, String>, running: &[Pod]) -> Plan {
        let world = source::load(files, None).world;
        plan(&world, files, Path::new(""), running)
    }

    fn read(files: &BTreeMap<PathBuf, String>) -> Vec<Pod> {
        let loaded = source::load(files, None);
        assert_eq!(loaded.problems, []);
        pod::read(&loaded.world).unwrap().pods
    }

    const GATEWAYS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: a}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: b}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: b}
spec: {gatewayClassName: somebody-elses, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: x, namespace: a, annotations: {ambit.dev/netns: x}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.71.2.200}]}
";

    #[test]
    fn each_gateway_of_ours_gets_a_pod_once() {
        let mut all = files(&[("x.yaml", GATEWAYS)]);
        let plan = planned(&all, &[]);
        assert_eq!((&plan.remove[..], &plan.refused[..]), (&[][..], &[][..]));
        let names: Vec<_> = plan.write.iter().map(|(file, _)| file.to_str()).collect();
        assert_eq!(
            names,
            [Some("waypoint-a.w.yaml"), Some("waypoint-b.w.yaml")]
        );
        all.extend(plan.write);
        let pods = read(&all);
        let pod = |namespace: &str| {
            let is = |pod: &&Pod| pod.namespace == namespace && pod.name == "w";
            pods.iter().find(is).unwrap()
        };
        assert_eq!(pod("a").addresses, [Node::Two.v4(201)], "200 is taken");
        assert_eq!(pod("b").addresses, [Node::One.v4(200)]);
        assert_eq!((&*pod("a").netns, &*pod("b").netns), ("w", "b-w"));
        assert_eq!(pod("b").identity, "spiffe://cluster.local/ns/b/sa/w");
        assert_eq!(planned(&all, &pods), Plan::default());
    }

    #[test]
    fn an_account_or_a_file_in_the_way_costs_one_gateway_its_waypoint() {
        let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: w, namespace: a}}";
        for (name, text) in [("y.yaml", account), ("waypoint-a.w.yaml", "# mine")] {
            let all = files(&[("x.yaml", GATEWAYS), (name, text)]);
            let plan = planned(&all, &[]);
            assert!(plan.refused[0].contains("Gateway a/w gets no waypoint"));
            let names: Vec<_> = plan.write.iter().map(|(file, _)| file.to_str()).collect();
            assert_eq!(names, [Some("waypoint-b.w.yaml")]);
        }
    }

    #[test]
    fn the_file_of_a_gateway_that_is_gone_goes_too() {
        let mut all = files(&[("x.yaml", GATEWAYS)]);
        let plan = planned(&all, &[]);
        all.extend(plan.write);
        let without = GATEWAYS.replacen("name: w, namespace: a", "name: v, namespace: a", 1);
        all.insert("x.yaml".into(), without);
        let plan = planned(&all, &[]);
        assert_eq!(plan.remove, [PathBuf::from("waypoint-a.w.yaml")]);
        let names: Vec<_> = plan.write.iter().map(|(file, _)| file.to_str()).collect();
        assert_eq!(names, [Some("waypoint-a.v.yaml")]);
    }

    #[test]
    fn a_generated_file_that_was_deleted_comes_again_as_it_was() {
        let mut all = files(&[("x.yaml", GATEWAYS)]);
        all.extend(planned(&all, &[]).write);
        let running = read(&all);
        let lost = all.remove(Path::new("waypoint-b.w.yaml")).unwrap();
        let again = [(PathBuf::from("waypoint-b.w.yaml"), lost)];
        assert_eq!(planned(&all, &running).write, again);
    }

    #[test]
    fn no_pod_gets_a_name_or_address_that_is_in_use() {
        let gateways = GATEWAYS.replace("name: w, namespace: a", "name: control, namespace: a");
        let mut all = files(&[("x.yaml", &gateways)]);
        let gone = read(&all);
        let pod = gateways.rfind("---").unwrap();
        all.insert("x.yaml".into(), gateways[..pod].to_owned());
        all.extend(planned(&all, &gone).write);
        let pods = read(&all);
        assert_eq!(pods[0].netns, "a-control");
        assert!(pods.iter().all(|pod| pod.addresses != gone[0].addresses));
    }
}
