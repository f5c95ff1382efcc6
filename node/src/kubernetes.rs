//! The node's pods from a Kubernetes API server, and what the agent tells it of them.
//!
//! Only this node's pods are watched. What a pod is, is decided by the same rules as for a directory of manifests
//! ([`mesh::enrol`]); its network namespace is found by its processes.

mod client;
pub mod condition;
pub mod host;
pub mod netns;
pub mod news;
pub mod pods;
pub mod policies;
pub mod probes;
pub mod publish;
pub mod uninstall;
pub mod watch;

pub use client::client;
