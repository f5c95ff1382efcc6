//! Facts of connections to endpoints.
