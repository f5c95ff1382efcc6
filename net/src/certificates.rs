//! The certificates of this node's identities: asked for by the main thread, used by the workers.
//!
//! [`Certificates`] is what everyone holds: reading takes a lock for as long as a lookup takes, and nothing is held
//! across an await. [`Keeper`] is the main thread's task: it follows `mesh::certificate` for each identity, asks the
//! authority through a function that it is given, and publishes. Nothing that has ended is ever handed out.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::{
    certificate::{Event, Life, Standing},
    identity::Identity,
};
use tokio::{
    sync::{Notify, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep, timeout_at},
};

use crate::{clock::chance, tls::Credential};

/// So many requests are with the authority at once.
const IN_FLIGHT: usize = 8;
/// The keeper looks at the wall clock at least this often, because that clock may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A handle on the node's certificates, for every thread.
#[derive(Clone)]
pub struct Certificates(Arc<Shared>);

/// The task that keeps them. There is one, on the main thread.
pub struct Keeper {
    shared: Arc<Shared>,
    lives: HashMap<Identity, Life>,
}

/// One identity, for people to read.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose.
    pub identity: Identity,
    /// `Available`, `Initializing`, or `Unavailable: ` and why.
    pub state: String,
    /// What is held, even if it has ended.
    pub credential: Option<Arc<Credential>>,
}

/// There was no valid certificate in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// Whose.
    pub identity: Identity,
    /// Why the authority has not given one.
    pub reason: String,
}

struct Shared {
    slots: RwLock<HashMap<Identity, Arc<Slot>>>,
    /// Rung when there may be something to do for the keeper.
    bell: Notify,
    /// What failed is to be asked for again.
    again: AtomicBool,
    /// Time since 1970.
    now: fn() -> Duration,
}

/// What the keeper and the others say to each other about one identity.
struct Slot {
    published: watch::Sender<Published>,
    /// Connections that wait for it.
    waiting: AtomicUsize,
    /// Whether a local workload has it.
    wanted: AtomicBool,
}

#[derive(Clone, Default)]
struct Published {
    credential: Option<Arc<Credential>>,
    /// Why the last attempt failed, if it did.
    failure: Option<Arc<str>>,
}

impl Certificates {
    /// The handle and its keeper. `now` is the time since 1970: [`crate::clock::wall`].
    pub fn new(now: fn() -> Duration) -> (Self, Keeper) {
        let shared = Arc::new(Shared {
            slots: RwLock::default(),
            bell: Notify::new(),
            again: AtomicBool::new(false),
            now,
        });
        (
            Self(Arc::clone(&shared)),
            Keeper {
                shared,
                lives: HashMap::new(),
            },
        )
    }

    /// The valid certificate of this identity, if there is one now.
    pub fn current(&self, identity: &Identity) -> Option<Arc<Credential>> {
        let slot = self.0.slot(identity)?;
        let credential = slot.published.borrow().credential.clone();
        credential.filter(|held| self.0.valid(held))
    }

    /// The valid certificate of this identity, asked for ahead of all others if there is none yet.
    ///
    /// From any thread. Waits until the deadline and then says why there is none.
    pub async fn wait(
        &self,
        identity: Identity,
        deadline: Instant,
    ) -> Result<Arc<Credential>, Unavailable> {
        if let Some(held) = self.current(&identity) {
            return Ok(held);
        }
        let waiting = Waiting(self.0.open(identity, Slot::begin_waiting));
        self.0.bell.notify_one();
        let mut published = waiting.0.published.subscribe();
        loop {
            let seen = published.borrow_and_update().clone();
            if let Some(held) = seen.credential.clone().filter(|held| self.0.valid(held)) {
                return Ok(held);
            }
            if !matches!(timeout_at(deadline, published.changed()).await, Ok(Ok(()))) {
                let reason = seen.failure.map_or_else(
                    || "the authority has not answered yet".into(),
                    |f| f.to_string(),
                );
                return Err(Unavailable { identity, reason });
            }
        }
    }

