//! The proposals of one group, gathered while those before them are under way.
//!
//! Not the core's queue, which takes what it finds one by one. What is gathered is one append, one message to each
//! follower, one fsync and one chunk to apply. Invariants: order is kept; a proposal that comes alone waits for nothing;
//! none waits for those before it longer than [`GATHER`], so that a commit that hangs holds up nobody's answer.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use openraft::Raft;
use tokio::sync::{mpsc, oneshot};

use super::{propose_error, stopped};
use crate::types::{Proposal, TypeConfig};
use crate::worker::Worker;
use crate::{ProposeError, StateMachine};

/// Longest wait for what is under way. Many times what a commit takes; where it takes longer than that, since the
/// processors are busy, more is gathered meanwhile than a longer wait would save.
const GATHER: Duration = Duration::from_millis(100);

/// Gathered at most: entries, and the size with which no more are added.
const ENTRIES_MAX: usize = 4096;
const BYTES_MAX: usize = 4 << 20;

pub(super) type Answer = Result<Vec<u8>, ProposeError>;

/// An entry, and who waits for its answer. No answer: the group has stopped.
pub(super) struct Gathered {
    pub entry: Bytes,
    pub answer: oneshot::Sender<Answer>,
}

/// Hands what comes to the core, until the group ends.
pub(super) async fn run<M: StateMachine>(
    raft: Raft<TypeConfig, Worker<M>>,
    mut proposals: mpsc::UnboundedReceiver<Gathered>,
) {
    while let Some(first) = proposals.recv().await {
        let mut bytes = first.entry.len();
        let mut batch = vec![first];
        while batch.len() < ENTRIES_MAX
            && bytes < BYTES_MAX
            && let Ok(next) = proposals.try_recv()
        {
            bytes += next.entry.len();
            batch.push(next);
        }
        // Who gave up waiting was told that nothing is known of it, which stays true.
        batch.retain(|one| !one.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        let (entries, waiting): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|one| (Proposal(one.entry), one.answer))
            .unzip();
        // In this task, so that batches reach the core in their order.
        let written = raft.client_write_many(entries).await;
        let answered = tokio::spawn(async move {
            let mut waiting = waiting.into_iter();
            let mut written = match written {
                Ok(written) => written,
                Err(error) => {
                    let fatal = || Err(ProposeError::Fatal(stopped(&error)));
                    return waiting.for_each(|answer| drop(answer.send(fatal())));
                }
            };
            while let (Some(one), Some(answer)) = (written.next().await, waiting.next()) {
                let said = match one {
                    Ok(Ok(response)) => Ok(response.response.0),
                    Ok(Err(error)) => Err(propose_error(error)),
                    Err(error) => Err(ProposeError::Fatal(stopped(&error))),
                };
                // Nobody waits any more where the proposer gave up.
                let _ = answer.send(said);
            }
        });
        let _under_way = tokio::time::timeout(GATHER, answered).await;
    }
}
