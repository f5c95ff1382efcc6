//! See `tests::parsers::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::request(data));
