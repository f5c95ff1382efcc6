//! Drives one client connection.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::{http::head::TooLarge, waypoint::Answer};
use net::hbone::window;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    Connection, Front, Version, exchange,
    guard::{Guard, Line},
    request,
    session::Session,
};
use crate::upstream::{Local, STREAM_WINDOW};

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What may wait in one stream for a client that does not read.
const SEND_BUFFER: usize = 256 << 10;
/// How often a client is asked whether it is still there, and how long it may take.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));
/// Streams that a client has reset and that are not forgotten yet, before it is taken for an attack.
const RESETS: usize = 50;
/// What a client may still be sending after its last answer, and for how long it is listened to, so that it hears that one.
const FAREWELL: (usize, Duration) = (64 << 20, Duration::from_secs(2));

/// Serves one client connection until it ends, or `drain` and the last answer are over.
pub async fn serve<IO>(
    front: Rc<Front>,
    connection: Connection,
    mut io: IO,
    version: Version,
    drain: impl Future<Output = ()> + 'static,
) where
    IO: Line + 'static,
{
    let session = Session::new(front, connection);
    let mut drain = Box::pin(drain);
    let (is_h2, ahead) = match version {
        Version::H1 => (false, Bytes::new()),
        Version::H2 => (true, Bytes::new()),
        Version::Either => {
            let mut read = BytesMut::with_capacity(4 << 10);
            let spoke = tokio::select! {
                biased;
                spoke = io.read_buf(&mut read) => spoke,
                () = silence(&session, drain.as_mut()) => Ok(0),
            };
            if !matches!(spoke, Ok(1..)) {
                io.shutdown().await.ok();
                return;
            }
            let limit = session.front.limits.head_time;
            match timeout(limit, preface(&mut io, read)).await {
                Ok(Some(found)) => found,
                // It did not say enough.
                Ok(None) | Err(_) => return,
            }
        }
    };
    if is_h2 {
        http2(
            &session,
            Guard::http2(io, ahead, Rc::clone(&session)),
            drain,
        )
        .await;
    } else {
        http1(
            &session,
            Guard::http1(io, ahead, Rc::clone(&session)),
            drain,
        )
        .await;
    }
}

/// As long as a connection may be open before its first byte.
async fn silence(session: &Session, drain: impl Future<Output = ()>) {
    let limits = session.front.limits;
    if timeout(limits.idle, drain).await.is_ok() {
        session.draining.set(true);
        sleep(limits.linger).await;
    }
}

/// Whether a connection that has begun begins as HTTP/2 does, and what was read of it. None: it broke.
async fn preface<IO: AsyncRead + Unpin>(io: &mut IO, mut read: BytesMut) -> Option<(bool, Bytes)> {
    loop {
        if read.starts_with(PREFACE) {
            return Some((true, read.freeze()));
        }
        if !PREFACE.starts_with(&read) || io.read_buf(&mut read).await.ok()? == 0 {
            return Some((false, read.freeze()));
        }
    }
}

/// When a connection has to end of itself.
struct Watch<D> {
    session: Rc<Session>,
    drain: Pin<Box<D>>,
    timer: Pin<Box<Sleep>>,
    state: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// Every answer is the last one.
    Draining,
    Ending,
}

impl<D: Future<Output = ()>> Watch<D> {
    fn new(session: &Rc<Session>, drain: Pin<Box<D>>) -> Self {
        Self {
            session: Rc::clone(session),
            drain,
            timer: Box::pin(sleep(session.front.limits.idle)),
            state: Life::Open,
        }
    }

