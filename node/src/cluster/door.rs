//! What other nodes ask of this one.
//!
//! It is open before the groups run, so that nodes that start together find each other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::cluster::peer_server::{Peer, PeerServer};
use proto::cluster::{
    ArrivedReply, ArrivedRequest, Caller, ChangeReply, ChangeRequest, DescribeRequest, DigestReply,
    DigestRequest, Held, HelloReply, HelloRequest, HoldRoomsRequest, NodeDescription,
    OpenRoomsReply, OpenRoomsRequest, ProposeReply, ProposeRequest, RaftAnswer, RaftMessage,
    RaiseFloorReply, RaiseFloorRequest, ReadIndexReply, ReadIndexRequest, RegisterReply,
    RegisterRequest, SnapshotPart,
};
use proto::cluster_id::{self, ClusterId, Foreign};
use proto::protocol::{self, Spoken};
use raft::{GroupId, NodeId, ReceiveError, Store};
use tonic::{Request, Response, Status, Streaming};

use super::arrivals::{self, Arrivals};
use super::{Cluster, Told, members, rooms};
use crate::control::Documents;
use crate::ledger;
use crate::local::Node;
use crate::partition::{Count, Partition, chain};

/// One message: an append of a MiB, or one entry of 4 MiB, and what is around it.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A program that another node has stored arrives here within this, or the caller asks again.
const PROGRAM: Duration = Duration::from_secs(2);

/// Answers other nodes.
#[derive(Clone)]
pub struct Door {
    cluster: Arc<Cluster>,
    fresh: bool,
    node: Arc<OnceLock<Arc<Node>>>,
    arrivals: Arc<Arrivals>,
    refused: Arc<Told>,
}

impl Door {
    /// Shut until the node runs. Snapshots are received into this store. `fresh`: the node's data directory was empty when
    /// the process began, so that there is nothing that it could remember of others.
    pub fn new(cluster: Arc<Cluster>, store: Store, fresh: bool) -> Self {
        Door {
            cluster,
            fresh,
            node: Arc::default(),
            arrivals: Arc::new(Arrivals::new(store)),
            refused: Arc::default(),
        }
    }

    /// The node runs.
    pub fn open(&self, node: Arc<Node>) {
        // Twice is once: there is one node in a process.
        let _ = self.node.set(node);
    }

    /// The node, once it runs.
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// Nothing but gateways may speak as one.
    pub fn admits_gateway(&self, peer: &tls::Peer) -> bool {
        self.cluster.believes(peer, tls::Name::Gateway)
    }

