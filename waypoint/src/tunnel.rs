//! A tunnel that a client's proxy opens to this waypoint, and the streams in it.
//!
//! A stream is for one port of one service of this waypoint, or it is refused. Who the client is, the tunnel proves and
//! nothing else does: what a peer says of a client is not even read.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use http::{HeaderMap, HeaderValue, Method};
use mesh::{
    headers::{self, Baggage},
    identity::Identity,
    name::Name,
    waypoint::{Answer, Client, Protocol},
};
use net::{
    carry::End,
    hbone::{self, Connect, Stream},
    tls,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use crate::{
    detect::{self, Looked},
    http::{Connection, Line, Version},
    tcp,
    worker::{PATIENCE, Worker},
};

/// How long a peer may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Tunnels on one worker whose peers have not proved anything yet.
const HANDSHAKES: usize = 512;
/// Streams on one worker, in all of its tunnels.
const STREAMS: usize = 1 << 16;

/// What tells waypoints from which others a stream has come: `<namespace>/<gateway>`, separated by commas.
pub(crate) const VIA: &str = "ambit-via";
/// So many waypoints may have carried a stream.
const MAX_VIA: usize = 4;

/// Serves one tunnel until it closes.
pub(crate) async fn run<S>(worker: Rc<Worker>, io: S, from: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (tls, peer) = match handshake(&worker, io).await {
        Ok(accepted) => accepted,
        Err((kind, reason)) => {
            tracing::info!(%from, reason, "a tunnel is refused");
            return worker.counting.tunnel_refused(kind);
        }
    };
    let mut first = true;
    let on_stream = |connect: Connect| {
        if std::mem::take(&mut first) {
            worker.counting.client_says(from, peer, baggage(&connect));
        }
        let worker = Rc::clone(&worker);
        net::task::spawn(async move { serve(worker, connect, peer, from).await });
    };
    let settings = worker.shared.config.tunnel;
    let served = hbone::serve(tls, settings, worker.draining(), on_stream).await;
    worker.counting.client_gone(from);
    if let Err(reason) = served {
        tracing::debug!(%from, %peer, reason, "tunnel closed");
    }
}

/// What a client's proxy says of it. A tunnel is one client's, so its first stream says it for all.
fn baggage(connect: &Connect) -> Baggage {
    let text = connect.headers().get("baggage");
    let text = text.and_then(|text| text.to_str().ok());
    text.map(headers::parse_baggage).unwrap_or_default()
}

/// Finds out who is there. In a place of its own, so that a tunnel does not keep what its handshake took.
async fn handshake<S>(
    worker: &Rc<Worker>,
    io: S,
) -> Result<(impl AsyncRead + AsyncWrite + Unpin + use<S>, Identity), (&'static str, String)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let place = Place::among(&worker.handshakes, HANDSHAKES);
    let _place = place.ok_or_else(|| {
        let reason = "too many peers are proving who they are";
        ("crowded", reason.to_owned())
    })?;
    let deadline = Instant::now() + HANDSHAKE;
    let credential = worker
        .credential()
        .await
        .map_err(|refusal| ("no_certificate", refusal.to_string()))?;
    let accepted = tls::accept(io, &credential, deadline).await;
    let (tls, peer) = accepted.map_err(|error| ("handshake", error.to_string()))?;
    Ok((tls, peer.identity))
}

/// One of so many that a worker has at once.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn among(all: &Rc<Cell<usize>>, limit: usize) -> Option<Self> {
        if all.get() >= limit {
            return None;
        }
        all.set(all.get() + 1);
        Some(Self(Rc::clone(all)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Serves one stream.
async fn serve(worker: Rc<Worker>, connect: Connect, peer: Identity, from: SocketAddr) {
    let Some(_place) = Place::among(&worker.streams, STREAMS) else {
        tracing::warn!(%from, %peer, "a stream is refused: this worker has as many as it takes");
        worker.counting.stream_refused(503);
        return connect.refuse(503);
    };
    if !connect.fits() {
        tracing::warn!(%from, %peer, "a stream is refused: this waypoint holds MAX_MEMORY already");
        worker.counting.stream_refused(503);
        return connect.refuse(503);
    }
    let (connection, protocol) = match asked(&worker, &connect, peer, from).await {
        Ok(asked) => asked,
        Err((status, reason)) => {
            let authority = connect.authority();
            tracing::info!(%from, %peer, authority, status, reason, "a stream is refused");
            worker.counting.stream_refused(status);
            return connect.refuse(status);
        }
    };
    let taught = || {
        worker
            .taught
            .speaks_first(connection.table, connection.port)
    };
    match protocol {
        Protocol::Tcp => bytes(&worker, connect, connection).await,
        Protocol::Detect if taught() => bytes(&worker, connect, connection).await,
        Protocol::Detect => {
            // Whoever speaks first speaks only once this is answered.
            let Some(stream) = accept(connect, from) else {
                return;
            };
            match detect::look(stream).await {
                Ok(Looked { io, http: true, .. }) => requests(worker, connection, io).await,
                Ok(Looked { mut io, silent, .. }) => match tcp::begin(&worker, connection).await {
                    Ok(begun) => begun.carry(io, silent).await,
                    Err(_) => io.abort(),
                },
                Err(broken) => {
                    tracing::debug!(%from, %peer, error = %broken, "a connection broke before it said anything");
                }
            }
        }
        Protocol::Http | Protocol::Http1 | Protocol::Http2 => {
            // Before anything is known of an endpoint: each request finds its own.
            if let Some(stream) = accept(connect, from) {
                requests(worker, connection, stream).await;
            }
        }
    }
}

fn accept(connect: Connect, from: SocketAddr) -> Option<Stream> {
    let accepted = connect.accept(HeaderMap::new());
    accepted
        .inspect_err(
            |error| tracing::debug!(%from, %error, "a stream is gone before it is answered"),
        )
        .ok()
}

/// Serves a stream of requests.
async fn requests<IO>(worker: Rc<Worker>, connection: Connection, io: IO)
where
    IO: Line + 'static,
{
    let (draining, gone) = (worker.draining(), worker.gone(&connection));
    let drain = async move {
        tokio::select! {
            () = draining => {}
            () = gone => {}
        }
    };
    let front = Rc::clone(&worker.front);
    crate::http::serve(front, connection, io, Version::Either, drain).await;
}

/// Serves a stream of bytes, which is answered once its endpoint is reached: so its client's proxy hears why it is not.
async fn bytes(worker: &Rc<Worker>, mut connect: Connect, connection: Connection) {
    let from = connection.client.address;
    let begun = tokio::select! {
        begun = tcp::begin(worker, connection) => begun,
        () = connect.given_up() => {
            tracing::debug!(%from, "a connection was given up before it was open");
            return;
        }
    };
    match begun {
        Err(answer) => connect.refuse(tcp::status(&answer)),
        Ok(begun) => {
            if let Some(stream) = accept(connect, from) {
                begun.carry(stream, false).await;
            }
        }
    }
}

/// What a stream asks for, if it may ask for that here. The status and reason to refuse it with otherwise.
async fn asked(
    worker: &Rc<Worker>,
    connect: &Connect,
    peer: Identity,
    from: SocketAddr,
) -> Result<(Connection, Protocol), (u16, String)> {
    if connect.method() != Method::CONNECT {
        return Err((
            400,
            format!("method {:?} is not CONNECT", connect.method().as_str()),
        ));
    }
    let via = via(connect.headers(), &worker.shared.config.own_name())?;
    let (table, port, protocol) = served(worker, connect.authority())
        .await
        .map_err(|answer| (answer.status(), answer.to_string()))?;
    let connection = Connection {
        client: Client {
            peer: Some(peer),
            address: from,
            destination: Client::asked(connect.authority()),
        },
        table,
        port,
        security: true,
        via,
    };
    Ok((connection, protocol))
}

/// The waypoints that have carried a stream. Refused if this one is among them, or there are too many: somebody has made a
/// circle.
fn via(headers: &HeaderMap<HeaderValue>, own: &str) -> Result<Vec<String>, (u16, String)> {
    let mut all = Vec::new();
    for value in headers.get_all(VIA) {
        let text = value
            .to_str()
            .map_err(|_| (400, format!("{VIA} is not text")))?;
        all.extend(text.split(',').map(|name| name.trim().to_owned()));
    }
    match circle(&all, own) {
        Some(answer) => Err((answer.status(), answer.to_string())),
        None => Ok(all),
    }
}

/// The answer to a stream that has been through these waypoints, if this one, `<namespace>/<gateway>`, is among them, or they
/// are too many.
pub fn circle(via: &[String], own: &str) -> Option<Answer> {
    let is_one = via.len() >= MAX_VIA || via.iter().any(|name| name == own);
    is_one.then(|| Answer::Loop(via.join(", ")))
}

/// The port of a service that an authority names; while the control plane has not said all, that is waited for, but not for
/// long.
async fn served(worker: &Rc<Worker>, authority: &str) -> Result<(Name, u16, Protocol), Answer> {
    let network = worker.shared.config.network;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let changed = worker.changed();
        match worker.generation().served(network, authority) {
            Ok((table, port)) => return Ok((table.key, port.number, port.protocol)),
            Err(Answer::NotReady) => {}
            Err(answer) => return Err(answer),
        }
        if timeout_at(deadline, changed).await.is_err() {
            return Err(Answer::NotReady);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap<HeaderValue> {
        let mut all = HeaderMap::new();
        for value in values {
            all.append(VIA, HeaderValue::from_static(value));
        }
        all
    }

    #[test]
    fn a_stream_that_was_here_before_is_refused() {
        let via = |values: &[&'static str]| via(&headers(values), "shop/waypoint");
        assert_eq!(via(&[]), Ok(vec![]));
        assert_eq!(via(&["bank/w"]), Ok(vec!["bank/w".to_owned()]));
        for circle in [
            &["shop/waypoint"][..],
            &["bank/w, shop/waypoint"],
            &["bank/w", "shop/waypoint"],
            &["a/a,b/b,c/c,d/d"],
            &["a/a", "b/b", "c/c", "d/d"],
        ] {
            assert_eq!(via(circle).unwrap_err().0, 503, "{circle:?}");
        }
        assert_eq!(via(&["a/a,b/b,c/c"]).unwrap().len(), 3);
    }
}
