//! Control groups of version 2 (cgroups(7)): which one the calling thread is in, and which number the kernel knows one by.
//!
//! Only looked at, never made or changed. Beside the hierarchies of version 1 there may be one of version 2 too, and then
//! processes are in groups of both.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// The inode of the first namespace of control groups (linux/proc_ns.h, PROC_CGROUP_INIT_INO).
const FIRST: u64 = 0xefff_fffb;

/// Where the hierarchy of version 2 is, if it is anywhere: alone, or beside those of version 1.
const PLACES: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];

/// Does `f` on a thread of its own, for which control groups are seen as in the namespace of a file such as
/// `/proc/1/ns/cgroup`.
///
/// # Errors
/// Those of `f`, and if the namespace cannot be entered: it takes CAP_SYS_ADMIN.
pub fn within<T: Send>(
    namespace: &Path,
    f: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(namespace)?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWCGROUP)?;
            f()
        });
        let panicked = |_| Err(io::Error::other("what was done there panicked"));
        inside.join().unwrap_or_else(panicked)
    })
}

/// Whether a file such as `/proc/1/ns/cgroup` is the namespace that the machine started with.
pub fn is_first(namespace: &Path) -> io::Result<bool> {
    Ok(fs::metadata(namespace)?.ino() == FIRST)
}

/// The control group of the calling thread, from the root of its namespace: `/a/b`. `None` without version 2.
pub fn own() -> io::Result<Option<String>> {
    let text = fs::read_to_string("/proc/thread-self/cgroup")?;
    let mut lines = text.lines();
    Ok(lines.find_map(|line| line.strip_prefix("0::").map(str::to_owned)))
}

/// The directory of the hierarchy of version 2 below a root directory.
pub fn mounted(root: &Path) -> Option<PathBuf> {
    let mut places = PLACES.iter().map(|place| root.join(place));
    places.find(|place| {
        let kind = nix::sys::statfs::statfs(place).map(|found| found.filesystem_type());
        kind == Ok(nix::sys::statfs::CGROUP2_SUPER_MAGIC)
    })
}

/// What the kernel knows the control group of a directory by.
pub fn id(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_sees_its_group_as_the_namespace_does() {
        if !crate::netns::privileged("control groups") {
            return;
        }
        let seen = within(Path::new("/proc/self/ns/cgroup"), own).unwrap();
        assert_eq!(seen, own().unwrap());
    }
}
