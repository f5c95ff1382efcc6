//! The names on objects that several meshes may read and write: those of the ecosystem, or of each a twin of our own.
//!
//! On a cluster where another mesh holds the first ones, only the twins are ours: what is written under the others is said
//! to that mesh, and not seen here.

use std::collections::BTreeMap;

type Map = BTreeMap<String, String>;

/// Under which names we read and write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// The ecosystem's. Nobody else on the cluster uses them.
    #[default]
    Shared,
    /// Our own.
    Own,
}

/// Each name of the ecosystem, and its twin.
const TWINS: [(&str, &str); 6] = [
    ("istio.io/dataplane-mode", "ambit.dev/dataplane-mode"),
    ("istio.io/use-waypoint", "ambit.dev/use-waypoint"),
    (
        "istio.io/use-waypoint-namespace",
        "ambit.dev/use-waypoint-namespace",
    ),
    (
        "istio.io/use-waypoint-canary",
        "ambit.dev/use-waypoint-canary",
    ),
    (
        "istio.io/ingress-use-waypoint",
        "ambit.dev/ingress-use-waypoint",
    ),
    ("ambient.istio.io/redirection", "ambit.dev/redirection"),
];

/// The value of the annotation of a captured pod.
const ENABLED: &str = "enabled";

impl Keys {
    /// As a setting says it: whether the ecosystem's names are ours.
    pub fn of(istio_names: bool) -> Self {
        if istio_names { Self::Shared } else { Self::Own }
    }

    /// The label of a namespace or a pod that puts it in or keeps it out.
    pub fn dataplane_mode(self) -> &'static str {
        self.one(TWINS[0])
    }

    /// The label of a service that names its waypoint.
    pub fn use_waypoint(self) -> &'static str {
        self.one(TWINS[1])
    }

    /// The annotation that says that a pod is reached through tunnels.
    pub fn redirection(self) -> &'static str {
        self.one(TWINS[5])
    }

    /// The ConfigMap with the root's certificate, in every namespace.
    pub fn root_certificate(self) -> &'static str {
        self.one(("istio-ca-root-cert", "ambit-ca-root-cert"))
    }

    /// Whether a pod of these annotations is captured, by us.
    pub fn captured(self, annotations: &Map) -> bool {
        annotations.get(self.redirection()).map(String::as_str) == Some(ENABLED)
    }

    /// Whether a pod of these annotations is captured by another mesh.
    pub fn captured_elsewhere(self, annotations: &Map) -> bool {
        self == Self::Own && Self::Shared.captured(annotations)
    }

    /// Makes labels or annotations say under the ecosystem's names what they say under ours, and nothing else.
    pub fn translate(self, map: &mut Map) {
        if self == Self::Shared {
            return;
        }
        for (shared, own) in TWINS {
            match map.get(own).cloned() {
                Some(value) => map.insert(shared.to_owned(), value),
                None => map.remove(shared),
            };
        }
    }

    fn one(self, (shared, own): (&'static str, &'static str)) -> &'static str {
        match self {
            Self::Shared => shared,
            Self::Own => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pairs.collect()
    }

    fn translated(keys: Keys, pairs: &[(&str, &str)]) -> Map {
        let mut map = map(pairs);
        keys.translate(&mut map);
        map
    }

    #[test]
    fn under_own_names_only_ours_are_seen() {
        for (shared, own) in TWINS {
            let theirs = [(shared, "theirs"), ("app", "x")];
            assert_eq!(translated(Keys::Own, &theirs), map(&[("app", "x")]));
            let both = [(shared, "theirs"), (own, "ours")];
            assert_eq!(translated(Keys::Own, &both)[shared], "ours");
            assert_eq!(translated(Keys::Shared, &both), map(&both));
        }
    }

    #[test]
    fn who_has_captured_a_pod_is_told_by_its_annotation() {
        let theirs = map(&[("ambient.istio.io/redirection", "enabled")]);
        let ours = map(&[("ambit.dev/redirection", "enabled")]);
        let of = |keys: Keys, map| (keys.captured(map), keys.captured_elsewhere(map));
        assert_eq!(of(Keys::Shared, &theirs), (true, false));
        assert_eq!(of(Keys::Own, &theirs), (false, true));
        assert_eq!(of(Keys::Own, &ours), (true, false));
        assert_eq!(of(Keys::Shared, &ours), (false, false));
    }
}
