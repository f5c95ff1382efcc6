//! A connection whose bytes are carried as they are: what is not HTTP.
//!
//! It is judged once when it begins, and again whenever the rules change: what may not go on is cut.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use mesh::{
    name::Name,
    refusal::Refusal,
    waypoint::{
        Answer, Asked, Client, Generation, Place, Port, Table, judge_again, judge_connection,
    },
};
use net::carry::{Broken, Counts, End, Socket, carry};
use tokio::sync::oneshot;

use crate::{
    http::Connection,
    recheck::Change,
    telemetry::{Carried, Meter},
    upstream::{self, Busy, Io, Purpose},
    worker::Worker,
};

/// Endpoints that are tried for one connection.
const TRIES: usize = 3;

/// A connection that may be, and is open at the endpoint's side.
pub(crate) struct Begun {
    worker: Rc<Worker>,
    connection: Connection,
    entry: Entry,
    stop: oneshot::Receiver<Broken>,
    endpoint: Io,
    busy: Busy,
    carried: Carried,
}

/// Begins one connection. If it may not be, or leads nowhere, that is told already.
pub(crate) async fn begin(worker: &Rc<Worker>, connection: Connection) -> Result<Begun, Answer> {
    let mut carried = Carried::new(&connection);
    let (entry, mut stop) = worker.flows.enter();
    // In a box that goes when it is done: an idle connection does not keep what opening it took.
    let open = Box::pin(open(worker, &connection, &entry, &mut carried));
    let opened = tokio::select! {
        biased;
        _ = &mut stop => Err(entry.cut.take().unwrap_or(Answer::NotReady)),
        opened = open => opened,
    };
    match opened {
        Ok((endpoint, busy)) => Ok(Begun {
            worker: Rc::clone(worker),
            connection,
            entry,
            stop,
            endpoint,
            busy,
            carried,
        }),
        Err(answer) => {
            worker.counting.refused(&carried, &answer);
            Err(answer)
        }
    }
}

impl Begun {
    /// Carries it to its end. `silent`: its client had its time to begin, and has not.
    pub(crate) async fn carry<S: End>(self, client: S, silent: bool) {
        let Self {
            worker,
            connection,
            entry,
            stop,
            endpoint,
            busy,
            carried,
        } = self;
        let meter = worker.counting.opened(&carried);
        entry.metered_by(Rc::clone(&meter));
        let (spoken, first) = (Cell::new(false), Cell::new(false));
        let client = Listened {
            end: client,
            heard: || spoken.set(true),
        };
        let heard = || first.set(first.get() || !spoken.get());
        let result = match endpoint {
            Io::Plain(io) => {
                let end = Socket::tcp(io);
                carry(client, Listened { end, heard }, &entry.counts, stop).await
            }
            Io::Tunnelled(end, place) => {
                let result = carry(client, Listened { end, heard }, &entry.counts, stop).await;
                drop(place);
                result
            }
        };
        drop(busy);
        if silent && first.get() {
            worker.taught.learn(connection.table, connection.port);
        }
        let cut = entry.cut.take();
        let told = (&*meter, &*entry.counts);
        worker.counting.closed(&carried, told, result, cut.as_ref());
    }
}

/// The status for a client's proxy that waits for one.
pub(crate) fn status(answer: &Answer) -> u16 {
    match answer {
        // As the endpoint's own proxy would say it.
        Answer::Denied(_) => 401,
        answer => answer.status(),
    }
}

/// Opens what the connection is judged to lead to; where an endpoint cannot be reached, another is tried.
async fn open(
    worker: &Rc<Worker>,
    connection: &Connection,
    entry: &Entry,
    carried: &mut Carried,
) -> Result<(Io, Busy), Answer> {
    let mut judged = Judged {
        client: connection.client,
        table: connection.table,
        port: connection.port,
        at: None,
    };
    let seed = worker.front.random();
    let mut tried: Vec<Arc<str>> = Vec::new();
    let mut failed: Option<Refusal> = None;
    loop {
        let generation = worker.generation();
        let (plan, place) = {
            let (table, port) = judged.served(&generation)?;
            let asked = Asked {
                table,
                port,
                client: &connection.client,
                from: &worker.front.from,
                seed,
                tried: &tried,
                load: worker.front.pools.load(),
            };
            let judgement = judge_connection(&generation, &asked);
            carried.judged(table, &judgement);
            match judgement.outcome {
                Ok(forward) => {
                    let place = forward.place(connection.table);
                    (forward.plan, place)
                }
                // Where no other endpoint is left, the first reason is the better one.
                Err(Answer::NoEndpoint(service)) => {
                    return Err(failed.map_or(Answer::NoEndpoint(service), Answer::Upstream));
                }
                Err(answer) => return Err(answer),
            }
        };
        let workload = plan.workload().map(|workload| Arc::clone(&workload.uid));
        judged.at = place;
        // Before anything is awaited: a rule that changes while the endpoint is slow to answer counts.
        entry.judged(judged.clone());
        let purpose = Purpose {
            client: Some(connection.client.address),
            via: &connection.via,
        };
        // From now on, so that what comes meanwhile goes elsewhere.
        let busy = worker.front.pools.busy(&plan);
        let opened = upstream::open(&worker.front, &plan, purpose);
        match (opened.await, workload) {
            (Ok(opened), _) => return Ok((opened.io, busy)),
            (Err(refusal), Some(uid)) if refusal.retryable() && tried.len() + 1 < TRIES => {
                tried.push(uid);
                failed = Some(refusal);
            }
            (Err(refusal), _) => return Err(Answer::Upstream(refusal)),
        }
    }
}

