//! The rules of the mesh: what must happen, decided from values.
//!
//! Nothing here opens a socket, reads a clock, draws a random number or touches a file: `now` and `rng` are arguments.
//! So every decision is a table test, and the tool that explains a decision runs the code that decides.

pub mod admit;
pub mod certificate;
pub mod decide;
pub mod delta;
pub mod enrol;
#[cfg(test)]
mod fixture;
pub mod hash;
pub mod headers;
pub mod http;
pub mod identity;
pub mod keys;
pub mod local;
pub mod manifest;
pub mod model;
pub mod name;
pub mod parse;
pub mod pick;
pub mod plan;
pub mod refusal;
pub mod schema;
pub mod session;
pub mod store;
pub mod table;
pub mod waypoint;
