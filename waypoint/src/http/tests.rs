//! Facts of client connections.