    /// The next valid certificate of an identity that is another than the one with the serial number `held`. The identity is
    /// wanted from then on.
    pub async fn renewed(&self, identity: Identity, held: Option<&str>) -> Arc<Credential> {
        let slot = self
            .0
            .open(identity, |slot| slot.wanted.store(true, Ordering::Relaxed));
        self.0.bell.notify_one();
        let mut published = slot.published.subscribe();
        loop {
            let seen = published.borrow_and_update().credential.clone();
            if let Some(new) = seen.filter(|new| self.0.valid(new) && Some(new.serial()) != held) {
                return new;
            }
            if published.changed().await.is_err() {
                // Forgotten: there is none any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A local workload has this identity: get its certificate, and renew it until [`Self::forget`].
    pub fn want(&self, identity: Identity) {
        self.0
            .open(identity, |slot| slot.wanted.store(true, Ordering::Relaxed));
        self.0.bell.notify_one();
    }

    /// Asks again at once for all that could not be had: the reason may be gone.
    pub fn again(&self) {
        self.0.again.store(true, Ordering::Relaxed);
        self.0.bell.notify_one();
    }

    /// The last local workload with this identity has left.
    pub fn forget(&self, identity: &Identity) {
        self.0
            .slots
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(identity);
        self.0.bell.notify_one();
    }

    /// All identities, ordered by their text.
    pub fn snapshot(&self) -> Vec<Entry> {
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
        let entry = |(identity, slot): (&Identity, &Arc<Slot>)| {
            let Published {
                credential,
                failure,
            } = slot.published.borrow().clone();
            let state = match (&credential, failure) {
                (Some(held), _) if self.0.valid(held) => "Available".to_owned(),
                (None, None) => "Initializing".to_owned(),
                (None, Some(why)) => format!("Unavailable: {why}"),
                (Some(_), None) => "Unavailable: it has expired".to_owned(),
                (Some(_), Some(why)) => format!("Unavailable: it has expired, and {why}"),
            };
            Entry {
                identity: *identity,
                state,
                credential,
            }
        };
        let mut entries: Vec<_> = slots.iter().map(entry).collect();
        entries.sort_by_cached_key(|entry| entry.identity.to_string());
        entries
    }
}

impl Keeper {
    /// The handle on what it keeps.
    pub fn certificates(&self) -> Certificates {
        Certificates(Arc::clone(&self.shared))
    }

    /// Asks for, renews and publishes certificates until it is dropped. `issue` asks the authority once.
    pub async fn run<F, Fut, E>(mut self, issue: F)
    where
        F: Fn(Identity) -> Fut,
        Fut: Future<Output = Result<Credential, E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let mut asking = JoinSet::new();
        let mut whose: HashMap<Id, Identity> = HashMap::new();
        loop {
            if self.shared.again.swap(false, Ordering::Relaxed) {
                let now = (self.shared.now)();
                for life in self.lives.values_mut() {
                    *life = life.on(Event::Changed, now, chance());
                }
            }
            let due = self.due();
            let mut nap = LONGEST_SLEEP;
            for (identity, at) in due {
                let now = (self.shared.now)();
                if at > now {
                    nap = nap.min(at - now);
                } else if whose.len() < IN_FLIGHT {
                    self.step(identity, Event::Asked);
                    whose.insert(asking.spawn(issue(identity)).id(), identity);
                }
            }
            tokio::select! {
                () = self.shared.bell.notified() => {}
                () = sleep(nap) => {}
                Some(done) = asking.join_next_with_id() => {
                    let (id, outcome) = match done {
                        Ok((id, outcome)) => (id, outcome.map_err(|why| why.to_string())),
                        Err(broken) => (broken.id(), Err("the request broke off".to_owned())),
                    };
                    if let Some(identity) = whose.remove(&id) {
                        self.answered(identity, outcome);
                    }
                }
            }
        }
    }

    /// Who is due when: connections that wait first, then those who never had a certificate, then renewals.
    fn due(&mut self) -> Vec<(Identity, Duration)> {
        let now = (self.shared.now)();
        let mut slots = self
            .shared
            .slots
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // What only a connection asked for is dropped with it, unless it is held and valid.
        slots.retain(|_, slot| slot.wanted() || slot.waited_for() || slot.holds(now));
        self.lives
            .retain(|identity, _| slots.contains_key(identity));
        let mut due = Vec::new();
        for (identity, slot) in slots.iter() {
            let life = self.lives.entry(*identity).or_default();
            let waited_for = slot.waited_for();
            if waited_for {
                *life = life.on(Event::Awaited, now, chance());
            }
            let rank = match life.standing(now) {
                _ if waited_for => 0,
                Standing::Available if !slot.wanted() => continue,
                Standing::Available => 2,
                _ => 1,
            };
            if let Some(at) = life.due() {
                due.push((rank, at, *identity));
            }
        }
        due.sort_by_key(|&(rank, at, _)| (rank, at));
        due.into_iter()
            .map(|(_, at, identity)| (identity, at))
            .collect()
    }

    fn step(&mut self, identity: Identity, event: Event) {
        let now = (self.shared.now)();
        if let Some(life) = self.lives.get_mut(&identity) {
            *life = life.on(event, now, chance());
        }
    }

    fn answered(&mut self, identity: Identity, outcome: Result<Credential, String>) {
        let outcome = outcome.and_then(|credential| match credential.identity() {
            same if same == identity => Ok(credential),
            other => Err(format!("the certificate is for {other}")),
        });
        match &outcome {
            Ok(held) => {
                let until =
                    Duration::from_secs(u64::try_from(held.not_after()).unwrap_or_default());
                self.step(identity, Event::Issued { until });
                tracing::info!(%identity, serial = held.serial(), "certificate issued");
            }
            Err(why) => {
                self.step(identity, Event::Failed);
                tracing::warn!(%identity, error = %why, "no certificate");
            }
        }
        // Forgotten meanwhile: nobody to tell.
        let Some(slot) = self.shared.slot(&identity) else {
            return;
        };
        slot.published.send_modify(|published| match outcome {
            Ok(held) => {
                *published = Published {
                    credential: Some(Arc::new(held)),
                    failure: None,
                }
            }
            Err(why) => published.failure = Some(why.into()),
        });
    }
}

impl Shared {
    fn slot(&self, identity: &Identity) -> Option<Arc<Slot>> {
        self.slots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(identity)
            .cloned()
    }

    /// The slot of this identity, marked before the keeper can take it for abandoned.
    fn open(&self, identity: Identity, mark: impl FnOnce(&Slot)) -> Arc<Slot> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(identity).or_insert_with(|| {
            Arc::new(Slot {
                published: watch::Sender::new(Published::default()),
                waiting: AtomicUsize::new(0),
                wanted: AtomicBool::new(false),
            })
        });
        mark(slot);
        Arc::clone(slot)
    }

    fn valid(&self, held: &Credential) -> bool {
        valid(held, (self.now)())
    }
}

fn valid(held: &Credential, now: Duration) -> bool {
    u64::try_from(held.not_after()).is_ok_and(|end| now < Duration::from_secs(end))
}

impl Slot {
    fn begin_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn holds(&self, now: Duration) -> bool {
        self.published
            .borrow()
            .credential
            .as_ref()
            .is_some_and(|held| valid(held, now))
    }
}

/// A connection that waits, counted for as long as it does.
struct Waiting(Arc<Slot>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no certificate for {}: {}", self.identity, self.reason)
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests;
