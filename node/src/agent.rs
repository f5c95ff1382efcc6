//! Takes each pod of the node from found to captured, and back.
//!
//! ```text
//! Out ──in the mesh, namespace at hand, rules stand──▶ Told ──proxy acknowledges──▶ Captured
//!  ▲                                                     │                             │
//!  └── rules removed ── Leaving ◀── out of the mesh, gone, or another namespace or uid ┘
//! ```
//!
//! Captured outlives the proxy's connection, and damage to the rules: peers must not fall back to plaintext. What is wrong is
//! reported beside it. An agent that starts and finds rules of ours takes the pod for captured already, for the same
//! reason.
//!
//! What cannot be read takes nothing back, also where no earlier version of it is known: a pod that may be in the mesh or not
//! keeps the rules that it has, and is not ready without; and as long as pods may be hidden from an agent that has just
//! started, neither the control plane nor proxies are told of all.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use proto::workload::zds::WorkloadRequest;
use sys::netns::Netns;
use tokio::sync::watch::Sender;
use tracing::{error, info, warn};

use crate::{
    manifests::{Fault, Key, Manifests, Pod},
    report::Reports,
    zds::{
        Do, Id, Zds,
        serve::{Event, Server},
    },
};

#[cfg(feature = "kubernetes")]
use crate::kubernetes::host::Host;

#[cfg(feature = "kubernetes")]
mod arrivals;
#[cfg(feature = "kubernetes")]
mod probed;
mod tracked;

pub use tracked::{Cut, Why};
use tracked::{Found, Stage, Tracked, take_out};

/// How often the rules of captured pods are looked at.
const VERIFY: Duration = Duration::from_secs(2);

const HIDDEN: &str = "there may be captured pods of this node whose manifests cannot be read: until they can, the control plane is told nothing new, and proxies keep the pods that they have";

/// The agent's state.
#[derive(Debug)]
pub struct Agent {
    source: Source,
    /// This node's pods by their manifests; none before the first look, when nothing must be let go.
    wanted: Option<BTreeMap<Key, Pod>>,
    /// Every pod that an earlier run of the agent may have captured is among them.
    complete: bool,
    /// It was told that they are not complete.
    held_back: bool,
    pods: BTreeMap<Key, Tracked>,
    zds: Zds<Arc<Netns>>,
    server: Server,
    reports: Sender<Reports>,
    verified: Option<Instant>,
    /// How long connections may last that were open before their pod was captured.
    longest: Option<Duration>,
    /// What nobody has been told yet.
    cuts: Vec<Cut>,
    /// Tells probes from everything else; or why this node cannot.
    #[cfg(feature = "kubernetes")]
    host: Result<Host, String>,
}

/// Where the agent learns of its node's pods.
#[derive(Debug)]
pub enum Source {
    /// From a directory of manifests.
    Directory(Directory),
    /// From an API server, and from the processes of the node.
    #[cfg(feature = "kubernetes")]
    Cluster(crate::kubernetes::pods::Pods),
}

/// A directory of manifests.
#[derive(Debug)]
pub struct Directory {
    node: String,
    path: PathBuf,
    namespaces: PathBuf,
    manifests: Manifests,
    /// Whether the manifests could be read at the last look.
    readable: bool,
}

impl Directory {
    /// The pods of `node`, whose manifests are in `path` and whose namespaces are files of `namespaces`.
    pub fn new(node: String, path: PathBuf, namespaces: PathBuf) -> Self {
        Self {
            node,
            path,
            namespaces,
            manifests: Manifests::default(),
            readable: true,
        }
    }
}

impl Agent {
    /// An agent for the pods that `source` tells of.
    pub fn new(source: Source, server: Server, reports: Sender<Reports>) -> Self {
        Self {
            source,
            wanted: None,
            complete: false,
            held_back: false,
            pods: BTreeMap::new(),
            zds: Zds::default(),
            server,
            reports,
            verified: None,
            longest: None,
            cuts: Vec::new(),
            #[cfg(feature = "kubernetes")]
            host: Err("nobody has looked".to_owned()),
        }
    }

