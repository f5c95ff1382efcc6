//! A small HTTP/1.1 server for people and probes: admin, metrics, readiness.
//!
//! Not a proxy, and not for traffic of the mesh. It is bounded in everything: connections, header and body time, body
//! size, and the life of a connection, which carries one request.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections at once; further ones wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// Head and body each must be there within this.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest body of a request.
const MAX_BODY: usize = 64 * 1024;
/// A connection ends after this, whatever it does.
const LIFE: Duration = Duration::from_secs(30);
/// A pause when no connection can be accepted, as when file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests with what `handler` says, until it is dropped.
pub async fn serve<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((io, _)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    connection(io, handler).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection: one request, one answer.
async fn connection<S, H, F>(io: S, handler: Arc<H>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Response<Bytes>>,
{
    let service = service_fn(|request| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(answer(request, &*handler).await.map(Full::new)) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service);
    match timeout(LIFE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection broke"),
        Err(_) => tracing::debug!("connection took too long"),
    }
}

async fn answer<H, F>(request: Request<Incoming>, handler: &H) -> Response<Bytes>
where
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Response<Bytes>>,
{
    let (head, body) = request.into_parts();
    match timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => handler(Request::from_parts(head, body.to_bytes())).await,
        Ok(Err(_)) => text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
    }
}

/// A short answer in plain text.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Bytes> {
    typed(status, "text/plain; charset=utf-8", text.into())
}

/// An answer of a content type.
pub fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The value of a parameter in a request's query, as it stands there. A parameter without value is empty.
pub fn parameter<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let pairs = request
        .uri()
        .query()?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .into_iter()
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Listens on these addresses; one of a family that the machine lacks is left out. An IPv6 wildcard takes no IPv4, so
/// that both wildcards can be given.
pub fn listen(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut failure = None;
    for address in addresses {
        match bind(*address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests;
