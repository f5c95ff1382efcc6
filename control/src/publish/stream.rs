//! One subscriber: what it asked for, what it holds, what it must be sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    fmt,
    sync::Arc,
};

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource};

use super::{
    Kind, Part, Resource, Set, Snapshot, Version,
    order::{self, Between, Change, Told},
};
use crate::subject::Subject;

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
#[derive(Debug)]
pub struct Stream {
    subject: Subject,
    subscriptions: BTreeMap<Kind, Subscription>,
    /// The state that the subscriber was brought to last.
    last: Arc<Part>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    held: BTreeMap<Arc<str>, Held>,
    /// Asked for by name, and already answered that there is no such resource.
    absent: BTreeSet<String>,
    /// Nothing was asked for since the last push: it holds what it wants of the state that it was brought to.
    settled: bool,
    /// A response is due even if it is empty.
    owed: bool,
    /// By nonce, the oldest first. The last response of a push stands for the state that it brings the subscriber to.
    unanswered: VecDeque<(u64, Option<State>)>,
    progress: Progress,
}

/// A state of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    version: Version,
    /// Of the last snapshot that has it.
    number: u64,
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
    /// The number of the last snapshot of which this type was accepted.
    pub reached: Option<u64>,
    /// Responses of which something was not accepted.
    pub rejections: u64,
    /// What was not accepted last, in the subscriber's words.
    pub rejected: Option<String>,
}

/// A request that ends its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A type that its subject is not served: the type, and those that it is.
    UnknownType(String, &'static [Kind]),
    /// More names than a subscription may list.
    TooManyNames,
    /// A name that is too long to be one.
    LongName(usize),
}

impl Stream {
    /// A stream of this subject, which has asked for nothing yet.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            subscriptions: BTreeMap::new(),
            last: Arc::default(),
            nonces: 0,
        }
    }

    /// Whom it is for.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Takes in a request. What it makes due is sent by the next [`Stream::push`]. Returns what the subscriber did not
    /// accept, if this is a NACK.
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<String>, Malformed> {
        let served = Kind::served(&self.subject);
        let Some(kind) = Kind::of(&request.type_url).filter(|kind| served.contains(kind)) else {
            let asked = request.type_url.chars().take(256).collect();
            return Err(Malformed::UnknownType(asked, served));
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
        let held = self.subscriptions.get(&kind);
        let listed = held.map_or(0, |subscription| subscription.names.len());
        if listed + request.resource_names_subscribe.len() > MAX_NAMES {
            return Err(Malformed::TooManyNames);
        }
        match self.subscriptions.entry(kind) {
            Entry::Vacant(entry) => {
                entry.insert(Subscription::begin(request));
                Ok(None)
            }
            Entry::Occupied(entry) => {
                let subscription = entry.into_mut();
                let complaint = subscription.answer(&request);
                subscription.subscribe(request.resource_names_subscribe);
                subscription.unsubscribe(&request.resource_names_unsubscribe);
                Ok(complaint)
            }
        }
    }

    /// What brings the subscriber to this state, in the order in which it must be sent; nothing if it is there.
    pub fn push(&mut self, snapshot: &Snapshot) -> Vec<DeltaDiscoveryResponse> {
        let part = snapshot.part(&self.subject);
        let before = self.nonces;
        let mut responses = Vec::new();
        for (kind, change) in self.steps(&part) {
            self.respond(kind, change, &part, &mut responses);
        }
        for &kind in Kind::served(&self.subject) {
            if self.subscriptions.get(&kind).is_some_and(|it| it.owed) {
                self.respond(kind, Change::default(), &part, &mut responses);
            }
        }
        for (kind, subscription) in &mut self.subscriptions {
            let version = part.version(*kind);
            let number = snapshot.number();
            subscription.settled = true;
            subscription.brought_to(version.map(|version| State { version, number }), before);
        }
        self.last = part;
        responses
    }

    fn steps(&self, part: &Arc<Part>) -> Vec<(Kind, Change)> {
        let changed = part.since(&self.last);
        let change = |kind| {
            let Some(subscription) = self.subscriptions.get(&kind) else {
                return Change::default();
            };
            match &changed {
                Some(changed) if subscription.settled => {
                    subscription.change_of(part.set(kind), changed.get(&kind))
                }
                _ => subscription.change(part.set(kind)),
            }
        };
        let holds = |kind, name: &str| {
            let subscription = self.subscriptions.get(&kind);
            subscription.is_some_and(|it| it.held.contains_key(name))
        };
        match self.subject {
            Subject::Node(_) => {
                let between = Between {
                    old_addresses: self.last.set(Kind::Address),
                    held_policies: &|name| holds(Kind::Authorization, name),
                    new_policies: part.set(Kind::Authorization),
                };
                order::to_node(change(Kind::Address), change(Kind::Authorization), &between)
            }
            Subject::Waypoint(_) => {
                let told = Told {
                    tables: change(Kind::Table),
                    routes: change(Kind::Route),
                    policies: change(Kind::Policy),
                    backends: change(Kind::Backend),
                };
                order::to_waypoint(told, &|name| holds(Kind::Policy, name))
            }
        }
    }

    /// Whether it has asked for all that it is served.
    pub fn asked_for_all(&self) -> bool {
        self.subscriptions.len() == Kind::served(&self.subject).len()
    }

    /// Whether it has asked for anything.
    pub fn asked(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// The number of the last snapshot of which the subscriber has accepted all that it is served; `None` if it never has.
    pub fn reached(&self) -> Option<u64> {
        let served = Kind::served(&self.subject).iter();
        let reached = served.map(|kind| self.progress(*kind)?.reached);
        // `None` is less than any number.
        reached.min().flatten()
    }

    /// How far the subscriber has come in a type; `None` if it has not asked for it.
    pub fn progress(&self, kind: Kind) -> Option<&Progress> {
        Some(&self.subscriptions.get(&kind)?.progress)
    }

    /// One step as responses: all that is new before anything that is gone, so that a resource is never replaced by a
    /// moment without either.
    fn respond(
        &mut self,
        kind: Kind,
        change: Change,
        part: &Part,
        responses: &mut Vec<DeltaDiscoveryResponse>,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&kind) else {
            return;
        };
        if change.is_empty() && !subscription.owed {
            return;
        }
        subscription.owed = false;
        let version = part.version(kind);
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
        for mut response in chunks {
            self.nonces += 1;
            response.nonce = self.nonces.to_string();
            response.type_url = kind.type_url().to_owned();
            response.system_version_info = version
                .map(|version| version.to_string())
                .unwrap_or_default();
            if subscription.unanswered.len() == MAX_UNANSWERED {
                subscription.unanswered.pop_front();
            }
            subscription.unanswered.push_back((self.nonces, None));
            responses.push(response);
        }
        subscription.progress.sent = version;
    }
}

