//! What is in force, whatever the order.
