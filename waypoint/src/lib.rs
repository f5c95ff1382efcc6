//! The layer 7 proxy of the services that want one.
//!
//! A byte's path: `tunnel` takes the streams of a peer's tunnel and finds which service each is for; `http` reads requests,
//! asks `mesh::waypoint` what becomes of each, and forwards it by `upstream`; `tcp` carries what is not HTTP.

pub mod http;

use std::process::ExitCode;

/// The executable.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