/// What a connection was judged by, to judge it again.
#[derive(Clone, Debug)]
struct Judged {
    client: Client,
    table: Name,
    port: u16,
    /// Where it leads.
    at: Option<Place>,
}

impl Judged {
    fn served<'g>(&self, generation: &'g Generation) -> Result<(&'g Arc<Table>, &'g Port), Answer> {
        let table = generation.table(self.table);
        let served = table.and_then(|table| Some((table, table.port(self.port)?)));
        served.ok_or_else(|| Answer::NotServed(format!("{}:{}", self.table, self.port)))
    }

    /// Why it may not go on where it leads, if it may not.
    fn denied(&self, generation: &Generation) -> Option<Answer> {
        match self.served(generation) {
            Ok((table, port)) => {
                let asked = (&**table, port.number);
                judge_again(generation, asked, &self.client, None, self.at.as_ref())
            }
            Err(gone) => Some(gone),
        }
    }
}

/// The open connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    stop: oneshot::Sender<Broken>,
    cut: Rc<RefCell<Option<Answer>>>,
    judged: Option<Judged>,
    counts: Rc<Counts>,
    meter: Option<Rc<Meter>>,
}

/// A connection's entry; out of the list when dropped.
#[derive(Debug)]
struct Entry {
    flows: Rc<Flows>,
    id: u64,
    counts: Rc<Counts>,
    /// Why it was stopped.
    cut: Rc<RefCell<Option<Answer>>>,
}

impl Flows {
    fn enter(self: &Rc<Self>) -> (Entry, oneshot::Receiver<Broken>) {
        let id = self.next.get();
        self.next.set(id + 1);
        let (stop, stopped) = oneshot::channel();
        let (counts, cut) = (Rc::<Counts>::default(), Rc::default());
        let open = Open {
            stop,
            cut: Rc::clone(&cut),
            judged: None,
            counts: Rc::clone(&counts),
            meter: None,
        };
        self.open.borrow_mut().insert(id, open);
        let flows = Rc::clone(self);
        let entry = Entry {
            flows,
            id,
            counts,
            cut,
        };
        (entry, stopped)
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Counts what was carried since the last time.
    pub(crate) fn tell(&self) {
        for open in self.open.borrow().values() {
            if let Some(meter) = &open.meter {
                meter.tell(&open.counts);
            }
        }
    }

    /// Judges all again that a change concerns, and stops what may not go on.
    pub(crate) fn recheck(&self, change: &Change<'_>) {
        let denied = |open: &Open| {
            let judged = open.judged.as_ref()?;
            let concerned = change.concerns(judged.table, judged.at.as_ref());
            concerned.then(|| judged.denied(change.after))?
        };
        let mut open = self.open.borrow_mut();
        let denied: Vec<(u64, Answer)> = open
            .iter()
            .filter_map(|(id, open)| Some((*id, denied(open)?)))
            .collect();
        for (id, answer) in denied {
            if let Some(open) = open.remove(&id) {
                *open.cut.borrow_mut() = Some(answer);
                // One that ends by itself does not listen any more.
                open.stop.send(Broken::Ended).ok();
            }
        }
    }
}

impl Entry {
    /// From now on it is judged again whenever the rules change.
    fn judged(&self, judged: Judged) {
        if let Some(open) = self.flows.open.borrow_mut().get_mut(&self.id) {
            open.judged = Some(judged);
        }
    }

    /// From now on its bytes are counted while it is open.
    fn metered_by(&self, meter: Rc<Meter>) {
        if let Some(open) = self.flows.open.borrow_mut().get_mut(&self.id) {
            open.meter = Some(meter);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.flows.open.borrow_mut().remove(&self.id);
    }
}

/// An end that tells when it says something.
struct Listened<E, F> {
    end: E,
    heard: F,
}

impl<E: End, F: FnMut()> End for Listened<E, F> {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let taken = self.end.poll_take(cx);
        if let Poll::Ready(Ok(Some(_))) = taken {
            (self.heard)();
        }
        taken
    }

    fn taken(&mut self, bytes: usize) {
        self.end.taken(bytes);
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        self.end.poll_give(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.end.poll_finish(cx)
    }

    fn gone(&mut self, cx: &mut Context<'_>) -> Option<Broken> {
        self.end.gone(cx)
    }

    fn abort(&mut self) {
        self.end.abort();
    }
}
