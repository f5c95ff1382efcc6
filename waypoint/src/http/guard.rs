//! Watches how the HTTP/1 messages of a client are framed, before anybody reads them.
//!
//! The parser behind it is lenient where a proxy in front of us, or a server behind us, may not be: it takes a bare LF for
//! the end of a line and lets `transfer-encoding` win over `content-length` without a word (RFC 9112 §2.2, §6.3). A message
//! with two readings never reaches it whole: its first wrong line ends in a zero byte instead, for which the parser's answer
//! is 400 and the end of the connection. What passes has one framing, and is written anew when it is forwarded.

mod scan;

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use mesh::waypoint::Answer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use self::scan::Scan;
use super::session::Session;

/// What a client hears that does not finish its head. Nothing else is being written then.
const TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A client's connection with its watch. Bytes that were read before come first.
pub(super) struct Guard<IO> {
    io: IO,
    ahead: Bytes,
    /// None: HTTP/2, which has one framing.
    scan: Option<Scan>,
    session: Rc<Session>,
    /// Runs while a head has begun and not ended.
    late: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<IO> Guard<IO> {
    pub(super) fn http1(io: IO, ahead: Bytes, session: Rc<Session>) -> Self {
        Self {
            scan: Some(Scan::default()),
            ..Self::http2(io, ahead, session)
        }
    }

    pub(super) fn http2(io: IO, ahead: Bytes, session: Rc<Session>) -> Self {
        Self {
            io,
            ahead,
            scan: None,
            session,
            late: None,
            ended: false,
        }
    }

    /// Watches no more: what comes, after `ahead`, is not HTTP.
    pub(super) fn unguard(&mut self, ahead: Bytes) {
        self.scan = None;
        self.ahead = ahead;
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let now = self.ahead.split_to(self.ahead.len().min(buf.remaining()));
        buf.put_slice(&now);
        Poll::Ready(Ok(()))
    }

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
        let _ = Pin::new(&mut self.io).poll_write(cx, TIMEOUT);
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
        match this.poll_fill(cx, buf) {
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
