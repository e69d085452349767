//! A WebSocket connection: what a peer sends after the handshake, read in pieces, heard and answered.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::fuzzing::fuzz_ws(bytes));
