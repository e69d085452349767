//! Reading a log: memory for the newest entries, the database for the rest.

use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use openraft::storage::RaftLogReader;
use rocksdb::ReadOptions;

use super::{Log, next_index};
use crate::store::keys;
use crate::types::{Entry, TypeConfig, Vote};
use crate::{Fatal, stored};

/// Reads the log of one group; each handle sees what any of them appended.
#[derive(Clone)]
pub(crate) struct LogReader(pub(crate) Arc<Log>);

impl Log {
    /// Entries with `start <= index < end` that the log holds, ascending, cut after `bytes_max`
    /// but never to nothing.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, Fatal> {
        let tail = self.lock();
        let start = start.max(tail.first);
        let end = end.min(next_index(&tail.last));
        let cached_from = tail.cached_from();
        // Taken under the lock, so that memory and database are of one moment.
        let snapshot = (start < end.min(cached_from)).then(|| self.db.engine.snapshot());
        let skip = usize::try_from(start.saturating_sub(cached_from)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let newest: Vec<(Entry, usize)> = tail
            .cached
            .iter()
            .skip(skip)
            .take_while(|cached| cached.entry.log_id.index < end)
            .take_while(|cached| {
                let fits = bytes == 0 || bytes < bytes_max;
                bytes += cached.bytes;
                fits
            })
            .map(|cached| (cached.entry.clone(), cached.bytes))
            .collect();
        drop(tail);

        let mut entries = Vec::new();
        let mut bytes = 0;
        if let Some(snapshot) = snapshot {
            let mut options = ReadOptions::default();
            let stored_end = end.min(cached_from);
            options.set_iterate_upper_bound(keys::log(self.group, stored_end));
            let mut raw = snapshot.raw_iterator_cf_opt(self.db.family(keys::RAFT_LOG), options);
            raw.seek(keys::log(self.group, start));
            for index in start..stored_end {
                if !entries.is_empty() && bytes >= bytes_max {
                    return Ok(entries);
                }
                let item = raw
                    .item()
                    .filter(|(key, _)| keys::log_index(self.group, key) == Some(index));
                let Some((_, value)) = item else {
                    raw.status()
                        .map_err(|error| Fatal::because("read the log", error))?;
                    return Err(Fatal::new(format!(
                        "log of {} has a hole at {index}",
                        self.group
                    )));
                };
                bytes += value.len();
                entries.push(stored::decode_entry(Bytes::copy_from_slice(value))?);
                raw.next();
            }
        }
        for (entry, size) in newest {
            if !entries.is_empty() && bytes >= bytes_max {
                break;
            }
            bytes += size;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Everything from `start` on is in memory.
    fn is_cached(&self, start: u64) -> bool {
        start >= self.lock().cached_from()
    }
}

impl LogReader {
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        if self.0.is_cached(start) {
            return Ok(self.0.read(start, end, bytes_max)?);
        }
        let log = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || log.read(start, end, bytes_max)).await;
        Ok(read.map_err(io::Error::other)??)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let reader = self.clone();
        let pages = futures::stream::try_unfold(start, move |next| {
            let reader = reader.clone();
            async move {
                let page = reader.read(next, end, reader.0.limits.read_bytes).await?;
                let after = page.last().map(|entry| entry.log_id.index + 1);
                Ok::<_, io::Error>(
                    after.map(|after| (futures::stream::iter(page.into_iter().map(Ok)), after)),
                )
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(pages))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, self.0.limits.read_bytes).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.lock().vote)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
