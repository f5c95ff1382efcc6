//! A pod on one worker: its flows, its tunnels, its listeners.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use mesh::{admit, model::Locality, name::Name, plan::Source, refusal::Refusal, store::Generation};
use net::hbone::Pool;
use sys::netns::Netns;
use tokio::task::AbortHandle;

use crate::{config::Config, flows::Flows, worker::Worker};

/// A pod as the node agent gave it.
#[derive(Debug)]
pub(crate) struct PodFacts {
    /// The agent's own uid for it.
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) workload: admit::Pod,
    pub(crate) netns: Netns,
}

/// A pod on one worker.
pub(crate) struct Pod {
    pub(crate) facts: Arc<PodFacts>,
    pub(crate) flows: Rc<Flows>,
    pub(crate) pool: Pool,
    /// Connections on 15008 whose peer has not proved anything yet.
    pub(crate) handshakes: Cell<usize>,
    listeners: RefCell<Vec<AbortHandle>>,
    tunnels: RefCell<Vec<AbortHandle>>,
}

impl Pod {
    pub(crate) fn new(facts: Arc<PodFacts>, config: &Config) -> Self {
        Self {
            facts,
            flows: Rc::default(),
            pool: Pool::new(config.max_streams, config.tunnel_idle),
            handshakes: Cell::new(0),
            listeners: RefCell::default(),
            tunnels: RefCell::default(),
        }
    }

    /// Runs a listener, which ends with the pod or before.
    pub(crate) fn listen(&self, accept: impl Future<Output = ()> + 'static) {
        let listener = net::task::spawn(accept).abort_handle();
        self.listeners.borrow_mut().push(listener);
    }

    /// Runs a tunnel, which ends with the pod.
    pub(crate) fn keep(&self, tunnel: impl Future<Output = ()> + 'static) {
        let mut tunnels = self.tunnels.borrow_mut();
        // Those that have ended are looked for only now and then.
        if tunnels.len() >= 64 && tunnels.len().is_power_of_two() {
            tunnels.retain(|tunnel| !tunnel.is_finished());
        }
        tunnels.push(net::task::spawn(tunnel).abort_handle());
    }

    /// Whether it has no open flow or tunnel, and nobody listens for new ones.
    pub(crate) fn has_finished(&self) -> bool {
        let over =
            |tasks: &RefCell<Vec<AbortHandle>>| tasks.borrow().iter().all(AbortHandle::is_finished);
        self.flows.len() == 0 && over(&self.listeners) && over(&self.tunnels)
    }

    /// The pod is gone: everything of it ends.
    pub(crate) fn end(&self) {
        self.stop_listening();
        self.tunnels
            .borrow_mut()
            .drain(..)
            .for_each(|tunnel| tunnel.abort());
        self.flows.end();
        self.pool.end();
    }

    /// Takes no new connections.
    fn stop_listening(&self) {
        self.listeners
            .borrow_mut()
            .drain(..)
            .for_each(|listener| listener.abort());
    }

    /// The pod as the source of a flow.
    pub(crate) fn source(&self, worker: &Worker, generation: &Generation) -> Source {
        let config = &worker.shared.config;
        let own = generation.workload(&self.facts.workload.uid);
        let unknown = Locality {
            region: Name::EMPTY,
            zone: Name::EMPTY,
            subzone: Name::EMPTY,
        };
        Source {
            identity: self.facts.workload.identity,
            network: own.map_or(config.network, |own| own.network),
            node: config.node,
            cluster: config.cluster,
            locality: own.map_or(unknown, |own| own.locality),
        }
    }

    /// Whether one more flow may begin.
    pub(crate) fn room(&self, worker: &Worker) -> Result<(), Refusal> {
        // Each worker has its share; together they are the pod's.
        let share = worker
            .shared
            .config
            .max_flows
            .div_ceil(worker.shared.workers.len());
        if self.flows.len() < share {
            Ok(())
        } else {
            Err(Refusal::TooMany)
        }
    }
}
