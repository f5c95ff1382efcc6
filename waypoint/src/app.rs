//! The main thread: everything that is not data, and who gets a new tunnel.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use mesh::{
    delta::Delta,
    waypoint::{Generation, Rejected, Store},
};
use net::{
    ca::Authority,
    certificates::Certificates,
    channel::ChannelError,
    clock,
    discovery::{self, Discovery},
    drain, executable, memory,
    metrics::Metrics,
};
use sys::socket::Options;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, LocalSet},
};

use crate::{
    admin::{self, Inside},
    config::Config,
    telemetry::Telemetry,
    worker::{self, Command, Load, Shared},
};

/// The pause after a failed accept, doubled up to the second.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What a waypoint is told, in the order in which it asks.
const TYPES: [&str; 4] = [
    proto::POLICY_TYPE,
    proto::BACKEND_TYPE,
    proto::ROUTE_TYPE,
    proto::TABLE_TYPE,
];

/// Why the waypoint ended, or did not begin.
#[derive(Debug)]
pub enum Error {
    /// A server of the control plane cannot be used as configured.
    Channel(&'static str, ChannelError),
    /// A thread or socket of our own.
    Io(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(variable, error) => write!(f, "{variable}: {error}"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs the waypoint until `shutdown`, then lets open requests and connections end for as long as the configuration says.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    LocalSet::new().run_until(serve(config, shutdown)).await
}

async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    sys::process::raise_file_limit().map_err(|error| Error::Io("open file limit", error))?;
    let listener = listen(config.listen).map_err(|error| Error::Io("tunnel address", error))?;
    let (certificates, keeper) = Certificates::new(clock::wall);
    let mut metrics = Metrics::new("waypoint", env!("CARGO_PKG_VERSION"), config.workers);
    metrics.memory(config.tunnel.budget);
    tokio::task::spawn_local(memory::watch(config.tunnel.budget));
    let log = config.access_log.then_some(config.log_format);
    let telemetry = Telemetry::new(&mut metrics, config.workers, log);
    let metrics = Arc::new(metrics);
    let (drainer, drain) = drain::pair();
    let (workers, inboxes): (Vec<_>, Vec<_>) = (0..config.workers)
        .map(|_| mpsc::unbounded_channel())
        .unzip();
    let shared = Arc::new(Shared {
        loads: workers.iter().map(|_| AtomicUsize::new(0)).collect(),
        clients: Mutex::default(),
        certificates,
        telemetry,
        workers,
        config,
    });
    for (id, inbox) in inboxes.into_iter().enumerate() {
        let (shared, drain) = (Arc::clone(&shared), drain.clone());
        executable::worker(id, move || worker::run(id, shared, drain, inbox))
            .map_err(|error| Error::Io("worker thread", error))?;
    }
    // Only the workers have something to finish.
    drop(drain);
    authority(&shared.config)?.keep(keeper);
    shared.certificates.want(shared.config.identity());
    let state = State::new(&shared);
    let (synced, discovery) = follow(&shared, &metrics, &state)?;
    let inside = Inside {
        shared: Arc::clone(&shared),
        metrics,
        state,
        synced,
    };
    let pages = admin::serve(Arc::new(inside)).await;
    pages.map_err(|error| Error::Io("admin, metrics or readiness address", error))?;
    let accepting = tokio::task::spawn_local(accept(Arc::clone(&shared), listener));
    tracing::info!(
        gateway = shared.config.own_name(),
        workers = shared.workers.len(),
        "started"
    );
    shutdown.await;
    tracing::info!(deadline = ?shared.config.drain, "ending: new tunnels are not taken any more");
    accepting.abort();
    discovery.abort();
    if !drainer.drain(shared.config.drain).await {
        tracing::warn!("requests or connections were still open and are cut");
    }
    Ok(())
}

/// Listens for tunnels; where the kernel or the namespace has no IPv6, an address for all of both families takes IPv4.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let options = Options {
        reuse_address: true,
        ..Options::default()
    };
    let listener = match sys::socket::listen(address, options) {
        // EAFNOSUPPORT has no kind of its own.
        Err(error)
            if address.ip().is_unspecified()
                && address.is_ipv6()
                && (error.kind() == io::ErrorKind::AddrNotAvailable
                    || error.raw_os_error() == Some(97)) =>
        {
            sys::socket::listen(SocketAddr::from(([0; 4], address.port())), options)
        }
        result => result,
    };
    TcpListener::from_std(listener?)
}

