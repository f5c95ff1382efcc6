//! Tunnels: HTTP/2 CONNECT inside mutual TLS.
//!
//! A tunnel is one connection between two proxies; a stream is one CONNECT in it and carries one
//! flow. A stream has two faces: [`carry`](crate::carry) moves a whole flow between it and an
//! application's socket, and [`Stream`] itself reads and writes as bytes for whoever wants that.
//! The frames are the `h2` crate's business and nobody's outside this module.

mod client;
mod pool;
mod server;
mod stream;

use std::time::Duration;

pub use client::{Begun, ConnectError, Place, Tunnel, open};
pub use pool::{Key, Pool};
pub use server::{Connect, serve};
pub use stream::Stream;

/// What a tunnel's end grants the other, and how it watches it. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What a peer may send on one stream before it is read.
    pub stream_window: u32,
    /// What a peer may send on all streams together. Several times `stream_window`: one reader that
    /// has stopped must not stop its neighbours.
    pub connection_window: u32,
    /// Largest frame that we take.
    pub frame_size: u32,
    /// Streams that a peer may have open at once.
    pub max_streams: u32,
    /// Bytes that a stream keeps for a peer that does not read.
    pub send_buffer: usize,
    /// How long HTTP/2 may take to begin.
    pub handshake: Duration,
    /// How often the peer is asked whether it is still there.
    pub ping_interval: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            frame_size: 256 << 10,
            max_streams: 200,
            send_buffer: 256 << 10,
            handshake: Duration::from_secs(5),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// Asks the peer of `pings` again and again whether it is there; returns when it does not answer.
async fn watch(mut pings: h2::PingPong, settings: Settings) {
    loop {
        tokio::time::sleep(settings.ping_interval).await;
        let answer = pings.ping(h2::Ping::opaque());
        match tokio::time::timeout(settings.ping_timeout, answer).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
