//! What is told about each request and each connection: one line of the access log, and counts by who talks to whom.
//!
//! Who the client's workload is the client's own proxy says (`baggage`): nothing but names in logs and metrics comes of it,
//! and the namespace is the proven identity's whatever is said.

mod carried;
mod line;
mod requests;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{Hash, Hasher},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use mesh::{
    hash,
    headers::Baggage,
    http::{authorize::Matched, route::Route},
    identity::Identity,
    model::Workload,
    name::Name,
    waypoint::{self, Answer, Client, Denial, Table},
};
use net::{
    clock,
    log::Format,
    metrics::{self, Flag, Metrics, Party, Reporter, Security},
};
use prometheus_client::metrics::counter::Counter;

pub(crate) use self::carried::{Carried, Meter};
use self::{
    carried::Ends,
    line::Line,
    requests::{Collected, Count, Families, Family, PolicyLabels, Requests, RouteLabels},
};
use crate::http::{Connection, Done, Record};

/// Label sets whose cells a worker remembers: some for each rule of thousands of routes. Beyond that it begins anew.
const REMEMBERED: usize = 16 << 10;
/// Longest name that is believed of a client.
const NAME: usize = 253;

/// Not on the usual path: workers share them.
type Refusals = prometheus_client::metrics::family::Family<[(&'static str, String); 1], Counter>;

/// Where counts go, for all workers.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    families: Arc<Families>,
    connections: Arc<metrics::Table>,
    /// By reason.
    tunnels_refused: Refusals,
    /// By status.
    streams_refused: Refusals,
    log: Option<Format>,
}

impl Telemetry {
    /// Series of `workers` in `metrics`; a line for each request, where a format is given.
    pub(crate) fn new(metrics: &mut Metrics, workers: usize, log: Option<Format>) -> Self {
        let families = Arc::new(Families {
            requests: Family::new(workers),
            routes: Family::new(workers),
            policies: Family::new(workers),
        });
        let collected = Collected(Arc::clone(&families));
        let registry = metrics.registry();
        registry.register_collector(Box::new(collected));
        let (tunnels_refused, streams_refused) = (Refusals::default(), Refusals::default());
        registry.register(
            "ambit_tunnels_refused",
            "Tunnels that did not come to be",
            tunnels_refused.clone(),
        );
        registry.register(
            "ambit_streams_refused",
            "Streams in tunnels that were for nothing that is served",
            streams_refused.clone(),
        );
        Self {
            families,
            connections: Arc::clone(&metrics.traffic),
            tunnels_refused,
            streams_refused,
            log,
        }
    }

    /// A tunnel did not come to be. `kind`: one word.
    pub(crate) fn tunnel_refused(&self, kind: &'static str) {
        let series = [("reason", kind.to_owned())];
        self.tunnels_refused.get_or_create(&series).inc();
    }

    /// Drops the series of workloads that are gone.
    pub(crate) fn retain(&self, generation: &waypoint::Generation) {
        let known = metrics::Known::of(generation.mesh.workloads());
        // Clients are no part of what is known here.
        let keep = |labels: &metrics::Labels| known.has(&labels.destination);
        self.families.requests.retain(|labels| keep(&labels.ends));
        self.connections.retain(keep);
    }
}

/// What a single worker counts and logs, for whoever has requests but no waypoint: a bench.
pub fn recorder(metrics: &mut Metrics, log: Option<Format>) -> Rc<dyn Record> {
    Rc::new(Counting::new(Telemetry::new(metrics, 1, log), 0))
}

/// What one worker counts.
pub(crate) struct Counting {
    telemetry: Telemetry,
    worker: usize,
    /// What clients' proxies say of themselves, by the tunnel's socket.
    clients: RefCell<HashMap<SocketAddr, Arc<Party>>>,
    remembered: RefCell<hash::Map<Key, Cells>>,
}

/// All that labels of a request are made of. What it points to it holds, so that nothing else can come to be there.
#[derive(PartialEq, Eq)]
struct Key {
    client: Option<Identity>,
    said: Option<Same<Party>>,
    table: Option<Name>,
    port: u16,
    backend: Option<(Name, Option<u16>)>,
    workload: Option<Same<Workload>>,
    rule: Option<(Same<Route>, usize)>,
    grpc: bool,
    status: u16,
    grpc_status: Option<u32>,
    flags: &'static str,
    security: (bool, bool),
}

/// Only of what most often differs.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rule.hash(state);
        self.workload.hash(state);
        self.said.hash(state);
        self.status.hash(state);
    }
}

struct Same<T>(Arc<T>);

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Same<T> {}

impl<T> Hash for Same<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(Arc::as_ptr(&self.0), state);
    }
}

/// What all requests of a label set have in common.
struct Cells {
    requests: Arc<[Requests]>,
    route: Option<Arc<[Count]>>,
    texts: Rc<Texts>,
}

/// What a line says of them, beside what the labels themselves are.
struct Texts {
    cluster: String,
    route: String,
    principal: String,
}

