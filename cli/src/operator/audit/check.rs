//! `muster audit check`: recomputes the chains of an exported log from its lines alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use node::ledger::audit::{Entry, Head, Record, Verifier};
use node::ledger::digest::Digest;
use serde::Deserialize;

use crate::exit::{Code, Failure};
use crate::operator::output::Output;
use crate::render::audit::{self as render, Chain};

/// Longest line that is read; an entry's texts are far below.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// Reads the file and tells of each chain whether it holds.
pub fn run(file: &Path, out: Output) -> Result<(), Failure> {
    let name = file.display().to_string();
    let chains = if name == "-" {
        read("<stdin>", BufReader::new(std::io::stdin().lock()))?
    } else {
        let opened = File::open(file)
            .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
        read(&name, BufReader::new(opened))?
    };
    out.show(&chains, |chains, look| render::chains(chains, look))?;
    verdict(&name, &chains)
}

/// One line of the export.
#[derive(Deserialize)]
struct Line {
    group: String,
    seq: u64,
    hash: String,
    #[serde(default)]
    prev: String,
    actor: String,
    action: String,
    object: String,
    detail: String,
    at_ms: u64,
}

/// A chain as far as it was read.
struct Reading {
    first: u64,
    entries: u64,
    verifier: Verifier,
    problem: String,
}

fn read(name: &str, mut from: impl BufRead) -> Result<Vec<Chain>, Failure> {
    let mut readings: BTreeMap<String, Reading> = BTreeMap::new();
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let not_read = |why: &str| Failure::usage(format!("{name} line {number}: {why}"));
        let bytes = (&mut from)
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .map_err(|error| not_read(&error.to_string()))?;
        if bytes == 0 {
            break;
        }
        if bytes as u64 == LINE_BYTES_MAX {
            return Err(not_read("longer than any entry of an audit log"));
        }
        if line.trim().is_empty() {
            continue;
        }
        let (group, entry) = parse(&line).map_err(|why| {
            not_read(&why).hint("`muster audit export` prints what can be checked")
        })?;
        let reading = readings
            .entry(group)
            .or_insert_with_key(|group| Reading::begin(group, &entry));
        reading.take(&entry);
    }
    Ok(readings
        .into_iter()
        .map(|(group, reading)| reading.end(group))
        .collect())
}

fn parse(line: &str) -> Result<(String, Entry), String> {
    let line: Line =
        serde_json::from_str(line).map_err(|error| format!("no entry of an audit log: {error}"))?;
    let digest = |key: &str, text: &str| {
        text.parse::<Digest>()
            .map_err(|error| format!("`{key}`: {error}"))
    };
    let entry = Entry {
        seq: line.seq,
        prev: digest("prev", &line.prev)?,
        digest: digest("hash", &line.hash)?,
        record: Record {
            actor: line.actor,
            action: line.action,
            object: line.object,
            detail: line.detail,
            at_ms: line.at_ms,
        },
    };
    Ok((line.group, entry))
}

fn verdict(name: &str, chains: &[Chain]) -> Result<(), Failure> {
    if chains.is_empty() {
        return Err(Failure::new(
            Code::NotIntact,
            format!("{name} has no entries, so nothing is proven"),
        ));
    }
    let broken: Vec<&str> = chains
        .iter()
        .filter(|chain| !chain.problem.is_empty())
        .map(|chain| chain.group.as_str())
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotIntact,
        format!("the audit log in {name} is not intact in {}", broken.join(", ")),
    )
    .hint("export it again; if `muster audit verify` says that the server's is intact, the file was changed"))
}

// === impl Reading ===

impl Reading {
    /// A chain begins with its genesis; what was exported from later on, behind the entry before.
    fn begin(group: &str, first: &Entry) -> Self {
        let before = match first.seq {
            0 | 1 => Head::genesis(group),
            seq => Head {
                seq: seq - 1,
                digest: first.prev,
            },
        };
        Reading {
            first: first.seq,
            entries: 0,
            verifier: Verifier::after(before),
            problem: String::new(),
        }
    }

