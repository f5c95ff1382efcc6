//! The control plane: what the mesh is told, and who gets which identity.
//!
//! A source of manifests is compiled into resources ([`publish`]), which nodes receive by delta discovery; an authority
//! ([`ca`]) signs their pods' certificates; nodes report what runs on them ([`reports`]). Nothing here carries a
//! workload's traffic, and a mesh keeps working while this is away.

pub mod ca;
pub mod compile;
pub mod config;
pub mod follow;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod manifest;
pub mod phase;
pub mod placements;
pub mod publish;
pub mod reports;
mod run;
pub mod serve;
pub mod source;
pub mod state;
pub mod status;
pub mod stubs;
pub mod subject;
pub mod tokens;
pub mod watch;
pub mod world;

pub use run::{Error, run};
