//! See `tests::parsers::leaf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::leaf(data));
