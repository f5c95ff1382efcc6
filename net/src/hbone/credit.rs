//! Whether a connection has come to a halt, because its peer takes no more bytes on all its streams together.
//!
//! It is known by new streams alone: one that has sent less than every peer takes on a stream at first, and may send nothing
//! all the same, waits for what all streams share.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// What a peer takes on a stream before it reads, unless it says otherwise (RFC 9113 §6.9.2).
pub const FIRST: usize = 65_535;
/// For so long no stream got leave to send, and one waited for it: the connection gets no more streams.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections to one peer that may be at a halt before no more are opened beside them.
pub const HALTED: usize = 4;

/// Of one connection.
#[derive(Debug, Default)]
pub struct Credit {
    waits: Cell<Option<Instant>>,
}

impl Credit {
    /// A stream wants to send some of its first bytes, and has to wait.
    pub fn wait(&self) {
        if self.waits.get().is_none() {
            self.waits.set(Some(Instant::now()));
        }
    }

    /// A stream may send: the connection goes on. Also when none is left that could be in another's way.
    pub fn give(&self) {
        self.waits.set(None);
    }

    /// Whether it is at a halt.
    pub fn is_halted(&self) -> bool {
        self.waits.get().is_some_and(|at| at.elapsed() >= PATIENCE)
    }
}
