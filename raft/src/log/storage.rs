//! Writing a log: every change goes through memory, then the one queue of the store.
//!
//! Invariant: memory and queue are changed in the same order, since one core writes a log.

use std::io;
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use tokio::sync::oneshot;

use super::Log;
use super::reader::LogReader;
use crate::store::Work;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::{Fatal, stored};

/// The log as the consensus core writes it.
#[derive(Clone)]
pub(crate) struct LogStore(pub(crate) Arc<Log>);

/// What an operation without entries counts for in the queue, in bytes.
const SMALL_BYTES: usize = 64;

impl LogStore {
    fn push(&self, work: Work) -> io::Result<()> {
        self.0.stop.check()?;
        Ok(self.0.queue.push(work, SMALL_BYTES, 0)?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.0.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader(Arc::clone(&self.0))
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        self.push(Work::Vote {
            group: self.0.group,
            vote: *vote,
            done,
        })?;
        flushed
            .await
            .map_err(|_| Fatal::new("the log thread is gone"))??;
        self.0.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(id) = committed else { return Ok(()) };
        self.0.lock().committed = Some(id);
        self.push(Work::Committed {
            group: self.0.group,
            id,
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        self.0.stop.check()?;
        let entries: Vec<Entry> = entries.into_iter().collect();
        let rows: Vec<(u64, Vec<u8>)> = entries
            .iter()
            .map(|entry| (entry.log_id.index, stored::encode_entry(entry)))
            .collect();
        let bytes = rows.iter().map(|(_, row)| row.len()).sum();
        let permits = self.0.queue.reserve(bytes).await?;

        let mut tail = self.0.lock();
        tail.sequence += 1;
        let sequence = tail.sequence;
        for (entry, (_, row)) in entries.into_iter().zip(&rows) {
            tail.push(entry, row.len(), sequence);
        }
        let last = rows.last().and(tail.last);
        // Still locked: nobody sees memory and queue in different orders.
        let work = Work::Append {
            log: Arc::clone(&self.0),
            rows,
            sequence,
            last,
            done,
        };
        Ok(self.0.queue.push(work, bytes, permits)?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let first = super::next_index(&last);
        let mut tail = self.0.lock();
        if super::next_index(&tail.last) <= first {
            return Ok(());
        }
        tail.truncate(first);
        tail.last = last.or(tail.purged);
        self.push(Work::Truncate {
            group: self.0.group,
            first,
        })
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut tail = self.0.lock();
        let first = super::next_index(&tail.purged);
        tail.purge(upto);
        self.push(Work::Purge {
            group: self.0.group,
            first,
            upto,
        })
    }
}
