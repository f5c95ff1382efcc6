//! The node agent: finds the pods of its node that are in the mesh, captures their TCP, and hands them to the node proxy.
//!
//! It carries no traffic and knows no policy. For each pod the order is fixed: rules in the pod's namespace, then the
//! proxy is told (ZDS) and acknowledges, and only then the control plane learns that the pod is captured.

pub mod agent;
pub mod capture;
mod config;
pub mod manifests;
mod readiness;
pub mod report;
pub mod rules;
pub mod watch;
pub mod zds;

use std::{
    fmt, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use agent::Agent;
use tokio::{sync, time};
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
}

/// Runs the agent until `shutdown` is done. Needs a tokio runtime with time and I/O.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let watch = Watch::new(&config.manifests)
        .map_err(|error| Error::Path("directory of manifests", config.manifests.clone(), error))?;
    if let Some(parent) = config.zds_socket.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            Error::Path("directory of the proxy socket", parent.to_owned(), error)
        })?;
    }
    let server = Server::bind(&config.zds_socket)
        .map_err(|error| Error::Path("proxy socket", config.zds_socket.clone(), error))?;
    let (sender, reports) = sync::watch::channel(None);
    let reporter = match config.target() {
        Some(target) => Some(tokio::spawn(report::run(target, reports))),
        None => {
            warn!("no control plane is given: nothing is reported");
            None
        }
    };
    info!(node = config.node, socket = %config.zds_socket.display(), "the agent runs");
    let mut agent = Agent::new(
        config.node,
        config.manifests,
        config.netns_dir,
        server,
        sender,
    );
    let outcome = serve(&mut agent, &watch, shutdown).await;
    if config.remove_on_exit {
        farewell(&mut agent).await;
    }
    if let Some(reporter) = reporter {
        reporter.abort();
    }
    outcome.map_err(Error::Os)
}

async fn serve(
    agent: &mut Agent,
    watch: &Watch,
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
            changed = watch.changed() => {
                changed?;
                look = true;
            }
            () = time::sleep(SETTLE), if look => look = agent.look(Instant::now()),
            _ = ticks.tick() => look |= agent.tick(Instant::now()),
        }
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
        }
    }
}

impl std::error::Error for Error {}
