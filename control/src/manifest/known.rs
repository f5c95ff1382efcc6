//! Which kinds there are, so that one that is misspelt is told from one that is not used here.
//!
//! Only for groups in which an object can be lost by a slip: those that Kubernetes itself has, whose names have no dot
//! (custom ones have to have one), and those that are served from, or are written nearly so. Of the other groups of Kubernetes
//! and Istio a kind is a slip if it is nearly one that is served; of all others nobody knows what kinds there are.

use mesh::manifest::{self, group, is_built_in, is_family};

use super::{GATEWAY, Kind, SECURITY};

/// What a document is about, by its first two lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An object of this kind, perhaps with a slip that leaves no doubt.
    Is(Kind),
    /// Of a kind that is not used here.
    Other,
    /// No kind that there is.
    Misspelt(Misspelt),
}

/// No kind that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misspelt {
    /// The kinds that may be meant.
    pub(super) may_be: Vec<Kind>,
    /// Those of them that it counts as where there was none of them.
    pub(super) likely: Vec<Kind>,
    /// The known kind that is written most alike, if one is.
    pub(super) nearest: Option<&'static str>,
}

/// The kinds that are not among [`Kind::all`], of each group with a dot that is known.
const OTHERS: [(&str, &[&str]); 5] = [
    ("discovery.k8s.io", &[]),
    (GATEWAY, &[]),
    (
        "gateway.networking.x-k8s.io",
        &["XBackend", "XListenerSet", "XMesh"],
    ),
    (
        "networking.istio.io",
        &["Gateway", "ProxyConfig", "WorkloadEntry", "WorkloadGroup"],
    ),
    (SECURITY, &[]),
];

pub(super) fn meaning(version: &str, name: &str) -> Meaning {
    let lower = version.to_ascii_lowercase();
    let group = group(version);
    if let Some(kind) = Kind::find(group, name) {
        return Meaning::Is(kind);
    }
    let group = meant_group(&lower);
    let others = OTHERS.iter().find(|(of, _)| *of == group);
    let is_other = others.is_some_and(|(_, kinds)| kinds.contains(&name));
    if is_other || is_built_in(group, name) {
        return Meaning::Other;
    }
    let policy = Kind::policy(version, name).filter(|kind| kind.is_called(name));
    if let Some(kind) = policy.or_else(|| Kind::meant(group, name)) {
        return Meaning::Is(kind);
    }
    let misspelt = misspelt(group, name);
    let is_closed = others.is_some() || !group.contains('.');
    let is_near = is_family(group) && misspelt.likely.len() == 1;
    match is_closed || is_near {
        true => Meaning::Misspelt(misspelt),
        false => Meaning::Other,
    }
}

/// Whether a group is one of which it is known what kinds it has.
pub(super) fn is_known(version: &str) -> bool {
    let group = group(version);
    OTHERS.iter().any(|(known, _)| *known == group) || is_family(group) || !group.contains('.')
}

/// The group of an `apiVersion` in lower case: one that is known, if a slip or two lead to it.
pub(super) fn meant_group(version: &str) -> &str {
    let group = group(version);
    let known = OTHERS.iter().map(|(known, _)| *known);
    manifest::near(group, known)
        .first()
        .copied()
        .unwrap_or(group)
}

fn misspelt(group: &str, name: &str) -> Misspelt {
    let is_own = OTHERS.iter().any(|(of, _)| *of == group);
    let may_be: Vec<_> = match is_own {
        true => Kind::all().filter(|kind| kind.group() == group).collect(),
        false => Kind::all().collect(),
    };
    let near = near(name);
    let ours: Vec<_> = near
        .iter()
        .filter_map(|name| may_be.iter().find(|kind| kind.as_str() == *name))
        .copied()
        .collect();
    let likely = match (ours.first(), group) {
        (Some(kind), _) => vec![*kind],
        (None, SECURITY) => vec![Kind::nearest_policy(name)],
        // It may still be one that policies are for.
        (None, GATEWAY) => vec![Kind::Gateway, Kind::GatewayClass],
        (None, _) if near.is_empty() && !group.contains('.') => {
            vec![Kind::Service, Kind::Namespace, Kind::Pod]
        }
        (None, _) => Vec::new(),
    };
    let nearest = ours.first().map(|kind| kind.as_str());
    Misspelt {
        nearest: nearest.or_else(|| near.first().copied()),
        may_be,
        likely,
    }
}

