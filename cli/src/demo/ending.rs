//! Ctrl-C and SIGTERM at any moment: everything is ended, nothing is left, and then the process ends.
//!
//! A thread of its own waits for the signals, because the demo's main thread may be in the middle of anything. The other
//! ways to end (a failure, a panic) unwind the main thread, whose values clean up behind themselves.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::room;
use crate::lab::process::Processes;

/// Whether, and how, the demo is to end.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    begun: AtomicBool,
    /// All that was to be done is done, and a signal is the proper end.
    proper: AtomicBool,
}

impl Ending {
    /// From now on a signal ends these children and removes this directory.
    pub(crate) fn watch(processes: Arc<Processes>, directory: &Path) -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let signals = runtime.block_on(async {
            let listen =
                |kind: SignalKind| Ok::<_, io::Error>((signal(kind)?, kind.as_raw_value()));
            Ok::<_, io::Error>([
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ])
        })?;
        let ending = Arc::new(Self::default());
        let (own, directory) = (Arc::clone(&ending), directory.to_owned());
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let number = runtime.block_on(first(signals));
                own.end(number, &processes, &directory);
            })?;
        Ok(ending)
    }

    /// Whether the process is about to end: nothing that happens now is worth telling.
    pub(crate) fn begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// A signal is the proper end from now on: exit code 0.
    pub(crate) fn is_proper(&self) {
        self.proper.store(true, Ordering::Release);
    }

    fn end(&self, number: i32, processes: &Processes, directory: &Path) {
        self.begun.store(true, Ordering::Release);
        let mut code = if self.proper.load(Ordering::Acquire) {
            0
        } else {
            128 + number
        };
        if let Err(error) = processes.end_all() {
            eprintln!("ambit: cannot end the children: {error}");
            code = 1;
        }
        if let Err(error) = room::remove(directory) {
            eprintln!("ambit: cannot remove {}: {error}", directory.display());
            code = 1;
        }
        std::process::exit(code);
    }
}

/// The number of the signal that comes first.
async fn first([mut a, mut b, mut c]: [(Signal, i32); 3]) -> i32 {
    tokio::select! {
        _ = a.0.recv() => a.1,
        _ = b.0.recv() => b.1,
        _ = c.0.recv() => c.1,
    }
}
