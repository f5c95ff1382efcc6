//! Tasks of the data path, counted: a task that nobody remembers shows as a number that does not come back.

use std::{
    future::Future,
    sync::atomic::{AtomicI64, Ordering},
};

use tokio::task::JoinHandle;

static LIVE: AtomicI64 = AtomicI64::new(0);

/// Runs a future on the calling thread's `LocalSet` until it is done or aborted.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let counted = Counted::new();
    tokio::task::spawn_local(async move {
        let _counted = counted;
        future.await;
    })
}

/// Tasks that are alive in this process.
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

struct Counted;

impl Counted {
    fn new() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}
