//! Lets the node's own probes of captured pods through, and nothing else that speaks plain text.

use std::collections::BTreeSet;

use tracing::{error, warn};

use super::Agent;
use crate::kubernetes::host::Host;

impl Agent {
    /// From now on probes are told from everything else, if this node can.
    pub fn tell_probes(&mut self) {
        self.host = Host::find();
        if let Err(reason) = &self.host {
            warn!(
                reason,
                "this node's probes cannot be told from other plain text: where that is refused, probes are too"
            );
        }
    }

    /// Where nobody can tell probes, no pod takes them past the proxy.
    pub(super) fn without_probes(&mut self) {
        if self.host.is_ok() {
            return;
        }
        for pod in self.wanted.iter_mut().flat_map(|all| all.values_mut()) {
            pod.is_probed_as_plain = !std::mem::take(&mut pod.probed).is_empty();
        }
    }

    /// Has the host tell the probes of all captured pods. `verify` looks whether it still does.
    pub(super) fn guard(&mut self, verify: bool) {
        let Ok(host) = &mut self.host else { return };
        let wanted = self.wanted.iter().flat_map(|all| all.values());
        let any = wanted
            .into_iter()
            .any(|pod| !pod.is_out() && !pod.probed.is_empty());
        let targets: BTreeSet<_> = self.pods.values().flat_map(|pod| pod.probed()).collect();
        if !any && targets.is_empty() && !host.stands() {
            return;
        }
        match host.guard(&targets, verify) {
            Ok(()) => {}
            Err(error) if host.stands() => {
                error!(%error, "the host's rules for probes cannot be put in place: tried again");
            }
            Err(error) => {
                warn!(%error, "this node's probes cannot be told from other plain text: where that is refused, probes are too");
                self.host = Err(error.to_string());
                self.without_probes();
            }
        }
    }
}
