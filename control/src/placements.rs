//! Which pods run where, as far as identities and reports depend on it: a node may only ask for, and speak of, its own.
//! A waypoint has one identity, that of its Gateway, wherever it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use mesh::identity::Identity;

use crate::world::Key;

/// Pods that have not ended, each on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    pods: BTreeMap<(String, String), Place>,
    accounts: BTreeSet<(String, String, String)>,
}

/// Where one pod runs, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    node: String,
}

/// Why a node may not have an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// No identity was named: a node has none of its own.
    NoIdentityNamed,
    /// What was named is not an identity of the mesh's form.
    NotAnIdentity(String),
    /// It belongs to another trust domain.
    ForeignTrustDomain(String),
    /// No pod on the caller's node runs as it.
    NotOnThisNode,
    /// A waypoint, or another account, asks for an identity other than this one, its own.
    NotItsOwn(Identity),
    /// The Gateway of the waypoint that asks is not there.
    NoGateway,
}

/// The identity of a waypoint that asks, if its Gateway is there: its own, whether it names it or not.
pub fn own_identity(
    (namespace, name): &Key,
    is_there: bool,
    asked: Option<&str>,
    trust_domain: &str,
) -> Result<Identity, NotAllowed> {
    if !is_there {
        return Err(NotAllowed::NoGateway);
    }
    let own = Identity::new(trust_domain, namespace, name);
    match asked {
        Some(asked) if asked != own.to_string() => Err(NotAllowed::NotItsOwn(own)),
        _ => Ok(own),
    }
}

impl Placements {
    /// Takes in a pod that has not ended.
    pub fn add(&mut self, node: &str, namespace: &str, pod: &str, service_account: &str) {
        if !node.is_empty() {
            self.pods.insert(
                (namespace.to_owned(), pod.to_owned()),
                Place {
                    node: node.to_owned(),
                },
            );
            self.accounts.insert((
                node.to_owned(),
                namespace.to_owned(),
                service_account.to_owned(),
            ));
        }
    }

    /// The node that a pod runs on.
    pub fn node_of(&self, namespace: &str, pod: &str) -> Option<&str> {
        let key = (namespace.to_owned(), pod.to_owned());
        self.pods.get(&key).map(|place| place.node.as_str())
    }

    /// All nodes that pods run on.
    pub fn nodes(&self) -> BTreeSet<&str> {
        self.pods
            .values()
            .map(|place| place.node.as_str())
            .collect()
    }

    /// The identity that `node` asks for, if it may have it: one of our trust domain that a pod on that node runs as.
    pub fn may_ask(
        &self,
        node: &str,
        asked: Option<&str>,
        trust_domain: &str,
    ) -> Result<Identity, NotAllowed> {
        let asked = asked.ok_or(NotAllowed::NoIdentityNamed)?;
        let identity: Identity = asked
            .parse()
            .map_err(|_| NotAllowed::NotAnIdentity(asked.chars().take(256).collect()))?;
        if identity.trust_domain.to_string() != trust_domain {
            return Err(NotAllowed::ForeignTrustDomain(
                identity.trust_domain.to_string(),
            ));
        }
        let account = (
            node.to_owned(),
            identity.namespace.to_string(),
            identity.service_account.to_string(),
        );
        if self.accounts.contains(&account) {
            Ok(identity)
        } else {
            Err(NotAllowed::NotOnThisNode)
        }
    }
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIdentityNamed => f.write_str(
                "no ImpersonatedIdentity was named, and a node has no identity of its own",
            ),
            Self::NotAnIdentity(text) => {
                write!(
                    f,
                    "{text:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
                )
            }
            Self::ForeignTrustDomain(trust_domain) => {
                write!(f, "the trust domain {trust_domain} is not ours")
            }
            Self::NotOnThisNode => f.write_str("no pod on the caller's node runs as this identity"),
            Self::NotItsOwn(own) => {
                write!(f, "who is no node proxy gets its own identity alone, {own}")
            }
            Self::NoGateway => f.write_str("the Gateway of this waypoint is not there"),
        }
    }
}

impl std::error::Error for NotAllowed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_identities_of_its_own_pods_alone() {
        let mut placements = Placements::default();
        placements.add("n1", "shop", "cart-0", "cart");
        placements.add("n2", "shop", "till-0", "till");
        placements.add("", "shop", "unscheduled", "late");
        let cart = "spiffe://cluster.local/ns/shop/sa/cart";
        let ask = |node, asked| placements.may_ask(node, asked, "cluster.local");
        assert_eq!(ask("n1", Some(cart)), Ok(cart.parse().unwrap()));
        for (node, asked, reason) in [
            ("n2", Some(cart), NotAllowed::NotOnThisNode),
            (
                "n1",
                Some("spiffe://cluster.local/ns/shop/sa/till"),
                NotAllowed::NotOnThisNode,
            ),
            (
                "n1",
                Some("spiffe://cluster.local/ns/other/sa/cart"),
                NotAllowed::NotOnThisNode,
            ),
            (
                "",
                Some("spiffe://cluster.local/ns/shop/sa/late"),
                NotAllowed::NotOnThisNode,
            ),
            (
                "n1",
                Some("spiffe://evil.example/ns/shop/sa/cart"),
                NotAllowed::ForeignTrustDomain("evil.example".to_owned()),
            ),
            (
                "n1",
                Some("ambit-control"),
                NotAllowed::NotAnIdentity("ambit-control".to_owned()),
            ),
            ("n1", Some(""), NotAllowed::NotAnIdentity(String::new())),
            ("n1", None, NotAllowed::NoIdentityNamed),
        ] {
            assert_eq!(ask(node, asked), Err(reason), "{node} {asked:?}");
        }
        assert_eq!(placements.node_of("shop", "cart-0"), Some("n1"));
        assert_eq!(
            placements.nodes().into_iter().collect::<Vec<_>>(),
            ["n1", "n2"]
        );
    }
}
