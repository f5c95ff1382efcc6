//! Connections and bytes by who talks to whom: `istio_tcp_*` with its 27 labels.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh::model::Workload;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder},
    metrics::counter::ConstCounter,
};

/// So many label sets are told apart; what comes beyond them is counted together.
const MAX_SERIES: usize = 10_000;
/// What a label says that is not known.
const UNKNOWN: &str = "unknown";
/// What a workload is called whose series would be one too many.
const OVERFLOW: &str = "overflow";

/// Who talks to whom. Parties and services are shared: one a workload, however many connections it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which side counts.
    pub reporter: Reporter,
    /// Who opened the connection.
    pub source: Arc<Party>,
    /// Who took it.
    pub destination: Arc<Party>,
    /// The service it was addressed to.
    pub service: Option<Arc<Service>>,
    /// How it was protected.
    pub security: Security,
    /// What went wrong.
    pub flag: Flag,
}

/// One end. Empty texts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The labels' own names.
pub struct Party {
    pub workload: String,
    pub canonical_service: String,
    pub canonical_revision: String,
    pub namespace: String,
    pub principal: String,
    pub app: String,
    pub version: String,
    pub cluster: String,
    pub region: String,
    pub zone: String,
}

impl Party {
    /// A workload, and who it proved to be, if it did.
    pub fn of(workload: &Workload, principal: String) -> Self {
        Self {
            workload: name(workload).to_owned(),
            canonical_service: workload.canonical_name.to_string(),
            canonical_revision: workload.canonical_revision.to_string(),
            namespace: workload.namespace().to_string(),
            principal,
            app: workload.canonical_name.to_string(),
            version: workload.canonical_revision.to_string(),
            cluster: workload.cluster.to_string(),
            region: workload.locality.region.to_string(),
            zone: workload.locality.zone.to_string(),
        }
    }
}

/// What labels call a workload: who made it, or itself.
fn name(workload: &Workload) -> &str {
    if workload.workload_name.is_empty() {
        &workload.name
    } else {
        workload.workload_name.as_str()
    }
}

/// The workloads that there are, as labels name them: series of others are to go.
#[derive(Clone, Debug, Default)]
pub struct Known(HashSet<(String, String)>);

impl Known {
    /// These.
    pub fn of<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Self {
        let names = |it: &'a Arc<Workload>| (name(it).to_owned(), it.namespace().to_string());
        Self(workloads.map(names).collect())
    }

    /// Whether it is one of them. Who has no name or no namespace is unknown, or many together: nobody who could be gone.
    pub fn has(&self, party: &Party) -> bool {
        let Party {
            workload,
            namespace,
            ..
        } = party;
        workload.is_empty()
            || namespace.is_empty()
            || self.0.contains(&(workload.clone(), namespace.clone()))
    }
}

/// A service as labels name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Host name.
    pub host: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Service {
    /// A service of the mesh.
    pub fn of(service: &mesh::model::Service) -> Self {
        Self {
            host: service.hostname.to_string(),
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        }
    }
}

/// Which side of a connection counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The source's proxy.
    Source,
    /// The destination's proxy.
    Destination,
    /// The proxy between them.
    Waypoint,
}

/// How a connection was protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Not by us.
    Unknown,
    /// By a tunnel.
    MutualTls,
}

/// `response_flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flag {
    /// Nothing went wrong.
    #[default]
    None,
    /// A policy denied it.
    Deny,
    /// The destination could not be connected to.
    Connect,
    /// The peer's TLS failed.
    TlsFailure,
    /// The tunnel could not be set up.
    H2HandshakeFailure,
    /// Nothing answers at the tunnel's port.
    NetworkPolicy,
    /// No valid certificate of our own.
    IdentityError,
    /// A certificate was revoked.
    CertRevoked,
}

/// All label sets with their counts.
#[derive(Debug)]
pub struct Table {
    workers: usize,
    limit: usize,
    series: Mutex<HashMap<Labels, Arc<Series>>>,
}

/// The counts of one label set, for one worker to add to.
#[derive(Clone, Debug)]
pub struct Traffic {
    series: Arc<Series>,
    worker: usize,
}

#[derive(Debug)]
struct Series(Box<[Cells]>);

