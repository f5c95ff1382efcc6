//! Watches how the answers of an HTTP/1 endpoint are framed, before anybody reads them.
//!
//! The parser behind it takes one reading of an answer that has two, and what a client behind another proxy takes may be the
//! other one: some of it would be lost, or be taken for another answer. It never reads such a one whole: the first wrong line
//! ends in a zero byte instead, which it does not take, and the connection ends.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use crate::http::{Scan, Wrong};

/// A connection with its watch.
#[derive(Debug)]
pub(super) struct Watched {
    io: Io,
    scan: Scan,
    asked: Rc<Asked>,
    ended: bool,
}

/// What is asked on a connection, and what is wrong with what it answers.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// HEAD.
    pub(super) head: Cell<bool>,
    pub(super) wrong: Cell<Option<Wrong>>,
}

impl Watched {
    pub(super) fn new(io: Io, asked: Rc<Asked>) -> Self {
        Self {
            io,
            scan: Scan::answers(),
            asked,
            ended: false,
        }
    }

    pub(super) fn into_inner(self) -> Io {
        self.io
    }
}

impl AsyncRead for Watched {
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
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.scan.asked(this.asked.head.get());
        if let Err((at, wrong)) = this.scan.read(&buf.filled()[before..]) {
            buf.filled_mut()[before + at] = 0;
            buf.set_filled(before + at + 1);
            this.ended = true;
            this.asked.wrong.set(Some(wrong));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
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
