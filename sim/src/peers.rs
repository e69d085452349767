//! What replicas say to each other, over the simulated network. A peer that cannot be reached is an error, never a
//! granted vote.

use std::sync::Arc;

use futures::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AnyError, EmptyNode};

use crate::cluster::{Cluster, Group, Process};
use crate::invariants::Fact;
use crate::ledger::Ledger;
use crate::network::Place;
use crate::types::{GroupId, TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;
type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

/// A snapshot of a large group takes its time.
const SNAPSHOT_MS: u64 = 5_000;

/// Makes clients of one group of one process.
#[derive(Clone)]
pub struct Peers {
    pub cluster: Arc<Cluster>,
    pub node: u64,
    pub group: GroupId,
}

/// Talks to one peer.
pub struct Client {
    peers: Peers,
    to: u64,
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        Client {
            peers: self.clone(),
            to: target,
        }
    }
}

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::new(&AnyError::error("no answer"))
}

fn network(error: &(impl std::error::Error + 'static)) -> NetworkError<TypeConfig> {
    NetworkError::new(error)
}

impl Client {
    /// Asks the process that lives there when the question arrives; who has died since answers nothing.
    async fn call<T, E, W>(
        &self,
        work: impl FnOnce(Arc<Process>, Group) -> W + Send + 'static,
    ) -> Result<T, RpcError>
    where
        T: Send + 'static,
        E: std::error::Error + Send + 'static,
        W: Future<Output = Result<T, E>> + Send,
    {
        let Peers {
            cluster,
            node,
            group,
        } = &self.peers;
        let (there, group, to) = (Arc::clone(cluster), *group, self.to);
        let work = async move {
            let process = there.process(to)?;
            let answer = work(Arc::clone(&process), process.group(group).clone()).await;
            process.is_alive().then_some(answer)
        };
        let (from, to) = (Place::Node(*node), Place::Node(to));
        let answer = cluster.network.call(from, to, work).await;
        answer
            .ok_or_else(unreachable)?
            .map_err(|error| network(&error).into())
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Arc<Ledger>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        self.call(|process, group| async move {
            let vote = request.vote;
            let answer = group.raft.append_entries(request).await?;
            if matches!(
                answer,
                AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)
            ) {
                process.promised(&group, vote);
            }
            Ok::<_, openraft::errors::RaftError<TypeConfig>>(answer)
        })
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(|process, group| async move {
            let answer = group.raft.vote(request).await?;
            if answer.vote_granted {
                process.promised(&group, answer.vote);
            }
            Ok::<_, openraft::errors::RaftError<TypeConfig>>(answer)
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(|_, group| async move { group.raft.pre_vote(request).await })
            .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(|_, group| async move { group.raft.handle_transfer_leader(request).await })
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, u64, EmptyNode, Arc<Ledger>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Peers {
            cluster,
            node,
            group,
        } = &self.peers;
        let (there, group, to) = (Arc::clone(cluster), *group, self.to);
        let work = async move {
            let process = there.process(to)?;
            let installed = process
                .group(group)
                .raft
                .install_full_snapshot(vote, snapshot)
                .await;
            process.is_alive().then_some(installed)
        };
        let (from, to) = (Place::Node(*node), Place::Node(to));
        let sent = cluster.network.call_within(SNAPSHOT_MS, from, to, work);
        match select(std::pin::pin!(sent), std::pin::pin!(cancel)).await {
            Either::Left((Some(Ok(answer)), _)) => Ok(answer),
            Either::Left((Some(Err(error)), _)) => Err(StreamingError::Network(network(&error))),
            Either::Left((None, _)) => Err(StreamingError::Unreachable(unreachable())),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }
}

impl Process {
    /// This vote was answered: from now on it stands on the disk.
    fn promised(&self, group: &Group, vote: Vote) {
        if self.is_alive() {
            let (node, group) = (self.node, group.id);
            self.watch.note(Fact::Promised { node, group, vote });
        }
    }
}
