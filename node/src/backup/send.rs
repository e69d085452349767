//! Streaming a backup from a running node: group after group, while everything goes on.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use proto::api::backup_part::Part;
use proto::api::{BackupEnd, BackupGroup, BackupHeader, BackupPart};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tonic::Status;

use crate::ledger::{Ledger, Mirror};
use crate::local::Node;
use crate::partition::chain;

/// Bytes of state in one message.
const CHUNK: usize = 256 << 10;

/// Messages that wait for their reader.
pub(crate) const WAITING: usize = 4;

/// A reader that takes no message for so long is given up: what it reads from is kept for as long as it reads.
const STALL: Duration = Duration::from_secs(60);

/// Sends everything, and the end if all of it belongs together. `alone` is held while it is read.
pub(crate) async fn send(
    node: Arc<Node>,
    header: BackupHeader,
    alone: OwnedSemaphorePermit,
    to: Sender<Result<BackupPart, Status>>,
) {
    let read = all(&node, header, &to).await;
    // Whoever is told of the end may begin the next one.
    drop(alone);
    let end = BackupEnd {
        groups: groups(&node),
    };
    let told = match read {
        Ok(()) => say(&to, Part::End(end)).await,
        Err(status) => Err(status),
    };
    if let Err(status) = told {
        tracing::warn!(%status, "a backup was not finished");
        // Who has gone does not want to know.
        let _gone = tokio::time::timeout(STALL, to.send(Err(status))).await;
    }
}

/// Groups of this node.
pub(crate) fn groups(node: &Node) -> u32 {
    u32::try_from(node.partitions.len() + 1).unwrap_or(u32::MAX)
}

async fn all(
    node: &Arc<Node>,
    header: BackupHeader,
    to: &Sender<Result<BackupPart, Status>>,
) -> Result<(), Status> {
    say(to, Part::Header(header)).await?;
    let begun_before = begun(node);
    for partition in node.partitions.iter() {
        one(&partition.ledger, to).await?;
    }
    one(&node.control_ledger, to).await?;
    // What was exported is in memory after this, too.
    let synced = node.control_ledger.sync().await;
    synced.map_err(|error| Status::unavailable(chain(&error)))?;
    // Its lists are in the inventory groups, which were read before: half of them may be missing.
    if let Some(id) = begun(node).difference(&begun_before).next() {
        return Err(Status::aborted(format!(
            "rollout {id} began while the backup was made, so that not all of it is in there: make the backup again"
        )));
    }
    Ok(())
}

/// Rollouts that are open and have their lists.
fn begun(node: &Node) -> BTreeSet<String> {
    let documents = node.control.read();
    let open = documents.rollouts.values().filter(|rollout| {
        let state = crate::control::rollout_state(rollout.value.state());
        rollout.value.prepared && !state.is_final()
    });
    open.map(|rollout| rollout.value.id.clone()).collect()
}

/// A group as its leader confirms it now, wherever that is.
async fn one<M: Mirror>(
    ledger: &Ledger<M>,
    to: &Sender<Result<BackupPart, Status>>,
) -> Result<(), Status> {
    let unreadable = |why: String| {
        Status::unavailable(format!(
            "group {} cannot be read: {why}; see `muster cluster status`",
            ledger.name()
        ))
    };
    let mark = ledger
        .sync()
        .await
        .map_err(|error| unreadable(chain(&error)))?;
    let group = BackupGroup {
        group: ledger.group().id().0,
        name: ledger.name().to_owned(),
        applied: mark.index,
    };
    say(to, Part::Group(group)).await?;
    let mut chunks = Chunks {
        to: to.clone(),
        runtime: Handle::current(),
        chunk: Vec::with_capacity(CHUNK),
    };
    let group = ledger.group().clone();
    let exported = tokio::task::spawn_blocking(move || group.export(&mut chunks)).await;
    match exported {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(unreadable(chain(&error))),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

async fn say(to: &Sender<Result<BackupPart, Status>>, part: Part) -> Result<(), Status> {
    let part = Ok(BackupPart { part: Some(part) });
    match tokio::time::timeout(STALL, to.send(part)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("nobody reads the backup any more")),
        Err(_) => Err(Status::deadline_exceeded(
            "nobody took the backup for a minute",
        )),
    }
}

/// Gathers what is written to messages of one size. What is left is sent with `flush`.
struct Chunks {
    to: Sender<Result<BackupPart, Status>>,
    runtime: Handle,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let sent = self.runtime.block_on(say(&self.to, Part::Data(chunk)));
        sent.map_err(|status| std::io::Error::other(status.message().to_owned()))
    }
}
