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
pub use judge::{
    Asked, Client, Endpoint, Forward, Judgement, Place, judge, judge_again, judge_connection,
};
pub use store::Store;

pub use crate::{http::balance::Load, parse::Rejected};

/// What `requires` may name: what a resource may ask of whoever serves it beyond finding endpoints. Whatever else is named
/// is not here, and its resource is not used.
pub const FEATURES: &[&str] = &[
    "audit",
    "client-identity",
    "consumer-routes",
    "declared-gateways",
    "dry-run",
    "grpc",
    "header-edits",
    "redirect",
    "regex",
    "rewrite",
    "second-waypoint",
    "tcp-routes",
    "timeouts",
];