    /// As a gRPC service.
    pub fn service(&self) -> PeerServer<Door> {
        PeerServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn check(&self, from: &Shown, caller: Option<&Caller>) -> Result<NodeId, Status> {
        let own = &self.cluster.config;
        let caller = caller.ok_or_else(|| Status::invalid_argument("the caller is not named"))?;
        if caller.cluster != own.name {
            return Err(Status::permission_denied(format!(
                "this is {} of cluster `{}`, not of `{}`: look at the addresses and --cluster of both nodes",
                own.node, own.name, caller.cluster
            )));
        }
        understood(caller, own.node)?;
        if let Err(foreign) = self.is_ours(caller) {
            let said = foreign.to_string();
            if self.refused.is_news(caller.from, &said) {
                tracing::warn!(refused = said, "a node is refused");
            }
            return Err(Status::permission_denied(said));
        }
        if caller.to != 0 && caller.to != own.node.0 {
            return Err(Status::permission_denied(format!(
                "this is {}, not n{}: the address has gone to another node",
                own.node, caller.to
            )));
        }
        if !self.cluster.believes(&from.0, tls::Name::Node(caller.from)) {
            return Err(Status::permission_denied(format!(
                "the certificate that was shown is not that of node {}: issue one with `muster certs issue --node {}`",
                caller.from, caller.from
            )));
        }
        Ok(NodeId(caller.from))
    }

    /// A restored cluster may have the name of the one that it was made of.
    fn is_ours(&self, caller: &Caller) -> Result<(), Foreign> {
        let theirs = ClusterId::of(&caller.cluster_id, caller.incarnation);
        let (who, here) = (NodeId(caller.from), self.cluster.config.node);
        cluster_id::check(who, theirs, here, self.cluster.id())
    }

    fn running(&self, from: &Shown, caller: Option<&Caller>) -> Result<&Arc<Node>, Status> {
        let id = self.check(from, caller)?;
        let node = self.node.get().ok_or_else(|| self.starts())?;
        let disk = caller.map_or(&[][..], |caller| &caller.from_disk[..]);
        self.takes_part(&node.control.read(), id, disk)?;
        Ok(node)
    }

    /// A certificate is good for longer than what was agreed with who shows it.
    fn takes_part(&self, documents: &Documents, id: NodeId, disk: &[u8]) -> Result<(), Status> {
        let Some(known) = documents.nodes.get(&id.0) else {
            return Ok(());
        };
        members::heard(&known.value, disk).map_err(|why| {
            if self.refused.is_news(id.0, &why) {
                tracing::warn!(refused = why, "a node is refused");
            }
            Status::permission_denied(why)
        })
    }

    fn starts(&self) -> Status {
        Status::unavailable(format!("{} starts", self.cluster.config.node))
    }

    /// The disk on which this node remembers another one's number; none: it does not. A node that starts with what it had
    /// before cannot say that yet: a founder that has lost its disk would take silence for leave to vote again.
    fn remembered(&self, id: NodeId) -> Result<Option<Vec<u8>>, Status> {
        match self.node.get() {
            Some(node) => {
                let documents = node.control.read();
                let known = documents.nodes.get(&id.0);
                Ok(known.map(|known| known.value.disk.clone()))
            }
            None if self.fresh => Ok(None),
            None => Err(self.starts()),
        }
    }

    fn led(
        &self,
        from: &Shown,
        caller: Option<&Caller>,
        group: u32,
    ) -> Result<&Arc<Partition>, Status> {
        let node = self.running(from, caller)?;
        let partition = node.of_group(GroupId(group));
        let partition = partition.filter(|partition| partition.leads());
        partition.ok_or_else(|| not_led(group))
    }
}

/// What the other end of a connection has shown.
struct Shown(tls::Peer);

impl Shown {
    fn of<T>(request: &Request<T>) -> Shown {
        let shown = request.peer_certs();
        Shown(tls::Peer::of(shown.as_deref().map(Vec::as_slice)))
    }
}

/// Does the caller speak as this node does?
fn understood(caller: &Caller, own: NodeId) -> Result<(), Status> {
    let who = match caller.from {
        0 => "the node that wants to join".to_owned(),
        node => NodeId(node).to_string(),
    };
    let spoken = Spoken::of(caller.protocol, caller.protocol_highest);
    protocol::check(&who, spoken, &own.to_string())
        .map_err(|refused| Status::permission_denied(refused.to_string()))
}

fn no_group() -> Status {
    Status::not_found("no such group on this node")
}

fn not_led(group: u32) -> Status {
    Status::failed_precondition(format!("group {group} is not led here"))
}

#[tonic::async_trait]
impl Peer for Door {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let caller = self.check(&from, request.caller.as_ref())?;
        let known = self.remembered(caller)?;
        Ok(Response::new(HelloReply {
            node: self.cluster.config.node.0,
            disk: self.cluster.config.disk.to_vec().into(),
            caller_disk: known.unwrap_or_default().into(),
        }))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = match request.caller.as_ref() {
            // Who has no number yet shows the certificate of the one it will have: nobody knows which.
            Some(caller) if caller.from == 0 && caller.cluster == self.cluster.config.name => {
                understood(caller, self.cluster.config.node)?;
                if !self.cluster.believes(&from.0, tls::Name::AnyNode) {
                    return Err(Status::permission_denied(
                        "the certificate that was shown is not that of a node",
                    ));
                }
                self.node
                    .get()
                    .ok_or_else(|| Status::unavailable("the node starts"))?
            }
            // Of a disk that is another one, or a node that was removed, it is told what to do by who keeps the numbers.
            caller => {
                self.check(&from, caller)?;
                self.node.get().ok_or_else(|| self.starts())?
            }
        };
        members::register(node, request).await.map(Response::new)
    }

