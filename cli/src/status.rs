//! `ambit status`: which namespaces and pods are in the mesh, which of them are captured, and if not, why.
//!
//! Which pods should be captured is decided by the node agent's own rule; that they are is what it has written on them.

use std::collections::BTreeMap;

use mesh::{
    enrol::{self, Enrolment, enrolled},
    keys::Keys,
};
use serde_json::{Value, json};

use crate::{
    Failure,
    cluster::{Cluster, Place, whole_object},
    install::{self, rollout},
    zc::Table,
};

/// The agent's condition on a pod, which says more.
const CAPTURED: &str = "ambit.dev/Captured";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this namespace, with all its pods [default: all that are in the mesh, with the pods that are not captured].
    #[arg(value_name = "NAMESPACE")]
    of: Option<String>,

    #[command(flatten)]
    place: Place,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = crate::args::Output::Table)]
    output: crate::args::Output,
}

/// A namespace with a pod in the mesh, or one that is to have some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// Its label, if it has one.
    pub(crate) mode: Option<String>,
    /// All its pods but ended ones.
    pub(crate) pods: Vec<Pod>,
}

/// A pod of such a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    /// Its containers have started.
    pub(crate) runs: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) state: State,
}

/// Whether a pod is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is.
    Captured,
    /// It should be, and is not.
    Waiting(String),
    /// It should not be, and is not.
    Out(String),
    /// It should not be, and still is.
    Leaving,
}

impl Pod {
    /// Whether it should be captured.
    pub(crate) fn is_in(&self) -> bool {
        matches!(self.state, State::Captured | State::Waiting(_))
    }

    fn is_captured(&self) -> bool {
        matches!(self.state, State::Captured | State::Leaving)
    }

    fn why(&self) -> &str {
        match &self.state {
            State::Captured => "",
            State::Waiting(why) | State::Out(why) => why,
            State::Leaving => {
                "it is asked to leave the mesh, and the agent of its node has not let it go yet"
            }
        }
    }
}

/// Prints it.
pub(crate) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let cluster = Cluster::of(&arguments.place)?;
    let root = &arguments.place.namespace;
    let namespaces = cluster.list("/api/v1/namespaces", whole_object)?;
    let of = arguments.of.as_deref();
    if let Some(of) = of
        && namespaces.iter().all(|it| it["metadata"]["name"] != of)
    {
        return Err(Failure::Failed(format!("there is no namespace {of}")));
    }
    let own_pods = cluster.list(&install::pods_path(root), whole_object)?;
    let path = match of {
        Some(of) => format!("/api/v1/namespaces/{of}/pods"),
        None => "/api/v1/pods".to_owned(),
    };
    let pods = cluster.list(&path, kept)?;
    let keys = install::names::installed(&install::workloads(&cluster, root)?);
    let all = mesh((root, keys), &namespaces, &pods, &own_pods);
    let some: Vec<_> = all
        .into_iter()
        .filter(|it| of.is_none_or(|of| it.name == of))
        .collect();
    crate::print(&match arguments.output {
        crate::args::Output::Json => as_json(&some),
        crate::args::Output::Table if some.is_empty() => {
            nobody((root, keys), of, own_pods.is_empty())
        }
        crate::args::Output::Table => as_text(&some, of.is_some()),
    })
}

/// What is looked at of a pod: a cluster has many, and most of each is of no use here.
pub(crate) fn kept(mut pod: Value) -> Value {
    let metadata = [
        "name",
        "namespace",
        "labels",
        "annotations",
        "deletionTimestamp",
    ];
    let mut part = |name: &str, keys: &[&str]| {
        let mut of = pod[name].take();
        let pairs = keys.iter().map(|key| ((*key).to_owned(), of[*key].take()));
        pairs
            .filter(|(_, value)| !value.is_null())
            .collect::<Value>()
    };
    json!({
        "metadata": part("metadata", &metadata),
        "spec": part("spec", &["nodeName", "hostNetwork"]),
        "status": part("status", &["phase", "conditions"]),
    })
}

/// The namespaces of the mesh of a root namespace, under the names that it goes by. Pure: `own_pods` are those of the mesh
/// itself, which say whether a node has an agent.
pub(crate) fn mesh(
    (root, keys): (&str, Keys),
    namespaces: &[Value],
    pods: &[Value],
    own_pods: &[Value],
) -> Vec<Namespace> {
    let mut all = Vec::new();
    for namespace in namespaces {
        let name = text(&namespace["metadata"]["name"]);
        let labels = map(&namespace["metadata"]["labels"]);
        let excluded = name == "kube-system" || name == root;
        let of = pods
            .iter()
            .filter(|it| it["metadata"]["namespace"] == *name && !is_ended(it));
        let pods: Vec<_> = of
            .map(|it| pod(it, keys, &labels, excluded, own_pods))
            .collect();
        let mode = labels.get(keys.dataplane_mode()).cloned();
        if mode.as_deref() == Some("ambient")
            || pods.iter().any(|it| it.is_in() || it.is_captured())
        {
            all.push(Namespace {
                name: name.to_owned(),
                mode,
                pods,
            });
        }
    }
    all
}

