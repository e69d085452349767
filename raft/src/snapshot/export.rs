//! A group's state as a stream for somebody else to keep, and what such a stream is of.

use std::io::{Read, Write};

use super::{Contents, Reader, write};
use crate::{Fatal, Group, GroupId, StateMachine};

/// What an exported stream is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Which group.
    pub group: GroupId,
    /// Index of the last entry that was applied to it.
    pub applied: u64,
    /// Format of the machine that wrote it.
    pub format: u32,
    /// So many keys.
    pub rows: u64,
}

impl<M: StateMachine> Group<M> {
    /// Writes everything that is applied here now, as [`crate::Store::seed`] reads it. Blocks while `sink` does; what is
    /// applied meanwhile is not in it. Call [`Group::linearize`] first where it has to be the newest.
    ///
    /// # Errors
    /// Nothing was applied yet, the database failed, or `sink` did.
    pub fn export(&self, sink: impl Write) -> Result<(), Fatal> {
        let view = self.view()?;
        let meta = view.snapshot_meta();
        if meta.last_log_id.is_none() {
            let group = self.id();
            return Err(Fatal::new(format!("nothing was applied to {group} yet")));
        }
        let contents = Contents {
            group: self.id(),
            sm_format: M::FORMAT,
            meta,
        };
        write(sink, &contents, view.everything())
    }
}

/// Reads an exported stream to its end, and says what it is of. Nothing is kept.
///
/// # Errors
/// It is not one, it was cut short or altered, or it cannot be read.
pub fn check_export(stream: impl Read) -> Result<Exported, Fatal> {
    let mut reader = Reader::new(stream)?;
    let mut rows = 0;
    while let Some(block) = reader.block()? {
        rows += block.len() as u64;
    }
    exported(reader.contents(), rows)
}

pub(super) fn exported(contents: &Contents, rows: u64) -> Result<Exported, Fatal> {
    let last = contents.meta.last_log_id.as_ref();
    let last = last.ok_or_else(|| Fatal::new("nothing was applied to it"))?;
    Ok(Exported {
        group: contents.group,
        applied: last.index,
        format: contents.sm_format,
        rows,
    })
}
