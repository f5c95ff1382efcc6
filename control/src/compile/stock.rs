//! Policies that would deny a waypoint: who does not trust it takes it for the client and decides all policies, so an ALLOW
//! policy has to let it in. The status of the policy says whom it lacks.
//!
//! Our node proxies trust a waypoint of the namespace, others trust none. Nobody trusts one that comes because a route leads
//! there, to a service that is not behind it: the route says whom that service has to let in, too.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    security::{
        Action, Authorization, Group, Match, Scope as Reach, StringMatch, string_match::MatchType,
    },
    waypoint::{policy::Policy, weighted_backend::Target},
    workload::{Workload, address::Type},
};

use super::{
    Compiled, Scope,
    authorization::{ACCEPTED, WAYPOINT_ACCEPTED},
    binding::{Bindings, Published},
    gateway,
    services::trusts,
};
use crate::{
    manifest::{Kind, ObjectRef, RouteKind},
    world::Key,
};

mod request;

/// So many waypoints are told of by name.
const MOST: usize = 3;
/// The condition of a route that says whom its backends take for their client.
const REFS: &str = "ResolvedRefs";

/// Why a waypoint has to be let in, the most pressing first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// It is of a namespace that is not trusted.
    Untrusted,
    /// A route leads here from a service of that waypoint.
    Routed(ObjectRef),
    /// Node proxies other than ours trust none.
    Stock,
}

/// What is lacking: of each policy, by its condition, the waypoints; of each route, which service lets none of its rules' in.
#[derive(Default)]
struct Found {
    policies: BTreeMap<(ObjectRef, &'static str), BTreeSet<(Lack, String)>>,
    routes: BTreeMap<ObjectRef, BTreeSet<(String, String)>>,
}

/// After the statuses of policies and routes are there, and what waypoints are told.
pub(super) fn tell(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    // A route leads from a service that a waypoint is told of, which is a Gateway's.
    if compiled.told.is_empty() && bindings.involving().next().is_none() {
        return;
    }
    let services = scope.services().map(|service| {
        let key = (service.meta.namespace.clone(), service.meta.name.clone());
        (scope.service_key(&key.0, &key.1), key)
    });
    let services: BTreeMap<String, Key> = services.collect();
    let leading = leading(bindings, &services, compiled);
    let mut found = Found::default();
    found.connections(scope, bindings, &services, &leading, compiled);
    found.requests(scope, bindings, &services, &leading, compiled);
    for ((reference, kind), peers) in found.policies {
        let status = compiled.statuses.get_mut(&reference);
        let conditions = status.into_iter().flat_map(|status| &mut status.conditions);
        for condition in conditions.filter(|condition| condition.kind == kind) {
            condition.add(&hint(peers.iter()));
        }
    }
    for (reference, backends) in found.routes {
        let texts = backends.into_iter().map(|(service, peer)| {
            format!("Service {service} takes the waypoint for its client, and an ALLOW policy has to allow {peer} there")
        });
        let texts: Vec<_> = texts.collect();
        let status = compiled.statuses.get_mut(&reference);
        let parents = status.into_iter().flat_map(|status| &mut status.parents);
        let conditions = parents.flat_map(|parent| &mut parent.conditions);
        for condition in conditions.filter(|condition| condition.kind == REFS) {
            condition.add(&texts.join("; "));
        }
    }
}

fn hint<'a>(peers: impl Iterator<Item = &'a (Lack, String)>) -> String {
    let texts = peers.map(|(lack, peer)| match lack {
        Lack::Stock => format!("a node proxy other than Ambit's needs {peer} to be allowed too: it takes the waypoint for the client"),
        Lack::Untrusted => format!("{peer} has to be allowed too: the mesh does not trust waypoints of that namespace with the clients of others"),
        Lack::Routed(route) => format!("{peer} has to be allowed too: {route} leads here, and that waypoint is the client then"),
    });
    let mut texts: Vec<_> = texts.collect();
    let more = texts.len().saturating_sub(MOST);
    texts.truncate(MOST);
    if more > 0 {
        texts.push(format!("and so {more} more"));
    }
    texts.join("; ")
}

