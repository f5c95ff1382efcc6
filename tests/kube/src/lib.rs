//! A real Kubernetes cluster for tests: two nodes on this machine, up in seconds, or whichever KUBECONFIG names.
//!
//! Everything is done by the tools that users have, `kubectl` and `helm`. What a test makes is gone when its cluster is
//! dropped.

pub mod api;
pub mod cluster;
pub mod gateway;
pub mod image;
pub mod left;
pub mod load;
pub mod mesh;
pub mod pod;
pub mod process;
pub mod program;
pub mod shell;
pub mod subscriber;
pub mod token;

pub use cluster::Cluster;
pub use load::Load;
pub use pod::Pod;
