//! A wall clock that can be set under a process, while that of the machine stays as it is: see `shim/clock.c`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::shim::compiled;

/// One process's clock.
#[derive(Debug)]
pub struct Clock {
    shim: PathBuf,
    control: PathBuf,
}

// === impl Clock ===

impl Clock {
    /// So many, right ones, with what they need in this directory.
    pub fn several(directory: &Path, clocks: usize) -> Vec<Clock> {
        let shim = compiled("clock", directory);
        let clock = |number| Clock {
            shim: shim.clone(),
            control: directory.join(format!("clock-{number}")),
        };
        (0..clocks).map(clock).collect()
    }

    /// With which a process has this clock.
    pub fn variables(&self) -> [(&'static str, &OsStr); 2] {
        [
            ("LD_PRELOAD", self.shim.as_os_str()),
            ("MUSTER_TEST_CLOCK", self.control.as_os_str()),
        ]
    }

    /// It steps to so many seconds before the right time, or behind it if they are negative.
    pub fn is_ahead(&self, seconds: i64) {
        // At once: half a file would be another time.
        let next = self.control.with_extension("next");
        std::fs::write(&next, seconds.to_string()).unwrap();
        std::fs::rename(next, &self.control).unwrap();
    }
}
