//! Connections to endpoints: opened as a plan says, kept, used again, counted.
//!
//! [`open`] gives one byte stream for whoever wants that. [`Pools`] keeps HTTP connections on such streams, per endpoint and
//! per worker: HTTP/1.1 ones are lent to one request at a time, HTTP/2 ones are shared. What is forwarded, and whether a
//! request may be sent again, is decided in [`http`](crate::http).

mod endpoint;
mod h1;
mod h2;
mod io;
mod open;
mod outgoing;
mod pool;
mod watch;

use std::time::Duration;

pub(crate) use self::{
    endpoint::Busy,
    h1::Handover,
    h2::{Local, STREAM_WINDOW},
    pool::{Lease, Speaks, Unanswered},
};
pub use self::{
    io::Io,
    open::{Opened, Purpose, open},
    pool::Pools,
};

/// Of connections to endpoints, per worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// HTTP/1.1 connections to one endpoint, used or not.
    pub connections: usize,
    /// Requests at once on one HTTP/2 connection, if the endpoint grants as many.
    pub streams: u32,
    /// How long a connection is kept unused.
    pub idle: Duration,
    /// How long TCP may take.
    pub connect: Duration,
    /// Streams at once in one tunnel.
    pub tunnel_streams: usize,
    /// How long a tunnel is kept unused.
    pub tunnel_idle: Duration,
    /// How a tunnel behaves.
    pub tunnel: net::hbone::Settings,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            streams: 100,
            idle: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            tunnel_streams: 100,
            tunnel_idle: Duration::from_secs(300),
            tunnel: net::hbone::Settings::default(),
        }
    }
}
