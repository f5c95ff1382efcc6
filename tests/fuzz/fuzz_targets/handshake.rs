//! See `tests::parsers::handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::handshake(data));