fn pod(
    pod: &Value,
    keys: Keys,
    labels: &BTreeMap<String, String>,
    excluded: bool,
    own_pods: &[Value],
) -> Pod {
    let (own, annotations) = (
        map(&pod["metadata"]["labels"]),
        map(&pod["metadata"]["annotations"]),
    );
    let facts = enrol::Pod {
        labels: &own,
        annotations: &annotations,
        host_network: pod["spec"]["hostNetwork"] == true,
        ended: false,
    };
    let is_captured = keys.captured(&annotations);
    let out = match enrolled(keys, enrol::Namespace { labels }, facts) {
        _ if excluded => Some("pods of this namespace are never in the mesh".to_owned()),
        Enrolment::Out(reason) => Some(reason.to_string()),
        Enrolment::In => None,
    };
    let state = match (out, is_captured) {
        (Some(_), true) => State::Leaving,
        (Some(why), false) => State::Out(why),
        (None, true) => State::Captured,
        (None, false) => State::Waiting(why_waiting(pod, own_pods)),
    };
    Pod {
        name: text(&pod["metadata"]["name"]).to_owned(),
        node: text(&pod["spec"]["nodeName"]).to_owned(),
        runs: pod["status"]["phase"] == "Running",
        labels: own,
        state,
    }
}

/// Why a pod that should be captured is not: what its agent says, else what can be seen.
fn why_waiting(pod: &Value, own_pods: &[Value]) -> String {
    let said = rollout::condition(pod, CAPTURED).filter(|it| it["status"] != "True");
    if let Some(message) = said
        .and_then(|it| it["message"].as_str())
        .filter(|it| !it.is_empty())
    {
        return message.to_owned();
    }
    let node = text(&pod["spec"]["nodeName"]);
    if node.is_empty() {
        return "it has no node yet".to_owned();
    }
    if pod["status"]["phase"] != "Running" {
        return format!(
            "it does not run yet: phase {}",
            text(&pod["status"]["phase"])
        );
    }
    for (app, what) in [("ambit-node", "agent"), ("ztunnel", "ztunnel")] {
        let on_node =
            |it: &&Value| it["metadata"]["labels"]["app"] == app && it["spec"]["nodeName"] == node;
        if !own_pods.iter().filter(on_node).any(rollout::is_ready) {
            return format!("its node {node} has no ready {what}: ambit check");
        }
    }
    "the agent of its node has not captured it yet".to_owned()
}

fn is_ended(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn map(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn nobody((root, keys): (&str, Keys), of: Option<&str>, no_mesh: bool) -> String {
    if no_mesh {
        return format!("no mesh is installed in {root}: ambit install\n");
    }
    let what = match of {
        Some(of) => format!("the namespace {of} is not"),
        None => "no namespace is".to_owned(),
    };
    format!(
        "{what} in the mesh. To put it in: kubectl label namespace {} {}=ambient\n",
        of.unwrap_or("NAME"),
        keys.dataplane_mode()
    )
}

fn as_text(namespaces: &[Namespace], with_all: bool) -> String {
    let rows = namespaces.iter().map(|it| {
        let captured = it.pods.iter().filter(|pod| pod.is_captured()).count();
        let (mode, pods) = (it.mode.as_deref().unwrap_or("-"), it.pods.len());
        vec![
            it.name.clone(),
            mode.to_owned(),
            pods.to_string(),
            captured.to_string(),
        ]
    });
    let summary = Table {
        header: vec!["NAMESPACE", "MODE", "PODS", "CAPTURED"],
        rows: rows.collect(),
    };
    let mut rows = Vec::new();
    for namespace in namespaces {
        for pod in namespace
            .pods
            .iter()
            .filter(|pod| with_all || pod.state != State::Captured)
        {
            let node = if pod.node.is_empty() { "-" } else { &pod.node };
            let captured = if pod.is_captured() { "yes" } else { "no" };
            rows.push(
                [&namespace.name, &pod.name, node, captured, pod.why()]
                    .map(str::to_owned)
                    .to_vec(),
            );
        }
    }
    if rows.is_empty() {
        return summary.to_string();
    }
    let pods = Table {
        header: vec!["NAMESPACE", "POD", "NODE", "CAPTURED", "WHY"],
        rows,
    };
    format!("{summary}\n{pods}")
}

fn as_json(namespaces: &[Namespace]) -> String {
    let namespaces = namespaces.iter().map(|it| {
        let pods = it.pods.iter().map(|pod| {
            json!({
                "name": pod.name, "node": pod.node, "enrolled": pod.is_in(),
                "captured": pod.is_captured(), "why": pod.why(),
            })
        });
        json!({"name": it.name, "mode": it.mode, "pods": pods.collect::<Vec<_>>()})
    });
    format!(
        "{:#}\n",
        json!({ "namespaces": namespaces.collect::<Vec<_>>() })
    )
}

#[cfg(test)]
mod tests;
