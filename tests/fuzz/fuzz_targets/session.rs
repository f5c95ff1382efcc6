//! See `tests::parsers::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::session(data));
