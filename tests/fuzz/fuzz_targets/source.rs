//! See `tests::parsers::source`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::source(data));
