//! How far bindings have come: decided by [`phase`], and on disk before anybody is told.
//!
//! A service that is bound stays so over a restart, while its waypoint is away, and without anybody who remembers that it
//! was ever ready. So a record that is missing is that of a first start, and one that cannot be read refuses the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(feature = "kubernetes")]
use tokio::sync::watch;

#[cfg(feature = "kubernetes")]
use crate::phase::Report;
use crate::{
    compile::{Compiled, Wanted},
    phase::{self, Known, Reached, Waits},
    state::{SECRET, StateDir, StateError},
    world::{Key, Waypoints},
};

pub(crate) mod record;

/// Which waypoints were ready, and how far bindings have come, in the state directory.
pub const WAYPOINTS: &str = "waypoints.json";

/// Until what could not be recorded is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The bindings of all services.
#[derive(Debug)]
pub struct Bindings {
    keeper: Keeper,
    recorded: Waypoints,
    waits: Waits,
    /// As compiled last.
    wanted: BTreeMap<Key, Wanted>,
    closed: BTreeSet<Key>,
    gateways: BTreeSet<Key>,
    /// What follows could not be recorded, and is tried again then.
    retry: Option<Instant>,
}

/// Who keeps what is recorded.
#[derive(Debug)]
enum Keeper {
    /// A file.
    Disk(Arc<StateDir>),
    /// The objects themselves: one replica writes what is to be recorded, and all are told when it is.
    #[cfg(feature = "kubernetes")]
    Objects {
        /// What is to be recorded.
        wanted: Waypoints,
        /// What other replicas are told.
        tells: watch::Sender<Report>,
    },
}

impl Keeper {
    fn write(&self, next: &Waypoints) -> Result<(), StateError> {
        match self {
            Self::Disk(state) => state.write(WAYPOINTS, &record::write(next), SECRET),
            #[cfg(feature = "kubernetes")]
            Self::Objects { .. } => Ok(()),
        }
    }
}

impl Bindings {
    /// What the state directory keeps.
    pub fn open(state: Arc<StateDir>, now: Instant) -> Result<Self, StateError> {
        let recorded = match state.read(WAYPOINTS)? {
            None => Waypoints::default(),
            Some(bytes) => record::read(&bytes).map_err(|reason| StateError {
                path: state.path(WAYPOINTS),
                reason: format!(
                    "is not a record of waypoints: {reason}; restore it, or, if it is lost, remove the file (services whose \
                     waypoint is away are then reached without it until it has been ready once)"
                ),
            })?,
        };
        Ok(Self::of(Keeper::Disk(state), recorded, now))
    }

    /// What objects say that is recorded. How far those have come who are connected here goes to `tells`.
    #[cfg(feature = "kubernetes")]
    pub fn in_objects(recorded: Waypoints, tells: watch::Sender<Report>, now: Instant) -> Self {
        let wanted = recorded.clone();
        Self::of(Keeper::Objects { wanted, tells }, recorded, now)
    }

    /// Takes in what objects say now.
    #[cfg(feature = "kubernetes")]
    pub fn observe(&mut self, recorded: Waypoints, now: Instant) {
        if recorded != self.recorded {
            self.record(recorded, now);
        }
    }

    /// What objects are to say.
    #[cfg(feature = "kubernetes")]
    pub fn wanted(&self) -> &Waypoints {
        match &self.keeper {
            Keeper::Disk(_) => &self.recorded,
            Keeper::Objects { wanted, .. } => wanted,
        }
    }

    fn of(keeper: Keeper, recorded: Waypoints, now: Instant) -> Self {
        Self {
            keeper,
            waits: Waits::restored(&recorded, now),
            recorded,
            wanted: BTreeMap::new(),
            closed: BTreeSet::new(),
            gateways: BTreeSet::new(),
            retry: None,
        }
    }

    /// What is kept, and so may be published.
    pub fn recorded(&self) -> &Waypoints {
        &self.recorded
    }

    /// Takes in what is wanted, and decides and records what follows. Returns whether anything did.
    pub fn advance(&mut self, compiled: &Compiled, reached: &Reached, now: Instant) -> bool {
        self.wanted.clone_from(&compiled.wanted);
        self.closed.clone_from(&compiled.closed);
        self.gateways = compiled.told.keys().cloned().collect();
        self.waits.reached(reached, now);
        let next = self.next(reached, now);
        #[cfg(feature = "kubernetes")]
        if let Keeper::Objects { wanted, .. } = &mut self.keeper {
            *wanted = next;
            return false;
        }
        if next == self.recorded {
            self.retry = None;
            return false;
        }
        let written = self.keeper.write(&next);
        self.retry = written.is_err().then(|| now + RETRY);
        if let Err(error) = written {
            tracing::error!(%error, "bindings to waypoints stay as they are");
            return false;
        }
        self.record(next, now);
        true
    }

    fn record(&mut self, next: Waypoints, now: Instant) {
        for (service, phase) in &next.phases {
            if self.recorded.phases.get(service) != Some(phase) {
                tracing::info!(
                    service = service.1,
                    namespace = service.0,
                    phase = phase.name(),
                    "a binding went on"
                );
            }
        }
        self.waits.recorded(&self.recorded, &next, now);
        self.recorded = next;
    }

    /// What is recorded is published, in the snapshot of this number.
    pub fn published(&mut self, number: u64) {
        self.waits.published(number);
    }

    /// Takes in how far everybody has come. Returns whether [`Bindings::advance`] would do something.
    pub fn is_due(&mut self, reached: &Reached, now: Instant) -> bool {
        self.waits.reached(reached, now);
        let decided = match &self.keeper {
            Keeper::Disk(_) => &self.recorded,
            #[cfg(feature = "kubernetes")]
            Keeper::Objects { wanted, tells } => {
                let report = self.waits.report(&self.recorded, reached, now);
                tells.send_if_modified(|told| {
                    let changed = *told != report;
                    *told = report;
                    changed
                });
                wanted
            }
        };
        self.retry.is_none_or(|retry| retry <= now) && self.next(reached, now) != *decided
    }

    /// When to ask that again although nobody has come any further.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let retry = self.retry.filter(|retry| *retry > now);
        self.waits.deadline(now).into_iter().chain(retry).min()
    }

    /// Problems now: what follows cannot be recorded.
    pub fn problems(&self) -> usize {
        usize::from(self.retry.is_some())
    }

    fn next(&self, reached: &Reached, now: Instant) -> Waypoints {
        let known = Known {
            wanted: &self.wanted,
            closed: &self.closed,
            gateways: &self.gateways,
            reached,
            waits: &self.waits,
            now,
        };
        phase::next(&self.recorded, &known)
    }
}
