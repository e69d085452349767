//! What is preloaded into a process under test, compiled where the test runs: see `shim/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `shim/NAME.c` to a library in this directory.
pub(crate) fn compiled(name: &str, directory: &Path) -> PathBuf {
    let library = directory.join(name).with_extension("so");
    let shims = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(shims.join(name).with_extension("c"))
        .arg("-ldl")
        .status();
    assert!(compiled.unwrap().success(), "cc cannot compile the shim");
    library
}
