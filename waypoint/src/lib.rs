//! The layer 7 proxy of the services that want one.
//!
//! A byte's path: `tunnel` takes the streams of a peer's tunnel and finds which service each is for; `http` reads requests,
//! asks `mesh::waypoint` what becomes of each, and forwards it by `upstream`; `tcp` carries what is not HTTP.

pub mod config;
pub mod http;

use std::process::ExitCode;

pub use config::Config;

/// The executable.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}

/// As [`main`], for an executable that has looked at its arguments itself.
pub fn serve() -> ExitCode {
    ExitCode::from(2)
}
