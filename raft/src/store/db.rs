//! The database: column families, options, and reads that name what failed.
//!
//! Not the write path: log and vote are written by `io`, state by the group's worker.
//! Invariant: one write-ahead log, never disabled, so recovery gives a prefix of all writes.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, Options, ReadOptions, Snapshot,
};

use super::keys;
use crate::stored::Applied;
use crate::{Fatal, GroupId, StoreConfig};

/// Logs of the engine itself, in bytes and files: enough for a post mortem.
const INFO_LOG_BYTES: usize = 16 << 20;
const INFO_LOG_FILES: usize = 4;

/// One open database.
pub(crate) struct Db {
    pub(crate) engine: DB,
}

impl Db {
    pub(crate) fn open(path: &Path, config: &StoreConfig) -> Result<Self, rocksdb::Error> {
        let cache = Cache::new_lru_cache(config.cache_bytes);
        let families = [
            ColumnFamilyDescriptor::new("default", family(&cache)),
            ColumnFamilyDescriptor::new(keys::RAFT_LOG, log_family(&cache)),
            ColumnFamilyDescriptor::new(keys::RAFT_META, family(&cache)),
            ColumnFamilyDescriptor::new(keys::STATE, state_family(&cache)),
            ColumnFamilyDescriptor::new(keys::SM_META, family(&cache)),
        ];
        let engine = DB::open_cf_descriptors(&options(config), path, families)?;
        Ok(Self { engine })
    }

    pub(crate) fn family(&self, name: &str) -> &ColumnFamily {
        self.engine
            .cf_handle(name)
            .expect("every family was opened by name")
    }

    pub(crate) fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        self.engine
            .get_cf(self.family(family), key)
            .map_err(|error| Fatal::because(format!("read {family}"), error))
    }

    pub(crate) fn get_state(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        self.get(keys::STATE, key)
    }

    /// Where the group's state stands; the default if it never applied anything.
    pub(crate) fn applied(&self, group: GroupId) -> Result<Applied, Fatal> {
        let stored = self.get(keys::SM_META, &keys::applied(group))?;
        stored.map_or_else(|| Ok(Applied::default()), |bytes| Applied::decode(&bytes))
    }

    /// State of one space from `first` on and before `end`, both without space; `None` is the end.
    pub(crate) fn iterate_state(
        &self,
        space: &[u8],
        first: &[u8],
        end: Option<&[u8]>,
    ) -> Cursor<'_> {
        let (start, options) = bounds(space, first, end);
        let raw = self
            .engine
            .raw_iterator_cf_opt(self.family(keys::STATE), options);
        Cursor::new(raw, &start, space.len())
    }

    /// As [`Db::iterate_state`], of a snapshot.
    pub(crate) fn iterate_state_at<'a>(
        &'a self,
        snapshot: &'a Snapshot<'_>,
        space: &[u8],
        first: &[u8],
        end: Option<&[u8]>,
    ) -> Cursor<'a> {
        let (start, options) = bounds(space, first, end);
        let raw = snapshot.raw_iterator_cf_opt(self.family(keys::STATE), options);
        Cursor::new(raw, &start, space.len())
    }
}

fn bounds(space: &[u8], first: &[u8], end: Option<&[u8]>) -> (Vec<u8>, ReadOptions) {
    let mut options = ReadOptions::default();
    let upper = end
        .map(|end| keys::join(space, end))
        .or_else(|| keys::after_prefix(space));
    if let Some(upper) = upper {
        options.set_iterate_upper_bound(upper);
    }
    (keys::join(space, first), options)
}

/// Rows in key order; keys come without the first `strip` bytes.
pub(crate) struct Cursor<'a> {
    raw: DBRawIterator<'a>,
    strip: usize,
    done: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(mut raw: DBRawIterator<'a>, start: &[u8], strip: usize) -> Self {
        raw.seek(start);
        Self {
            raw,
            strip,
            done: false,
        }
    }
}

impl Iterator for Cursor<'_> {
    type Item = Result<(Vec<u8>, Vec<u8>), Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let Some((key, value)) = self.raw.item() else {
            self.done = true;
            let status = self.raw.status();
            return status.err().map(|error| Err(Fatal::because("scan", error)));
        };
        let row = (key[self.strip..].to_vec(), value.to_vec());
        self.raw.next();
        Some(Ok(row))
    }
}

// === options ===

fn options(config: &StoreConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // A write is in the page cache when it returns: `kill -9` loses nothing, only power loss does.
    options.set_manual_wal_flush(false);
    options.set_enable_pipelined_write(true);
    options.set_unordered_write(false);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(config.wal_bytes);
    options.set_wal_bytes_per_sync(1 << 20);
    options.set_bytes_per_sync(1 << 20);
    options.set_db_write_buffer_size(config.memtable_bytes);
    options.set_max_background_jobs(i32::try_from(config.background_jobs).unwrap_or(i32::MAX));
    let rate = i64::try_from(config.background_bytes_per_second).unwrap_or(i64::MAX);
    options.set_ratelimiter(rate, 100_000, 10);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_keep_log_file_num(INFO_LOG_FILES);
    options
}

fn family(cache: &Cache) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    options.set_block_based_table_factory(&table);
    options
}

/// Entries are written once, read near the end and dropped in ranges: large blocks, no bloom.
fn log_family(cache: &Cache) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(64 << 10);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_optimize_filters_for_hits(true);
    options
}

/// State is read by whole key, and scanned: a bloom filter on keys.
fn state_family(cache: &Cache) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}
