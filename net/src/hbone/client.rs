//! The end of a tunnel that asks.

use std::{
    cell::Cell,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, uri::Authority};
use mesh::identity::Identity;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{Credit, Settings, Stream, budget::Grant, watch};
use crate::task;

/// An open tunnel to a peer. Clones are the same tunnel; it closes when the last clone and stream are gone.
#[derive(Clone, Debug)]
pub struct Tunnel {
    send: SendRequest<Bytes>,
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    /// Who is at the other end, as TLS proved.
    peer: Option<Identity>,
    grant: Rc<Grant>,
    /// Streams that may be open at once for our windows' sake.
    most: usize,
    /// Streams that are open or being opened.
    streams: Cell<usize>,
    /// Whether the peer takes bytes at all.
    credit: Rc<Credit>,
    /// It takes no new streams.
    closed: Cell<bool>,
    begun: Cell<Begun>,
    /// Told when a stream ends, the tunnel closes or the peer has begun.
    changed: Notify,
}

/// Whether the peer has begun to speak HTTP/2, and so said how many streams it grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begun {
    /// It may still.
    #[default]
    NotYet,
    /// It has.
    Yes,
    /// It did not, and the tunnel is closed.
    Never,
}

/// Why a stream was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The peer answered with this status instead of 200.
    Status(u16),
    /// The tunnel is broken, or refuses streams.
    Tunnel(String),
    /// No answer in time.
    Timeout,
    /// What to ask for is not a valid authority.
    BadAuthority,
    /// The tunnels of this process keep as much as they may.
    Memory,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the peer answered {status}"),
            Self::Tunnel(reason) => f.write_str(reason),
            Self::Timeout => f.write_str("the peer did not answer in time"),
            Self::BadAuthority => f.write_str("not a valid authority"),
            Self::Memory => f.write_str("this proxy holds MAX_MEMORY already"),
        }
    }
}

/// One stream's place among those of its tunnel; free again when dropped.
#[derive(Debug)]
pub struct Place(Rc<State>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.streams.get() == 0 {
            self.0.credit.give();
        }
        self.0.changed.notify_waiters();
    }
}

