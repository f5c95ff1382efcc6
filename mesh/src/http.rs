//! Layer 7: what a request is, which route it takes, what becomes of it on the way, and whether it may.
//!
//! Values in, values out. The bytes are read and written elsewhere; here nobody knows a connection.

pub mod authorize;
pub mod balance;
pub mod claim;
pub mod edit;
pub mod head;
pub mod host;
pub mod messages;
pub mod path;
pub mod pattern;
pub mod route;
pub mod select;
pub mod weight;
