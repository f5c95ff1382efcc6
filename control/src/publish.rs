//! What each node and each waypoint is told: resources with stable versions, and per stream the difference to what that
//! stream holds.
//!
//! Pure: no socket, no clock. [`Snapshot`] is one state of the mesh; [`Stream`] is one subscriber. A driver hands a stream
//! every request and every snapshot and sends what comes back. A stream that is behind skips states, never ends up with
//! a mixture of them, and holds no queue: its memory is names and versions. Which types a stream is served, and whose
//! resources, depends on its subject alone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Weak},
};

use prost::Message as _;
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE, BACKEND_TYPE, POLICY_TYPE, ROUTE_TYPE, TABLE_TYPE, security,
    waypoint, workload,
};

use crate::{compile::Compiled, compile::Told, subject::Subject, world::Key};

mod order;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Malformed, Progress, Stream};

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Layer 4 policies.
    Authorization,
    /// Services that are bound to a waypoint.
    Table,
    /// Their routes.
    Route,
    /// Policies of a waypoint.
    Policy,
    /// Services that a waypoint sends requests to.
    Backend,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Address,
        Self::Authorization,
        Self::Table,
        Self::Route,
        Self::Policy,
        Self::Backend,
    ];
    const NODE: &[Self] = &[Self::Address, Self::Authorization];
    const WAYPOINT: &[Self] = &[Self::Table, Self::Route, Self::Policy, Self::Backend];

    /// The kinds that a subject is served.
    pub const fn served(subject: &Subject) -> &'static [Self] {
        match subject {
            Subject::Node(_) => Self::NODE,
            Subject::Waypoint(_) => Self::WAYPOINT,
        }
    }

    /// The kind of a type URL.
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }

    /// The type URL of the kind.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS_TYPE,
            Self::Authorization => AUTHORIZATION_TYPE,
            Self::Table => TABLE_TYPE,
            Self::Route => ROUTE_TYPE,
            Self::Policy => POLICY_TYPE,
            Self::Backend => BACKEND_TYPE,
        }
    }
}

/// A hash of content: equal content has an equal version, in every process and after every restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version of an encoded resource.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        Self(
            digest
                .as_ref()
                .iter()
                .take(8)
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        )
    }

    /// Reads what [`Version`] prints; anything else is a version that we never gave.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let valid = text.len() == 16 && text.bytes().all(hex);
        valid
            .then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One resource as it goes over the wire.
#[derive(Debug)]
pub struct Resource {
    /// Of the message.
    pub version: Version,
    /// The encoded message.
    bytes: Vec<u8>,
    role: Role,
    /// An address is encoded again only if it is another message.
    message: Option<Arc<workload::Address>>,
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.role == other.role
    }
}

impl Eq for Resource {}

impl Resource {
    /// The encoded message.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What the order of a push depends on.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// A workload, and the policies that it names.
    Workload { policies: Vec<String> },
    /// A policy in force for workloads that name it: alone it changes nothing.
    NamedPolicy,
    /// A policy in force for a namespace or the mesh as soon as it is known.
    WidePolicy,
    /// Anything else.
    Plain,
}

/// A set of resources by name.
pub type Set = BTreeMap<Arc<str>, Arc<Resource>>;

/// All resources of one kind for one audience.
#[derive(Debug, PartialEq)]
struct Whole {
    set: Set,
    /// Of all of them together.
    version: Version,
}

/// What one audience is told: all nodes, or the waypoint of one gateway. Holds the kinds that it is served; empty before
/// the first state.
#[derive(Debug, Default)]
pub struct Part {
    wholes: BTreeMap<Kind, Arc<Whole>>,
    /// The way here from the last parts before this one, the oldest first.
    steps: VecDeque<Arc<Step>>,
}

/// From one part to the next.
#[derive(Debug)]
struct Step {
    from: Weak<Part>,
    /// What is new, another, or gone.
    changed: Vec<(Kind, Arc<str>)>,
}

/// Of each kind: names of what may differ, and nothing else does.
type Changed<'a> = BTreeMap<Kind, BTreeSet<&'a Arc<str>>>;

/// Steps that are kept for subscribers who skip states, and names in all of them. Who has missed more is compared with all.
const STEPS: usize = 64;
const CHANGED: usize = 16_384;

/// One state of the mesh.
#[derive(Debug, Default)]
pub struct Snapshot {
    number: u64,
    nodes: Arc<Part>,
    waypoints: BTreeMap<Key, Arc<Part>>,
}

