//! Which pods run on this node, and which of them are in the mesh, from what a watch told so far. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cni::host::Host;
use k8s_openapi::api::core::v1;
use mesh::{
    enrol::{self, Enrolment, enrolled},
    keys::Keys,
};
use sys::netns::Netns;
use tokio::sync::oneshot;

use super::{
    condition::{Condition, TYPE},
    policies::{Kind, Policies, Policy},
    probes,
    publish::{Published, Says},
};
use crate::{
    manifests::{Key, Place, Pod},
    rules::Probed,
};

/// The value of the annotation [`Keys::redirection`] while a pod is captured.
pub const ENABLED: &str = "enabled";

/// The annotation of a namespace whose pods start outside the mesh rather than not at all.
pub const START: &str = "ambit.dev/start";

/// Its value then.
pub const PLAIN: &str = "plain";

type Labels = BTreeMap<String, String>;

/// Namespaces whose pods are never in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded(pub BTreeSet<String>);

/// A namespace, as far as the agent acts on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// Its pods start outside the mesh rather than not at all.
    pub starts_plain: bool,
}

/// A pod is about to run: the CNI plugin asks.
#[derive(Debug)]
pub struct Ask {
    /// Its names.
    pub key: Key,
    /// Empty if the runtime does not tell.
    pub uid: String,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// The pod as the API server has it, if the watch did not know it a moment ago.
    pub pod: Option<Box<v1::Pod>>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Told>,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nobody knows the pod yet, or its namespace.
    Unknown {
        /// The namespace does not say that pods are in the mesh.
        namespace_is_out: bool,
    },
    /// It is not in the mesh.
    Out,
    /// It is in the mesh, and the watch has not told of it yet.
    In,
    /// It is captured.
    Captured,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A namespace is there, or is another than before.
    Namespace(String, Namespace),
    /// A namespace is gone.
    NamespaceGone(String),
    /// These are all namespaces.
    Namespaces(BTreeMap<String, Namespace>),
    /// A pod of this node is there, or is another than before.
    Pod(Box<v1::Pod>),
    /// A pod is gone.
    PodGone(Key),
    /// These are all pods of this node.
    Pods(Vec<v1::Pod>),
    /// A policy is there, is another than before, or is gone.
    Policy(Kind, Key, Option<Policy>),
    /// These are all policies of a kind.
    Policies(Kind, BTreeMap<Key, Policy>),
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
    probed: Probed,
    condition: Option<Condition>,
}

/// Whether a pod is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody can say yet.
    Unknown {
        /// The namespace is known, and does not say that pods are in the mesh.
        namespace_is_out: bool,
    },
    /// It is not.
    Out,
    /// It is, and the watch has not told of it yet.
    Coming,
    /// It is.
    In,
}

/// All that is known of this node's pods.
#[derive(Debug)]
pub struct Pods {
    keys: Keys,
    excluded: Excluded,
    namespaces: Option<BTreeMap<String, Namespace>>,
    pods: Option<BTreeMap<Key, Seen>>,
    policies: Policies,
    /// By uid. Kept as long as the pod is there.
    netns: BTreeMap<String, Arc<Netns>>,
}

