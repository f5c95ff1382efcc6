//! Requests by who asks whom: `istio_requests_total` and its histograms, with the labels that the ecosystem's dashboards
//! know; and what those have no label for, by route and by policy, as series of our own.
//!
//! Every series has a cell for each worker, which adds to it without a lock: see [`Requests`]. How many label sets there may
//! be is bounded; what comes beyond that is counted together.

mod encode;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use net::metrics;

pub(super) use self::encode::Collected;

/// The protocol of calls.
pub(super) const GRPC: &str = "grpc";
/// So many label sets of one family are told apart.
const MAX_SERIES: usize = 10_000;
/// What a route or policy is called whose series would be one too many.
const OVERFLOW: &str = "overflow";

/// Upper bounds of milliseconds and of bytes, as the ecosystem has them; beyond the last there is one more.
const BOUNDS: [f64; 19] = [
    0.5, 1., 5., 10., 25., 50., 100., 250., 500., 1_000., 2_500., 5_000., 10_000., 30_000.,
    60_000., 300_000., 600_000., 1_800_000., 3_600_000.,
];

/// Who asked whom, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    /// Those that connections have too.
    pub(super) ends: metrics::Labels,
    /// `http` or [`GRPC`].
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) flags: &'static str,
}

/// Which rule of which route, for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RouteLabels {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Its name or its place, from 0.
    pub(super) rule: String,
    /// The service that was asked for: its host name.
    pub(super) service: String,
    /// The service that it was sent to: its host name.
    pub(super) backend: String,
    pub(super) status: u16,
}

/// Which rule of which policy did what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PolicyLabels {
    /// `<namespace>/<name>`.
    pub(super) policy: String,
    /// From 0; empty: none, it denies as a whole.
    pub(super) rule: String,
    /// `denied`, `would_deny` or `audited`.
    pub(super) what: &'static str,
    /// The service that was asked for: its host name.
    pub(super) service: String,
}

/// Labels of which there may be too many.
pub(super) trait Bounded: Clone + Eq + Hash {
    /// Those that stand for all that are too many.
    fn overflow(&self) -> Self;
}

impl Bounded for Labels {
    fn overflow(&self) -> Self {
        Self {
            ends: self.ends.overflow(),
            status: class(self.status),
            grpc_status: None,
            ..self.clone()
        }
    }
}

impl Bounded for RouteLabels {
    fn overflow(&self) -> Self {
        Self {
            namespace: String::new(),
            name: OVERFLOW.to_owned(),
            rule: String::new(),
            service: String::new(),
            backend: String::new(),
            status: class(self.status),
            ..self.clone()
        }
    }
}

impl Bounded for PolicyLabels {
    fn overflow(&self) -> Self {
        Self {
            policy: OVERFLOW.to_owned(),
            rule: String::new(),
            service: String::new(),
            ..self.clone()
        }
    }
}

/// 200 for 2xx: applications choose their statuses.
fn class(status: u16) -> u16 {
    status / 100 * 100
}

/// All label sets of one family, each with what every worker has counted.
#[derive(Debug)]
pub(super) struct Family<L, C> {
    workers: usize,
    limit: usize,
    series: Mutex<HashMap<L, Arc<[C]>>>,
}

impl<L: Bounded, C: Default> Family<L, C> {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            limit: MAX_SERIES,
            series: Mutex::default(),
        }
    }

    /// The cells of these labels.
    pub(super) fn cells(&self, labels: &L) -> Arc<[C]> {
        let mut all = self.lock();
        if let Some(cells) = all.get(labels) {
            return Arc::clone(cells);
        }
        let labels = if all.len() < self.limit {
            labels.clone()
        } else {
            labels.overflow()
        };
        let cells = || (0..self.workers).map(|_| C::default()).collect();
        Arc::clone(all.entry(labels).or_insert_with(cells))
    }

    /// Drops the series that `keep` does not want any more.
    pub(super) fn retain(&self, keep: impl Fn(&L) -> bool) {
        self.lock().retain(|labels, _| keep(labels));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<L, Arc<[C]>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<(L, Arc<[C]>)> {
        let all = self.lock();
        all.iter()
            .map(|(labels, cells)| (labels.clone(), Arc::clone(cells)))
            .collect()
    }
}

/// A number, on a cache line that no other worker writes to.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// What one worker has counted of one label set.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Requests {
    total: AtomicU64,
    milliseconds: Histogram,
    received: Histogram,
    sent: Histogram,
    /// Of calls: in requests and in answers.
    messages: (AtomicU64, AtomicU64),
}

impl Requests {
    pub(super) fn add(&self, duration: Duration, received: u64, sent: u64) {
        self.total.fetch_add(1, Relaxed);
        self.milliseconds.add(duration.as_secs_f64() * 1000.0);
        // Precise up to petabytes.
        #[allow(clippy::cast_precision_loss)]
        {
            self.received.add(received as f64);
            self.sent.add(sent as f64);
        }
    }

    /// Messages of a call, in the request and in the answer.
    pub(super) fn add_messages(&self, (received, sent): (u64, u64)) {
        self.messages.0.fetch_add(received, Relaxed);
        self.messages.1.fetch_add(sent, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// In thousandths.
    sum: AtomicU64,
}

impl Histogram {
    fn add(&self, value: f64) {
        let at = BOUNDS.partition_point(|bound| *bound < value);
        self.buckets[at].fetch_add(1, Relaxed);
        // Neither is negative, and centuries do not happen.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.sum.fetch_add((value * 1000.0) as u64, Relaxed);
    }
}

/// All families at scrape.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) requests: Family<Labels, Requests>,
    pub(super) routes: Family<RouteLabels, Count>,
    pub(super) policies: Family<PolicyLabels, Count>,
}

#[cfg(test)]
impl<L: Bounded, C: Default> Family<L, C> {
    pub(super) fn bounded(workers: usize, limit: usize) -> Self {
        Self {
            limit,
            ..Self::new(workers)
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}
