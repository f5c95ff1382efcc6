//! What tells the agent that pods may have changed: a directory that is watched, or an API server.

use std::io;

#[cfg(feature = "kubernetes")]
use crate::agent::Agent;
use crate::watch::Watch;

#[cfg(feature = "kubernetes")]
mod cluster {
    use k8s_openapi as _;
    use tokio::sync::{mpsc, watch};

    use cni::host::Host;

    use crate::{
        Config, Error, Started,
        agent::Source,
        cni::{self as plugin, serve::Desk},
        kubernetes::{
            client,
            news::News,
            pods::{Ask, Change, Excluded, Pods},
            publish::{self, Published},
            watch as watcher,
        },
        report::Reports,
    };

    /// Changes that are taken in before the agent has looked.
    const AT_ONCE: usize = 64;

    /// Where changes come from, and where it goes what is written on pods.
    #[derive(Debug)]
    pub(crate) struct Cluster {
        pub(super) changes: mpsc::Receiver<Change>,
        pub(super) published: watch::Sender<Published>,
        /// Pods that are about to run.
        pub(super) asks: mpsc::Receiver<Ask>,
        /// Those that are still to be captured.
        pub(super) waiting: Vec<Ask>,
        /// The namespace of the mesh itself.
        pub(super) own: String,
        pub(super) host: watch::Sender<Option<Host>>,
        pub(super) news: News,
    }

    /// Watches an API server, and writes on pods what is reported.
    pub(crate) async fn cluster(
        config: &Config,
        reports: watch::Receiver<Reports>,
    ) -> Result<Started, Error> {
        let client = client()
            .await
            .map_err(|error| Error::Cluster(error.to_string()))?;
        let (sender, changes) = mpsc::channel(AT_ONCE);
        let (published, receiver) = watch::channel(Published::new());
        tokio::spawn(watcher::watch(client.clone(), config.node.clone(), sender));
        let (asker, asks) = mpsc::channel(AT_ONCE);
        let (host, hosts) = watch::channel(None);
        if let Some(places) = plugin::places(config) {
            let desk = Desk {
                asks: asker,
                client: client.clone(),
                reports: reports.clone(),
                hosts: hosts.clone(),
            };
            tokio::spawn(plugin::run(places, config.ready, hosts, desk));
        }
        let news = News::new(client.clone(), config.node.clone());
        let keys = config.keys();
        let reporter = tokio::spawn(publish::run(client, keys, receiver, reports, news.clone()));
        let own = config.own_namespace.clone();
        let excluded = config.excluded.iter().chain([&own]).cloned().collect();
        let excluded = Excluded(excluded);
        let cluster = Cluster {
            changes,
            published,
            asks,
            waiting: Vec::new(),
            own: own.clone(),
            host,
            news,
        };
        Ok((
            Source::Cluster(Pods::new(keys, excluded, &own)),
            super::Changes::Cluster(cluster),
            Some(reporter),
        ))
    }
}

#[cfg(feature = "kubernetes")]
pub(crate) use cluster::cluster;

/// Where changes come from.
#[derive(Debug)]
pub(crate) enum Changes {
    /// A directory.
    Directory(Watch),
    /// An API server.
    #[cfg(feature = "kubernetes")]
    Cluster(cluster::Cluster),
}

/// What there is to take in.
#[derive(Debug)]
pub(crate) enum Change {
    /// Some file is another than before.
    Directory,
    /// What a watch told.
    #[cfg(feature = "kubernetes")]
    Cluster(crate::kubernetes::pods::Change),
    /// A pod is about to run.
    #[cfg(feature = "kubernetes")]
    Arrival(crate::kubernetes::pods::Ask),
}

impl Changes {
    /// The next change. May be cancelled.
    pub(crate) async fn next(&mut self) -> io::Result<Change> {
        match self {
            Self::Directory(watch) => watch.changed().await.map(|()| Change::Directory),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => tokio::select! {
                change = cluster.changes.recv() => {
                    let change = change.ok_or_else(|| io::Error::other("the watch has ended"))?;
                    Ok(Change::Cluster(change))
                }
                Some(ask) = cluster.asks.recv() => Ok(Change::Arrival(ask)),
            },
        }
    }

    /// Has the agent take in a change.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn take(&mut self, change: Change, agent: &mut Agent) {
        // A directory is read when it is looked at.
        let Self::Cluster(cluster) = self else { return };
        match change {
            Change::Directory => {}
            Change::Arrival(ask) => {
                agent.arrived(&ask);
                cluster.waiting.push(ask);
            }
            Change::Cluster(change) => {
                agent.take(change);
                let published = agent.published();
                cluster.published.send_if_modified(|last| {
                    let changed = *last != published;
                    *last = published;
                    changed
                });
                let host = agent.host(&cluster.own);
                cluster.host.send_if_modified(|last| {
                    let changed = *last != host;
                    *last = host;
                    changed
                });
            }
        }
    }

    /// Tells those who wait what there is to tell by now.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn tell(&mut self, agent: &mut Agent) {
        let Self::Cluster(cluster) = self else { return };
        for cut in agent.cuts() {
            cluster.news.cut(&cut);
        }
        let waiting = std::mem::take(&mut cluster.waiting);
        for ask in waiting {
            match agent.told(&ask) {
                // Whoever asked may have gone.
                Some(told) => drop(ask.reply.send(told)),
                None if ask.reply.is_closed() => {}
                None => cluster.waiting.push(ask),
            }
        }
    }
}
