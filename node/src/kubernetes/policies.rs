//! Whether anything forbids pods to speak in plain text, as far as that ends connections that were open before a pod was
//! captured. Pure.
//!
//! Who may do what is for the control plane to compile and for the node proxy to decide. Here it only counts whether any
//! policy is for a pod at all: what goes past the proxy cannot be judged, so it ends. What cannot be read is for the pod too.

use std::collections::BTreeMap;

use serde_json::Value;

type Labels = BTreeMap<String, String>;

/// A kind of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Who may do what.
    Authorization,
    /// Whether plain text is taken.
    Peer,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Peer];

    /// As objects say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorization => "AuthorizationPolicy",
            Self::Peer => "PeerAuthentication",
        }
    }
}

/// A policy that forbids something: the pods it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    namespace: String,
    /// Pods without these are not meant.
    labels: Labels,
}

/// All policies that forbid something, by kind; none of a kind before all of it are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// The namespace whose policies are for all.
    root: String,
    all: BTreeMap<Kind, BTreeMap<(String, String), Policy>>,
}

impl Policies {
    /// None are known yet. Those of the namespace `root` are for all.
    pub fn new(root: &str) -> Self {
        Self {
            root: root.to_owned(),
            all: BTreeMap::new(),
        }
    }

    /// These are all of a kind, by namespace and name.
    pub fn set(&mut self, kind: Kind, all: BTreeMap<(String, String), Policy>) {
        self.all.insert(kind, all);
    }

    /// One is there, is another than before, or, if `None`, is gone or forbids nothing.
    pub fn put(&mut self, kind: Kind, key: (String, String), policy: Option<Policy>) {
        let all = self.all.entry(kind).or_default();
        match policy {
            Some(policy) => drop(all.insert(key, policy)),
            None => drop(all.remove(&key)),
        }
    }

    /// Whether any is for a pod.
    pub fn any_for(&self, namespace: &str, labels: &Labels) -> bool {
        let mut all = self.all.values().flat_map(BTreeMap::values);
        all.any(|policy| {
            let is_near = policy.namespace == namespace || policy.namespace == self.root;
            let mut wanted = policy.labels.iter();
            is_near && wanted.all(|(key, value)| labels.get(key) == Some(value))
        })
    }
}

/// What an object forbids, if anything.
pub fn policy(kind: Kind, namespace: &str, annotations: &Labels, spec: &Value) -> Option<Policy> {
    let forbids = match kind {
        // The waypoint's to decide; or nobody's.
        Kind::Authorization => {
            spec["targetRefs"].as_array().is_none_or(Vec::is_empty)
                && spec["targetRef"].is_null()
                && annotations.get("istio.io/dry-run").map(String::as_str) != Some("true")
        }
        Kind::Peer => {
            let ports = spec["portLevelMtls"].as_object();
            let mut modes = ports.into_iter().flat_map(|ports| ports.values());
            is_strict(&spec["mtls"]) || modes.any(is_strict)
        }
    };
    let labels = spec["selector"]["matchLabels"].as_object();
    let labels = labels.into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str()?;
        Some((key.clone(), value.to_owned()))
    });
    forbids.then(|| Policy {
        namespace: namespace.to_owned(),
        labels: labels.collect(),
    })
}

fn is_strict(mtls: &Value) -> bool {
    mtls["mode"].as_str() == Some("STRICT")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(app: &str) -> Labels {
        [("app".to_owned(), app.to_owned())].into()
    }

    fn is_for(kind: Kind, namespace: &str, spec: &Value, pod: (&str, &str)) -> bool {
        let mut policies = Policies::new("root");
        let key = (namespace.to_owned(), "a".to_owned());
        policies.put(kind, key, policy(kind, namespace, &Labels::new(), spec));
        policies.any_for(pod.0, &labels(pod.1))
    }

    #[test]
    fn a_policy_is_for_the_pods_of_its_namespace_that_it_selects() {
        let all = json!({"action": "DENY"});
        let cart = json!({"selector": {"matchLabels": {"app": "cart"}}});
        for (namespace, spec, pod, expected) in [
            ("shop", &all, ("shop", "cart"), true),
            ("shop", &all, ("bank", "cart"), false),
            ("root", &all, ("bank", "cart"), true),
            ("shop", &cart, ("shop", "cart"), true),
            ("shop", &cart, ("shop", "web"), false),
            ("root", &cart, ("bank", "web"), false),
        ] {
            let found = is_for(Kind::Authorization, namespace, spec, pod);
            assert_eq!(found, expected, "{namespace} {spec} {pod:?}");
        }
    }

    #[test]
    fn what_forbids_nothing_here_does_not_count() {
        let pod = ("shop", "cart");
        for (kind, spec, expected) in [
            (Kind::Peer, json!({}), false),
            (Kind::Peer, json!({"mtls": {"mode": "PERMISSIVE"}}), false),
            (Kind::Peer, json!({"mtls": {"mode": "STRICT"}}), true),
            (
                Kind::Peer,
                json!({"portLevelMtls": {"80": {"mode": "STRICT"}}}),
                true,
            ),
            (Kind::Authorization, json!({}), true),
            (
                Kind::Authorization,
                json!({"targetRefs": [{"kind": "Gateway", "name": "x"}]}),
                false,
            ),
        ] {
            assert_eq!(is_for(kind, "shop", &spec, pod), expected, "{spec}");
        }
        let dry = [("istio.io/dry-run".to_owned(), "true".to_owned())].into();
        assert_eq!(policy(Kind::Authorization, "shop", &dry, &json!({})), None);
    }

    #[test]
    fn a_policy_that_is_gone_or_is_another_now_is_not_counted_as_it_was() {
        let mut policies = Policies::new("root");
        let key = || ("shop".to_owned(), "a".to_owned());
        let strict = policy(
            Kind::Peer,
            "shop",
            &Labels::new(),
            &json!({"mtls": {"mode": "STRICT"}}),
        );
        policies.set(
            Kind::Peer,
            strict.clone().map(|it| (key(), it)).into_iter().collect(),
        );
        assert!(policies.any_for("shop", &Labels::new()));
        policies.put(Kind::Peer, key(), None);
        assert!(!policies.any_for("shop", &Labels::new()));
        policies.put(Kind::Peer, key(), strict);
        policies.set(Kind::Peer, BTreeMap::new());
        assert!(!policies.any_for("shop", &Labels::new()));
    }
}
