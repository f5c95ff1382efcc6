//! Kubernetes manifests as typed, checked values.
//!
//! A document is read into a plain tree by the YAML parser and from there into the few fields the mesh acts on, field
//! by field, so that every fault names where it is (`spec.rules[0].to[1].operation.ports[0]`) and one reading finds all
//! faults of an object. Metadata, and the kinds of policies and of the Gateway API, refuse fields that the API does not have;
//! core kinds ignore what is not read here, unless it is written as that in another case. Nothing in this module touches a file: [`crate::source`] does, and decides what stands in for a bad object.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

pub mod authorization;
pub mod core;
pub mod gateway;
mod known;
pub mod mesh;
mod meta;
pub mod peer;
mod read;
pub mod route;
pub mod selector;
pub mod service_entry;
pub mod unserved;
pub mod workload_entry;
mod yaml;

pub(crate) use self::known::near;
pub use self::{
    authorization::{AuthorizationPolicy, TargetRef},
    core::{EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount},
    gateway::{Gateway, GatewayClass, ReferenceGrant},
    mesh::MeshConfig,
    meta::Meta,
    peer::PeerAuthentication,
    route::{Route, RouteKind},
    selector::Selector,
    service_entry::ServiceEntry,
    unserved::{Unserved, UnservedKind},
    workload_entry::WorkloadEntry,
    yaml::{Document, LIMITS, Limits, documents, tree},
};
use self::{
    known::{Meaning, Misspelt, meaning},
    meta::metadata,
    read::{At, Faults},
};

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// The other group that has a kind called like a policy.
const LINKERD: &str = "policy.linkerd.io";

/// The kinds that are compiled, or known not to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`.
    Namespace,
    /// `v1`.
    Node,
    /// `v1`.
    ServiceAccount,
    /// `v1`.
    Service,
    /// `discovery.k8s.io/v1`.
    EndpointSlice,
    /// `v1`.
    Pod,
    /// `v1`; only the one that configures the mesh.
    ConfigMap,
    /// `security.istio.io/v1`.
    AuthorizationPolicy,
    /// `security.istio.io/v1`.
    PeerAuthentication,
    /// `gateway.networking.k8s.io/v1`.
    Gateway,
    /// `gateway.networking.k8s.io/v1`.
    GatewayClass,
    /// `gateway.networking.k8s.io/v1`.
    Route(RouteKind),
    /// `gateway.networking.k8s.io/v1`.
    ReferenceGrant,
    /// `networking.istio.io/v1`.
    ServiceEntry,
    /// `networking.istio.io/v1`.
    WorkloadEntry,
    /// Known and not served.
    Unserved(UnservedKind),
}

