//! Watches an HTTP/1 connection to an endpoint: how answers are framed, before anybody reads them, and whether it still takes
//! what is written.
//!
//! The parser behind it takes one reading of an answer that has two, and what a client behind another proxy takes may be the
//! other one: some of it would be lost, or be taken for another answer. It never reads such a one whole: the first wrong line
//! ends in a zero byte instead, which it does not take, and the connection ends.
//!
//! An endpoint may answer before it has read the whole request, and close: its system resets the connection then, and what is
//! written fails while the answer waits for being read. Whoever drives the connection would give up at that, so from there on
//! writes seem to succeed and go nowhere, until all that came is read.

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
    /// Why it takes no more.
    lost: Option<io::ErrorKind>,
}

/// What is asked on a connection, and what is wrong with what it answers.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// HEAD.
    head: Cell<bool>,
    /// Something of this request was written.
    begun: Cell<bool>,
    /// The endpoint takes no more: the connection is for no other request.
    pub(super) lost: Cell<bool>,
    pub(super) wrong: Cell<Option<Wrong>>,
}

impl Asked {
    /// A request begins.
    pub(super) fn begin(&self, is_head: bool) {
        self.head.set(is_head);
        self.begun.set(false);
    }
}

impl Watched {
    pub(super) fn new(io: Io, asked: Rc<Asked>) -> Self {
        Self {
            io,
            scan: Scan::answers(),
            asked,
            ended: false,
            lost: None,
        }
    }

    pub(super) fn into_inner(self) -> Io {
        self.io
    }

    /// What becomes of `wanted` bytes that were written. What was never begun has no answer.
    fn wrote(
        &mut self,
        wanted: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let begun = &self.asked.begun;
        match ready!(written) {
            Ok(written) => {
                begun.set(begun.get() || written > 0);
                Poll::Ready(Ok(written))
            }
            Err(error) if begun.get() && is_end(&self.io, &error) => {
                self.lost = Some(error.kind());
                self.asked.lost.set(true);
                Poll::Ready(Ok(wanted))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// Whether an error in writing says that the connection is over both ways, so that what is still read ends soon.
fn is_end(io: &Io, error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match io {
        Io::Plain(_) => matches!(error.kind(), BrokenPipe | ConnectionReset),
        Io::Tunnelled(..) => true,
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
        // A socket tells of a reset once, here in writing: its end is not that of what the endpoint had to say.
        if buf.filled().len() == before && this.lost == Some(io::ErrorKind::ConnectionReset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.lost.is_some() {
            return Poll::Ready(Ok(data.len()));
        }
        let written = Pin::new(&mut this.io).poll_write(cx, data);
        this.wrote(data.len(), written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let all = data.iter().map(|piece| piece.len()).sum();
        if this.lost.is_some() {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, data);
        this.wrote(all, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lost.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";

    /// A watched connection, and what its endpoint has of it.
    async fn connected() -> (Watched, Rc<Asked>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap());
        let (socket, accepted) = tokio::join!(socket, listener.accept());
        let asked = Rc::new(Asked::default());
        asked.begin(false);
        let watched = Watched::new(Io::Plain(socket.unwrap()), Rc::clone(&asked));
        (watched, asked, accepted.unwrap().0)
    }

    /// All that is said on it, and how that ends.
    async fn rest(watched: &mut Watched) -> (Vec<u8>, Result<(), io::ErrorKind>) {
        let mut said = Vec::new();
        let ended = watched.read_to_end(&mut said).await;
        (said, ended.map(drop).map_err(|error| error.kind()))
    }

    #[tokio::test]
    async fn what_was_said_before_a_reset_is_read_and_its_end_is_none() {
        let (mut watched, asked, mut endpoint) = connected().await;
        watched.write_all(b"begun").await.unwrap();
        endpoint.readable().await.unwrap();
        endpoint.write_all(ANSWER).await.unwrap();
        drop(endpoint);
        watched.write_all(b"more").await.unwrap();
        watched.write_all(b"and more").await.unwrap();
        watched.flush().await.unwrap();
        assert!(asked.lost.get());
        let broken = Err(io::ErrorKind::ConnectionReset);
        assert_eq!(rest(&mut watched).await, (ANSWER.to_vec(), broken));
    }

    #[tokio::test]
    async fn an_end_before_a_reset_is_one() {
        let (mut watched, asked, mut endpoint) = connected().await;
        watched.write_all(b"begun").await.unwrap();
        endpoint.read_exact(&mut [0; 5]).await.unwrap();
        endpoint.write_all(ANSWER).await.unwrap();
        drop(endpoint);
        while !asked.lost.get() {
            watched.write_all(b"more").await.unwrap();
        }
        assert_eq!(rest(&mut watched).await, (ANSWER.to_vec(), Ok(())));
    }

    #[tokio::test]
    async fn what_is_said_before_a_request_begins_is_no_answer_to_it() {
        let (mut watched, asked, mut endpoint) = connected().await;
        watched.write_all(b"one").await.unwrap();
        asked.begin(false);
        endpoint.readable().await.unwrap();
        endpoint.write_all(ANSWER).await.unwrap();
        drop(endpoint);
        assert!(watched.write_all(b"another").await.is_err());
        assert!(!asked.lost.get());
    }
}