    fn take(&mut self, entry: &Entry) {
        self.entries += 1;
        if let Err(broken) = self.verifier.check(entry)
            && self.problem.is_empty()
        {
            self.problem = broken.to_string();
        }
    }

    fn end(self, group: String) -> Chain {
        let head = self.verifier.head();
        Chain {
            group,
            first: self.first,
            last: head.seq,
            entries: self.entries,
            head: head.digest.to_hex(),
            problem: self.problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use node::ledger::audit::append;

    use super::*;

    /// An exported chain of so many entries.
    fn exported(group: &str, entries: u64) -> Vec<String> {
        let mut head = Head::genesis(group);
        let mut lines = Vec::new();
        for at_ms in 1..=entries {
            let record = Record {
                actor: "alice".into(),
                action: "rollout.halt".into(),
                object: "rollout/r1".into(),
                detail: format!("why {at_ms}"),
                at_ms,
            };
            let (next, entry) = append(head, record);
            head = next;
            let line = proto::api::AuditEntry {
                group: group.into(),
                seq: entry.seq,
                hash: entry.digest.to_hex(),
                prev: entry.prev.to_hex(),
                actor: entry.record.actor,
                action: entry.record.action,
                object: entry.record.object,
                detail: entry.record.detail,
                at_ms,
            };
            lines.push(serde_json::to_string(&line).unwrap());
        }
        lines
    }

    fn checked(lines: &[String]) -> Vec<Chain> {
        read("f", lines.join("\n").as_bytes()).unwrap()
    }

    #[test]
    fn exported_chains_hold_each_by_itself() {
        let mut lines = exported("control", 3);
        lines.extend(exported("inventory-0", 2));
        let chains = checked(&lines);
        let found: Vec<_> = chains
            .iter()
            .map(|c| (c.group.as_str(), c.first, c.last, c.problem.as_str()))
            .collect();
        assert_eq!(found, [("control", 1, 3, ""), ("inventory-0", 1, 2, "")]);
        assert!(verdict("f", &chains).is_ok());
    }

    #[test]
    fn export_from_later_on_is_checked_from_there() {
        let chains = checked(&exported("control", 5)[2..]);
        assert_eq!((chains[0].first, chains[0].last), (3, 5));
        assert_eq!((chains[0].entries, chains[0].problem.as_str()), (3, ""));
    }

    #[test]
    fn changed_missing_and_foreign_entries_are_found() {
        let whole = exported("control", 3);
        let mut changed = whole.clone();
        changed[1] = changed[1].replace("alice", "mallory");
        let missing = [whole[0].clone(), whole[2].clone()];
        let foreign: Vec<String> = exported("inventory-0", 1)
            .iter()
            .map(|line| line.replace("inventory-0", "control"))
            .collect();
        for (lines, words) in [
            (&changed[..], "entry 2 was changed"),
            (&missing[..], "entry 2 is missing"),
            (&foreign[..], "entry 1 does not continue"),
        ] {
            let chains = checked(lines);
            assert!(chains[0].problem.contains(words), "{}", chains[0].problem);
            let failure = verdict("f", &chains).unwrap_err();
            assert_eq!(failure.code(), Code::NotIntact);
        }
    }

    #[test]
    fn empty_file_proves_nothing() {
        assert_eq!(
            verdict("f", &checked(&[])).unwrap_err().code(),
            Code::NotIntact
        );
    }

    #[test]
    fn line_that_is_no_entry_is_named() {
        let listed = exported("control", 1)[0].replace("\"prev\"", "\"was\"");
        for (text, words) in [
            ("{}\n", "f line 1: no entry of an audit log"),
            ("\n\nnot json\n", "f line 3: no entry"),
            (
                listed.as_str(),
                "f line 1: `prev`: a digest is 64 hex digits",
            ),
        ] {
            let failure = read("f", text.as_bytes()).err().unwrap();
            assert_eq!(failure.code(), Code::Usage);
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}
