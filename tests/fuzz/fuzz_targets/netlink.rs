//! See `tests::parsers::netlink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::parsers::netlink(data));
