//! What is told about each connection: one access-log line, and counts by who talks to whom.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderMap, HeaderValue};
use mesh::{
    admit::Admission,
    headers,
    identity::Identity,
    model::{Service, Workload},
    name::Name,
    plan::Plan,
    refusal::Refusal,
    store::{Generation, Known},
};
use net::{
    access::{self, Direction, End, Record},
    carry::{Broken, Counts},
    metrics::{self, Flag, Labels, Reporter, Security, Table, Traffic},
};
use tokio::time::Instant;

use crate::{flows::Entry, pod::PodFacts};

/// Where counts go.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry(pub(crate) Arc<Table>);

/// Counts the bytes of one open flow, as they are carried.
#[derive(Debug)]
pub(crate) struct Meter {
    traffic: Traffic,
    direction: Direction,
    /// Sent and received, as far as they were counted.
    told: Cell<(u64, u64)>,
}

impl Meter {
    /// Counts what was carried since the last time.
    pub(crate) fn tell(&self, counts: &Counts) {
        let (sent, received) = sent_and_received(self.direction, counts);
        let told = self.told.replace((sent, received));
        self.traffic.sent(sent - told.0);
        self.traffic.received(received - told.1);
    }
}

/// From the application outwards, and towards it.
fn sent_and_received(direction: Direction, counts: &Counts) -> (u64, u64) {
    match direction {
        Direction::Outbound => (counts.forth.get(), counts.back.get()),
        Direction::Inbound => (counts.back.get(), counts.forth.get()),
    }
}

/// What is known so far of one connection.
#[derive(Debug)]
pub(crate) struct Report {
    direction: Direction,
    /// The worker that counts it.
    worker: usize,
    begun: Instant,
    from: SocketAddr,
    to: SocketAddr,
    authority: Option<String>,
    service: Option<Arc<Service>>,
    source: Side,
    destination: Side,
    tunnelled: bool,
    meter: Option<Rc<Meter>>,
}

/// One end of it.
#[derive(Debug, Default)]
struct Side {
    /// As the control plane knows it.
    workload: Option<Arc<Workload>>,
    /// As the node agent calls it.
    pod: Option<Arc<PodFacts>>,
    /// As a certificate proves.
    identity: Option<Identity>,
}

impl Report {
    pub(crate) fn new(
        direction: Direction,
        worker: usize,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Self {
        Self {
            direction,
            worker,
            begun: Instant::now(),
            from,
            to,
            authority: None,
            service: None,
            source: Side::default(),
            destination: Side::default(),
            tunnelled: false,
            meter: None,
        }
    }

    /// A pod of this node connects.
    pub(crate) fn source_is(&mut self, pod: &Arc<PodFacts>, generation: &Generation) {
        self.source = Side::own(pod, generation);
    }

    /// A pod of this node is connected to.
    pub(crate) fn destination_is(&mut self, pod: &Arc<PodFacts>, generation: &Generation) {
        self.destination = Side::own(pod, generation);
    }

    /// Where an outbound flow goes.
    pub(crate) fn planned(&mut self, plan: &Plan) {
        self.to = plan.address();
        self.service = plan.service().cloned();
        self.destination.workload = plan.workload().cloned();
        if let Plan::Tunnel(hop) = plan {
            self.authority = Some(hop.authority.to_string());
            self.tunnelled = true;
        }
    }

    /// Who proved to be at the other end of an outbound tunnel.
    pub(crate) fn peer_is(&mut self, peer: Option<Identity>) {
        self.destination.identity = peer;
    }

    /// A peer asks for `authority` in a tunnel. Its workload is the one at its address, if that has its identity.
    pub(crate) fn asked_for(
        &mut self,
        authority: &str,
        peer: Identity,
        network: Name,
        generation: &Generation,
    ) {
        self.authority = Some(authority.to_owned());
        self.tunnelled = true;
        let at = at(generation, network, self.from.ip());
        self.source.workload = at.filter(|workload| workload.identity == peer);
        self.source.identity = Some(peer);
    }

    /// A client that proves nothing. Its workload is the one at its address.
    pub(crate) fn plain_source(&mut self, network: Name, generation: &Generation) {
        self.source.workload = at(generation, network, self.from.ip());
    }

    /// What a peer says of the service that was asked for counts only if this pod is part of that service.
    pub(crate) fn told(&mut self, headers: &HeaderMap<HeaderValue>, generation: &Generation) {
        let forwarded = headers
            .get("forwarded")
            .and_then(|value| value.to_str().ok());
        let host = forwarded.and_then(headers::forwarded_host);
        let (Some(host), Some(own)) = (host, &self.destination.workload) else {
            return;
        };
        let services = own
            .services
            .iter()
            .filter_map(|m| generation.service(m.service));
        self.service = services
            .into_iter()
            .find(|s| s.hostname.as_str() == host)
            .cloned();
    }

    /// The workload that an inbound connection was let into.
    pub(crate) fn admitted(&mut self, admission: &Admission) {
        self.destination.workload = Some(Arc::clone(&admission.workload));
        for policy in &admission.dry_run {
            tracing::info!(from = %self.from, to = %admission.to, %policy, "a dry-run policy would have denied this");
        }
    }

    /// Bytes may flow.
    pub(crate) fn opened(&mut self, telemetry: &Telemetry, entry: &Entry) {
        let traffic = telemetry.0.traffic(self.worker, &self.labels(Flag::None));
        traffic.opened();
        let told = Cell::default();
        let meter = Rc::new(Meter {
            traffic,
            direction: self.direction,
            told,
        });
        entry.metered_by(Rc::clone(&meter));
        self.meter = Some(meter);
        self.record(&entry.counts).opened();
    }

    /// It never became a flow.
    pub(crate) fn refused(self, telemetry: &Telemetry, refusal: Refusal) {
        self.closed(telemetry, &Counts::default(), Err(Broken::Refused(refusal)));
    }

    /// It has ended.
    pub(crate) fn closed(self, telemetry: &Telemetry, counts: &Counts, result: Result<(), Broken>) {
        let record = self.record(counts);
        if let Some(meter) = &self.meter {
            meter.tell(counts);
            meter.traffic.closed();
        }
        let Err(broken) = result else {
            return record.closed(End::Complete);
        };
        let error = broken.to_string();
        let refusal = match &broken {
            Broken::Refused(refusal) => Some(refusal),
            _ => None,
        };
        if self.meter.is_none() {
            let flag = refusal.map_or(Flag::Connect, flag);
            telemetry
                .0
                .traffic(self.worker, &self.labels(flag))
                .failed();
        }
        match refusal {
            Some(Refusal::Denied(denial)) => {
                let policy = Some(denial.policy().as_str());
                record.closed(End::Denied {
                    error: &error,
                    policy,
                });
            }
            Some(Refusal::RefusedByPeer { status: 401, .. }) => {
                record.closed(End::Denied {
                    error: &error,
                    policy: None,
                });
            }
            _ => record.closed(End::Failed { error: &error }),
        }
    }

    fn record(&self, counts: &Counts) -> Record<'_> {
        let (bytes_sent, bytes_recv) = sent_and_received(self.direction, counts);
        Record {
            src_addr: self.from,
            source: self.source.logged(self.tunnelled),
            dst_addr: self.to,
            hbone_addr: self.authority.as_deref(),
            service: self
                .service
                .as_ref()
                .map(|service| service.hostname.as_str()),
            destination: self.destination.logged(self.tunnelled),
            direction: self.direction,
            bytes_sent,
            bytes_recv,
            duration: self.begun.elapsed(),
        }
    }

