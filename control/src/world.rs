//! Everything that is known, as typed values: the input of [`crate::compile`].
//!
//! A world is a plain value. [`crate::source`] makes one out of files; node agents add what they see on their nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh::local::Local;

use crate::manifest::{
    AuthorizationPolicy, EndpointSlice, Fault, Gateway, GatewayClass, Kind, MeshConfig, Namespace,
    Node, Object, ObjectRef, PeerAuthentication, Pod, ReferenceGrant, Route, RouteKind, Selector,
    Service, ServiceAccount, ServiceEntry, TargetRef, Unserved, WorkloadEntry,
};

pub mod host;

/// What begins the name of what has none that can be read. No object can be called so.
pub const UNREADABLE: &str = "unreadable_";

/// Namespace and name.
pub type Key = (String, String);

/// All objects, by name, or by namespace and name. Those that there are most of are shared: by who shares them is known what
/// has not changed.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(
    missing_docs,
    reason = "the first seventeen are the kinds they are named after"
)]
pub struct World {
    pub namespaces: BTreeMap<String, Namespace>,
    pub nodes: BTreeMap<String, Node>,
    pub service_accounts: BTreeMap<Key, ServiceAccount>,
    pub services: BTreeMap<Key, Arc<Service>>,
    pub endpoint_slices: BTreeMap<Key, EndpointSlice>,
    pub pods: BTreeMap<Key, Arc<Pod>>,
    pub mesh_configs: BTreeMap<Key, MeshConfig>,
    pub authorization_policies: BTreeMap<Key, AuthorizationPolicy>,
    pub peer_authentications: BTreeMap<Key, PeerAuthentication>,
    pub gateways: BTreeMap<Key, Gateway>,
    pub gateway_classes: BTreeMap<String, GatewayClass>,
    pub http_routes: BTreeMap<Key, Route>,
    pub grpc_routes: BTreeMap<Key, Route>,
    pub tcp_routes: BTreeMap<Key, Route>,
    pub reference_grants: BTreeMap<Key, ReferenceGrant>,
    pub service_entries: BTreeMap<Key, ServiceEntry>,
    pub workload_entries: BTreeMap<Key, WorkloadEntry>,
    /// Objects of kinds that are known and not served.
    pub unserved: BTreeMap<ObjectRef, Unserved>,
    /// Policies that never had a good version: each denies until it has one.
    pub denials: BTreeMap<ObjectRef, Denial>,
    /// What could be read of objects that never had a good version and are not simply left out: routes with their parents, to
    /// say so to each of them, and rules for what they want guarded, those that want TLS, so that nothing is sent without, Services with their
    /// selectors, empty where those cannot be read either, and ServiceEntries, so that what is attached to them is not lost.
    pub refused: BTreeMap<ObjectRef, Object>,
    /// What is wrong with objects whose newest version is refused, those among `denials` included.
    pub faults: BTreeMap<ObjectRef, Faulty>,
    /// Resources that were stored ready-made.
    pub stored: Local,
    /// What node agents say. `None`: there are no agents, and a pod's manifest speaks for it.
    pub reports: Option<Reports>,
    /// How far waypoints and bindings have come. `None`: nobody keeps that, and what the manifests say is so at once.
    pub waypoints: Option<Waypoints>,
}

/// What has happened to waypoints so far. Not from manifests: kept by the control plane, on disk before it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waypoints {
    /// Gateways whose waypoint was ready once.
    pub ready: BTreeSet<Key>,
    /// By service, all hosts of a ServiceEntry as [`host::all`] calls them; a service that is not here is not bound. One that is called [`UNREADABLE`] stands for those of its namespace
    /// that nobody knew.
    pub phases: BTreeMap<Key, Phase>,
}

/// How far the binding of a service to a gateway has come. [`crate::phase`] says how one follows another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The waypoint is told of the service, and nobody is sent to it: not yet, or no longer.
    Told {
        /// Whose waypoint.
        gateway: Key,
    },
    /// The service is published with its waypoint, and its workloads deny nobody for going around.
    Published {
        /// Whose waypoint.
        gateway: Key,
    },
    /// The service is published with its waypoint, and its workloads deny whoever goes around.
    Enforced {
        /// Whose waypoint.
        gateway: Key,
    },
    /// To be unbound: the denial is taken back, the service is still published with its waypoint.
    Leaving {
        /// Whose waypoint.
        gateway: Key,
    },
    /// A policy needs a waypoint that the service cannot have: its workloads refuse everybody. Recorded, so that what closes
    /// it later takes over without a moment in which it is open.
    Closed,
    /// From one waypoint to another. Both are told of the service, and a denial lets both through.
    Moving {
        /// The old one.
        from: Key,
        /// The new one.
        to: Key,
        /// Whether the service is published with the new one already.
        arrived: bool,
        /// Whether there is a denial.
        enforced: bool,
    },
}

