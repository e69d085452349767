//! A manifest that an operator applies: read, or refused with mistakes; never both, never neither.
#![no_main]

use std::collections::BTreeMap;

// The module itself rather than the crate `node`, which brings RocksDB. It uses fleet and proto alone.
#[allow(dead_code, unused_imports, reason = "a part of the module is for `node` alone")]
#[path = "../../node/src/manifest/mod.rs"]
mod manifest;

#[allow(dead_code, reason = "manifests need a part of it")]
#[path = "../../state/src/control/convert.rs"]
mod control;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let files = BTreeMap::from([("gateway.yaml".to_owned(), "receivers: {nop: {}}".to_owned())]);
    match manifest::parse("fuzz.yaml", text, &files) {
        Ok(manifests) => assert!(!manifests.is_empty(), "nothing read and nothing to say"),
        Err(mistakes) => assert!(!mistakes.is_empty(), "refused without a reason"),
    }
});