impl Counting {
    pub(crate) fn new(telemetry: Telemetry, worker: usize) -> Self {
        Self {
            telemetry,
            worker,
            clients: RefCell::default(),
            remembered: RefCell::default(),
        }
    }

    /// What the proxy at the other end of a tunnel says of its client, until [`Self::client_gone`].
    pub(crate) fn client_says(&self, tunnel: SocketAddr, peer: Identity, baggage: Baggage) {
        self.clients
            .borrow_mut()
            .insert(tunnel, Arc::new(said(peer, baggage)));
    }

    /// A tunnel did not come to be. `kind`: one word.
    pub(crate) fn tunnel_refused(&self, kind: &'static str) {
        self.telemetry.tunnel_refused(kind);
    }

    /// A stream was answered with a status before it was a connection.
    pub(crate) fn stream_refused(&self, status: u16) {
        let series = [("response_code", status.to_string())];
        self.telemetry.streams_refused.get_or_create(&series).inc();
    }

    /// A tunnel has closed.
    pub(crate) fn client_gone(&self, tunnel: SocketAddr) {
        self.clients.borrow_mut().remove(&tunnel);
    }

    /// What is known changed: labels are made anew.
    pub(crate) fn changed(&self) {
        self.remembered.borrow_mut().clear();
    }

    fn source(&self, client: &Client) -> Arc<Party> {
        let known = self.clients.borrow().get(&client.address).cloned();
        known.unwrap_or_else(|| {
            let proven = client.peer.map(|peer| said(peer, Baggage::default()));
            Arc::new(proven.unwrap_or_default())
        })
    }

    fn ends(&self, ends: &Ends<'_>) -> metrics::Labels {
        let destination = ends.workload.map(|workload| {
            let principal = if ends.upstream_security {
                workload.identity.to_string()
            } else {
                String::new()
            };
            Party::of(workload, principal)
        });
        metrics::Labels {
            reporter: Reporter::Waypoint,
            source: self.source(ends.client),
            destination: Arc::new(destination.unwrap_or_default()),
            service: ends
                .service()
                .map(|service| Arc::new(metrics::Service::of(service))),
            security: if ends.security {
                Security::MutualTls
            } else {
                Security::Unknown
            },
            flag: ends.flag,
        }
    }

    fn count(&self, done: &Done<'_>) -> Rc<Texts> {
        let client = &done.connection.client;
        let key = Key {
            client: client.peer,
            said: self
                .clients
                .borrow()
                .get(&client.address)
                .cloned()
                .map(Same),
            table: done.table.map(|table| table.key),
            port: done.connection.port,
            backend: done.backend.map(|it| (it.key, done.backend_port)),
            workload: done.workload.cloned().map(Same),
            rule: done
                .rule
                .map(|told| (Same(Arc::clone(&told.route)), told.at)),
            grpc: done.grpc,
            status: done.status,
            grpc_status: grpc_status(done),
            flags: done.flags,
            security: (done.connection.security, done.upstream_security),
        };
        let mut remembered = self.remembered.borrow_mut();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        let cells = remembered.entry(key).or_insert_with(|| self.cells(done));
        let requests = &cells.requests[self.worker];
        requests.add(done.duration, done.received, done.sent);
        if done.grpc {
            requests.add_messages(done.messages);
        }
        if let Some(route) = &cells.route {
            route[self.worker].add();
        }
        Rc::clone(&cells.texts)
    }

    fn cells(&self, done: &Done<'_>) -> Cells {
        let ends = Ends {
            client: &done.connection.client,
            table: done.table,
            backend: done.backend,
            workload: done.workload,
            security: done.connection.security,
            upstream_security: done.upstream_security,
            flag: Flag::None,
        };
        let families = &self.telemetry.families;
        let labels = requests::Labels {
            ends: self.ends(&ends),
            protocol: if done.grpc { requests::GRPC } else { "http" },
            status: done.status,
            grpc_status: grpc_status(done),
            flags: done.flags,
        };
        let route = done.rule.map(|told| {
            let rule = told.route.rules.get(told.at).map(|rule| &*rule.name);
            let rule = rule.filter(|name| !name.is_empty());
            let host = |key: Option<Name>| key.map(hostname).unwrap_or_default();
            families.routes.cells(&RouteLabels {
                kind: told.route.kind.as_str(),
                namespace: told.route.namespace.to_string(),
                name: told.route.name.to_string(),
                rule: rule.map_or_else(|| told.at.to_string(), str::to_owned),
                service: host(done.table.map(|table| table.key)),
                backend: host(done.backend.map(|backend| backend.key)),
                status: done.status,
            })
        });
        let Connection {
            client,
            table,
            port,
            ..
        } = done.connection;
        Cells {
            requests: families.requests.cells(&labels),
            route,
            texts: Rc::new(Texts {
                cluster: cluster(
                    done.backend.map_or(*table, |b| b.key),
                    done.backend_port.unwrap_or(*port),
                    "http",
                ),
                route: done
                    .rule
                    .map(|told| self::route(&told.route, told.at))
                    .unwrap_or_default(),
                principal: client.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            }),
        }
    }

