//! What this node asks of leaders on other nodes.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use proto::cluster::peer_client::PeerClient;
use proto::cluster::{
    Caller, ChangeRequest, DescribeRequest, DigestRequest, Held, HelloReply, HelloRequest,
    HoldRoomsRequest, NodeDescription, OpenRoomsRequest, ProposeRequest, RaiseFloorRequest,
    ReadIndexRequest, RegisterReply, RegisterRequest,
};
use raft::{GroupId, NodeId, ReadError};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Cluster;
use super::peers::client;
use crate::ledger::{Leaders, Proposed, ReadMark};
use crate::partition::Count;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Longer than a group takes to say that it does not know.
const PROPOSE: Duration = Duration::from_secs(11);
const READ: Duration = Duration::from_secs(2);
/// A floor is raised after the grants that are out have run out.
const FLOOR: Duration = Duration::from_secs(8);
/// Longer than a replica waits for an index, and reads all of its state.
const DIGEST: Duration = Duration::from_secs(60);
const ROOMS: Duration = Duration::from_secs(1);
const CHANGE: Duration = Duration::from_secs(30);
const REGISTER: Duration = Duration::from_secs(10);
const DESCRIBE: Duration = Duration::from_secs(1);

impl Cluster {
    fn client(&self, to: NodeId) -> Option<PeerClient<Channel>> {
        self.channels.calls(to).map(client)
    }

    /// What a node remembers of this one.
    pub async fn hello(&self, to: NodeId) -> Result<HelloReply, Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = HelloRequest {
            caller: self.caller(to),
        };
        Ok(client.hello(within(DESCRIBE, request)).await?.into_inner())
    }

    /// Has the leader of a group change its members.
    pub async fn change(&self, to: NodeId, request: ChangeRequest) -> Result<(), Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = ChangeRequest {
            caller: self.caller(to),
            ..request
        };
        client.change(within(CHANGE, request)).await.map(|_| ())
    }

    /// Where a node and its groups stand.
    pub async fn describe(&self, to: NodeId) -> Result<NodeDescription, Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = DescribeRequest {
            caller: self.caller(to),
        };
        let described = client.describe(within(DESCRIBE, request)).await?;
        Ok(described.into_inner())
    }

    /// The digest of a replica on another node, where the log has this index; none: it was passed, or is not reached soon.
    pub async fn digest(
        &self,
        to: NodeId,
        group: GroupId,
        index: u64,
    ) -> Result<Option<[u8; 32]>, Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = DigestRequest {
            caller: self.caller(to),
            group: group.0,
            index,
        };
        let reply = client.digest(within(DIGEST, request)).await?.into_inner();
        Ok(reply.hash.as_ref().try_into().ok())
    }

    /// Has the partition's leader offer nothing older than this program.
    pub async fn raise_floor(&self, to: NodeId, group: GroupId, epoch: u64) -> Result<(), Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = RaiseFloorRequest {
            caller: self.caller(to),
            group: group.0,
            epoch,
        };
        client.raise_floor(within(FLOOR, request)).await.map(|_| ())
    }

    /// Has the partition's leader count, and grant nothing until its rooms are opened. `Aborted`: it has begun a newer count.
    pub async fn hold_rooms(
        &self,
        to: NodeId,
        group: GroupId,
        count: Count,
    ) -> Result<Held, Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = HoldRoomsRequest {
            caller: self.caller(to),
            group: group.0,
            count: count.0,
        };
        let held = client.hold_rooms(within(ROOMS, request)).await?;
        Ok(held.into_inner())
    }

    /// Gives the partition's leader its quotas.
    pub async fn open_rooms(&self, to: NodeId, request: OpenRoomsRequest) -> Result<(), Status> {
        let mut client = self.client(to).ok_or_else(|| unreachable(to))?;
        let request = OpenRoomsRequest {
            caller: self.caller(to),
            ..request
        };
        client.open_rooms(within(ROOMS, request)).await.map(|_| ())
    }
}

/// Asks these addresses, one after the other, for a number in the cluster; answers it with where the others are.
pub async fn join(
    cluster: &str,
    disk: [u8; 16],
    own_address: &str,
    addresses: &[String],
    certificates: Option<&tls::Mutual>,
) -> Result<RegisterReply, String> {
    let mut refusals = Vec::new();
    for address in addresses {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint
            .map_err(|error| format!("{address}: {error}"))?
            .connect_timeout(READ);
        let channel = match certificates {
            None => endpoint.connect_lazy(),
            Some(certificates) => {
                let connector = certificates.connector(tls::Name::AnyNode);
                endpoint.connect_with_connector_lazy(connector.map_err(|error| error.to_string())?)
            }
        };
        let request = RegisterRequest {
            caller: Some(Caller {
                cluster: cluster.to_owned(),
                from_disk: disk.to_vec().into(),
                protocol: proto::protocol::LOWEST,
                protocol_highest: proto::protocol::HIGHEST,
                ..Caller::default()
            }),
            address: own_address.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match client(channel).register(within(REGISTER, request)).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) => refusals.push(format!("{address}: {}", status.message())),
        }
    }
    Err(refusals.join("; "))
}

impl Leaders for Cluster {
    fn propose(
        &self,
        leader: NodeId,
        group: GroupId,
        entry: Bytes,
    ) -> BoxFuture<Result<Proposed, raft::ProposeError>> {
        let request = ProposeRequest {
            caller: self.caller(leader),
            group: group.0,
            entry,
        };
        let client = self.client(leader);
        Box::pin(async move {
            let nowhere = raft::ProposeError::NotLeader { leader: None };
            let Some(mut client) = client else {
                return Err(nowhere);
            };
            match client.propose(within(PROPOSE, request)).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    Ok(Proposed {
                        answer: reply.answer.into(),
                        applied: reply.applied,
                    })
                }
                Err(status) if status.code() == Code::FailedPrecondition => Err(nowhere),
                // Also a connection that broke: it may have arrived.
                Err(status) => {
                    if status.code() == Code::InvalidArgument {
                        tracing::error!(%leader, why = status.message(), "an entry is refused");
                    }
                    Err(raft::ProposeError::Unknown)
                }
            }
        })
    }

    fn read_index(&self, leader: NodeId, group: GroupId) -> BoxFuture<Result<ReadMark, ReadError>> {
        let request = ReadIndexRequest {
            caller: self.caller(leader),
            group: group.0,
        };
        let client = self.client(leader);
        Box::pin(async move {
            let nowhere = ReadError::NotLeader { leader: None };
            let Some(mut client) = client else {
                return Err(nowhere);
            };
            match client.read_index(within(READ, request)).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    Ok(ReadMark {
                        index: reply.index,
                        looked_ms: reply.looked_ms,
                    })
                }
                Err(status) if status.code() == Code::FailedPrecondition => Err(nowhere),
                Err(_) => Err(ReadError::Timeout),
            }
        })
    }
}

fn within<T>(time: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(time);
    request
}

fn unreachable(node: NodeId) -> Status {
    Status::unavailable(format!("{node} is not known"))
}
