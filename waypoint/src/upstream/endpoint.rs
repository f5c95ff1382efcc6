//! One endpoint as this worker knows it: its connections, and how busy it is.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use mesh::http::balance::{Load, peak_ewma};
use tokio::time::Instant;

use super::pool::Shelf;

/// One endpoint.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    in_flight: Cell<u32>,
    latency: Cell<Option<(Duration, Instant)>>,
    /// Its connections, by what makes two of them alike. There are few kinds.
    pub(super) shelves: RefCell<Vec<Rc<Shelf>>>,
}

impl Endpoint {
    pub(super) fn load(&self) -> Load {
        Load {
            in_flight: self.in_flight.get(),
            latency: self
                .latency
                .get()
                .map_or(Duration::ZERO, |(average, _)| average),
        }
    }

    /// An answer has begun, so long after its request was sent.
    pub(super) fn answered(&self, took: Duration, now: Instant) {
        let average = match self.latency.get() {
            None => took,
            Some((average, then)) => peak_ewma(average, took, now.saturating_duration_since(then)),
        };
        self.latency.set(Some((average, now)));
    }

    /// Nobody uses it and nothing of it is open.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0 && self.shelves.borrow().iter().all(|shelf| shelf.is_empty())
    }
}

/// A request, or a connection that carries none, that an endpoint is busy with.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Endpoint>);

impl Busy {
    pub(super) fn new(endpoint: Rc<Endpoint>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        Self(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}
