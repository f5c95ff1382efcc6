//! See `tests::parsers::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::message(data));
