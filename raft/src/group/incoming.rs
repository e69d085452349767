//! Messages of other replicas, to the core and back.
//!
//! Invariant: a snapshot reaches the core only after its last byte verified, since the core takes
//! a failed installation for a failed disk.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::errors::RaftError;
use openraft::storage::Snapshot;

use super::Group;
use crate::error::chain;
use crate::types::TypeConfig;
use crate::wire::{Ask, Reply, Request, Tell};
use crate::{Fatal, Incoming, ReceiveError, SnapshotFile, StateMachine, snapshot};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<M: StateMachine> Incoming for Group<M> {
    fn receive(&self, message: Bytes) -> BoxFuture<Result<Bytes, ReceiveError>> {
        let group = self.clone();
        Box::pin(async move { group.answer(message).await })
    }

    fn receive_snapshot(
        &self,
        message: Bytes,
        snapshot: SnapshotFile,
    ) -> BoxFuture<Result<Bytes, ReceiveError>> {
        let group = self.clone();
        Box::pin(async move { group.install(message, snapshot).await })
    }
}

impl<M: StateMachine> Group<M> {
    async fn answer(&self, message: Bytes) -> Result<Bytes, ReceiveError> {
        let raft = &self.shared.raft;
        let tell = match self.parse(message)? {
            Ask::Append(append) => {
                let request = append.try_into().map_err(malformed)?;
                Tell::Append((&raft.append_entries(request).await.map_err(stopped)?).into())
            }
            Ask::Vote(ballot) => {
                let request = ballot.try_into().map_err(malformed)?;
                Tell::Vote((&raft.vote(request).await.map_err(stopped)?).into())
            }
            Ask::PreVote(ballot) => {
                let request = ballot.try_into().map_err(malformed)?;
                Tell::Vote((&raft.pre_vote(request).await.map_err(stopped)?).into())
            }
            Ask::Transfer(transfer) => {
                let request = transfer.try_into().map_err(malformed)?;
                let done = raft.handle_transfer_leader(request).await;
                Tell::Transfer((&done.map_err(|error| ReceiveError::Fatal(chain(&error)))?).into())
            }
            Ask::Snapshot(_) => {
                return Err(malformed(Fatal::new("snapshot announced without its data")));
            }
        };
        Ok(Reply::encode(tell))
    }

    async fn install(&self, message: Bytes, file: SnapshotFile) -> Result<Bytes, ReceiveError> {
        let Ask::Snapshot(announced) = self.parse(message)? else {
            return Err(malformed(Fatal::new(
                "data without the announcement of a snapshot",
            )));
        };
        let (vote, meta) = announced.parts().map_err(malformed)?;
        let (found, file) = verify(file).await?;
        if found.group != self.shared.group || found.meta != meta || found.sm_format > M::FORMAT {
            return Err(ReceiveError::Snapshot(
                "it is not the one announced, or of a newer machine".to_owned(),
            ));
        }
        let snapshot = Snapshot {
            meta,
            snapshot: file,
        };
        let installed = self.shared.raft.install_full_snapshot(vote, snapshot).await;
        let installed = installed.map_err(|error| ReceiveError::Fatal(chain(&error)))?;
        let counters = &self.shared.counters;
        counters.snapshots_installed.fetch_add(1, Ordering::Relaxed);
        Ok(Reply::encode(Tell::Snapshot((&installed).into())))
    }

    fn parse(&self, message: Bytes) -> Result<Ask, ReceiveError> {
        let (meant, ask) = Request::parse(message).map_err(malformed)?;
        match meant == self.shared.node {
            true => Ok(ask),
            false => Err(ReceiveError::OtherNode {
                meant,
                here: self.shared.node,
            }),
        }
    }
}

async fn verify(file: SnapshotFile) -> Result<(snapshot::Contents, SnapshotFile), ReceiveError> {
    let verified = tokio::task::spawn_blocking(move || (snapshot::verify(&file), file)).await;
    let (found, file) = verified.map_err(|error| ReceiveError::Snapshot(error.to_string()))?;
    Ok((
        found.map_err(|fatal| ReceiveError::Snapshot(chain(&fatal)))?,
        file,
    ))
}

fn malformed(fatal: Fatal) -> ReceiveError {
    ReceiveError::Malformed(chain(&fatal))
}

fn stopped(error: RaftError<TypeConfig>) -> ReceiveError {
    ReceiveError::Fatal(chain(&error))
}
