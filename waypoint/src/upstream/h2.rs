//! HTTP/2 connections to an endpoint, each shared by many requests.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::{plan::Plan, refusal::Refusal};
use net::{
    hbone::{Credit, HALTED, window},
    task,
};
use tokio::{sync::watch, time::Instant};

use super::{
    Purpose, open,
    outgoing::Outgoing,
    pool::{Shelf, Unanswered},
};
use crate::http::{Front, Upload};

/// What may wait in one stream for an endpoint that does not read.
const SEND_BUFFER: usize = 256 << 10;
/// What may come of a stream that is not read. A connection takes that for all its streams together.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// How often an endpoint with open streams is asked whether it is still there, and how long it may take.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// Runs what hyper spawns on the calling thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        task::spawn(future);
    }
}

type Outcome = watch::Receiver<Option<Result<(), Refusal>>>;

/// Connections of one kind.
#[derive(Debug, Default)]
pub(super) struct Shared {
    open: RefCell<Vec<Rc<Connection>>>,
    dial: RefCell<Option<Outcome>>,
}

struct Connection {
    send: RefCell<SendRequest<Outgoing>>,
    streams: Cell<usize>,
    limit: Cell<usize>,
    /// Whether the endpoint takes bytes at all.
    credit: Rc<Credit>,
    /// When its last stream ended.
    rested: Cell<Instant>,
    closed: Cell<bool>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// One stream's share in a connection. Clones are the same share.
#[derive(Clone, Debug)]
pub(super) struct Share(Rc<Taken>);

/// A stream's place.
#[derive(Debug)]
struct Taken(Rc<Connection>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.streams.get() == 0 {
            self.0.credit.give();
        }
        self.0.rested.set(Instant::now());
    }
}

/// Says that an answer is not wanted any more, unless it came.
struct Wanted(Option<Rc<Cell<bool>>>);

impl Wanted {
    fn no_more(&mut self) {
        self.0 = None;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if let Some(unwanted) = &self.0 {
            unwanted.set(true);
        }
    }
}

impl Shared {
    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty() && self.dial.borrow().is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// A share in the fullest connection that has room, so that the others may fall idle. In one at a halt only where that is
    /// the fate of many.
    pub(super) fn room(&self) -> Option<Share> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| !connection.closed.get() && !connection.send.borrow().is_closed());
        let all = open.iter().filter(|it| it.credit.is_halted()).count() >= HALTED;
        let fits = |connection: &&Rc<Connection>| {
            connection.streams.get() < connection.limit.get()
                && (all || !connection.credit.is_halted())
        };
        let fullest = open.iter().filter(fits).max_by_key(|it| it.streams.get())?;
        Some(Share::of(fullest))
    }
}

/// A share in a connection that is open, or in a new one. Whoever wants the same meanwhile
/// waits for one dial.
pub(super) async fn share(
    front: &Rc<Front>,
    plan: &Plan,
    via: &[String],
    shelf: &Rc<Shelf>,
) -> Result<Share, Refusal> {
    loop {
        if let Some(share) = shelf.h2.room() {
            return Ok(share);
        }
        let mut outcome = dialling(front, plan, via, shelf);
        let done = outcome.wait_for(Option::is_some).await;
        if let Ok(done) = done
            && let Some(Err(refusal)) = &*done
        {
            return Err(refusal.clone());
        }
    }
}

fn dialling(front: &Rc<Front>, plan: &Plan, via: &[String], shelf: &Rc<Shelf>) -> Outcome {
    let mut dial = shelf.h2.dial.borrow_mut();
    if let Some(outcome) = &*dial {
        return outcome.clone();
    }
    let (tell, outcome) = watch::channel(None);
    *dial = Some(outcome.clone());
    let (front, shelf) = (Rc::clone(front), Rc::clone(shelf));
    let (plan, via) = (plan.clone(), via.to_vec());
    task::spawn(async move {
        let connected = connect(&front, &plan, &via).await;
        shelf.h2.dial.borrow_mut().take();
        match connected {
            Err(refusal) => drop(tell.send(Some(Err(refusal)))),
            Ok((connection, run)) => {
                shelf.h2.open.borrow_mut().push(Rc::clone(&connection));
                drop(tell.send(Some(Ok(()))));
                run.await;
                connection.closed.set(true);
                let mut open = shelf.h2.open.borrow_mut();
                open.retain(|other| !Rc::ptr_eq(other, &connection));
            }
        }
    });
    outcome
}

