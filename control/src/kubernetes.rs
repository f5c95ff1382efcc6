//! A Kubernetes API server as the source, and as the only place where anything is kept.

pub mod follow;
pub mod objects;
pub mod reviews;
pub mod root;
pub mod watch;
