//! A worker thread: the tunnels that it was given, and all that is in them. Nothing in it is shared with another thread but
//! what `Shared` holds.

use std::{
    cell::Cell,
    collections::{
        HashMap,
        hash_map::{Entry, RandomState},
    },
    hash::BuildHasher,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::{headers, plan::Source, refusal::Refusal, waypoint::Generation};
use net::{certificates::Certificates, drain::Drain, hbone, tls::Credential};
use tokio::{net::TcpStream, sync::mpsc, task::LocalSet, time::Instant};

use crate::{
    config::Config,
    detect::Taught,
    http::{Connection, Front, Limits, Own, Record, has},
    recheck::Change,
    tcp::Flows,
    telemetry::{Counting, Telemetry},
    tunnel, upstream,
};

/// How long a stream waits for what was never received before, and a tunnel for the first certificate.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How often the bytes of open connections are counted.
const TELL: Duration = Duration::from_secs(5);

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) certificates: Certificates,
    pub(crate) telemetry: Telemetry,
    /// Tunnels of each worker.
    pub(crate) loads: Vec<AtomicUsize>,
    /// Tunnels of each client.
    pub(crate) clients: Mutex<HashMap<IpAddr, usize>>,
    pub(crate) workers: Vec<mpsc::UnboundedSender<Command>>,
}

/// What a worker is told.
pub(crate) enum Command {
    /// The newest generation.
    State(Arc<Generation>),
    /// A tunnel to serve.
    Take {
        stream: std::net::TcpStream,
        from: SocketAddr,
        load: Load,
    },
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) front: Rc<Front>,
    pub(crate) counting: Rc<Counting>,
    pub(crate) flows: Rc<Flows>,
    pub(crate) taught: Taught,
    /// Tunnels whose peers have not proved anything yet.
    pub(crate) handshakes: Rc<Cell<usize>>,
    /// Streams in all of its tunnels.
    pub(crate) streams: Rc<Cell<usize>>,
    /// Held as long as the worker lives: there is something to finish.
    drain: Drain,
}

impl Shared {
    /// Tunnels of one client.
    pub(crate) fn tunnels_of(&self, client: IpAddr) -> usize {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(&client).copied().unwrap_or_default()
    }
}

/// A tunnel's share of the load, as long as it lives.
pub(crate) struct Load(Arc<Shared>, usize, IpAddr);

