//! A request's body on an HTTP/2 connection, and what its pace tells of that.
//!
//! Whoever drives the connection does not say how much the endpoint still takes, but it asks for more of a body only when what
//! it got of it before is on its way. So a body whose first bytes were taken, and of which no more is asked for, waits for what
//! all streams share.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use net::hbone::{Credit, FIRST};

use super::h2::Share;
use crate::http::Upload;

/// A body. Its stream is open as long as it is not through, whatever became of the answer.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Upload,
    credit: Rc<Credit>,
    unwanted: Rc<Cell<bool>>,
    _share: Share,
    /// Taken of it so far.
    taken: usize,
    /// Some of that may not be on its way yet.
    waits: bool,
}

impl Outgoing {
    /// `unwanted` says that nobody waits for an answer any more.
    pub(super) fn new(
        body: Upload,
        share: Share,
        credit: Rc<Credit>,
        unwanted: Rc<Cell<bool>>,
    ) -> Self {
        Self {
            body,
            credit,
            unwanted,
            _share: share,
            taken: 0,
            waits: false,
        }
    }

    pub(super) fn into_upload(mut self) -> Upload {
        std::mem::take(&mut self.body)
    }

    /// What was taken of it is on its way.
    fn gone(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.credit.give();
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = <Upload as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.gone();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
            && !data.is_empty()
        {
            if this.taken < FIRST {
                this.credit.wait();
            }
            this.taken = this.taken.saturating_add(data.len());
            this.waits = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // The last bytes are on their way, unless it was given up before.
        if self.body.is_end_stream() && !self.unwanted.get() {
            self.gone();
        }
    }
}
