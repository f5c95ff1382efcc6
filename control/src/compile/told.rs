//! What each waypoint is told: the services that are bound to it, and what those lead to. Nothing else.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use proto::{
    security,
    waypoint::{self, Backend, Protocol, Reference, Table, policy},
    workload::{self, AppProtocol, Workload, address::Type, gateway_address::Destination},
};

use super::{
    Compiled, Scope, Told,
    binding::Bindings,
    feature, gateway,
    policy::{Attached, Policy},
    protocol::declared,
    route::Routes,
    services::trusts,
};
use crate::{
    manifest::{RouteKind, core::ServicePort},
    publish::Version,
    world::Key,
};

pub(super) fn compile(
    scope: Scope<'_>,
    attached: &Attached,
    bindings: &Bindings,
    routes: &Routes,
    compiled: &mut Compiled,
) {
    if gateway::ours(scope).next().is_none() {
        return;
    }
    let published = Published::new(compiled);
    let before = before(scope, bindings, routes);
    let mut all = BTreeMap::new();
    for (key, found) in gateway::ours(scope) {
        let mut telling = Telling {
            scope,
            attached,
            bindings,
            routes,
            published: &published,
            before: &before,
            gateway: key,
            class: &found.class,
            tells_identity: gateway::tells_identity(found),
            told: Told::default(),
        };
        for service in bindings.services_of(key) {
            telling.table(service);
        }
        all.insert(key.clone(), telling.told);
    }
    compiled.told = all;
}

/// The gateways whose waypoints come to a service because a route leads there.
fn before<'a>(
    scope: Scope<'a>,
    bindings: &Bindings,
    routes: &Routes,
) -> BTreeMap<Key, BTreeSet<&'a Key>> {
    let mut before: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (gateway, _) in gateway::ours(scope) {
        for key in bindings.services_of(gateway) {
            let service = scope.service(key);
            let ports = service.into_iter().flat_map(|service| &service.ports);
            for port in ports.filter(|port| !port.udp) {
                for backend in routes.of(key, port.port).backends {
                    before.entry(backend).or_default().insert(gateway);
                }
            }
        }
    }
    before
}

/// The resources as node proxies get them.
struct Published<'a> {
    services: BTreeMap<&'a str, &'a workload::Service>,
    /// By service.
    workloads: BTreeMap<&'a str, Vec<&'a Workload>>,
    /// All layer 4 policies.
    policies: &'a BTreeMap<String, security::Authorization>,
    /// Names of those that workloads do not name: for a namespace, or under `""` for the mesh.
    wide: BTreeMap<&'a str, Vec<&'a String>>,
}

impl<'a> Published<'a> {
    fn new(compiled: &'a Compiled) -> Self {
        let mut services = BTreeMap::new();
        let mut workloads: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, address) in &compiled.addresses {
            match &address.r#type {
                Some(Type::Service(service)) => drop(services.insert(name.as_str(), service)),
                Some(Type::Workload(workload)) => {
                    for service in workload.services.keys() {
                        workloads
                            .entry(service.as_str())
                            .or_default()
                            .push(workload);
                    }
                }
                None => {}
            }
        }
        let mut wide: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, policy) in &compiled.authorizations {
            match security::Scope::try_from(policy.scope) {
                Ok(security::Scope::Global) => wide.entry("").or_default().push(name),
                Ok(security::Scope::Namespace) => {
                    wide.entry(&policy.namespace).or_default().push(name);
                }
                _ => {}
            }
        }
        Self {
            services,
            workloads,
            policies: &compiled.authorizations,
            wide,
        }
    }

    fn workloads(&self, service: &str) -> impl Iterator<Item = &'a Workload> {
        self.workloads.get(service).into_iter().flatten().copied()
    }

    /// The service that a waypoint is reached by.
    fn waypoint(&self, address: &workload::GatewayAddress) -> Option<&'a workload::Service> {
        match address.destination.as_ref()? {
            Destination::Hostname(name) => {
                let name = format!("{}/{}", name.namespace, name.hostname);
                self.services.get(name.as_str()).copied()
            }
            Destination::Address(address) => {
                let mut services = self.services.values().copied();
                services.find(|service| service.addresses.contains(address))
            }
        }
    }
}

/// Putting together what one waypoint is told.
struct Telling<'a> {
    scope: Scope<'a>,
    attached: &'a Attached,
    bindings: &'a Bindings,
    routes: &'a Routes,
    published: &'a Published<'a>,
    before: &'a BTreeMap<Key, BTreeSet<&'a Key>>,
    gateway: &'a Key,
    class: &'a str,
    tells_identity: bool,
    told: Told,
}

