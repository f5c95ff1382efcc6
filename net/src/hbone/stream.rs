//! One CONNECT stream, from either end, once both have agreed to it.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Credit, FIRST, budget::Share};
use crate::carry::{Broken, End};

/// A stream in a tunnel. Dropping it without [`finish`](Self::poll_shutdown) resets it.
#[derive(Debug)]
pub struct Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not yet read, for the face that reads bytes.
    rest: Bytes,
    /// Sent so far.
    sent: usize,
    /// Of the tunnel.
    credit: Rc<Credit>,
    share: Share,
    finished: bool,
}

impl Stream {
    pub(super) fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        credit: Rc<Credit>,
        share: Share,
    ) -> Self {
        Self {
            send,
            recv,
            rest: Bytes::new(),
            sent: 0,
            credit,
            share,
            finished: false,
        }
    }

    /// Until something may be sent; how much, of `wanted`. Credit is asked for only when there is something to send: a
    /// stream that has nothing to say must not sit on what its neighbours need.
    fn room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, h2::Error>> {
        loop {
            match self.send.capacity() {
                0 => self.send.reserve_capacity(wanted),
                room => return Poll::Ready(Ok(room.min(wanted))),
            }
            let Poll::Ready(given) = self.send.poll_capacity(cx) else {
                if self.sent < FIRST {
                    self.credit.wait();
                }
                return Poll::Pending;
            };
            match given {
                Some(Ok(0)) => {}
                Some(Ok(room)) => {
                    self.credit.give();
                    return Poll::Ready(Ok(room.min(wanted)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            }
        }
    }

    /// Ready when the peer has given the stream up, or the tunnel is gone: also while what it has sent before waits for being
    /// read, which hides that from a reader.
    pub fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }

    fn send(&mut self, data: Bytes) -> Result<(), h2::Error> {
        self.sent = self.sent.saturating_add(data.len());
        self.send.send_data(data, false)
    }

    fn give_back(&mut self, bytes: usize) {
        self.share.read(bytes);
        // Fails only if more is given back than was taken, or the stream is gone already.
        self.recv.flow_control().release_capacity(bytes).ok();
    }
}

fn broken(error: &h2::Error) -> Broken {
    match error.reason() {
        Some(reason) if error.is_remote() => Broken::TunnelReset(reason.to_string()),
        _ => Broken::Tunnel(error.to_string()),
    }
}

impl End for Stream {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            match ready!(self.recv.poll_data(cx)) {
                // An empty frame carries nothing; HTTP/2 limits how many there may be.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    fn taken(&mut self, bytes: usize) {
        self.give_back(bytes);
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        while !data.is_empty() {
            let room = ready!(self.room(cx, data.len())).map_err(|error| broken(&error))?;
            let now = data.split_to(room);
            self.send(now).map_err(|error| broken(&error))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.finished = true;
        let end = self.send.send_data(Bytes::new(), true);
        Poll::Ready(end.map_err(|error| broken(&error)))
    }

    fn gone(&mut self, cx: &mut Context<'_>) -> Option<Broken> {
        match self.send.poll_reset(cx) {
            // All that it had to say is said.
            Poll::Pending | Poll::Ready(Ok(Reason::NO_ERROR)) => None,
            Poll::Ready(Ok(reason)) => Some(Broken::TunnelReset(reason.to_string())),
            Poll::Ready(Err(error)) => Some(broken(&error)),
        }
    }

    fn abort(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match ready!(this.poll_take(cx)) {
                Ok(Some(data)) => this.rest = data,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(io::Error::other(error.to_string()))),
            }
        }
        let now = this.rest.split_to(this.rest.len().min(buf.remaining()));
        buf.put_slice(&now);
        this.give_back(now.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let room = ready!(this.room(cx, data.len())).map_err(io::Error::other)?;
        let now = &data[..room];
        this.send(Bytes::copy_from_slice(now))
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(Ok(()));
        }
        this.poll_finish(cx)
            .map_err(|error| io::Error::other(error.to_string()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The crate below would end it as if all had been said; a peer must not take half a message
        // for a whole one.
        if !self.finished {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}