impl Pods {
    /// Nothing is known yet.
    pub fn new(keys: Keys, excluded: Excluded, root: &str) -> Self {
        Self {
            policies: Policies::new(root),
            keys,
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
            Change::Namespace(name, namespace) => {
                if let Some(all) = &mut self.namespaces {
                    all.insert(name, namespace);
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
            Change::Policy(kind, key, policy) => self.policies.put(kind, key, policy),
            Change::Policies(kind, all) => self.policies.set(kind, all),
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
            let counts = !self.pod(key, pod).is_out() || pod.is_captured(self.keys);
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

    /// A pod is about to run in this namespace: whatever it had before is no longer its own.
    pub fn arrived(&mut self, key: &Key, netns: &Arc<Netns>) {
        if let Some(pod) = self.pods.as_ref().and_then(|all| all.get(key)) {
            self.netns.insert(pod.uid.clone(), Arc::clone(netns));
        }
    }

    /// Whether this is where a pod is known to run.
    pub fn has(&self, key: &Key, netns: &Netns) -> bool {
        let pod = self.pods.as_ref().and_then(|all| all.get(key));
        let held = pod.and_then(|pod| self.netns.get(&pod.uid));
        let id = held.and_then(|held| held.id().ok());
        id.is_some() && id == netns.id().ok()
    }

    /// Whether a pod is in the mesh. `fetched` is the pod as the API server has it, for when the watch has not told of it.
    pub fn standing(&self, key: &Key, uid: &str, fetched: Option<&v1::Pod>) -> Standing {
        if self.excluded.0.contains(&key.0) {
            return Standing::Out;
        }
        let namespaces = self.namespaces.as_ref();
        // A pod may be told of before its namespace.
        let Some(namespace) = namespaces.and_then(|all| all.get(&key.0)) else {
            return Standing::Unknown {
                namespace_is_out: false,
            };
        };
        let is_it = |seen: &&Seen| uid.is_empty() || seen.uid == uid;
        let known = self.pods.as_ref().and_then(|all| all.get(key));
        if let Some(seen) = known.filter(is_it) {
            return if self.pod(key, seen).is_out() {
                Standing::Out
            } else {
                Standing::In
            };
        }
        match fetched.cloned().and_then(seen) {
            Some((_, seen)) if self.pod(key, &seen).is_out() => Standing::Out,
            Some(_) => Standing::Coming,
            None => Standing::Unknown {
                namespace_is_out: !namespace.takes_in(self.keys),
            },
        }
    }

    /// What the CNI plugin goes by alone, once all namespaces are known. `own` is the namespace of the mesh itself.
    pub fn host(&self, own: &str) -> Option<Host> {
        let all = self.namespaces.as_ref()?;
        let names = |wanted: &dyn Fn(&Namespace) -> bool| {
            let found = all.iter().filter(|(_, namespace)| wanted(namespace));
            found.map(|(name, _)| name.clone()).collect()
        };
        Some(Host {
            own: own.to_owned(),
            excluded: self.excluded.0.clone(),
            enrolled: names(&|namespace| namespace.takes_in(self.keys)),
            plain: names(&|namespace| namespace.starts_plain),
        })
    }

    /// The pods of the node, once all are known.
    pub fn wanted(&self) -> Option<BTreeMap<Key, Pod>> {
        self.namespaces.as_ref()?;
        let pods = self.pods.as_ref()?.iter();
        let wanted = pods.map(|(key, pod)| (key.clone(), self.pod(key, pod)));
        Some(wanted.collect())
    }

    /// What is written on the pods themselves.
    pub fn published(&self) -> Published {
        let pods = self.pods.iter().flatten();
        let says = |pod: &Seen| Says {
            uid: pod.uid.clone(),
            captured: pod.is_captured(self.keys),
            condition: pod.condition.clone(),
        };
        pods.map(|(key, pod)| (key.clone(), says(pod))).collect()
    }

    fn pod(&self, (namespace, name): &Key, seen: &Seen) -> Pod {
        let none = Labels::new();
        let all = self.namespaces.as_ref();
        let excluded = self.excluded.0.contains(namespace);
        let labels = all
            .and_then(|all| all.get(namespace))
            .filter(|_| !excluded)
            .map_or(&none, |namespace| &namespace.labels);
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
            enrolment: Some(enrolled(self.keys, enrol::Namespace { labels }, facts)),
            netns: self.netns.get(&seen.uid).cloned().map(Place::Held),
            ready: seen.ready,
            probed: seen.probed.clone(),
            is_probed_as_plain: false,
            is_judged: self.policies.any_for(namespace, &seen.labels),
        }
    }
}

impl Namespace {
    /// Whether pods are in the mesh that say nothing themselves.
    fn takes_in(&self, keys: Keys) -> bool {
        let none = Labels::new();
        let bare = enrol::Pod {
            labels: &none,
            annotations: &none,
            host_network: false,
            ended: false,
        };
        let labels = &self.labels;
        enrolled(keys, enrol::Namespace { labels }, bare) == Enrolment::In
    }
}

impl Seen {
    fn is_captured(&self, keys: Keys) -> bool {
        keys.captured(&self.annotations)
    }
}

fn condition(all: &[v1::PodCondition]) -> Option<Condition> {
    let own = all.iter().find(|it| it.type_ == TYPE)?;
    Some(Condition {
        is_true: own.status == "True",
        reason: own.reason.clone().unwrap_or_default(),
        message: own.message.clone().unwrap_or_default(),
    })
}

fn seen(pod: v1::Pod) -> Option<(Key, Seen)> {
    let spec = pod.spec.unwrap_or_default();
    let probed = probes::ports(&spec);
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
        probed,
        condition: condition(&conditions),
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
        Pods::new(Keys::Shared, Excluded(excluded), "ambit-system")
    }

    fn label(value: &str) -> Labels {
        [(enrol::DATAPLANE_MODE.to_owned(), value.to_owned())].into()
    }

    fn mode(value: &str) -> Namespace {
        Namespace {
            labels: label(value),
            starts_plain: false,
        }
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
            [("shop".to_owned(), Namespace::default())].into(),
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
        let system = json!({"metadata": {"namespace": "kube-system", "labels": label("ambient")}});
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
        let captured = json!({"metadata": {"annotations": {Keys::Shared.redirection(): ENABLED}}});
        pods.apply(Change::Pods(vec![pod("a", &captured)]));
        pods.apply(Change::Namespaces(BTreeMap::new()));
        assert!(!is_in(&pods, "shop", "a") && pods.lacks_any());
        let key = ("shop".to_owned(), "a".to_owned());
        let says = &pods.published()[&key];
        assert!(says.uid == UID && says.captured && says.condition.is_none());
    }

    #[test]
    fn whether_a_pod_is_in_is_said_only_once_its_namespace_and_itself_are_known() {
        let key = ("shop".to_owned(), "a".to_owned());
        let unknown = |namespace_is_out| Standing::Unknown { namespace_is_out };
        let mut pods = pods();
        assert_eq!(pods.standing(&key, UID, None), unknown(false));
        let system = ("kube-system".to_owned(), "a".to_owned());
        assert_eq!(pods.standing(&system, UID, None), Standing::Out);
        pods.apply(Change::Pods(Vec::new()));
        pods.apply(Change::Namespaces(BTreeMap::new()));
        let fetched = pod("a", &json!({}));
        assert_eq!(pods.standing(&key, UID, Some(&fetched)), unknown(false));
        pods.apply(Change::Namespace("shop".to_owned(), Namespace::default()));
        assert_eq!(pods.standing(&key, UID, None), unknown(true));
        pods.apply(Change::Namespace("shop".to_owned(), mode("ambient")));
        assert_eq!(pods.standing(&key, UID, None), unknown(false));
        assert_eq!(pods.standing(&key, UID, Some(&fetched)), Standing::Coming);
        let out = pod("a", &json!({"metadata": {"labels": label("none")}}));
        assert_eq!(pods.standing(&key, UID, Some(&out)), Standing::Out);
        pods.apply(Change::Pod(Box::new(fetched)));
        assert_eq!(pods.standing(&key, UID, Some(&out)), Standing::In);
        assert_eq!(pods.standing(&key, "", None), Standing::In);
        assert_eq!(pods.standing(&key, "another", None), unknown(false));
    }

    #[test]
    fn a_new_sandbox_takes_the_place_of_the_one_before() {
        if !sys::netns::privileged("a pod's second namespace") {
            return;
        }
        let mut pods = pods();
        pods.apply(Change::Pods(vec![pod("a", &json!({}))]));
        let key = ("shop".to_owned(), "a".to_owned());
        let both = [(); 2].map(|()| Arc::new(Netns::create().unwrap()));
        for netns in &both {
            pods.arrived(&key, netns);
        }
        assert_eq!(both.map(|netns| Arc::strong_count(&netns)), [1, 2]);
    }

    #[test]
    fn the_plugin_alone_goes_by_what_namespaces_say() {
        let mut pods = pods();
        assert_eq!(pods.host("ambit-system"), None);
        let plain = Namespace {
            labels: label("ambient"),
            starts_plain: true,
        };
        let all = [("a", mode("ambient")), ("b", plain), ("c", mode("none"))];
        let all = all.map(|(name, namespace)| (name.to_owned(), namespace));
        pods.apply(Change::Namespaces(all.into()));
        let host = pods.host("ambit-system").unwrap();
        assert_eq!(host.own, "ambit-system");
        let sets = [host.excluded, host.enrolled, host.plain];
        let sets = sets.map(|set| set.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(sets, ["kube-system", "a b", "b"]);
    }

    #[test]
    fn under_own_names_pods_that_another_mesh_has_captured_are_left_alone() {
        let mut pods = Pods::new(Keys::Own, Excluded(BTreeSet::new()), "ambit-system");
        let theirs = json!({"metadata": {"annotations": {Keys::Shared.redirection(): ENABLED}}});
        pods.apply(Change::Pods(vec![pod("a", &json!({})), pod("b", &theirs)]));
        let labelled = |key: &str| Namespace {
            labels: [(key.to_owned(), "ambient".to_owned())].into(),
            starts_plain: false,
        };
        let shared = labelled(Keys::Shared.dataplane_mode());
        pods.apply(Change::Namespaces([("shop".to_owned(), shared)].into()));
        assert!(!is_in(&pods, "shop", "a") && !is_in(&pods, "shop", "b"));
        let own = labelled(Keys::Own.dataplane_mode());
        pods.apply(Change::Namespace("shop".to_owned(), own));
        assert!(is_in(&pods, "shop", "a") && !is_in(&pods, "shop", "b"));
        assert!(pods.published().values().all(|says| !says.captured));
    }
}
