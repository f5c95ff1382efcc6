//! See `tests::parsers::manifests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::manifests(data));
