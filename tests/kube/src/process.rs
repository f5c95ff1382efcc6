//! Processes of pods, as their node sees them.

use crate::Cluster;

/// The process of a pod of the image under test: its number on its node. None if there is none now.
///
/// # Panics
/// If there is no such pod.
pub fn of_pod(cluster: &Cluster, node: &str, (namespace, pod): (&str, &str)) -> Option<u32> {
    let pod = cluster.get(&["-n", namespace, "pod", pod]);
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    // The pod's other process keeps its namespaces. One may end while it is looked at.
    let look = format!(
        "cd /proc; for it in [0-9]*; do grep -qs pod{uid} $it/cgroup && grep -qsx ambit $it/comm && echo $it; done; true"
    );
    let found = cluster.node(node, &["sh", "-c", &look]);
    let found = found.unwrap_or_else(|failed| panic!("{failed}"));
    found.lines().find_map(|number| number.parse().ok())
}

/// What the kernel says of a process: the value of a line of its `status`.
///
/// # Panics
/// If there is no such process, or no such line.
pub fn status(cluster: &Cluster, node: &str, process: u32, line: &str) -> String {
    let text = cluster.node(node, &["cat", &format!("/proc/{process}/status")]);
    let text = text.unwrap_or_else(|failed| panic!("{failed}"));
    let mut lines = text.lines().filter_map(|it| it.split_once(':'));
    let found = lines.find(|(name, _)| *name == line);
    let (_, value) = found.unwrap_or_else(|| panic!("no {line} of process {process}: {text}"));
    value.trim().to_owned()
}

/// Sends a signal: `KILL`, `STOP`, `CONT`, `TERM`.
///
/// # Panics
/// If there is no such process.
pub fn signal(cluster: &Cluster, node: &str, process: u32, signal: &str) {
    let sent = cluster.node(node, &["kill", &format!("-{signal}"), &process.to_string()]);
    sent.unwrap_or_else(|failed| panic!("{failed}"));
}
