//! Which pods are in the mesh, from what namespace and pod say.
//!
//! Not whether a pod's traffic is captured already: that is a fact about its node, which the node agent finds out.

use std::{collections::BTreeMap, fmt};

use crate::keys::Keys;

/// The label of a namespace or a pod that puts it in or keeps it out, under the ecosystem's names.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// The annotation of a pod that a sidecar's injector has changed.
pub const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

/// What counts of a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// What counts of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// `spec.hostNetwork`: it has no network of its own.
    pub host_network: bool,
    /// It has succeeded or failed, and will not run again.
    pub ended: bool,
}

/// Whether a pod is in the mesh, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// Its traffic is to be captured.
    In,
    /// It is left alone.
    Out(Reason),
}

/// Why a pod is not in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Neither it nor its namespace asks for it, by these names.
    NotAsked(Keys),
    /// Its own label says `none`.
    KeptOut(Keys),
    /// It uses its node's network.
    HostNetwork,
    /// It has a sidecar, which captures its traffic already.
    Sidecar,
    /// Another mesh has captured it.
    OtherMesh,
    /// It has ended.
    Ended,
}

/// Decides whether a pod is in the mesh. The pod's own label goes before its namespace's; an unknown value of either
/// counts as none given.
pub fn enrolled(keys: Keys, namespace: Namespace<'_>, pod: Pod<'_>) -> Enrolment {
    let label = keys.dataplane_mode();
    let asked = |labels: &BTreeMap<String, String>| match labels.get(label).map(String::as_str) {
        Some("ambient") => Some(true),
        Some("none") => Some(false),
        _ => None,
    };
    if pod.ended {
        Enrolment::Out(Reason::Ended)
    } else if asked(pod.labels) == Some(false) {
        Enrolment::Out(Reason::KeptOut(keys))
    } else if asked(pod.labels).or_else(|| asked(namespace.labels)) != Some(true) {
        Enrolment::Out(Reason::NotAsked(keys))
    } else if pod.host_network {
        Enrolment::Out(Reason::HostNetwork)
    } else if pod.annotations.contains_key(SIDECAR_STATUS) {
        Enrolment::Out(Reason::Sidecar)
    } else if keys.captured_elsewhere(pod.annotations) {
        Enrolment::Out(Reason::OtherMesh)
    } else {
        Enrolment::In
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAsked(keys) => {
                let label = keys.dataplane_mode();
                return write!(
                    f,
                    "neither the pod nor its namespace has the label {label}=ambient"
                );
            }
            Self::KeptOut(keys) => {
                return write!(f, "the pod has the label {}=none", keys.dataplane_mode());
            }
            Self::HostNetwork => "the pod uses its node's network",
            Self::Sidecar => "the pod has a sidecar",
            Self::OtherMesh => "another mesh has captured the pod",
            Self::Ended => "the pod has ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(mode: &str) -> BTreeMap<String, String> {
        if mode.is_empty() {
            BTreeMap::new()
        } else {
            BTreeMap::from([(DATAPLANE_MODE.into(), mode.into())])
        }
    }

    #[test]
    fn the_pods_label_goes_before_its_namespaces() {
        use Enrolment::{In, Out};
        for (namespace, pod, expected) in [
            ("", "", Out(Reason::NotAsked(Keys::Shared))),
            ("ambient", "", In),
            ("none", "", Out(Reason::NotAsked(Keys::Shared))),
            ("", "ambient", In),
            ("none", "ambient", In),
            ("ambient", "none", Out(Reason::KeptOut(Keys::Shared))),
            ("", "none", Out(Reason::KeptOut(Keys::Shared))),
            ("ambient", "Ambient", In),
            ("Ambient", "", Out(Reason::NotAsked(Keys::Shared))),
            ("", "yes", Out(Reason::NotAsked(Keys::Shared))),
        ] {
            let (of_namespace, of_pod) = (labelled(namespace), labelled(pod));
            let annotations = BTreeMap::new();
            let pod_facts = Pod {
                labels: &of_pod,
                annotations: &annotations,
                host_network: false,
                ended: false,
            };
            let found = enrolled(
                Keys::Shared,
                Namespace {
                    labels: &of_namespace,
                },
                pod_facts,
            );
            assert_eq!(found, expected, "namespace {namespace:?}, pod {pod:?}");
        }
    }

    #[test]
    fn some_pods_are_never_in() {
        let (ambient, none) = (labelled("ambient"), BTreeMap::new());
        let sidecar = BTreeMap::from([(SIDECAR_STATUS.to_owned(), "{}".to_owned())]);
        for (annotations, host_network, ended, expected) in [
            (&none, false, false, Enrolment::In),
            (&none, true, false, Enrolment::Out(Reason::HostNetwork)),
            (&sidecar, false, false, Enrolment::Out(Reason::Sidecar)),
            (&none, false, true, Enrolment::Out(Reason::Ended)),
        ] {
            let pod = Pod {
                labels: &ambient,
                annotations,
                host_network,
                ended,
            };
            let namespace = Namespace { labels: &ambient };
            assert_eq!(enrolled(Keys::Shared, namespace, pod), expected);
        }
    }

    #[test]
    fn under_own_names_theirs_are_left_alone() {
        let theirs = labelled("ambient");
        let ours = BTreeMap::from([("ambit.dev/dataplane-mode".to_owned(), "ambient".to_owned())]);
        let captured = BTreeMap::from([(
            "ambient.istio.io/redirection".to_owned(),
            "enabled".to_owned(),
        )]);
        let none = BTreeMap::new();
        for (labels, annotations, expected) in [
            (&theirs, &none, Enrolment::Out(Reason::NotAsked(Keys::Own))),
            (&ours, &none, Enrolment::In),
            (&ours, &captured, Enrolment::Out(Reason::OtherMesh)),
        ] {
            let pod = Pod {
                labels: &none,
                annotations,
                host_network: false,
                ended: false,
            };
            assert_eq!(enrolled(Keys::Own, Namespace { labels }, pod), expected);
        }
        let said = Reason::NotAsked(Keys::Own).to_string();
        assert!(said.contains("ambit.dev/dataplane-mode=ambient"), "{said}");
    }
}
