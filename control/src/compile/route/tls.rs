//! Services that are to be spoken to by TLS of their own, which is not served: nothing is sent to them instead.

use std::collections::BTreeMap;

use proto::waypoint::{self, weighted_backend::Target as Leads};

use super::{
    super::{Scope, host},
    PortRoutes,
    attach::natural,
};
use crate::{
    manifest::{
        Object, ObjectRef, RouteKind, Service, UnservedKind, core::ServicePort, unserved::Target,
    },
    world::Key,
};

const RULE: UnservedKind = UnservedKind::DestinationRule;

/// Who wants TLS, for whom.
pub(super) struct Tls<'a> {
    scope: Scope<'a>,
    /// BackendTLSPolicies by service: the name of the port, if only one is meant.
    services: BTreeMap<Key, Vec<(Option<&'a str>, &'a ObjectRef)>>,
    /// DestinationRules: namespace and host.
    hosts: Vec<(&'a str, &'a str, &'a ObjectRef)>,
    /// Those that do not say for which services of their namespace.
    all: BTreeMap<&'a str, &'a ObjectRef>,
    /// A DestinationRule of the root namespace that does not say for whom.
    everywhere: Option<&'a ObjectRef>,
}

impl<'a> Tls<'a> {
    pub(super) fn new(scope: Scope<'a>) -> Self {
        let mut tls = Self {
            scope,
            services: BTreeMap::new(),
            hosts: Vec::new(),
            all: BTreeMap::new(),
            everywhere: None,
        };
        let refused = scope.world.refused.iter();
        let refused = refused.filter_map(|(reference, object)| match object {
            Object::Unserved(object) => Some((reference, object)),
            _ => None,
        });
        for (reference, object) in scope.world.unserved.iter().chain(refused) {
            let namespace = reference.namespace.as_str();
            match &object.target {
                Target::Services(services) => {
                    for (name, port) in services {
                        let key = (namespace.to_owned(), name.clone());
                        let all = tls.services.entry(key).or_default();
                        all.push((port.as_deref(), reference));
                    }
                }
                Target::Host(host) => tls.hosts.push((namespace, host, reference)),
                Target::All if scope.is_root(namespace) && object.kind == RULE => {
                    tls.everywhere = Some(reference);
                }
                Target::All => drop(tls.all.insert(namespace, reference)),
                Target::Harmless | Target::Tokens(_) => {}
            }
        }
        tls
    }

    /// The object that wants TLS to a port of a service. DestinationRules count if they are of the service's namespace or
    /// of the root namespace: others could take the service from its clients.
    pub(super) fn wanted(&self, service: &Service, port: &ServicePort) -> Option<&'a ObjectRef> {
        let meta = &service.meta;
        let key = (meta.namespace.clone(), meta.name.clone());
        let policies = self.services.get(&key).into_iter().flatten();
        let of_port = |name: Option<&str>| name.is_none_or(|name| name == port.name);
        let policy = policies
            .filter(|(name, _)| of_port(*name))
            .map(|(_, reference)| *reference)
            .next();
        let rule = || {
            let (.., reference) = self.hosts.iter().find(|(namespace, host, _)| {
                let near = *namespace == meta.namespace || self.scope.is_root(namespace);
                near && host::is_of(self.scope, namespace, host, service)
            })?;
            Some(*reference)
        };
        let all = || self.all.get(meta.namespace.as_str()).copied();
        policy.or_else(rule).or_else(all).or(self.everywhere)
    }

    /// Where a service itself is to be spoken to by TLS and no route says where else to go, a route refuses instead.
    pub(super) fn refuse_implicit(
        &self,
        scope: Scope<'_>,
        ports: &mut BTreeMap<(Key, u16), PortRoutes>,
    ) {
        let by_name = !self.services.is_empty() || !self.hosts.is_empty();
        if !by_name && self.all.is_empty() && self.everywhere.is_none() {
            return;
        }
        let hosts = scope.derived.entries.services();
        for service in scope.world.services.values().chain(hosts) {
            let meta = &service.meta;
            let key = &(meta.namespace.clone(), meta.name.clone());
            for port in service.ports.iter().filter(|port| !port.udp) {
                let Some(object) = self.wanted(service, port) else {
                    continue;
                };
                let holding = ports.entry((key.clone(), port.port)).or_default();
                if holding.kind.is_none() {
                    let kind = kind(port);
                    holding.kind = Some(kind);
                    holding.routes.push(refusal(kind, key, object));
                    holding.routes.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
            }
        }
    }
}

/// Where nobody says what a port speaks, connections are refused: some of them might not be HTTP.
fn kind(port: &ServicePort) -> RouteKind {
    natural(port).unwrap_or(RouteKind::Tcp)
}

fn refusal(kind: RouteKind, service: &Key, object: &ObjectRef) -> (String, waypoint::Route) {
    let reason = format!("{object} wants TLS to the service, which is not served");
    let nowhere = waypoint::WeightedBackend {
        weight: 1,
        target: Some(Leads::Invalid(reason)),
        filters: Vec::new(),
    };
    let rule = waypoint::Rule {
        backends: vec![nowhere],
        ..waypoint::Rule::default()
    };
    let (namespace, name) = service;
    let route = waypoint::Route {
        kind: kind.as_str().to_owned(),
        namespace: namespace.clone(),
        // No object's name has an underscore.
        name: format!("unserved_tls_{name}"),
        rules: vec![rule],
        ..waypoint::Route::default()
    };
    let key = format!(
        "{}/{namespace}/{}/{namespace}/{name}",
        route.kind, route.name
    );
    (key, route)
}