impl Kind {
    const SERVED: [Self; 17] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::ConfigMap,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::Gateway,
        Self::GatewayClass,
        Self::Route(RouteKind::Grpc),
        Self::Route(RouteKind::Http),
        Self::Route(RouteKind::Tcp),
        Self::ReferenceGrant,
        Self::ServiceEntry,
        Self::WorkloadEntry,
    ];

    /// Every kind that is known.
    pub fn all() -> impl Iterator<Item = Self> {
        let unserved = UnservedKind::ALL.map(Self::Unserved);
        Self::SERVED.into_iter().chain(unserved)
    }

    /// As written in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::ConfigMap => "ConfigMap",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
            Self::Route(kind) => kind.as_str(),
            Self::ReferenceGrant => "ReferenceGrant",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Unserved(kind) => kind.as_str(),
        }
    }

    /// Whether an object of this kind says who may talk to whom, so that losing one is not safe.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::AuthorizationPolicy
                | Self::PeerAuthentication
                | Self::Unserved(UnservedKind::RequestAuthentication)
        )
    }

    /// Whether objects of this kind are in namespaces.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }

    /// Its API group; empty for the core one.
    pub fn group(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io",
            Self::AuthorizationPolicy | Self::PeerAuthentication => SECURITY,
            Self::Gateway | Self::GatewayClass | Self::Route(_) | Self::ReferenceGrant => GATEWAY,
            Self::ServiceEntry | Self::WorkloadEntry => NETWORKING,
            Self::Unserved(kind) => kind.group(),
            _ => "",
        }
    }

    pub(crate) fn versions(self) -> &'static [&'static str] {
        match self {
            Self::AuthorizationPolicy
            | Self::PeerAuthentication
            | Self::Gateway
            | Self::GatewayClass
            | Self::Route(RouteKind::Http)
            | Self::ReferenceGrant => &["v1", "v1beta1"],
            Self::Route(RouteKind::Tcp | RouteKind::Grpc) => &["v1", "v1alpha2"],
            Self::ServiceEntry | Self::WorkloadEntry => &["v1", "v1beta1", "v1alpha3"],
            Self::Unserved(kind) => kind.versions(),
            _ => &["v1"],
        }
    }

    pub(crate) fn api_version(self) -> String {
        let (group, version) = (self.group(), self.versions()[0]);
        if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        }
    }

    /// The policy that is meant, as far as a slip in its first two lines lets that be seen: one must not get lost by it.
    /// Of the policies' own group what is called like no kind is one too.
    pub fn policy(version: &str, name: &str) -> Option<Self> {
        let version = version.to_ascii_lowercase();
        let group = known::meant_group(&version);
        let group = if version.contains('/') || group == SECURITY {
            group
        } else {
            ""
        };
        let security = group == SECURITY;
        let mut policies = Self::all().filter(|kind| group != LINKERD && kind.is_policy());
        let named = policies.find(|kind| kind.is_called(name));
        named.or_else(|| security.then(|| Self::nearest_policy(name)))
    }

    /// The policy that is meant by what none is called.
    fn nearest_policy(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match () {
            () if name.starts_with("peer") => Self::PeerAuthentication,
            () if name.starts_with("request") => {
                Self::Unserved(UnservedKind::RequestAuthentication)
            }
            () => Self::AuthorizationPolicy,
        }
    }

    /// The kind that is meant by a name that is written otherwise, of its own group or of none.
    fn meant(group: &str, name: &str) -> Option<Self> {
        let close = |kind: &Self| group.is_empty() || kind.group().eq_ignore_ascii_case(group);
        Self::all().find(|kind| close(kind) && kind.is_called(name))
    }

    /// Whether this is its name, in any case, of one or of several.
    pub fn is_called(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        name == self.as_str().to_ascii_lowercase() || name == self.plural()
    }

    /// As its objects are called in the paths of an API server.
    pub fn plural(self) -> String {
        let own = self.as_str().to_ascii_lowercase();
        match own.strip_suffix('y') {
            Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
            _ if own.ends_with('s') => format!("{own}es"),
            _ => format!("{own}s"),
        }
    }

    /// The kind of this API group and name, whatever the version.
    pub fn find(group: &str, name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.group() == group && kind.as_str() == name)
    }
}

/// Which object. Written `Kind/namespace/name`, without a namespace for kinds that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Of which kind.
    pub kind: Kind,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectRef {
    /// A reference of three parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if !self.namespace.is_empty() {
            write!(f, "/{}", self.namespace)?;
        }
        write!(f, "/{}", self.name)
    }
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Path of the field, for example `spec.action`; empty if the whole object is meant.
    pub field: String,
    /// What is wrong and what is expected, in words.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

/// An object without faults.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type it holds")]
pub enum Object {
    Namespace(Namespace),
    Node(Node),
    ServiceAccount(ServiceAccount),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
    ConfigMap(MeshConfig),
    AuthorizationPolicy(AuthorizationPolicy),
    PeerAuthentication(PeerAuthentication),
    Gateway(Gateway),
    GatewayClass(GatewayClass),
    Route(Route),
    ReferenceGrant(ReferenceGrant),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Unserved(Unserved),
}

impl Object {
    /// Which object this is.
    pub fn reference(&self) -> ObjectRef {
        let (kind, meta) = self.parts();
        ObjectRef::new(kind, &meta.namespace, &meta.name)
    }

    /// Its metadata.
    pub fn meta(&self) -> &Meta {
        self.parts().1
    }

    fn parts(&self) -> (Kind, &Meta) {
        match self {
            Self::Namespace(object) => (Kind::Namespace, &object.meta),
            Self::Node(object) => (Kind::Node, &object.meta),
            Self::ServiceAccount(object) => (Kind::ServiceAccount, &object.meta),
            Self::Service(object) => (Kind::Service, &object.meta),
            Self::EndpointSlice(object) => (Kind::EndpointSlice, &object.meta),
            Self::Pod(object) => (Kind::Pod, &object.meta),
            Self::ConfigMap(object) => (Kind::ConfigMap, &object.meta),
            Self::AuthorizationPolicy(object) => (Kind::AuthorizationPolicy, &object.meta),
            Self::PeerAuthentication(object) => (Kind::PeerAuthentication, &object.meta),
            Self::Gateway(object) => (Kind::Gateway, &object.meta),
            Self::GatewayClass(object) => (Kind::GatewayClass, &object.meta),
            Self::Route(object) => (Kind::Route(object.kind), &object.meta),
            Self::ReferenceGrant(object) => (Kind::ReferenceGrant, &object.meta),
            Self::ServiceEntry(object) => (Kind::ServiceEntry, &object.meta),
            Self::WorkloadEntry(object) => (Kind::WorkloadEntry, &object.meta),
            Self::Unserved(object) => (Kind::Unserved(object.kind), &object.meta),
        }
    }
}