impl Phase {
    /// What [`Phase::name`] gives.
    pub const NAMES: [&str; 6] = [
        "told",
        "published",
        "enforced",
        "leaving",
        "closed",
        "moving",
    ];

    /// One word, for operators.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Told { .. } => "told",
            Self::Published { .. } => "published",
            Self::Enforced { .. } => "enforced",
            Self::Leaving { .. } => "leaving",
            Self::Closed => "closed",
            Self::Moving { .. } => "moving",
        }
    }

    /// The gateway whose waypoint the service is published with.
    pub fn published(&self) -> Option<&Key> {
        match self {
            Self::Told { .. } | Self::Closed => None,
            Self::Published { gateway }
            | Self::Enforced { gateway }
            | Self::Leaving { gateway } => Some(gateway),
            Self::Moving {
                from, to, arrived, ..
            } => Some(if *arrived { to } else { from }),
        }
    }

    /// The gateways whose waypoints are told of the service. A denial lets these through, and nobody else.
    pub fn told(&self) -> impl Iterator<Item = &Key> {
        let (one, other) = match self {
            Self::Told { gateway }
            | Self::Published { gateway }
            | Self::Enforced { gateway }
            | Self::Leaving { gateway } => (Some(gateway), None),
            Self::Moving { from, to, .. } => (Some(from), Some(to)),
            Self::Closed => (None, None),
        };
        one.into_iter().chain(other)
    }

    /// Whether the service's workloads deny whoever goes around, or everybody.
    pub fn is_enforced(&self) -> bool {
        matches!(
            self,
            Self::Enforced { .. } | Self::Closed | Self::Moving { enforced: true, .. }
        )
    }
}

/// What node agents say of the pods of their nodes.
pub type Reports = BTreeMap<Key, PodReport>;

/// What a node agent says of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodReport {
    /// The node that reports. A report by another node than the pod's is not heeded.
    pub node: String,
    /// As found in the pod's network namespace.
    pub addresses: Vec<IpAddr>,
    /// Whether it is up.
    pub ready: bool,
    /// Whether its traffic goes through the node proxy. Only then is it published as HBONE.
    pub captured: bool,
}

/// A version of an object that is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faulty {
    /// Its generation; 0 if it has none, or none that can be read.
    pub generation: i64,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl Faulty {
    /// Adds what is wrong with the same version, or with a newer one.
    pub fn add(&mut self, generation: i64, faults: Vec<Fault>) {
        self.generation = self.generation.max(generation);
        for fault in faults {
            // What is kept may be told once more.
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }
}

/// The stand-in for a policy that cannot be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// Whom it denies. `None`: its whole namespace, or the mesh if that is the root namespace.
    pub selector: Option<Selector>,
    /// The objects that it is attached to. None: it is no matter of a waypoint, or nobody knows.
    pub targets: Vec<TargetRef>,
}

impl World {
    /// The routes of a kind.
    pub fn routes(&self, kind: RouteKind) -> &BTreeMap<Key, Route> {
        match kind {
            RouteKind::Http => &self.http_routes,
            RouteKind::Grpc => &self.grpc_routes,
            RouteKind::Tcp => &self.tcp_routes,
        }
    }

    fn routes_mut(&mut self, kind: RouteKind) -> &mut BTreeMap<Key, Route> {
        match kind {
            RouteKind::Http => &mut self.http_routes,
            RouteKind::Grpc => &mut self.grpc_routes,
            RouteKind::Tcp => &mut self.tcp_routes,
        }
    }