impl Subscription {
    /// The first request of a type: what is wanted, and what is held from an earlier stream.
    fn begin(request: DeltaDiscoveryRequest) -> Self {
        let mut new = Self {
            owed: true,
            wildcard: request.resource_names_subscribe.is_empty(),
            ..Self::default()
        };
        new.subscribe(request.resource_names_subscribe);
        new.unsubscribe(&request.resource_names_unsubscribe);
        let claims = request.initial_resource_versions.into_iter();
        let claims = claims.filter(|(name, _)| new.wildcard || new.names.contains(name));
        new.held = claims
            .map(|(name, version)| (Arc::from(name), Version::parse(&version)))
            .collect();
        new
    }

    /// Notes to which state a push has brought the subscriber. Its responses have later nonces than `before`; if there
    /// are none, what was sent last is of this state too.
    fn brought_to(&mut self, state: Option<State>, before: u64) {
        let version = state.map(|state| state.version);
        match self.unanswered.back_mut() {
            Some((nonce, last)) if *nonce > before || last.map(|it| it.version) == version => {
                *last = state;
            }
            None if self.progress.accepted == version => {
                self.progress.reached = state.map(|state| state.number);
            }
            _ => {}
        }
    }

    fn subscribe(&mut self, names: Vec<String>) {
        for name in names {
            self.owed = true;
            self.settled = false;
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
            self.settled = false;
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
        let (_, state) = self.unanswered.drain(..=at).next_back()?;
        match &request.error_detail {
            None => {
                if let Some(State { version, number }) = state {
                    self.progress.accepted = Some(version);
                    self.progress.reached = Some(number);
                }
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

    /// The same as [`change`](Self::change) for who is settled, where nothing but these has changed. What it costs does not
    /// grow with the mesh.
    fn change_of(&self, set: &Set, names: Option<&BTreeSet<&Arc<str>>>) -> Change {
        let mut change = Change::default();
        for &name in names.into_iter().flatten() {
            let by_name = self.names.contains(&**name);
            let held = self.held.get(name);
            match set.get(name) {
                Some(resource) => {
                    let wanted = self.wildcard || by_name;
                    if wanted && held != Some(&Some(resource.version)) {
                        let upsert = (Arc::clone(name), Arc::clone(resource));
                        change.upserts.push(upsert);
                    }
                }
                None if held.is_some() => change.removed.push(Arc::clone(name)),
                None => {}
            }
        }
        change
    }

    /// The difference between what the subscriber holds and what it is to hold.
    fn change(&self, set: &Set) -> Change {
        let mut change = Change::default();
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
            Self::UnknownType(type_url, served) => {
                let served: Vec<_> = served.iter().map(|kind| kind.type_url()).collect();
                let served = served.join(" and ");
                write!(f, "{type_url:?} is not served to this caller; {served} are")
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
    /// The next push compares all that there is.
    pub(super) fn unsettle(&mut self) {
        let all = self.subscriptions.values_mut();
        all.for_each(|it| it.settled = false);
    }

    /// How many responses of a kind wait for an answer.
    pub(super) fn unanswered(&self, kind: Kind) -> usize {
        self.subscriptions[&kind].unanswered.len()
    }

    /// Whether a response of this kind and nonce waits for an answer.
    pub(super) fn awaits(&self, kind: Kind, nonce: u64) -> bool {
        let unanswered = &self.subscriptions[&kind].unanswered;
        unanswered.iter().any(|(sent, _)| *sent == nonce)
    }

    /// Responses sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.nonces
    }
}
