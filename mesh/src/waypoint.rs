//! What a waypoint does with the requests and connections of its services, decided from what the control plane told it.
//!
//! `store` holds what was told, in generations that never change; `judge` decides one request or one connection by one of
//! them: which route it takes, to which backend and endpoint, whether it may, and what becomes of it on the way. Whoever
//! wants to know why asks the same functions.

mod answer;
#[cfg(test)]
mod fixture;
mod generation;
mod judge;
mod parse;
mod store;

pub use answer::{Answer, Denial};
pub use generation::{Backend, Generation, Port, Protocol, Routes, Table};
pub use judge::{Asked, Client, Forward, Judgement, judge, judge_connection};
pub use store::Store;

pub use crate::{http::balance::Load, parse::Rejected};

/// What `requires` may name: features that came after the first version of the resources. None so far, so whatever a
/// resource requires is not here.
pub const FEATURES: &[&str] = &[];
