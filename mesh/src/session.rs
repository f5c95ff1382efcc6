//! The client's side of a delta discovery stream: what to ask for, what to answer, what is held.
//!
//! It moves no bytes and keeps no resource, only names and versions: the caller applies each [`Delta`] and says what it
//! rejects. A session outlives its streams, so that after a reconnect only what changed is sent
//! (envoy.service.discovery.v3, `DeltaDiscoveryRequest`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use proto::{
    core::Node,
    discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    rpc::Status,
};

use crate::{
    delta::{Delta, Resource},
    parse::Rejected,
};

/// gRPC's INVALID_ARGUMENT, for what we do not accept.
const INVALID_ARGUMENT: i32 = 3;
/// A NACK's text is cut here: a thousand rejected resources need no megabyte.
const LONGEST_REASON: usize = 8 * 1024;
/// The version of a resource that was rejected. No server has it, so the server sends the resource again after a
/// reconnect; and because the name is held, it also says when the resource is gone.
const REJECTED: &str = "rejected";
/// Stands for a body that was missing, of another type or ambiguous: no message begins with it (tag 0), so whoever
/// applies it treats the resource as one that cannot be read, and not as one that is absent.
const UNREADABLE: [u8; 1] = [0];

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
        let (delta, mut rejected) = sort(type_url, resources, removed_resources);
        let type_url = delta.type_url.clone();
        for name in &delta.removed {
            held.versions.remove(name);
        }
        for Resource { name, version, .. } in &delta.resources {
            held.versions.insert(name.clone(), version.clone());
        }
        let unreadable: HashSet<_> = rejected.iter().map(|r| r.name.clone()).collect();
        rejected.extend(
            apply(delta)
                .into_iter()
                .filter(|r| !unreadable.contains(&r.name)),
        );
        for Rejected { name, .. } in &rejected {
            if let Some(version) = held.versions.get_mut(name) {
                *version = REJECTED.to_owned();
            }
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

/// The change, and what in it cannot be read. Of a name that comes twice, or both changed and removed, nobody knows
/// which is meant.
fn sort(
    type_url: String,
    resources: Vec<discovery::Resource>,
    removed: Vec<String>,
) -> (Delta, Vec<Rejected>) {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut gone = HashSet::new();
    for name in removed
        .iter()
        .filter(|&name| gone.insert(name))
        .chain(resources.iter().map(|r| &r.name))
    {
        *times.entry(name.clone()).or_default() += 1;
    }
    let mut rejected: Vec<Rejected> = Vec::new();
    let mut seen = HashSet::new();
    let mut delta = Delta {
        type_url,
        ..Delta::default()
    };
    for discovery::Resource {
        name,
        version,
        resource,
        ..
    } in resources
    {
        if !seen.insert(name.clone()) {
            continue;
        }
        let reason = match resource {
            _ if name.is_empty() => "has no name".to_owned(),
            _ if times[&name] > 1 => "occurs more than once in the response".to_owned(),
            None => "has no content".to_owned(),
            Some(any) if any.type_url != delta.type_url => format!("is of type {:?}", any.type_url),
            Some(any) => {
                delta.resources.push(Resource {
                    name,
                    version,
                    bytes: any.value,
                });
                continue;
            }
        };
        if !name.is_empty() {
            delta.resources.push(Resource {
                name: name.clone(),
                version,
                bytes: UNREADABLE.to_vec(),
            });
        }
        rejected.push(Rejected { name, reason });
    }
    let mut gone = HashSet::new();
    delta.removed = removed;
    delta
        .removed
        .retain(|name| !seen.contains(name) && gone.insert(name.clone()));
    (delta, rejected)
}

fn refusal(rejected: &[Rejected]) -> Status {
    let mut message = String::new();
    for (count, one) in rejected.iter().enumerate() {
        let one = one.to_string();
        if message.len() + one.len() > LONGEST_REASON {
            message.push_str(&format!("; and {} more", rejected.len() - count));
            break;
        }
        let separator = if count > 0 { "; " } else { "" };
        message.push_str(&format!("{separator}{one}"));
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
