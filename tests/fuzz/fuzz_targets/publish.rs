//! See `tests::parsers::publish`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::publish(data));
