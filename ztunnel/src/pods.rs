//! The node proxy's end of ZDS: takes pods from the node agent, over and over again.
//!
//! What a message changes is decided in [`roster`](crate::roster). A pod whose listeners cannot be opened is told to the
//! agent with the reason and tried again; nothing that the agent sends ends this process.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mesh::{admit, identity::Identity};
use net::discovery;
use prost::Message;
use proto::workload::zds::{
    Ack, Version, WorkloadRequest, WorkloadResponse, ZdsHello, workload_request::Payload,
    workload_response,
};
use sys::{netns::Netns, seqpacket::Connection};
use tokio::{io::unix::AsyncFd, sync::watch, time::Instant};

use crate::{
    pod::PodFacts,
    roster::{Action, Named, Roster},
    socket,
    worker::{Command, Shared},
};

/// The largest message that is taken.
const MAX_MESSAGE: usize = 64 << 10;
/// Between two attempts to find the agent.
const RECONNECT: Duration = Duration::from_millis(200);
/// Between two attempts to start a pod.
const RETRY: Duration = Duration::from_secs(5);

/// All pods of the node, on the main thread.
pub(crate) struct Pods {
    shared: Arc<Shared>,
    roster: Roster,
    served: HashMap<String, Arc<PodFacts>>,
    /// Those whose start failed, or has to wait.
    pending: HashMap<String, (Named, Netns)>,
    /// The home of the next pod.
    next_home: usize,
    proxies: net::metrics::Proxies,
    /// Uid and facts of all served pods, for the admin pages; with whether a snapshot is complete.
    seen: watch::Sender<Seen>,
    /// Whether there is state to serve pods by.
    synced: watch::Receiver<discovery::State>,
}

/// What others see of the pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// A first snapshot is complete.
    pub(crate) complete: bool,
    /// All that are served.
    pub(crate) pods: Vec<Arc<PodFacts>>,
}

impl Pods {
    pub(crate) fn new(
        shared: Arc<Shared>,
        proxies: net::metrics::Proxies,
        seen: watch::Sender<Seen>,
        synced: watch::Receiver<discovery::State>,
    ) -> Self {
        Self {
            shared,
            roster: Roster::default(),
            served: HashMap::new(),
            pending: HashMap::new(),
            next_home: 0,
            proxies,
            seen,
            synced,
        }
    }

