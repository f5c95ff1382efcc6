//! Which pods run where, as far as identities and reports depend on it: a node may only ask for, and speak of, its own.
//! A waypoint has one identity, that of its Gateway, wherever it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    sync::Arc,
};

use mesh::identity::Identity;

use crate::{manifest::Pod, world::Key};

/// Pods that have not ended, each on one node.
#[derive(Clone, Debug, Default)]
pub struct Placements {
    /// By namespace. One in which nothing has changed is shared with the placements before.
    homes: BTreeMap<String, Arc<Home>>,
}

/// The pods of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Home {
    pods: BTreeMap<String, Place>,
    /// Node and service account.
    accounts: BTreeSet<(String, String)>,
}

/// Where one pod runs, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    node: String,
    account: String,
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
    /// Those of pods in the order of their names, without those that have ended.
    pub fn of<'a>(pods: impl Iterator<Item = (&'a Key, &'a Pod)>, previous: &Self) -> Self {
        let mut homes = BTreeMap::new();
        let mut pods = pods
            .filter(|(_, pod)| !pod.over && !pod.node.is_empty())
            .peekable();
        while let Some(&((namespace, _), _)) = pods.peek() {
            let own = iter::from_fn(|| pods.next_if(|((home, _), _)| home == namespace));
            let own: Vec<_> = own.map(|((_, name), pod)| (name, pod)).collect();
            let before = previous.homes.get(namespace);
            let home = match before.filter(|home| home.is_of(&own)) {
                Some(home) => Arc::clone(home),
                None => {
                    let mut home = Home::default();
                    own.iter()
                        .for_each(|(name, pod)| home.add(name, &pod.node, account(pod)));
                    Arc::new(home)
                }
            };
            homes.insert(namespace.clone(), home);
        }
        Self { homes }
    }

    /// Takes in a pod that has not ended.
    pub fn add(&mut self, node: &str, namespace: &str, pod: &str, service_account: &str) {
        if !node.is_empty() {
            let home = self.homes.entry(namespace.to_owned()).or_default();
            Arc::make_mut(home).add(pod, node, service_account);
        }
    }

    /// The node that a pod runs on.
    pub fn node_of(&self, namespace: &str, pod: &str) -> Option<&str> {
        let place = self.homes.get(namespace)?.pods.get(pod);
        place.map(|place| place.node.as_str())
    }

    /// All nodes that pods run on.
    pub fn nodes(&self) -> BTreeSet<&str> {
        let places = self.homes.values().flat_map(|home| home.pods.values());
        places.map(|place| place.node.as_str()).collect()
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
        let account = (node.to_owned(), identity.service_account.to_string());
        let home = self.homes.get(identity.namespace.as_str());
        if home.is_some_and(|home| home.accounts.contains(&account)) {
            Ok(identity)
        } else {
            Err(NotAllowed::NotOnThisNode)
        }
    }
}

impl PartialEq for Placements {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Home>, &Arc<Home>)| Arc::ptr_eq(one, other) || one == other;
        self.homes.keys().eq(other.homes.keys())
            && self.homes.values().zip(other.homes.values()).all(same)
    }
}

impl Eq for Placements {}

impl Home {
    fn add(&mut self, pod: &str, node: &str, account: &str) {
        let place = Place {
            node: node.to_owned(),
            account: account.to_owned(),
        };
        self.pods.insert(pod.to_owned(), place);
        let account = (node.to_owned(), account.to_owned());
        self.accounts.insert(account);
    }

    fn is_of(&self, pods: &[(&String, &Pod)]) -> bool {
        let same = |(known, (name, pod)): ((&String, &Place), &(&String, &Pod))| {
            known.0 == *name && known.1.node == pod.node && known.1.account == account(pod)
        };
        self.pods.len() == pods.len() && self.pods.iter().zip(pods).all(same)
    }
}

fn account(pod: &Pod) -> &str {
    default_account(&pod.service_account)
}

/// The service account that is meant by none.
pub(crate) fn default_account(name: &str) -> &str {
    if name.is_empty() { "default" } else { name }
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
