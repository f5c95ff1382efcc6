//! HTTP connections to endpoints, kept per worker.

use std::{
    cell::{Cell, RefCell},
    future::{Future, ready},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use http::{Request, Response};
use hyper::body::Incoming;
use mesh::{
    hash, http::balance::Load, identity::Identity, model::Workload, plan::Plan, refusal::Refusal,
};
use net::hbone;
use tokio::time::Instant;

use super::{
    Limits,
    endpoint::{Busy, Endpoint},
    h1::{self, Handover},
    h2,
};
use crate::http::{Front, Upload};

/// What is spoken to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// What makes two requests fit for one connection, beside the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    speaks: Speaks,
    /// Where the connection goes.
    address: SocketAddr,
    /// What is asked for in its tunnel, by whom and of whom; none: it is a socket.
    inside: Option<Inside>,
    via: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inside {
    authority: SocketAddr,
    identities: Vec<Identity>,
    serial: String,
}

/// Connections of one kind.
#[derive(Debug)]
pub(super) struct Shelf {
    kind: Kind,
    pub(super) h1: RefCell<Vec<h1::Connection>>,
    pub(super) h2: h2::Shared,
    /// HTTP/1.1 connections that are open, lent ones too.
    pub(super) open: Cell<usize>,
}

impl Shelf {
    pub(super) fn is_empty(&self) -> bool {
        self.open.get() == 0 && self.h2.is_empty()
    }
}

type Endpoints = Rc<RefCell<hash::Map<Arc<str>, Rc<Endpoint>>>>;

/// All connections of one worker.
pub struct Pools {
    endpoints: Endpoints,
    load: Box<dyn Fn(&Workload) -> Load>,
    tunnels: hbone::Pool,
    limits: Limits,
    /// Endpoints beyond which those are looked for that nobody uses.
    crowded: Cell<usize>,
}

impl Pools {
    pub(crate) fn new(limits: Limits) -> Self {
        let endpoints = Endpoints::default();
        let known = Rc::clone(&endpoints);
        let load = move |workload: &Workload| {
            let endpoint = known.borrow().get(&workload.uid).map(|it| it.load());
            endpoint.unwrap_or_default()
        };
        Self {
            endpoints,
            load: Box::new(load),
            tunnels: hbone::Pool::new(limits.tunnel_streams, limits.tunnel_idle),
            limits,
            crowded: Cell::new(64),
        }
    }

    /// Tunnels to the endpoints' own proxies.
    pub fn tunnels(&self) -> &hbone::Pool {
        &self.tunnels
    }

    /// How busy an endpoint is.
    pub fn load(&self) -> &dyn Fn(&Workload) -> Load {
        &*self.load
    }

    /// A connection that the endpoint of a plan is busy with, until this is dropped.
    pub(crate) fn busy(&self, plan: &Plan) -> Busy {
        Busy::new(self.endpoint(plan))
    }

    /// HTTP connections that are open.
    pub fn connections(&self) -> usize {
        let endpoints = self.endpoints.borrow();
        let shelves = endpoints.values().map(|endpoint| {
            let shelves = endpoint.shelves.borrow();
            shelves
                .iter()
                .map(|it| it.open.get() + it.h2.len())
                .sum::<usize>()
        });
        shelves.sum()
    }

    /// Closes the connections to a workload as soon as they are unused: it is not what it was.
    pub fn forget(&self, uid: &str) {
        self.tunnels.forget(uid);
        self.endpoints.borrow_mut().remove(uid);
    }

    /// Closes all connections as soon as they are unused.
    pub fn end(&self) {
        self.tunnels.end();
        self.endpoints.borrow_mut().clear();
    }

    fn endpoint(&self, plan: &Plan) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let outside;
        let uid = match plan.workload() {
            Some(workload) => &workload.uid,
            None => {
                outside = Arc::from(plan.address().to_string());
                &outside
            }
        };
        if let Some(endpoint) = endpoints.get(uid) {
            return Rc::clone(endpoint);
        }
        if endpoints.len() >= self.crowded.get() {
            endpoints.retain(|_, endpoint| !endpoint.is_idle());
            self.crowded.set((endpoints.len() * 2).max(64));
        }
        Rc::clone(endpoints.entry(Arc::clone(uid)).or_default())
    }
}

