//! control
fn main() {}
