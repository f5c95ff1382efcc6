//! Pods that are about to run, whose runtime waits until they are captured.

use super::{Agent, Source, Stage, tracked::Tracked};
use crate::kubernetes::pods::{Ask, Pods, Standing, Told};
use cni::host::Host;

impl Agent {
    /// A pod is about to run. [`look`](Self::look) acts on it.
    pub fn arrived(&mut self, ask: &Ask) {
        if let Source::Cluster(pods) = &mut self.source
            && pods.standing(&ask.key, &ask.uid, None) == Standing::In
        {
            pods.arrived(&ask.key, &ask.netns);
        }
    }

    /// What is told whoever asked for a pod; `None` while it is being captured.
    pub fn told(&self, ask: &Ask) -> Option<Told> {
        let Source::Cluster(pods) = &self.source else {
            return Some(Told::Out);
        };
        match pods.standing(&ask.key, &ask.uid, ask.pod.as_deref()) {
            Standing::Unknown { namespace_is_out } => Some(Told::Unknown { namespace_is_out }),
            Standing::Coming => Some(Told::In),
            Standing::Out => Some(Told::Out),
            // It was not known when it arrived: its namespace must be taken in first.
            Standing::In if !pods.has(&ask.key, &ask.netns) => Some(Told::In),
            Standing::In => {
                let tracked = self.pods.get(&ask.key);
                let captured = tracked.is_some_and(|tracked| tracked.is_captured_in(&ask.netns));
                captured.then_some(Told::Captured)
            }
        }
    }

    /// What the CNI plugin goes by alone, once that is known.
    pub fn host(&self, own: &str) -> Option<Host> {
        match &self.source {
            Source::Directory(_) => None,
            Source::Cluster(pods) => Pods::host(pods, own),
        }
    }
}

impl Tracked {
    /// Whether the pod is captured in this very namespace.
    fn is_captured_in(&self, netns: &sys::netns::Netns) -> bool {
        let own = self.netns.as_ref().and_then(|own| own.id().ok());
        let is_it = own.is_some() && own == netns.id().ok();
        is_it && self.acknowledged && self.stage == Stage::Captured
    }
}
