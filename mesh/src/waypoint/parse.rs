//! From messages to what is decided by.
