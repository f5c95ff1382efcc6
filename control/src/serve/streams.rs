//! The subscribers that are connected, and how far each has come: for the operator, and for what must wait until
//! everybody who is connected has come so far.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::{
    phase::{Reached, Report},
    publish::{Kind, Progress, Stream},
    subject::Subject,
};

/// Subscriptions that one node may have open; a proxy needs one, and one more while it is replaced.
const PER_NODE: usize = 16;
/// Subscriptions of one gateway's waypoints, however many there are of it.
const PER_WAYPOINT: usize = 256;

/// All connected subscribers.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<watch::Sender<Subscribers>>);

/// Who is connected, here and elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribers {
    /// By number, the oldest first.
    own: BTreeMap<u64, Subscriber>,
    /// What each other replica tells of those who are connected to it.
    others: Vec<Option<Report>>,
}

impl Subscribers {
    /// Those who are connected here, the oldest first.
    pub fn list(&self) -> impl Iterator<Item = &Subscriber> {
        self.own.values()
    }
}

/// One connected subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Whose token it came with.
    pub subject: Subject,
    /// What it calls itself; not verified.
    pub id: String,
    /// Its progress in each kind that it asked for.
    pub progress: Vec<(Kind, Progress)>,
    /// The number of the last snapshot of which it accepted all.
    pub reached: Option<u64>,
}

/// A subscriber's entry, which ends with this value.
#[derive(Debug)]
pub struct Entry {
    streams: Streams,
    number: u64,
}

impl Streams {
    /// Lists a new subscriber; `None` if its subject has too many.
    pub fn enter(&self, subject: &Subject) -> Option<Entry> {
        let most = match subject {
            Subject::Node(_) => PER_NODE,
            Subject::Waypoint(_) => PER_WAYPOINT,
        };
        let mut entered = None;
        self.0.send_if_modified(|all| {
            let own = &mut all.own;
            let open = own.values().filter(|it| it.subject == *subject).count();
            if open < most {
                let number = own.last_key_value().map_or(0, |(number, _)| number + 1);
                let subscriber = Subscriber {
                    subject: subject.clone(),
                    id: String::new(),
                    progress: Vec::new(),
                    reached: None,
                };
                own.insert(number, subscriber);
                entered = Some(number);
            }
            entered.is_some()
        });
        entered.map(|number| Entry {
            streams: self.clone(),
            number,
        })
    }

    /// All subscribers, the oldest first.
    pub fn list(&self) -> Vec<Subscriber> {
        self.0.borrow().list().cloned().collect()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Subscribers> {
        self.0.subscribe()
    }

    /// Notes what other replicas tell of those who are connected to them.
    pub fn hear(&self, others: Vec<Option<Report>>) {
        self.0.send_if_modified(|all| {
            let changed = all.others != others;
            all.others = others;
            changed
        });
    }

    /// How far those have come who are connected now, as far as it is known.
    pub fn reached(&self) -> Reached {
        let all = self.0.borrow();
        let mut reached = Reached {
            others: all.others.clone(),
            ..Reached::default()
        };
        for subscriber in all.own.values() {
            match &subscriber.subject {
                Subject::Node(_) => reached.nodes.push(subscriber.reached),
                Subject::Waypoint(gateway) => {
                    let of_gateway = reached.waypoints.entry(gateway.clone()).or_default();
                    of_gateway.push(subscriber.reached);
                }
            }
        }
        reached
    }
}

impl Entry {
    /// Notes what the subscriber calls itself.
    pub fn named(&self, id: &str) {
        self.change(|subscriber| {
            subscriber.id = id.chars().filter(|c| !c.is_control()).take(256).collect()
        });
    }

    /// Notes how far the subscriber has come.
    pub fn progressed(&self, stream: &Stream) {
        let progress = Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, stream.progress(kind)?.clone())))
            .collect();
        let reached = stream.reached();
        self.change(|subscriber| {
            subscriber.progress = progress;
            subscriber.reached = reached;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Subscriber)) {
        self.streams.0.send_if_modified(|all| {
            let Some(subscriber) = all.own.get_mut(&self.number) else {
                return false;
            };
            let before = subscriber.clone();
            change(subscriber);
            *subscriber != before
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.streams.0.send_modify(|all| {
            all.own.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_bounded_number_of_streams() {
        let streams = Streams::default();
        let [n1, n2] = ["n1", "n2"].map(|name| Subject::Node(name.to_owned()));
        let mut entries: Vec<_> = (0..PER_NODE).map(|_| streams.enter(&n1).unwrap()).collect();
        assert!(streams.enter(&n1).is_none());
        assert!(streams.enter(&n2).is_some());
        entries.pop();
        assert!(streams.enter(&n1).is_some());
        assert_eq!(streams.list().len(), PER_NODE - 1);
    }
}
