//! Requests by who asks whom: `istio_requests_total` and its histograms, with the labels that the ecosystem's dashboards
//! know; and what those have no label for, by route and by policy, as series of our own.
//!
//! Every series has a cell for each worker, which adds to it without a lock: see [`Requests`]. How many label sets there may
//! be is bounded; what comes beyond that is counted together.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use net::metrics;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder},
    metrics::MetricType,
};

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

/// Shared with the registry.
#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<Families>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let requests = self.0.requests.all();
        if !requests.is_empty() {
            let help = "Requests that were answered";
            let mut family =
                encoder.encode_descriptor("istio_requests", help, None, MetricType::Counter)?;
            for (labels, cells) in &requests {
                let total: u64 = cells.iter().map(|cell| cell.total.load(Relaxed)).sum();
                family
                    .encode_family(labels)?
                    .encode_counter::<metrics::Labels, _, f64>(&total, None)?;
            }
            type Which = fn(&Requests) -> &Histogram;
            let histograms: [(&str, &str, Which); 3] = [
                (
                    "istio_request_duration_milliseconds",
                    "From a request's head to the end of its answer",
                    |cell| &cell.milliseconds,
                ),
                ("istio_request_bytes", "Bytes of requests' bodies", |cell| {
                    &cell.received
                }),
                ("istio_response_bytes", "Bytes of answers' bodies", |cell| {
                    &cell.sent
                }),
            ];
            for (name, help, which) in histograms {
                let mut family =
                    encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
                for (labels, cells) in &requests {
                    let (sum, count, buckets) = added(cells.iter().map(which));
                    let mut metric = family.encode_family(labels)?;
                    metric.encode_histogram::<metrics::Labels>(sum, count, &buckets, None)?;
                }
            }
        }
        messages(&mut encoder, &requests)?;
        let help = "Requests by the rule of a route";
        counts(
            &mut encoder,
            "ambit_route_requests",
            help,
            &self.0.routes.all(),
        )?;
        let help = "Requests and connections by what a rule of a policy did to them";
        counts(
            &mut encoder,
            "ambit_policy_decisions",
            help,
            &self.0.policies.all(),
        )
    }
}

/// What is counted of calls only.
fn messages(
    encoder: &mut DescriptorEncoder<'_>,
    requests: &[(Labels, Arc<[Requests]>)],
) -> Result<(), fmt::Error> {
    type Which = fn(&Requests) -> &AtomicU64;
    let counters: [(&str, &str, Which); 2] = [
        (
            "istio_request_messages",
            "Messages in the requests of gRPC calls",
            |cell| &cell.messages.0,
        ),
        (
            "istio_response_messages",
            "Messages in the answers to gRPC calls",
            |cell| &cell.messages.1,
        ),
    ];
    let calls = || {
        requests
            .iter()
            .filter(|(labels, _)| labels.protocol == GRPC)
    };
    if calls().next().is_none() {
        return Ok(());
    }
    for (name, help, which) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, cells) in calls() {
            let total: u64 = cells.iter().map(|cell| which(cell).load(Relaxed)).sum();
            family
                .encode_family(labels)?
                .encode_counter::<metrics::Labels, _, f64>(&total, None)?;
        }
    }
    Ok(())
}

fn counts<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: &[(L, Arc<[Count]>)],
) -> Result<(), fmt::Error> {
    if all.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, cells) in all {
        let total: u64 = cells.iter().map(|cell| cell.0.load(Relaxed)).sum();
        family
            .encode_family(labels)?
            .encode_counter::<metrics::Labels, _, f64>(&total, None)?;
    }
    Ok(())
}

fn added<'a>(all: impl Iterator<Item = &'a Histogram>) -> (f64, u64, Vec<(f64, u64)>) {
    let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
    let mut buckets: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
    let mut sum = 0;
    for histogram in all {
        sum += histogram.sum.load(Relaxed);
        for (to, from) in buckets.iter_mut().zip(&histogram.buckets) {
            to.1 += from.load(Relaxed);
        }
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    #[allow(clippy::cast_precision_loss)] // Precise up to petabytes.
    let sum = sum as f64 / 1000.0;
    (sum, count, buckets)
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let (status, grpc) = (
            code(self.status),
            self.grpc_status.map(|status| status.to_string()),
        );
        let mut pairs = self.ends.pairs().to_vec();
        for (name, value) in &mut pairs {
            match *name {
                "request_protocol" => *value = self.protocol,
                "response_flags" => *value = self.flags,
                _ => {}
            }
        }
        pairs.push(("response_code", &status));
        pairs.push(("grpc_response_status", grpc.as_deref().unwrap_or_default()));
        pairs.encode(encoder)
    }
}

/// 0, and not `unknown`, where there was no answer: so the ecosystem counts a client that is gone.
fn code(status: u16) -> String {
    status.to_string()
}

impl EncodeLabelSet for RouteLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let status = code(self.status);
        [
            ("route_kind", self.kind),
            ("route_namespace", &self.namespace),
            ("route_name", &self.name),
            ("rule", &self.rule),
            ("destination_service", &self.service),
            ("backend_service", &self.backend),
            ("response_code", &status),
        ]
        .encode(encoder)
    }
}

impl EncodeLabelSet for PolicyLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        [
            ("policy", &*self.policy),
            ("rule", &self.rule),
            ("decision", self.what),
            ("destination_service", &self.service),
        ]
        .encode(encoder)
    }
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
