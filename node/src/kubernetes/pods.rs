//! Which pods run on this node, and which of them are in the mesh, from what a watch told so far. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1;
use mesh::enrol::{self, enrolled};
use sys::netns::Netns;

use crate::manifests::{Key, Place, Pod};

/// The annotation that says that a pod is reached through tunnels.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";

/// Its value while the pod is captured.
pub const ENABLED: &str = "enabled";

type Labels = BTreeMap<String, String>;

/// Namespaces whose pods are never in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded(pub BTreeSet<String>);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A namespace is there, or has other labels than before.
    Namespace(String, Labels),
    /// A namespace is gone.
    NamespaceGone(String),
    /// These are all namespaces.
    Namespaces(BTreeMap<String, Labels>),
    /// A pod of this node is there, or is another than before.
    Pod(Box<v1::Pod>),
    /// A pod is gone.
    PodGone(Key),
    /// These are all pods of this node.
    Pods(Vec<v1::Pod>),
}

/// A pod, as far as the agent acts on it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    uid: String,
    service_account: String,
    labels: Labels,
    annotations: Labels,
    host_network: bool,
    ended: bool,
    ready: bool,
}

/// All that is known of this node's pods.
#[derive(Debug)]
pub struct Pods {
    excluded: Excluded,
    namespaces: Option<BTreeMap<String, Labels>>,
    pods: Option<BTreeMap<Key, Seen>>,
    /// By uid. Kept as long as the pod is there.
    netns: BTreeMap<String, Arc<Netns>>,
}

impl Pods {
    /// Nothing is known yet.
    pub fn new(excluded: Excluded) -> Self {
        Self {
            excluded,
            namespaces: None,
            pods: None,
            netns: BTreeMap::new(),
        }
    }

    /// Takes in a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespaces(all) => self.namespaces = Some(all),
            Change::Namespace(name, labels) => {
                if let Some(all) = &mut self.namespaces {
                    all.insert(name, labels);
                }
            }
            Change::NamespaceGone(name) => {
                if let Some(all) = &mut self.namespaces {
                    all.remove(&name);
                }
            }
            Change::Pods(all) => self.pods = Some(all.into_iter().filter_map(seen).collect()),
            Change::Pod(pod) => {
                if let Some((all, (key, pod))) = self.pods.as_mut().zip(seen(*pod)) {
                    all.insert(key, pod);
                }
            }
            Change::PodGone(key) => {
                if let Some(all) = &mut self.pods {
                    all.remove(&key);
                }
            }
        }
        let pods = self.pods.iter().flat_map(BTreeMap::values);
        let uids: BTreeSet<&str> = pods.map(|pod| pod.uid.as_str()).collect();
        self.netns.retain(|uid, _| uids.contains(uid.as_str()));
    }

    /// Whether the namespace of the pod of this uid is still to be found.
    pub fn lacks(&self, uid: &str) -> bool {
        let mut pods = self.pods.iter().flat_map(BTreeMap::values);
        !self.netns.contains_key(uid)
            && pods.any(|pod| pod.uid == uid && !pod.host_network && !pod.ended)
    }

    /// Whether the namespace of any pod that is, or was, in the mesh is still to be found.
    pub fn lacks_any(&self) -> bool {
        let mut pods = self.pods.iter().flatten();
        pods.any(|(key, pod)| {
            let counts = !self.pod(key, pod).is_out() || pod.is_captured();
            counts && self.lacks(&pod.uid)
        })
    }

    /// Takes in namespaces that were found, by uid.
    pub fn found(&mut self, netns: BTreeMap<String, Arc<Netns>>) {
        let new: Vec<_> = netns
            .into_iter()
            .filter(|(uid, _)| self.lacks(uid))
            .collect();
        self.netns.extend(new);
    }

    /// The pods of the node, once all are known.
    pub fn wanted(&self) -> Option<BTreeMap<Key, Pod>> {
        self.namespaces.as_ref()?;
        let pods = self.pods.as_ref()?.iter();
        let wanted = pods.map(|(key, pod)| (key.clone(), self.pod(key, pod)));
        Some(wanted.collect())
    }

    /// What is written on the pods themselves: by uid, whether it says that the pod is captured.
    pub fn published(&self) -> BTreeMap<Key, (String, bool)> {
        let pods = self.pods.iter().flatten();
        pods.map(|(key, pod)| (key.clone(), (pod.uid.clone(), pod.is_captured())))
            .collect()
    }

    fn pod(&self, (namespace, name): &Key, seen: &Seen) -> Pod {
        let none = Labels::new();
        let all = self.namespaces.as_ref();
        let excluded = self.excluded.0.contains(namespace);
        let labels = all
            .and_then(|all| all.get(namespace))
            .filter(|_| !excluded)
            .unwrap_or(&none);
        let facts = enrol::Pod {
            labels: if excluded { &none } else { &seen.labels },
            annotations: &seen.annotations,
            host_network: seen.host_network,
            ended: seen.ended,
        };
        Pod {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: seen.uid.clone(),
            service_account: seen.service_account.clone(),
            enrolment: Some(enrolled(enrol::Namespace { labels }, facts)),
            netns: self.netns.get(&seen.uid).cloned().map(Place::Held),
            ready: seen.ready,
        }
    }
}

