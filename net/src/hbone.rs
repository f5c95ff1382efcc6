//! Tunnels: HTTP/2 CONNECT inside mutual TLS.
//!
//! A tunnel is one connection between two proxies; a stream is one CONNECT in it and carries one
//! flow. A stream has two faces: [`carry`](crate::carry) moves a whole flow between it and an
//! application's socket, and [`Stream`] itself reads and writes as bytes for whoever wants that.
//! The frames are the `h2` crate's business and nobody's outside this module.

mod budget;
mod client;
mod credit;
mod pool;
mod server;
mod stream;

use std::time::Duration;

pub use budget::Budget;
pub use client::{Begun, ConnectError, Place, Tunnel, open};
pub use credit::{Credit, FIRST, HALTED};
pub use pool::{Key, Pool};
pub use server::{Connect, serve};
pub use stream::Stream;

/// What a tunnel's end grants the other, and how it watches it. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What a peer may send on one stream before it is read, once a stream of its tunnel is read as fast as it comes. Before
    /// that it is 256 KiB, if that is less.
    pub stream_window: u32,
    /// What a peer may send on all streams together, and so what it can make us keep. It bounds the
    /// [streams](Self::streams) of a tunnel.
    pub connection_window: u32,
    /// Largest frame that we take.
    pub frame_size: u32,
    /// Streams that may be open at once, if their windows fit.
    pub max_streams: u32,
    /// Bytes that a stream keeps for a peer that does not read.
    pub send_buffer: usize,
    /// How long HTTP/2 may take to begin.
    pub handshake: Duration,
    /// How often the peer is asked whether it is still there.
    pub ping_interval: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
    /// What all tunnels of the process may be made to keep.
    pub budget: &'static Budget,
}

/// Enough for 4 Gbit/s on one stream over a way of a millisecond.
const STREAM_WINDOW: u32 = 512 << 10;
/// What HTTP/2 peers take for granted before they are told (RFC 9113 §6.5.2 asks for no less).
const STREAMS: u32 = 100;

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: window(STREAM_WINDOW, STREAMS),
            frame_size: 256 << 10,
            max_streams: STREAMS,
            send_buffer: 64 << 10,
            handshake: Duration::from_secs(5),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            budget: &budget::NONE,
        }
    }
}

impl Settings {
    /// Streams that we let run in one tunnel, whoever opens them: so few that each has its whole window while all others
    /// are not read. One at least, which has no others.
    pub const fn streams(&self) -> u32 {
        let fit = match self.connection_window.checked_div(self.stream_window) {
            None | Some(0) => 1,
            Some(fit) => fit,
        };
        match self.max_streams {
            0 => 1,
            most if most < fit => most,
            _ => fit,
        }
    }

    /// The window that streams begin with.
    fn least(&self) -> u32 {
        self.stream_window.min(budget::LEAST)
    }

    /// What is granted on all streams together: no more than they can fill.
    const fn window(&self) -> u32 {
        let full = self.stream_window as u64 * self.streams() as u64;
        if full < self.connection_window as u64 {
            window(self.stream_window, self.streams())
        } else {
            self.connection_window
        }
    }
}

/// The least window of a connection with so many streams of such a window in which streams that are not read never leave
/// others without. Fails to compile, or panics, above what HTTP/2 can say (RFC 9113 §6.9.1).
pub const fn window(stream: u32, streams: u32) -> u32 {
    match stream.checked_mul(streams) {
        Some(all) if all < 1 << 31 => all,
        _ => panic!("such windows are too large for so many streams"),
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
