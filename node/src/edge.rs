//! What gateways ask of this node: one stream each way, for everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::edge::edge_server::{Edge, EdgeServer};
use proto::edge::{
    Answered, Answers, Ask, Closed, Downward, Hello, Notice, Notices, Presences, Refused, Route,
    Routes, Token, Tokens, Upward, answered, downward, refused, upward,
};
use proto::uid::Uid;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Door, MESSAGE_BYTES_MAX};
use crate::local::Node;
use crate::partition::{Error, chain};

/// A gateway that does not say who it is within this is none.
const HELLO: Duration = Duration::from_secs(5);

/// Routes are looked at so often, and sent where they are new, or after [`ROUTES`].
const LOOK: Duration = Duration::from_millis(100);
const ROUTES: Duration = Duration::from_secs(1);

/// Reports of one gateway that are under way here; more are shed.
const REPORTS: usize = 16_384;

/// Answers that go into one message.
const TOGETHER: usize = 512;

/// Messages to a gateway that wait; then the slow gateway is waited for.
const WAITING: usize = 256;

/// A gateway whose stream was not made again within this is gone, and its connections with it.
const GONE: Duration = Duration::from_secs(10);

/// The gateways that are connected, and how many streams each has: a new one may begin before the old one ends.
#[derive(Default)]
pub struct Gateways(Mutex<BTreeMap<String, usize>>);

impl Gateways {
    fn state(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, gateway: &str) {
        *self.state().entry(gateway.to_owned()).or_default() += 1;
    }

    fn ended(&self, gateway: &str) {
        let mut state = self.state();
        if let Some(streams) = state.get_mut(gateway) {
            *streams = streams.saturating_sub(1);
        }
        state.retain(|_, streams| *streams > 0);
    }

    fn has(&self, gateway: &str) -> bool {
        self.state().contains_key(gateway)
    }
}

/// Answers gateways.
#[derive(Clone)]
pub struct EdgeDoor(Door);

impl EdgeDoor {
    /// Behind the door that other nodes use.
    pub fn new(door: Door) -> Self {
        EdgeDoor(door)
    }

