//! One pod as the agent knows it: its namespace, its rules, and how far it has come.

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{node::PodReport, workload::zds::WorkloadInfo};
use sys::{diag, netns::Netns, route};
use tracing::warn;

use crate::{
    capture::{self, State},
    manifests::{Key, Place, Pod},
    report::Report,
    survivors,
    zds::{Do, Zds},
};

const UNCLEAR: &str = "its manifest, or its namespace's, cannot be read well and never could: nobody can say whether it is in the mesh, and its capture is left as it is";

/// A pod that the agent knows.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) pod: Pod,
    pub(super) stage: Stage,
    pub(super) netns: Option<Arc<Netns>>,
    /// Its namespace's file is there.
    at_hand: bool,
    /// The rules stood when last looked at.
    standing: bool,
    /// The proxy has it: it is reached through tunnels, and never again in plaintext before it has left the mesh.
    pub(super) acknowledged: bool,
    /// Why it is not captured, or what is wrong with its capture.
    pub(super) reason: String,
    addresses: Vec<IpAddr>,
    /// Since when it is captured, as far as this run of the agent knows.
    since: Option<Instant>,
    /// Its connections that go past the proxy, which only become fewer; `None` before they were counted.
    past: Option<usize>,
}

/// Connections that were cut, and of which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The pod.
    pub pod: Key,
    /// Its uid.
    pub uid: String,
    /// How many.
    pub connections: usize,
    /// Why.
    pub why: Why,
}

/// Why connections were cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// They were open before the pod was captured, and a policy is for it.
    Judged,
    /// They were open before the pod was captured, longer than they may be.
    Late,
    /// They went through the proxy, and the pod has left the mesh.
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is known of its namespace yet.
    New,
    /// There is nothing of ours in its namespace, and no proxy has it.
    Out,
    /// The rules stand and the proxy is being told.
    Told,
    /// The proxy has acknowledged it.
    Captured,
    /// Proxies are being told that it goes.
    Leaving,
}

/// What became of a pod's namespace since it was last looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The same, or none as before, or one while there was none.
    Fine,
    /// Another than the one that is held.
    Another,
}

fn open(name: &str, directory: &Path) -> Result<Arc<Netns>, String> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if !plain {
        return Err(format!("{name:?} is not a file name"));
    }
    let path = directory.join(name);
    let opened = Netns::open(&path).map(Arc::new);
    opened.map_err(|error| format!("network namespace {}: {error}", path.display()))
}

impl Tracked {
    pub(super) fn new(pod: Pod) -> Self {
        Self {
            pod,
            stage: Stage::New,
            netns: None,
            at_hand: false,
            standing: false,
            acknowledged: false,
            reason: String::new(),
            addresses: Vec::new(),
            since: None,
            past: None,
        }
    }

    /// Looks for the namespace's file, and holds it if it is new. One that is held stays held when its file goes: what
    /// is in it must be taken out again.
    pub(super) fn find(&mut self, place: Option<&Place>, directory: &Path) -> Found {
        let opened = place
            .ok_or_else(|| "nobody knows its network namespace: its manifest names none, or none of its processes runs".to_owned())
            .and_then(|place| match place {
                Place::File(name) => open(name, directory),
                Place::Held(netns) => Ok(Arc::clone(netns)),
            })
            .and_then(|netns| {
                let id = netns.id().map_err(|error| error.to_string())?;
                Ok((id, netns))
            });
        self.at_hand = opened.is_ok();
        match (opened, &self.netns) {
            (Err(reason), _) => {
                if !matches!(self.stage, Stage::Told | Stage::Captured) {
                    self.reason = reason;
                    self.netns = None;
                }
                Found::Fine
            }
            (Ok((id, _)), Some(held)) if held.id().is_ok_and(|held| held == id) => Found::Fine,
            (Ok((_, netns)), held) => {
                let another = held.is_some() && self.stage != Stage::New;
                if !(another && matches!(self.stage, Stage::Told | Stage::Captured)) {
                    self.netns = Some(netns);
                    self.stage = Stage::New;
                    self.acknowledged = false;
                    self.read_addresses();
                }
                if another { Found::Another } else { Found::Fine }
            }
        }
    }