impl Endpoint {
    fn shelf(&self, front: &Front, plan: &Plan, speaks: Speaks, via: &[String]) -> Rc<Shelf> {
        let credential = match plan {
            Plan::Tunnel(_) => front.credential(),
            Plan::Passthrough { .. } | Plan::Direct { .. } => None,
        };
        let serial = credential.as_ref().map_or("", |it| it.serial());
        let fits = |kind: &Kind| {
            kind.speaks == speaks
                && kind.address == plan.address()
                && kind.via == via
                && match (plan, &kind.inside) {
                    (Plan::Tunnel(hop), Some(inside)) => {
                        inside.authority == hop.authority
                            && inside.identities == hop.identities
                            && inside.serial == serial
                    }
                    (Plan::Tunnel(_), None) => false,
                    (_, inside) => inside.is_none(),
                }
        };
        let mut shelves = self.shelves.borrow_mut();
        if let Some(shelf) = shelves.iter().find(|shelf| fits(&shelf.kind)) {
            return Rc::clone(shelf);
        }
        // Of an older certificate, or of what the endpoint was before.
        shelves.retain(|shelf| !shelf.is_empty());
        let inside = match plan {
            Plan::Tunnel(hop) => Some(Inside {
                authority: hop.authority,
                identities: hop.identities.clone(),
                serial: serial.to_owned(),
            }),
            Plan::Passthrough { .. } | Plan::Direct { .. } => None,
        };
        let shelf = Rc::new(Shelf {
            kind: Kind {
                speaks,
                address: plan.address(),
                inside,
                via: via.to_vec(),
            },
            h1: RefCell::default(),
            h2: h2::Shared::default(),
            open: Cell::new(0),
        });
        shelves.push(Rc::clone(&shelf));
        shelf
    }
}

/// A connection that is lent to one request, or a share of one.
#[derive(Debug)]
pub(crate) struct Lease {
    busy: Busy,
    shelf: Rc<Shelf>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    H1(Option<h1::Connection>),
    H2(h2::Share),
}

/// The answer's head, or why there is none. In a box: whoever awaits it would hold it several times.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Unanswered>>>>;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nothing of it was sent, or the endpoint says that it did nothing with it. With the request, if it came back whole.
    Unsent(Option<Box<Request<Upload>>>),
    /// The connection ended before an answer.
    Lost(String),
    /// What came is not HTTP.
    Protocol(String),
}

impl Lease {
    /// Lends a connection for a plan: one that is open and free, or a new one. A `fresh` one of
    /// HTTP/1.1 was not used before; of HTTP/2, one that has refused a request gets no other anyway.
    pub(crate) async fn take(
        front: &Rc<Front>,
        plan: &Plan,
        speaks: Speaks,
        via: &[String],
        fresh: bool,
    ) -> Result<Self, Refusal> {
        let pools = &front.pools;
        let endpoint = pools.endpoint(plan);
        let shelf = endpoint.shelf(front, plan, speaks, via);
        let busy = Busy::new(endpoint);
        // What opens a connection is much larger than what uses one, and rare: it gets memory of its own.
        let held = match speaks {
            Speaks::Http1 => {
                let free = if fresh { None } else { h1::free(&shelf) };
                let connection = match free {
                    Some(connection) => connection,
                    None => {
                        if shelf.open.get() >= pools.limits.connections {
                            return Err(Refusal::TooMany);
                        }
                        Box::pin(h1::connect(front, plan, via, &shelf)).await?
                    }
                };
                Held::H1(Some(connection))
            }
            Speaks::Http2 => Held::H2(match shelf.h2.room() {
                Some(share) => share,
                None => Box::pin(h2::share(front, plan, via, &shelf)).await?,
            }),
        };
        Ok(Self { busy, shelf, held })
    }

    /// Sends a request at once.
    pub(crate) fn send(&mut self, request: Request<Upload>) -> Answering {
        match &mut self.held {
            Held::H1(Some(connection)) => Box::pin(connection.send(request)),
            Held::H1(None) => {
                let back = Unanswered::Unsent(Some(Box::new(request)));
                Box::pin(ready(Err(back)))
            }
            Held::H2(share) => Box::pin(share.send(request)),
        }
    }

    /// What comes of the connection once an endpoint has agreed to speak something else on it. Asked for before sending.
    pub(crate) fn handover(&self) -> Option<Handover> {
        match &self.held {
            Held::H1(Some(connection)) => Some(connection.handover()),
            Held::H1(None) | Held::H2(_) => None,
        }
    }

    /// The answer to what was sent at `sent` has begun.
    pub(crate) fn answered(&self, sent: Instant, now: Instant) {
        let took = now.saturating_duration_since(sent);
        self.busy.endpoint().answered(took, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Held::H1(connection) = &mut self.held
            && let Some(connection) = connection.take()
            && !connection.is_closed()
        {
            connection.rest();
            self.shelf.h1.borrow_mut().push(connection);
        }
    }
}