    fn labels(&self, flag: Flag) -> Labels {
        let service = |service: &Arc<Service>| Arc::new(metrics::Service::of(service));
        Labels {
            reporter: match self.direction {
                Direction::Outbound => Reporter::Source,
                Direction::Inbound => Reporter::Destination,
            },
            source: Arc::new(self.source.counted(self.tunnelled)),
            destination: Arc::new(self.destination.counted(self.tunnelled)),
            service: self.service.as_ref().map(service),
            security: if self.tunnelled {
                Security::MutualTls
            } else {
                Security::Unknown
            },
            flag,
        }
    }
}

impl Side {
    fn own(pod: &Arc<PodFacts>, generation: &Generation) -> Self {
        let workload = generation.workload(&pod.workload.uid);
        let workload = workload.filter(|workload| workload.identity == pod.workload.identity);
        Self {
            workload: workload.cloned(),
            identity: Some(pod.workload.identity),
            pod: Some(Arc::clone(pod)),
        }
    }

    /// An identity is told only where a tunnel proved it to the other side.
    fn logged(&self, tunnelled: bool) -> access::Party<'_> {
        let workload = self.workload.as_deref();
        let pod = self.pod.as_deref();
        let namespace = workload
            .map(Workload::namespace)
            .or_else(|| self.identity.map(|id| id.namespace));
        access::Party {
            workload: workload
                .map(|w| &*w.name)
                .or_else(|| pod.map(|pod| pod.name.as_str())),
            namespace: namespace.map(Name::as_str),
            identity: self.identity.filter(|_| tunnelled),
            cluster: None,
        }
    }

    fn counted(&self, tunnelled: bool) -> metrics::Party {
        let identity = self.identity.filter(|_| tunnelled);
        let principal = identity.map(|id| id.to_string()).unwrap_or_default();
        let Some(w) = self.workload.as_deref() else {
            let namespace = self
                .identity
                .map(|id| id.namespace.to_string())
                .unwrap_or_default();
            return metrics::Party {
                principal,
                namespace,
                ..metrics::Party::default()
            };
        };
        metrics::Party::of(w, principal)
    }
}

/// The workload at an address.
fn at(generation: &Generation, network: Name, address: IpAddr) -> Option<Arc<Workload>> {
    match generation.lookup(network, address, Name::EMPTY) {
        Known::Workload(workload) => Some(Arc::clone(workload)),
        _ => None,
    }
}

fn flag(refusal: &Refusal) -> Flag {
    match refusal.flag() {
        mesh::refusal::Flag::Connect => Flag::Connect,
        mesh::refusal::Flag::Deny => Flag::Deny,
        mesh::refusal::Flag::Http2 => Flag::H2HandshakeFailure,
        mesh::refusal::Flag::Identity => Flag::IdentityError,
        mesh::refusal::Flag::Tls => Flag::TlsFailure,
    }
}