impl Telling<'_> {
    fn table(&mut self, key: &Key) {
        let Some(service) = self.scope.service(key) else {
            return;
        };
        let name = self.scope.service_key(&key.0, &key.1);
        let attached = self.attached;
        let policies = attached.of_service(key).iter();
        let policies = policies.chain(attached.of_gateway(self.gateway, Some(self.class)));
        let policies: Vec<&Policy> = policies.map(|policy| &**policy).collect();
        let mut leads_to = BTreeSet::from([key.clone()]);
        let tcp = service.ports.iter().filter(|port| !port.udp);
        // SCTP may have the number of a TCP port. The first of both is meant, as everywhere.
        let mut numbers = BTreeSet::new();
        let ports = tcp
            .filter(|port| numbers.insert(port.port))
            .map(|port| self.port(key, port, &policies, &mut leads_to))
            .collect();
        let policies = policies.iter().map(|policy| self.policy(policy)).collect();
        let backends: Vec<_> = leads_to
            .iter()
            .filter_map(|service| self.backend(service))
            .collect();
        let mut table = Table {
            backend: name.clone(),
            ports,
            policies,
            backends,
            requires: Vec::new(),
            tells_identity: self.tells_identity,
            gateways: self.scope.gateways(),
            waypoints: self.waypoints(key),
        };
        table.requires = feature::of_table(&table);
        self.told.tables.insert(name, table);
    }

    /// Other waypoints whose routes lead to a service, as far as it trusts them.
    fn waypoints(&self, service: &Key) -> Vec<String> {
        let all = self.before.get(service).into_iter().flatten();
        let others = all.filter(|gateway| **gateway != self.gateway);
        let trusted = others.filter(|gateway| trusts(self.scope, &service.0, gateway));
        trusted
            .map(|gateway| gateway::identity(self.scope, gateway))
            .collect()
    }

    fn port(
        &mut self,
        key: &Key,
        port: &ServicePort,
        policies: &[&Policy],
        leads_to: &mut BTreeSet<Key>,
    ) -> waypoint::Port {
        let found = self.routes.of(key, port.port);
        let routes = found.routes.into_iter().map(|(name, route)| {
            let version = version(&route);
            self.told.routes.insert(name.clone(), route);
            Reference { name, version }
        });
        let routes = routes.collect();
        leads_to.extend(found.backends);
        let sees = policies
            .iter()
            .any(|policy| policy.sees_requests(port.port));
        waypoint::Port {
            number: port.port.into(),
            protocol: protocol(found.kind, declared(port), sees).into(),
            routes,
            name: port.name.clone(),
        }
    }

    fn policy(&mut self, policy: &Policy) -> Reference {
        let reference = policy.reference.clone();
        self.told
            .policies
            .entry(reference.name.clone())
            .or_insert_with(|| policy.message.clone());
        reference
    }

    /// Adds a service that requests are sent to; gives the name of the resource, if there is such a service.
    fn backend(&mut self, key: &Key) -> Option<String> {
        let name = self.scope.service_key(&key.0, &key.1);
        if self.told.backends.contains_key(&name) {
            return Some(name);
        }
        let published = *self.published.services.get(name.as_str())?;
        let mut service = published.clone();
        service.extensions.clear();
        let binding = self.bindings.binding(key);
        if binding.is_some_and(|binding| binding.told.contains(self.gateway)) {
            // Requests have come to its waypoint already.
            service.waypoint = None;
        }
        let other = service.waypoint.as_ref();
        let waypoint_service = other
            .and_then(|address| self.published.waypoint(address))
            .cloned();
        let endpoints = match (&service.waypoint, &waypoint_service) {
            (None, _) => Some(name.clone()),
            (Some(_), Some(waypoint)) => {
                Some(format!("{}/{}", waypoint.namespace, waypoint.hostname))
            }
            (Some(_), None) => None,
        };
        let published = self.published;
        let workloads = endpoints.iter().flat_map(|name| published.workloads(name));
        let through = waypoint_service.is_some();
        let workloads = workloads.map(|workload| match through {
            // Its pods are no endpoints of anybody: what is decided for these is decided behind it.
            true => Workload {
                authorization_policies: Vec::new(),
                ..workload.clone()
            },
            false => self.workload(workload),
        });
        let workloads = workloads.collect();
        let attached = self.attached;
        let policies = attached.of_service(key).iter();
        let policies = policies.map(|policy| self.policy(policy)).collect();
        let mut backend = Backend {
            service: Some(service),
            workloads,
            policies,
            waypoint_service,
            requires: Vec::new(),
        };
        backend.requires = feature::of_backend(&backend);
        self.told.backends.insert(name.clone(), backend);
        Some(name)
    }

    /// An endpoint, without the policies that only its own proxy decides; adds those that are decided for it here.
    fn workload(&mut self, workload: &Workload) -> Workload {
        let mut workload = workload.clone();
        workload
            .authorization_policies
            .retain(|name| !mesh::model::is_generated(name.as_str().into()));
        let Published { policies, wide, .. } = self.published;
        let wide = ["", &workload.namespace]
            .into_iter()
            .filter_map(|reach| wide.get(reach));
        let names = wide
            .flatten()
            .copied()
            .chain(&workload.authorization_policies);
        for name in names.filter(|name| !mesh::model::is_generated(name.as_str().into())) {
            // One that is named and not there denies, here as anywhere.
            if let Some(policy) = policies.get(name) {
                let connection = || waypoint::Policy {
                    policy: Some(policy::Policy::Connection(policy.clone())),
                    requires: Vec::new(),
                };
                let name = format!("connection/{name}");
                self.told.policies.entry(name).or_insert_with(connection);
            }
        }
        workload
    }
}

fn version(route: &waypoint::Route) -> String {
    Version::of(&route.encode_to_vec()).to_string()
}

/// What a port speaks: what its routes are for, else what it declares, else HTTP if somebody has to see the requests.
fn protocol(routes: Option<RouteKind>, declared: Option<AppProtocol>, sees: bool) -> Protocol {
    let http2 = matches!(declared, Some(AppProtocol::Http2 | AppProtocol::Grpc));
    match (routes, declared) {
        (Some(RouteKind::Tcp), _) => Protocol::Tcp,
        (Some(RouteKind::Grpc), _) => Protocol::Http2,
        (_, Some(_)) if http2 => Protocol::Http2,
        (_, Some(AppProtocol::Http11)) => Protocol::Http1,
        (Some(RouteKind::Http), _) => Protocol::Http,
        (None, Some(_)) => Protocol::Tcp,
        (None, None) if sees => Protocol::Http,
        (None, None) => Protocol::Detect,
    }
}
