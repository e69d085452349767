//! A binary WebSocket message: the header, then an OpAMP message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::fuzzing::fuzz_ws(bytes));
