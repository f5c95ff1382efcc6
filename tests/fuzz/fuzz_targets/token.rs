//! See `tests::parsers::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::token(data));
