//! The network namespaces of running pods, found by the processes in them.
//!
//! The kubelet puts every process of a pod in a control group that is named after the pod's uid. The oldest of them is
//! the one that the container runtime made the namespace with; a later one may have gone into another of its own.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sys::netns::Netns;
use tracing::error;

use super::pods::Pods;

/// Where processes are seen, with those of the whole node.
pub const PROC: &str = "/proc";

/// Finds the namespaces that are still to be found.
pub fn look(pods: &mut Pods) {
    if !pods.lacks_any() {
        return;
    }
    match all(|uid| pods.lacks(uid)) {
        Ok(found) => pods.found(found),
        Err(error) => {
            error!(%error, "the node's processes cannot be looked at: it takes hostPID and SYS_PTRACE")
        }
    }
}

/// The namespaces of the node's pods that `wants`, by uid.
///
/// # Errors
/// If the processes cannot be looked at.
pub fn all(wants: impl Fn(&str) -> bool) -> io::Result<BTreeMap<String, Arc<Netns>>> {
    let proc = Path::new(PROC);
    let host = Netns::open(proc.join("1/ns/net"))?.id()?;
    find(proc, host, wants)
}

/// One process of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    /// In clock ticks since the machine started (proc(5), `/proc/pid/stat`, field 22).
    started: u64,
    number: u32,
}

/// Looks through all processes for those of pods, and opens the namespace of each pod that `wants`. A pod in the namespace
/// `host` of the node itself is left out: it has none of its own.
///
/// # Errors
/// If the processes cannot be listed at all. A process that ends meanwhile is passed over.
fn find(
    proc: &Path,
    host: (u64, u64),
    wants: impl Fn(&str) -> bool,
) -> io::Result<BTreeMap<String, Arc<Netns>>> {
    let mut oldest: BTreeMap<String, Process> = BTreeMap::new();
    for entry in fs::read_dir(proc)? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let directory = proc.join(&name);
        let uid = fs::read_to_string(directory.join("cgroup"))
            .ok()
            .and_then(|text| pod_uid(&text));
        let Some(uid) = uid.filter(|uid| wants(uid)) else {
            continue;
        };
        let stat = fs::read_to_string(directory.join("stat")).ok();
        let Some(started) = stat.as_deref().and_then(started) else {
            continue;
        };
        let process = Process { started, number };
        let first = oldest.entry(uid).or_insert_with(|| process.clone());
        if process < *first {
            *first = process;
        }
    }
    let opened = oldest.into_iter().filter_map(|(uid, process)| {
        let netns = Netns::open(namespace(proc, &process)).ok()?;
        let is_own = netns.id().is_ok_and(|id| id != host);
        is_own.then(|| (uid, Arc::new(netns)))
    });
    Ok(opened.collect())
}

fn namespace(proc: &Path, process: &Process) -> PathBuf {
    proc.join(process.number.to_string()).join("ns/net")
}

/// The uid of the pod that a process belongs to, by its `/proc/pid/cgroup`: `…/pod<uid>/…` of the cgroupfs driver, or
/// `…-pod<uid with underscores>.slice/…` of systemd's.
pub(super) fn pod_uid(cgroup: &str) -> Option<String> {
    let parts = cgroup.lines().flat_map(|line| line.split('/'));
    parts.filter_map(uid).next()
}

fn uid(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let start = part.rfind("pod")?;
    let is_apart = start == 0 || part[..start].ends_with('-');
    let uid = part[start + 3..].replace('_', "-");
    // RFC 9562; a static pod's is 32 hex digits.
    let digits = uid.bytes().filter(|b| *b != b'-').count();
    let is_uid = uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && digits == 32;
    (is_apart && is_uid).then_some(uid)
}

/// When a process started, by its `/proc/pid/stat`. Its name, in parentheses, may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    // The first field after the name is the third.
    after.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, AsRawFd as _};

    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    #[test]
    fn a_pod_is_known_by_its_control_group_under_either_driver_and_version() {
        let slice = UID.replace('-', "_");
        for line in [
            format!("0::/kubepods/besteffort/pod{UID}/3f9a"),
            format!("4:memory:/kubepods/burstable/pod{UID}/3f9a\n1:name=systemd:/x"),
            format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-1.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-1.scope"),
            format!("0::/../../kubelab/kubepods/pod{UID}/3f9a"),
        ] {
            assert_eq!(pod_uid(&line).as_deref(), Some(UID), "{line}");
        }
        let fixed = "0::/kubepods/burstable/pod0a1b2c3d4e5f60718293a4b5c6d7e8f9/x";
        assert_eq!(
            pod_uid(fixed).as_deref(),
            Some("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
        );
    }

    #[test]
    fn what_only_looks_like_a_pod_is_none() {
        for line in [
            "0::/system.slice/kubelet.service",
            "0::/user.slice/podman-1.scope",
            "0::/kubepods/pod-of-mine",
            "0::/tripod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            "0::/kubepods/pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8",
            "",
        ] {
            assert_eq!(pod_uid(line), None, "{line}");
        }
    }

    #[test]
    fn the_start_of_a_process_is_found_whatever_its_name_is() {
        let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        for name in ["sleep", "a b) S 1 2 3", ")))"] {
            let stat = format!("77 ({name}) S {}", fields.join(" "));
            assert_eq!(started(&stat), Some(22), "{name}");
        }
        assert_eq!(started("77 (x) S 1"), None);
    }

    /// A directory like `/proc` of three processes: an older one in another namespace, a younger one in ours, and a
    /// stranger.
    #[test]
    fn the_oldest_process_of_a_pod_tells_its_namespace_unless_that_is_the_nodes_own() {
        if !sys::netns::privileged("the namespaces of pods") {
            return;
        }
        let root = std::env::temp_dir().join(format!("ambit-proc-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let (pod, own) = (Netns::create().unwrap(), Netns::current().unwrap());
        let files = [&pod, &own].map(|netns| {
            format!(
                "/proc/{}/fd/{}",
                std::process::id(),
                netns.as_fd().as_raw_fd()
            )
        });
        let process = |number: u32, started: u64, group: &str, netns: &str| {
            let directory = root.join(number.to_string());
            fs::create_dir_all(directory.join("ns")).unwrap();
            fs::write(directory.join("cgroup"), format!("0::/{group}\n")).unwrap();
            let zeros = "0 ".repeat(18);
            fs::write(
                directory.join("stat"),
                format!("{number} (x) S {zeros}{started} 0"),
            )
            .unwrap();
            std::os::unix::fs::symlink(netns, directory.join("ns/net")).unwrap();
        };
        let other = UID.replace('0', "1");
        process(900, 5, &format!("kubepods/pod{UID}/a"), &files[0]);
        process(30, 6, &format!("kubepods/pod{UID}/b"), &files[1]);
        process(31, 1, "system.slice/kubelet", &files[1]);
        process(32, 1, &format!("kubepods/pod{other}/a"), &files[1]);
        let found = find(&root, own.id().unwrap(), |_| true).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [UID]);
        assert_eq!(found[UID].id().unwrap(), pod.id().unwrap());
    }
}
