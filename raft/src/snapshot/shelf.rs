//! The snapshot files of one group, and which of them is current.
//!
//! Invariants: the current one is named by a synced record and is whole; an older one never
//! replaces a newer; everything else of the group in the directory is rubbish from a crash. Who
//! builds or adopts stops the node when that fails: the core gives up the group, for good.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use rocksdb::WriteBatch;

use super::{Bytes, Contents, Reader, write};
use crate::store::Shared;
use crate::store::keys::{self, Kind};
use crate::stored::{self, SnapshotMarker};
use crate::types::SnapshotMeta;
use crate::{Fatal, GroupId, Row, SnapshotFile};

/// Snapshot files of one group.
pub(crate) struct Shelf {
    group: GroupId,
    store: Arc<Shared>,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
    /// Makes names of files under construction differ.
    drafts: AtomicU64,
}

impl Shelf {
    /// Finds the current snapshot and removes what a crash left. Blocks.
    pub(crate) fn open(group: GroupId, store: Arc<Shared>) -> Result<Self, Fatal> {
        let shelf = Self {
            group,
            store,
            current: Mutex::new(None),
            drafts: AtomicU64::new(0),
        };
        let marker = shelf
            .store
            .db
            .get(keys::RAFT_META, &keys::meta(group, Kind::Snapshot))?;
        let mut keep = None;
        if let Some(bytes) = marker {
            let marker: SnapshotMarker =
                stored::decode("snapshot marker", bytes.as_slice(), |m: &SnapshotMarker| {
                    m.version
                })?;
            *shelf.lock() = shelf.load(&marker.file);
            keep = Some(marker.file);
        }
        shelf
            .sweep(keep.as_deref())
            .map_err(failed("clean the snapshot directory"))?;
        Ok(shelf)
    }

    /// The newest snapshot built or installed.
    pub(crate) fn current(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.lock().clone()
    }

    /// Writes a snapshot of `rows` and puts it on the shelf. Blocks.
    pub(crate) fn build(
        &self,
        contents: &Contents,
        rows: impl Iterator<Item = Result<Row, Fatal>>,
    ) -> Result<SnapshotFile, Fatal> {
        let draft = self.draft();
        let file = File::create(&draft).map_err(failed("create a snapshot"))?;
        write(BufWriter::with_capacity(1 << 20, &file), contents, rows)?;
        file.sync_all().map_err(failed("sync a snapshot"))?;
        self.adopt(&draft, contents)
    }

    /// Copies a received snapshot to a draft of its own. Blocks.
    pub(crate) fn copy(&self, source: &SnapshotFile) -> Result<PathBuf, Fatal> {
        let draft = self.draft();
        let mut file = File::create(&draft).map_err(failed("create a snapshot"))?;
        std::io::copy(&mut Bytes::new(source), &mut file).map_err(failed("copy a snapshot"))?;
        file.sync_all().map_err(failed("sync a snapshot"))?;
        Ok(draft)
    }

    /// Makes a synced draft the current snapshot, unless a newer one is. Blocks.
    pub(crate) fn adopt(&self, draft: &Path, contents: &Contents) -> Result<SnapshotFile, Fatal> {
        let mut current = self.lock();
        let opened = SnapshotFile::open(draft).map_err(failed("open a snapshot"))?;
        if current
            .as_ref()
            .is_some_and(|(meta, _)| meta.last_log_id > contents.meta.last_log_id)
        {
            std::fs::remove_file(draft).map_err(failed("remove a snapshot"))?;
            return Ok(opened);
        }
        let name = self.name(contents);
        let path = self.store.snapshots.join(&name);
        std::fs::rename(draft, &path).map_err(failed("rename a snapshot"))?;
        crate::store::mark::sync_dir(&path).map_err(failed("sync the snapshot directory"))?;
        self.record(&name)?;
        *current = Some((contents.meta.clone(), opened.clone()));
        self.sweep(Some(&name))
            .map_err(failed("clean the snapshot directory"))?;
        Ok(opened)
    }

    /// Ends the node: there is no group any more for which this could be tried again.
    pub(crate) fn stop(&self, fatal: Fatal) -> Fatal {
        self.store.stop.stop(fatal)
    }

    fn record(&self, name: &str) -> Result<(), Fatal> {
        let marker = SnapshotMarker {
            version: stored::VERSION,
            file: name.to_owned(),
        }
        .encode_to_vec();
        let mut batch = WriteBatch::default();
        let family = self.store.db.family(keys::RAFT_META);
        batch.put_cf(family, keys::meta(self.group, Kind::Snapshot), marker);
        self.store.stop.write(&self.store.db.engine, batch)?;
        self.store.stop.sync(&self.store.db.engine)
    }

    /// The file's header; a file that is gone or damaged is no snapshot, another can be built.
    fn load(&self, name: &str) -> Option<(SnapshotMeta, SnapshotFile)> {
        let read = || {
            let file = SnapshotFile::open(&self.store.snapshots.join(name))
                .map_err(failed("open a snapshot"))?;
            let meta = Reader::new(Bytes::new(&file))?.contents().meta.clone();
            Ok((meta, file))
        };
        read().inspect_err(|fatal: &Fatal| {
            tracing::warn!(group = %self.group, name, error = crate::error::chain(fatal), "snapshot cannot be used");
        })
        .ok()
    }

    /// Removes all finished snapshots of this group but one. At open, drafts too.
    fn sweep(&self, keep: Option<&str>) -> std::io::Result<()> {
        let opening = self.drafts.load(Ordering::Relaxed) == 0;
        for entry in std::fs::read_dir(&self.store.snapshots)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let ours = name.starts_with(&self.prefix());
            let draft = name.ends_with(DRAFT);
            if ours && Some(name) != keep && (opening || !draft) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn draft(&self) -> PathBuf {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        self.store
            .snapshots
            .join(format!("{}{number}{DRAFT}", self.prefix()))
    }

    fn name(&self, contents: &Contents) -> String {
        let (term, index) = contents
            .meta
            .last_log_id
            .map_or((0, 0), |id| (id.leader_id.term, id.index));
        format!("{}{index:020}-{term}.snapshot", self.prefix())
    }

    fn prefix(&self) -> String {
        format!("g{:08x}-", self.group.0)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(SnapshotMeta, SnapshotFile)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// End of the name of a file under construction.
const DRAFT: &str = ".draft";

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Fatal {
    move |error| Fatal::because(what, error)
}
