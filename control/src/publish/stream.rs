//! One subscriber: what it asked for, what it holds, what it must be sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource};

use super::{
    Kind, Resource, Snapshot, Version,
    order::{self, Between, Change},
};

/// Bytes of resources in one response: well below the 4 MiB at which gRPC clients refuse a message by default.
const RESPONSE: usize = 2 * 1024 * 1024;
/// Names that one subscription may list.
const MAX_NAMES: usize = 65_536;
/// Bytes of one name.
const MAX_NAME: usize = 1024;
/// Responses whose answer we still recognize.
const MAX_UNANSWERED: usize = 256;
/// Characters kept of what a subscriber says it cannot accept.
const MAX_COMPLAINT: usize = 1024;

/// One subscriber.
#[derive(Debug, Default)]
pub struct Stream {
    subscriptions: [Subscription; 2],
    /// The state that the subscriber was brought to last.
    last: Arc<Snapshot>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    asked: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    held: BTreeMap<Arc<str>, Held>,
    /// Asked for by name, and already answered that there is no such resource.
    absent: BTreeSet<String>,
    /// A response is due even if it is empty.
    owed: bool,
    unanswered: VecDeque<(u64, Option<Version>)>,
    progress: Progress,
}

/// A version that the subscriber holds: one of ours, or something that we never sent.
type Held = Option<Version>;

/// How far a subscriber has come in one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The version of the whole that was sent last.
    pub sent: Option<Version>,
    /// The version of the whole that was accepted last.
    pub accepted: Option<Version>,
    /// Responses of which something was not accepted.
    pub rejections: u64,
    /// What was not accepted last, in the subscriber's words.
    pub rejected: Option<String>,
}

/// A request that ends its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A type that is not served here.
    UnknownType(String),
    /// More names than a subscription may list.
    TooManyNames,
    /// A name that is too long to be one.
    LongName(usize),
}

impl Stream {
    /// Takes in a request. What it makes due is sent by the next [`Stream::push`]. Returns what the subscriber did not
    /// accept, if this is a NACK.
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<String>, Malformed> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Err(Malformed::UnknownType(
                request.type_url.chars().take(256).collect(),
            ));
        };
        let lists = [
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
        ];
        if let Some(name) = lists
            .into_iter()
            .flatten()
            .find(|name| name.len() > MAX_NAME)
        {
            return Err(Malformed::LongName(name.len()));
        }
        let subscription = &mut self.subscriptions[kind.index()];
        if subscription.names.len() + request.resource_names_subscribe.len() > MAX_NAMES {
            return Err(Malformed::TooManyNames);
        }
        let complaint = subscription.answer(&request);
        if subscription.asked {
            subscription.subscribe(request.resource_names_subscribe);
            subscription.unsubscribe(&request.resource_names_unsubscribe);
        } else {
            subscription.begin(request);
        }
        Ok(complaint)
    }

    /// What brings the subscriber to this state, in the order in which it must be sent; nothing if it is there.
    pub fn push(&mut self, snapshot: &Arc<Snapshot>) -> Vec<DeltaDiscoveryResponse> {
        let [addresses, policies] =
            Kind::ALL.map(|kind| self.subscriptions[kind.index()].change(snapshot, kind));
        let held = &self.subscriptions[Kind::Authorization.index()].held;
        let between = Between {
            old_addresses: self.last.set(Kind::Address),
            held_policies: &|name| held.contains_key(name),
            new_policies: snapshot.set(Kind::Authorization),
        };
        let steps = order::steps(addresses, policies, &between);
        let mut responses = Vec::new();
        for (kind, change) in steps {
            self.respond(kind, change, snapshot, &mut responses);
        }
        for kind in Kind::ALL {
            if self.subscriptions[kind.index()].owed {
                self.respond(kind, Change::default(), snapshot, &mut responses);
            }
        }
        self.last = Arc::clone(snapshot);
        responses
    }

    /// How many types it has asked for.
    pub fn asked(&self) -> usize {
        self.subscriptions
            .iter()
            .filter(|subscription| subscription.asked)
            .count()
    }

    /// How far the subscriber has come in a type; `None` if it has not asked for it.
    pub fn progress(&self, kind: Kind) -> Option<&Progress> {
        let subscription = &self.subscriptions[kind.index()];
        subscription.asked.then_some(&subscription.progress)
    }

    /// One step as responses: all that is new before anything that is gone, so that a resource is never replaced by a
    /// moment without either.
    fn respond(
        &mut self,
        kind: Kind,
        change: Change,
        snapshot: &Snapshot,
        responses: &mut Vec<DeltaDiscoveryResponse>,
    ) {
        let subscription = &mut self.subscriptions[kind.index()];
        if change.is_empty() && !subscription.owed {
            return;
        }
        subscription.owed = false;
        let version = snapshot.version(kind);
        let mut open = Chunk::default();
        let mut chunks = Vec::new();
        for (name, resource) in change.upserts {
            open.make_room(name.len() + resource.bytes.len(), &mut chunks);
            open.response.resources.push(wire(kind, &name, &resource));
            subscription.absent.remove(&*name);
            subscription.held.insert(name, Some(resource.version));
        }
        for name in change.removed {
            open.make_room(name.len(), &mut chunks);
            subscription.held.remove(&name);
            if subscription.names.contains(&*name) {
                subscription.absent.insert(name.to_string());
            }
            open.response.removed_resources.push(name.to_string());
        }
        chunks.push(open.response);
        let last = chunks.len() - 1;
        for (index, mut response) in chunks.into_iter().enumerate() {
            self.nonces += 1;
            response.nonce = self.nonces.to_string();
            response.type_url = kind.type_url().to_owned();
            response.system_version_info = version
                .map(|version| version.to_string())
                .unwrap_or_default();
            if subscription.unanswered.len() == MAX_UNANSWERED {
                subscription.unanswered.pop_front();
            }
            subscription
                .unanswered
                .push_back((self.nonces, version.filter(|_| index == last)));
            responses.push(response);
        }
        subscription.progress.sent = version;
    }
}

