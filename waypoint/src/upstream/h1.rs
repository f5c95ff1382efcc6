//! An HTTP/1.1 connection to an endpoint.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use mesh::{plan::Plan, refusal::Refusal};
use net::task;
use tokio::{io::AsyncWriteExt, sync::oneshot, time::Instant};

use super::{
    Io, Purpose, open,
    pool::{Shelf, Unanswered},
    watch::{Asked, Watched},
};
use crate::http::{Front, Upload, Wrong};

/// The bytes of a connection that speaks something else from now on, and those that were read of it already.
pub(crate) type Handover = oneshot::Receiver<(Io, Bytes)>;

type TrySendError = hyper::client::conn::TrySendError<Request<Upload>>;

/// One connection; it closes when this is dropped.
pub(super) struct Connection {
    send: SendRequest<Upload>,
    state: Rc<State>,
}

struct State {
    /// When it was last put back.
    rested: Cell<Instant>,
    lent: Cell<bool>,
    /// It takes no request any more.
    closed: Cell<bool>,
    asked: Rc<Asked>,
    handover: RefCell<Option<oneshot::Sender<(Io, Bytes)>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// A connection that takes a request now, the one that was used last: so the others may fall idle.
pub(super) fn free(shelf: &Shelf) -> Option<Connection> {
    let mut resting = shelf.h1.borrow_mut();
    let at = resting
        .iter()
        .rposition(|connection| connection.send.is_ready() && !connection.is_closed())?;
    let connection = resting.swap_remove(at);
    connection.state.lent.set(true);
    Some(connection)
}

/// Opens a connection.
pub(super) async fn connect(
    front: &Rc<Front>,
    plan: &Plan,
    via: &[String],
    shelf: &Rc<Shelf>,
) -> Result<Connection, Refusal> {
    let place = Open::new(shelf);
    let opened = open(front, plan, Purpose { client: None, via }).await?;
    let asked = Rc::new(Asked::default());
    let io = Watched::new(opened.io, Rc::clone(&asked));
    let (send, connection) = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| Refusal::Unreachable {
            to: plan.address(),
            reason: error.to_string(),
        })?;
    let state = Rc::new(State {
        rested: Cell::new(Instant::now()),
        lent: Cell::new(true),
        closed: Cell::new(false),
        asked,
        handover: RefCell::default(),
    });
    let run = run(connection, Rc::clone(&state), front.limits.upstream.idle);
    task::spawn(async move {
        run.await;
        drop(place);
    });
    Ok(Connection { send, state })
}

/// Counts among the open connections of its kind, but does not keep the shelf: where that goes, what rests on it closes.
struct Open(Weak<Shelf>);

impl Open {
    fn new(shelf: &Rc<Shelf>) -> Self {
        shelf.open.set(shelf.open.get() + 1);
        Self(Rc::downgrade(shelf))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(shelf) = self.0.upgrade() else {
            return;
        };
        shelf.open.set(shelf.open.get() - 1);
        shelf
            .h1
            .borrow_mut()
            .retain(|connection| !connection.is_closed());
    }
}

/// Moves its bytes until it ends, has been unused for long, or is handed over.
async fn run(
    mut connection: http1::Connection<TokioIo<Watched>, Upload>,
    state: Rc<State>,
    idle: Duration,
) {
    let mut unused = pin!(tokio::time::sleep(idle));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(result.is_ok());
        }
        while unused.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let since = if state.lent.get() {
                now
            } else {
                state.rested.get()
            };
            if since + idle <= now {
                return Poll::Ready(true);
            }
            unused.as_mut().reset(since + idle);
        }
        Poll::Pending
    });
    let well = ended.await;
    state.closed.set(true);
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    let handover = state.handover.borrow_mut().take();
    match handover {
        Some(handover) if well => drop(handover.send((io.into_inner(), parts.read_buf))),
        // What a peer has broken off needs no farewell.
        Some(_) | None => {
            if well {
                io.shutdown().await.ok();
            }
        }
    }
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        let state = &self.state;
        state.closed.get() || state.asked.lost.get() || self.send.is_closed()
    }

    /// From now on it is unused.
    pub(super) fn rest(&self) {
        self.state.rested.set(Instant::now());
        self.state.lent.set(false);
        self.state.handover.borrow_mut().take();
    }

    pub(super) fn handover(&self) -> Handover {
        let (give, take) = oneshot::channel();
        self.state.handover.replace(Some(give));
        take
    }

    /// Sends a request at once; what is to be waited for does not hold it.
    pub(super) fn send(
        &mut self,
        mut request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + use<> {
        if request.body().size_hint().exact().is_none() {
            // Else hyper would take it that a GET has no body, and send none.
            let chunked = HeaderValue::from_static("chunked");
            request
                .headers_mut()
                .insert(header::TRANSFER_ENCODING, chunked);
        }
        let asked = Rc::clone(&self.state.asked);
        asked.begin(*request.method() == Method::HEAD);
        let sent = self.send.try_send_request(request);
        async move {
            sent.await
                .map_err(|error| unanswered(error, asked.wrong.get()))
        }
    }
}

/// Why it has no answer.
fn unanswered(mut error: TrySendError, wrong: Option<Wrong>) -> Unanswered {
    match (error.take_message(), wrong) {
        (Some(message), _) => Unanswered::Unsent(Some(Box::new(message))),
        (None, Some(wrong)) => Unanswered::Protocol(wrong.to_owned()),
        (None, None) if error.error().is_parse() => Unanswered::Protocol(error.error().to_string()),
        (None, None) => Unanswered::Lost(error.error().to_string()),
    }
}
