//! The machinery that both proxies share: TLS, tunnels, discovery and certificate clients, metrics.
//!
//! Drivers only: they move bytes and carry out what `mesh` decided. What a worker thread calls is cheap and takes no
//! lock across an await; what the main thread runs is ordinary async code.

pub mod access;
pub mod ca;
pub mod carry;
pub mod certificates;
pub mod channel;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod drain;
pub mod dump;
pub mod executable;
pub mod hbone;
pub mod http;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod settings;
mod stubs;
pub mod task;
pub mod tls;