    /// As a gRPC service.
    pub fn service(self) -> EdgeServer<EdgeDoor> {
        EdgeServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Edge for EdgeDoor {
    type ConverseStream = ReceiverStream<Result<Downward, Status>>;

    async fn converse(
        &self,
        request: Request<Streaming<Upward>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let node = self
            .0
            .node()
            .ok_or_else(|| Status::unavailable("the node starts"))?;
        let shown = request.peer_certs();
        let peer = tls::Peer::of(shown.as_deref().map(Vec::as_slice));
        if !self.0.admits_gateway(&peer) {
            return Err(Status::permission_denied(
                "the certificate that was shown is not that of a gateway: issue one with `muster certs issue --gateway`",
            ));
        }
        let cluster = node.cluster.as_ref().map_or("", |c| c.config.name.as_str());
        let mut said = request.into_inner();
        let first = tokio::time::timeout(HELLO, said.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(Upward {
            what: Some(upward::What::Hello(hello)),
        }) = first
        else {
            return Err(Status::invalid_argument("a gateway says hello first"));
        };
        if !hello.cluster.is_empty() && hello.cluster != cluster {
            return Err(Status::permission_denied(format!(
                "this is a node of cluster `{cluster}`, not of `{}`: look at --cluster and --nodes of the gateway",
                hello.cluster
            )));
        }
        tracing::info!(gateway = hello.gateway, "a gateway has connected");
        let (down, stream) = mpsc::channel(WAITING);
        let conversation = Conversation {
            node: node.clone(),
            hello,
            down,
        };
        tokio::spawn(conversation.run(said));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// With one gateway, as long as its stream stands.
struct Conversation {
    node: Arc<Node>,
    hello: Hello,
    down: mpsc::Sender<Result<Downward, Status>>,
}

impl Conversation {
    async fn run(self, said: Streaming<Upward>) {
        let gateway = self.hello.gateway.clone();
        self.node.gateways.began(&gateway);
        let ended = self.node.stopping();
        tokio::select! {
            () = self.listen(said) => {}
            () = self.notices() => {}
            () = self.routes() => {}
            () = self.tokens() => {}
            () = ended.cancelled() => {}
            () = self.down.closed() => {}
        }
        tracing::info!(gateway, "the stream of a gateway has ended");
        let node = self.node.clone();
        drop(self);
        node.gateways.ended(&gateway);
        tokio::time::sleep(GONE).await;
        if !node.gateways.has(&gateway) {
            for partition in node.partitions.iter() {
                partition.gateway_gone(&gateway);
            }
        }
    }

    async fn say(&self, what: downward::What) -> Result<(), ()> {
        let message = Downward { what: Some(what) };
        self.down.send(Ok(message)).await.map_err(|_| ())
    }

    // ---- what it asks ----

    async fn listen(&self, mut said: Streaming<Upward>) {
        let (answers, answered) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(REPORTS));
        let listening = async {
            while let Ok(Some(message)) = said.message().await {
                match message.what {
                    Some(upward::What::Asks(asks)) => {
                        for ask in asks.asks {
                            self.ask(ask, &places, &answers);
                        }
                    }
                    Some(upward::What::Presences(presences)) => self.heard(presences).await,
                    Some(upward::What::Closed(closed)) => self.closed(closed).await,
                    Some(upward::What::Hello(_)) | None => {}
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = self.answer(answered) => {}
        }
    }

    fn ask(&self, ask: Ask, places: &Arc<Semaphore>, answers: &mpsc::UnboundedSender<Answered>) {
        let Ask { id, report } = ask;
        let answer = move |result| Answered {
            id,
            result: Some(result),
        };
        let refuse = |kind: refused::Kind, why: String| {
            let kind = kind.into();
            answered::Result::Refused(Refused { kind, why })
        };
        let uid = report.as_ref().map(|r| Uid::from_wire(&r.instance_uid));
        let (Some(report), Some(Ok(uid))) = (report, uid) else {
            let why = "the uid of the agent is not one".to_owned();
            let _gone = answers.send(answer(refuse(refused::Kind::Rejected, why)));
            return;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let _gone = answers.send(answer(refuse(refused::Kind::Overloaded, String::new())));
            return;
        };
        let (node, answers) = (self.node.clone(), answers.clone());
        tokio::spawn(async move {
            let result = match node.partition(uid).report(report).await {
                Ok(answer) => answered::Result::Answer(answer),
                Err(error) => {
                    let kind = kind(&error);
                    if kind == refused::Kind::Unknown {
                        tracing::warn!(%uid, error = %chain(&error), "a report was not handled");
                    }
                    refuse(kind, error.to_string())
                }
            };
            drop(place);
            // A gateway that has gone asks again elsewhere.
            let _gone = answers.send(answer(result));
        });
    }

    async fn answer(&self, mut answered: mpsc::UnboundedReceiver<Answered>) {
        loop {
            let mut answers = Vec::new();
            if answered.recv_many(&mut answers, TOGETHER).await == 0
                || self
                    .say(downward::What::Answers(Answers { answers }))
                    .await
                    .is_err()
            {
                return;
            }
        }
    }

    async fn heard(&self, presences: Presences) {
        let mut by_partition = vec![Vec::new(); self.node.partitions.len()];
        for presence in presences.agents {
            if let Ok(uid) = Uid::from_wire(&presence.instance_uid) {
                by_partition[self.node.partition_index(uid)].push(presence);
            }
        }
        for (partition, batch) in self.node.partitions.iter().zip(by_partition) {
            if !batch.is_empty() {
                partition.heard(&self.hello.gateway, &batch).await;
            }
        }
    }

    async fn closed(&self, closed: Closed) {
        if let Ok(uid) = Uid::from_wire(&closed.instance_uid) {
            let partition = self.node.partition(uid);
            partition.closed(uid, closed.connection, closed.clean).await;
        }
    }

    // ---- what it is told ----

    async fn notices(&self) {
        let mut notices = self.node.notices();
        loop {
            match notices.recv().await {
                Ok(batch) => {
                    let notices: Vec<Notice> = batch
                        .iter()
                        .filter(|n| !self.is_no_news(n))
                        .cloned()
                        .collect();
                    if !notices.is_empty()
                        && self
                            .say(downward::What::Notices(Notices { notices }))
                            .await
                            .is_err()
                    {
                        return;
                    }
                }
                // Too slow: what was missed is named anew.
                Err(RecvError::Lagged(_)) => self.node.name_pending(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Is it said of this gateway itself, that it holds a session now?
    fn is_no_news(&self, notice: &Notice) -> bool {
        !notice.holder.is_empty() && notice.holder == self.hello.gateway
    }

    async fn routes(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        let (mut last, mut at) = (Routes::default(), tokio::time::Instant::now());
        loop {
            let now = ticks.tick().await;
            let routes = self.node.routes();
            if routes == last && now.duration_since(at) < ROUTES {
                continue;
            }
            (last, at) = (routes.clone(), now);
            if self.say(downward::What::Routes(routes)).await.is_err() {
                return;
            }
        }
    }

    async fn tokens(&self) {
        let mut changes = self.node.control.changes();
        let mut last = None;
        loop {
            let tokens = self.node.tokens();
            if last.as_ref() != Some(&tokens) {
                last = Some(tokens.clone());
                if self.say(downward::What::Tokens(tokens)).await.is_err() {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn kind(error: &Error) -> refused::Kind {
    match error {
        Error::Uid(_) | Error::Token { .. } => refused::Kind::Rejected,
        _ if error.is_leaderless() => refused::Kind::NotLeader,
        _ => refused::Kind::Unknown,
    }
}

impl Node {
    /// What this node knows of where everything is.
    pub fn routes(&self) -> Routes {
        let route = |(_, status): (&str, raft::GroupStatus)| Route {
            group: status.group.0,
            leader: status.leadership.leader.map_or(0, |leader| leader.0),
            term: status.leadership.term,
            members: status
                .voters
                .iter()
                .chain(&status.learners)
                .map(|n| n.0)
                .collect(),
        };
        let groups = self.groups().map(route).collect();
        let Some(cluster) = &self.cluster else {
            return Routes {
                groups,
                ..Routes::default()
            };
        };
        let place = |(node, address): (raft::NodeId, String)| proto::edge::Place {
            node: node.0,
            address,
        };
        let documents = self.control.read();
        let leaves =
            |id: &raft::NodeId| documents.nodes.get(&id.0).is_some_and(|n| n.value.removed);
        let mut addresses = cluster.channels.addresses();
        addresses.retain(|id, _| !leaves(id));
        Routes {
            node: cluster.config.node.0,
            cluster: cluster.config.name.clone(),
            nodes: addresses.into_iter().map(place).collect(),
            groups,
        }
    }

    fn tokens(&self) -> Tokens {
        let documents = self.control.read();
        let valid = documents
            .tokens
            .values()
            .filter(|t| t.value.revoked_ms == 0);
        let token = |token: &crate::control::Doc<proto::store::Token>| Token {
            name: token.value.name.clone(),
            kind: token.value.kind.clone(),
            role: token.value.role.clone(),
            secret_hash: token.value.secret_hash.clone().into(),
            expires_ms: token.value.expires_ms,
        };
        Tokens {
            tokens: valid.map(token).collect(),
        }
    }
}
