//! What all connections of one worker have in common.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mesh::{http::head, name::Name, plan::Source, waypoint::Generation};
use net::tls::Credential;
use tokio::{sync::Notify, time::Instant};

use super::{Record, judged::Requests};
use crate::{
    recheck::Change,
    upstream::{self, Pools},
};

/// The half of a worker that requests and connections go out by. None of it is shared with another thread.
pub struct Front {
    /// How large and how slow a client may be.
    pub limits: Limits,
    /// Who this waypoint is.
    pub own: Own,
    /// Where it runs.
    pub from: Source,
    /// Connections to endpoints.
    pub pools: Pools,
    /// Told of every request.
    pub record: Rc<dyn Record>,
    /// Those that are under way.
    pub(super) requests: Requests,
    generation: RefCell<Arc<Generation>>,
    changed: Notify,
    parted: RefCell<Vec<Parted>>,
    credential: RefCell<Option<Arc<Credential>>>,
    drawn: Cell<u64>,
}

/// A service, or a port of one, that this waypoint does not serve any more.
///
/// The proxies of its clients know that before, and bring no new connections. Who has one open may just be sending a
/// request, and cannot know.
struct Parted {
    table: Name,
    until: Instant,
    /// The last one that had it.
    generation: Arc<Generation>,
}

/// Who a waypoint is.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// `<namespace>/<gateway>`.
    pub name: String,
    /// Its own `baggage`, or empty.
    pub baggage: String,
}

/// How large and how slow a client may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a request's head.
    pub head: head::Limits,
    /// How long a head may take from its first byte.
    pub head_time: Duration,
    /// How long a body may give nothing while it is waited for and nothing is answered yet. Not for gRPC.
    pub body_time: Duration,
    /// How long an HTTP/1 client that has ended its side, and may be gone, is served without it taking anything.
    pub half_closed: Duration,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// How long an unused connection stays open when the waypoint ends: its client may just be sending.
    pub linger: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Of connections to endpoints.
    pub upstream: upstream::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: head::Limits {
                target: 16 << 10,
                fields: 100,
                bytes: 60 << 10,
            },
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(60),
            half_closed: net::carry::HALF_CLOSED,
            idle: Duration::from_secs(3600),
            linger: Duration::from_secs(1),
            streams: 128,
            upstream: upstream::Limits::default(),
        }
    }
}

/// Whether a generation has a port of a service.
pub(crate) fn has(generation: &Generation, table: Name, port: u16) -> bool {
    let table = generation.table(table);
    table.is_some_and(|table| table.port(port).is_some())
}

impl Front {
    /// With nothing known yet, and no credential: enough for endpoints outside the mesh once a generation is adopted.
    pub fn new(own: Own, from: Source, limits: Limits, record: Rc<dyn Record>, seed: u64) -> Self {
        Self {
            pools: Pools::new(limits.upstream),
            limits,
            own,
            from,
            record,
            requests: Requests::default(),
            generation: RefCell::default(),
            changed: Notify::new(),
            parted: RefCell::default(),
            credential: RefCell::default(),
            drawn: Cell::new(seed),
        }
    }

    /// Decides by this generation from now on. Open connections to what it does not have any more are served by the one
    /// before for as long as their clients may need to see that they end. Requests that are under way are judged again.
    pub fn adopt(&self, generation: Arc<Generation>) {
        let before = self.generation.replace(Arc::clone(&generation));
        let now = Instant::now();
        let mut parted = self.parted.borrow_mut();
        parted.retain(|it| it.until > now);
        let gone = before.tables().filter(|table| {
            let mut ports = table.ports.iter();
            ports.any(|port| !has(&generation, table.key, port.number))
        });
        parted.extend(gone.map(|table| Parted {
            table: table.key,
            // Its connections linger from when they hear of it.
            until: now + 2 * self.limits.linger,
            generation: Arc::clone(&before),
        }));
        drop(parted);
        self.requests.recheck(&Change::new(&before, &generation));
        self.changed.notify_waiters();
    }

    /// Until there is a newer generation than at the time of the call.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    /// The generation that decides a request for a port of a service: the newest one, unless it does not have that any more.
    pub(super) fn serving(&self, table: Name, port: u16) -> Arc<Generation> {
        let newest = self.generation();
        if has(&newest, table, port) {
            return newest;
        }
        let (parted, now) = (self.parted.borrow(), Instant::now());
        let mut last = parted.iter().rev();
        let last =
            last.find(|it| it.table == table && it.until > now && has(&it.generation, table, port));
        last.map_or(newest, |it| Arc::clone(&it.generation))
    }

    /// Shows this certificate to endpoints from now on.
    pub fn renew(&self, credential: Arc<Credential>) {
        self.credential.replace(Some(credential));
    }

    /// The generation in force.
    pub fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.borrow())
    }

    /// The certificate in force, if one came yet.
    pub fn credential(&self) -> Option<Arc<Credential>> {
        self.credential.borrow().clone()
    }

    /// A number that tells nothing of the next one to who does not know the seed (SplitMix64).
    pub fn random(&self) -> u64 {
        let next = self.drawn.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.drawn.set(next);
        let z = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