impl Seen {
    fn is_captured(&self) -> bool {
        self.annotations.get(REDIRECTION).map(String::as_str) == Some(ENABLED)
    }
}

fn seen(pod: v1::Pod) -> Option<(Key, Seen)> {
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let phase = status.phase.as_deref();
    let conditions = status.conditions.unwrap_or_default();
    let account = spec.service_account_name.filter(|name| !name.is_empty());
    let seen = Seen {
        uid: pod.metadata.uid?,
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        labels: pod.metadata.labels.unwrap_or_default(),
        annotations: pod.metadata.annotations.unwrap_or_default(),
        host_network: spec.host_network == Some(true),
        ended: matches!(phase, Some("Succeeded" | "Failed")),
        ready: conditions
            .iter()
            .any(|it| it.type_ == "Ready" && it.status == "True"),
    };
    let key = (pod.metadata.namespace?, pod.metadata.name?);
    Some((key, seen))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    fn pod(name: &str, more: &serde_json::Value) -> v1::Pod {
        let mut tree = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": UID},
            "spec": {"containers": [], "serviceAccountName": "cart"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (part, fields) in more.as_object().unwrap() {
            let fields = fields.as_object().unwrap().clone();
            tree[part].as_object_mut().unwrap().extend(fields);
        }
        serde_json::from_value(tree).unwrap()
    }

    fn pods() -> Pods {
        let excluded = ["kube-system".to_owned()].into();
        Pods::new(Excluded(excluded))
    }

    fn mode(value: &str) -> Labels {
        [(enrol::DATAPLANE_MODE.to_owned(), value.to_owned())].into()
    }

    fn is_in(pods: &Pods, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        !pods.wanted().unwrap()[&key].is_out()
    }

    #[test]
    fn nothing_is_wanted_before_all_pods_and_all_namespaces_are_known() {
        let mut pods = pods();
        pods.apply(Change::Pod(Box::new(pod("a", &json!({})))));
        pods.apply(Change::Pods(Vec::new()));
        assert_eq!(pods.wanted(), None);
        pods.apply(Change::Namespaces(BTreeMap::new()));
        assert_eq!(pods.wanted(), Some(BTreeMap::new()));
    }

    #[test]
    fn a_label_takes_the_pods_of_a_namespace_in_and_its_removal_out() {
        let mut pods = pods();
        pods.apply(Change::Pods(vec![pod("a", &json!({}))]));
        pods.apply(Change::Namespaces(
            [("shop".to_owned(), Labels::new())].into(),
        ));
        assert!(!is_in(&pods, "shop", "a"));
        pods.apply(Change::Namespace("shop".to_owned(), mode("ambient")));
        assert!(is_in(&pods, "shop", "a"));
        let out = json!({"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}});
        pods.apply(Change::Pod(Box::new(pod("a", &out))));
        assert!(!is_in(&pods, "shop", "a"));
        pods.apply(Change::Pod(Box::new(pod("a", &json!({})))));
        pods.apply(Change::NamespaceGone("shop".to_owned()));
        assert!(!is_in(&pods, "shop", "a"));
    }

    #[test]
    fn pods_of_the_node_itself_and_of_excluded_namespaces_are_never_in() {
        let mut pods = pods();
        let host = json!({"spec": {"hostNetwork": true}});
        let system = json!({"metadata": {"namespace": "kube-system", "labels": mode("ambient")}});
        pods.apply(Change::Pods(vec![pod("h", &host), pod("s", &system)]));
        let all = ["shop", "kube-system"].map(|name| (name.to_owned(), mode("ambient")));
        pods.apply(Change::Namespaces(all.into()));
        assert!(!is_in(&pods, "shop", "h") && !is_in(&pods, "kube-system", "s"));
        assert!(!pods.lacks_any());
    }

    #[test]
    fn the_namespace_of_a_pod_in_the_mesh_is_looked_for_until_it_is_found_and_forgotten_with_the_pod()
     {
        if !sys::netns::privileged("a pod's namespace") {
            return;
        }
        let mut pods = pods();
        pods.apply(Change::Pods(vec![pod("a", &json!({}))]));
        pods.apply(Change::Namespaces(
            [("shop".to_owned(), mode("ambient"))].into(),
        ));
        assert!(pods.lacks_any() && pods.lacks(UID) && !pods.lacks("another"));
        let netns = Arc::new(Netns::create().unwrap());
        pods.found([(UID.to_owned(), Arc::clone(&netns))].into());
        assert!(!pods.lacks_any());
        pods.apply(Change::PodGone(("shop".to_owned(), "a".to_owned())));
        assert_eq!(Arc::strong_count(&netns), 1);
    }

    #[test]
    fn a_pod_that_left_the_mesh_while_the_agent_was_away_is_looked_for_too() {
        let mut pods = pods();
        let captured = json!({"metadata": {"annotations": {REDIRECTION: ENABLED}}});
        pods.apply(Change::Pods(vec![pod("a", &captured)]));
        pods.apply(Change::Namespaces(BTreeMap::new()));
        assert!(!is_in(&pods, "shop", "a") && pods.lacks_any());
        let key = ("shop".to_owned(), "a".to_owned());
        assert_eq!(pods.published()[&key], (UID.to_owned(), true));
    }
}