impl Part {
    fn new(
        wholes: impl IntoIterator<Item = (Kind, (Arc<Whole>, Vec<Arc<str>>))>,
        previous: &Arc<Self>,
    ) -> Arc<Self> {
        let mut part = Self::default();
        let mut changed = Vec::new();
        for (kind, (whole, names)) in wholes {
            part.wholes.insert(kind, whole);
            changed.extend(names.into_iter().map(|name| (kind, name)));
        }
        if part.same(previous) {
            return Arc::clone(previous);
        }
        part.steps.clone_from(&previous.steps);
        let from = Arc::downgrade(previous);
        part.steps.push_back(Arc::new(Step { from, changed }));
        let names = |part: &Self| part.steps.iter().map(|it| it.changed.len()).sum::<usize>();
        while part.steps.len() > STEPS || names(&part) > CHANGED {
            part.steps.pop_front();
        }
        Arc::new(part)
    }

    fn of_nodes(compiled: &Compiled, previous: &Arc<Self>) -> Arc<Self> {
        let before = |kind| previous.wholes.get(&kind);
        let (addresses, authorizations) = (&compiled.addresses, &compiled.authorizations);
        let addresses = Whole::new(addresses, before(Kind::Address), address);
        let authorizations = Whole::new(authorizations, before(Kind::Authorization), |it, was| {
            kept(authorization_resource(it), was)
        });
        let all = [
            (Kind::Address, addresses),
            (Kind::Authorization, authorizations),
        ];
        Self::new(all, previous)
    }

    fn of_waypoint(told: &Told, previous: &Arc<Self>) -> Arc<Self> {
        let before = |kind| previous.wholes.get(&kind);
        let tables = Whole::new(&told.tables, before(Kind::Table), |it, was| {
            kept(plain_resource(it), was)
        });
        let routes = Whole::new(&told.routes, before(Kind::Route), |it, was| {
            kept(plain_resource(it), was)
        });
        let policies = Whole::new(&told.policies, before(Kind::Policy), |it, was| {
            kept(policy_resource(it), was)
        });
        let backends = Whole::new(&told.backends, before(Kind::Backend), |it, was| {
            kept(plain_resource(it), was)
        });
        let all = [
            (Kind::Table, tables),
            (Kind::Route, routes),
            (Kind::Policy, policies),
            (Kind::Backend, backends),
        ];
        Self::new(all, previous)
    }

    /// What may differ from an earlier part; `None` if that is too long ago, or never was one of these.
    fn since(self: &Arc<Self>, earlier: &Arc<Self>) -> Option<Changed<'_>> {
        let mut changed = Changed::new();
        if Arc::ptr_eq(self, earlier) {
            return Some(changed);
        }
        // What is pointed to by a step is nothing else later.
        let is_first = |it: &Arc<Step>| it.from.as_ptr() == Arc::as_ptr(earlier);
        let first = self.steps.iter().position(is_first)?;
        for (kind, name) in self.steps.iter().skip(first).flat_map(|it| &it.changed) {
            changed.entry(*kind).or_default().insert(name);
        }
        Some(changed)
    }

    /// The resources of a kind.
    pub fn set(&self, kind: Kind) -> &Set {
        static NONE: Set = Set::new();
        self.wholes.get(&kind).map_or(&NONE, |whole| &whole.set)
    }

    /// The version of all resources of a kind together; `None` before the first state.
    pub fn version(&self, kind: Kind) -> Option<Version> {
        self.wholes.get(&kind).map(|whole| whole.version)
    }

    fn same(&self, other: &Self) -> bool {
        let versions = |part: &Self| Kind::ALL.map(|kind| part.version(kind));
        versions(self) == versions(other)
    }
}

impl Whole {
    /// The resources that `make` makes of messages, and of what was there under the same name; and the names of those that
    /// differ from what was there, or are gone. If there are none, it is what was there.
    fn new<T>(
        messages: &BTreeMap<String, T>,
        previous: Option<&Arc<Self>>,
        make: impl Fn(&T, Option<&Arc<Resource>>) -> Arc<Resource>,
    ) -> (Arc<Self>, Vec<Arc<str>>) {
        let before = previous.map(|it| it.set.iter());
        let mut before = before.into_iter().flatten().peekable();
        let mut changed = Vec::new();
        // Both come in the order of their names.
        let set = messages.iter().map(|(text, message)| {
            while let Some((gone, _)) = before.next_if(|(was, _)| ***was < **text) {
                changed.push(Arc::clone(gone));
            }
            match before.next_if(|(was, _)| ***was == **text) {
                Some((name, was)) => {
                    let resource = make(message, Some(was));
                    if !Arc::ptr_eq(was, &resource) {
                        changed.push(Arc::clone(name));
                    }
                    (Arc::clone(name), resource)
                }
                None => {
                    let name: Arc<str> = Arc::from(text.as_str());
                    changed.push(Arc::clone(&name));
                    (name, make(message, None))
                }
            }
        });
        let set: Set = set.collect();
        changed.extend(before.map(|(gone, _)| Arc::clone(gone)));
        let whole = match previous {
            Some(previous) if changed.is_empty() => Arc::clone(previous),
            _ => Arc::new(Self {
                version: version_of(&set),
                set,
            }),
        };
        (whole, changed)
    }
}