    /// What the next proxy does. May be cancelled.
    pub async fn next(&mut self) -> io::Result<Event> {
        self.server.next().await
    }

    /// Takes in what a proxy did.
    pub fn on(&mut self, event: Event, now: Instant) {
        let list = match event {
            Event::Connected(id, peer) => {
                self.server.keep(id, peer);
                self.zds.connected(id, now);
                Vec::new()
            }
            Event::Received(id, packet) => self.zds.received(id, &packet, now),
            Event::Closed(id, why) => {
                info!(connection = id, why, "a node proxy has gone");
                self.server.close(id);
                self.zds.closed(id, now)
            }
        };
        self.carry_out(list, now);
        self.publish();
    }

    /// Takes in what an API server told. [`look`](Self::look) acts on it.
    #[cfg(feature = "kubernetes")]
    pub fn take(&mut self, change: crate::kubernetes::pods::Change) {
        if let Source::Cluster(pods) = &mut self.source {
            pods.apply(change);
        }
    }

    /// What is written on the pods themselves, if an API server has them.
    #[cfg(feature = "kubernetes")]
    pub fn published(&self) -> crate::kubernetes::publish::Published {
        match &self.source {
            Source::Directory(_) => BTreeMap::new(),
            Source::Cluster(pods) => pods.published(),
        }
    }

    /// Looks at the manifests. True if some were still being written or objects are about to go: look again soon.
    pub fn look(&mut self, now: Instant) -> bool {
        let unsettled = self.read(now);
        self.reconcile(false, now);
        unsettled
    }

    /// Time has passed: looks for late proxies, for namespaces that were missing, and now and then whether rules stand
    /// and what the manifests say. True as for [`look`](Self::look).
    pub fn tick(&mut self, now: Instant) -> bool {
        let list = self.zds.tick(now);
        self.carry_out(list, now);
        let verify = self
            .verified
            .is_none_or(|last| now.duration_since(last) >= VERIFY);
        let mut unsettled = false;
        if verify {
            self.verified = Some(now);
            // A directory that was replaced is no longer the one that is watched.
            unsettled = self.read(now);
        }
        self.reconcile(verify, now);
        unsettled
    }

