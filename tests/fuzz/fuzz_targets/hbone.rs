//! See `tests::parsers::hbone`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::hbone(data));
