//! Watches how the HTTP/1 messages of a client are framed, before anybody reads them.
//!
//! The parser behind it is lenient where a proxy in front of us, or a server behind us, may not be: it takes a bare LF for
//! the end of a line and lets `transfer-encoding` win over `content-length` without a word (RFC 9112 §2.2, §6.3). A message
//! with two readings never reaches it whole: its first wrong line ends in a zero byte instead, for which the parser's answer
//! is 400 and the end of the connection. What passes has one framing, and is written anew when it is forwarded.

mod scan;

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use mesh::waypoint::Answer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

pub(crate) use self::scan::{Scan, Wrong};
use super::session::Session;

/// What a client hears that does not finish its head. Nothing else is being written then.
const TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What is read of a client while nobody asks for it: only to see whether it is still there.
const AHEAD: usize = 16 << 10;

/// What may be known of a client's connection beside its bytes.
pub trait Line: AsyncRead + AsyncWrite + Unpin {
    /// Ready when the client has given it up, even behind bytes that wait for being read. A line of which that cannot be
    /// known is never ready.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Line for net::hbone::Stream {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_given_up(self, cx)
    }
}

/// Its reset is seen by reading only.
impl Line for tokio::net::TcpStream {
    fn poll_given_up(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// It knows no reset.
impl Line for tokio::io::DuplexStream {
    fn poll_given_up(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A client's connection with its watch.
pub(super) struct Guard<IO> {
    line: Rc<RefCell<Held<IO>>>,
    /// None: HTTP/2, which has one framing.
    scan: Option<Scan>,
    session: Rc<Session>,
    /// Runs while a head has begun and not ended.
    late: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

/// The connection itself. Bytes that were read before come first.
struct Held<IO> {
    io: IO,
    ahead: BytesMut,
    /// Its client has ended its side.
    half_closed: bool,
    /// Somebody waits for its bytes.
    awaited: bool,
    /// Bytes that the client took.
    written: u64,
}

/// Sees that a client is gone while nobody reads what it says.
pub(super) struct Lookout<IO> {
    line: Rc<RefCell<Held<IO>>>,
    /// How long a client that has ended its side may take nothing.
    limit: Duration,
    /// Runs since the client has ended its side, or since it had taken so many bytes.
    patience: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<IO> Guard<IO> {
    pub(super) fn http1(io: IO, ahead: Bytes, session: Rc<Session>) -> Self {
        Self {
            scan: Some(Scan::default()),
            ..Self::http2(io, ahead, session)
        }
    }

    pub(super) fn http2(io: IO, ahead: Bytes, session: Rc<Session>) -> Self {
        let line = Held {
            io,
            ahead: ahead.into(),
            half_closed: false,
            awaited: false,
            written: 0,
        };
        Self {
            line: Rc::new(RefCell::new(line)),
            scan: None,
            session,
            late: None,
            ended: false,
        }
    }

    pub(super) fn lookout(&self, limit: Duration) -> Lookout<IO> {
        Lookout {
            line: Rc::clone(&self.line),
            limit,
            patience: None,
        }
    }

    /// Watches no more: what comes, after `ahead`, is not HTTP, or nobody wants to know.
    pub(super) fn unguard(&mut self, ahead: &[u8]) {
        self.scan = None;
        self.ended = false;
        let mut line = self.line.borrow_mut();
        let after = std::mem::take(&mut line.ahead);
        line.ahead.extend_from_slice(ahead);
        line.ahead.unsplit(after);
    }
}

impl<IO: Line> Guard<IO> {
    /// Whether its client has given it up, also behind bytes that nobody reads.
    pub(super) fn gone(&self, cx: &mut Context<'_>) -> Option<io::Error> {
        given_up(&mut self.line.borrow_mut().io, cx)
    }
}

/// Whether the peer of a line has given it up, also behind bytes that nobody reads.
pub(super) fn given_up(line: &mut impl Line, cx: &mut Context<'_>) -> Option<io::Error> {
    let given_up = line.poll_given_up(cx).is_ready();
    given_up.then(|| io::ErrorKind::ConnectionReset.into())
}

impl<IO: AsyncRead + Unpin> Held<IO> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let now = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..now]);
            self.ahead.advance(now);
            return Poll::Ready(Ok(()));
        }
        if self.half_closed {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.awaited = read.is_pending();
        if let Poll::Ready(Ok(())) = read {
            self.half_closed = buf.filled().len() == before && buf.remaining() > 0;
        }
        read
    }
}

impl<IO: Line> Held<IO> {
    /// Ready when the connection is broken.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut bytes = [0; 1 << 10];
        while !self.half_closed && self.ahead.len() < AHEAD {
            let mut buf = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => self.half_closed = true,
                Ok(()) => self.ahead.extend_from_slice(buf.filled()),
                Err(error) => return Poll::Ready(error),
            }
        }
        // What is behind the rest of its bytes, only the line itself may know.
        let given_up = self.io.poll_given_up(cx);
        given_up.map(|()| io::ErrorKind::ConnectionReset.into())
    }
}

impl<IO: Line> Lookout<IO> {
    /// To be called before whoever may read: it sees itself what becomes of what it waits for.
    pub(super) fn begin(&self) {
        self.line.borrow_mut().awaited = false;
    }

    /// Ready when the client is gone, as far as that can be known: its connection is broken, or it has ended its side and
    /// taken nothing for long. What is behind many bytes that wait for being read is seen as far as the line tells it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut line = self.line.borrow_mut();
        if !line.awaited
            && let broken @ Poll::Ready(_) = line.poll_broken(cx)
        {
            return broken;
        }
        if !line.half_closed {
            return Poll::Pending;
        }
        let limit = self.limit;
        let begin = || (line.written, Box::pin(sleep(limit)));
        let (written, patience) = self.patience.get_or_insert_with(begin);
        if *written != line.written {
            *written = line.written;
            patience.as_mut().reset(Instant::now() + limit);
        }
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let in_head = self.scan.as_ref().is_some_and(Scan::is_in_head);
        if !in_head {
            self.late = None;
            return Poll::Pending;
        }
        let limit = self.session.front.limits.head_time;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(limit)));
        if late.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.ended = true;
        self.session.fault.replace(Some(Answer::Slow));
        // Whoever does not read either will not miss it.
        let _ = Pin::new(&mut self.line.borrow_mut().io).poll_write(cx, TIMEOUT);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let filled = this.line.borrow_mut().poll_fill(cx, buf);
        match filled {
            Poll::Pending => return this.poll_late(cx),
            Poll::Ready(Ok(())) => {}
            broken @ Poll::Ready(Err(_)) => return broken,
        }
        let Some(scan) = &mut this.scan else {
            return Poll::Ready(Ok(()));
        };
        if let Err((at, fault)) = scan.read(&buf.filled()[before..]) {
            buf.filled_mut()[before + at] = 0;
            buf.set_filled(before + at + 1);
            this.ended = true;
            let fault = Answer::Unframed(fault.to_owned());
            this.session.fault.replace(Some(fault));
        }
        if !scan.is_in_head() {
            this.late = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut line = self.line.borrow_mut();
        let written = ready!(Pin::new(&mut line.io).poll_write(cx, data))?;
        line.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut line = self.line.borrow_mut();
        let written = ready!(Pin::new(&mut line.io).poll_write_vectored(cx, data))?;
        line.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.line.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line.borrow_mut().io).poll_shutdown(cx)
    }
}
