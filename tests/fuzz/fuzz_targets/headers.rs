//! See `tests::parsers::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::headers(data));
