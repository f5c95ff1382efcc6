//! Opens what a plan says.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};
use mesh::{
    headers,
    identity::Identity,
    plan::{Hop, Plan},
    refusal::{Refusal, Stage},
};
use net::{
    hbone::{self, ConnectError, Key, Tunnel},
    tls,
};
use tokio::{net::TcpStream, time::Instant};

use super::Io;
use crate::http::Front;

/// How long a tunnel's TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the other proxy may take to answer: it connects to its application first.
const ANSWER: Duration = Duration::from_secs(15);

/// What a stream in a tunnel is for. Told to the other proxy, which believes none of it for authorization.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// The client whose bytes these are, unless those of many will follow one another.
    pub client: Option<SocketAddr>,
    /// Waypoints that it has been through before this one.
    pub via: &'a [String],
}

/// What was opened.
#[derive(Debug)]
pub struct Opened {
    /// The bytes.
    pub io: Io,
    /// Who is at the other end of the tunnel, as TLS proved.
    pub peer: Option<Identity>,
}

/// Opens a connection to an endpoint. Nothing of a client was sent where it fails.
pub async fn open(front: &Rc<Front>, plan: &Plan, purpose: Purpose<'_>) -> Result<Opened, Refusal> {
    match plan {
        Plan::Passthrough { to } | Plan::Direct { to, .. } => {
            let socket = connect(front, *to).await?;
            Ok(Opened {
                io: Io::Plain(socket),
                peer: None,
            })
        }
        Plan::Tunnel(hop) => tunnelled(front, hop, purpose).await,
    }
}

async fn connect(front: &Front, to: SocketAddr) -> Result<TcpStream, Refusal> {
    let unreachable = |reason: String| Refusal::Unreachable { to, reason };
    let connecting = TcpStream::connect(to);
    let connected = tokio::time::timeout(front.limits.upstream.connect, connecting);
    let socket = connected
        .await
        .map_err(|_| unreachable("no answer in time".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))?;
    // A connection that is gone already fails soon enough where it matters.
    sys::socket::nodelay(&socket).ok();
    Ok(socket)
}

async fn tunnelled(front: &Rc<Front>, hop: &Hop, purpose: Purpose<'_>) -> Result<Opened, Refusal> {
    let identity = front.from.identity;
    let credential = front.credential().ok_or_else(|| Refusal::NoCertificate {
        identity,
        reason: "none was issued yet".to_owned(),
    })?;
    let key = Key {
        address: hop.address,
        identities: hop.identities.clone(),
        workload: Arc::clone(&hop.workload.uid),
        serial: credential.serial().to_owned(),
    };
    let dial = || {
        let (front, credential) = (Rc::clone(front), Arc::clone(&credential));
        let (to, expected) = (hop.address, hop.identities.clone());
        async move { dial(&front, to, &expected, &credential).await }
    };
    let (tunnel, place) = front.pools.tunnels().place(&key, dial).await?;
    let headers = headers_for(front, hop, purpose);
    let authority = hop.authority.to_string();
    let deadline = Instant::now() + ANSWER;
    match tunnel.connect(&authority, headers, deadline).await {
        Ok((stream, _)) => Ok(Opened {
            io: Io::Tunnelled(stream, place),
            peer: tunnel.peer(),
        }),
        Err(ConnectError::Status(status)) => Err(Refusal::RefusedByPeer {
            peer: hop.address,
            status,
        }),
        Err(error) => Err(Refusal::Tunnel {
            to: hop.address,
            stage: Stage::Http2,
            reason: error.to_string(),
        }),
    }
}

async fn dial(
    front: &Front,
    to: SocketAddr,
    expected: &[Identity],
    credential: &tls::Credential,
) -> Result<Tunnel, Refusal> {
    let failed = |stage, reason| Refusal::Tunnel { to, stage, reason };
    let connected = connect(front, to).await;
    let tcp = connected.map_err(|refusal| match refusal {
        Refusal::Unreachable { reason, .. } => failed(Stage::Connect, reason),
        other => other,
    })?;
    let (tls, peer) = tls::connect(tcp, credential, expected, Instant::now() + HANDSHAKE)
        .await
        .map_err(|error| failed(Stage::Tls, error.to_string()))?;
    hbone::open(tls, front.limits.upstream.tunnel, Some(peer.identity))
        .await
        .map_err(|error| failed(Stage::Http2, error.to_string()))
}

/// What the other proxy is told beside what is asked for.
fn headers_for(front: &Front, hop: &Hop, purpose: Purpose<'_>) -> HeaderMap<HeaderValue> {
    let trace = (u128::from(front.random()) << 64) | u128::from(front.random());
    let service = hop
        .service
        .as_ref()
        .map(|service| service.hostname.as_str());
    let from = purpose
        .client
        .map(|client| headers::forwarded(client, service));
    let mut via = purpose.via.join(", ");
    if !via.is_empty() {
        via.push_str(", ");
    }
    via.push_str(&front.own.name);
    let mut all = HeaderMap::with_capacity(4);
    for (name, text) in [
        ("ambit-via", via),
        ("baggage", front.own.baggage.clone()),
        ("forwarded", from.unwrap_or_default()),
        ("traceparent", headers::traceparent(trace, front.random())),
    ] {
        if let Some(value) = HeaderValue::try_from(text).ok().filter(|v| !v.is_empty()) {
            all.insert(name, value);
        }
    }
    all
}

#[cfg(test)]
mod tests;
