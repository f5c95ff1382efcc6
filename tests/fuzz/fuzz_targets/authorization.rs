//! See `tests::parsers::authorization`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::authorization(data));