    /// Counts what policies did. Not on the usual path: few requests are denied.
    fn policies(
        &self,
        table: Option<&Arc<Table>>,
        denied: Option<Denial>,
        dry_run: &[Denial],
        audit: &[Matched],
    ) {
        let service = || table.map(|table| hostname(table.key)).unwrap_or_default();
        let add = |policy: Name, rule: Option<usize>, what| {
            let labels = PolicyLabels {
                policy: policy.to_string(),
                rule: rule.map(|rule| rule.to_string()).unwrap_or_default(),
                what,
                service: service(),
            };
            self.telemetry.families.policies.cells(&labels)[self.worker].add();
        };
        if let Some(denial) = denied {
            add(denial.policy(), denial.rule(), "denied");
        }
        for denial in dry_run {
            add(denial.policy(), denial.rule(), "would_deny");
            tracing::info!(policy = %denial.policy(), rule = denial.rule(), "a dry-run policy would have denied this");
        }
        for matched in audit {
            add(matched.policy, Some(matched.rule), "audited");
            tracing::info!(policy = %matched.policy, rule = matched.rule, "audited");
        }
    }

    /// How to log, if that is wanted.
    fn logs(&self) -> Option<Format> {
        let wanted = tracing::enabled!(target: net::log::WHOLE, tracing::Level::INFO);
        self.telemetry.log.filter(|_| wanted)
    }
}

impl Record for Counting {
    fn request(&self, done: &Done<'_>) {
        let texts = self.count(done);
        let denied = match done.answer {
            Some(Answer::Denied(denial)) => Some(*denial),
            _ => None,
        };
        self.policies(done.table, denied, done.dry_run, done.audit);
        let Some(format) = self.logs() else { return };
        let Connection { client, port, .. } = done.connection;
        let (error, policy) = (
            done.answer.map(ToString::to_string),
            denied.map(|denial| denial.policy().to_string()),
        );
        Line {
            began: clock::wall().saturating_sub(done.duration),
            method: done.method,
            path: done.path,
            protocol: done.protocol,
            status: done.status,
            grpc_status: done.grpc_status,
            flags: done.flags,
            details: &done.details(),
            received: done.received,
            sent: done.sent,
            duration: done.duration,
            upstream_time: done.upstream_time,
            forwarded_for: done.forwarded_for,
            user_agent: done.user_agent,
            request_id: done.request_id,
            authority: done.authority,
            upstream: done.upstream,
            cluster: &texts.cluster,
            local: local(done.table, *port),
            route: &texts.route,
            principal: &texts.principal,
            error: error.as_deref().unwrap_or_default(),
            policy: policy.as_deref().unwrap_or_default(),
            rule: denied.and_then(Denial::rule),
            ..Line::of(client.address)
        }
        .log(format);
    }
}

/// A client as it says it is, in the namespace where it is proven to be.
fn said(peer: Identity, baggage: Baggage) -> Party {
    let short = |text: Option<String>| text.filter(|text| text.len() <= NAME).unwrap_or_default();
    let (service, version) = (short(baggage.service), short(baggage.version));
    Party {
        workload: short(baggage.workload),
        app: service.clone(),
        canonical_service: service,
        version: version.clone(),
        canonical_revision: version,
        namespace: peer.namespace.to_string(),
        principal: peer.to_string(),
        cluster: short(baggage.cluster),
        region: short(baggage.region),
        zone: short(baggage.zone),
    }
}

/// What is none of gRPC's own statuses counts as UNKNOWN: an application may send any number.
fn grpc_status(done: &Done<'_>) -> Option<u32> {
    done.grpc_status
        .map(|status| if status <= 16 { status } else { 2 })
}

fn hostname(key: Name) -> String {
    let key = key.as_str();
    key.split_once('/')
        .map_or(key, |(_, hostname)| hostname)
        .to_owned()
}

/// A service as the ecosystem's access logs name it.
fn cluster(key: Name, port: u16, protocol: &str) -> String {
    format!("inbound-vip|{port}|{protocol}|{}", hostname(key))
}

fn local(table: Option<&Arc<Table>>, port: u16) -> Option<SocketAddr> {
    let vip = table?.service.vips.iter().find(|vip| vip.is_single())?;
    Some(SocketAddr::new(vip.address, port))
}

/// `<namespace>/<name>/<rule>`.
fn route(route: &Route, at: usize) -> String {
    let rule = route
        .rules
        .get(at)
        .map(|rule| &*rule.name)
        .unwrap_or_default();
    let Route {
        namespace, name, ..
    } = route;
    if rule.is_empty() {
        format!("{namespace}/{name}/{at}")
    } else {
        format!("{namespace}/{name}/{rule}")
    }
}
