//! What requests and connections leave behind.
