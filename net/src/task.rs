//! Tasks of the data path, counted: a task that nobody remembers shows as a number that does not come back.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering},
    task::{Context, Poll},
};

use tokio::task::JoinHandle;

static LIVE: AtomicI64 = AtomicI64::new(0);

/// Runs a future on the calling thread's `LocalSet` until it is done or aborted.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(Counted::new(future))
}

/// Tasks that are alive in this process.
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// A future that counts while it is there. In a box of its own: an `async` block around it would hold it twice.
struct Counted<F>(Pin<Box<F>>);

impl<F> Counted<F> {
    fn new(future: F) -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self(Box::pin(future))
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl<F> Drop for Counted<F> {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}
