//! A node's disk: an ordered journal, of which a power cut may lose any end that was not synced.
//!
//! As in the server there is one journal for the logs, votes and state of all groups, so that one sync covers whatever
//! was written before it. Writes are seen at once (they are in the page cache) and survive `kill -9`. Who writes is a
//! process; after its death its writes are refused.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::time::{now, sleep_ms};
use crate::types::{Entry, GroupId, LogId, SnapshotMeta, StoredMembership, Vote};

/// Up to where a group has been applied, and who its members are there.
#[derive(Clone, Debug, Default)]
pub struct Position {
    pub applied: Option<LogId>,
    pub members: StoredMembership,
}

/// One atomic write.
#[derive(Clone, Debug)]
pub enum Record {
    Vote(Vote),
    Committed(Option<LogId>),
    Append(Vec<Entry>),
    /// Everything behind this is gone.
    Truncate(Option<LogId>),
    Purge(LogId),
    /// State and position together.
    Applied(Position, Arc<Ledger>),
    /// A mistake: each by itself.
    State(Arc<Ledger>),
    Position(Position),
    /// Made here.
    Snapshot(SnapshotMeta, Arc<Ledger>),
    /// Received: state and position are its own from now on.
    Install(SnapshotMeta, Arc<Ledger>),
}

/// What stands on the disk of one group.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub log: BTreeMap<u64, Entry>,
    pub purged: Option<LogId>,
    pub position: Position,
    pub ledger: Arc<Ledger>,
    pub snapshot: Option<(SnapshotMeta, Arc<Ledger>)>,
}

type Images = BTreeMap<GroupId, Image>;

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Kill,
    PowerCut,
    /// For good, and its disk with it.
    DiskLost,
}

#[derive(Debug, Default)]
struct State {
    /// What a process reads.
    cached: Images,
    /// What a power cut leaves.
    synced: Images,
    /// In between, in order.
    pending: VecDeque<(GroupId, Record)>,
    /// Records written and synced so far.
    written: u64,
    flushed: u64,
    /// The process that may write; it changes when one dies.
    process: u64,
    busy_until_us: u64,
    /// One sync takes so long, at most.
    sync_us_max: u64,
}

/// Shared by the processes that a node has one after another.
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    chance: Arc<Mutex<Chance>>,
}

/// The disk as one process has it.
#[derive(Clone, Debug)]
pub struct Open {
    disk: Disk,
    process: u64,
}

// === impl Position ===

impl Position {
    /// So many entries have been applied.
    pub fn count(&self) -> u64 {
        self.applied.map_or(0, |id| id.index + 1)
    }
}

// === impl Image ===

impl Image {
    fn write(&mut self, record: Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Committed(id) => self.committed = id,
            Record::Append(entries) => {
                let rows = entries.into_iter().map(|entry| (entry.log_id.index, entry));
                self.log.extend(rows);
            }
            Record::Truncate(last) => {
                let first = last.map_or(0, |id| id.index + 1);
                self.log.split_off(&first);
            }
            Record::Purge(upto) => {
                self.log = self.log.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Record::Applied(position, ledger) => (self.position, self.ledger) = (position, ledger),
            Record::State(ledger) => self.ledger = ledger,
            Record::Position(position) => self.position = position,
            Record::Snapshot(meta, ledger) => self.snapshot = Some((meta, ledger)),
            Record::Install(meta, ledger) => {
                self.position = Position {
                    applied: meta.last_log_id,
                    members: meta.last_membership.clone(),
                };
                self.ledger = Arc::clone(&ledger);
                self.snapshot = Some((meta, ledger));
            }
        }
    }

    pub fn last(&self) -> Option<LogId> {
        let last = self.log.values().next_back().map(|entry| entry.log_id);
        last.or(self.purged)
    }
}

// === impl Disk ===

