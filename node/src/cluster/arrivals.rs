//! Snapshots that arrive, and what is kept of a large one whose stream broke.
//!
//! Not a check: what has arrived is verified as a whole before it is installed, so that parts that do not belong together
//! cost a transfer and nothing else. Limits: one part of each group is kept, no longer than the snapshot that it is of, for
//! [`KEPT`]. A restart forgets it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use proto::cluster::{SnapshotName, SnapshotPart};
use raft::{GroupId, ScratchFile, SnapshotFile, Store};
use tokio::sync::OwnedMutexGuard;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// A sender of a snapshot that says nothing for so long is gone.
const STALL: Duration = Duration::from_secs(15);

/// A part is kept for so long: a sender is back within seconds, or after its restart.
const KEPT: Duration = Duration::from_secs(600);

/// Where snapshots arrive.
pub struct Arrivals {
    /// They are written into its scratch files.
    store: Store,
    kept_for: Duration,
    places: Mutex<BTreeMap<GroupId, Arc<Place>>>,
}

/// Where those of one group arrive, one at a time.
#[derive(Default)]
struct Place {
    /// Whoever receives one holds it.
    kept: Arc<tokio::sync::Mutex<Option<Kept>>>,
    /// Of the newest visit: ends it.
    newest: Mutex<CancellationToken>,
}

/// Has a place for itself, until another one comes.
struct Visit {
    place: Arc<Place>,
    kept: OwnedMutexGuard<Option<Kept>>,
    ousted: CancellationToken,
}

/// What has arrived of a snapshot.
struct Part {
    file: ScratchFile,
    bytes: u64,
    /// None: it is a small one, which arrives in one piece or not at all.
    name: Option<SnapshotName>,
}

/// A part whose stream broke.
struct Kept {
    part: Part,
    _expiry: Expiry,
}

/// Dropped, it does not expire any more.
struct Expiry(AbortHandle);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Arrivals ===

impl Arrivals {
    /// With nothing yet.
    pub fn new(store: Store) -> Self {
        Arrivals {
            store,
            kept_for: KEPT,
            places: Mutex::default(),
        }
    }

    /// Bytes that are kept of this snapshot. Who asks is not sending it any more: a stream of the group that is still open
    /// ends, and what it has brought counts.
    pub async fn arrived(&self, group: GroupId, name: &SnapshotName) -> u64 {
        let visit = self.visit(group).await;
        let kept = visit.kept.as_ref().map(|kept| &kept.part);
        kept.filter(|part| part.name.as_ref() == Some(name))
            .map_or(0, |part| part.bytes)
    }

    /// Receives what follows on the first part of a stream, or the rest of what it names. What breaks off of a snapshot with
    /// a name is kept.
    pub async fn receive(
        &self,
        group: GroupId,
        first: SnapshotPart,
        mut parts: impl Stream<Item = Result<SnapshotPart, Status>> + Unpin,
    ) -> Result<SnapshotFile, Status> {
        let mut visit = self.visit(group).await;
        let mut part = self.begin(&mut visit.kept, first.name, first.offset)?;
        let broken = loop {
            let next = tokio::select! {
                next = next(&mut parts) => next,
                () = visit.ousted.cancelled() => Err(Status::aborted("the snapshot is being sent again")),
            };
            match next {
                Ok(Some(next)) => part = part.write(next.bytes).await?,
                Ok(None) if part.is_whole() => return part.file.received().map_err(stored),
                Ok(None) => break Status::aborted("the snapshot breaks off"),
                Err(broken) => break broken,
            }
        };
        self.keep(visit, part);
        Err(broken)
    }

    async fn visit(&self, group: GroupId) -> Visit {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(group).or_default())
        };
        let ousted = CancellationToken::new();
        {
            let mut newest = place.newest.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *newest, ousted.clone()).cancel();
        }
        let kept = Arc::clone(&place.kept).lock_owned().await;
        Visit {
            place,
            kept,
            ousted,
        }
    }

    fn begin(
        &self,
        kept: &mut Option<Kept>,
        name: Option<SnapshotName>,
        offset: u64,
    ) -> Result<Part, Status> {
        // What is not gone on with now never will be: there is a newer snapshot, or its sender begins anew.
        let kept = kept.take().map(|kept| kept.part);
        if offset == 0 {
            let file = self.store.scratch_file().map_err(stored)?;
            return Ok(Part {
                file,
                bytes: 0,
                name,
            });
        }
        let same = kept.filter(|part| part.name == name && part.bytes == offset);
        same.ok_or_else(|| {
            Status::failed_precondition("what had arrived of the snapshot is not here any more")
        })
    }

    fn keep(&self, mut visit: Visit, part: Part) {
        let Some(name) = &part.name else { return };
        tracing::info!(
            arrived = part.bytes,
            of = name.length,
            "a snapshot broke off: what has arrived is kept"
        );
        let (place, kept_for) = (Arc::clone(&visit.place), self.kept_for);
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(kept_for).await;
            place.kept.lock().await.take();
        });
        *visit.kept = Some(Kept {
            part,
            _expiry: Expiry(expiry.abort_handle()),
        });
    }
}

// === impl Part ===

impl Part {
    /// Without a name nobody knows until it is verified.
    fn is_whole(&self) -> bool {
        let name = self.name.as_ref();
        name.is_none_or(|name| name.length == self.bytes)
    }

    /// After an error nothing is left of it: nobody knows how much was written, and a full disk wants its room back.
    async fn write(mut self, bytes: Bytes) -> Result<Self, Status> {
        let now = self.bytes + bytes.len() as u64;
        if self.name.as_ref().is_some_and(|name| now > name.length) {
            return Err(Status::invalid_argument(
                "more of the snapshot comes than was announced",
            ));
        }
        let writing = tokio::task::spawn_blocking(move || {
            self.file.write_all(&bytes)?;
            self.bytes = now;
            Ok(self)
        });
        let written = writing.await.map_err(|error| stored(error.into()))?;
        written.map_err(stored)
    }
}

/// The next part, from a sender that is there.
pub async fn next(
    parts: &mut (impl Stream<Item = Result<SnapshotPart, Status>> + Unpin),
) -> Result<Option<SnapshotPart>, Status> {
    match tokio::time::timeout(STALL, parts.next()).await {
        Ok(part) => part.transpose(),
        Err(_) => Err(Status::deadline_exceeded(
            "the sender says nothing any more",
        )),
    }
}

fn stored(error: std::io::Error) -> Status {
    Status::internal(format!("the snapshot cannot be stored: {error}"))
}
