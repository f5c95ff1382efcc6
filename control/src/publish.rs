//! What each node is told: resources with stable versions, and per stream the difference to what that stream holds.
//!
//! Pure: no socket, no clock. [`Snapshot`] is one state of the mesh; [`Stream`] is one subscriber. A driver hands a stream
//! every request and every snapshot and sends what comes back. A stream that is behind skips states, never ends up with
//! a mixture of them, and holds no queue: its memory is names and versions.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prost::Message as _;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, security, workload};

mod order;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Malformed, Progress, Stream};

/// The two kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Layer 4 policies.
    Authorization,
}

impl Kind {
    /// Both, in the order of [`Kind::index`].
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

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
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// A hash of content: equal content has an equal version, in every process and after every restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    fn of(bytes: &[u8]) -> Self {
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
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Of `bytes`.
    pub version: Version,
    /// The encoded message.
    bytes: Vec<u8>,
    role: Role,
}

/// What the order of a push depends on.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// A workload, and the policies that it names.
    Workload {
        policies: Vec<String>,
    },
    Service,
    /// A policy in force for workloads that name it: alone it changes nothing.
    NamedPolicy,
    /// A policy in force for a namespace or the mesh as soon as it is known.
    WidePolicy,
}

/// A set of resources by name.
pub type Set = BTreeMap<Arc<str>, Arc<Resource>>;

/// One state of the mesh.
#[derive(Debug, Default)]
pub struct Snapshot {
    sets: [Set; 2],
    versions: [Option<Version>; 2],
}

impl Snapshot {
    /// A state made of compiled resources; shares with `previous` what did not change.
    pub fn new(
        addresses: &BTreeMap<String, workload::Address>,
        authorizations: &BTreeMap<String, security::Authorization>,
        previous: &Self,
    ) -> Self {
        let addresses = addresses
            .iter()
            .map(|(name, address)| (name.as_str(), address_resource(address)));
        let addresses = shared(addresses, previous.set(Kind::Address));
        let authorizations = authorizations
            .iter()
            .map(|(name, policy)| (name.as_str(), policy_resource(policy)));
        let authorizations = shared(authorizations, previous.set(Kind::Authorization));
        let versions = [
            Some(version_of(&addresses)),
            Some(version_of(&authorizations)),
        ];
        Self {
            sets: [addresses, authorizations],
            versions,
        }
    }

    /// The resources of a kind.
    pub fn set(&self, kind: Kind) -> &Set {
        &self.sets[kind.index()]
    }

    /// The version of all resources of a kind together; `None` before the first state.
    pub fn version(&self, kind: Kind) -> Option<Version> {
        self.versions[kind.index()]
    }

    /// Whether both are the same state.
    pub fn same(&self, other: &Self) -> bool {
        self.versions == other.versions
    }
}

fn address_resource(address: &workload::Address) -> Resource {
    let role = match &address.r#type {
        Some(workload::address::Type::Workload(workload)) => Role::Workload {
            policies: workload.authorization_policies.clone(),
        },
        _ => Role::Service,
    };
    resource(address.encode_to_vec(), role)
}

fn policy_resource(policy: &security::Authorization) -> Resource {
    let named = policy.scope == security::Scope::WorkloadSelector as i32;
    resource(
        policy.encode_to_vec(),
        if named {
            Role::NamedPolicy
        } else {
            Role::WidePolicy
        },
    )
}

fn resource(bytes: Vec<u8>, role: Role) -> Resource {
    Resource {
        version: Version::of(&bytes),
        bytes,
        role,
    }
}

fn shared<'a>(resources: impl Iterator<Item = (&'a str, Resource)>, previous: &Set) -> Set {
    let keep = |(name, resource): (&str, Resource)| match previous.get_key_value(name) {
        Some((name, held)) if **held == resource => (Arc::clone(name), Arc::clone(held)),
        Some((name, _)) => (Arc::clone(name), Arc::new(resource)),
        None => (Arc::from(name), Arc::new(resource)),
    };
    resources.map(keep).collect()
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
    /// The message, if it is an Address.
    pub(crate) fn address(&self) -> Option<workload::Address> {
        let is_address = matches!(self.role, Role::Workload { .. } | Role::Service);
        is_address
            .then(|| workload::Address::decode(self.bytes.as_slice()).ok())
            .flatten()
    }
}
