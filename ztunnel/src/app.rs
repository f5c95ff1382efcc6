//! The main thread: everything that is not data.

use std::{
    fmt,
    future::Future,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::{
    delta::{Delta, Resource},
    parse::Rejected,
    store::{Effect, Generation, Store},
};
use net::{
    ca::Authority,
    certificates::Certificates,
    channel::ChannelError,
    clock,
    discovery::{self, Discovery},
    drain, executable, memory,
    metrics::{self, Metrics, Proxies},
};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
};

use crate::{
    admin::{self, Inside},
    config::{self, Config},
    pods::{Pods, Seen},
    telemetry::Telemetry,
    worker::{self, Command, Shared},
};

/// Why the node proxy ended, or did not begin.
#[derive(Debug)]
pub enum Error {
    /// A server of the control plane cannot be used as configured.
    Channel(&'static str, ChannelError),
    /// The local workload file cannot be used.
    Local(String),
    /// A thread or socket of our own.
    Io(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(variable, error) => write!(f, "{variable}: {error}"),
            Self::Local(reason) => write!(f, "LOCAL_XDS_PATH: {reason}"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs the node proxy until `shutdown`, then lets open flows end for as long as the configuration says.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    LocalSet::new().run_until(serve(config, shutdown)).await
}

async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    sys::process::raise_file_limit().map_err(|error| Error::Io("open file limit", error))?;
    let (certificates, keeper) = Certificates::new(clock::wall);
    let mut metrics = Metrics::new("ztunnel", env!("CARGO_PKG_VERSION"), config.workers);
    metrics.memory(config.tunnel.budget);
    tokio::task::spawn_local(memory::watch(config.tunnel.budget));
    let proxies = Proxies::register(metrics.registry());
    let metrics = Arc::new(metrics);
    let (drainer, drain) = drain::pair();
    let (workers, inboxes): (Vec<_>, Vec<_>) = (0..config.workers)
        .map(|_| mpsc::unbounded_channel())
        .unzip();
    let shared = Arc::new(Shared {
        loads: workers.iter().map(|_| AtomicUsize::new(0)).collect(),
        ending: AtomicBool::new(false),
        certificates,
        telemetry: Telemetry(Arc::clone(&metrics.traffic)),
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
    let state = State::new(&shared);
    let (synced, discovery) = follow(&shared, &metrics, &state)?;
    let (seen, pods) = watch::channel(Seen::default());
    tokio::task::spawn_local(Pods::new(Arc::clone(&shared), proxies, seen, synced.clone()).run());
    let inside = Arc::new(Inside {
        shared: Arc::clone(&shared),
        metrics,
        state,
        pods,
        synced,
    });
    let pages = admin::serve(&inside).await;
    tokio::task::spawn_local(admin::tell(inside));
    pages.map_err(|error| Error::Io("admin, metrics or readiness address", error))?;
    tracing::info!(node = %shared.config.node, workers = shared.workers.len(), "started");
    shutdown.await;
    tracing::info!(deadline = ?shared.config.drain, "ending: new connections are left to a successor");
    shared.ending.store(true, Ordering::Relaxed);
    let finished = drainer.drain(shared.config.drain).await;
    // Rules that change meanwhile hold for what is still open.
    drop(discovery);
    if !finished {
        tracing::warn!("connections were still open and are cut");
    }
    Ok(())
}

/// The state, for the main thread to change and the admin pages to read.
#[derive(Clone)]
pub(crate) struct State(Arc<Mutex<Store>>, Arc<Shared>);

impl State {
    fn new(shared: &Arc<Shared>) -> Self {
        let store = Store::new(shared.config.node, shared.config.root_namespace);
        Self(Arc::new(Mutex::new(store)), Arc::clone(shared))
    }

    /// The newest generation.
    pub(crate) fn current(&self) -> Arc<Generation> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .current()
    }

    /// Applies a response and hands what follows to whoever carries it out.
    fn apply(&self, delta: &Delta) -> Vec<Rejected> {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rejected, effects) = store.apply(delta);
        let generation = store.current();
        drop(store);
        self.carry_out(&effects, &generation);
        let effects: Arc<[Effect]> = effects.into();
        for worker in &self.1.workers {
            worker
                .send(Command::State(
                    Arc::clone(&generation),
                    Arc::clone(&effects),
                ))
                .ok();
        }
        rejected
    }

    fn carry_out(&self, effects: &[Effect], generation: &Generation) {
        let certificates = &self.1.certificates;
        for effect in effects {
            match effect {
                // Pods of this node are wanted by the agent's word, and forgotten by it.
                Effect::Forget(_) | Effect::Recheck => {}
                Effect::Prefetch(identity) => certificates.want(*identity),
                Effect::Gone(_) => {
                    let known = metrics::Known::of(generation.workloads());
                    let keep = |labels: &metrics::Labels| {
                        known.has(&labels.source) && known.has(&labels.destination)
                    };
                    self.1.telemetry.0.retain(keep);
                }
            }
        }
    }
}

fn authority(config: &Config) -> Result<Authority, Error> {
    let server = config
        .authority
        .server()
        .map_err(|error| Error::Channel("CA_ADDRESS", error))?;
    Ok(Authority {
        channel: server.lazy(),
        caller: config.authority.caller.clone(),
        life: config.ttl,
        aliases: config.aliases.clone(),
        now: clock::wall,
    })
}

/// Fills the state from a file, from the control plane, or from both. The handle ends the following when dropped.
fn follow(
    shared: &Arc<Shared>,
    metrics: &Metrics,
    state: &State,
) -> Result<(watch::Receiver<discovery::State>, AbortOnDrop), Error> {
    let config = &shared.config;
    if let Some(local) = &config.local {
        for delta in read_local(local)? {
            if let Some(bad) = state.apply(&delta).first() {
                return Err(Error::Local(bad.to_string()));
            }
        }
    }
    let Some(upstream) = &config.discovery else {
        let synced = discovery::State {
            synced: config.local.is_some(),
            ..discovery::State::default()
        };
        return Ok((watch::channel(synced).1, AbortOnDrop(None)));
    };
    let server = upstream
        .server()
        .map_err(|error| Error::Channel("XDS_ADDRESS", error))?;
    let (tell, synced) = watch::channel(discovery::State::default());
    let discovery = Discovery {
        node: node(config),
        caller: upstream.caller.clone(),
        counters: metrics.discovery.clone(),
        state: tell,
    };
    let state = state.clone();
    let task = tokio::task::spawn_local(async move {
        let types = [proto::ADDRESS_TYPE, proto::AUTHORIZATION_TYPE];
        discovery
            .run(&types, || server.connect(), |delta| state.apply(&delta))
            .await;
    });
    Ok((synced, AbortOnDrop(Some(task.abort_handle()))))
}

struct AbortOnDrop(Option<tokio::task::AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The resources of a local workload file, as if the control plane had sent them.
fn read_local(local: &config::Local) -> Result<[Delta; 2], Error> {
    let text = match local {
        config::Local::Path(path) => std::fs::read_to_string(path)
            .map_err(|error| Error::Local(format!("{}: {error}", path.display())))?,
        config::Local::Text(text) => text.clone(),
    };
    let local = mesh::local::parse(&text).map_err(|error| Error::Local(error.to_string()))?;
    let resource = |name: &String, bytes| Resource {
        name: name.clone(),
        version: String::new(),
        bytes,
    };
    let addresses = local
        .addresses
        .iter()
        .map(|(name, a)| resource(name, a.encode_to_vec()));
    let policies = local
        .authorizations
        .iter()
        .map(|(name, a)| resource(name, a.encode_to_vec()));
    let delta = |type_url: &str, resources| Delta {
        type_url: type_url.to_owned(),
        resources,
        removed: Vec::new(),
    };
    // Policies first: nothing is open before what guards it is known.
    Ok([
        delta(proto::AUTHORIZATION_TYPE, policies.collect()),
        delta(proto::ADDRESS_TYPE, addresses.collect()),
    ])
}

/// Who we say we are on the discovery stream.
fn node(config: &Config) -> proto::core::Node {
    let more = [
        ("NODE_NAME", config.node.as_str()),
        ("CLUSTER_ID", config.cluster.as_str()),
    ];
    config.instance.node("ztunnel", &config.domain, &more)
}

/// How long the admin pages wait for a worker.
pub(crate) const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);
