//! The control plane: what the mesh is told, and who gets which identity.
//!
//! A source of manifests is compiled into resources ([`publish`]), which nodes receive by delta discovery; an authority
//! ([`ca`]) signs their pods' certificates. Nothing here carries a workload's traffic, and a mesh keeps working while
//! this is away.

pub mod ca;
pub mod placements;
pub mod publish;
pub mod state;
pub mod tokens;