    /// A pod that is not in the mesh: takes out what an earlier run of the agent may have left.
    pub(super) fn stay_out(&mut self, key: &Key, pod: Pod, verify: bool) {
        self.pod = pod;
        self.reason.clear();
        if verify {
            self.read_addresses();
        }
        if self.stage != Stage::New {
            return;
        }
        if let Some(netns) = &self.netns {
            match capture::remove(netns) {
                Ok(()) => self.stage = Stage::Out,
                Err(error) => {
                    warn!(namespace = key.0, pod = key.1, %error, "cannot clear the pod's namespace of rules")
                }
            }
        }
    }

    /// A pod of which nobody can say whether it is in the mesh: rules that stand go on to do so, and no others come.
    pub(super) fn stay(
        &mut self,
        key: &Key,
        verify: bool,
        zds: &mut Zds<Arc<Netns>>,
        now: Instant,
    ) -> Vec<Do<Arc<Netns>>> {
        let with_proxy = matches!(self.stage, Stage::Told | Stage::Captured);
        let stand = |netns: &Arc<Netns>| match capture::verify(netns, &self.pod.probed) {
            Ok(ours) | Err(capture::Error::Obstacle { ours, .. }) => ours != State::Absent,
            Err(capture::Error::Os(_)) => false,
        };
        if with_proxy || self.netns.as_ref().is_none_or(stand) {
            return self.go_in(key, verify, zds, now);
        }
        if verify {
            self.read_addresses();
        }
        if self.reason != UNCLEAR {
            let (namespace, pod) = (&key.0, &key.1);
            warn!(namespace, pod, "{UNCLEAR}");
            self.reason = UNCLEAR.to_owned();
        }
        Vec::new()
    }

    /// A pod that is in the mesh: has the rules stand, and the proxy told.
    pub(super) fn go_in(
        &mut self,
        key: &Key,
        verify: bool,
        zds: &mut Zds<Arc<Netns>>,
        now: Instant,
    ) -> Vec<Do<Arc<Netns>>> {
        let info = WorkloadInfo {
            name: self.pod.name.clone(),
            namespace: self.pod.namespace.clone(),
            service_account: self.pod.service_account.clone(),
        };
        let Some(netns) = self.netns.clone() else {
            return zds.add(&self.pod.uid, info, None, now);
        };
        if verify {
            self.read_addresses();
        }
        if verify || !self.standing {
            let found = self.stand(key, &netns);
            // Rules of ours that are there already: an earlier run of the agent had captured it.
            if found && self.stage == Stage::New {
                self.stage = Stage::Captured;
                self.acknowledged = true;
                return zds.add(&self.pod.uid, info, Some(netns), now);
            }
        }
        if self.standing && matches!(self.stage, Stage::New | Stage::Out) {
            self.stage = Stage::Told;
            self.reason = "the node proxy has not acknowledged the pod yet".into();
            return zds.add(&self.pod.uid, info, Some(netns), now);
        }
        Vec::new()
    }

    /// Has the rules stand. True if any of them was there already.
    fn stand(&mut self, key: &Key, netns: &Netns) -> bool {
        let found = capture::verify(netns, &self.pod.probed);
        let (ours, outcome) = match found {
            Ok(State::Whole) => (State::Whole, Ok(())),
            Ok(state) => (state, capture::install(netns, &self.pod.probed)),
            Err(capture::Error::Obstacle { what, ours }) => {
                (ours.clone(), Err(capture::Error::Obstacle { what, ours }))
            }
            // What is there cannot be told: nothing is taken over.
            Err(error) => (State::Absent, Err(error)),
        };
        let changed = self.stage == Stage::Captured && self.standing && ours != State::Whole;
        self.standing = outcome.is_ok();
        let reason = match outcome {
            // The proxy's answer is waited for.
            Ok(()) if self.stage == Stage::Told => return ours != State::Absent,
            Ok(()) if changed => "the capture rules were changed and are put back".to_owned(),
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        if changed {
            // Meanwhile connections went past the proxy.
            self.past = None;
        }
        if !reason.is_empty() && self.reason != reason {
            let (namespace, pod) = (&key.0, &key.1);
            warn!(
                namespace,
                pod, reason, "the pod's capture is not as it should be"
            );
        }
        self.reason = reason;
        ours != State::Absent
    }

    fn read_addresses(&mut self) {
        let Some(netns) = &self.netns else { return };
        let read = netns.within(|| {
            let up: Vec<_> = route::links()?
                .into_iter()
                .filter(|link| link.up && !link.loopback)
                .collect();
            let mut found = route::addresses()?;
            found.retain(|address| {
                address.global && up.iter().any(|link| link.index == address.interface)
            });
            Ok(found.into_iter().map(|address| address.ip).collect())
        });
        match read {
            Ok(addresses) => self.addresses = addresses,
            Err(error) => warn!(pod = self.pod.name, %error, "cannot read the pod's addresses"),
        }
    }

    /// Where the node asks the pod how it is, while its rules may let that through.
    #[cfg(feature = "kubernetes")]
    pub(super) fn probed(&self) -> impl Iterator<Item = (IpAddr, u16)> + '_ {
        let is_in = matches!(self.stage, Stage::Told | Stage::Captured | Stage::Leaving);
        let addresses = self.addresses.iter().filter(move |_| is_in);
        addresses.flat_map(|ip| self.pod.probed.iter().map(|port| (*ip, *port)))
    }

