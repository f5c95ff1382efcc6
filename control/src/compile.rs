//! The world into the resources that node proxies get: a pure function.
//!
//! One file per output: `pods` (those as `workloads`), `endpoints` (addresses listed by hand), `entry` (ServiceEntries and WorkloadEntries), `services`, `authorization`
//! (AuthorizationPolicy), `peer` (PeerAuthentication), `around` (who goes around a waypoint), `closed` (pods that
//! refuse everybody), `told` (what waypoints get); `stock` and `past` only say whom policies lack, and what gets past them.
//! `binding` says which service is behind which waypoint, from `gateway` (Gateways), `policy` (what is attached to
//! objects) and how far bindings have come; `route` is what leads to a service. The outcome depends on the objects alone, not on their order.
//! What is not served yet is either harmless to leave out or makes a policy deny more; a status says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh::keys::Keys;
use proto::{
    security::Authorization,
    waypoint,
    workload::{Address, Service, Workload, address::Type},
};

use self::{
    binding::Bindings,
    entry::{Entries, Entry},
    policy::Attached,
    route::Routes,
};
use crate::{
    manifest::{self, Kind, Labels, ObjectRef},
    status::{Condition, Status},
    world::{self, Key, World},
};

mod around;
mod authorization;
mod binding;
mod closed;
pub(crate) mod concern;
mod endpoints;
mod entry;
mod feature;
mod gateway;
mod host;
pub mod json;
mod past;
mod peer;
mod pods;
mod policy;
mod protocol;
mod route;
mod services;
mod stock;
mod told;
mod unserved;
mod workloads;

/// What applies to the mesh as a whole as long as a control plane runs; the rest is in its [`MeshConfig`](manifest::MeshConfig).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Policies in this namespace are about the whole mesh.
    pub root_namespace: String,
    /// Who vouches for identities.
    pub trust_domain: String,
    /// Names the cluster in resource names.
    pub cluster_id: String,
    /// Suffix of service names.
    pub domain: String,
    /// Waypoints are deployed by what we say: the class `istio-waypoint` is ours too, and a Gateway that has no Service gets
    /// one.
    pub deploys: bool,
    /// What users call what is read here by the names of the ecosystem. Only sentences depend on it.
    pub keys: Keys,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root_namespace: "ambit-system".to_owned(),
            trust_domain: mesh::identity::DEFAULT_TRUST_DOMAIN.to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            domain: "cluster.local".to_owned(),
            deploys: false,
            keys: Keys::Shared,
        }
    }
}

/// The resources, and what to tell the owners of the objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// By resource name: a workload's uid, or `<namespace>/<hostname>` of a service.
    pub addresses: BTreeMap<String, Arc<Address>>,
    /// By resource name: `<namespace>/<name>`.
    pub authorizations: BTreeMap<String, Authorization>,
    /// By object; only objects that have something said of them.
    pub statuses: BTreeMap<ObjectRef, Status>,
    /// What the waypoint of each Gateway of ours is told; each such Gateway is here, also if it is told nothing.
    pub told: BTreeMap<Key, Told>,
    /// By service, the hosts of a ServiceEntry as one ([`host::all`](world::host::all)): what its binding is to become. It depends on the manifests alone, not on how far bindings have come; but
    /// a service whose label names a waypoint that does not serve it is here only if it is bound already.
    pub wanted: BTreeMap<Key, Wanted>,
    /// Services of which no binding is to become anything: a policy needs a waypoint that they cannot have, or is, or may be,
    /// for them and something of them cannot be understood.
    pub closed: BTreeSet<Key>,
}

impl Compiled {
    /// The addresses, each as a value of its own.
    pub fn own_addresses(&self) -> BTreeMap<String, Address> {
        let all = self.addresses.iter();
        all.map(|(name, address)| (name.clone(), Address::clone(address)))
            .collect()
    }
}

/// What one waypoint is told, by resource name.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "they are named after their types")]
pub struct Told {
    pub tables: BTreeMap<String, waypoint::Table>,
    pub routes: BTreeMap<String, waypoint::Route>,
    pub policies: BTreeMap<String, waypoint::Policy>,
    pub backends: BTreeMap<String, waypoint::Backend>,
}

/// What the binding of a service is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The Gateway that its label names, whether that is there, ready, or not.
    pub gateway: Key,
    /// An enforced layer 7 policy applies: the service is bound even though the waypoint was never ready.
    pub policed: bool,
    /// Its workloads are to deny whoever goes around.
    pub deny: bool,
}

/// Compiles a world.
pub fn compile(world: &World, settings: &Settings) -> Compiled {
    Compiler::default().compile(world, settings)
}

