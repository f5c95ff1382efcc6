//! Open tunnels of one pod on one worker, to be used again.
//!
//! A tunnel that is not full is used; where there is none, one is dialled, and whoever wants the same meanwhile waits
//! for that dial and shares its outcome, failure included. A dial belongs to nobody in particular: it goes on if the
//! flow that wanted it first gives up.
//!
//! How many streams a tunnel takes is the peer's word, which comes a moment after the tunnel is open. Until then it takes
//! one, and whoever else wants in waits for the word: a peer that grants few gets as many tunnels as it needs, one that
//! grants many gets one.
//!
//! A tunnel whose peer takes no bytes on any stream is left alone: who wants in gets another one, up to a bound.

use std::{
    cell::RefCell, collections::HashMap, future::Future, net::SocketAddr, rc::Rc, sync::Arc,
    time::Duration,
};

use mesh::{
    identity::Identity,
    refusal::{Refusal, Stage},
};
use tokio::sync::watch;

use super::{
    HALTED, Tunnel,
    client::{Begun, Place},
};
use crate::task;

/// What makes two flows fit for one tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where the tunnel goes.
    pub address: SocketAddr,
    /// Who may answer.
    pub identities: Vec<Identity>,
    /// The workload there. One that takes over its address is another.
    pub workload: Arc<str>,
    /// The certificate that we show: a new one wants a new tunnel.
    pub serial: String,
}

/// Tunnels of one pod on one worker.
#[derive(Clone, Debug)]
pub struct Pool {
    entries: Rc<RefCell<HashMap<Key, Entry>>>,
    max_streams: usize,
    idle: Duration,
}

#[derive(Debug, Default)]
struct Entry {
    tunnels: Vec<Tunnel>,
    dial: Option<watch::Receiver<Option<Result<(), Refusal>>>>,
}

impl Pool {
    /// An empty pool. A tunnel carries up to `max_streams` streams and is closed after being unused for `idle`.
    pub fn new(max_streams: usize, idle: Duration) -> Self {
        Self {
            entries: Rc::default(),
            max_streams,
            idle,
        }
    }

    /// A place in a tunnel for `key`, in one that is open or in one that `dial` opens.
    pub async fn place<F>(
        &self,
        key: &Key,
        mut dial: impl FnMut() -> F,
    ) -> Result<(Tunnel, Place), Refusal>
    where
        F: Future<Output = Result<Tunnel, Refusal>> + 'static,
    {
        loop {
            if let Some(found) = self.open(key) {
                return Ok(found);
            }
            if let Some(tunnel) = self.beginning(key) {
                tunnel.changed().await;
                if tunnel.begun() == Begun::Never {
                    return Err(Refusal::Tunnel {
                        to: key.address,
                        stage: Stage::Http2,
                        reason: "the peer did not begin".to_owned(),
                    });
                }
                continue;
            }
            let mut outcome = self.dialling(key, &mut dial);
            let done = outcome.wait_for(Option::is_some).await;
            if let Ok(done) = done
                && let Some(Err(refusal)) = &*done
            {
                return Err(refusal.clone());
            }
        }
    }

    /// Retires the tunnels to a workload: new streams need new ones.
    pub fn forget(&self, workload: &str) {
        self.entries.borrow_mut().retain(|key, entry| {
            let gone = &*key.workload == workload;
            if gone {
                entry.tunnels.iter().for_each(Tunnel::retire);
            }
            !gone
        });
    }

    /// Retires all tunnels: the pod is gone.
    pub fn end(&self) {
        for (_, entry) in self.entries.borrow_mut().drain() {
            entry.tunnels.iter().for_each(Tunnel::retire);
        }
    }

    /// Open tunnels.
    pub fn len(&self) -> usize {
        self.entries
            .borrow()
            .values()
            .map(|entry| entry.tunnels.len())
            .sum()
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fullest tunnel that still has room, so that the others may fall idle. One at a halt only where that is the fate of
    /// many.
    fn open(&self, key: &Key) -> Option<(Tunnel, Place)> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(key)?;
        entry.tunnels.retain(|tunnel| !tunnel.is_closed());
        let room = |tunnel: &&Tunnel| tunnel.streams() < tunnel.limit().min(self.max_streams);
        let halted = |tunnel: &&Tunnel| tunnel.is_halted();
        let all = entry.tunnels.iter().filter(halted).count() >= HALTED;
        let tunnel = entry
            .tunnels
            .iter()
            .filter(|tunnel| room(tunnel) && (all || !tunnel.is_halted()))
            .max_by_key(|tunnel| tunnel.streams())?;
        Some((tunnel.clone(), tunnel.place()))
    }

    /// A tunnel that may have more room than is known yet.
    fn beginning(&self, key: &Key) -> Option<Tunnel> {
        let entries = self.entries.borrow();
        let mut tunnels = entries.get(key)?.tunnels.iter();
        tunnels
            .find(|tunnel| tunnel.begun() == Begun::NotYet)
            .cloned()
    }

    fn dialling<F>(
        &self,
        key: &Key,
        dial: &mut impl FnMut() -> F,
    ) -> watch::Receiver<Option<Result<(), Refusal>>>
    where
        F: Future<Output = Result<Tunnel, Refusal>> + 'static,
    {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key.clone()).or_default();
        if let Some(outcome) = &entry.dial {
            return outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        entry.dial = Some(outcome.clone());
        let (pool, key, dial) = (self.clone(), key.clone(), dial());
        task::spawn(async move {
            let dialled = dial.await;
            let result = dialled.as_ref().map(drop).map_err(Clone::clone);
            pool.dialled(key, dialled.ok());
            // Nobody may be waiting any more.
            tell.send(Some(result)).ok();
        });
        outcome
    }

    fn dialled(&self, key: Key, tunnel: Option<Tunnel>) {
        let mut entries = self.entries.borrow_mut();
        // Forgotten meanwhile: whoever waits dials again, to whatever is there now.
        let Some(entry) = entries.get_mut(&key) else {
            return;
        };
        entry.dial = None;
        match tunnel {
            Some(tunnel) => {
                entry.tunnels.push(tunnel.clone());
                drop(entries);
                task::spawn(self.clone().keep(key, tunnel));
            }
            None if entry.tunnels.is_empty() => drop(entries.remove(&key)),
            None => {}
        }
    }

    /// Keeps a tunnel in the pool until it closes or has been unused for long.
    async fn keep(self, key: Key, tunnel: Tunnel) {
        while !tunnel.is_closed() {
            if tunnel.streams() > 0 {
                tunnel.changed().await;
            } else {
                let unused = tokio::time::sleep(self.idle);
                tokio::select! {
                    () = tunnel.changed() => {}
                    () = unused => if tunnel.streams() == 0 { tunnel.retire() },
                }
            }
        }
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(&key) {
            entry.tunnels.retain(|tunnel| !tunnel.is_closed());
            if entry.tunnels.is_empty() && entry.dial.is_none() {
                entries.remove(&key);
            }
        }
    }
}
