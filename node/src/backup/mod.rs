//! Backup and restore: every group's state in one file, the inventory groups first and the control group last.
//!
//! `send` streams it from a running node, `file` is how it is kept, `key` encrypts it, `restore` makes a new cluster of it.
//! Each group is as its leader had confirmed it when its turn came, so the control group knows at least what the others
//! do. Invariant: what does not verify to the last byte is not a backup, and nothing is restored of it.

mod file;
mod key;
mod restore;
pub(crate) mod send;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use proto::api::backup_part::Part;
use proto::api::{BackupGroup, BackupHeader};
use raft::Exported;

pub use file::{DATA_MAX, Reader, Writer};
pub use key::Key;
pub(crate) use restore::UNFINISHED;
pub use restore::{Restored, restore};

use crate::local::{PARTITIONS, StartError};
use crate::partition::chain;

/// Why a backup is not made, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("{} cannot be read", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// While reading it.
    #[error("the backup cannot be read")]
    Read(#[source] std::io::Error),
    /// While writing it.
    #[error("the backup cannot be written")]
    Write(#[source] std::io::Error),
    /// Something else.
    #[error("this is not a backup of Muster")]
    NotOne,
    /// Of a newer version.
    #[error(
        "the backup has format {found}, this version reads {}: use the version of muster that made it",
        file::FORMAT
    )]
    Format {
        /// As found.
        found: u32,
    },
    /// It ends too early.
    #[error("the backup is cut short: it cannot be used, take another one")]
    Cut,
    /// It is not what was written.
    #[error("the backup is damaged ({0}): it cannot be used, take another one")]
    Damaged(String),
    /// It is encrypted.
    #[error("the backup is encrypted: give its key with --key-file")]
    NeedsKey,
    /// It is not.
    #[error(
        "the backup is not encrypted, so no key says who made it: leave --key-file out to read it all the same"
    )]
    NotEncrypted,
    /// Another key.
    #[error("the key is not the one that the backup was made with")]
    WrongKey,
    /// A file that is no key.
    #[error("{} holds no key: a key is 32 bytes, raw or as 64 hex digits, as `openssl rand -hex 32` prints them", path.display())]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// A group of it.
    #[error("the state of group {group} in the backup cannot be used")]
    Group {
        /// Its name.
        group: String,
        /// Why.
        #[source]
        source: raft::Fatal,
    },
    /// Other groups than this version has.
    #[error(
        "the backup holds {found}; this version restores one control group and {PARTITIONS} inventory groups"
    )]
    Groups {
        /// In words.
        found: String,
    },
    /// There is something.
    #[error("{} is not empty: restore into an empty directory", dir.display())]
    NotEmpty {
        /// Which.
        dir: PathBuf,
    },
    /// The directory.
    #[error("{} cannot be written", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A group does not start from it.
    #[error("what was restored does not start")]
    Start(#[source] StartError),
    /// An audit chain.
    #[error("the audit log of group {group} does not verify: {why}")]
    Audit {
        /// Its name.
        group: String,
        /// What is wrong with it.
        why: String,
    },
    /// The first entry of the new cluster.
    #[error("the restored cluster does not store its first entry")]
    Store(#[source] crate::ledger::ProposeError),
    /// The new cluster's first snapshot could not be made.
    #[error("the restored control group cannot be written as a snapshot")]
    Snapshot(#[source] raft::SnapshotError),
    /// It was restored too often to be told apart from its past.
    #[error("a cluster can be restored {} times", u16::MAX)]
    TooOften,
}

/// What a backup is of.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Of which cluster, and when it was made.
    pub header: BackupHeader,
    /// Every group in it, in order.
    pub groups: Vec<(BackupGroup, Exported)>,
}

/// Reads a backup to its end and says what it is of. Blocks.
///
/// # Errors
/// It is not one, not whole, not with this key, or holds other groups than this version has.
pub fn verify(path: &Path, key: Option<&Key>) -> Result<Summary, Error> {
    let summary = each_group(path, key, |_, stream| raft::check_export(stream))?;
    check_groups(&summary.groups)?;
    Ok(summary)
}

/// Hands the state of each group to `take`, which reads it to its end.
fn each_group(
    path: &Path,
    key: Option<&Key>,
    mut take: impl FnMut(&BackupGroup, &mut dyn Read) -> Result<Exported, raft::Fatal>,
) -> Result<Summary, Error> {
    let file = File::open(path).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    let mut reader = Reader::open(BufReader::with_capacity(1 << 20, file), key)?;
    let header = reader.header().clone();
    let mut groups = Vec::new();
    let mut next = reader.read_part()?;
    loop {
        let group = match next {
            Part::Group(group) => group,
            Part::End(end) => {
                reader.finish()?;
                let is_whole =
                    end.groups == header.groups && groups.len() as u64 == u64::from(end.groups);
                return match is_whole {
                    true => Ok(Summary { header, groups }),
                    false => Err(Error::Damaged("groups are missing".into())),
                };
            }
            Part::Header(_) | Part::Data(_) => {
                return Err(Error::Damaged("its parts are out of order".into()));
            }
        };
        let mut state = State {
            reader: &mut reader,
            chunk: Vec::new(),
            at: 0,
            next: None,
            failed: None,
        };
        let taken = take(&group, &mut state);
        let (failed, after) = (state.failed, state.next);
        if let Some(error) = failed {
            return Err(error);
        }
        let exported = taken.map_err(|source| Error::Group {
            group: group.name.clone(),
            source,
        })?;
        groups.push((group, exported));
        next = after.ok_or_else(|| Error::Damaged("a group goes on after its end".into()))?;
    }
}

/// One group's state, as a stream that ends where the next part begins.
struct State<'a, R> {
    reader: &'a mut Reader<R>,
    chunk: Vec<u8>,
    at: usize,
    /// What follows the state; set at its end.
    next: Option<Part>,
    failed: Option<Error>,
}

impl<R: Read> Read for State<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.chunk.len() && self.next.is_none() {
            match self.reader.read_part() {
                Ok(Part::Data(data)) => (self.chunk, self.at) = (data, 0),
                Ok(other) => self.next = Some(other),
                Err(error) => {
                    let told = std::io::Error::other(chain(&error));
                    self.failed = Some(error);
                    return Err(told);
                }
            }
        }
        let rest = &self.chunk[self.at..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

/// The control group last, and every inventory group once, in order.
fn check_groups(groups: &[(BackupGroup, Exported)]) -> Result<(), Error> {
    let expected = (1..=PARTITIONS).chain([0]);
    let found = groups.iter().map(|(_, exported)| exported.group.0);
    if expected.eq(found) {
        return Ok(());
    }
    let names: Vec<&str> = groups
        .iter()
        .map(|(group, _)| group.name.as_str())
        .collect();
    Err(Error::Groups {
        found: match names.is_empty() {
            true => "no group".to_owned(),
            false => names.join(", "),
        },
    })
}
