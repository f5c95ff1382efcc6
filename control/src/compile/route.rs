//! Routes: which of them hold for which port of which service, and what is said of them at each of their parents.
//!
//! A route of the service's own namespace is for all clients; one of another namespace only for clients of that namespace,
//! and can change nothing for others: neither which protocol a port speaks nor which of their routes hold. What cannot be
//! carried out is answered with an error for exactly what matches it, never left to another rule.

use std::collections::{BTreeMap, BTreeSet};

use proto::waypoint;

use super::{Compiled, Scope, binding::Bindings, feature};
use crate::{
    manifest::{Kind, Object, ObjectRef, Route, RouteKind},
    status::{Condition, ParentStatus, Status},
    world::Key,
};

mod attach;
mod backend;
mod conditions;
mod guard;
mod rule;
mod tls;

use self::{attach::Attached, rule::Converted, tls::Tls};

/// All routes, by the ports they hold for.
pub(super) struct Routes {
    ports: BTreeMap<(Key, u16), PortRoutes>,
    statuses: BTreeMap<ObjectRef, Status>,
}

/// The routes of one port of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PortRoutes {
    /// The kind of those that the service's own namespace has made; `None`: it has not, and says nothing of the protocol.
    pub(super) kind: Option<RouteKind>,
    /// By resource name, in the order of the names.
    pub(super) routes: Vec<(String, waypoint::Route)>,
    /// The services that they lead to.
    pub(super) backends: BTreeSet<Key>,
}

/// A route with what became of it, whatever it is attached to.
struct Candidate<'a> {
    route: &'a Route,
    converted: Converted,
}

impl Routes {
    pub(super) fn new(scope: Scope<'_>, bindings: &Bindings) -> Self {
        let tls = Tls::new(scope);
        let kinds = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tcp];
        let refused = guard::routes(scope);
        let guarding = refused.iter().map(|route| Candidate {
            route,
            converted: guard::convert(route),
        });
        let candidates: Vec<_> = kinds
            .into_iter()
            .flat_map(|kind| scope.world.routes(kind).values())
            .filter(|route| scope.sees(&route.meta.namespace))
            .map(|route| Candidate {
                route,
                converted: rule::convert(scope, route, &tls),
            })
            .chain(guarding)
            .collect();
        let attached = Attached::new(scope, &candidates);
        let mut routes = Self {
            ports: BTreeMap::new(),
            statuses: BTreeMap::new(),
        };
        for candidate in &candidates {
            let status = status(scope, bindings, candidate, &attached);
            let meta = &candidate.route.meta;
            let kind = Kind::Route(candidate.route.kind);
            if !status.parents.is_empty() {
                let reference = ObjectRef::new(kind, &meta.namespace, &meta.name);
                routes.statuses.insert(reference, status);
            }
        }
        for (reference, object) in &scope.world.refused {
            if let Object::Route(route) = object
                && scope.sees(&reference.namespace)
                && scope.world.object(reference).is_none()
            {
                let status = self::refused(scope, reference, route);
                routes.statuses.insert(reference.clone(), status);
            }
        }
        for ((service, port), holding) in attached.ports() {
            let mut port_routes = PortRoutes {
                kind: holding.kind,
                ..PortRoutes::default()
            };
            for &index in &holding.candidates {
                let candidate = &candidates[index];
                let backends = candidate.converted.backends.iter().cloned();
                port_routes.backends.extend(backends);
                port_routes
                    .routes
                    .push(resource(candidate.route, &candidate.converted, service));
            }
            port_routes.routes.sort_by(|(a, _), (b, _)| a.cmp(b));
            routes.ports.insert((service.clone(), *port), port_routes);
        }
        tls.refuse_implicit(scope, &mut routes.ports);
        routes
    }

    /// The routes for a port of a service.
    pub(super) fn of(&self, service: &Key, port: u16) -> PortRoutes {
        let found = self.ports.get(&(service.clone(), port));
        found.cloned().unwrap_or_default()
    }

    /// Says of each route what it is at each of its parents.
    pub(super) fn statuses(self, compiled: &mut Compiled) {
        compiled.statuses.extend(self.statuses);
    }
}

/// The resource of a route for a service. What it says does not depend on the port.
fn resource(route: &Route, converted: &Converted, service: &Key) -> (String, waypoint::Route) {
    let meta = &route.meta;
    let (namespace, name) = service;
    let consumer = (meta.namespace != *namespace).then(|| meta.namespace.clone());
    let mut resource = waypoint::Route {
        kind: route.kind.as_str().to_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        created: meta.created.map_or(0, |time| time.unix_timestamp()),
        consumer: consumer.unwrap_or_default(),
        hostnames: route.hostnames.clone(),
        rules: converted.rules.clone(),
        requires: Vec::new(),
    };
    resource.requires = feature::of_route(&resource);
    let kind = route.kind.as_str();
    let key = format!("{kind}/{}/{}/{namespace}/{name}", meta.namespace, meta.name);
    (key, resource)
}

fn status(
    scope: Scope<'_>,
    bindings: &Bindings,
    candidate: &Candidate<'_>,
    attached: &Attached<'_>,
) -> Status {
    let meta = &candidate.route.meta;
    let mut parents = Vec::new();
    for parent in &candidate.route.parents {
        let Some(place) = attach::place(scope, candidate.route, parent) else {
            continue;
        };
        let outcome = attached.outcome(candidate.route, place);
        parents.push(ParentStatus {
            parent: parent.clone(),
            conditions: conditions::conditions(
                scope.settings.keys,
                &candidate.converted,
                outcome,
                &meta.namespace,
                |service| bindings.of(service).is_some(),
            ),
        });
    }
    Status {
        generation: meta.generation,
        parents,
        ..Status::default()
    }
}

/// What stands in for a route that never had a good version.
pub(super) fn stand_in(route: &Route) -> &'static str {
    if route.rules.is_empty() {
        "it is left out"
    } else if route.is_attached() {
        "what it wants guarded, as far as that can be read, is answered with 500 until it is corrected; the rest of it is left out"
    } else {
        "it wants requests guarded and does not say whose, so all Services of its namespace that have a waypoint answer with 500 \
         what it may mean, as far as that can be read, until it is corrected"
    }
}

/// What is said of a route that never had a good version.
fn refused(scope: Scope<'_>, reference: &ObjectRef, route: &Route) -> Status {
    let faulty = scope.world.faults.get(reference);
    let faults = faulty.into_iter().flat_map(|it| &it.faults);
    let faults: Vec<_> = faults.map(ToString::to_string).collect();
    let effect = stand_in(route);
    let message = format!("{}; {effect}", faults.join("; "));
    let named = route.parents.iter().filter(|it| !it.name.is_empty());
    let ours = named.filter(|parent| attach::place(scope, route, parent).is_some());
    let parents = ours.map(|parent| ParentStatus {
        parent: parent.clone(),
        conditions: vec![Condition::fails("Accepted", "Invalid", message.clone())],
    });
    Status {
        generation: route.meta.generation,
        parents: parents.collect(),
        ..Status::default()
    }
}

#[cfg(test)]
mod tests;
