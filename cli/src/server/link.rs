//! The embedded way from the gateway to the partition leaders: calls in one process, the messages those of the wire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use gateway::{Link, LinkError};
use node::Node;
use node::partition::{Error, chain};
use proto::edge;
use proto::uid::Uid;
use tokio::sync::broadcast::error::RecvError;

/// A report without a leader is held for so long.
const HOLD: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Soon enough for a leader to be there again.
const RETRY: Duration = Duration::from_secs(2);

/// Over the partitions of this process.
pub struct Embedded {
    node: Arc<Node>,
}

impl Embedded {
    /// Over this node.
    pub fn new(node: Arc<Node>) -> Self {
        Embedded { node }
    }
}

impl Link for Embedded {
    async fn report(&self, report: edge::Report) -> Result<edge::Answer, LinkError> {
        let uid = Uid::from_wire(&report.instance_uid)
            .map_err(|error| LinkError::Rejected(error.to_string()))?;
        let begun = Instant::now();
        loop {
            let attempt = Instant::now();
            match self.node.partition(uid).report(report.clone()).await {
                Ok(mut answer) => {
                    // The gateway counts a grant from its call; what was held back here is added.
                    if answer.grant_ms > 0 {
                        answer.grant_ms +=
                            u32::try_from((attempt - begun).as_millis()).unwrap_or(0);
                    }
                    return Ok(answer);
                }
                Err(error) if error.is_leaderless() && begun.elapsed() < HOLD => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(error) => return Err(refuse(uid, &error)),
            }
        }
    }

    async fn presence(&self, batch: Vec<edge::Presence>) {
        let mut by_partition: Vec<Vec<edge::Presence>> =
            vec![Vec::new(); self.node.partitions.len()];
        for presence in batch {
            if let Ok(uid) = Uid::from_wire(&presence.instance_uid) {
                by_partition[self.node.partition_index(uid)].push(presence);
            }
        }
        for (partition, batch) in self.node.partitions.iter().zip(by_partition) {
            if !batch.is_empty() {
                let back = partition.heard(super::serve::NAME, &batch);
                partition.note(back).await;
            }
        }
    }

    async fn closed(&self, uid: Uid, connection: u64, clean: bool) {
        let partition = self.node.partition(uid);
        partition
            .note(partition.closed(uid, connection, clean))
            .await;
    }

    fn notices(&self) -> impl Stream<Item = Vec<edge::Notice>> + Send {
        let node = self.node.clone();
        futures::stream::unfold(node.notices(), move |mut receiver| {
            let node = node.clone();
            async move {
                loop {
                    match receiver.recv().await {
                        Ok(batch) => return Some((batch.to_vec(), receiver)),
                        // Too slow: what was missed is named anew.
                        Err(RecvError::Lagged(missed)) => node.has_missed(missed),
                        Err(RecvError::Closed) => return None,
                    }
                }
            }
        })
    }
}

fn refuse(uid: Uid, error: &Error) -> LinkError {
    match error {
        Error::Uid(_) | Error::Token { .. } => LinkError::Rejected(error.to_string()),
        Error::NotLeader { .. } | Error::Store { .. } | Error::Read { .. } => {
            tracing::warn!(%uid, error = %chain(error), "a report was not handled");
            LinkError::Unavailable { retry_after: RETRY }
        }
    }
}
