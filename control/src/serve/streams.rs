//! The subscribers that are connected, and how far each has come: for the operator, never for a decision.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::publish::{Kind, Progress, Stream};

/// Subscriptions that one node may have open; a proxy needs one, and one more while it is replaced.
const PER_NODE: usize = 16;

/// All connected subscribers.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<BTreeMap<u64, Subscriber>>>);

/// One connected subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Whose token it came with.
    pub node: String,
    /// What it calls itself; not verified.
    pub id: String,
    /// Its progress in each kind that it asked for.
    pub progress: Vec<(Kind, Progress)>,
}

/// A subscriber's entry, which ends with this value.
#[derive(Debug)]
pub struct Entry {
    streams: Streams,
    number: u64,
}

impl Streams {
    /// Lists a new subscriber; `None` if its node has too many.
    pub fn enter(&self, node: &str) -> Option<Entry> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all
            .values()
            .filter(|subscriber| subscriber.node == node)
            .count()
            >= PER_NODE
        {
            return None;
        }
        let number = all.last_key_value().map_or(0, |(number, _)| number + 1);
        all.insert(
            number,
            Subscriber {
                node: node.to_owned(),
                id: String::new(),
                progress: Vec::new(),
            },
        );
        Some(Entry {
            streams: self.clone(),
            number,
        })
    }

    /// All subscribers, the oldest first.
    pub fn list(&self) -> Vec<Subscriber> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
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
        self.change(|subscriber| subscriber.progress = progress);
    }

    fn change(&self, change: impl FnOnce(&mut Subscriber)) {
        let mut all = self
            .streams
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(subscriber) = all.get_mut(&self.number) {
            change(subscriber);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.streams
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_bounded_number_of_streams() {
        let streams = Streams::default();
        let mut entries: Vec<_> = (0..PER_NODE)
            .map(|_| streams.enter("n1").unwrap())
            .collect();
        assert!(streams.enter("n1").is_none());
        assert!(streams.enter("n2").is_some());
        entries.pop();
        assert!(streams.enter("n1").is_some());
        assert_eq!(streams.list().len(), PER_NODE - 1);
    }
}
