//! See `tests::parsers::http`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::http(data));
