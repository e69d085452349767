//! A node's end of its gateways' streams: what they say, and the notices that wait for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::edge::{Notice, Presence};

use crate::time::now_ms;
use crate::types::GroupId;

/// A gateway that says nothing for so long has no stream.
const SILENT_MS: u64 = 4_000;

/// And is gone, with its connections, after so long.
const GONE_MS: u64 = 10_000;

/// What a gateway says.
#[derive(Clone, Debug)]
pub struct Said {
    /// Number of the stream.
    pub stream: u64,
    /// It begins with this, which has all conversations.
    pub introduces: bool,
    pub presences: Vec<Presence>,
}

/// What it is told: group, term and leader by what this node knows, and notices.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub leads: Vec<(GroupId, u64, u64)>,
    pub notices: Vec<Notice>,
}

/// The streams of all gateways, by name.
#[derive(Debug, Default)]
pub struct Lines(Mutex<BTreeMap<String, Line>>);

#[derive(Debug)]
struct Line {
    stream: u64,
    heard_ms: u64,
    stands: bool,
    gone: bool,
    waiting: Vec<Notice>,
}

/// What has become of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Away(String),
    Gone(String),
}

// === impl Lines ===

impl Lines {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gateway has said something over this stream: whether it has just begun. None: it began with another process, and
    /// is broken.
    pub fn hear(&self, gateway: &str, said: &Said) -> Option<bool> {
        let (stream, mut lines) = (said.stream, self.lock());
        let line = lines.entry(gateway.to_owned()).or_insert(Line {
            stream: 0,
            heard_ms: 0,
            stands: false,
            gone: false,
            waiting: vec![],
        });
        let begins = line.stream != stream || !line.stands;
        if begins && !said.introduces {
            return None;
        }
        if begins {
            line.waiting.clear();
        }
        (line.stream, line.heard_ms) = (stream, now_ms());
        (line.stands, line.gone) = (true, false);
        Some(begins)
    }

    /// What waits for it.
    pub fn take(&self, gateway: &str) -> Vec<Notice> {
        let mut lines = self.lock();
        let line = lines.get_mut(gateway);
        line.map(|line| std::mem::take(&mut line.waiting))
            .unwrap_or_default()
    }

    /// To every gateway with a stream, but for whom it is said of.
    pub fn notify(&self, notices: &[Notice]) {
        let mut lines = self.lock();
        for (name, line) in lines.iter_mut().filter(|(_, line)| line.stands) {
            let news = notices.iter().filter(|notice| notice.holder != *name);
            line.waiting.extend(news.cloned());
        }
    }

    /// Who has fallen silent, or is gone for good.
    pub fn look(&self) -> Vec<Change> {
        let now = now_ms();
        let mut changes = vec![];
        for (name, line) in self.lock().iter_mut() {
            let silent = now - line.heard_ms;
            if line.stands && silent > SILENT_MS {
                (line.stands, line.waiting) = (false, vec![]);
                changes.push(Change::Away(name.clone()));
            }
            if !line.gone && silent > SILENT_MS + GONE_MS {
                line.gone = true;
                changes.push(Change::Gone(name.clone()));
            }
        }
        changes
    }
}
