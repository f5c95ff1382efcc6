//! See `tests::parsers::path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::path(data));