/// What one manifest turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// Good.
    Object(Box<Object>),
    /// Of a kind that is not compiled, as `apiVersion/kind`.
    Unused(String),
    /// Of a kind that is compiled, but faulty.
    Refused(Refused),
    /// Faulty, and nobody can say which object it is, or of which kind.
    Vague(Vague),
    /// Not a manifest at all.
    Alien(Fault),
}

/// A faulty object: as much as could be read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, `default` if it names none; empty for kinds without namespaces.
    pub namespace: String,
    /// Its name, if that is one.
    pub name: Option<String>,
    /// `metadata.generation`, if that could be read.
    pub generation: i64,
    /// The workloads that it selects, if that much could be read; only for policies.
    pub selector: Option<Selector>,
    /// The objects that it is attached to, if that much could be read; only for policies.
    pub targets: Vec<TargetRef>,
    /// Of a route: its parents and what it wants guarded. Of what wants TLS: for whom, at least. Of a Service: whom it selects. Of a
    /// ServiceEntry: all that could be.
    pub read: Option<Box<Object>>,
    /// What is wrong, at least one.
    pub faults: Vec<Fault>,
}

/// A faulty object that may be one of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Vague {
    /// As far as it could be read; its kind is the likeliest, its namespace `default` if it may be any.
    pub refused: Refused,
    /// The kinds that it may be of.
    pub may_be: Vec<Kind>,
    /// Those of them that it counts as if there was none before that it may be; may be empty.
    pub likely: Vec<Kind>,
    /// It may be of any namespace.
    pub anywhere: bool,
}

/// Reads one manifest. `path` is where the tree stands in its document (`items[3]`), empty for the document itself.
pub fn manifest(tree: &Value, path: &str) -> Manifest {
    let at = At::new(path, tree);
    let (Some(version), Some(kind)) = (at.peek("apiVersion"), at.peek("kind")) else {
        return Manifest::Alien(Fault {
            field: path.to_owned(),
            reason: alien(tree),
        });
    };
    let found = match meaning(version, kind) {
        Meaning::Is(found) => found,
        Meaning::Other => return Manifest::Unused(format!("{version}/{kind}")),
        Meaning::Misspelt(misspelt) => return vague(&at, (version, kind), misspelt),
    };
    if found == Kind::ConfigMap && !mesh::is_meant(&at) {
        return Manifest::Unused(format!("{version}/{kind}"));
    }
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    let mut faults = Faults::default();
    if group != found.group() || !found.versions().contains(&number) {
        let reason = format!("{version:?} is not known: use {}", found.api_version());
        faults.add(&at, "apiVersion", reason);
    }
    let is_spelt = found.as_str() == kind;
    if !is_spelt {
        let reason = format!("{kind:?} is written {:?}", found.as_str());
        faults.add(&at, "kind", reason);
    }
    let (meta, anywhere) = metadata(&at, found, &mut faults);
    // What another kind calls so nobody knows.
    let (selector, targets) = match found.is_policy() && is_spelt {
        true => (selector::peek(&at), authorization::peek(&at)),
        false => (None, Vec::new()),
    };
    let refused = Refused {
        selector,
        targets,
        ..nothing(found, &meta)
    };
    let object = object(found, meta, &at, &mut faults);
    if faults.is_empty() {
        return Manifest::Object(Box::new(object));
    }
    let refused = Refused {
        read: read(object, &at).map(Box::new),
        faults: faults.into(),
        ..refused
    };
    match anywhere {
        true => Manifest::Vague(Vague {
            refused,
            may_be: vec![found],
            likely: vec![found],
            anywhere,
        }),
        false => Manifest::Refused(refused),
    }
}

/// What a manifest of a group that nobody knows would be if it were of the group of its kind that is served.
pub fn alike(tree: &Value) -> Vec<ObjectRef> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    if tree
        .get("apiVersion")
        .and_then(Value::as_str)
        .is_none_or(known::is_known)
    {
        return Vec::new();
    }
    let metadata = tree.get("metadata");
    let name = text(metadata.and_then(|it| it.get("name")));
    let (Some(kind), Some(name)) = (text(tree.get("kind")), name) else {
        return Vec::new();
    };
    let namespace = text(metadata.and_then(|it| it.get("namespace")));
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    let kinds = Kind::all().filter(|it| it.as_str() == kind);
    let alike = kinds.map(|kind| match kind.namespaced() {
        true => ObjectRef::new(kind, &namespace, &name),
        false => ObjectRef::new(kind, "", &name),
    });
    alike.collect()
}

