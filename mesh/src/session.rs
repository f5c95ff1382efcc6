//! The client's side of a delta discovery stream: what to ask for, what to answer, what is held.
//!
//! It moves no bytes and keeps no resource, only names and versions: the caller applies each [`Delta`] and says what it
//! rejects. A session outlives its streams, so that after a reconnect only what changed is sent
//! (envoy.service.discovery.v3, `DeltaDiscoveryRequest`).

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    rpc::Status,
};

/// gRPC's INVALID_ARGUMENT, for what we do not accept.
const INVALID_ARGUMENT: i32 = 3;
/// A NACK's text is cut here: a thousand rejected resources need no megabyte.
const LONGEST_REASON: usize = 8 * 1024;
/// The version of a resource that was rejected. No server has it, so the server sends the resource again after a
/// reconnect; and because the name is held, it also says when the resource is gone.
const REJECTED: &str = "rejected";

/// All types that one stream carries, each subscribed to as a whole (wildcard).
#[derive(Clone, Debug)]
pub struct Session {
    types: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    type_url: &'static str,
    versions: BTreeMap<String, String>,
    answered: bool,
}

/// What one response changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The type of every resource in it.
    pub type_url: &'static str,
    /// New or changed, each name once.
    pub resources: Vec<Item>,
    /// Gone. A name may be unknown.
    pub removed: Vec<String>,
    /// Sent in a form that cannot be read. The session rejects these itself; they are listed because an unreadable
    /// policy is not an absent one.
    pub malformed: Vec<Rejected>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name, unique among its type.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
    /// The encoded message.
    pub body: Vec<u8>,
}

/// A resource that is not accepted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name.
    pub name: String,
    /// In words for whoever wrote it.
    pub reason: String,
}

/// A response that breaks the protocol. The stream is of no use after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Of a type that was not asked for.
    UnknownType(String),
    /// Without a nonce it cannot be answered.
    NoNonce,
}

impl Session {
    /// A session that has seen nothing yet. Requests go out in the order of `types`.
    pub fn new(types: &[&'static str]) -> Self {
        let held = |&type_url| Held {
            type_url,
            versions: BTreeMap::new(),
            answered: false,
        };
        Self {
            types: types.iter().map(held).collect(),
        }
    }

    /// The first requests of a stream: who asks, nothing subscribed by name, and what is held from earlier streams.
    pub fn start(&self, node: &Node) -> Vec<DeltaDiscoveryRequest> {
        let first = |held: &Held| DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: held.type_url.to_owned(),
            initial_resource_versions: held.versions.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.types.iter().map(first).collect()
    }

    /// Has `apply` carry out what came, and answers: an ACK, or a NACK that names what was rejected. What is not
    /// rejected counts as held, also in a response of which a part is rejected.
    pub fn on_response(
        &mut self,
        response: DeltaDiscoveryResponse,
        apply: impl FnOnce(Delta) -> Vec<Rejected>,
    ) -> Result<DeltaDiscoveryRequest, Violation> {
        let DeltaDiscoveryResponse {
            type_url,
            nonce,
            resources,
            removed_resources,
            ..
        } = response;
        let Some(held) = self.types.iter_mut().find(|held| held.type_url == type_url) else {
            return Err(Violation::UnknownType(type_url));
        };
        if nonce.is_empty() {
            return Err(Violation::NoNonce);
        }
        let delta = sort(held.type_url, resources, removed_resources);
        for name in &delta.removed {
            held.versions.remove(name);
        }
        for Item { name, version, .. } in &delta.resources {
            held.versions.insert(name.clone(), version.clone());
        }
        let mut rejected = delta.malformed.clone();
        rejected.extend(apply(delta));
        for Rejected { name, .. } in &rejected {
            held.versions.insert(name.clone(), REJECTED.to_owned());
        }
        held.answered = true;
        Ok(DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail: (!rejected.is_empty()).then(|| refusal(&rejected)),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Whether every type was answered once: the whole state is there.
    pub fn synced(&self) -> bool {
        self.types.iter().all(|held| held.answered)
    }

    /// How many resources of a type are held.
    pub fn held(&self, type_url: &str) -> usize {
        self.types
            .iter()
            .find(|held| held.type_url == type_url)
            .map_or(0, |held| held.versions.len())
    }
}

/// Tells resources that can be read from those that cannot. Of a name that comes twice, or both changed and removed,
/// nobody knows which is meant.
fn sort(type_url: &'static str, resources: Vec<Resource>, removed: Vec<String>) -> Delta {
    let mut gone = HashSet::new();
    let mut removed: Vec<_> = removed
        .into_iter()
        .filter(|name| gone.insert(name.clone()))
        .collect();
    let mut seen = HashSet::new();
    let twice: HashSet<_> = resources
        .iter()
        .filter(|r| !seen.insert(&r.name) || gone.contains(&r.name))
        .map(|r| r.name.clone())
        .collect();
    let mut delta = Delta {
        type_url,
        resources: Vec::new(),
        removed: Vec::new(),
        malformed: Vec::new(),
    };
    for name in &twice {
        delta.malformed.push(Rejected {
            name: name.clone(),
            reason: "occurs more than once in the response".into(),
        });
    }
    delta.malformed.sort_by(|a, b| a.name.cmp(&b.name));
    for Resource {
        name,
        version,
        resource,
        ..
    } in resources
    {
        if twice.contains(&name) {
            continue;
        }
        let reason = match resource {
            _ if name.is_empty() => "has no name".to_owned(),
            None => "has no content".to_owned(),
            Some(any) if any.type_url != type_url => format!("is of type {:?}", any.type_url),
            Some(any) => {
                delta.resources.push(Item {
                    name,
                    version,
                    body: any.value,
                });
                continue;
            }
        };
        delta.malformed.push(Rejected { name, reason });
    }
    removed.retain(|name| !twice.contains(name));
    Delta { removed, ..delta }
}

fn refusal(rejected: &[Rejected]) -> Status {
    let mut message = String::new();
    for (count, Rejected { name, reason }) in rejected.iter().enumerate() {
        if message.len() + name.len() + reason.len() > LONGEST_REASON {
            message.push_str(&format!("; and {} more", rejected.len() - count));
            break;
        }
        let separator = if count > 0 { "; " } else { "" };
        message.push_str(&format!("{separator}{name}: {reason}"));
    }
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType(url) => write!(
                f,
                "the control plane sent resources of type {url:?}, not asked for"
            ),
            Self::NoNonce => f.write_str("the control plane sent a response without a nonce"),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests;
