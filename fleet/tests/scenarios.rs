//! Scenarios as a senior SRE would try them, as text: each file under `scenarios/` has orders (`$ …`) and what they show.
//!
//! The files are documentation that is checked. `MUSTER_BLESS=1 cargo test -p fleet --test scenarios` writes anew what is
//! shown; the difference is then read like any other.

#[path = "scenarios/script.rs"]
mod script;
#[allow(dead_code, reason = "each test reads a part of the world")]
mod world;

use std::path::PathBuf;

use script::Script;

#[test]
fn every_scenario_goes_as_it_is_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(&folder).expect("the scenarios are there");
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{} scenarios", files.len());
    let mut different = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).expect("a scenario can be read");
        let shown = play(&written);
        if shown == written {
            continue;
        }
        if std::env::var_os("MUSTER_BLESS").is_some() {
            std::fs::write(&file, shown).expect("a scenario can be written");
            continue;
        }
        let lines = written.lines().zip(shown.lines()).enumerate();
        let mut first = lines.filter(|(_, (written, shown))| written != shown);
        let at = first
            .next()
            .map_or("at its end".to_owned(), |(at, (written, shown))| {
                format!("line {}:\n  written: {written}\n  shown:   {shown}", at + 1)
            });
        different.push(format!("{}: {at}", file.display()));
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// The text with the output of each order as it is now. Comments and empty lines stay.
fn play(written: &str) -> String {
    let mut script = Script::new();
    let mut shown = String::new();
    for line in written.lines() {
        if let Some(order) = line.strip_prefix("$ ") {
            shown.push_str(line);
            shown.push('\n');
            for output in script.order(order) {
                shown.push_str("  ");
                shown.push_str(&output);
                shown.push('\n');
            }
        } else if !line.starts_with("  ") {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    shown
}
