//! See `tests::parsers::roster`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::roster(data));