/// Compiles one world after another. What is as it was in the last one is not made again; the outcome is that of [`compile`].
#[derive(Debug, Default)]
pub struct Compiler {
    settings: Settings,
    services: services::Made,
    pods: pods::Made,
}

impl Compiler {
    /// Compiles the next world.
    pub fn compile(&mut self, world: &World, settings: &Settings) -> Compiled {
        if self.settings != *settings {
            *self = Self {
                settings: settings.clone(),
                ..Self::default()
            };
        }
        compile_after(self, world, settings)
    }
}

fn compile_after(last: &mut Compiler, world: &World, settings: &Settings) -> Compiled {
    let derived = Derived::new(world, settings);
    let scope = Scope {
        world,
        settings,
        derived: &derived,
    };
    let attached = Attached::new(scope);
    let bindings = Bindings::new(scope, &attached);
    let routes = Routes::new(scope, &bindings);
    let mut compiled = Compiled::default();
    authorization::compile(scope, &bindings, &mut compiled);
    policy::statuses(scope, &mut compiled);
    peer::compile(scope, &mut compiled);
    // Nearly in order already: a map is made of all of them faster than it is filled.
    let services = services::compile(scope, &bindings, &mut last.services);
    let pods = pods::compile(scope, &mut last.pods);
    compiled.addresses = services.into_iter().chain(pods).collect();
    endpoints::compile(scope, &mut compiled);
    entry::compile(scope, &mut compiled);
    // Objects speak louder than what was stored ready-made.
    for (name, address) in &world.stored.addresses {
        compiled
            .addresses
            .entry(name.clone())
            .or_insert_with(|| Arc::new(address.clone()));
    }
    for (name, authorization) in &world.stored.authorizations {
        compiled
            .authorizations
            .entry(name.clone())
            .or_insert_with(|| authorization.clone());
    }
    services::trust(scope, &bindings, &mut compiled);
    around::compile(scope, &attached, &bindings, &mut compiled);
    closed::compile(scope, &attached, &mut compiled);
    told::compile(scope, &attached, &bindings, &routes, &mut compiled);
    routes.statuses(&mut compiled);
    stock::tell(scope, &bindings, &mut compiled);
    gateway::statuses(
        scope,
        |key| bindings.services_of(key).count(),
        &mut compiled,
    );
    bindings.tell(scope, &mut compiled);
    entry::tell(scope, &bindings, &mut compiled);
    closed::tell(scope, &attached, &mut compiled);
    past::tell(scope, &attached, &bindings, &mut compiled);
    endpoints::statuses(scope, &mut compiled);
    unserved::statuses(scope, &mut compiled);
    meshes(scope, &mut compiled);
    faults(scope, &attached, &mut compiled);
    compiled
}

/// Whether objects of a namespace are looked at, by the configuration of the mesh.
pub fn sees(world: &World, settings: &Settings, namespace: &str) -> bool {
    let derived = Derived::default();
    let scope = Scope {
        world,
        settings,
        derived: &derived,
    };
    scope.sees(namespace)
}

/// The Gateway that the label of a Service, or of its Namespace, names, whether it is there or not.
pub fn gateway_of(world: &World, settings: &Settings, service: &Key) -> Option<Key> {
    let derived = Derived::default();
    let scope = Scope {
        world,
        settings,
        derived: &derived,
    };
    let service = world.services.get(service)?;
    binding::label(scope, &service.meta)
}

/// The Gateways that are ours, each of which gets a waypoint.
pub fn gateways(world: &World, settings: &Settings) -> Vec<Key> {
    let derived = Derived::default();
    let scope = Scope {
        world,
        settings,
        derived: &derived,
    };
    let ours = gateway::ours(scope).map(|(key, _)| key.clone());
    ours.collect()
}

/// Takes the waypoint of every Gateway of ours for ready, as manifests alone cannot say: gives those an address that have
/// none. Which those are is returned.
pub fn presume_ready(world: &mut World, settings: &Settings) -> Vec<Key> {
    let derived = Derived::default();
    let scope = Scope {
        world,
        settings,
        derived: &derived,
    };
    let without = gateway::ours(scope).filter(|(_, gateway)| gateway.addresses.is_empty());
    let without: Vec<_> = without
        .map(|(key, _)| (key.clone(), scope.hostname(&key.0, &key.1)))
        .collect();
    let presumed = without.into_iter().map(|(key, value)| {
        let kind = "Hostname".to_owned();
        if let Some(gateway) = world.gateways.get_mut(&key) {
            gateway
                .addresses
                .push(manifest::gateway::GatewayAddress { kind, value });
        }
        key
    });
    presumed.collect()
}

