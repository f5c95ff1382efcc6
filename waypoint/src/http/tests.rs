//! Facts of client connections: bytes on one side, bytes on the other.

mod bodies;
mod changed;
mod fixture;
mod framing;
mod headers;
mod life;
mod logged;
mod policy;
mod settled;
mod stalled;
mod two;
