//! The allocator of whatever carries bytes, and how much memory there is for it.
//!
//! The C library's keeps what a peak took for as long as the process runs. This one gives it back within seconds, by a thread
//! of its own, and does the same work in a third of the instructions.

use std::{fs, path::Path, time::Duration};

use tikv_jemallocator::Jemalloc;
use tokio::time::{MissedTickBehavior, interval};

use crate::hbone::Budget;

/// How often it is looked at what this process holds.
const OFTEN: Duration = Duration::from_millis(250);

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Bytes that this process may use: the limit of its control group, or all that the machine has. None: neither can be read.
pub fn limit() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let own = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let group = FILES.iter().find_map(|(controller, root, file)| {
        let root = Path::new(root);
        let own = root.join(group(&own, controller)?);
        // In a container its own group is the root, whatever it is called outside.
        let mut limits = [own.as_path(), root]
            .into_iter()
            .map(|it| read(&it.join(file)));
        limits.find_map(|text| text?.trim().parse().ok())
    });
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| bytes(&text, "MemTotal:"));
    group.into_iter().chain(machine).min()
}

/// The controller of a hierarchy of control groups, where the hierarchy is, and the file of a group's limit: cgroup v2, which
/// names none, and v1 (cgroups(7)).
const FILES: [(&str, &str, &str); 2] = [
    ("", "/sys/fs/cgroup", "memory.max"),
    ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// Tells a budget now and then what this process holds, until the task ends.
pub async fn watch(budget: &Budget) {
    let mut ticks = interval(OFTEN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Where it cannot be known there is no limit.
        budget.hold(held().unwrap_or_default());
    }
}

/// Bytes of this process that are in memory.
fn held() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    usize::try_from(bytes(&status, "VmRSS:")?).ok()
}

/// The path of a process's group below the root of a controller's hierarchy. Lines are `number:controllers:/path`.
fn group<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(":/")?;
        let mut controllers = controllers.split(',');
        controllers.any(|it| it == controller).then_some(path)
    })
}

/// A number of kilobytes in a file of `/proc`, in bytes.
fn bytes(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(group("0::/a/b.slice\n", ""), Some("a/b.slice"));
        let both = "2:cpu,memory:/x\n1:name=systemd:/y\n0::/\n";
        assert_eq!(group(both, ""), Some(""));
        assert_eq!(group(both, "memory"), Some("x"));
        assert_eq!(group("1:cpu:/x\n", "memory"), None);
        let text = "MemTotal:       24 kB\nMemFree: 1 kB\n";
        assert_eq!(bytes(text, "MemTotal:"), Some(24 << 10));
        assert_eq!(bytes(text, "VmRSS:"), None);
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20));
        assert!(held().is_some_and(|bytes| bytes > 1 << 18));
    }
}