/// Says of what looks like a configuration of the mesh where it would be one.
fn meshes(scope: Scope<'_>, compiled: &mut Compiled) {
    let all = scope.world.mesh_configs.values();
    for config in all.filter(|config| !scope.is_root(&config.meta.namespace)) {
        let message = format!(
            "the mesh is configured in its root namespace {}: here it changes nothing",
            scope.settings.root_namespace
        );
        let reference = ObjectRef::new(Kind::ConfigMap, &config.meta.namespace, &config.meta.name);
        let status = Status {
            generation: config.meta.generation,
            conditions: vec![Condition::fails("Accepted", "UnsupportedValue", message)],
            ..Status::default()
        };
        compiled.statuses.insert(reference, status);
    }
}

/// Says of every refused object that it is, and what stands in for it.
fn faults(scope: Scope<'_>, attached: &Attached, compiled: &mut Compiled) {
    let world = scope.world;
    for (reference, faulty) in &world.faults {
        let stand_in = if world.denials.contains_key(reference) {
            "everything is denied in its scope until it is corrected"
        } else if let (Some(_), Some(manifest::Object::Route(_))) =
            (world.object(reference), world.refused.get(reference))
        {
            "one of both is in force, and what the other wants guarded is answered with 500 until it is corrected"
        } else if world.object(reference).is_some() {
            "its last good version stays in force"
        } else if let Some(manifest::Object::Unserved(_)) = world.refused.get(reference) {
            "waypoints answer with 500 where it wants TLS, as far as that can be read, until it is corrected"
        } else if let Some(manifest::Object::Route(route)) = world.refused.get(reference) {
            route::stand_in(route)
        } else if closed::closes(scope, attached, reference) {
            match reference.kind {
                Kind::Namespace => {
                    "a policy may be for what is in it, so all pods in it refuse every peer until it is corrected"
                }
                Kind::Gateway => {
                    "a policy is, or may be, for it, so what is labelled to it is refused until it is corrected"
                }
                Kind::ServiceEntry => {
                    "a policy is attached to it or to what it may be behind, so what asks for its hosts and addresses is refused, and the pods that it selects refuse every peer, as far as these can be read, until it is corrected"
                }
                _ => {
                    "a policy is attached to it or to what it may be behind, so the pods that it selects, as far as that can be read, refuse every peer until it is corrected"
                }
            }
        } else {
            "it is left out"
        };
        let all: Vec<_> = faulty.faults.iter().map(ToString::to_string).collect();
        let message = format!("{}; {stand_in}", all.join("; "));
        let kind = match reference.kind {
            Kind::AuthorizationPolicy if is_attached(world, reference) => {
                authorization::WAYPOINT_ACCEPTED
            }
            Kind::AuthorizationPolicy => authorization::ACCEPTED,
            _ => "Accepted",
        };
        let condition = Condition::fails(kind, "Invalid", message);
        // What is said of the version in force at each of its parents stays.
        let status = compiled.statuses.entry(reference.clone()).or_default();
        status.conditions = vec![condition];
        status.refused = Some(faulty.generation);
    }
}

/// Whether what is in force of a policy is for waypoints.
fn is_attached(world: &World, reference: &ObjectRef) -> bool {
    let key = (reference.namespace.clone(), reference.name.clone());
    let denial = world.denials.get(reference);
    denial.is_some_and(|denial| !denial.targets.is_empty())
        || world
            .authorization_policies
            .get(&key)
            .is_some_and(|policy| {
                matches!(
                    policy.target,
                    manifest::authorization::PolicyTarget::Objects(_)
                )
            })
}

/// What every part of the compile step looks at.
#[derive(Clone, Copy)]
struct Scope<'a> {
    world: &'a World,
    settings: &'a Settings,
    derived: &'a Derived<'a>,
}

/// What follows from the world before anything else is asked.
#[derive(Default)]
struct Derived<'a> {
    /// Services that Gateways have to get.
    made: BTreeMap<Key, Arc<manifest::Service>>,
    /// Gateways whose identity is not theirs alone, each with a pod that has it too.
    shared: BTreeMap<Key, String>,
    /// Hosts of ServiceEntries.
    entries: Entries<'a>,
}

impl<'a> Derived<'a> {
    fn new(world: &'a World, settings: &Settings) -> Self {
        let made = gateway::made(world, settings);
        Self {
            shared: gateway::shared(world),
            entries: Entries::new(world, settings, &made),
            made,
        }
    }
}

