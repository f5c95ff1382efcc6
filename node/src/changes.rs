//! What tells the agent that pods may have changed: a directory that is watched, or an API server.

use std::io;

#[cfg(feature = "kubernetes")]
use crate::agent::Agent;
use crate::watch::Watch;

#[cfg(feature = "kubernetes")]
mod cluster {
    use k8s_openapi as _;
    use kube::Client;
    use tokio::sync::{mpsc, watch};

    use crate::{
        Config, Error, Started,
        agent::Source,
        kubernetes::{
            pods::{Change, Excluded, Pods},
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
    }

    /// Watches an API server, and writes on pods what is reported.
    pub(crate) async fn cluster(
        config: &Config,
        reports: watch::Receiver<Reports>,
    ) -> Result<Started, Error> {
        let client = Client::try_default()
            .await
            .map_err(|error| Error::Cluster(error.to_string()))?;
        let (sender, changes) = mpsc::channel(AT_ONCE);
        let (published, receiver) = watch::channel(Published::new());
        tokio::spawn(watcher::watch(client.clone(), config.node.clone(), sender));
        let reporter = tokio::spawn(publish::run(client, receiver, reports));
        let excluded = Excluded(config.excluded.iter().cloned().collect());
        let cluster = Cluster { changes, published };
        Ok((
            Source::Cluster(Pods::new(excluded)),
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
}

impl Changes {
    /// The next change. May be cancelled.
    pub(crate) async fn next(&mut self) -> io::Result<Change> {
        match self {
            Self::Directory(watch) => watch.changed().await.map(|()| Change::Directory),
            #[cfg(feature = "kubernetes")]
            Self::Cluster(cluster) => {
                let change = cluster.changes.recv().await;
                let change = change.ok_or_else(|| io::Error::other("the watch has ended"))?;
                Ok(Change::Cluster(change))
            }
        }
    }

    /// Has the agent take in a change.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn take(&self, change: Change, agent: &mut Agent) {
        // A directory is read when it is looked at.
        if let (Change::Cluster(change), Self::Cluster(cluster)) = (change, self) {
            agent.take(change);
            let published = agent.published();
            cluster.published.send_if_modified(|last| {
                let changed = *last != published;
                *last = published;
                changed
            });
        }
    }
}
