//! The open flows of one pod on one worker: who they are, and how to stop them.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use mesh::{
    admit::{Arrival, Pod, admit},
    identity::Identity,
    plan::Outcome,
    refusal::Refusal,
    store::Generation,
};
use net::carry::{Broken, Counts};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::telemetry::Meter;

/// The open flows of one pod on one worker.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    stop: oneshot::Sender<Broken>,
    entrance: Option<Entrance>,
    counts: Rc<Counts>,
    meter: Option<Rc<Meter>>,
    shown: Shown,
}

/// What let an inbound flow in, to ask again when the rules change.
#[derive(Clone, Debug)]
pub(crate) enum Entrance {
    /// As it is.
    Plain { to: SocketAddr, source: IpAddr },
    /// Through a tunnel.
    Tunnelled {
        peer: Identity,
        at: IpAddr,
        authority: Arc<str>,
        source: IpAddr,
    },
}

impl Entrance {
    /// Decides again, or for the first time.
    pub(crate) fn admit(
        &self,
        generation: &Generation,
        pod: &Pod,
    ) -> Outcome<mesh::admit::Admission> {
        match self {
            Self::Plain { to, source } => {
                admit(generation, pod, Arrival::Plain { to: *to }, *source)
            }
            Self::Tunnelled {
                peer,
                at,
                authority,
                source,
            } => {
                let arrival = Arrival::Tunnelled {
                    peer: *peer,
                    at: *at,
                    authority,
                };
                admit(generation, pod, arrival, *source)
            }
        }
    }
}

/// Opens a flow by `open`, unless it is stopped, or whoever asked for it gives up with what `given_up` says. In a box that
/// goes when it is done: an idle flow does not keep what opening it took.
pub(crate) fn opening<'a, T>(
    stop: &'a mut oneshot::Receiver<Broken>,
    open: impl Future<Output = Result<T, Refusal>> + 'a,
    given_up: impl Future<Output = Broken> + 'a,
) -> Pin<Box<dyn Future<Output = Result<T, Broken>> + 'a>> {
    Box::pin(async move {
        tokio::select! {
            biased;
            reason = stop => Err(reason.unwrap_or(Broken::Ended)),
            opened = open => opened.map_err(Broken::Refused),
            broken = given_up => Err(broken),
        }
    })
}

/// A flow as people see it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    /// Who connected.
    pub(crate) src: SocketAddr,
    /// Where it wanted to go.
    pub(crate) original_dst: SocketAddr,
    /// Where it goes.
    pub(crate) actual_dst: SocketAddr,
    /// `HBONE` or `TCP`.
    pub(crate) protocol: &'static str,
    /// The other end, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    #[serde(skip)]
    pub(crate) inbound: bool,
}

/// A flow's entry; out of the list when dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    flows: Rc<Flows>,
    id: u64,
    /// Bytes carried.
    pub(crate) counts: Rc<Counts>,
}

impl Flows {
    /// Enters a flow. It is to stop when the receiver says so.
    pub(crate) fn enter(self: &Rc<Self>, shown: Shown) -> (Entry, oneshot::Receiver<Broken>) {
        let id = self.next.get();
        self.next.set(id + 1);
        let (stop, stopped) = oneshot::channel();
        let counts = Rc::<Counts>::default();
        let open = Open {
            stop,
            entrance: None,
            counts: Rc::clone(&counts),
            meter: None,
            shown,
        };
        self.open.borrow_mut().insert(id, open);
        (
            Entry {
                flows: Rc::clone(self),
                id,
                counts,
            },
            stopped,
        )
    }

    /// Counts what was carried since the last time.
    pub(crate) fn tell(&self) {
        for open in self.open.borrow().values() {
            if let Some(meter) = &open.meter {
                meter.tell(&open.counts);
            }
        }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Stops all.
    pub(crate) fn end(&self) {
        for (_, open) in self.open.borrow_mut().drain() {
            // A flow that ends by itself does not listen any more.
            open.stop.send(Broken::Ended).ok();
        }
    }

    /// Decides the inbound ones again and stops what may not go on. A question is not a reason to stop: what was
    /// allowed was allowed by what is known.
    pub(crate) fn recheck(&self, generation: &Generation, pod: &Pod) {
        let verdict = |open: &Open| match open.entrance.as_ref()?.admit(generation, pod) {
            Outcome::Refuse(refusal) => Some(refusal),
            Outcome::Do(_) | Outcome::Ask(_) => None,
        };
        let mut open = self.open.borrow_mut();
        let refused: Vec<(u64, Refusal)> = open
            .iter()
            .filter_map(|(id, open)| Some((*id, verdict(open)?)))
            .collect();
        for (id, refusal) in refused {
            if let Some(open) = open.remove(&id) {
                open.stop.send(Broken::Refused(refusal)).ok();
            }
        }
    }

    /// All, for people.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        self.open
            .borrow()
            .values()
            .map(|open| open.shown.clone())
            .collect()
    }
}

impl Entry {
    /// From now on the flow is decided again whenever the rules change.
    pub(crate) fn entered_by(&self, entrance: Entrance) {
        if let Some(open) = self.flows.open.borrow_mut().get_mut(&self.id) {
            open.entrance = Some(entrance);
        }
    }

    /// Where it goes turned out to be this.
    pub(crate) fn leads_to(
        &self,
        actual: SocketAddr,
        protocol: &'static str,
        peer: Option<String>,
    ) {
        if let Some(open) = self.flows.open.borrow_mut().get_mut(&self.id) {
            open.shown.actual_dst = actual;
            open.shown.protocol = protocol;
            open.shown.peer = peer;
        }
    }
}

impl Entry {
    /// From now on its bytes are counted while it is open.
    pub(crate) fn metered_by(&self, meter: Rc<Meter>) {
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
