//! The consensus core's network, over [`Peers`].
//!
//! Invariant: a peer that cannot be reached is an error, never a granted vote.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::group::{Counters, UnderWay};
use crate::types::{TypeConfig, Vote};
use crate::wire::{Announce, Ask, Reply, Request, Tell};
use crate::worker::GroupSnapshot;
use crate::{Fatal, GroupId, NodeId, PeerError, Peers, SnapshotFile};

/// Makes clients of one group.
#[derive(Clone)]
pub(crate) struct Network {
    pub peers: Arc<dyn Peers>,
    pub group: GroupId,
    pub request_timeout: Duration,
    pub snapshot_timeout: Duration,
    pub counters: Arc<Counters>,
}

/// Talks to one peer.
pub(crate) struct Client {
    network: Network,
    to: NodeId,
}

type RpcError = RPCError<TypeConfig>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &openraft::EmptyNode) -> Client {
        Client {
            network: self.clone(),
            to: NodeId(target),
        }
    }
}

impl Client {
    // The library's own limit is one heartbeat, too short for a slow disk: ours applies.
    async fn call(&self, ask: Ask) -> Result<Tell, RpcError> {
        let message = Request::encode_to(self.to, ask);
        let Network {
            peers,
            group,
            request_timeout,
            ..
        } = &self.network;
        let call = peers.call(self.to, *group, message, *request_timeout);
        let answer = match tokio::time::timeout(*request_timeout, call).await {
            Ok(answer) => answer.map_err(rpc_error)?,
            Err(elapsed) => return Err(NetworkError::new(&elapsed).into()),
        };
        parse(answer)
    }
}

fn parse(answer: Bytes) -> Result<Tell, RpcError> {
    Reply::parse(answer).map_err(malformed)
}

fn malformed(fatal: Fatal) -> RpcError {
    NetworkError::new(&fatal).into()
}

fn mixed_up() -> RpcError {
    malformed(Fatal::new("the answer is to another question"))
}

fn rpc_error(error: PeerError) -> RpcError {
    match error {
        PeerError::Unreachable(_) => Unreachable::new(&error).into(),
        PeerError::Network { .. } => NetworkError::new(&error).into(),
    }
}

fn streaming(error: RpcError) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        RPCError::Network(error) => StreamingError::Network(error),
        other => StreamingError::Network(NetworkError::new(&other)),
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        match self.call(Ask::Append((&request).into())).await? {
            Tell::Append(appended) => appended.try_into().map_err(malformed),
            _ => Err(mixed_up()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(Ask::Vote((&request).into())).await? {
            Tell::Vote(voted) => voted.try_into().map_err(malformed),
            _ => Err(mixed_up()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(Ask::PreVote((&request).into())).await? {
            Tell::Vote(voted) => voted.try_into().map_err(malformed),
            _ => Err(mixed_up()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        match self.call(Ask::Transfer((&request).into())).await? {
            Tell::Transfer(done) => done.response(&request).map_err(malformed),
            _ => Err(mixed_up()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: GroupSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Network {
            peers,
            group,
            snapshot_timeout,
            counters,
            ..
        } = &self.network;
        let bytes = snapshot.snapshot.bytes();
        let _under_way = UnderWay::new(&counters.snapshots_sending, 1);
        let message =
            Request::encode_to(self.to, Ask::Snapshot(Announce::new(&vote, &snapshot.meta)));
        let send = peers.send_snapshot(
            self.to,
            *group,
            message,
            snapshot.snapshot,
            *snapshot_timeout,
        );
        let sent = match select(send, Box::pin(cancel)).await {
            Either::Left((sent, _)) => sent.map_err(|error| streaming(rpc_error(error))),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        };
        match &sent {
            Ok(_) => {
                counters.snapshots_sent.fetch_add(1, Ordering::Relaxed);
                counters
                    .snapshot_bytes_sent
                    .fetch_add(bytes, Ordering::Relaxed);
            }
            Err(_) => {
                counters.snapshots_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        let answer = sent?;
        match parse(answer).map_err(streaming)? {
            Tell::Snapshot(installed) => installed
                .try_into()
                .map_err(|fatal| streaming(malformed(fatal))),
            _ => Err(streaming(mixed_up())),
        }
    }
}
