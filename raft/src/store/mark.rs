//! `durable.mark`: what this node promised, kept beside the database.
//!
//! Not needed to recover: needed to notice that recovery lost something, as point-in-time
//! recovery does when a bit rots in the middle of the write-ahead log.
//! Invariants: a mark is never ahead of an fsync; it names only committed positions, since an
//! uncommitted tail may rightly be truncated; the file is replaced whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;

use super::io::Work;
use super::stop::FailStop;
use crate::stored::{self, GroupMark, Mark};
use crate::types::{LogId, Vote};
use crate::{Fatal, GroupId, OpenError};

/// Name of the file in the store's directory.
pub(crate) const FILE: &str = "durable.mark";

/// What is durable of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Durable {
    /// Last position that was committed and flushed.
    pub last: Option<LogId>,
    pub vote: Option<Vote>,
    flushed: Option<LogId>,
    committed: Option<LogId>,
}

impl Durable {
    pub(crate) fn new(last: Option<LogId>, vote: Option<Vote>) -> Self {
        Self {
            last,
            vote,
            flushed: None,
            committed: None,
        }
    }

    fn advance(&mut self) {
        if let (Some(flushed), Some(committed)) = (&self.flushed, &self.committed) {
            let both = if committed.index <= flushed.index {
                committed
            } else {
                flushed
            };
            if self
                .last
                .as_ref()
                .is_none_or(|last| last.index < both.index)
            {
                self.last = Some(*both);
            }
        }
    }
}

/// Marks of all groups, in memory, and the file they go to.
pub(crate) struct Marks {
    path: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    groups: BTreeMap<GroupId, Durable>,
    dirty: bool,
    closed: bool,
}

impl Marks {
    /// Reads the file; no file is no promise.
    pub(crate) fn read(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let groups = match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(|reason| OpenError::Mark {
                path: path.clone(),
                reason,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        let state = State {
            groups,
            dirty: false,
            closed: false,
        };
        Ok(Self {
            path,
            state: Mutex::new(state),
            wake: Condvar::new(),
        })
    }

    pub(crate) fn groups(&self) -> BTreeMap<GroupId, Durable> {
        self.lock().groups.clone()
    }

    /// Notes appends and votes that were just synced.
    pub(crate) fn flushed(&self, work: &[Work]) {
        let mut state = self.lock();
        for one in work {
            match one {
                Work::Append {
                    log,
                    last: Some(last),
                    ..
                } => {
                    let group = state.groups.entry(log.group()).or_default();
                    group.flushed = Some(*last);
                    group.advance();
                }
                Work::Vote { group, vote, .. } => {
                    state.groups.entry(*group).or_default().vote = Some(*vote);
                }
                _ => continue,
            }
            state.dirty = true;
        }
    }

    /// Notes commits and truncations.
    pub(crate) fn committed(&self, work: &[Work]) {
        let mut state = self.lock();
        for one in work {
            match one {
                Work::Committed { group, id } => {
                    let group = state.groups.entry(*group).or_default();
                    group.committed = Some(*id);
                    group.advance();
                    state.dirty = true;
                }
                // What was flushed above it is gone; the next append says anew.
                Work::Truncate { group, first } => {
                    let group = state.groups.entry(*group).or_default();
                    if group.flushed.as_ref().is_some_and(|id| id.index >= *first) {
                        group.flushed = None;
                    }
                }
                _ => {}
            }
        }
    }

    /// Writes the file every `interval` when something changed, and once more when closed.
    pub(crate) fn run(&self, interval: Duration, stop: &FailStop) {
        loop {
            let state = self.lock();
            let (mut state, _) = self
                .wake
                .wait_timeout_while(state, interval, |state| !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
            let closed = state.closed;
            let changed = std::mem::take(&mut state.dirty).then(|| encode(&state.groups));
            drop(state);
            if let Some(bytes) = changed
                && stop.check().is_ok()
                && let Err(error) = replace(&self.path, &bytes)
            {
                stop.stop(Fatal::because("write the durable mark", error));
            }
            if closed {
                return;
            }
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file by a new one that is durable before it gets the name.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("mark.new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&new, path)?;
    sync_dir(path)
}

/// Makes renames in the directory of `path` durable.
pub(crate) fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The message, then its crc32c, little endian.
fn encode(groups: &BTreeMap<GroupId, Durable>) -> Vec<u8> {
    let groups = groups
        .iter()
        .map(|(group, Durable { last, vote, .. })| GroupMark {
            group: group.0,
            last: stored::position(last),
            vote: vote.as_ref().map(stored::Vote::from),
        });
    let mut bytes = Mark {
        version: stored::VERSION,
        groups: groups.collect(),
    }
    .encode_to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<GroupId, Durable>, String> {
    let (message, crc) = bytes
        .split_last_chunk::<4>()
        .ok_or("shorter than its checksum")?;
    if crc32c::crc32c(message) != u32::from_le_bytes(*crc) {
        return Err("checksum does not match".to_owned());
    }
    let mark: Mark = stored::decode("durable mark", message, |m: &Mark| m.version)
        .map_err(|error| crate::error::chain(&error))?;
    let groups = mark.groups.iter().map(|GroupMark { group, last, vote }| {
        (
            GroupId(*group),
            Durable::new(stored::log_id(last), vote.as_ref().map(Vote::from)),
        )
    });
    Ok(groups.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    fn one_group() -> BTreeMap<GroupId, Durable> {
        let vote = Vote {
            leader_id: openraft::impls::leader_id_adv::LeaderId {
                term: 3,
                node_id: 1,
            },
            committed: true,
        };
        [(GroupId(7), Durable::new(Some(log_id(3, 1, 42)), Some(vote)))].into()
    }

    #[test]
    fn bytes_of_version_1_are_frozen() {
        let bytes = encode(&one_group());
        assert_eq!(
            bytes,
            [
                8, 1, 18, 20, 8, 7, 18, 6, 8, 3, 16, 1, 24, 42, 26, 8, 8, 1, 16, 3, 24, 1, 32, 1,
                217, 158, 51, 144
            ]
        );
        assert_eq!(decode(&bytes), Ok(one_group()));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encode(&one_group());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_uncommitted_tail_is_not_marked() {
        let mut durable = Durable {
            flushed: Some(log_id(1, 1, 9)),
            ..Durable::default()
        };
        durable.advance();
        assert_eq!(durable.last, None);
        durable.committed = Some(log_id(1, 1, 5));
        durable.advance();
        assert_eq!(durable.last, Some(log_id(1, 1, 5)));
    }
}