impl Subscription {
    /// The first request of a type: what is wanted, and what is held from an earlier stream.
    fn begin(&mut self, request: DeltaDiscoveryRequest) {
        self.asked = true;
        self.owed = true;
        self.wildcard = request.resource_names_subscribe.is_empty();
        self.subscribe(request.resource_names_subscribe);
        self.unsubscribe(&request.resource_names_unsubscribe);
        let wanted = |name: &String| self.wildcard || self.names.contains(name);
        let claims = request
            .initial_resource_versions
            .into_iter()
            .filter(|(name, _)| wanted(name));
        self.held = claims
            .map(|(name, version)| (Arc::from(name), Version::parse(&version)))
            .collect();
    }

    fn subscribe(&mut self, names: Vec<String>) {
        for name in names {
            self.owed = true;
            if name == "*" {
                self.wildcard = true;
            } else {
                // Asking again is how a subscriber says that it lost the resource.
                self.held.remove(name.as_str());
                self.absent.remove(&name);
                self.names.insert(name);
            }
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == "*" {
                self.wildcard = false;
                self.held.retain(|name, _| self.names.contains(&**name));
            } else if self.names.remove(name) && !self.wildcard {
                self.held.remove(name.as_str());
                self.absent.remove(name);
            }
        }
    }

    /// Takes in an ACK or a NACK. An answer to a response that was never sent, or long ago, is none.
    fn answer(&mut self, request: &DeltaDiscoveryRequest) -> Option<String> {
        let nonce: u64 = request.response_nonce.parse().ok()?;
        let at = self
            .unanswered
            .iter()
            .position(|(sent, _)| *sent == nonce)?;
        let (_, version) = self.unanswered.drain(..=at).next_back()?;
        match &request.error_detail {
            None => {
                self.progress.accepted = version.or(self.progress.accepted);
                None
            }
            Some(error) => {
                let printable = |c: char| if c.is_control() { ' ' } else { c };
                let complaint: String = error
                    .message
                    .chars()
                    .take(MAX_COMPLAINT)
                    .map(printable)
                    .collect();
                self.progress.rejections += 1;
                self.progress.rejected = Some(complaint.clone());
                Some(complaint)
            }
        }
    }

    /// The difference between what the subscriber holds and what it is to hold.
    fn change(&self, snapshot: &Snapshot, kind: Kind) -> Change {
        let mut change = Change::default();
        if !self.asked {
            return change;
        }
        let set = snapshot.set(kind);
        let mut compare = |name: &Arc<str>, resource: &Arc<Resource>| {
            if self.held.get(name) != Some(&Some(resource.version)) {
                change
                    .upserts
                    .push((Arc::clone(name), Arc::clone(resource)));
            }
        };
        if self.wildcard {
            set.iter()
                .for_each(|(name, resource)| compare(name, resource));
        } else {
            self.names
                .iter()
                .filter_map(|name| set.get_key_value(name.as_str()))
                .for_each(|(name, resource)| compare(name, resource));
        }
        let gone = self
            .held
            .keys()
            .filter(|name| !set.contains_key(*name))
            .cloned();
        change.removed.extend(gone);
        let is_news = |name: &&String| {
            !set.contains_key(name.as_str())
                && !self.held.contains_key(name.as_str())
                && !self.absent.contains(*name)
        };
        change.removed.extend(
            self.names
                .iter()
                .filter(is_news)
                .map(|name| Arc::from(name.as_str())),
        );
        change
    }
}

#[derive(Default)]
struct Chunk {
    response: DeltaDiscoveryResponse,
    size: usize,
}

impl Chunk {
    /// Starts a new response if this one would grow too large.
    fn make_room(&mut self, bytes: usize, full: &mut Vec<DeltaDiscoveryResponse>) {
        // Type URL, version and framing of one entry.
        const ENTRY: usize = 128;
        if self.size > 0 && self.size + bytes + ENTRY > RESPONSE {
            full.push(std::mem::take(&mut self.response));
            self.size = 0;
        }
        self.size += bytes + ENTRY;
    }
}

fn wire(kind: Kind, name: &str, resource: &Resource) -> WireResource {
    WireResource {
        name: name.to_owned(),
        version: resource.version.to_string(),
        resource: Some(prost_types::Any {
            type_url: kind.type_url().to_owned(),
            value: resource.bytes.clone(),
        }),
        aliases: Vec::new(),
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType(type_url) => {
                write!(
                    f,
                    "{type_url:?} is not served here; {} are",
                    Kind::ALL.map(Kind::type_url).join(" and ")
                )
            }
            Self::TooManyNames => write!(
                f,
                "more than {MAX_NAMES} names in one subscription; subscribe to * instead"
            ),
            Self::LongName(length) => write!(f, "a name of {length} bytes, more than {MAX_NAME}"),
        }
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
impl Stream {
    /// How many responses of a kind wait for an answer.
    pub(super) fn unanswered(&self, kind: Kind) -> usize {
        self.subscriptions[kind.index()].unanswered.len()
    }

    /// Whether a response of this kind and nonce waits for an answer.
    pub(super) fn awaits(&self, kind: Kind, nonce: u64) -> bool {
        self.subscriptions[kind.index()]
            .unanswered
            .iter()
            .any(|(sent, _)| *sent == nonce)
    }

    /// Responses sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.nonces
    }
}
