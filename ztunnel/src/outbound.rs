//! A connection that an application of this node makes.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};
use mesh::{
    headers,
    identity::Identity,
    plan::{Flow, Hop, Plan, plan},
    refusal::{Refusal, Stage},
};
use net::{
    access::Direction,
    carry::{Socket, carry},
    hbone::{self, ConnectError, Key, Stream, Tunnel},
    tls::{self, Credential},
};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    flows::{Entry, Shown, opening},
    pod::Pod,
    socket,
    telemetry::Report,
    worker::Worker,
};

/// How long a tunnel's TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the other proxy may take to answer: it connects to its application first.
const ANSWER: Duration = Duration::from_secs(15);
/// Endpoints of a service that are tried for one flow.
const TRIES: usize = 3;
/// Tunnels that are tried for one flow to one endpoint: those that are open may be about to end.
const TUNNELS: usize = 3;

/// Carries one connection from a pod to wherever it was going.
pub(crate) async fn run(worker: Rc<Worker>, pod: Rc<Pod>, app: TcpStream, from: SocketAddr) {
    let Some(to) = socket::destination(&app, &pod.facts, from) else {
        return;
    };
    let mut report = Report::new(Direction::Outbound, worker.id, from, to);
    report.source_is(&pod.facts, &worker.generation());
    let shown = Shown {
        src: from,
        original_dst: to,
        actual_dst: to,
        protocol: "TCP",
        peer: None,
        inbound: false,
    };
    let (entry, mut stop) = pod.flows.enter(shown);
    let open = async {
        pod.room(&worker)?;
        open(&worker, &pod, (from, to), &entry, &mut report).await
    };
    let opened = opening(&mut stop, open, socket::reset_by_application(&app)).await;
    let result = match opened {
        Err(broken) => {
            // The application has been told already that it is connected: a reset is the truth.
            sys::socket::reset(&app).ok();
            Err(broken)
        }
        Ok(opened) => {
            report.opened(&worker.shared.telemetry, &entry);
            let app = Socket::tcp(app);
            match opened {
                Opened::Plain(peer) => carry(app, Socket::tcp(peer), &entry.counts, stop).await,
                Opened::Tunnelled(stream, place) => {
                    let result = carry(app, stream, &entry.counts, stop).await;
                    drop(place);
                    result
                }
            }
        }
    };
    report.closed(&worker.shared.telemetry, &entry.counts, result);
}

/// What a flow's bytes go to.
enum Opened {
    Plain(TcpStream),
    Tunnelled(Stream, hbone::Place),
}

/// Plans, and opens what was planned; where an endpoint of a service cannot be reached, another is planned.
async fn open(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    (from, to): (SocketAddr, SocketAddr),
    entry: &Entry,
    report: &mut Report,
) -> Result<Opened, Refusal> {
    let seed = worker.random();
    let mut tried: Vec<Arc<str>> = Vec::new();
    let mut failed = None;
    loop {
        let planned = worker.decide(|generation| {
            let source = pod.source(worker, generation);
            let flow = Flow {
                source: &source,
                from,
                to,
                seed,
                tried: &tried,
            };
            plan(generation, &flow)
        });
        let plan = match planned.await {
            Ok(plan) => plan,
            // Where no other endpoint is left, the first reason is the better one.
            Err(refusal) => return Err(failed.unwrap_or(refusal)),
        };
        report.planned(&plan);
        let opened = match &plan {
            Plan::Passthrough { to } | Plan::Direct { to, .. } => {
                entry.leads_to(*to, "TCP", None);
                let connected = socket::connect(&pod.facts.netns, *to, None, &worker.shared.config);
                connected.await.map(Opened::Plain)
            }
            Plan::Tunnel(hop) => {
                entry.leads_to(hop.address, "HBONE", Some(hop.workload.uid.to_string()));
                tunnelled(worker, pod, from, hop, report).await
            }
        };
        match (opened, plan.service(), plan.workload()) {
            (Err(refusal), Some(_), Some(workload))
                if refusal.retryable() && tried.len() + 1 < TRIES =>
            {
                tried.push(Arc::clone(&workload.uid));
                failed = Some(refusal);
            }
            (opened, _, _) => return opened,
        }
    }
}

