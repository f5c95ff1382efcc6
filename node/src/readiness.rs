//! The one place where descriptors are given to the runtime to wait on.

use std::{io, os::fd::AsRawFd};

use tokio::io::unix::AsyncFd;

/// Waits for a descriptor that `owner` owns, for as long as it lives. Needs a tokio runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe, and what is registered here owns its descriptor for good"
)]
pub(crate) fn of<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}
