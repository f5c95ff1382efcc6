//! The end of a tunnel that is asked.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Settings, Stream,
    budget::{Grant, Share},
    watch,
};

/// So many streams may be given up before they are answered …
const ABANDONED: u32 = 400;
/// … in so much time.
const WINDOW: Duration = Duration::from_secs(10);

/// A stream that a peer asks for.
#[derive(Debug)]
pub struct Connect {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    abandoned: Rc<Cell<u32>>,
    share: Option<Share>,
}

impl Connect {
    /// The method; only CONNECT can be accepted.
    pub fn method(&self) -> &Method {
        self.request.method()
    }

    /// What is asked for. Empty if the peer sent none.
    pub fn authority(&self) -> &str {
        self.request
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    /// What the peer says beside it. None of it proves anything.
    pub fn headers(&self) -> &HeaderMap<HeaderValue> {
        self.request.headers()
    }

    /// Whether all tunnels together may keep what this one may bring. If not, it can only be refused.
    pub fn fits(&self) -> bool {
        self.share.is_some()
    }

    /// Until the peer gives the stream up, or the tunnel is gone.
    pub async fn given_up(&mut self) {
        // Whether it is a reset or an error, nobody waits for an answer any more.
        poll_fn(|cx| self.respond.poll_reset(cx)).await.ok();
        self.abandoned.set(self.abandoned.get() + 1);
    }

    /// Answers 200 with these headers; bytes may flow.
    pub fn accept(mut self, headers: HeaderMap<HeaderValue>) -> Result<Stream, h2::Error> {
        let share = self.share.take().ok_or(Reason::ENHANCE_YOUR_CALM)?;
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self.respond.send_response(response, false)?;
        let recv = self.request.into_body();
        Ok(Stream::new(send, recv, Rc::default(), share))
    }

    /// Answers with an error status; the stream is over.
    pub fn refuse(mut self, status: u16) {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        // A peer that is gone needs no answer.
        self.respond.send_response(response, true).ok();
    }
}

/// Serves a tunnel until the peer closes it, it breaks, or `drain` is over and all its streams have ended. `on_stream`
/// is called for each stream and must not take long.
pub async fn serve<S>(
    io: S,
    settings: Settings,
    drain: impl Future<Output = ()>,
    mut on_stream: impl FnMut(Connect),
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.least())
        .initial_connection_window_size(settings.window())
        .max_frame_size(settings.frame_size)
        .max_header_list_size(64 << 10)
        .max_concurrent_streams(settings.streams())
        .max_send_buffer_size(settings.send_buffer);
    let handshake = tokio::time::timeout(settings.handshake, builder.handshake::<S, Bytes>(io));
    let mut connection = handshake
        .await
        .map_err(|_| "HTTP/2 did not begin in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let mut watch = match connection.ping_pong() {
        Some(pings) => Box::pin(watch(pings, settings)),
        None => return Err("PINGs are taken already".to_owned()),
    };
    let mut drain = std::pin::pin!(drain);
    let mut draining = false;
    let grant = Grant::new(&settings);
    let abandoned = Rc::new(Cell::new(0));
    let mut window = Instant::now();
    loop {
        // Streams that a peer gives up before they are answered cost more than they cost the peer (CVE-2023-44487).
        if window.elapsed() > WINDOW {
            window = Instant::now();
            abandoned.set(0);
        } else if abandoned.get() > ABANDONED {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            return Err("the peer gave up too many streams".to_owned());
        }
        tokio::select! {
            // Whoever has read enough to want more wakes it for what it has read.
            stream = poll_fn(|cx| {
                grant.grow(|window| connection.set_initial_window_size(window));
                connection.poll_accept(cx)
            }) => match stream {
                Some(Ok((request, respond))) => {
                    let abandoned = Rc::clone(&abandoned);
                    let share = grant.stream();
                    on_stream(Connect { request, respond, abandoned, share });
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Ok(()),
            },
            () = &mut watch => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                return Err("the peer does not answer PINGs".to_owned());
            }
            () = &mut drain, if !draining => {
                draining = true;
                // GOAWAY twice: with the largest id, then with the last one taken.
                connection.graceful_shutdown();
            }
        }
    }
}