/// What there was, if it is the same.
fn kept(resource: Resource, was: Option<&Arc<Resource>>) -> Arc<Resource> {
    match was {
        Some(was) if **was == resource => Arc::clone(was),
        _ => Arc::new(resource),
    }
}

/// Of an address, which is what it was as long as it is the same message.
fn address(message: &Arc<workload::Address>, was: Option<&Arc<Resource>>) -> Arc<Resource> {
    let same = |was: &&Arc<Resource>| {
        let made_of = was.message.as_ref();
        made_of.is_some_and(|it| Arc::ptr_eq(it, message) || it == message)
    };
    if let Some(was) = was.filter(same) {
        return Arc::clone(was);
    }
    let new = Resource {
        message: Some(Arc::clone(message)),
        ..address_resource(message)
    };
    kept(new, was)
}

impl Snapshot {
    /// A state made of compiled resources; shares with `previous` what did not change.
    pub fn new(compiled: &Compiled, previous: &Self) -> Self {
        let told = compiled.told.iter().map(|(gateway, told)| {
            let before = previous.part(&Subject::Waypoint(gateway.clone()));
            (gateway.clone(), Part::of_waypoint(told, &before))
        });
        let mut new = Self {
            number: previous.number,
            nodes: Part::of_nodes(compiled, &previous.nodes),
            waypoints: told.collect(),
        };
        if !new.same(previous) {
            new.number += 1;
        }
        new
    }

    /// Grows with every state that differs from the one before.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What a subject is told. Nothing if it is the waypoint of a gateway that is not there.
    pub fn part(&self, subject: &Subject) -> Arc<Part> {
        match subject {
            Subject::Node(_) => Arc::clone(&self.nodes),
            Subject::Waypoint(gateway) => self.waypoints.get(gateway).cloned().unwrap_or_default(),
        }
    }

    /// Whether a subject is anybody: a node, or the waypoint of a gateway that is there.
    pub fn knows(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Node(_) => true,
            Subject::Waypoint(gateway) => self.waypoints.contains_key(gateway),
        }
    }

    /// What all nodes are told.
    pub fn nodes(&self) -> &Part {
        &self.nodes
    }

    /// What each waypoint is told.
    pub fn waypoints(&self) -> &BTreeMap<Key, Arc<Part>> {
        &self.waypoints
    }

    /// Whether both are the same state.
    pub fn same(&self, other: &Self) -> bool {
        let parts = |all: &BTreeMap<Key, Arc<Part>>| all.keys().cloned().collect::<Vec<_>>();
        parts(&self.waypoints) == parts(&other.waypoints)
            && self.nodes.same(&other.nodes)
            && (self.waypoints.values())
                .zip(other.waypoints.values())
                .all(|(one, other)| Arc::ptr_eq(one, other) || one.same(other))
    }
}

fn address_resource(address: &workload::Address) -> Resource {
    let role = match &address.r#type {
        Some(workload::address::Type::Workload(workload)) => Role::Workload {
            policies: workload.authorization_policies.clone(),
        },
        _ => Role::Plain,
    };
    resource(address.encode_to_vec(), role)
}

fn authorization_resource(policy: &security::Authorization) -> Resource {
    resource(policy.encode_to_vec(), role_of(policy))
}

fn policy_resource(policy: &waypoint::Policy) -> Resource {
    let role = match &policy.policy {
        Some(waypoint::policy::Policy::Connection(policy)) => role_of(policy),
        _ => Role::Plain,
    };
    resource(policy.encode_to_vec(), role)
}

fn plain_resource(message: &impl prost::Message) -> Resource {
    resource(message.encode_to_vec(), Role::Plain)
}

fn role_of(policy: &security::Authorization) -> Role {
    if policy.scope == security::Scope::WorkloadSelector as i32 {
        Role::NamedPolicy
    } else {
        Role::WidePolicy
    }
}

fn resource(bytes: Vec<u8>, role: Role) -> Resource {
    Resource {
        version: Version::of(&bytes),
        bytes,
        role,
        message: None,
    }
}

fn version_of(set: &Set) -> Version {
    let mut all = Vec::with_capacity(set.len() * 64);
    for (name, resource) in set {
        all.extend_from_slice(name.as_bytes());
        all.push(0);
        all.extend_from_slice(&resource.version.0.to_be_bytes());
    }
    Version::of(&all)
}

#[cfg(test)]
impl Resource {
    /// The message, which is to be an Address.
    pub(crate) fn address(&self) -> Option<workload::Address> {
        workload::Address::decode(self.bytes.as_slice()).ok()
    }
}
