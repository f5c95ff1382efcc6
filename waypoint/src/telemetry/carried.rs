//! One connection that carries no requests: what is known of it, what it counts while it is open, and its line when it is over.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use mesh::{
    http::authorize::Matched,
    model::Workload,
    waypoint::{Answer, Backend, Client, Denial, Judgement, Table},
};
use net::{
    carry::{Broken, Counts},
    clock,
    metrics::{Flag, Traffic},
};
use tokio::time::Instant;

use super::{Counting, cluster, line::Line, local, route};
use crate::http::Connection;

/// Counts the bytes of one open connection, as they are carried.
#[derive(Debug)]
pub(crate) struct Meter {
    traffic: Traffic,
    /// Sent to the client and received from it, as far as they were counted.
    told: Cell<(u64, u64)>,
}

impl Meter {
    /// Counts what was carried since the last time.
    pub(crate) fn tell(&self, counts: &Counts) {
        let (sent, received) = (counts.back.get(), counts.forth.get());
        let told = self.told.replace((sent, received));
        self.traffic.sent(sent - told.0);
        self.traffic.received(received - told.1);
    }
}

/// What is known so far of one connection that carries no requests.
#[derive(Debug)]
pub(crate) struct Carried {
    connection: Connection,
    /// Since 1970.
    began: std::time::Duration,
    since: Instant,
    table: Option<Arc<Table>>,
    backend: Option<Arc<Backend>>,
    backend_port: Option<u16>,
    workload: Option<Arc<Workload>>,
    upstream: Option<SocketAddr>,
    tunnelled: bool,
    route: Option<String>,
    dry_run: Vec<Denial>,
    audit: Vec<Matched>,
}

impl Carried {
    pub(crate) fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            began: clock::wall(),
            since: Instant::now(),
            table: None,
            backend: None,
            backend_port: None,
            workload: None,
            upstream: None,
            tunnelled: false,
            route: None,
            dry_run: Vec::new(),
            audit: Vec::new(),
        }
    }

    /// Where it goes, or does not.
    pub(crate) fn judged(&mut self, table: &Arc<Table>, judgement: &Judgement<'_>) {
        self.table = Some(Arc::clone(table));
        self.backend = judgement.backend.cloned();
        self.backend_port = judgement.backend_port;
        self.route = judgement.route.map(|it| route(it.route, it.at));
        self.dry_run = judgement.would_deny().collect();
        self.audit.clone_from(&judgement.audit);
        let plan = judgement.outcome.as_ref().ok().map(|forward| &forward.plan);
        self.workload = plan.and_then(|plan| plan.workload().cloned());
        self.upstream = plan.map(mesh::plan::Plan::end);
        self.tunnelled = matches!(plan, Some(mesh::plan::Plan::Tunnel(_)));
    }

    fn ends(&self, flag: Flag) -> Ends<'_> {
        Ends {
            client: &self.connection.client,
            table: self.table.as_ref(),
            backend: self.backend.as_ref(),
            workload: self.workload.as_ref(),
            security: self.connection.security,
            upstream_security: self.tunnelled,
            flag,
        }
    }
}

/// Who talks to whom.
pub(super) struct Ends<'a> {
    pub(super) client: &'a Client,
    pub(super) table: Option<&'a Arc<Table>>,
    pub(super) backend: Option<&'a Arc<Backend>>,
    pub(super) workload: Option<&'a Arc<Workload>>,
    pub(super) security: bool,
    pub(super) upstream_security: bool,
    pub(super) flag: Flag,
}

impl<'a> Ends<'a> {
    /// The service that it went to, or was for.
    pub(super) fn service(&self) -> Option<&'a mesh::model::Service> {
        let backend = self.backend.and_then(|backend| backend.service.as_deref());
        backend.or_else(|| self.table.map(|table| &*table.service))
    }
}

impl Counting {
    /// A connection may carry bytes.
    pub(crate) fn opened(&self, carried: &Carried) -> Rc<Meter> {
        let labels = self.ends(&carried.ends(Flag::None));
        let traffic = self.telemetry.connections.traffic(self.worker, &labels);
        traffic.opened();
        Rc::new(Meter {
            traffic,
            told: Cell::default(),
        })
    }

    /// It never was opened.
    pub(crate) fn refused(&self, carried: &Carried, answer: &Answer) {
        let flag = match answer {
            Answer::Denied(_) => Flag::Deny,
            _ => Flag::Connect,
        };
        let labels = self.ends(&carried.ends(flag));
        self.telemetry
            .connections
            .traffic(self.worker, &labels)
            .failed();
        self.ended(carried, &Counts::default(), Some(answer), None);
    }

    /// It has ended; `cut`: because it may not go on.
    pub(crate) fn closed(
        &self,
        carried: &Carried,
        (meter, counts): (&Meter, &Counts),
        result: Result<(), Broken>,
        cut: Option<&Answer>,
    ) {
        meter.tell(counts);
        meter.traffic.closed();
        self.ended(carried, counts, cut, result.err());
    }

    fn ended(
        &self,
        carried: &Carried,
        counts: &Counts,
        answer: Option<&Answer>,
        broken: Option<Broken>,
    ) {
        let denied = match answer {
            Some(Answer::Denied(denial)) => Some(*denial),
            _ => None,
        };
        self.policies(
            carried.table.as_ref(),
            denied,
            &carried.dry_run,
            &carried.audit,
        );
        let Some(format) = self.logs() else { return };
        let Connection {
            client,
            table,
            port,
            ..
        } = &carried.connection;
        let details = answer.map(Answer::details).unwrap_or_default();
        let error = answer
            .map(ToString::to_string)
            .or_else(|| broken.map(|b| b.to_string()));
        let policy = denied.map(|denial| denial.policy().to_string());
        let principal = client.peer.map(|peer| peer.to_string());
        Line {
            began: carried.began,
            details: &details,
            flags: answer.map_or("-", Answer::flags),
            received: counts.forth.get(),
            sent: counts.back.get(),
            duration: carried.since.elapsed(),
            upstream: carried.upstream,
            cluster: &cluster(
                carried.backend.as_ref().map_or(*table, |b| b.key),
                carried.backend_port.unwrap_or(*port),
                "tcp",
            ),
            local: local(carried.table.as_ref(), *port),
            route: carried.route.as_deref().unwrap_or_default(),
            principal: principal.as_deref().unwrap_or_default(),
            error: error.as_deref().unwrap_or_default(),
            policy: policy.as_deref().unwrap_or_default(),
            rule: denied.and_then(Denial::rule),
            ..Line::of(client.address)
        }
        .log(format);
    }
}