/// One worker's counts, on a cache line that no other worker writes to.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Table {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: workers.max(1),
            limit: MAX_SERIES,
            series: Mutex::default(),
        }
    }

    /// The counts of these labels, for this worker. Resolved once a connection, not once a byte.
    pub fn traffic(&self, worker: usize, labels: &Labels) -> Traffic {
        let mut all = self.lock();
        let series = match all.get(labels) {
            Some(series) => series,
            None if all.len() < self.limit => self.add(&mut all, labels.clone()),
            None => self.add(&mut all, labels.overflow()),
        };
        Traffic {
            series: Arc::clone(series),
            worker: worker % self.workers,
        }
    }

    /// Drops the series that `keep` does not want any more, because a workload is gone. Connections that still count
    /// into them do so unseen.
    pub fn retain(&self, keep: impl Fn(&Labels) -> bool) {
        self.lock().retain(|labels, _| keep(labels));
    }

    /// How many label sets there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing was counted yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add<'a>(
        &self,
        all: &'a mut HashMap<Labels, Arc<Series>>,
        labels: Labels,
    ) -> &'a Arc<Series> {
        let cells = || (0..self.workers).map(|_| Cells::default()).collect();
        all.entry(labels)
            .or_insert_with(|| Arc::new(Series(cells())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Labels, Arc<Series>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    /// A connection was opened.
    pub fn opened(&self) {
        self.cells().opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed.
    pub fn closed(&self) {
        self.cells().closed.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection failed before it carried anything.
    pub fn failed(&self) {
        self.cells().failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds to `istio_tcp_received_bytes_total`; which direction that is depends on the reporter, and the caller knows.
    pub fn received(&self, bytes: u64) {
        self.cells().received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to `istio_tcp_sent_bytes_total`: the other direction.
    pub fn sent(&self, bytes: u64) {
        self.cells().sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cells(&self) -> &Cells {
        &self.series.0[self.worker]
    }
}

impl Labels {
    /// The labels that stand for all that are too many.
    pub fn overflow(&self) -> Self {
        let party = || {
            Arc::new(Party {
                workload: OVERFLOW.into(),
                ..Party::default()
            })
        };
        Self {
            reporter: self.reporter,
            source: party(),
            destination: party(),
            service: None,
            security: Security::Unknown,
            flag: Flag::None,
        }
    }
}

/// The table at scrape.
#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<Table>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all: Vec<_> = self
            .0
            .lock()
            .iter()
            .map(|(labels, series)| (labels.clone(), Arc::clone(series)))
            .collect();
        type Cell = fn(&Cells) -> &AtomicU64;
        let families: [(&str, &str, Cell); 5] = [
            (
                "istio_tcp_connections_opened",
                "Connections that were opened",
                |c| &c.opened,
            ),
            (
                "istio_tcp_connections_closed",
                "Connections that were closed",
                |c| &c.closed,
            ),
            (
                "istio_tcp_connections_failed",
                "Connections that failed",
                |c| &c.failed,
            ),
            (
                "istio_tcp_received_bytes",
                "Bytes that were received",
                |c| &c.received,
            ),
            ("istio_tcp_sent_bytes", "Bytes that were sent", |c| &c.sent),
        ];
        for (name, help, cell) in families {
            let total = |series: &Series| {
                series
                    .0
                    .iter()
                    .map(|c| cell(c).load(Ordering::Relaxed))
                    .sum::<u64>()
            };
            let counted = all
                .iter()
                .map(|(labels, series)| (labels, total(series)))
                .filter(|&(_, n)| n > 0);
            let mut counted = counted.peekable();
            if counted.peek().is_none() {
                continue;
            }
            let kind = ConstCounter::new(0u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, total) in counted {
                ConstCounter::new(total).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.pairs().encode(encoder)
    }
}

impl Labels {
    /// Names and values, in order. What is not known says so.
    pub fn pairs(&self) -> [(&'static str, &str); 27] {
        let Self {
            reporter,
            source,
            destination,
            service,
            security,
            flag,
        } = self;
        let (host, service_namespace, service_name) = service.as_ref().map_or(("", "", ""), |s| {
            (s.host.as_str(), s.namespace.as_str(), s.name.as_str())
        });
        let labels = [
            ("reporter", reporter.word()),
            ("source_workload", &source.workload),
            ("source_canonical_service", &source.canonical_service),
            ("source_canonical_revision", &source.canonical_revision),
            ("source_workload_namespace", &source.namespace),
            ("source_principal", &source.principal),
            ("source_app", &source.app),
            ("source_version", &source.version),
            ("source_cluster", &source.cluster),
            ("destination_service", host),
            ("destination_service_namespace", service_namespace),
            ("destination_service_name", service_name),
            ("destination_workload", &destination.workload),
            (
                "destination_canonical_service",
                &destination.canonical_service,
            ),
            (
                "destination_canonical_revision",
                &destination.canonical_revision,
            ),
            ("destination_workload_namespace", &destination.namespace),
            ("destination_principal", &destination.principal),
            ("destination_app", &destination.app),
            ("destination_version", &destination.version),
            ("destination_cluster", &destination.cluster),
            ("request_protocol", "tcp"),
            ("response_flags", flag.word()),
            ("connection_security_policy", security.word()),
            ("source_region", &source.region),
            ("source_zone", &source.zone),
            ("destination_region", &destination.region),
            ("destination_zone", &destination.zone),
        ];
        labels.map(|(name, text)| (name, if text.is_empty() { UNKNOWN } else { text }))
    }
}

impl Reporter {
    fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

impl Security {
    fn word(self) -> &'static str {
        match self {
            Self::Unknown => UNKNOWN,
            Self::MutualTls => "mutual_tls",
        }
    }
}

impl Flag {
    /// As the label says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

#[cfg(test)]
impl Table {
    pub(super) fn bounded(workers: usize, limit: usize) -> Self {
        Self {
            limit,
            ..Self::new(workers)
        }
    }
}
