//! The body of a request on its way to an endpoint.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use mesh::http::messages::Messages;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

use super::trim;
use crate::http::judged::{Judged, Side};

/// A request's body; nothing, if there is none.
#[derive(Debug, Default)]
pub(crate) struct Upload(Option<Rc<Source>>);

/// Where a body comes from. Shared with whoever wants to know how far it is.
#[derive(Debug)]
pub(in crate::http) struct Source {
    body: RefCell<Incoming>,
    /// Bytes that were passed on.
    pub(in crate::http) bytes: Cell<u64>,
    /// Of a call: the messages in them.
    messages: RefCell<Option<Messages>>,
    /// Something of it was asked for: it is not whole any more.
    pub(in crate::http) touched: Cell<bool>,
    pub(in crate::http) failed: Cell<Option<Failed>>,
    /// Closed until the endpoint wants the body.
    gate: RefCell<Option<Gate>>,
    /// Whether it may still go on.
    judged: Option<Rc<Judged>>,
    /// How long the client may give nothing; none: as long as it wants.
    patience: Cell<Option<Duration>>,
    late: RefCell<Option<Pin<Box<Sleep>>>>,
    waiting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Gate {
    opens: oneshot::Receiver<()>,
    /// An endpoint that does not know what `expect` is says nothing.
    patience: Pin<Box<Sleep>>,
    ended: bool,
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The client took too long.
    Slow,
    /// It is not framed as it should be, or its client is gone.
    Broken,
    /// Nobody wants it any more.
    Unwanted,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slow => "the client took too long with its body",
            Self::Broken => "the client's body broke off",
            Self::Unwanted => "the body is not wanted any more",
        })
    }
}

impl Error for Failed {}

/// How long an endpoint may take to say that it wants a body, before it gets it all the same (RFC 9110 §10.1.1).
const UNSAID: Duration = Duration::from_secs(1);

impl Source {
    pub(in crate::http) fn new(
        body: Incoming,
        patience: Option<Duration>,
        messages: Option<Messages>,
        judged: Option<Rc<Judged>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            body: RefCell::new(body),
            bytes: Cell::new(0),
            messages: RefCell::new(messages),
            touched: Cell::new(false),
            failed: Cell::new(None),
            gate: RefCell::new(None),
            judged,
            patience: Cell::new(patience),
            late: RefCell::new(None),
            waiting: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// Holds the body back until `opens` says that it is wanted.
    pub(in crate::http) fn hold(&self, opens: oneshot::Receiver<()>) {
        self.gate.replace(Some(Gate {
            opens,
            patience: Box::pin(sleep(UNSAID)),
            ended: false,
        }));
    }

    /// The answer has begun: from now on the client may take its time.
    pub(in crate::http) fn answered(&self) {
        self.patience.set(None);
    }

    /// The answer is over. A body that was never asked for is not asked for now.
    pub(in crate::http) fn release(&self) {
        if self.gate.borrow().is_some() {
            self.failed.set(Some(Failed::Unwanted));
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Messages that were passed on.
    pub(in crate::http) fn messages(&self) -> u64 {
        let messages = self.messages.borrow();
        messages.as_ref().map_or(0, Messages::count)
    }

    fn poll_gate(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut gate = self.gate.borrow_mut();
        let Some(closed) = gate.as_mut() else {
            return Poll::Ready(());
        };
        if !closed.ended {
            match Pin::new(&mut closed.opens).poll(cx) {
                Poll::Ready(Ok(())) => {
                    *gate = None;
                    return Poll::Ready(());
                }
                // There is an answer already. Mostly that is the end of it.
                Poll::Ready(Err(_)) => closed.ended = true,
                Poll::Pending => {}
            }
        }
        // An application may answer before it reads: if its answer goes on, that may be because it needs the body.
        if closed.patience.as_mut().poll(cx).is_ready() {
            *gate = None;
            return Poll::Ready(());
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn poll_late(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(patience) = self.patience.get() else {
            return Poll::Pending;
        };
        let mut late = self.late.borrow_mut();
        let late = late.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !self.waiting.replace(true) {
            late.as_mut().reset(Instant::now() + patience);
        }
        late.as_mut().poll(cx)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let failed = |why| {
            self.failed.set(Some(why));
            Poll::Ready(Some(Err(why)))
        };
        if let Some(why) = self.failed.get() {
            return failed(why);
        }
        let cut = |judged: &Rc<Judged>| judged.poll_cut(cx, Side::Upload).is_ready();
        if self.judged.as_ref().is_some_and(cut) {
            return failed(Failed::Unwanted);
        }
        if self.poll_gate(cx).is_pending() {
            return Poll::Pending;
        }
        self.touched.set(true);
        let frame = Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx);
        match frame {
            Poll::Pending => match self.poll_late(cx) {
                Poll::Ready(()) => failed(Failed::Slow),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(Some(Err(_))) => failed(Failed::Broken),
            Poll::Ready(Some(Ok(mut frame))) => {
                self.waiting.set(false);
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                    if let Some(messages) = &mut *self.messages.borrow_mut() {
                        messages.take(data);
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    trim(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

impl Upload {
    pub(in crate::http) fn new(source: Option<&Rc<Source>>) -> Self {
        Self(source.cloned())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        match &self.0 {
            Some(source) => source.poll(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let ended = |source: &Rc<Source>| source.body.borrow().is_end_stream();
        self.0.as_ref().is_none_or(ended)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = |source: &Rc<Source>| source.body.borrow().size_hint();
        let hinted = self.0.as_ref().map(hint);
        hinted.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