/// The known kinds that a name is, or is nearly.
pub(crate) fn near(name: &str) -> Vec<&'static str> {
    let others = OTHERS.iter().flat_map(|(_, kinds)| kinds.iter().copied());
    let ours = Kind::all().map(Kind::as_str);
    manifest::near(name, ours.chain(others).chain(manifest::built_in()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::UnservedKind;

    fn likely(version: &str, name: &str) -> Option<Vec<Kind>> {
        match meaning(version, name) {
            Meaning::Misspelt(found) => Some(found.likely),
            _ => None,
        }
    }

    #[test]
    fn a_kind_that_there_is_not_is_the_nearest_that_there_is() {
        for (version, name, kind) in [
            ("v1", "Servce", Kind::Service),
            ("v1", "ServiceList", Kind::Service),
            ("v1", "Namespce", Kind::Namespace),
            ("v1", "Pdo", Kind::Pod),
            ("v1", "PodList", Kind::Pod),
            ("apps/v1", "Pod", Kind::Pod),
            ("core/v1", "Namespace", Kind::Namespace),
            ("gateway.networking.k8s.io/v1", "Gatway", Kind::Gateway),
            (
                "networking.istio.io/v1",
                "DestinatonRule",
                Kind::Unserved(UnservedKind::DestinationRule),
            ),
            (
                "security.istio.io/v1",
                "PeerAuthentification",
                Kind::PeerAuthentication,
            ),
            ("security.istio.io/v1", "Peers", Kind::PeerAuthentication),
            (
                "security.istio.io/v1",
                "AuthPolicy",
                Kind::AuthorizationPolicy,
            ),
        ] {
            assert_eq!(likely(version, name), Some(vec![kind]), "{version} {name}");
        }
    }

    #[test]
    fn a_group_with_a_slip_or_two_is_the_one_that_is_meant() {
        for version in [
            "securityistio.io/v1",
            "security.isto.io/v1",
            "security.istio.i/v1",
            "security.istio.io./v1",
            "security.istio.io /v1",
            "Security.Istio.IO/v1",
            "securiti.istio.oi/v1",
        ] {
            let meant = Meaning::Is(Kind::AuthorizationPolicy);
            assert_eq!(meaning(version, "AuthorizationPolicy"), meant, "{version}");
            let near = likely(version, "PeerAuthentification");
            assert_eq!(near, Some(vec![Kind::PeerAuthentication]), "{version}");
        }
        let route = Meaning::Is(Kind::Route(crate::manifest::RouteKind::Http));
        assert_eq!(meaning("gateway.networking.k8.io/v1", "HTTPRoute"), route);
        let version = Meaning::Is(Kind::Namespace);
        assert_eq!(meaning("v1.0", "Namespace"), version);
    }

    #[test]
    fn what_is_like_none_may_be_what_policies_are_for() {
        let any = vec![Kind::Service, Kind::Namespace, Kind::Pod];
        assert_eq!(likely("v1", "Svc"), Some(any));
        assert_eq!(
            likely("v1", "Secrt"),
            Some(Vec::new()),
            "it is nearly a Secret"
        );
    }

    #[test]
    fn what_others_have_is_not_used() {
        for (version, name) in [
            ("v1", "Secret"),
            ("apps/v1", "Deployment"),
            ("batch/v1", "CronJob"),
            ("networking.istio.io/v1", "Gateway"),
            ("gateway.networking.x-k8s.io/v1alpha1", "XListenerSet"),
            ("networking.k8s.io/v1", "Ingress"),
            ("metrics.k8s.io/v1beta1", "PodMetrics"),
            ("example.com/v1", "Service"),
            ("example.com", "Thing"),
            ("cert-manager.io/v1", "Pod"),
        ] {
            assert_eq!(meaning(version, name), Meaning::Other, "{version} {name}");
        }
    }
}
