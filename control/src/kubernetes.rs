//! A Kubernetes API server as the source, and as the only place where anything is kept.

pub mod client;
pub mod events;
pub mod follow;
pub mod leader;
pub mod object;
pub mod objects;
pub mod phases;
pub mod replicas;
pub mod reviews;
pub mod root;
pub mod schema;
pub mod status;
pub mod watch;
pub mod write;
