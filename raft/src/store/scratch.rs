//! Files under construction that a network receives snapshots into.
//!
//! Not the snapshots of a group: those are on its shelf, and an installation copies what it is
//! given there. Invariant: nothing here is worth anything once its writer is gone.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SnapshotFile;

/// The directory of such files.
pub(crate) struct Scratch {
    dir: PathBuf,
    /// Makes names differ.
    made: AtomicU64,
}

impl Scratch {
    /// Makes the directory, and empties it of what a crash left. Blocks.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(Self {
            dir,
            made: AtomicU64::new(0),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn create(&self) -> io::Result<ScratchFile> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(number.to_string());
        let file = File::create_new(&path)?;
        Ok(ScratchFile { file, path })
    }
}

/// A file to receive a snapshot into, beside the data. Deleted when it is dropped.
#[derive(Debug)]
pub struct ScratchFile {
    file: File,
    path: PathBuf,
}

impl ScratchFile {
    /// Where it lies while it is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what was written as a snapshot, for [`crate::Incoming::receive_snapshot`]. The space
    /// is given back when the last clone of it is dropped. Blocks briefly.
    ///
    /// # Errors
    /// Those of opening a file.
    pub fn received(self) -> io::Result<SnapshotFile> {
        SnapshotFile::open(&self.path)
    }
}

impl Write for ScratchFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // The next open of the store removes what could not be removed here.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Store, StoreConfig};

    #[test]
    fn a_received_file_is_readable_and_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let (mut one, other) = (store.scratch_file().unwrap(), store.scratch_file().unwrap());
        assert_ne!(one.path(), other.path());
        one.write_all(b"some").unwrap();
        one.write_all(b"thing").unwrap();
        drop(other);
        let received = one.received().unwrap();
        let mut bytes = [0; 16];
        assert_eq!(received.read_at(&mut bytes, 0).unwrap(), 9);
        assert_eq!(&bytes[..9], b"something");
        assert_eq!(std::fs::read_dir(store.incoming_dir()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_is_removed_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let left = Store::open(dir.path(), StoreConfig::default());
        let left = left.unwrap().incoming_dir().join("0");
        std::fs::write(&left, b"half a snapshot").unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        assert!(!left.exists());
        assert!(store.scratch_file().is_ok());
    }
}
