//! See `tests::parsers::settings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::settings(data));