impl<'a> Scope<'a> {
    /// Whether objects of this namespace are looked at.
    fn sees(self, namespace: &str) -> bool {
        let selectors = self.mesh().map_or(&[][..], |mesh| &mesh.discovery);
        if selectors.is_empty() || self.is_root(namespace) {
            return true;
        }
        let none = Labels::new();
        let labels = self
            .world
            .namespaces
            .get(namespace)
            .map_or(&none, |namespace| &namespace.meta.labels);
        selectors.iter().any(|selector| selector.matches(labels))
    }

    /// The configuration of the mesh, if there is one.
    fn mesh(self) -> Option<&'a manifest::MeshConfig> {
        let mut configs = self.world.mesh_configs.iter();
        let own = configs
            .find(|((namespace, name), _)| self.is_root(namespace) && name == manifest::mesh::NAME);
        own.map(|(_, config)| config)
    }

    /// What a pod's node says of it.
    fn report(self, key: &Key, pod: &manifest::Pod) -> Option<&'a world::PodReport> {
        let report = self.world.reports.as_ref()?.get(key);
        report.filter(|report| report.node == pod.node)
    }

    /// Whether the waypoints of a namespace are trusted by services of others to have decided their policies.
    fn trusts_waypoints_of(self, namespace: &str) -> bool {
        let mesh = self.mesh();
        mesh.is_some_and(|mesh| mesh.trusted_waypoint_namespaces.contains(namespace))
    }

    /// Who may say of others that it forwards for them, as identities.
    fn gateways(self) -> Vec<String> {
        let gateways = self.mesh().map(|mesh| &mesh.gateways);
        let identity = |(namespace, account): &Key| {
            format!(
                "spiffe://{}/ns/{namespace}/sa/{account}",
                self.settings.trust_domain
            )
        };
        gateways.into_iter().flatten().map(identity).collect()
    }

    /// All Services, written and made, and the hosts of ServiceEntries as such.
    fn services(self) -> impl Iterator<Item = &'a Arc<manifest::Service>> {
        let Derived { made, entries, .. } = self.derived;
        let written = self.world.services.values();
        written.chain(made.values()).chain(entries.services())
    }

    fn service(self, key: &Key) -> Option<&'a Arc<manifest::Service>> {
        let Derived { made, entries, .. } = self.derived;
        let written = self.world.services.get(key);
        written
            .or_else(|| made.get(key))
            .or_else(|| entries.service(key))
    }

    /// The ServiceEntry's side of a service that is a host of one.
    fn entry(self, key: &Key) -> Option<&'a Entry<'a>> {
        self.derived.entries.of(key)
    }

    fn is_root(self, namespace: &str) -> bool {
        namespace == self.settings.root_namespace
    }

    /// As workloads carry it: the usual trust domain is not written out.
    fn trust_domain(self) -> String {
        let trust_domain = &self.settings.trust_domain;
        if trust_domain == mesh::identity::DEFAULT_TRUST_DOMAIN {
            String::new()
        } else {
            trust_domain.clone()
        }
    }

    fn hostname(self, namespace: &str, name: &str) -> String {
        match world::host::parts(name) {
            Some((_, Some(host))) => host.to_owned(),
            _ => format!("{name}.{namespace}.svc.{}", self.settings.domain),
        }
    }

    /// Name of a service's resource.
    fn service_key(self, namespace: &str, name: &str) -> String {
        format!("{namespace}/{}", self.hostname(namespace, name))
    }

    /// Label of an object, or of its namespace.
    fn label(self, labels: &'a Labels, namespace: &str, key: &str) -> Option<&'a String> {
        labels
            .get(key)
            .or_else(|| self.world.namespaces.get(namespace)?.meta.labels.get(key))
    }
}

fn workload(workload: Workload) -> (String, Arc<Address>) {
    (
        workload.uid.clone(),
        Arc::new(Address {
            r#type: Some(Type::Workload(workload)),
        }),
    )
}

fn service(service: Service) -> (String, Arc<Address>) {
    let name = format!("{}/{}", service.namespace, service.hostname);
    (
        name,
        Arc::new(Address {
            r#type: Some(Type::Service(service)),
        }),
    )
}

/// Adds policies to those that a workload names. One that nothing is added to stays the one that it was.
fn name(address: &mut Arc<Address>, policies: &[Authorization]) {
    if policies.is_empty() {
        return;
    }
    if let Some(Type::Workload(workload)) = &mut Arc::make_mut(address).r#type {
        let names = policies
            .iter()
            .map(|it| format!("{}/{}", it.namespace, it.name));
        workload.authorization_policies.extend(names);
    }
}

/// Whether two are equal, which is known at once of what is shared.
fn is_same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// An address as the wire has it: 4 or 16 bytes.
fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
