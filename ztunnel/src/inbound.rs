//! A tunnel that a peer opens to a pod of this node, and the streams in it.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method};
use mesh::{admit::Admission, headers, identity::Identity, refusal::Refusal};
use net::{
    access::Direction,
    carry::{Broken, Socket, carry},
    hbone::{self, Connect},
    tls,
};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    flows::{Entrance, Entry, Shown, opening},
    pod::Pod,
    socket,
    telemetry::Report,
    worker::Worker,
};

/// How long a peer may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections to one pod, on one worker, whose peers have not proved anything yet.
const HANDSHAKES: usize = 512;

/// Where a tunnel comes from and goes to.
#[derive(Clone, Copy)]
struct Ends {
    from: SocketAddr,
    at: SocketAddr,
    peer: Identity,
}

/// Serves one tunnel until it closes.
pub(crate) async fn run(worker: Rc<Worker>, pod: Rc<Pod>, stream: TcpStream, from: SocketAddr) {
    let Ok(at) = stream.local_addr() else { return };
    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
    let mut report = Report::new(Direction::Inbound, worker.id, from, at);
    report.destination_is(&pod.facts, &worker.generation());
    let refuse = |report: Report, refusal| report.refused(&worker.shared.telemetry, refusal);
    if pod.handshakes.get() >= HANDSHAKES {
        sys::socket::reset(&stream).ok();
        return refuse(report, Refusal::TooMany);
    }
    let handshake = Handshake::new(&pod);
    let credential = match worker.credential(pod.facts.workload.identity).await {
        Ok(credential) => credential,
        Err(refusal) => return refuse(report, refusal),
    };
    let deadline = Instant::now() + HANDSHAKE;
    let (tls, peer) = match tls::accept(stream, &credential, deadline).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let stage = mesh::refusal::Stage::Tls;
            return refuse(
                report,
                Refusal::Tunnel {
                    to: from,
                    stage,
                    reason: error.to_string(),
                },
            );
        }
    };
    drop(handshake);
    let ends = Ends {
        from,
        at,
        peer: peer.identity,
    };
    let on_stream = |connect| {
        let (worker, pod) = (Rc::clone(&worker), Rc::clone(&pod));
        let load = worker.load();
        net::task::spawn(async move {
            serve(&worker, &pod, ends, connect).await;
            drop(load);
        });
    };
    let served = hbone::serve(
        tls,
        worker.shared.config.tunnel,
        worker.draining(),
        on_stream,
    )
    .await;
    if let Err(reason) = served {
        tracing::debug!(pod = pod.facts.name, %from, reason, "tunnel closed");
    }
}

/// A place among the handshakes of a pod.
struct Handshake(Rc<Pod>);

impl Handshake {
    fn new(pod: &Rc<Pod>) -> Self {
        pod.handshakes.set(pod.handshakes.get() + 1);
        Self(Rc::clone(pod))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

/// Serves one stream.
async fn serve(worker: &Rc<Worker>, pod: &Rc<Pod>, ends: Ends, mut connect: Connect) {
    let mut report = Report::new(Direction::Inbound, worker.id, ends.from, ends.at);
    let generation = worker.generation();
    report.destination_is(&pod.facts, &generation);
    let network = worker.shared.config.network;
    report.asked_for(connect.authority(), ends.peer, network, &generation);
    report.told(connect.headers(), &generation);
    drop(generation);
    let shown = Shown {
        src: ends.from,
        original_dst: ends.at,
        actual_dst: ends.at,
        protocol: "HBONE",
        peer: Some(ends.peer.to_string()),
        inbound: true,
    };
    let (entry, mut stop) = pod.flows.enter(shown);
    let asked = Asked {
        method: connect.method().clone(),
        authority: Arc::from(connect.authority()),
        fits: connect.fits(),
    };
    let given_up = async {
        connect.given_up().await;
        Broken::TunnelReset("before it was answered".to_owned())
    };
    let open = enter(worker, pod, ends, asked, &entry, &mut report);
    let opened = opening(&mut stop, open, given_up).await;
    let result = match opened {
        Err(broken) => {
            let status = match &broken {
                Broken::Refused(refusal) => refusal.status(),
                _ => 503,
            };
            connect.refuse(status);
            Err(broken)
        }
        Ok((app, admission)) => match connect.accept(answer(worker, &admission)) {
            Ok(stream) => {
                report.opened(&worker.shared.telemetry, &entry);
                carry(stream, Socket::tcp(app), &entry.counts, stop).await
            }
            Err(error) => Err(Broken::Tunnel(error.to_string())),
        },
    };
    report.closed(&worker.shared.telemetry, &entry.counts, result);
}

/// What a stream asks for.
struct Asked {
    method: Method,
    authority: Arc<str>,
    /// Whether there is room for what it may make us keep.
    fits: bool,
}

/// Asks whether the stream may enter, and connects to the application if so. Only then is the peer told that it may.
async fn enter(
    worker: &Rc<Worker>,
    pod: &Rc<Pod>,
    ends: Ends,
    asked: Asked,
    entry: &Entry,
    report: &mut Report,
) -> Result<(TcpStream, Admission), Refusal> {
    if asked.method != Method::CONNECT {
        return Err(Refusal::BadMethod(asked.method.to_string()));
    }
    pod.room(worker)?;
    if !asked.fits {
        tracing::warn!(pod = pod.facts.name, from = %ends.from, "a stream is refused: tunnels were granted TUNNEL_MEMORY already");
        return Err(Refusal::TooMany);
    }
    let entrance = Entrance::Tunnelled {
        peer: ends.peer,
        at: ends.at.ip(),
        authority: asked.authority,
        source: ends.from.ip(),
    };
    let decided = worker.decide(|generation| entrance.admit(generation, &pod.facts.workload));
    let admission = decided.await?;
    // Before anything is awaited: a rule that changes while the application is slow to answer counts.
    entry.entered_by(entrance);
    entry.leads_to(admission.to, "HBONE", Some(ends.peer.to_string()));
    report.admitted(&admission);
    let (to, from) = (admission.to, admission.from);
    let app = socket::connect(&pod.facts.netns, to, from, &worker.shared.config).await?;
    Ok((app, admission))
}

/// What the peer is told with the 200.
fn answer(worker: &Worker, admission: &Admission) -> HeaderMap<HeaderValue> {
    let mut all = HeaderMap::new();
    if !worker.shared.config.response_baggage {
        return all;
    }
    if let Ok(value) = HeaderValue::try_from(headers::baggage(&admission.workload)) {
        all.insert("baggage", value);
    }
    all
}