impl Load {
    /// One tunnel more for a worker, and of a client.
    pub(crate) fn new(shared: &Arc<Shared>, worker: usize, client: IpAddr) -> Self {
        shared.loads[worker].fetch_add(1, Ordering::Relaxed);
        let clients = shared.clients.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        *clients.entry(client).or_default() += 1;
        Self(Arc::clone(shared), worker, client)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.loads[self.1].fetch_sub(1, Ordering::Relaxed);
        let clients = self.0.clients.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = clients.entry(self.2) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// Runs worker `id` until its inbox closes, or it is to drain and all its tunnels have ended.
pub(crate) fn run(
    id: usize,
    shared: Arc<Shared>,
    drain: Drain,
    inbox: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let worker = Rc::new(Worker::new(id, shared, drain));
    LocalSet::new().block_on(&runtime, worker.serve(inbox));
    Ok(())
}

impl Worker {
    pub(crate) fn new(id: usize, shared: Arc<Shared>, drain: Drain) -> Self {
        let counting = Rc::new(Counting::new(shared.telemetry.clone(), id));
        Self {
            front: Rc::new(front(
                &shared.config,
                Rc::clone(&counting) as Rc<dyn Record>,
            )),
            counting,
            flows: Rc::default(),
            taught: Taught::default(),
            handshakes: Rc::default(),
            streams: Rc::default(),
            drain,
            shared,
        }
    }

    pub(crate) async fn serve(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut tell = tokio::time::interval(TELL);
        let mut drain = self.drain.clone();
        let renewing = net::task::spawn(Rc::clone(&self).renew());
        // Held by every tunnel: once only this one is left, all have ended.
        let open = Rc::new(());
        loop {
            let command = tokio::select! {
                command = inbox.recv() => command,
                _ = tell.tick() => {
                    self.flows.tell();
                    continue;
                }
                () = drain.begun() => {
                    renewing.abort();
                    return finish(&open).await;
                }
            };
            match command {
                None => return,
                Some(Command::State(generation)) => self.adopt(generation),
                Some(Command::Take { stream, from, load }) => {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        self.take(stream, from, (load, Rc::clone(&open)));
                    }
                }
            }
        }
    }

    /// Keeps the newest certificate in force.
    async fn renew(self: Rc<Self>) {
        let (identity, certificates) = (self.shared.config.identity(), &self.shared.certificates);
        let mut held = String::new();
        loop {
            let credential = certificates.renewed(identity, Some(&held)).await;
            credential.serial().clone_into(&mut held);
            self.front.renew(credential);
        }
    }

    fn take(self: &Rc<Self>, stream: TcpStream, from: SocketAddr, held: (Load, Rc<()>)) {
        // A connection that is gone already fails soon enough where it matters.
        sys::socket::nodelay(&stream).ok();
        if let Some(keepalive) = &self.shared.config.keepalive {
            keepalive.apply(&stream);
        }
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let worker = Rc::clone(self);
        net::task::spawn(async move {
            tunnel::run(worker, stream, from).await;
            drop(held);
        });
    }

    pub(crate) fn adopt(&self, generation: Arc<Generation>) {
        let before = self.front.generation();
        self.front.adopt(Arc::clone(&generation));
        self.counting.changed();
        self.taught.retain(|service, port| {
            let port = generation.table(service).and_then(|table| table.port(port));
            port.is_some_and(|port| port.protocol == mesh::waypoint::Protocol::Detect)
        });
        let change = Change::new(&before, &generation);
        self.flows.recheck(&change);
    }

    /// The newest generation.
    pub(crate) fn generation(&self) -> Arc<Generation> {
        self.front.generation()
    }

    /// Until there is a newer generation.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> {
        self.front.changed()
    }

    /// Until the port of a connection is not served any more.
    pub(crate) fn gone(
        self: &Rc<Self>,
        connection: &Connection,
    ) -> impl Future<Output = ()> + 'static {
        let (worker, table, port) = (Rc::clone(self), connection.table, connection.port);
        async move {
            loop {
                let changed = worker.changed();
                if !has(&worker.generation(), table, port) {
                    return;
                }
                changed.await;
            }
        }
    }

    /// The certificate of this waypoint; a first one is waited for, but not for long.
    pub(crate) async fn credential(&self) -> Result<Arc<Credential>, Refusal> {
        let identity = self.shared.config.identity();
        if let Some(held) = self.shared.certificates.current(&identity) {
            return Ok(held);
        }
        let deadline = Instant::now() + PATIENCE;
        let waited = self.shared.certificates.wait(identity, deadline).await;
        waited.map_err(|error| Refusal::NoCertificate {
            identity,
            reason: error.reason,
        })
    }

    /// Until the waypoint is to end.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + 'static {
        let mut drain = self.drain.clone();
        async move { drain.begun().await }
    }
}

/// What requests and connections go out by.
fn front(config: &Config, record: Rc<dyn Record>) -> Front {
    let from = Source {
        identity: config.identity(),
        network: config.network,
        node: config.node,
        cluster: config.cluster,
        locality: config.locality,
    };
    let own = Own {
        name: config.own_name(),
        baggage: headers::waypoint_baggage(&from, &config.gateway),
    };
    let defaults = Limits::default();
    let limits = Limits {
        upstream: upstream::Limits {
            tunnel_streams: config.max_streams,
            tunnel_idle: config.tunnel_idle,
            tunnel: hbone::Settings {
                max_streams: defaults.upstream.tunnel.max_streams,
                ..config.tunnel
            },
            ..defaults.upstream
        },
        ..defaults
    };
    // Nobody can foretell it.
    let seed = RandomState::new().hash_one(config.workers);
    Front::new(own, from, limits, record, seed)
}

/// Waits until all tunnels have ended.
async fn finish(open: &Rc<()>) {
    while Rc::strong_count(open) > 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests;