    /// It is captured, and nobody has looked yet at what was open before.
    pub(super) fn is_uncounted(&self) -> bool {
        self.stage == Stage::Captured && self.past.is_none()
    }

    /// Counts the connections that were open before the pod was captured, and cuts them if they may not be any longer. They
    /// may be for so long, or as long as they last.
    pub(super) fn watch_past(
        &mut self,
        key: &Key,
        longest: Option<Duration>,
        now: Instant,
    ) -> Option<Cut> {
        let netns = self.netns.as_ref()?;
        if self.stage != Stage::Captured || !self.standing || self.past == Some(0) {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let why = if self.pod.is_judged {
            Some(Why::Judged)
        } else {
            longest
                .filter(|longest| now.duration_since(since) >= *longest)
                .map(|_| Why::Late)
        };
        let sorted = netns.within(|| {
            let all = diag::connections()?;
            let past = survivors::sort(&all).past;
            let cut = why.map(|_| past.iter().filter(|it| diag::cut(it).is_ok()).count());
            Ok((past.len(), cut.unwrap_or(0)))
        });
        let (past, cut) = match sorted {
            Ok(sorted) => sorted,
            Err(error) => {
                warn!(namespace = key.0, pod = key.1, %error, "cannot look at the pod's connections");
                return None;
            }
        };
        self.past = Some(past - cut);
        let pod = key.clone();
        let uid = self.pod.uid.clone();
        let cut = |why| Cut {
            pod,
            uid,
            connections: cut,
            why,
        };
        why.map(cut).filter(|cut| cut.connections > 0)
    }

    /// The connections that the pod's leaving cuts.
    pub(super) fn through(&self, key: &Key) -> Option<Cut> {
        let netns = self.netns.as_ref()?;
        let all = netns.within(diag::connections).ok()?;
        let connections = survivors::sort(&all).through.len();
        Some(Cut {
            pod: key.clone(),
            uid: self.pod.uid.clone(),
            connections,
            why: Why::Left,
        })
    }

    /// What is told of the pod: to the control plane nothing, if the agent has no eyes on it.
    pub(super) fn report(&self) -> Report {
        let is_out = self.pod.is_out();
        // Also while its rules are damaged: peers that took it for an ordinary pod would send it plaintext, which nobody
        // judges then. While it leaves, its traffic goes through the proxy or nowhere.
        let captured = self.acknowledged && matches!(self.stage, Stage::Captured | Stage::Leaving);
        let bytes = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        // Nobody is to send plaintext to what may be in the mesh.
        let unclear = self.pod.enrolment.is_none() && !captured;
        let pod = PodReport {
            namespace: self.pod.namespace.clone(),
            name: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            addresses: self.addresses.iter().map(bytes).collect(),
            ready: self.pod.ready && self.at_hand && !self.addresses.is_empty() && !unclear,
            captured,
            reason: if is_out {
                String::new()
            } else {
                self.reason.clone()
            },
        };
        Report {
            pod,
            is_hidden: self.stage != Stage::Leaving && is_out && self.pod.netns.is_none(),
            is_in: !is_out,
            is_probed_as_plain: self.pod.is_probed_as_plain,
            past: self.past.filter(|_| captured).unwrap_or(0),
        }
    }
}

/// Takes the rules out of a pod's namespace, if it is held.
pub(super) fn take_out(key: &Key, tracked: &Tracked) {
    if let Some(netns) = &tracked.netns
        && let Err(error) = capture::remove(netns)
    {
        warn!(namespace = key.0, pod = key.1, %error, "cannot take the capture rules out of the pod's namespace");
    }
}
