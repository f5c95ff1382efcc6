//! What becomes of requests and connections.
