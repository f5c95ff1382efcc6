//! ZDS, version 1: tells node proxies which pods are theirs (`istio.workload.zds`). Decisions only; [`serve`] moves packets.
//!
//! A proxy connects and greets. It is then told of every pod, and, once that is known, that these are all; later of each that comes or
//! goes.
//! It answers each message before it gets the next, within [`PATIENCE`], or the connection is closed. While two proxies
//! are connected, as during an upgrade, the newer one gets what comes and both are told what goes.
//!
//! ```text
//! Greeting --hello V1--> Serving { told: each pod, then the end of the snapshot, then changes }
//!    any --wrong or late packet--> closed
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use prost::Message;
use proto::workload::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, Version, WorkloadInfo, WorkloadRequest,
    WorkloadResponse, ZdsHello, workload_request, workload_response,
};

pub mod serve;

/// How long a proxy may take to greet, and for each answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a refusal a pod is offered again.
pub const RETRY: Duration = Duration::from_secs(5);

/// A connection, by order of arrival.
pub type Id = u64;

/// What the agent says to proxies. `H` is a handle on a pod's namespace.
#[derive(Debug)]
pub struct Zds<H> {
    pods: BTreeMap<String, Pod<H>>,
    connections: BTreeMap<Id, Connection>,
    /// Pods that go, with the connections that have not answered yet.
    leaving: BTreeMap<String, BTreeSet<Id>>,
    /// These are all pods. Until then no proxy is told so: it would let the others go.
    complete: bool,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Do<H> {
    /// Send a message, with a namespace's descriptor if there is a handle.
    Send(Id, WorkloadRequest, Option<H>),
    /// Close a connection, for a reason to be logged.
    Close(Id, String),
    /// A proxy has taken the pod of this uid.
    Added(String),
    /// A proxy could not take the pod of this uid, and why. It is offered again by itself.
    Refused(String, String),
    /// No proxy has the pod of this uid any more.
    Removed(String),
}

#[derive(Debug)]
struct Pod<H> {
    info: WorkloadInfo,
    netns: Option<H>,
    offer_again: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    serving: bool,
    /// What it has not been told yet.
    queue: VecDeque<Item>,
    /// What it has not answered yet.
    waiting: Option<Item>,
    /// By when it must have greeted or answered.
    deadline: Option<Instant>,
    /// The pods that it was given.
    given: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    /// Add if the namespace is at hand, else keep.
    Pod(String),
    Delete(String),
    SnapshotSent,
}

impl<H: Clone> Default for Zds<H> {
    fn default() -> Self {
        Self {
            pods: BTreeMap::new(),
            connections: BTreeMap::new(),
            leaving: BTreeMap::new(),
            complete: false,
        }
    }
}

impl<H: Clone> Zds<H> {
    /// A proxy has connected. Ids grow.
    pub fn connected(&mut self, id: Id, now: Instant) {
        let deadline = Some(now + PATIENCE);
        let fresh = Connection {
            serving: false,
            queue: VecDeque::new(),
            waiting: None,
            deadline,
            given: BTreeSet::new(),
        };
        self.connections.insert(id, fresh);
    }