    fn read(&mut self, now: Instant) -> bool {
        #[cfg_attr(
            not(feature = "kubernetes"),
            expect(
                clippy::infallible_destructuring_match,
                reason = "there is one source then"
            )
        )]
        let directory = match &mut self.source {
            Source::Directory(directory) => directory,
            #[cfg(feature = "kubernetes")]
            Source::Cluster(pods) => {
                crate::kubernetes::netns::look(pods);
                self.wanted = pods.wanted();
                self.complete = self.wanted.is_some();
                self.without_probes();
                return false;
            }
        };
        // Files have the times of this clock; `now` may be ahead of it.
        let wall_clock = SystemTime::now() + now.saturating_duration_since(Instant::now());
        let looked = directory.manifests.look(&directory.path, wall_clock);
        let looked = match looked {
            Ok(looked) => looked,
            Err(error) => {
                if std::mem::replace(&mut directory.readable, false) {
                    let directory = directory.path.display();
                    error!(%directory, %error, "the manifests cannot be read; all stays as it was");
                }
                return false;
            }
        };
        directory.readable = true;
        for Fault {
            file,
            document,
            reason,
        } in looked.faults
        {
            let (file, document) = (file.display(), document.unwrap_or_default());
            error!(%file, document, reason, "a manifest is faulty; its last good version stays");
        }
        self.wanted = Some(directory.manifests.pods(&directory.node));
        self.complete |= !directory.manifests.hides(&directory.node);
        // What is being written mostly settles at once.
        if !self.complete && !looked.unsettled && !std::mem::replace(&mut self.held_back, true) {
            error!("{HIDDEN}");
        }
        looked.unsettled
    }

    /// Tells proxies that every pod goes. Done when [`is_empty`](Self::is_empty).
    pub fn leave(&mut self, now: Instant) {
        self.wanted = Some(BTreeMap::new());
        self.reconcile(false, now);
    }

    /// No pod is known any more.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Takes the rules out of every namespace, whatever proxies say.
    pub fn abandon(&mut self) {
        for (key, tracked) in std::mem::take(&mut self.pods) {
            take_out(&key, &tracked);
        }
    }

    fn reconcile(&mut self, verify: bool, now: Instant) {
        // Before any pod takes what has the source of probes, nobody else may have it.
        #[cfg(feature = "kubernetes")]
        self.guard(false);
        let Some(wanted) = &self.wanted else { return };
        for (key, pod) in wanted {
            self.pods
                .entry(key.clone())
                .or_insert_with(|| Tracked::new(pod.clone()));
        }
        let keys: Vec<_> = self.pods.keys().cloned().collect();
        for key in keys {
            self.step(&key, verify, now);
        }
        #[cfg(feature = "kubernetes")]
        self.guard(verify);
        if self.complete {
            let list = self.zds.complete(now);
            self.carry_out(list, now);
        }
        self.publish();
    }

    /// Brings one pod closer to what its manifest wants.
    fn step(&mut self, key: &Key, verify: bool, now: Instant) {
        let wanted = self.wanted.as_ref().and_then(|wanted| wanted.get(key));
        let Some(tracked) = self
            .pods
            .get_mut(key)
            .filter(|tracked| tracked.stage != Stage::Leaving)
        else {
            return;
        };
        let place = wanted.unwrap_or(&tracked.pod).netns.clone();
        let directory = match &self.source {
            Source::Directory(directory) => directory.namespaces.as_path(),
            #[cfg(feature = "kubernetes")]
            Source::Cluster(_) => std::path::Path::new(""),
        };
        let found = tracked.find(place.as_ref(), directory);
        let with_proxy = matches!(tracked.stage, Stage::Told | Stage::Captured);
        let stays = wanted.is_some_and(|pod| !pod.is_out() && pod.uid == tracked.pod.uid);
        if with_proxy && (!stays || found == Found::Another) {
            let leaves = wanted.is_some_and(|pod| pod.uid == tracked.pod.uid);
            self.cuts.extend(tracked.through(key).filter(|_| leaves));
            tracked.stage = Stage::Leaving;
            info!(namespace = key.0, pod = key.1, "leaves the mesh");
            let list = self.zds.remove(&tracked.pod.uid.clone(), now);
            return self.carry_out(list, now);
        }
        match wanted {
            None => {
                if let Some(gone) = self.pods.remove(key) {
                    let list = self.zds.remove(&gone.pod.uid, now);
                    self.let_go(key, &gone);
                    self.carry_out(list, now);
                }
            }
            Some(pod) if pod.is_out() => {
                let uid = tracked.pod.uid.clone();
                // Its namespace may be another's, which may be hidden.
                if !self.complete || is_shared(self.wanted.as_ref(), key, pod) {
                    tracked.pod = pod.clone();
                } else {
                    tracked.stay_out(key, pod.clone(), verify);
                }
                // Proxies may have been asked to keep it.
                let list = if self.zds.knows(&uid) {
                    self.zds.remove(&uid, now)
                } else {
                    Vec::new()
                };
                self.carry_out(list, now);
            }
            Some(pod) => {
                tracked.pod = pod.clone();
                let list = match pod.enrolment {
                    None => tracked.stay(key, verify, &mut self.zds, now),
                    Some(_) => tracked.go_in(key, verify, &mut self.zds, now),
                };
                if verify || tracked.is_uncounted() {
                    self.cuts.extend(tracked.watch_past(key, self.longest, now));
                }
                self.carry_out(list, now);
            }
        }
    }

    /// Connections that were open before their pod was captured may last so long, and no longer; `None` for ever.
    pub fn limit(&mut self, longest: Option<Duration>) {
        self.longest = longest;
    }

    /// What was cut since this was last asked.
    pub fn cuts(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.cuts)
    }

    fn carry_out(&mut self, list: Vec<Do<Arc<Netns>>>, now: Instant) {
        let mut list: VecDeque<_> = list.into();
        while let Some(next) = list.pop_front() {
            match next {
                Do::Send(id, request, netns) => {
                    list.extend(self.send(id, &request, netns.as_ref(), now))
                }
                Do::Close(id, why) => {
                    warn!(connection = id, why, "a node proxy's connection is closed");
                    self.server.close(id);
                }
                Do::Added(uid) => self.added(&uid, now),
                Do::Refused(uid, text) => self.refused(&uid, text),
                Do::Removed(uid) => self.removed(&uid),
            }
        }
    }

    fn send(
        &mut self,
        id: Id,
        request: &WorkloadRequest,
        netns: Option<&Arc<Netns>>,
        now: Instant,
    ) -> Vec<Do<Arc<Netns>>> {
        let packet = prost::Message::encode_to_vec(request);
        match self
            .server
            .send(id, &packet, netns.map(|netns| netns.as_fd()))
        {
            Ok(()) => Vec::new(),
            Err(error) => {
                warn!(connection = id, %error, "a node proxy cannot be told; its connection is closed");
                self.server.close(id);
                self.zds.closed(id, now)
            }
        }
    }

    fn by_uid(&mut self, uid: &str) -> Option<(&Key, &mut Tracked)> {
        self.pods
            .iter_mut()
            .find(|(_, tracked)| tracked.pod.uid == uid)
    }

    fn added(&mut self, uid: &str, now: Instant) {
        let longest = self.longest;
        let Some((key, tracked)) = self.by_uid(uid) else {
            return;
        };
        if tracked.stage == Stage::Told {
            info!(namespace = key.0, pod = key.1, "is captured");
            tracked.stage = Stage::Captured;
            tracked.acknowledged = true;
            tracked.reason.clear();
            // What is first said of it has the count.
            let cut = tracked.watch_past(key, longest, now);
            self.cuts.extend(cut);
        }
    }

    fn refused(&mut self, uid: &str, text: String) {
        let Some((key, tracked)) = self.by_uid(uid) else {
            return;
        };
        warn!(
            namespace = key.0,
            pod = key.1,
            text,
            "the node proxy could not take the pod"
        );
        if tracked.stage == Stage::Told {
            tracked.reason = format!("the node proxy could not take the pod: {text}");
        }
    }

    fn removed(&mut self, uid: &str) {
        let found = self
            .by_uid(uid)
            .filter(|(_, tracked)| tracked.stage == Stage::Leaving)
            .map(|(key, _)| key.clone());
        let Some(key) = found else { return };
        let Some(tracked) = self.pods.remove(&key) else {
            return;
        };
        self.let_go(&key, &tracked);
        info!(namespace = key.0, pod = key.1, "is no longer captured");
        // Still wanted, it begins anew at the next look.
        if let Some(pod) = self.wanted.as_ref().and_then(|wanted| wanted.get(&key)) {
            self.pods.insert(key, Tracked::new(pod.clone()));
        }
    }

    /// Takes the rules out of a pod's namespace, unless another pod needs them.
    fn let_go(&self, key: &Key, gone: &Tracked) {
        if !is_shared(self.wanted.as_ref(), key, &gone.pod) {
            take_out(key, gone);
        }
    }

    fn publish(&self) {
        // What is not reported is published as not captured.
        if !self.complete {
            return;
        }
        let reports: Vec<_> = self.pods.values().map(Tracked::report).collect();
        self.reports.send_if_modified(|last| {
            let changed = last.as_ref() != Some(&reports);
            if changed {
                *last = Some(reports);
            }
            changed
        });
    }
}

/// Whether another pod that is not out of the mesh has the same network namespace, as when a pod is renamed.
fn is_shared(wanted: Option<&BTreeMap<Key, Pod>>, key: &Key, pod: &Pod) -> bool {
    let mut others = wanted.into_iter().flatten().filter(|(it, _)| *it != key);
    pod.netns.is_some() && others.any(|(_, it)| !it.is_out() && it.netns == pod.netns)
}

#[cfg(test)]
mod tests;