/// By service: the gateways whose waypoints come to it by a route, each with the route, though it is not behind them.
type Leading<'a> = BTreeMap<&'a str, BTreeSet<(&'a Key, ObjectRef)>>;

fn leading<'a>(
    bindings: &Bindings,
    services: &BTreeMap<String, Key>,
    compiled: &'a Compiled,
) -> Leading<'a> {
    let mut leading = Leading::new();
    for (gateway, told) in &compiled.told {
        let ports = told.tables.values().flat_map(|table| &table.ports);
        let names = ports.flat_map(|port| &port.routes).map(|it| &it.name);
        let routes: BTreeSet<_> = names.collect();
        for route in routes.into_iter().filter_map(|name| told.routes.get(name)) {
            let kinds = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tcp];
            let Some(kind) = kinds.into_iter().find(|it| it.as_str() == route.kind) else {
                continue;
            };
            let reference = ObjectRef::new(Kind::Route(kind), &route.namespace, &route.name);
            for backend in route.rules.iter().flat_map(|rule| &rule.backends) {
                let Some(Target::Destination(to)) = &backend.target else {
                    continue;
                };
                let service = services.get(&to.backend);
                let binding = service.and_then(|key| bindings.binding(key));
                if binding.is_some_and(|binding| !binding.told.contains(gateway)) {
                    let all = leading.entry(to.backend.as_str()).or_default();
                    all.insert((gateway, reference.clone()));
                }
            }
        }
    }
    leading
}

impl Found {
    /// Layer 4 policies of workloads.
    fn connections(
        &mut self,
        scope: Scope<'_>,
        bindings: &Bindings,
        services: &BTreeMap<String, Key>,
        leading: &Leading<'_>,
        compiled: &Compiled,
    ) {
        let allowing = Allowing::new(compiled);
        for address in compiled.addresses.values() {
            let Some(Type::Workload(workload)) = &address.r#type else {
                continue;
            };
            let mut peers = BTreeSet::new();
            for name in workload.services.keys() {
                let binding = services.get(name).and_then(|key| bindings.binding(key));
                for gateway in binding.into_iter().flat_map(|it| &it.involved) {
                    let lack = match trusts(scope, &workload.namespace, gateway) {
                        true => Lack::Stock,
                        false => Lack::Untrusted,
                    };
                    peers.insert((gateway, lack, name));
                }
                for (gateway, route) in leading.get(name.as_str()).into_iter().flatten() {
                    peers.insert((*gateway, Lack::Routed(route.clone()), name));
                }
            }
            if peers.is_empty() {
                continue;
            }
            let policies = allowing.of(workload);
            for (gateway, lack, service) in peers {
                let peer = Peer::of(scope, gateway);
                let lets_in =
                    |policy: &Authorization| policy.groups.iter().any(|it| peer.passes(it));
                if policies.is_empty() || policies.iter().any(|(_, policy)| lets_in(policy)) {
                    continue;
                }
                self.route(&lack, services.get(service), &peer);
                for (name, _) in &policies {
                    if let Some((namespace, name)) = name.split_once('/') {
                        let kind = Kind::AuthorizationPolicy;
                        let reference = ObjectRef::new(kind, namespace, name);
                        let all = self.policies.entry((reference, ACCEPTED)).or_default();
                        all.insert((lack.clone(), peer.principal.clone()));
                    }
                }
            }
        }
    }

    /// Policies of requests of services that are behind another waypoint than the one that comes.
    fn requests(
        &mut self,
        scope: Scope<'_>,
        bindings: &Bindings,
        services: &BTreeMap<String, Key>,
        leading: &Leading<'_>,
        compiled: &Compiled,
    ) {
        for (name, peers) in leading {
            let key = services.get(*name);
            let binding = key.and_then(|key| bindings.binding(key));
            let Some(Published::Gateway(own)) = binding.and_then(|it| it.published.as_ref()) else {
                continue;
            };
            let told = compiled.told.get(own);
            let table = told.and_then(|told| told.tables.get(*name));
            let (Some(told), Some(table)) = (told, table) else {
                continue;
            };
            let named = table.policies.iter();
            let named = named.filter_map(|it| told.policies.get(&it.name)?.policy.as_ref());
            let policies = named.filter_map(|policy| match policy {
                Policy::Http(http) if request::is_allow(http) => Some(http),
                _ => None,
            });
            let policies: Vec<_> = policies.collect();
            for (gateway, route) in peers {
                let peer = Peer::of(scope, gateway);
                let mut all = policies.iter();
                if policies.is_empty() || all.any(|it| request::lets_in(it, &peer)) {
                    continue;
                }
                let lack = Lack::Routed(route.clone());
                self.route(&lack, key, &peer);
                for policy in &policies {
                    let kind = Kind::AuthorizationPolicy;
                    let reference = ObjectRef::new(kind, &policy.namespace, &policy.name);
                    let of_policy = (reference, WAYPOINT_ACCEPTED);
                    let all = self.policies.entry(of_policy).or_default();
                    all.insert((lack.clone(), peer.principal.clone()));
                }
            }
        }
    }

    fn route(&mut self, lack: &Lack, service: Option<&Key>, peer: &Peer) {
        if let (Lack::Routed(route), Some((namespace, name))) = (lack, service) {
            let all = self.routes.entry(route.clone()).or_default();
            all.insert((format!("{namespace}/{name}"), peer.principal.clone()));
        }
    }
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