    /// A proxy has sent a packet.
    pub fn received(&mut self, id: Id, packet: &[u8], now: Instant) -> Vec<Do<H>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Vec::new();
        };
        let outcome = if connection.serving {
            self.answered(id, packet, now)
        } else {
            self.greeted(id, packet)
        };
        match outcome {
            Ok(mut list) => {
                list.extend(self.advance(now));
                list
            }
            Err(why) => self.close(id, why, now),
        }
    }

    /// A connection has ended.
    pub fn closed(&mut self, id: Id, now: Instant) -> Vec<Do<H>> {
        self.connections.remove(&id);
        let mut list = Vec::new();
        self.leaving.retain(|uid, missing| {
            missing.remove(&id);
            if missing.is_empty() {
                list.push(Do::Removed(uid.clone()));
            }
            !missing.is_empty()
        });
        // Whoever is now the newest may lack pods that only its successor was given.
        if let Some((_, newest)) = self
            .connections
            .iter_mut()
            .rfind(|(_, connection)| connection.serving)
        {
            for uid in self.pods.keys() {
                if !newest.given.contains(uid) && !newest.queue.contains(&Item::Pod(uid.clone())) {
                    newest.queue.push_back(Item::Pod(uid.clone()));
                }
            }
        }
        list.extend(self.advance(now));
        list
    }

    /// A pod is ready for a proxy. Without its namespace at hand, a proxy that knows it is asked to keep it.
    pub fn add(
        &mut self,
        uid: &str,
        info: WorkloadInfo,
        netns: Option<H>,
        now: Instant,
    ) -> Vec<Do<H>> {
        let offered = netns.is_some();
        self.pods.insert(
            uid.to_owned(),
            Pod {
                info,
                netns,
                offer_again: None,
            },
        );
        if offered {
            self.offer(uid);
        }
        self.advance(now)
    }

    /// All pods that proxies may have from before are known now.
    pub fn complete(&mut self, now: Instant) -> Vec<Do<H>> {
        if std::mem::replace(&mut self.complete, true) {
            return Vec::new();
        }
        for connection in self.connections.values_mut().filter(|it| it.serving) {
            connection.queue.push_back(Item::SnapshotSent);
        }
        self.advance(now)
    }

    /// Whether a pod of this uid has been added and not removed.
    pub fn knows(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// A pod goes. Ends with [`Do::Removed`] when every proxy has answered or gone.
    pub fn remove(&mut self, uid: &str, now: Instant) -> Vec<Do<H>> {
        self.pods.remove(uid);
        let mut missing = BTreeSet::new();
        for (id, connection) in self
            .connections
            .iter_mut()
            .filter(|(_, connection)| connection.serving)
        {
            connection
                .queue
                .retain(|item| *item != Item::Pod(uid.to_owned()));
            connection.given.remove(uid);
            connection.queue.push_back(Item::Delete(uid.to_owned()));
            missing.insert(*id);
        }
        if missing.is_empty() {
            return vec![Do::Removed(uid.to_owned())];
        }
        self.leaving.insert(uid.to_owned(), missing);
        self.advance(now)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Do<H>> {
        let mut list = Vec::new();
        let is_late =
            |connection: &Connection| connection.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, found)| is_late(found))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            list.extend(self.close(id, format!("it did not answer within {PATIENCE:?}"), now));
        }
        let due = |pod: &Pod<H>| pod.offer_again.is_some_and(|at| at <= now);
        let due: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, pod)| due(pod))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            self.offer(&uid);
        }
        list.extend(self.advance(now));
        list
    }

    fn greeted(&mut self, id: Id, packet: &[u8]) -> Result<Vec<Do<H>>, String> {
        let hello = ZdsHello::decode(packet)
            .map_err(|error| format!("its greeting is malformed: {error}"))?;
        if hello.version != i32::from(Version::V1) {
            return Err(format!("it speaks version {} and not 1", hello.version));
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.serving = true;
            connection.deadline = None;
            connection
                .queue
                .extend(self.pods.keys().cloned().map(Item::Pod));
            if self.complete {
                connection.queue.push_back(Item::SnapshotSent);
            }
        }
        Ok(Vec::new())
    }

    fn answered(&mut self, id: Id, packet: &[u8], now: Instant) -> Result<Vec<Do<H>>, String> {
        let response = WorkloadResponse::decode(packet)
            .map_err(|error| format!("its answer is malformed: {error}"))?;
        let Some(workload_response::Payload::Ack(ack)) = response.payload else {
            return Err("its answer is not an acknowledgement".into());
        };
        let waiting = self.connections.get_mut(&id).and_then(|connection| {
            connection.deadline = None;
            connection.waiting.take()
        });
        Ok(match waiting {
            None => return Err("it answered without being asked".into()),
            Some(Item::SnapshotSent) => Vec::new(),
            Some(Item::Pod(uid)) => self.taken(uid, ack.error, now),
            Some(Item::Delete(uid)) => self.dropped(id, uid),
        })
    }

    fn taken(&mut self, uid: String, error: String, now: Instant) -> Vec<Do<H>> {
        match self.pods.get_mut(&uid) {
            // It has gone meanwhile, or was only to be kept.
            None | Some(Pod { netns: None, .. }) => Vec::new(),
            Some(_) if error.is_empty() => vec![Do::Added(uid)],
            Some(pod) => {
                pod.offer_again = Some(now + RETRY);
                vec![Do::Refused(uid, error)]
            }
        }
    }

    fn dropped(&mut self, id: Id, uid: String) -> Vec<Do<H>> {
        let Some(missing) = self.leaving.get_mut(&uid) else {
            return Vec::new();
        };
        missing.remove(&id);
        if !missing.is_empty() {
            return Vec::new();
        }
        self.leaving.remove(&uid);
        vec![Do::Removed(uid)]
    }

    /// Puts a pod into the newest proxy's queue.
    fn offer(&mut self, uid: &str) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.offer_again = None;
        }
        let newest = self
            .connections
            .values_mut()
            .rfind(|connection| connection.serving);
        if let Some(newest) =
            newest.filter(|newest| !newest.queue.contains(&Item::Pod(uid.to_owned())))
        {
            newest.queue.push_back(Item::Pod(uid.to_owned()));
        }
    }

    fn close(&mut self, id: Id, why: String, now: Instant) -> Vec<Do<H>> {
        let mut list = vec![Do::Close(id, why)];
        list.extend(self.closed(id, now));
        list
    }

    /// Sends to each proxy that waits for nothing what comes next.
    fn advance(&mut self, now: Instant) -> Vec<Do<H>> {
        let mut list = Vec::new();
        for (id, connection) in self
            .connections
            .iter_mut()
            .filter(|(_, connection)| connection.serving)
        {
            while connection.waiting.is_none() {
                let Some(item) = connection.queue.pop_front() else {
                    break;
                };
                let Some((payload, netns)) = message(&item, &self.pods) else {
                    continue;
                };
                if let Item::Pod(uid) = &item {
                    connection.given.insert(uid.clone());
                }
                connection.waiting = Some(item);
                connection.deadline = Some(now + PATIENCE);
                list.push(Do::Send(
                    *id,
                    WorkloadRequest {
                        payload: Some(payload),
                    },
                    netns,
                ));
            }
        }
        list
    }
}

/// The message for an item; none for a pod that has gone.
fn message<H: Clone>(
    item: &Item,
    pods: &BTreeMap<String, Pod<H>>,
) -> Option<(workload_request::Payload, Option<H>)> {
    use workload_request::Payload;
    Some(match item {
        Item::SnapshotSent => (Payload::SnapshotSent(SnapshotSent {}), None),
        Item::Delete(uid) => (Payload::Del(DelWorkload { uid: uid.clone() }), None),
        Item::Pod(uid) => {
            let (uid, pod) = (uid.clone(), pods.get(uid)?);
            match &pod.netns {
                Some(netns) => {
                    let workload_info = Some(pod.info.clone());
                    (
                        Payload::Add(AddWorkload { uid, workload_info }),
                        Some(netns.clone()),
                    )
                }
                None => (Payload::Keep(KeepWorkload { uid }), None),
            }
        }
    })
}

#[cfg(test)]
mod tests;
