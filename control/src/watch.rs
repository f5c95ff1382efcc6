//! When to read the source again: the kernel says that something in it changed.
//!
//! What changed is not looked at here, only that the dust has settled. The directory above the source is watched too,
//! because a source may be replaced as a whole by a rename or by a symbolic link; directories below it are not, as they
//! are no part of it.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{
    net::unix::pipe::Receiver,
    time::{Instant, timeout_at},
};

/// An edit is several events; they are waited for as long as each comes this soon after the one before.
const QUIET: Duration = Duration::from_millis(20);
/// An edit that never ends is read all the same.
const LONGEST: Duration = Duration::from_millis(200);

/// The kernel's eye on a file or directory.
#[derive(Debug)]
pub struct Watch {
    source: PathBuf,
    inotify: Inotify,
    /// The same descriptor, to wait on: what is read from it matters only in that it is there.
    events: Receiver,
}

impl Watch {
    /// Watches a file or a directory.
    pub fn new(source: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        let watch = Self {
            source: source.to_owned(),
            inotify,
            events,
        };
        watch.renew();
        Ok(watch)
    }

    /// Waits for a change, and until it has settled. Who drops this before it is done reads the source then: a change
    /// that was being waited out is not told again.
    pub async fn changed(&self) -> io::Result<()> {
        self.event().await?;
        let latest = Instant::now() + LONGEST;
        while let Ok(event) = timeout_at((Instant::now() + QUIET).min(latest), self.event()).await {
            event?;
            if Instant::now() >= latest {
                break;
            }
        }
        self.renew();
        Ok(())
    }

    async fn event(&self) -> io::Result<()> {
        // Room for many events: inotify(7) refuses a read that cannot hold one with the longest name.
        let mut events = [0; 8192];
        loop {
            self.events.readable().await?;
            match self.events.try_read(&mut events) {
                Ok(_) => return Ok(()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Watches all that is there now. To be called before each reading, so that what comes after it is an event. What
    /// cannot be watched is missed until the source is read for another reason.
    pub fn renew(&self) {
        let above = match self.source.parent() {
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            Some(above) => above,
            None => Path::new("/"),
        };
        let names = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        let contents = names
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM;
        if self.source.is_dir() {
            self.add(above, names);
            self.add(&self.source, contents);
        } else {
            self.add(
                above,
                names | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE,
            );
            // A file may be reached by a symbolic link, and changed where that points to.
            self.add(&self.source, AddWatchFlags::IN_CLOSE_WRITE);
        }
    }

    fn add(&self, path: &Path, flags: AddWatchFlags) {
        if let Err(error) = self.inotify.add_watch(path, flags) {
            tracing::debug!(path = %path.display(), %error, "not watched");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::state::scratch::Scratch;

    /// Does something to the source and waits until the watch tells of it.
    async fn told(watch: &Watch, act: impl FnOnce()) {
        act();
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .expect("told of the change")
            .unwrap();
    }

    #[tokio::test]
    async fn every_way_to_edit_a_directory_is_seen() {
        let scratch = Scratch::new();
        let source = scratch.path().join("manifests");
        fs::create_dir(&source).unwrap();
        let watch = Watch::new(&source).unwrap();
        told(&watch, || fs::write(source.join("a.yaml"), "1").unwrap()).await;
        told(&watch, || fs::write(source.join("a.yaml"), "2").unwrap()).await;
        told(&watch, || {
            fs::write(scratch.path().join("b.new"), "1").unwrap();
            fs::rename(scratch.path().join("b.new"), source.join("b.yaml")).unwrap();
        })
        .await;
        told(&watch, || fs::remove_file(source.join("b.yaml")).unwrap()).await;
        told(&watch, || symlink("a.yaml", source.join("c.yaml")).unwrap()).await;
    }

    #[tokio::test]
    async fn a_source_swapped_by_a_symbolic_link_is_seen() {
        let scratch = Scratch::new();
        let (first, second) = (scratch.path().join("..1"), scratch.path().join("..2"));
        for directory in [&first, &second] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("a.yaml"), "1").unwrap();
        }
        let data = scratch.path().join("..data");
        symlink("..1", &data).unwrap();
        let watch = Watch::new(&data).unwrap();
        told(&watch, || {
            symlink("..2", scratch.path().join("..tmp")).unwrap();
            fs::rename(scratch.path().join("..tmp"), &data).unwrap();
        })
        .await;
        told(&watch, || fs::write(second.join("a.yaml"), "2").unwrap()).await;
    }

    #[tokio::test]
    async fn a_single_file_is_seen_when_written_and_when_replaced() {
        let scratch = Scratch::new();
        let file = scratch.path().join("mesh.yaml");
        fs::write(&file, "1").unwrap();
        let watch = Watch::new(&file).unwrap();
        told(&watch, || fs::write(&file, "2").unwrap()).await;
        told(&watch, || {
            fs::write(scratch.path().join("new"), "3").unwrap();
            fs::rename(scratch.path().join("new"), &file).unwrap();
        })
        .await;
        told(&watch, || fs::write(&file, "4").unwrap()).await;
    }
}
