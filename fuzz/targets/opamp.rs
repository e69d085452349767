//! An OpAMP message as it comes over HTTP: whatever the scanner lets through must decode and mean the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::fuzzing::fuzz_opamp(bytes));
