//! What a mesh of this machine needs around it: a directory of its own, children that end with it, and signals that end both.
//!
//! What happens on it is not here: the demo's checks do, or a measurement.

use std::{path::Path, sync::Arc, thread};

use super::{ending::Ending, room::Room};
use crate::{Failure, lab::process::Processes, mesh::LOG};

/// A directory and the children whose files are in it. Dropping it removes the directory: everything that was started has
/// ended by then.
#[derive(Debug)]
pub struct Stage {
    room: Room,
    processes: Arc<Processes>,
    pub(super) ending: Arc<Ending>,
}

impl Stage {
    /// Takes a directory that holds nothing, or what an earlier mesh left in it. From now on SIGINT, SIGTERM and SIGHUP end
    /// the children, remove the directory and end this process.
    ///
    /// # Errors
    /// If another mesh has it, or if it holds something that is no mesh's.
    pub fn take(directory: &Path) -> Result<Self, Failure> {
        let room = Room::take(directory)?;
        let processes = Arc::new(Processes::new(&room.path().join(LOG)));
        let ending = Ending::watch(Arc::clone(&processes), room.path())
            .map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))?;
        Ok(Self {
            room,
            processes,
            ending,
        })
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        self.room.path()
    }

    /// The children; none yet.
    pub fn processes(&self) -> Arc<Processes> {
        Arc::clone(&self.processes)
    }

    /// Leaves it to a signal that has come meanwhile to end the process: what has failed since is no news.
    pub fn leave(self) {
        while self.ending.begun() {
            // The thread that got the signal cleans up and ends the process.
            thread::park();
        }
    }
}
