//! Policies that would deny a waypoint: a node proxy that does not trust it takes it for the client and decides all
//! policies, so an ALLOW policy has to let it in. Ours trust a waypoint of the namespace, others trust none; the status of
//! the policy says what those need.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    security::{
        Action, Authorization, Group, Match, Scope as Reach, StringMatch, string_match::MatchType,
    },
    workload::{Workload, address::Type},
};

use super::{
    Compiled, Scope, authorization::ACCEPTED, binding::Bindings, gateway, services::trusts,
};
use crate::{
    manifest::{Kind, ObjectRef},
    world::Key,
};

/// So many waypoints are told of by name.
const MOST: usize = 3;

pub(super) fn tell(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    let waypoints = waypoints(scope, bindings);
    let mut denying: BTreeMap<String, BTreeSet<(bool, String)>> = BTreeMap::new();
    let allowing = Allowing::new(compiled);
    for address in compiled.addresses.values() {
        let Some(Type::Workload(workload)) = &address.r#type else {
            continue;
        };
        let services = workload.services.keys();
        let gateways: BTreeSet<&Key> = services
            .filter_map(|service| waypoints.get(service))
            .flatten()
            .copied()
            .collect();
        if gateways.is_empty() {
            continue;
        }
        let policies = allowing.of(workload);
        for gateway in gateways {
            let peer = Peer::of(scope, gateway);
            let lets_in = |policy: &Authorization| policy.groups.iter().any(|it| peer.passes(it));
            if !policies.iter().any(|(_, policy)| lets_in(policy)) {
                for &(name, _) in &policies {
                    let peers = denying.entry(name.clone()).or_default();
                    let trusted = trusts(scope, &workload.namespace, gateway);
                    peers.insert((trusted, peer.principal.clone()));
                }
            }
        }
    }
    for (name, peers) in denying {
        let Some((namespace, name)) = name.split_once('/') else {
            continue;
        };
        let reference = ObjectRef::new(Kind::AuthorizationPolicy, namespace, name);
        let status = compiled.statuses.get_mut(&reference);
        let conditions = status.into_iter().flat_map(|status| &mut status.conditions);
        for condition in conditions.filter(|condition| condition.kind == ACCEPTED) {
            let hint = hint(peers.iter());
            let separator = if condition.message.is_empty() {
                ""
            } else {
                "; "
            };
            condition.message = format!("{}{separator}{hint}", condition.message);
        }
    }
}

fn hint<'a>(peers: impl Iterator<Item = &'a (bool, String)>) -> String {
    let texts = peers.map(|(trusted, peer)| match trusted {
        true => format!("a node proxy other than Ambit's needs {peer} to be allowed too: it takes the waypoint for the client"),
        false => format!("{peer} has to be allowed too: the mesh does not trust waypoints of that namespace with the clients of others"),
    });
    let mut texts: Vec<_> = texts.collect();
    let more = texts.len().saturating_sub(MOST);
    texts.truncate(MOST);
    if more > 0 {
        texts.push(format!("and so {more} more"));
    }
    texts.join("; ")
}

/// The gateways whose waypoints send requests to the endpoints of a service, by resource name of the service.
fn waypoints<'a>(scope: Scope<'_>, bindings: &'a Bindings) -> BTreeMap<String, Vec<&'a Key>> {
    let services = scope.services().filter_map(|service| {
        let key = (service.meta.namespace.clone(), service.meta.name.clone());
        let involved = bindings.binding(&key)?.involved.iter().collect();
        Some((scope.service_key(&key.0, &key.1), involved))
    });
    services.collect()
}

/// The ALLOW policies that somebody wrote.
struct Allowing<'a> {
    all: BTreeMap<&'a String, &'a Authorization>,
    /// Those for a namespace, or under `""` for the mesh.
    wide: BTreeMap<&'a str, Vec<&'a String>>,
}

impl<'a> Allowing<'a> {
    fn new(compiled: &'a Compiled) -> Self {
        let all = compiled.authorizations.iter();
        let all = all.filter(|(_, policy)| policy.action == Action::Allow as i32);
        let all: BTreeMap<_, _> = all.collect();
        let mut wide: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (&name, policy) in &all {
            match Reach::try_from(policy.scope) {
                Ok(Reach::Global) => wide.entry("").or_default().push(name),
                Ok(Reach::Namespace) => wide.entry(&policy.namespace).or_default().push(name),
                _ => {}
            }
        }
        Self { all, wide }
    }

    fn of(&self, workload: &Workload) -> Vec<(&'a String, &'a Authorization)> {
        let wide = ["", &workload.namespace]
            .into_iter()
            .filter_map(|reach| self.wide.get(reach));
        let names = wide
            .flatten()
            .copied()
            .chain(&workload.authorization_policies);
        let found = names.filter_map(|name| self.all.get_key_value(name));
        found.map(|(&name, &policy)| (name, policy)).collect()
    }
}

/// A waypoint as a client.
struct Peer {
    principal: String,
    namespace: String,
    account: String,
}

impl Peer {
    fn of(scope: Scope<'_>, gateway: &Key) -> Self {
        let identity = gateway::identity(scope, gateway);
        let principal = identity.strip_prefix("spiffe://").unwrap_or(&identity);
        Self {
            principal: principal.to_owned(),
            namespace: gateway.0.clone(),
            account: gateway.1.clone(),
        }
    }

    /// Whether a rule lets it in as far as that depends on who it is.
    fn passes(&self, group: &Group) -> bool {
        let clauses = &group.rules;
        clauses
            .iter()
            .all(|clause| clause.matches.iter().any(|it| self.is_in(it)))
    }

    fn is_in(&self, found: &Match) -> bool {
        let any = |list: &[StringMatch], text: &str| list.iter().any(|it| matches(it, text));
        let names = [
            (&found.principals, &found.not_principals, &self.principal),
            (&found.namespaces, &found.not_namespaces, &self.namespace),
        ];
        let by_name = names
            .into_iter()
            .all(|(yes, no, text)| (yes.is_empty() || any(yes, text)) && !any(no, text));
        let accounts = |list: &[proto::security::ServiceAccountMatch]| {
            let is = |it: &proto::security::ServiceAccountMatch| {
                it.namespace == self.namespace && it.service_account == self.account
            };
            list.iter().any(is)
        };
        by_name
            && (found.service_accounts.is_empty() || accounts(&found.service_accounts))
            && !accounts(&found.not_service_accounts)
    }
}

fn matches(pattern: &StringMatch, text: &str) -> bool {
    match &pattern.match_type {
        Some(MatchType::Exact(it)) => text == it,
        Some(MatchType::Prefix(it)) => text.starts_with(it),
        Some(MatchType::Suffix(it)) => text.ends_with(it),
        Some(MatchType::Presence(_)) => true,
        None => false,
    }
}