    async fn change(
        &self,
        request: Request<ChangeRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = self.running(&from, request.caller.as_ref())?;
        let group = node.group(GroupId(request.group)).ok_or_else(no_group)?;
        let change = request
            .change
            .ok_or_else(|| Status::invalid_argument("no change"))?;
        group
            .change(change)
            .await
            .map_err(Status::failed_precondition)?;
        Ok(Response::new(ChangeReply {}))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<NodeDescription>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = self.running(&from, request.caller.as_ref())?;
        Ok(Response::new(node.describe()))
    }

    async fn raft(&self, request: Request<RaftMessage>) -> Result<Response<RaftAnswer>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = self.running(&from, request.caller.as_ref())?;
        let group = node.group(GroupId(request.group)).ok_or_else(no_group)?;
        let answer = group.receive(request.message).await.map_err(refused)?;
        Ok(Response::new(RaftAnswer { message: answer }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<RaftAnswer>, Status> {
        let (from, mut parts) = (Shown::of(&request), request.into_inner());
        let mut first = arrivals::next(&mut parts).await?.unwrap_or_default();
        let announced = first.announced.take();
        let announced =
            announced.ok_or_else(|| Status::invalid_argument("the snapshot was not announced"))?;
        let node = self.running(&from, announced.caller.as_ref())?;
        let id = GroupId(announced.group);
        let group = node.group(id).ok_or_else(no_group)?;
        let arrivals = self.arrivals.clone();
        // A task of its own: when the connection breaks, who waits here is dropped, and what has arrived is kept all the same.
        let work = tokio::spawn(async move {
            let received = arrivals.receive(id, first, parts).await?;
            tracing::info!(
                group = id.0,
                bytes = received.bytes(),
                "received a snapshot"
            );
            let answer = group.receive_snapshot(announced.message, received).await;
            answer.map_err(refused)
        });
        let message = work
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(RaftAnswer { message }))
    }

    async fn arrived(
        &self,
        request: Request<ArrivedRequest>,
    ) -> Result<Response<ArrivedReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = self.running(&from, request.caller.as_ref())?;
        let group = GroupId(request.group);
        node.group(group).ok_or_else(no_group)?;
        let name = request.snapshot;
        let name = name.ok_or_else(|| Status::invalid_argument("no snapshot is named"))?;
        let bytes = self.arrivals.arrived(group, &name).await;
        Ok(Response::new(ArrivedReply { bytes }))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let caller = request.caller.as_ref();
        let node = self.running(&from, caller)?;
        let group = node.group(GroupId(request.group)).ok_or_else(no_group)?;
        appliable(caller, &request.entry)?;
        let (answer, applied) = match group.propose(request.entry).await {
            Ok(answered) => answered,
            Err(raft::ProposeError::NotLeader { .. }) => return Err(not_led(request.group)),
            Err(error) => return Err(Status::unknown(chain(&error))),
        };
        Ok(Response::new(ProposeReply {
            answer: answer.into(),
            applied,
        }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = self.running(&from, request.caller.as_ref())?;
        let group = GroupId(request.group);
        let read = node.group(group).ok_or_else(no_group)?.linearize().await;
        let index = read.map_err(|error| match error {
            raft::ReadError::NotLeader { .. } => not_led(request.group),
            error => Status::unavailable(chain(&error)),
        })?;
        let looked_ms = node.of_group(group).map_or(0, |p| p.evidence_age_ms());
        Ok(Response::new(ReadIndexReply { index, looked_ms }))
    }

    async fn digest(
        &self,
        request: Request<DigestRequest>,
    ) -> Result<Response<DigestReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let node = self.running(&from, request.caller.as_ref())?;
        let group = node.group(GroupId(request.group)).ok_or_else(no_group)?;
        let digest = group.digest_at(request.index).await;
        let digest = digest.map_err(|fatal| Status::internal(fatal.to_string()))?;
        let hash = digest.map(|hash| hash.to_vec().into());
        Ok(Response::new(DigestReply {
            hash: hash.unwrap_or_default(),
        }))
    }

    async fn raise_floor(
        &self,
        request: Request<RaiseFloorRequest>,
    ) -> Result<Response<RaiseFloorReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let caller = request.caller.as_ref();
        let partition = self.led(&from, caller, request.group)?.clone();
        let node = self.running(&from, caller)?;
        let mut changes = node.control.changes();
        let arrived = async {
            while node.control.read().epoch().0 < request.epoch {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(PROGRAM, arrived).await.is_err() {
            return Err(Status::unavailable("the program has not arrived here yet"));
        }
        let raised = partition.raise_floor(request.epoch).await;
        raised.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(Response::new(RaiseFloorReply {}))
    }

    async fn hold_rooms(
        &self,
        request: Request<HoldRoomsRequest>,
    ) -> Result<Response<Held>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let partition = self
            .led(&from, request.caller.as_ref(), request.group)?
            .clone();
        let count = Count(request.count);
        let counted = tokio::task::spawn_blocking(move || partition.hold_rooms(count)).await;
        let counted = counted.map_err(|error| Status::internal(error.to_string()))?;
        let counted = counted.map_err(|older| Status::aborted(older.to_string()))?;
        Ok(Response::new(rooms::to_wire(&counted)))
    }

    async fn open_rooms(
        &self,
        request: Request<OpenRoomsRequest>,
    ) -> Result<Response<OpenRoomsReply>, Status> {
        let (from, request) = (Shown::of(&request), request.into_inner());
        let partition = self.led(&from, request.caller.as_ref(), request.group)?;
        partition.open_rooms(request.count, &rooms::lanes(request.quotas));
        Ok(Response::new(OpenRoomsReply {}))
    }
}

/// Bytes that replicas could not apply would end all of them, so they do not get into a log.
fn appliable(caller: Option<&Caller>, entry: &[u8]) -> Result<(), Status> {
    let Err(why) = ledger::read(entry) else {
        return Ok(());
    };
    let from = NodeId(caller.map_or(0, |caller| caller.from));
    let why = chain(&why);
    tracing::error!(%from, why, "an entry that another node proposes is refused");
    Err(Status::invalid_argument(format!("not proposed: {why}")))
}

fn refused(error: ReceiveError) -> Status {
    match error {
        ReceiveError::Malformed(_) => Status::invalid_argument(error.to_string()),
        ReceiveError::Snapshot(_) => Status::data_loss(error.to_string()),
        ReceiveError::OtherNode { .. } => Status::permission_denied(error.to_string()),
        ReceiveError::Fatal(_) => Status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;
    use raft::StoreConfig;

    use super::super::Config;
    use super::*;
    use crate::control::{Control, IDENTITY_KEY};
    use crate::ledger::{Mirror, table};

    /// The door of node 1 of the cluster `prod`, which was restored once.
    fn door(dir: &std::path::Path, fresh: bool) -> Door {
        let config = Config {
            name: "prod".to_owned(),
            node: NodeId(1),
            address: "127.0.0.1:1".to_owned(),
            founders: BTreeMap::new(),
            disk: [1; 16],
            compare_every: Duration::ZERO,
            resume_above: u64::MAX,
        };
        let cluster = Cluster::new(config, &BTreeMap::new(), None);
        let control = Control::default();
        let mut mirror = control.mirror();
        let identity = proto::store::Identity {
            id: vec![0xbb; 16],
            incarnation: 1,
            ..Default::default()
        };
        let key = IDENTITY_KEY.as_bytes();
        mirror.put(table::IDENTITY, key, 1, &identity.encode_to_vec());
        mirror.publish(0);
        cluster.learn(&control.read());
        let store = Store::open(dir, StoreConfig::default()).unwrap();
        Door::new(Arc::new(cluster), store, fresh)
    }

    #[tokio::test]
    async fn a_node_that_starts_with_its_data_does_not_say_that_it_remembers_nobody() {
        let hello = async |fresh| {
            let dir = tempfile::tempdir().unwrap();
            let caller = Caller {
                cluster: "prod".to_owned(),
                from: 2,
                to: 1,
                ..Caller::default()
            };
            let caller = Some(caller);
            let asked = Request::new(HelloRequest { caller });
            door(dir.path(), fresh).hello(asked).await
        };
        let refused = hello(false).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        // Else founders would wait for each other for ever.
        let told = hello(true).await.unwrap().into_inner();
        assert!(told.caller_disk.is_empty());
    }

    #[tokio::test]
    async fn a_node_of_the_cluster_that_was_restored_is_refused_and_one_that_has_just_joined_is_not()
     {
        let dir = tempfile::tempdir().unwrap();
        let door = door(dir.path(), false);
        let nobody = Shown(tls::Peer::of(None));
        let calls = |id: Vec<u8>, incarnation| {
            let caller = Caller {
                cluster: "prod".to_owned(),
                from: 2,
                to: 1,
                cluster_id: id.into(),
                incarnation,
                ..Caller::default()
            };
            door.check(&nobody, Some(&caller))
        };
        assert_eq!(calls(vec![0xbb; 16], 1).unwrap(), NodeId(2));
        assert_eq!(calls(vec![], 0).unwrap(), NodeId(2));
        let refused = calls(vec![0xaa; 16], 0).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        let said = refused.message();
        assert!(
            said.starts_with("n2 is of cluster aaaaaaaaaaaa (incarnation 0)"),
            "{said}"
        );
        assert!(
            said.contains("n1 of cluster bbbbbbbbbbbb (incarnation 1)"),
            "{said}"
        );
        assert!(said.contains("--join"), "{said}");
        // What it says of itself is what it was told by its documents.
        let own = door.cluster.caller(NodeId(2)).unwrap();
        assert_eq!(
            (own.cluster_id.to_vec(), own.incarnation),
            (vec![0xbb; 16], 1)
        );
    }

    #[tokio::test]
    async fn a_node_that_has_left_and_one_with_another_disk_are_refused_and_one_nobody_knows_is_not()
     {
        let dir = tempfile::tempdir().unwrap();
        let door = door(dir.path(), false);
        let control = Control::default();
        let mut mirror = control.mirror();
        for (id, removed, gone) in [(2u64, false, false), (3, true, false), (4, true, true)] {
            let known = proto::store::ClusterNode {
                id,
                disk: vec![7; 16],
                removed,
                gone,
                ..Default::default()
            };
            mirror.put(table::NODE, &id.to_be_bytes(), 1, &known.encode_to_vec());
        }
        mirror.publish(0);
        let asks = |id, disk: &[u8]| door.takes_part(&control.read(), NodeId(id), disk);
        for heard in [2, 3, 5] {
            assert!(asks(heard, &[7; 16]).is_ok(), "n{heard}");
        }
        for (id, disk) in [(4, [7; 16]), (2, [8; 16])] {
            let refused = asks(id, &disk).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        }
    }

    #[test]
    fn an_entry_that_would_end_every_replica_is_refused_before_it_is_proposed() {
        let entry = |format| {
            let entry = proto::store::Entry {
                format,
                ..Default::default()
            };
            entry.encode_to_vec()
        };
        assert!(appliable(None, &entry(1)).is_ok());
        for bad in [entry(2), vec![], vec![0xff]] {
            let refused = appliable(None, &bad).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(
                refused.message().starts_with("not proposed: it "),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_node_of_another_protocol_is_refused_with_what_to_do() {
        let speaks = |from, protocol| Caller {
            from,
            protocol,
            ..Caller::default()
        };
        for protocol in [0, 1] {
            assert!(understood(&speaks(2, protocol), NodeId(1)).is_ok());
        }
        let ranges = Caller {
            protocol_highest: 2,
            ..speaks(2, 1)
        };
        assert!(understood(&ranges, NodeId(1)).is_ok());
        let refused = understood(&speaks(2, 7), NodeId(1)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        let said = refused.message();
        assert!(said.starts_with("n2 speaks version 7") && said.contains("n1 version 1"));
        let joins = understood(&speaks(0, 7), NodeId(1)).unwrap_err();
        assert!(joins.message().starts_with("the node that wants to join"));
    }
}
