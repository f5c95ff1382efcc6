//! See `tests::parsers::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::address(data));
