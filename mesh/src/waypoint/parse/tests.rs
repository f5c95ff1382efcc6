//! Messages and what is made of them.