async fn connect(
    front: &Rc<Front>,
    plan: &Plan,
    via: &[String],
) -> Result<(Rc<Connection>, impl Future<Output = ()> + use<>), Refusal> {
    let opened = open(front, plan, Purpose { client: None, via }).await?;
    let limits = front.limits.upstream;
    let (send, driver) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window(STREAM_WINDOW, limits.streams))
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .handshake(TokioIo::new(opened.io))
        .await
        .map_err(|error| Refusal::Unreachable {
            to: plan.address(),
            reason: error.to_string(),
        })?;
    let most = usize::try_from(limits.streams).unwrap_or(usize::MAX);
    let connection = Rc::new(Connection {
        send: RefCell::new(send),
        streams: Cell::new(0),
        limit: Cell::new(most),
        credit: Rc::default(),
        rested: Cell::new(Instant::now()),
        closed: Cell::new(false),
    });
    let state = Rc::clone(&connection);
    let run = async move {
        let mut driver = pin!(driver);
        let mut unused = pin!(tokio::time::sleep(limits.idle));
        poll_fn(|cx| {
            let granted = driver.current_max_send_streams().max(1);
            state.limit.set(most.min(granted));
            if driver.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            while unused.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                let busy = state.streams.get() > 0;
                let since = if busy { now } else { state.rested.get() };
                if since + limits.idle <= now {
                    return Poll::Ready(());
                }
                unused.as_mut().reset(since + limits.idle);
            }
            Poll::Pending
        })
        .await;
    };
    Ok((connection, run))
}

impl Share {
    fn of(connection: &Rc<Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(Rc::new(Taken(Rc::clone(connection))))
    }

    /// Sends a request at once; what is to be waited for does not hold it.
    pub(super) fn send(
        &self,
        request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + use<> {
        let connection = Rc::clone(&self.0.0);
        let unwanted = Rc::new(Cell::new(false));
        let mut wanted = Wanted(Some(Rc::clone(&unwanted)));
        // It may outlive its answer.
        let request = request.map(|body| {
            let credit = Rc::clone(&connection.credit);
            Outgoing::new(body, self.clone(), credit, unwanted)
        });
        let sent = connection.send.borrow_mut().try_send_request(request);
        async move {
            let answer = sent.await;
            wanted.no_more();
            answer.map_err(|mut error| {
                let failed = match error.take_message() {
                    Some(message) => {
                        Unanswered::Unsent(Some(Box::new(message.map(Outgoing::into_upload))))
                    }
                    None => unanswered(error.error()),
                };
                if matches!(failed, Unanswered::Unsent(_)) {
                    // It keeps the streams that it has, and gets no more.
                    connection.closed.set(true);
                }
                failed
            })
        }
    }
}

/// What an endpoint says that it did not process (RFC 9113 §8.7): a stream that it refused, or one above the last of its
/// GOAWAY.
fn unanswered(error: &hyper::Error) -> Unanswered {
    let h2 = error
        .source()
        .and_then(|source| source.downcast_ref::<::h2::Error>());
    match h2 {
        Some(h2) if h2.is_remote() && h2.reason() == Some(::h2::Reason::REFUSED_STREAM) => {
            Unanswered::Unsent(None)
        }
        Some(h2) if h2.is_remote() && h2.is_go_away() => Unanswered::Unsent(None),
        Some(h2) if h2.is_library() => Unanswered::Protocol(h2.to_string()),
        Some(h2) => Unanswered::Lost(h2.to_string()),
        None => Unanswered::Lost(error.to_string()),
    }
}
