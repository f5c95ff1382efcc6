//! Network namespaces by descriptor: make one, open one, do something inside one.
//!
//! Not a registry: nothing is mounted or named here, and a namespace lives as long as a descriptor, a process or a
//! thread holds it.

use std::{
    cell::{Cell, OnceCell},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

/// Where the calling thread finds its own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// Set to `1`, a test that cannot run for want of privileges fails instead of passing over in silence.
const NO_SKIP: &str = "AMBIT_NO_SKIP";

thread_local! {
    /// The namespace that the thread lives in, opened on the first visit to another one.
    static HOME: OnceCell<Netns> = const { OnceCell::new() };
    /// How many visits the thread is in: within one, `HOME` is not where it must return to.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// A new namespace without a name. Its `lo` is down. Needs CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        let unshared = thread::Builder::new().name("netns".into()).spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })?;
        unshared.join().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that makes a namespace panicked",
            ))
        })
    }

    /// The namespace of a file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// `InvalidInput` if the file is something else.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// A namespace by a descriptor that someone else opened.
    ///
    /// # Errors
    /// `InvalidInput` if the descriptor is something else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let found = nix::sys::statfs::fstatfs(&fd)?;
        if found.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a namespace",
            ));
        }
        Ok(Self(fd))
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(OWN)
    }

    /// What tells this namespace from every other one: device and inode.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let stat = nix::sys::stat::fstat(&self.0)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// A second handle on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Does `f` with the calling thread inside this namespace, and brings the thread back, also if `f` panics.
    ///
    /// `f` must not await anything. Processes and threads that it starts stay in this namespace. If the thread
    /// cannot be brought back, the process ends: going on would put one pod's traffic into another pod.
    pub fn within<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        HOME.with(|cached| {
            if DEPTH.get() == 0 {
                if cached.get().is_none() {
                    // Nothing else can have filled it: the cell is this thread's.
                    let _ = cached.set(Self::current()?);
                }
                let home = cached
                    .get()
                    .ok_or_else(|| io::Error::other("no namespace to return to"))?;
                self.visit(home, f)
            } else {
                self.visit(&Self::current()?, f)
            }
        })
    }

    fn visit<T>(&self, home: &Self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        setns(&self.0, CloneFlags::CLONE_NEWNET)?;
        DEPTH.set(DEPTH.get() + 1);
        let _back = Back(home);
        f()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the thread to its namespace when dropped.
struct Back<'a>(&'a Netns);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot return to the thread's own network namespace: {error}");
            std::process::abort();
        }
    }
}

/// Whether namespaces can be made here. If not, says that the test `what` is skipped, and why.
///
/// # Panics
/// If not, and the environment has `AMBIT_NO_SKIP=1`.
pub fn privileged(what: &str) -> bool {
    let Err(error) = Netns::create() else {
        return true;
    };
    let no_skip = std::env::var_os(NO_SKIP).is_some_and(|value| value == "1");
    assert!(
        !no_skip,
        "{what}: needs root and the right to make network namespaces: {error}"
    );
    println!("skipped: {what}: needs root and the right to make network namespaces: {error}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_ends_where_it_began() {
        if !privileged("a_visit_ends_where_it_began") {
            return;
        }
        let home = Netns::current().unwrap().id().unwrap();
        let (one, two) = (Netns::create().unwrap(), Netns::create().unwrap());
        let inside = one
            .within(|| {
                let outer = Netns::current()?.id()?;
                let inner = two.within(|| Netns::current()?.id())?;
                assert_eq!(Netns::current()?.id()?, outer);
                Ok((outer, inner))
            })
            .unwrap();
        assert_eq!(inside, (one.id().unwrap(), two.id().unwrap()));
        assert_eq!(Netns::current().unwrap().id().unwrap(), home);
    }

    #[test]
    fn a_panic_inside_brings_the_thread_back() {
        if !privileged("a_panic_inside_brings_the_thread_back") {
            return;
        }
        let home = Netns::current().unwrap().id().unwrap();
        let other = Netns::create().unwrap();
        let outcome = std::panic::catch_unwind(|| {
            other.within(|| -> io::Result<()> { panic!("on purpose") })
        });
        assert!(outcome.is_err());
        assert_eq!(Netns::current().unwrap().id().unwrap(), home);
        assert_eq!(
            other.within(|| Netns::current()?.id()).unwrap(),
            other.id().unwrap()
        );
    }

    #[test]
    fn another_file_is_not_a_namespace() {
        assert_eq!(
            Netns::open("/proc/self/status").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn clones_are_the_same_namespace() {
        let own = Netns::current().unwrap();
        assert_eq!(own.try_clone().unwrap().id().unwrap(), own.id().unwrap());
    }
}