/// Why this is no manifest: which of the first two fields is not there, and what may be meant for it.
fn alien(tree: &Value) -> String {
    let missing = ["apiVersion", "kind"].into_iter();
    let missing = missing.filter(|key| tree.get(key).is_none_or(|it| !it.is_string()));
    let told = missing.map(|key| match tree.get(key) {
        Some(Value::Null) => format!("{key} is empty"),
        Some(other) => format!("{key} is {other}, which is no text"),
        None => {
            let fields = tree.as_object().into_iter().flatten();
            let mut fields = fields.map(|(field, _)| field.as_str());
            let near =
                fields.find(|field| !::mesh::manifest::near(field, [key].into_iter()).is_empty());
            match near {
                Some(near) => format!("{key} is missing ({near:?} may be meant for it)"),
                None => format!("{key} is missing"),
            }
        }
    });
    let told: Vec<_> = told.collect();
    format!("not a manifest: {}", told.join(", "))
}

/// What is of no kind that there is. Only its metadata are told of: what else the likeliest kind has may be none of its.
fn vague(at: &At<'_>, (version, kind): (&str, &str), misspelt: Misspelt) -> Manifest {
    let Misspelt {
        may_be,
        likely,
        nearest,
    } = misspelt;
    let found = likely.first().or_else(|| may_be.first()).copied();
    let found = found.unwrap_or(Kind::Service);
    let mut faults = Faults::default();
    let hint = match nearest {
        Some(nearest) if nearest == kind => format!("that is one of {}", found.api_version()),
        Some(nearest) => format!("the nearest is {nearest:?}"),
        None => "and like none that is known".to_owned(),
    };
    faults.add(
        at,
        "kind",
        format!("{kind:?} is not a kind of {version}: {hint}"),
    );
    let (meta, anywhere) = metadata(at, found, &mut faults);
    let refused = nothing(found, &meta);
    let object = object(found, meta, at, &mut Faults::default());
    Manifest::Vague(Vague {
        refused: Refused {
            read: read(object, at).map(Box::new),
            faults: faults.into(),
            ..refused
        },
        may_be,
        likely,
        anywhere,
    })
}

/// A faulty object of which nothing but metadata is read yet.
fn nothing(kind: Kind, meta: &Meta) -> Refused {
    Refused {
        kind,
        namespace: meta.namespace.clone(),
        name: (!meta.name.is_empty()).then(|| meta.name.clone()),
        generation: meta.generation,
        selector: None,
        targets: Vec::new(),
        read: None,
        faults: Vec::new(),
    }
}

/// What counts of a faulty object.
fn read(object: Object, at: &At<'_>) -> Option<Object> {
    match object {
        Object::Route(route) => Some(Object::Route(route::guarded(route, at))),
        Object::Unserved(object) => unserved::wish(object, at).map(Object::Unserved),
        Object::Service(service) => Some(Object::Service(core::selecting(service, at))),
        Object::ServiceEntry(_) => Some(object),
        _ => None,
    }
}

fn object(kind: Kind, meta: Meta, at: &At<'_>, faults: &mut Faults) -> Object {
    match kind {
        Kind::Namespace => Object::Namespace(Namespace { meta }),
        Kind::Node => Object::Node(Node { meta }),
        Kind::ServiceAccount => Object::ServiceAccount(ServiceAccount { meta }),
        Kind::Service => Object::Service(core::service(meta, at, faults)),
        Kind::EndpointSlice => Object::EndpointSlice(core::endpoint_slice(meta, at, faults)),
        Kind::Pod => Object::Pod(core::pod(meta, at, faults)),
        Kind::ConfigMap => Object::ConfigMap(mesh::mesh_config(meta, at, faults)),
        Kind::AuthorizationPolicy => {
            Object::AuthorizationPolicy(authorization::authorization_policy(meta, at, faults))
        }
        Kind::PeerAuthentication => {
            Object::PeerAuthentication(peer::peer_authentication(meta, at, faults))
        }
        Kind::Gateway => Object::Gateway(gateway::gateway(meta, at, faults)),
        Kind::GatewayClass => Object::GatewayClass(gateway::gateway_class(meta, at, faults)),
        Kind::Route(kind) => Object::Route(route::route(kind, meta, at, faults)),
        Kind::ReferenceGrant => Object::ReferenceGrant(gateway::reference_grant(meta, at, faults)),
        Kind::ServiceEntry => Object::ServiceEntry(service_entry::service_entry(meta, at, faults)),
        Kind::WorkloadEntry => {
            Object::WorkloadEntry(workload_entry::workload_entry(meta, at, faults))
        }
        Kind::Unserved(kind) => Object::Unserved(unserved::unserved(kind, meta, at, faults)),
    }
}

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