/// A stream in a tunnel to the destination's own proxy.
async fn tunnelled(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    from: SocketAddr,
    hop: &Hop,
    report: &mut Report,
) -> Result<Opened, Refusal> {
    let credential = worker.credential(pod.facts.workload.identity).await?;
    let key = Key {
        address: hop.address,
        identities: hop.identities.clone(),
        workload: Arc::clone(&hop.workload.uid),
        serial: credential.serial().to_owned(),
    };
    let dial = || {
        let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
        let (to, expected) = (hop.address, hop.identities.clone());
        let credential = Arc::clone(&credential);
        async move { dial(&worker, &pod, to, &expected, &credential).await }
    };
    let headers = headers_for(worker, pod, from, hop);
    let authority = hop.authority.to_string();
    let deadline = Instant::now() + ANSWER;
    let mut left = TUNNELS;
    let (answered, place) = loop {
        let (tunnel, place) = pod.pool.place(&key, dial).await?;
        report.peer_is(tunnel.peer());
        left -= 1;
        match tunnel.connect(&authority, headers.clone(), deadline).await {
            // Its peer ends, or it broke: nothing of the flow has gone anywhere, and another proxy may be there already.
            Err(ConnectError::Tunnel(_)) if tunnel.is_closed() && left > 0 => {}
            answered => break (answered, place),
        }
    };
    match answered {
        Ok((stream, _)) => Ok(Opened::Tunnelled(stream, place)),
        Err(ConnectError::Status(status)) if hop.waypoint => Err(Refusal::RefusedByWaypoint {
            waypoint: hop.workload.uid.to_string(),
            peer: hop.address,
            status,
        }),
        Err(ConnectError::Status(status)) => Err(Refusal::RefusedByPeer {
            peer: hop.address,
            status,
        }),
        Err(error) => {
            let reason = error.to_string();
            Err(Refusal::Tunnel {
                to: hop.address,
                stage: Stage::Http2,
                reason,
            })
        }
    }
}

/// Opens a tunnel from a pod.
async fn dial(
    worker: &Worker,
    pod: &Pod,
    to: SocketAddr,
    expected: &[Identity],
    credential: &Credential,
) -> Result<Tunnel, Refusal> {
    let failed = |stage, reason| Refusal::Tunnel { to, stage, reason };
    let config = &worker.shared.config;
    let connected = socket::connect(&pod.facts.netns, to, None, config).await;
    let tcp = connected.map_err(|refusal| match refusal {
        Refusal::Unreachable { reason, .. } => failed(Stage::Connect, reason),
        other => other,
    })?;
    let (tls, peer) = tls::connect(tcp, credential, expected, Instant::now() + HANDSHAKE)
        .await
        .map_err(|error| failed(Stage::Tls, error.to_string()))?;
    hbone::open(tls, config.tunnel, Some(peer.identity))
        .await
        .map_err(|error| failed(Stage::Http2, error.to_string()))
}

/// What the other proxy is told beside what is asked for.
fn headers_for(worker: &Worker, pod: &Pod, from: SocketAddr, hop: &Hop) -> HeaderMap<HeaderValue> {
    let generation = worker.generation();
    let own = generation.workload(&pod.facts.workload.uid);
    let trace = (u128::from(worker.random()) << 64) | u128::from(worker.random());
    let service = hop
        .service
        .as_ref()
        .map(|service| service.hostname.as_str());
    let mut all = HeaderMap::with_capacity(3);
    for (name, text) in [
        (
            "baggage",
            own.map(|own| headers::baggage(own)).unwrap_or_default(),
        ),
        ("forwarded", headers::forwarded(from, service)),
        ("traceparent", headers::traceparent(trace, worker.random())),
    ] {
        if let Some(value) = HeaderValue::try_from(text)
            .ok()
            .filter(|value| !value.is_empty())
        {
            all.insert(name, value);
        }
    }
    all
}