    /// Ready once, when the connection is to end as soon as it can.
    fn poll(&mut self, cx: &mut Context<'_>, linger: Duration) -> Poll<()> {
        // A drain that began before the first byte is over, and not to be asked again.
        let drains = self.session.draining.get();
        if self.state == Life::Open && (drains || self.drain.as_mut().poll(cx).is_ready()) {
            self.state = Life::Draining;
            self.session.draining.set(true);
            self.timer.as_mut().reset(Instant::now() + linger);
        }
        if self.state == Life::Ending {
            return Poll::Pending;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let (now, idle) = (Instant::now(), self.session.front.limits.idle);
            let busy = self.session.in_flight.get() > 0;
            let since = if busy { now } else { self.session.rested.get() };
            if self.state == Life::Draining || since + idle <= now {
                self.state = Life::Ending;
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(since + idle);
        }
        Poll::Pending
    }
}

async fn http1<IO>(session: &Rc<Session>, io: Guard<IO>, drain: Pin<Box<impl Future<Output = ()>>>)
where
    IO: Line + 'static,
{
    let limits = session.front.limits;
    let own = Rc::clone(session);
    let mut lookout = io.lookout(limits.half_closed);
    // Only what can be moved may be served so that the rest of its bytes can be taken over.
    let answers = service_fn(move |request| Box::pin(request::respond(Rc::clone(&own), request)));
    let mut connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size((limits.head.target + limits.head.bytes).max(8 << 10) + (16 << 10))
        .serve_connection(TokioIo::new(io), answers);
    let mut watch = Watch::new(session, drain);
    let result = poll_fn(|cx| {
        lookout.begin();
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Some(result));
        }
        // Nobody else sees it while a request is under way: a client that has ended its side may still want its answer.
        if session.in_flight.get() > 0
            && let Poll::Ready(error) = lookout.poll(cx)
        {
            tracing::debug!(%error, "a client is gone before its answer");
            return Poll::Ready(None);
        }
        if watch.poll(cx, limits.linger).is_ready() {
            Pin::new(&mut connection).graceful_shutdown();
            return connection.poll_without_shutdown(cx).map(Some);
        }
        Poll::Pending
    });
    let Some(result) = result.await else {
        return;
    };
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if let Some(upgraded) = session.upgraded.take() {
        io.unguard(&parts.read_buf);
        upgraded.carry(io).await;
        return;
    }
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
        match refused(session, &error) {
            Some(answer) => exchange::unread(session, &answer),
            // Without a farewell: what it heard of an answer that broke off must not look whole.
            None => return,
        }
    }
    io.shutdown().await.ok();
    io.unguard(&[]);
    // In a place of its own, which an open connection does not hold.
    Box::pin(listen_on(io)).await;
}

/// Why a client's bytes were refused before they were a request.
fn refused(session: &Session, error: &hyper::Error) -> Option<Answer> {
    let fault = session.fault.take();
    fault.or_else(|| {
        if error.is_parse_too_large() {
            Some(Answer::TooLarge(TooLarge::Bytes))
        } else {
            error
                .is_parse()
                .then(|| Answer::Unframed(error.to_string()))
        }
    })
}

/// Takes what a client still sends: a stream or socket that is closed with bytes unread resets the answer away.
async fn listen_on<IO: AsyncRead + Unpin>(mut io: IO) {
    let (mut left, patience) = FAREWELL;
    let listen = async {
        let mut bytes = [0; 4 << 10];
        while let Ok(read @ 1..) = io.read(&mut bytes).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    timeout(patience, listen).await.ok();
}

async fn http2<IO>(session: &Rc<Session>, io: Guard<IO>, drain: Pin<Box<impl Future<Output = ()>>>)
where
    IO: Line + 'static,
{
    let limits = session.front.limits;
    let own = Rc::clone(session);
    let answers = service_fn(move |request| request::respond(Rc::clone(&own), request));
    let list = u32::try_from(limits.head.target + limits.head.bytes).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_header_list_size(list)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window(STREAM_WINDOW, limits.streams))
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .serve_connection(TokioIo::new(io), answers);
    let mut connection = pin!(connection);
    let mut watch = Watch::new(session, drain);
    let result = poll_fn(|cx| {
        // A GOAWAY cuts nobody off: what comes before the client knows is served.
        if watch.poll(cx, Duration::ZERO).is_ready() {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = result.await {
        tracing::debug!(%error, "a client's connection ended");
    }
}
