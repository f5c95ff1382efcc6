//! See `tests::parsers::zds`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::zds(data));
