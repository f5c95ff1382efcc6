//! The API server of the fixture: taken away, and brought back.

use std::time::Duration;

use crate::{Cluster, program::wait};

const SOON: Duration = Duration::from_secs(60);

/// Where it runs.
const WHERE: &str = "cp";

/// `$it`: its process.
const FIND: &str = "cd /proc; it=; for each in [0-9]*; do \
    if tr '\\0' '\\n' <$each/cmdline 2>/dev/null | sed -n 2p | grep -qx kube-apiserver; then it=$each; fi; done; \
    [ -n \"$it\" ] || { echo no API server; exit 1; }";

/// It does not answer any more: connections stay, and nothing comes back.
///
/// # Panics
/// If it does not run.
pub fn freeze(cluster: &Cluster) {
    shell(cluster, &format!("{FIND}; kill -STOP $it"));
}

/// It is gone: nobody listens.
///
/// # Panics
/// If it does not run.
pub fn stop(cluster: &Cluster) {
    let line = "tr '\\0' '\\n' <$it/cmdline >/run/kube-apiserver.line";
    shell(cluster, &format!("{FIND}; {line}; kill -KILL $it"));
}

/// It comes back as it was, after [`stop`], and is waited for.
///
/// # Panics
/// If it does not come back.
pub fn start(cluster: &Cluster) {
    let line = "while read -r word; do set -- \"$@\" \"$word\"; done </run/kube-apiserver.line";
    let start = "setsid \"$@\" >>/run/kube-apiserver.log 2>&1 </dev/null &";
    shell(cluster, &format!("{line}; {start}"));
    wait("the API server", SOON, || {
        let ready = cluster.kubectl(&["get", "--raw=/readyz"]);
        ready.map_err(|failed| failed.to_string())
    });
}

/// Cuts a pod off from it, or lets it through again. Neither end is told.
///
/// # Panics
/// If its node does not do that.
pub fn cut(cluster: &Cluster, node: &str, pod: &str, is_cut: bool) {
    let verb = if is_cut { "-I" } else { "-D" };
    for (end, port) in [("-s", "--dport"), ("-d", "--sport")] {
        let which = [end, pod, "-p", "tcp", port, "6443", "-j", "DROP"];
        let rule = [&["iptables", "-w", verb, "FORWARD"], &which[..]].concat();
        let done = cluster.node(node, &rule);
        done.unwrap_or_else(|failed| panic!("{failed}"));
    }
}

fn shell(cluster: &Cluster, script: &str) {
    let done = cluster.node(WHERE, &["sh", "-c", script]);
    done.unwrap_or_else(|failed| panic!("{failed}"));
}
