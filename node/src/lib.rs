//! The node agent: finds the pods of its node that are in the mesh, captures their TCP, and hands them to the node proxy.
//!
//! It carries no traffic and knows no policy. For each pod the order is fixed: rules in the pod's namespace, then the
//! proxy is told (ZDS) and acknowledges, and only then the control plane learns that the pod is captured.

pub mod agent;
pub mod capture;
mod changes;
#[cfg(feature = "kubernetes")]
pub mod cni;
mod config;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod manifests;
mod readiness;
pub mod report;
pub mod rules;
pub mod survivors;
pub mod watch;
pub mod zds;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent::{Agent, Directory, Source};
use changes::Changes;
use tokio::{sync, task::JoinHandle, time};
use tracing::{info, warn};
use watch::Watch;
use zds::serve::Server;

pub use config::Config;

/// How often the agent looks for what nobody tells it.
const TICK: Duration = Duration::from_millis(250);
/// After a change of the manifests, the time to let others follow.
const SETTLE: Duration = Duration::from_millis(50);
/// How long proxies may take to let pods go on exit.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why the agent cannot run.
#[derive(Debug)]
pub enum Error {
    /// A path of the configuration cannot be used: what it is for, which it is, why.
    Path(&'static str, PathBuf, io::Error),
    /// The operating system failed the agent while it ran.
    Os(io::Error),
    /// The API server cannot be talked to, and why.
    #[cfg(feature = "kubernetes")]
    Cluster(String),
    /// Nothing tells which pods there are.
    #[cfg(not(feature = "kubernetes"))]
    NoSource,
}

/// Runs the agent until `shutdown` is done. Needs a tokio runtime with time and I/O.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    #[cfg(feature = "kubernetes")]
    if let Some(extent) = config.uninstall {
        return tokio::select! {
            outcome = kubernetes::uninstall::run(&config, extent) => outcome,
            () = shutdown => Ok(()),
        };
    }
    if let Some(parent) = config.zds_socket.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            Error::Path("directory of the proxy socket", parent.to_owned(), error)
        })?;
    }
    let server = Server::bind(&config.zds_socket)
        .map_err(|error| Error::Path("proxy socket", config.zds_socket.clone(), error))?;
    let (sender, reports) = sync::watch::channel(None);
    let (source, mut changes, reporter) = match &config.manifests {
        Some(manifests) => directory(&config, manifests, reports)?,
        #[cfg(feature = "kubernetes")]
        None => changes::cluster(&config, reports).await?,
        #[cfg(not(feature = "kubernetes"))]
        None => return Err(Error::NoSource),
    };
    info!(node = config.node, socket = %config.zds_socket.display(), "the agent runs");
    let mut agent = Agent::new(source, server, sender);
    #[cfg(feature = "kubernetes")]
    if config.kubernetes {
        agent.tell_probes();
        agent.limit((config.cut_after > 0).then(|| Duration::from_secs(config.cut_after)));
    }
    let outcome = serve(&mut agent, &mut changes, shutdown).await;
    if config.remove_on_exit {
        farewell(&mut agent).await;
    }
    if let Some(reporter) = reporter {
        reporter.abort();
    }
    outcome.map_err(Error::Os)
}

type Started = (Source, Changes, Option<JoinHandle<()>>);

fn directory(
    config: &Config,
    manifests: &Path,
    reports: sync::watch::Receiver<report::Reports>,
) -> Result<Started, Error> {
    let watch = Watch::new(manifests)
        .map_err(|error| Error::Path("directory of manifests", manifests.to_owned(), error))?;
    let reporter = match config.target() {
        Some(target) => Some(tokio::spawn(report::run(target, reports))),
        None => {
            warn!("no control plane is given: nothing is reported");
            None
        }
    };
    let (node, namespaces) = (config.node.clone(), config.netns_dir.clone());
    let directory = Directory::new(node, manifests.to_owned(), namespaces);
    let source = Source::Directory(directory);
    Ok((source, Changes::Directory(watch), reporter))
}

async fn serve(
    agent: &mut Agent,
    changes: &mut Changes,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::pin!(shutdown);
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut look = agent.look(Instant::now());
    loop {
        // What proxies have sent goes before the tick, which would find their answers late.
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            event = agent.next() => agent.on(event?, Instant::now()),
            change = changes.next() => {
                let _change = change?;
                #[cfg(feature = "kubernetes")]
                changes.take(_change, agent);
                look = true;
            }
            () = time::sleep(SETTLE), if look => look = agent.look(Instant::now()),
            _ = ticks.tick() => look |= agent.tick(Instant::now()),
        }
        #[cfg(feature = "kubernetes")]
        changes.tell(agent);
    }
}

/// Lets proxies end the pods' connections, then takes the rules out.
async fn farewell(agent: &mut Agent) {
    agent.leave(Instant::now());
    let gone = async {
        while !agent.is_empty() {
            let Ok(event) = agent.next().await else {
                return;
            };
            agent.on(event, Instant::now());
        }
    };
    if time::timeout(FAREWELL, gone).await.is_err() {
        warn!("node proxies did not let all pods go in time; the rules are taken out all the same");
    }
    agent.abandon();
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(what, path, error) => write!(f, "{what} {}: {error}", path.display()),
            Self::Os(error) => write!(f, "the operating system fails the node agent: {error}"),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(error) => write!(f, "the API server cannot be talked to: {error}"),
            #[cfg(not(feature = "kubernetes"))]
            Self::NoSource => {
                f.write_str("this agent is built without Kubernetes: give it --manifests")
            }
        }
    }
}

impl std::error::Error for Error {}
