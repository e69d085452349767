//! Log and state machine of one group over the simulated disk, with the promises that the server's store gives: vote
//! and log are on disk before they are answered, and the applied position is one write with the state.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot,
};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use state::inventory::{Index, IndexMirror};
use state::ledger::Mirror;

use crate::disk::{Open, Position, Record};
use crate::fault::Fault;
use crate::invariants::Fact;
use crate::ledger::{Ledger, Outcome, Seen};
use crate::time::spawn;
use crate::types::{Entry, GroupId, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use crate::world::Watch;

/// What readers of a replica see.
pub type View = Arc<Mutex<(u64, Arc<Ledger>)>>;

/// Log and votes.
#[derive(Clone)]
pub struct LogStore {
    pub disk: Open,
    pub group: GroupId,
    pub fault: Option<Fault>,
}

/// Applied state.
pub struct Machine {
    pub node: u64,
    pub group: GroupId,
    pub disk: Open,
    pub watch: Watch,
    position: Position,
    ledger: Arc<Ledger>,
    view: View,
    mirror: IndexMirror,
}

/// Makes a snapshot of what was applied when it was asked for.
pub struct Builder {
    disk: Open,
    group: GroupId,
    meta: SnapshotMeta,
    ledger: Arc<Ledger>,
}

// === impl LogStore ===

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let rows = |image: &crate::disk::Image| {
            let rows = image.log.range(range);
            rows.map(|(_, entry)| entry.clone()).collect()
        };
        self.disk.read(self.group, rows)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.disk.read(self.group, |image| image.vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.disk.read(self.group, |image| LogState {
            last_purged_log_id: image.purged,
            last_log_id: image.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let at = self.disk.write(self.group, Record::Vote(*vote))?;
        if self.fault == Some(Fault::VoteNotSynced) {
            return Ok(());
        }
        self.disk.sync(at).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let record = Record::Committed(committed);
        self.disk.write(self.group, record).map(|_| ())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.disk.read(self.group, |image| image.committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = Record::Append(entries.into_iter().collect());
        let at = self.disk.write(self.group, entries)?;
        let disk = self.disk.clone();
        if self.fault == Some(Fault::AckBeforeFlush) {
            done.io_completed(Ok(()));
            let _beside = spawn(async move { disk.sync(at).await });
            return Ok(());
        }
        let _beside = spawn(async move { done.io_completed(disk.sync(at).await) });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let record = Record::Truncate(last);
        self.disk.write(self.group, record).map(|_| ())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let record = Record::Purge(upto);
        self.disk.write(self.group, record).map(|_| ())
    }
}

// === impl Machine ===

impl Machine {
    /// As it stands on the disk.
    pub fn open(
        node: u64,
        group: GroupId,
        disk: Open,
        watch: Watch,
        (view, index): (View, &Index),
    ) -> io::Result<Self> {
        let (position, ledger) = disk.read(group, |image| {
            (image.position.clone(), Arc::clone(&image.ledger))
        })?;
        let mut machine = Machine {
            node,
            group,
            disk,
            watch,
            position,
            ledger,
            view,
            mirror: index.mirror(),
        };
        machine.publish_anew();
        Ok(machine)
    }

    fn applied(&self) -> u64 {
        self.position.count()
    }

    fn publish(&self) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        *view = (self.applied(), Arc::clone(&self.ledger));
    }

    /// What readers see of the documents is made anew.
    fn publish_anew(&mut self) {
        self.mirror.reset();
        self.mirror(self.ledger.mirrored(IndexMirror::TABLES));
        self.publish();
    }

    fn mirror(&mut self, seen: Vec<Seen>) {
        let seen = seen
            .into_iter()
            .filter(|(table, ..)| IndexMirror::TABLES.contains(table));
        for (table, key, document) in seen {
            match document {
                Some((version, value)) => self.mirror.put(table, &key, version, &value),
                None => self.mirror.delete(table, &key),
            }
        }
        self.mirror.publish(self.ledger.floor);
    }

    fn write(&self) -> io::Result<()> {
        let position = self.position.clone();
        let ledger = Arc::clone(&self.ledger);
        if self.watch.fault() == Some(Fault::ApplyWithoutIndex) {
            // In any order, as two files would be.
            let mut records = [Record::State(ledger), Record::Position(position)];
            if self.watch.chance().one_in(2) {
                records.reverse();
            }
            for record in records {
                self.disk.write(self.group, record)?;
            }
            return Ok(());
        }
        let record = Record::Applied(position, ledger);
        self.disk.write(self.group, record).map(|_| ())
    }

    fn apply_one(&mut self, entry: &Entry) -> io::Result<Outcome> {
        let ledger = Arc::make_mut(&mut self.ledger);
        let (mut links, mut seen) = (vec![], vec![]);
        let (mut id, mut outcome) = (0, Outcome::Nothing);
        match &entry.payload {
            EntryPayload::Blank => ledger.pass(),
            EntryPayload::Membership(members) => {
                ledger.pass();
                let at = Some(entry.log_id);
                self.position.members = StoredMembership::new(at, members.clone());
            }
            EntryPayload::Normal(proposal) => {
                let change = self.watch.fenced(&proposal.0);
                let index = entry.log_id.index;
                (outcome, links, seen) = ledger.apply(index, &change, self.watch.shelf());
                id = change.id;
            }
        }
        self.position.applied = Some(entry.log_id);
        self.write()?;
        self.mirror(seen);
        self.publish();
        self.watch.note(Fact::Applied {
            node: self.node,
            group: self.group,
            applied: self.applied(),
            change: id,
            links,
            ledger: Arc::clone(&self.ledger),
        });
        Ok(outcome)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Arc<Ledger>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.position.applied, self.position.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = self.apply_one(&entry)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            disk: self.disk.clone(),
            group: self.group,
            meta: SnapshotMeta {
                last_log_id: self.position.applied,
                last_membership: self.position.members.clone(),
            },
            ledger: Arc::clone(&self.ledger),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        ledger: Arc<Ledger>,
    ) -> io::Result<()> {
        let record = Record::Install(meta.clone(), Arc::clone(&ledger));
        let at = self.disk.write(self.group, record)?;
        self.position = Position {
            applied: meta.last_log_id,
            members: meta.last_membership.clone(),
        };
        self.ledger = ledger;
        self.publish_anew();
        self.watch.note(Fact::Installed {
            node: self.node,
            group: self.group,
            applied: self.applied(),
            ledger: Arc::clone(&self.ledger),
        });
        self.disk.sync(at).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderId, u64, openraft::EmptyNode, Arc<Ledger>>>> {
        let kept = self.disk.read(self.group, |image| image.snapshot.clone())?;
        Ok(kept.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

// === impl Builder ===

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Arc<Ledger>;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<Snapshot<LeaderId, u64, openraft::EmptyNode, Arc<Ledger>>> {
        let (meta, snapshot) = (self.meta.clone(), Arc::clone(&self.ledger));
        let record = Record::Snapshot(meta.clone(), Arc::clone(&snapshot));
        let at = self.disk.write(self.group, record)?;
        self.disk.sync(at).await?;
        Ok(Snapshot { meta, snapshot })
    }
}
