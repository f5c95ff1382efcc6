//! The agent's part in how pods start: the CNI plugin on the host, what it is told, and what it goes by alone.
//!
//! ```text
//! container runtime ──ADD──▶ ambit-cni ──/var/lib/ambit/cni.sock──▶ agent: rules, node proxy, acknowledged
//!                                │ no answer
//!                                └──▶ /var/lib/ambit/namespaces.json: refuse or pass
//! ```
//!
//! Binary, host file and network configuration outlive the agent, so that an upgrade opens no gap;
//! [`uninstall`](crate::kubernetes::uninstall) takes them away. The socket opens once the namespaces are known: until then
//! the plugin decides alone, by what the agent before this one left.

use std::{io, path::PathBuf, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time};
use tracing::{error, info, warn};

use crate::{Config, watch::Watch};
use cni::host::Host;

pub mod conflist;
pub mod install;
pub mod serve;

use install::Places;
use serve::Desk;

/// After a change of the network configuration, the time to let others follow.
const SETTLE: Duration = Duration::from_millis(50);

/// How often the network configuration is looked at although nobody tells of a change.
const LOOK: Duration = Duration::from_secs(10);

/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where things are, if a host's CNI is to be used.
pub fn places(config: &Config) -> Option<Places> {
    Some(Places {
        plugin: config.cni_plugin.clone(),
        binaries: config.cni_bin_dir.clone()?,
        configurations: config.cni_conf_dir.clone()?,
        meeting: config.run_dir.clone(),
    })
}

/// Serves the plugin, and keeps it installed, until the agent ends. `hosts` is what the plugin goes by alone, once that
/// is known.
pub async fn run(
    places: Places,
    ready: Option<std::net::SocketAddr>,
    mut hosts: watch::Receiver<Option<Host>>,
    desk: Desk,
) {
    if hosts.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let serving = loop {
        match begin(&places, &mut hosts, &desk).await {
            Ok(serving) => break serving,
            Err(error) => {
                error!(%error, "pods cannot be taken in as they start, and this node is not ready: tried again");
            }
        }
        time::sleep(RETRY).await;
    };
    let watch = loop {
        match Watch::new(&places.configurations) {
            Ok(watch) => break watch,
            Err(error) => {
                error!(%error, directory = %places.configurations.display(), "the network configuration cannot be watched")
            }
        }
        time::sleep(RETRY).await;
    };
    let mut known = None;
    let chained = chain(&places, &mut known);
    let mut answering = ready.filter(|_| chained).map(say_ready);
    let mut looks = time::interval(LOOK);
    looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = hosts.changed() => {
                if changed.is_err() {
                    serving.abort();
                    return;
                }
                if let Err(error) = write_host(&places, &mut hosts) {
                    error!(%error, "what the CNI plugin goes by alone cannot be written");
                    hosts.mark_changed();
                    time::sleep(RETRY).await;
                }
                continue;
            }
            changed = watch.changed() => {
                if let Err(error) = changed {
                    warn!(%error, "the network configuration cannot be watched");
                    time::sleep(RETRY).await;
                }
                time::sleep(SETTLE).await;
            }
            _ = looks.tick() => {}
        }
        if chain(&places, &mut known) && answering.is_none() {
            answering = ready.map(say_ready);
        }
    }
}

async fn begin(
    places: &Places,
    hosts: &mut watch::Receiver<Option<Host>>,
    desk: &Desk,
) -> io::Result<JoinHandle<()>> {
    install::directory(&places.meeting)?;
    write_host(places, hosts)?;
    install::binary(places)?;
    let listener = serve::bind(&places.meeting.join(cni::SOCKET))?;
    Ok(tokio::spawn(serve::serve(listener, desk.clone())))
}

fn write_host(places: &Places, hosts: &mut watch::Receiver<Option<Host>>) -> io::Result<()> {
    let text = hosts.borrow_and_update().as_ref().map(Host::to_json);
    let path = places.meeting.join(cni::HOST_FILE);
    text.map_or(Ok(()), |text| {
        install::replace(&path, text.as_bytes(), 0o644)
    })
}

/// True if the plugin is chained.
fn chain(places: &Places, known: &mut Option<String>) -> bool {
    // Somebody may have cleared the directory of binaries: a configuration must not name what is not there.
    let outcome = install::binary(places)
        .map_err(|error| error.to_string())
        .and_then(|()| install::chain(&places.configurations));
    let (chained, said) = match outcome {
        Ok(Some(file)) => {
            info!(file = %file.display(), "the CNI plugin is chained into the network configuration");
            (true, None)
        }
        Ok(None) => (true, None),
        Err(reason) => (false, Some(reason)),
    };
    if said != *known
        && let Some(reason) = &said
    {
        error!(
            reason,
            "the CNI plugin cannot be chained: pods are taken in only after they have started"
        );
    }
    *known = said;
    chained
}

/// Whoever connects finds that the agent is ready.
pub fn say_ready(address: std::net::SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => loop {
                    if listener.accept().await.is_err() {
                        time::sleep(RETRY).await;
                    }
                },
                Err(error) => {
                    error!(%error, %address, "nobody can be told that the agent is ready")
                }
            }
            time::sleep(RETRY).await;
        }
    })
}

/// A path with more at its end.
fn with(path: &std::path::Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
