//! Waits for changes in a directory (inotify). What changed is not told: whoever waits looks anew.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::unix::AsyncFd;

use crate::readiness;

/// A watched directory.
#[derive(Debug)]
pub struct Watch(AsyncFd<Descriptor>);

#[derive(Debug)]
struct Descriptor(Inotify);

impl Watch {
    /// Begins to watch. Needs a tokio runtime.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // Links to files appear without ever being written to.
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE;
        inotify.add_watch(directory, changes)?;
        Ok(Self(readiness::of(Descriptor(inotify))?))
    }

    /// Waits until something has changed since this last returned. May be cancelled.
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        loop {
            match self.0.get_ref().0.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_written_file_ends_the_wait() {
        let directory = std::env::temp_dir().join(format!("ambit-watch-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let watch = Watch::new(&directory).unwrap();
        std::fs::write(directory.join("file"), "text").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .unwrap()
            .unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .unwrap()
            .unwrap();
    }
}
