//! See `tests::parsers::local`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::local(data));
