//! See `tests::parsers::authority`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::authority(data));