impl Disk {
    pub fn new(chance: Arc<Mutex<Chance>>) -> Self {
        let disk = Disk {
            state: Arc::default(),
            chance,
        };
        disk.set_slowness(1);
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync takes up to 3 ms, times this.
    pub fn set_slowness(&self, times: u64) {
        self.lock().sync_us_max = 3_000 * times;
    }

    /// For the process that begins now.
    pub fn open(&self) -> Open {
        Open {
            disk: self.clone(),
            process: self.lock().process,
        }
    }

    /// The process dies. How many records were lost with the power.
    pub fn end(&self, how: End) -> u64 {
        let mut state = self.lock();
        state.process += 1;
        if how != End::PowerCut {
            return 0;
        }
        let keep = self.chance().below(state.pending.len() as u64 + 1);
        let upto = state.flushed + keep;
        state.flush(upto);
        let lost = state.pending.len() as u64;
        state.pending.clear();
        state.written = state.flushed;
        state.cached = state.synced.clone();
        lost
    }
}

impl State {
    fn flush(&mut self, upto: u64) {
        while self.flushed < upto
            && let Some((group, record)) = self.pending.pop_front()
        {
            self.synced.entry(group).or_default().write(record);
            self.flushed += 1;
        }
    }
}

// === impl Open ===

impl Open {
    fn check(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.process == self.process {
            Ok(state)
        } else {
            Err(io::Error::other("the process is dead"))
        }
    }

    /// Reads; also what is not synced.
    pub fn read<T>(&self, group: GroupId, read: impl FnOnce(&Image) -> T) -> io::Result<T> {
        let mut state = self.check()?;
        Ok(read(state.cached.entry(group).or_default()))
    }

    /// Writes without a sync; the number to sync up to.
    pub fn write(&self, group: GroupId, record: Record) -> io::Result<u64> {
        let mut state = self.check()?;
        let image = state.cached.entry(group).or_default();
        image.write(record.clone());
        state.pending.push_back((group, record));
        state.written += 1;
        Ok(state.written)
    }

    /// Returns when everything up to this number is safe. Syncs come one after another.
    pub async fn sync(&self, upto: u64) -> io::Result<()> {
        let now_us = u64::try_from(now().as_micros()).expect("a run is short");
        let wait_us = {
            let mut state = self.check()?;
            let takes = self.disk.chance().between(200, state.sync_us_max);
            state.busy_until_us = state.busy_until_us.max(now_us) + takes;
            state.busy_until_us - now_us
        };
        sleep_us(wait_us).await;
        self.check()?.flush(upto);
        Ok(())
    }
}

async fn sleep_us(us: u64) {
    // Whole milliseconds: fewer instants, faster runs.
    sleep_ms(us.div_ceil(1_000)).await;
}

#[cfg(test)]
mod tests {
    use openraft::async_runtime::AsyncRuntime;
    use openraft_rt_sim::SimRuntime;

    use super::*;

    fn disk() -> Disk {
        Disk::new(Arc::new(Mutex::new(Chance::new(7))))
    }

    const GROUP: GroupId = GroupId(1);

    fn vote(term: u64) -> Record {
        Record::Vote(Vote::new(term, 1))
    }

    fn read_vote(disk: &Disk) -> Option<Vote> {
        disk.open().read(GROUP, |image| image.vote).unwrap()
    }

    #[test]
    fn what_was_synced_survives_a_power_cut() {
        SimRuntime::with_seed(1).block_on(async {
            let disk = disk();
            let open = disk.open();
            let upto = open.write(GROUP, vote(3)).unwrap();
            open.sync(upto).await.unwrap();
            open.write(GROUP, vote(4)).unwrap();
            disk.end(End::PowerCut);
            assert!(read_vote(&disk) >= Some(Vote::new(3, 1)));
        });
    }

    #[test]
    fn what_was_not_synced_survives_a_kill_and_may_be_lost_with_the_power() {
        let disk = disk();
        disk.open().write(GROUP, vote(3)).unwrap();
        disk.end(End::Kill);
        assert_eq!(read_vote(&disk), Some(Vote::new(3, 1)));
        let mut lost = 0;
        for term in 4..40 {
            disk.open().write(GROUP, vote(term)).unwrap();
            lost += disk.end(End::PowerCut);
        }
        assert!(lost > 0);
    }

    #[test]
    fn a_dead_process_writes_no_more() {
        let disk = disk();
        let open = disk.open();
        disk.end(End::Kill);
        assert!(open.write(GROUP, vote(3)).is_err());
        assert_eq!(read_vote(&disk), None);
    }
}