    /// Adds an object, in place of one with the same reference.
    pub fn insert(&mut self, object: Object) {
        let reference = object.reference();
        let key = (reference.namespace.clone(), reference.name.clone());
        match object {
            Object::Namespace(object) => drop(self.namespaces.insert(key.1, object)),
            Object::Node(object) => drop(self.nodes.insert(key.1, object)),
            Object::ServiceAccount(object) => drop(self.service_accounts.insert(key, object)),
            Object::Service(object) => drop(self.services.insert(key, Arc::new(object))),
            Object::EndpointSlice(object) => drop(self.endpoint_slices.insert(key, object)),
            Object::Pod(object) => drop(self.pods.insert(key, Arc::new(object))),
            Object::ConfigMap(object) => drop(self.mesh_configs.insert(key, object)),
            Object::AuthorizationPolicy(object) => {
                drop(self.authorization_policies.insert(key, object))
            }
            Object::PeerAuthentication(object) => {
                drop(self.peer_authentications.insert(key, object))
            }
            Object::Gateway(object) => drop(self.gateways.insert(key, object)),
            Object::GatewayClass(object) => drop(self.gateway_classes.insert(key.1, object)),
            Object::Route(object) => drop(self.routes_mut(object.kind).insert(key, object)),
            Object::ReferenceGrant(object) => drop(self.reference_grants.insert(key, object)),
            Object::ServiceEntry(object) => drop(self.service_entries.insert(key, object)),
            Object::WorkloadEntry(object) => drop(self.workload_entries.insert(key, object)),
            Object::Unserved(object) => drop(self.unserved.insert(reference, object)),
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, reference: &ObjectRef) {
        let key = (reference.namespace.clone(), reference.name.clone());
        match reference.kind {
            Kind::Namespace => drop(self.namespaces.remove(&key.1)),
            Kind::Node => drop(self.nodes.remove(&key.1)),
            Kind::ServiceAccount => drop(self.service_accounts.remove(&key)),
            Kind::Service => drop(self.services.remove(&key)),
            Kind::EndpointSlice => drop(self.endpoint_slices.remove(&key)),
            Kind::Pod => drop(self.pods.remove(&key)),
            Kind::ConfigMap => drop(self.mesh_configs.remove(&key)),
            Kind::AuthorizationPolicy => drop(self.authorization_policies.remove(&key)),
            Kind::PeerAuthentication => drop(self.peer_authentications.remove(&key)),
            Kind::Gateway => drop(self.gateways.remove(&key)),
            Kind::GatewayClass => drop(self.gateway_classes.remove(&key.1)),
            Kind::Route(kind) => drop(self.routes_mut(kind).remove(&key)),
            Kind::ReferenceGrant => drop(self.reference_grants.remove(&key)),
            Kind::ServiceEntry => drop(self.service_entries.remove(&key)),
            Kind::WorkloadEntry => drop(self.workload_entries.remove(&key)),
            Kind::Unserved(_) => drop(self.unserved.remove(reference)),
        }
    }

    /// Puts back all that was known of an object, good or not.
    pub(crate) fn put_back(&mut self, reference: &ObjectRef, was: &Self) {
        if let Some(object) = was.object(reference) {
            self.insert(object);
        }
        if let Some(denial) = was.denials.get(reference) {
            self.denials.insert(reference.clone(), denial.clone());
        }
        if let Some(read) = was.refused.get(reference) {
            self.refused.insert(reference.clone(), read.clone());
        }
        if let Some(faults) = was.faults.get(reference) {
            self.faults.insert(reference.clone(), faults.clone());
        }
    }

    /// Whether an object is, or may be, among those that never had a good version.
    pub fn hides(&self, reference: &ObjectRef) -> bool {
        let nameless = |it: &ObjectRef| {
            it.kind == reference.kind
                && it.namespace == reference.namespace
                && it.name.starts_with(UNREADABLE)
        };
        self.object(reference).is_none()
            && (self.faults.contains_key(reference) || self.faults.keys().any(nameless))
    }

    /// The object of this reference.
    pub fn object(&self, reference: &ObjectRef) -> Option<Object> {
        let key = (reference.namespace.clone(), reference.name.clone());
        match reference.kind {
            Kind::Namespace => found(&self.namespaces, &key.1, Object::Namespace),
            Kind::Node => found(&self.nodes, &key.1, Object::Node),
            Kind::ServiceAccount => found(&self.service_accounts, &key, Object::ServiceAccount),
            Kind::Service => found(&self.services, &key, |it| Object::Service(own(it))),
            Kind::EndpointSlice => found(&self.endpoint_slices, &key, Object::EndpointSlice),
            Kind::Pod => found(&self.pods, &key, |it| Object::Pod(own(it))),
            Kind::ConfigMap => found(&self.mesh_configs, &key, Object::ConfigMap),
            Kind::AuthorizationPolicy => found(
                &self.authorization_policies,
                &key,
                Object::AuthorizationPolicy,
            ),
            Kind::PeerAuthentication => {
                found(&self.peer_authentications, &key, Object::PeerAuthentication)
            }
            Kind::Gateway => found(&self.gateways, &key, Object::Gateway),
            Kind::GatewayClass => found(&self.gateway_classes, &key.1, Object::GatewayClass),
            Kind::Route(kind) => found(self.routes(kind), &key, Object::Route),
            Kind::ReferenceGrant => found(&self.reference_grants, &key, Object::ReferenceGrant),
            Kind::ServiceEntry => found(&self.service_entries, &key, Object::ServiceEntry),
            Kind::WorkloadEntry => found(&self.workload_entries, &key, Object::WorkloadEntry),
            Kind::Unserved(_) => found(&self.unserved, reference, Object::Unserved),
        }
    }
}

fn own<T: Clone>(shared: Arc<T>) -> T {
    Arc::unwrap_or_clone(shared)
}

fn found<K: Ord, T: Clone>(
    all: &BTreeMap<K, T>,
    key: &K,
    object: impl Fn(T) -> Object,
) -> Option<Object> {
    all.get(key).cloned().map(object)
}
