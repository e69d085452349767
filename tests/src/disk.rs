//! A disk that can be made to fail under a process: see `shim/disk.c`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::shim::compiled;

/// One process's disk.
#[derive(Debug)]
pub struct Disk {
    shim: PathBuf,
    control: PathBuf,
}

// === impl Disk ===

impl Disk {
    /// So many, sound ones, with what they need in this directory.
    pub fn several(directory: &Path, disks: usize) -> Vec<Disk> {
        let shim = compiled("disk", directory);
        let disk = |number| Disk {
            shim: shim.clone(),
            control: directory.join(format!("disk-{number}")),
        };
        (0..disks).map(disk).collect()
    }

    /// With which a process has this disk.
    pub fn variables(&self) -> [(&'static str, &OsStr); 2] {
        [
            ("LD_PRELOAD", self.shim.as_os_str()),
            ("MUSTER_TEST_DISK", self.control.as_os_str()),
        ]
    }

    /// A word and a number of the shim's.
    pub fn is(&self, trouble: &str) {
        std::fs::write(&self.control, trouble).unwrap();
    }

    pub fn is_sound(&self) {
        std::fs::remove_file(&self.control).unwrap();
    }

    /// Cuts each write-ahead log where it was last synced: what a power cut may leave. The process has to be gone.
    pub fn loses_what_is_not_synced(&self) {
        let synced = self.control.with_added_extension("synced");
        let synced = std::fs::read_to_string(synced).unwrap();
        let mut lengths: BTreeMap<&Path, u64> = BTreeMap::new();
        for line in synced.lines() {
            let (length, path) = line.split_once(' ').unwrap();
            lengths.insert(Path::new(path), length.parse().unwrap());
        }
        for (path, length) in lengths {
            // A log that is done with is deleted.
            if let Ok(file) = File::options().write(true).open(path) {
                let now = file.metadata().unwrap().len();
                file.set_len(length.min(now)).unwrap();
            }
        }
    }
}