/// Begins HTTP/2 as the client. The tunnel lives on a task of the calling thread's `LocalSet`.
pub async fn open<S>(
    io: S,
    settings: Settings,
    peer: Option<Identity>,
) -> Result<Tunnel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(settings.least())
        .initial_connection_window_size(settings.window())
        .max_frame_size(settings.frame_size)
        .max_header_list_size(16 << 10)
        .max_send_buffer_size(settings.send_buffer)
        .initial_max_send_streams(100);
    let handshake = tokio::time::timeout(settings.handshake, builder.handshake::<S, Bytes>(io));
    let (send, mut connection) = handshake
        .await
        .map_err(|_| ConnectError::Timeout)?
        .map_err(|error| ConnectError::Tunnel(error.to_string()))?;
    let state = Rc::new(State {
        peer,
        grant: Grant::new(&settings),
        most: usize::try_from(settings.streams()).unwrap_or(usize::MAX),
        streams: Cell::default(),
        credit: Rc::default(),
        closed: Cell::default(),
        begun: Cell::default(),
        changed: Notify::default(),
    });
    let tunnel = Tunnel {
        send,
        state: Rc::clone(&state),
    };
    task::spawn(async move {
        let pings = connection.ping_pong();
        let watch = async {
            match pings {
                Some(mut pings) => {
                    if begins(&mut pings, settings).await {
                        state.begun.set(Begun::Yes);
                        state.changed.notify_waiters();
                        watch(pings, settings).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        // Whoever has read enough to want more wakes it for what it has read.
        let driven = poll_fn(|cx| {
            let grant = &state.grant;
            grant.grow(|window| connection.set_initial_window_size(window));
            Pin::new(&mut connection).poll(cx)
        });
        let reason = tokio::select! {
            result = driven => result.err().map(|error| error.to_string()),
            () = watch => Some("the peer does not answer PINGs".to_owned()),
        };
        if let Some(reason) = reason {
            tracing::debug!(reason, "tunnel closed");
        }
        state.closed.set(true);
        if state.begun.get() == Begun::NotYet {
            state.begun.set(Begun::Never);
        }
        state.changed.notify_waiters();
    });
    Ok(tunnel)
}

/// Whether the peer's SETTINGS come. They do before anything else of it (RFC 9113 §3.4), so before its answer to a PING.
async fn begins(pings: &mut h2::PingPong, settings: Settings) -> bool {
    let answer = pings.ping(h2::Ping::opaque());
    let answer = tokio::time::timeout(settings.handshake, answer).await;
    matches!(answer, Ok(Ok(_)))
}

impl Tunnel {
    /// Who is at the other end, as TLS proved.
    pub fn peer(&self) -> Option<Identity> {
        self.state.peer
    }

    /// Streams that are open or being opened.
    pub fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// Whether it takes no new streams any more.
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Takes no new streams from now on; those that are open go on.
    pub fn retire(&self) {
        self.state.closed.set(true);
        self.state.changed.notify_waiters();
    }

    /// Whether the peer has said how many streams it grants.
    pub fn begun(&self) -> Begun {
        self.state.begun.get()
    }

    /// Streams that we may open at once, at least one: what the peer grants and our windows allow, and before the peer has
    /// said so one only, which need not wait for that.
    pub fn limit(&self) -> usize {
        match self.begun() {
            Begun::Yes => {
                let granted = self.send.current_max_send_streams();
                let most = self.state.most.min(self.state.grant.most());
                granted.min(most).max(1)
            }
            Begun::NotYet | Begun::Never => 1,
        }
    }

    /// Whether a new stream would be stuck behind others, because the peer takes no bytes on any.
    pub fn is_halted(&self) -> bool {
        self.state.credit.is_halted()
    }

    /// Until a stream ends, the tunnel closes or the peer has begun.
    pub async fn changed(&self) {
        self.state.changed.notified().await;
    }

    /// Takes a place for a stream, so that others see the tunnel as that much fuller.
    pub fn place(&self) -> Place {
        self.state.streams.set(self.state.streams.get() + 1);
        Place(Rc::clone(&self.state))
    }

    /// Opens a stream: CONNECT with these headers. The answer's headers come with it.
    pub async fn connect(
        &self,
        authority: &str,
        headers: HeaderMap<HeaderValue>,
        deadline: Instant,
    ) -> Result<(Stream, HeaderMap<HeaderValue>), ConnectError> {
        let broken = |error: h2::Error| {
            // Whatever the reason is, a next stream would hardly fare better.
            if !error.is_reset() {
                self.retire();
            }
            ConnectError::Tunnel(error.to_string())
        };
        let authority: Authority = authority.parse().map_err(|_| ConnectError::BadAuthority)?;
        let mut uri = http::uri::Parts::default();
        uri.authority = Some(authority);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| ConnectError::BadAuthority)?;
        *request.headers_mut() = headers;
        let share = self.state.grant.stream().ok_or(ConnectError::Memory)?;
        let ready = timeout_at(deadline, self.send.clone().ready()).await;
        let mut send = ready.map_err(|_| ConnectError::Timeout)?.map_err(broken)?;
        let (response, body) = send.send_request(request, false).map_err(broken)?;
        let mut guard = Unanswered(Some(body));
        let response = timeout_at(deadline, response).await;
        let response = response
            .map_err(|_| ConnectError::Timeout)?
            .map_err(broken)?;
        let (head, recv) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(ConnectError::Status(head.status.as_u16()));
        }
        let body = guard.0.take().expect("taken only here");
        let credit = Rc::clone(&self.state.credit);
        Ok((Stream::new(body, recv, credit, share), head.headers))
    }
}

/// Resets a request that nobody waits for any more.
struct Unanswered(Option<h2::SendStream<Bytes>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(mut body) = self.0.take() {
            body.send_reset(h2::Reason::CANCEL);
        }
    }
}
