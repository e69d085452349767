//! What replicas say to each other, over gRPC.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::cluster::peer_client::PeerClient;
use proto::cluster::{ArrivedRequest, RaftMessage, SnapshotName, SnapshotPart};
use raft::{GroupId, NodeId, PeerError, Peers, SnapshotFile};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Cluster, MESSAGE_BYTES_MAX};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Bytes of a snapshot in one message.
const PART: usize = 256 << 10;

/// Parts under way.
const WINDOW: usize = 4;

/// A snapshot of which nothing was taken for so long is given up.
const STALL: Duration = Duration::from_secs(10);

/// Who receives snapshots says within this how much of one has arrived.
const ASK: Duration = Duration::from_secs(10);

/// Bytes at the end of a snapshot that are the digest of all before.
const DIGEST: usize = 32;

/// Bytes of snapshots a second from this node, all together, so that appends and agents come first.
const RATE: u64 = 64 << 20;

/// When parts of snapshots are sent, over all streams of this node. Nothing is made up for: after a stall it goes on at the
/// same rate.
pub(super) struct Pace(Mutex<Instant>);

impl Default for Pace {
    fn default() -> Self {
        Pace(Mutex::new(Instant::now()))
    }
}

impl Pace {
    /// The next part that is asked for goes then.
    fn turn(&self, now: Instant) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*free);
        *free = turn + Duration::from_micros(PART as u64 * 1_000_000 / RATE);
        turn
    }
}

/// The way of this node's groups to their replicas.
pub struct Wires(pub Arc<Cluster>);

impl Peers for Wires {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        message: Bytes,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>> {
        let message = self.message(to, group, message);
        let channel = self.0.channels.calls(to);
        let cluster = self.0.clone();
        Box::pin(async move {
            let mut client = client(channel.ok_or(PeerError::Unreachable(to))?);
            let mut request = tonic::Request::new(message);
            request.set_timeout(timeout);
            let answer = client.raft(request).await;
            let answer = answer.inspect_err(|status| cluster.was_refused(to, status));
            Ok(answer.map_err(failed(to))?.into_inner().message)
        })
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        group: GroupId,
        message: Bytes,
        snapshot: SnapshotFile,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>> {
        let announced = self.message(to, group, message);
        let channel = self.0.channels.snapshots(to);
        let large = snapshot.bytes() > self.0.config.resume_above;
        let cluster = self.0.clone();
        Box::pin(async move {
            let mut client = client(channel.ok_or(PeerError::Unreachable(to))?);
            let mut first = SnapshotPart::default();
            if large {
                let name = name(&snapshot).await.map_err(unreadable(to))?;
                let arrived = arrived(&mut client, &announced, &name).await;
                first.offset = arrived.map_err(failed(to))?;
                first.name = Some(name);
            }
            first.announced = Some(announced);
            let (bytes, from) = (snapshot.bytes(), first.offset);
            tracing::info!(%group, %to, bytes, from, "sending a snapshot");
            let (parts, stream) = mpsc::channel(WINDOW);
            let sending = tokio::spawn(send(cluster, snapshot, first, parts));
            let mut request = tonic::Request::new(ReceiverStream::new(stream));
            request.set_timeout(timeout);
            let answer = client.snapshot(request).await;
            sending.abort();
            Ok(answer.map_err(failed(to))?.into_inner().message)
        })
    }
}

impl Wires {
    fn message(&self, to: NodeId, group: GroupId, message: Bytes) -> RaftMessage {
        RaftMessage {
            caller: self.0.caller(to),
            group: group.0,
            message,
        }
    }
}

impl Cluster {
    /// Whoever does not want to hear this node has a reason that a person should read.
    fn was_refused(&self, by: NodeId, status: &Status) {
        let said = status.message();
        if status.code() == Code::PermissionDenied && self.refusals.is_news(by.0, said) {
            tracing::warn!(%by, why = said, "another node refuses this one");
        }
    }
}

pub(super) fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn failed(to: NodeId) -> impl Fn(Status) -> PeerError {
    move |status| match status.code() {
        Code::Unavailable => PeerError::Unreachable(to),
        _ => PeerError::Network {
            node: to,
            reason: status.message().to_owned(),
        },
    }
}

fn unreadable(to: NodeId) -> impl Fn(std::io::Error) -> PeerError {
    move |error| PeerError::Network {
        node: to,
        reason: format!("the snapshot cannot be read here: {error}"),
    }
}

/// By its length and the digest at its end.
async fn name(snapshot: &SnapshotFile) -> std::io::Result<SnapshotName> {
    let file = snapshot.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let length = file.bytes();
        let mut digest = vec![0; DIGEST];
        let read = file.read_at(&mut digest, length.saturating_sub(DIGEST as u64))?;
        digest.truncate(read);
        Ok(SnapshotName {
            length,
            digest: digest.into(),
        })
    });
    reading.await?
}

/// How much of it is there already. A node that does not know the question gets the whole.
async fn arrived(
    client: &mut PeerClient<Channel>,
    announced: &RaftMessage,
    name: &SnapshotName,
) -> Result<u64, Status> {
    let mut request = tonic::Request::new(ArrivedRequest {
        caller: announced.caller.clone(),
        group: announced.group,
        snapshot: Some(name.clone()),
    });
    request.set_timeout(ASK);
    match client.arrived(request).await {
        Ok(reply) => Ok(reply.into_inner().bytes.min(name.length)),
        Err(status) if status.code() == Code::Unimplemented => Ok(0),
        Err(status) => Err(status),
    }
}

/// Hands the first part over and what follows on its offset, at no more than [`RATE`]; ends when nobody takes them.
async fn send(
    cluster: Arc<Cluster>,
    snapshot: SnapshotFile,
    first: SnapshotPart,
    parts: mpsc::Sender<SnapshotPart>,
) {
    let mut offset = first.offset;
    let mut part = first;
    loop {
        tokio::time::sleep_until(cluster.pace.turn(Instant::now())).await;
        match tokio::time::timeout(STALL, parts.send(part)).await {
            Ok(Ok(())) => {}
            // The call has ended, and who made it knows why.
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::warn!(offset, "a snapshot is not taken any more: it is given up");
                return;
            }
        }
        let file = snapshot.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; PART];
            let read = file.read_at(&mut buffer, offset)?;
            buffer.truncate(read);
            Ok::<_, std::io::Error>(buffer)
        });
        match read.await {
            Ok(Ok(bytes)) if bytes.is_empty() => return,
            Ok(Ok(bytes)) => {
                offset += bytes.len() as u64;
                part = SnapshotPart {
                    bytes: bytes.into(),
                    ..SnapshotPart::default()
                };
            }
            // A stream that ends early does not verify at the other end.
            Ok(Err(error)) => return tracing::error!(%error, "a snapshot cannot be read"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_of_a_node_keep_to_one_rate_and_make_up_for_no_stall() {
        let (pace, begin) = (Pace::default(), Instant::now());
        let second = |from: Instant| {
            let mut parts = 0;
            // Whoever asks: each stream asks for its next part when it has sent the one before.
            while pace.turn(from) < from + Duration::from_secs(1) {
                parts += 1;
            }
            parts * PART as u64
        };
        let part = PART as u64;
        assert!(second(begin).abs_diff(RATE) <= part);
        let after_a_stall = begin + Duration::from_secs(11);
        assert_eq!(
            pace.turn(after_a_stall),
            after_a_stall,
            "nobody was before it"
        );
        assert!(second(after_a_stall).abs_diff(RATE) <= 2 * part);
    }
}