    /// Follows the node agent until dropped.
    pub(crate) async fn run(mut self) {
        let mut told = false;
        while !self.is_ending() {
            let followed = match Connection::connect(&self.shared.config.zds) {
                Ok(agent) => self.follow(agent).await,
                Err(error) => Err(error),
            };
            match followed {
                Ok(()) => {
                    tracing::info!("the node agent has closed the connection; waiting for it");
                    told = true;
                }
                Err(error) if !told => {
                    let path = self.shared.config.zds.display();
                    tracing::warn!(%path, %error, "no connection to the node agent; trying again");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RECONNECT).await;
            self.retry();
        }
    }

    /// One connection, until it ends.
    async fn follow(&mut self, agent: Connection) -> io::Result<()> {
        let agent = watched(agent)?;
        tracing::info!("connected to the node agent");
        send(
            &agent,
            &ZdsHello {
                version: Version::V1.into(),
            },
        )
        .await?;
        self.roster.connected();
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut retry = Instant::now() + RETRY;
        let mut state = self.synced.clone();
        let mut waits = !state.borrow().synced;
        loop {
            let synced = async { state.wait_for(|state| state.synced).await.is_ok() };
            let received = tokio::select! {
                received = receive(&agent, &mut buffer) => received?,
                true = synced, if waits => {
                    waits = false;
                    self.retry();
                    continue;
                }
                () = tokio::time::sleep_until(retry) => {
                    self.retry();
                    retry = Instant::now() + RETRY;
                    continue;
                }
            };
            if received.bytes == 0 {
                return Ok(());
            }
            let done = if received.truncated {
                Err(format!("a message is longer than {MAX_MESSAGE} bytes"))
            } else if received.extra_fds > 0 {
                Err("more than one file descriptor came with a message".to_owned())
            } else {
                self.on(&buffer[..received.bytes], received.fd)
            };
            if let Err(reason) = &done {
                tracing::warn!(reason, "a message of the node agent is refused");
            }
            let ack = Ack {
                error: done.err().unwrap_or_default(),
            };
            let payload = Some(workload_response::Payload::Ack(ack));
            send(&agent, &WorkloadResponse { payload }).await?;
        }
    }

    fn on(&mut self, packet: &[u8], fd: Option<std::os::fd::OwnedFd>) -> Result<(), String> {
        let request =
            WorkloadRequest::decode(packet).map_err(|e| format!("not a ZDS message: {e}"))?;
        let netns = fd.map(Netns::from_fd).transpose();
        let netns =
            netns.map_err(|e| format!("the file descriptor is no network namespace: {e}"))?;
        let id = netns
            .as_ref()
            .map(Netns::id)
            .transpose()
            .map_err(|e| e.to_string())?;
        if self.is_ending() && matches!(request.payload, Some(Payload::Add(_))) {
            return Err("this node proxy is ending".to_owned());
        }
        let result = match (self.roster.on(request, id)?, netns) {
            (Action::Start(named), Some(netns)) => self.start(named, netns),
            (Action::Stop(uids), _) => {
                uids.iter().for_each(|uid| self.stop(uid));
                Ok(())
            }
            (Action::Nothing | Action::Start(_), _) => Ok(()),
        };
        self.publish();
        result
    }

    fn start(&mut self, named: Named, netns: Netns) -> Result<(), String> {
        self.stop(&named.uid);
        let config = &self.shared.config;
        // Connections that came to us now would wait for what the predecessor has.
        if !self.synced.borrow().synced && socket::has_predecessor(&netns, config) {
            self.pending.insert(named.uid.clone(), (named, netns));
            return Ok(());
        }
        let listeners = match socket::listen(&netns, config) {
            Ok(listeners) => listeners,
            Err(error) => {
                let reason = format!("pod {}/{}: {error}", named.namespace, named.name);
                self.pending.insert(named.uid.clone(), (named, netns));
                return Err(reason);
            }
        };
        let Named {
            uid,
            name,
            namespace,
            service_account,
        } = named;
        let identity = Identity::new(config.trust_domain.as_str(), &namespace, &service_account);
        let workload = admit::Pod {
            uid: format!("{}//Pod/{namespace}/{name}", config.cluster).into(),
            identity,
        };
        tracing::info!(pod = name, namespace, %identity, "serving");
        let facts = Arc::new(PodFacts {
            uid: uid.as_str().into(),
            name,
            workload,
            netns,
        });
        self.shared.certificates.want(identity);
        self.served.insert(uid, Arc::clone(&facts));
        self.proxies.started.inc();
        let home = self.next_home % self.shared.workers.len();
        self.next_home += 1;
        // The home last: what it hands over must find the pod where it arrives.
        for (id, worker) in self.shared.workers.iter().enumerate() {
            if id != home {
                // A worker that is gone drains, and so do we.
                worker.send(Command::Add(Arc::clone(&facts), None)).ok();
            }
        }
        self.shared.workers[home]
            .send(Command::Add(facts, Some(listeners)))
            .ok();
        Ok(())
    }

    fn stop(&mut self, uid: &str) {
        self.pending.remove(uid);
        let Some(facts) = self.served.remove(uid) else {
            return;
        };
        tracing::info!(pod = facts.name, namespace = %facts.workload.identity.namespace, "not serving any more");
        self.proxies.stopped.inc();
        for worker in &self.shared.workers {
            worker.send(Command::Remove(Arc::clone(&facts.uid))).ok();
        }
        let identity = facts.workload.identity;
        if !self
            .served
            .values()
            .any(|other| other.workload.identity == identity)
        {
            self.shared.certificates.forget(&identity);
        }
    }

    fn retry(&mut self) {
        for (named, netns) in std::mem::take(&mut self.pending).into_values() {
            if let Err(reason) = self.start(named, netns) {
                tracing::warn!(reason, "a pod still cannot be served");
            }
        }
        self.publish();
    }

    /// Whoever is to end is followed by another one, which gets what comes.
    fn is_ending(&self) -> bool {
        self.shared.ending.load(Ordering::Relaxed)
    }

    fn publish(&self) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.proxies.active.set(count(self.served.len()));
        self.proxies.pending.set(count(self.pending.len()));
        let pods = self.served.values().cloned().collect();
        self.seen.send_replace(Seen {
            complete: self.roster.is_complete(),
            pods,
        });
    }
}

/// A connection that the runtime watches.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that might change their descriptor; ours never does"
)]
fn watched(connection: Connection) -> io::Result<AsyncFd<Connection>> {
    AsyncFd::new(connection)
}

async fn send(agent: &AsyncFd<Connection>, message: &impl Message) -> io::Result<()> {
    let packet = message.encode_to_vec();
    agent
        .async_io(tokio::io::Interest::WRITABLE, |agent| {
            agent.send(&packet, None)
        })
        .await
}

async fn receive(
    agent: &AsyncFd<Connection>,
    buffer: &mut [u8],
) -> io::Result<sys::seqpacket::Received> {
    agent
        .async_io(tokio::io::Interest::READABLE, |agent| {
            agent.receive(&mut *buffer)
        })
        .await
}

#[cfg(test)]
mod tests;
