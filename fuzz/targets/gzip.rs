//! A gzip body: inflated under its limit, then an OpAMP message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::fuzzing::fuzz_gzip(bytes));
