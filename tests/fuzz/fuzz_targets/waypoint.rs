//! See `tests::parsers::waypoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::waypoint(data));