/// Takes tunnels, and gives each to the worker that has the fewest.
///
/// A tunnel stays where it is. A client that has much to send opens several, because each grants it only a few streams
/// (`TUNNEL_MAX_STREAMS`): so what one client sends is done by more than one worker.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                pause = ACCEPT_PAUSE.0;
                if let Ok(stream) = stream.into_std() {
                    hand_over(&shared, stream, from);
                }
            }
            // Out of descriptors, for one: trying again at once would only burn the processor.
            Err(error) => {
                tracing::warn!(%error, "a tunnel could not be accepted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
            }
        }
    }
}

fn hand_over(shared: &Arc<Shared>, stream: std::net::TcpStream, from: SocketAddr) {
    let loads = shared.loads.iter().map(|load| load.load(Ordering::Relaxed));
    let loads: Vec<usize> = loads.collect();
    let (all, own) = (loads.iter().sum(), shared.tunnels_of(from.ip()));
    if let Some((kind, setting)) = crowded(all, own, &shared.config) {
        tracing::warn!(%from, "a tunnel is refused: there are {setting} already");
        return shared.telemetry.tunnel_refused(kind);
    }
    let to = (0..loads.len())
        .min_by_key(|worker| loads[*worker])
        .unwrap_or_default();
    let load = Load::new(shared, to, from.ip());
    // A worker that is gone drains; so does this process.
    shared.workers[to]
        .send(Command::Take { stream, from, load })
        .ok();
}

/// Why one tunnel more is refused, where there are so many, and so many of one address: one word, and the setting.
fn crowded(all: usize, own: usize, config: &Config) -> Option<(&'static str, &'static str)> {
    if all >= config.max_tunnels {
        return Some(("too_many", "MAX_TUNNELS"));
    }
    (own >= config.max_own_tunnels).then_some(("too_many_of_client", "MAX_TUNNELS_PER_CLIENT"))
}

/// The state, for the main thread to change and the admin pages to read.
#[derive(Clone)]
pub(crate) struct State(Arc<Mutex<Store>>, Arc<Shared>);

impl State {
    fn new(shared: &Arc<Shared>) -> Self {
        let store = Store::new(shared.config.root_namespace);
        Self(Arc::new(Mutex::new(store)), Arc::clone(shared))
    }

    /// The newest generation.
    pub(crate) fn current(&self) -> Arc<Generation> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(store.current())
    }

    /// Applies a response and gives every worker what came of it.
    fn apply(&self, delta: &Delta) -> Vec<Rejected> {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rejected = store.apply(delta);
        let generation = Arc::clone(store.current());
        drop(store);
        if delta.type_url == proto::BACKEND_TYPE {
            self.1.telemetry.retain(&generation);
        }
        for worker in &self.1.workers {
            worker.send(Command::State(Arc::clone(&generation))).ok();
        }
        rejected
    }
}

fn authority(config: &Config) -> Result<Authority, Error> {
    let server = config.authority.server();
    let server = server.map_err(|error| Error::Channel("CA_ADDRESS", error))?;
    Ok(Authority {
        channel: server.lazy(),
        caller: config.authority.caller.clone(),
        life: config.ttl,
        aliases: config.aliases.clone(),
        now: clock::wall,
    })
}

/// Fills the state from the control plane, in a task of its own.
fn follow(
    shared: &Arc<Shared>,
    metrics: &Metrics,
    state: &State,
) -> Result<(watch::Receiver<discovery::State>, JoinHandle<()>), Error> {
    let upstream = &shared.config.discovery;
    let server = upstream.server();
    let server = server.map_err(|error| Error::Channel("XDS_ADDRESS", error))?;
    let (tell, synced) = watch::channel(discovery::State::default());
    let discovery = Discovery {
        node: node(&shared.config),
        caller: upstream.caller.clone(),
        counters: metrics.discovery.clone(),
        state: tell,
    };
    let state = state.clone();
    let task = tokio::task::spawn_local(async move {
        discovery
            .run(&TYPES, || server.connect(), |delta| state.apply(&delta))
            .await;
    });
    Ok((synced, task))
}

/// Who we say we are on the discovery stream. Which Gateway that is, the control plane knows by the token.
fn node(config: &Config) -> proto::core::Node {
    let more = [
        ("NODE_NAME", config.node.as_str()),
        ("CLUSTER_ID", config.cluster.as_str()),
        ("GATEWAY", config.gateway.as_str()),
        ("SERVICE_ACCOUNT", config.service_account.as_str()),
    ];
    config.instance.node("waypoint", &config.domain, &more)
}
