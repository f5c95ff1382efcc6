//! See `tests::parsers::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::frame(data));
