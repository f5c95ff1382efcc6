//! The rules of the mesh: what must happen, decided from values.
//!
//! Nothing here opens a socket, reads a clock, draws a random number or touches a file: `now` and `rng` are arguments.
//! So every decision is a table test, and the tool that explains a decision runs the code that decides.

pub mod identity;
pub mod name;
