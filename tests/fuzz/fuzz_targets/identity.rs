//! See `tests::parsers::identity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::identity(data));
