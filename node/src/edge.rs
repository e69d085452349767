//! What gateways ask of this node: one stream each way, for everything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::FutureExt;
use proto::cluster_id::{self, ClusterId};
use proto::edge::edge_server::{Edge, EdgeServer};
use proto::edge::{
    Answered, Answers, Ask, Closed, Downward, Hello, Notice, Notices, Presences, Refused, Route,
    Routes, Token, Tokens, Upward, answered, downward, refused, upward,
};
use proto::protocol::{self, Spoken};
use proto::uid::Uid;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Door, MESSAGE_BYTES_MAX};
use crate::local::Node;
use crate::partition::{Error, Sign, chain};
use crate::trace;

/// A gateway that does not say who it is within this is none.
const HELLO: Duration = Duration::from_secs(5);

/// Connections of nodes and gateways to a node are asked to end at this age, and conversations on them end then: whoever
/// does not show a certificate again, because it is none any more, is heard no longer than this. The others make a new
/// connection well before, at a time of their own.
pub const AGE: Duration = Duration::from_secs(90 * 60);

/// By then a connection of this age has been asked to end, and is not used again.
const ASKED: Duration = Duration::from_secs(1);

/// Routes are looked at so often, and sent where they are new, or after [`ROUTES`].
const LOOK: Duration = Duration::from_millis(100);
const ROUTES: Duration = Duration::from_secs(1);

/// Reports of one gateway that are under way here; more are shed.
const REPORTS: usize = 16_384;

/// Answers that go into one message, and agents whose records are changed together.
const TOGETHER: usize = 512;

/// What one gateway has told of agents of one partition and is still to be written down. What comes beyond is forgotten:
/// who has left is silent, and who is back speaks again.
const SIGNS: usize = 16_384;

/// Messages to a gateway that wait; then the slow gateway is waited for.
const WAITING: usize = 256;

/// A gateway whose stream was not made again within this is gone, and its connections with it.
const GONE: Duration = Duration::from_secs(10);

/// The gateways that are connected, with the streams of each: a new one may begin before the old one ends.
#[derive(Default)]
pub struct Gateways {
    streams: Mutex<BTreeMap<String, Vec<Queues>>>,
    shed: AtomicU64,
    missed: AtomicU64,
}

/// What can fill up in one stream.
struct Queues {
    places: Arc<Semaphore>,
    answers: mpsc::WeakSender<Answered>,
    down: mpsc::WeakSender<Result<Downward, Status>>,
}

/// The streams of all gateways together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// How many there are.
    pub streams: usize,
    /// Reports under way.
    pub reports: usize,
    /// Answers that wait to be put into a message.
    pub answers: usize,
    /// Messages that wait to be taken by a gateway.
    pub messages: usize,
    /// Reports that were shed since this node runs: their gateway had too many under way.
    pub shed: u64,
    /// Batches of notices that slow gateways have missed since this node runs.
    pub missed: u64,
}

impl Gateways {
    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Queues>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, gateway: &str, queues: Queues) {
        self.state()
            .entry(gateway.to_owned())
            .or_default()
            .push(queues);
    }

    /// Streams whose conversation is over are forgotten.
    fn ended(&self) {
        let mut state = self.state();
        for streams in state.values_mut() {
            streams.retain(|stream| stream.down.strong_count() > 0);
        }
        state.retain(|_, streams| !streams.is_empty());
    }

    fn has(&self, gateway: &str) -> bool {
        self.state().contains_key(gateway)
    }

    /// How full everything is now.
    pub fn streams(&self) -> Streams {
        let mut all = Streams {
            shed: self.shed.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            ..Streams::default()
        };
        for queues in self.state().values().flatten() {
            all.streams += 1;
            all.reports += REPORTS.saturating_sub(queues.places.available_permits());
            all.answers += waiting(&queues.answers);
            all.messages += waiting(&queues.down);
        }
        all
    }
}

/// How many wait in a queue.
fn waiting<T>(queue: &mpsc::WeakSender<T>) -> usize {
    queue
        .upgrade()
        .map_or(0, |queue| queue.max_capacity() - queue.capacity())
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
        let gateway = format!("gateway {}", hello.gateway);
        let spoken = Spoken::of(hello.protocol, hello.protocol_highest);
        if let Err(refused) = protocol::check(&gateway, spoken, &node.id().to_string()) {
            tracing::warn!(%refused, "a gateway is refused");
            return Err(Status::permission_denied(refused.to_string()));
        }
        let theirs = ClusterId::of(&hello.cluster_id, hello.incarnation);
        let ours = node.control.read().cluster_id();
        // A gateway of what this cluster was before it was restored learns of that from the first routes.
        let incarnation = |id: Option<ClusterId>| id.map(ClusterId::incarnation);
        let is_of_the_past = incarnation(theirs) < incarnation(ours);
        if !is_of_the_past
            && let Err(foreign) = cluster_id::check(&gateway, theirs, node.id(), ours)
        {
            tracing::warn!(refused = %foreign, "a gateway is refused");
            return Err(Status::permission_denied(foreign.to_string()));
        }
        tracing::info!(gateway = hello.gateway, "a gateway has connected");
        let (down, stream) = mpsc::channel(WAITING);
        let (answers, answered) = mpsc::channel(REPORTS);
        let queues = node.partitions.iter().map(|_| mpsc::channel(SIGNS));
        let (signs, told) = queues.unzip();
        let conversation = Conversation {
            node: node.clone(),
            hello,
            down,
            answers,
            signs,
            places: Arc::new(Semaphore::new(REPORTS)),
        };
        tokio::spawn(conversation.run(said, answered, told));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// With one gateway, as long as its stream stands.
struct Conversation {
    node: Arc<Node>,
    hello: Hello,
    down: mpsc::Sender<Result<Downward, Status>>,
    answers: mpsc::Sender<Answered>,
    /// One for each partition, so that one without a quorum keeps none of the others waiting.
    signs: Vec<mpsc::Sender<(Uid, Sign)>>,
    places: Arc<Semaphore>,
}

impl Conversation {
    async fn run(
        self,
        said: Streaming<Upward>,
        answered: mpsc::Receiver<Answered>,
        told: Vec<mpsc::Receiver<(Uid, Sign)>>,
    ) {
        let gateway = self.hello.gateway.clone();
        let queues = Queues {
            places: self.places.clone(),
            answers: self.answers.downgrade(),
            down: self.down.downgrade(),
        };
        self.node.gateways.began(&gateway, queues);
        self.node.gateway_is_here(&gateway, true);
        let ended = self.node.stopping();
        tokio::select! {
            () = self.listen(said) => {}
            () = self.note(told) => {}
            () = self.answer(answered) => {}
            () = self.notices() => {}
            () = self.routes() => {}
            () = self.tokens() => {}
            () = ended.cancelled() => {}
            () = tokio::time::sleep(AGE + ASKED) => {}
            () = self.down.closed() => {}
        }
        tracing::info!(gateway, "the stream of a gateway has ended");
        let node = self.node.clone();
        drop(self);
        node.gateways.ended();
        // Its next stream may begin just now.
        loop {
            let here = node.gateways.has(&gateway);
            node.gateway_is_here(&gateway, here);
            if here == node.gateways.has(&gateway) {
                break;
            }
        }
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

    /// Waits for nothing but the gateway's next word: what has come behind one that takes long would wait, too.
    async fn listen(&self, mut said: Streaming<Upward>) {
        while let Ok(Some(message)) = said.message().await {
            match message.what {
                Some(upward::What::Asks(asks)) => {
                    for ask in asks.asks {
                        self.ask(ask);
                    }
                }
                Some(upward::What::Presences(presences)) => self.heard(&presences),
                Some(upward::What::Closed(closed)) => self.closed(&closed),
                Some(upward::What::Hello(_)) | None => {}
            }
        }
    }

    /// Answered later, or refused at once. The queue of answers is bounded, so that a gateway that takes none piles up
    /// nothing here: a refusal that finds no room is not sent, and the gateway gives up by its own time. It is listened
    /// to all the same, as it may wait for that itself.
    fn ask(&self, ask: Ask) {
        let Ask {
            id,
            report,
            traceparent,
        } = ask;
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
            let rejected = answer(refuse(refused::Kind::Rejected, why));
            let _full_or_gone = self.answers.try_send(rejected);
            return;
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.node.gateways.shed.fetch_add(1, Ordering::Relaxed);
            let shed = answer(refuse(refused::Kind::Overloaded, String::new()));
            let _full_or_gone = self.answers.try_send(shed);
            return;
        };
        let (node, answers) = (self.node.clone(), self.answers.clone());
        let parent = trace::parent(&traceparent);
        tokio::spawn(async move {
            let handled = node.partition(uid).report(report).with_context(parent);
            let result = match handled.await {
                Ok(answer) => answered::Result::Answer(answer),
                Err(error) => {
                    let kind = kind(&error);
                    if kind == refused::Kind::Unknown {
                        tracing::warn!(%uid, error = %chain(&error), "a report was not handled");
                    }
                    refuse(kind, error.to_string())
                }
            };
            // A gateway that has gone asks again elsewhere.
            let _gone = answers.send(answer(result)).await;
            drop(place);
        });
    }

    async fn answer(&self, mut answered: mpsc::Receiver<Answered>) {
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

    fn heard(&self, presences: &Presences) {
        let mut by_partition = vec![Vec::new(); self.node.partitions.len()];
        for presence in &presences.agents {
            if let Ok(uid) = Uid::from_wire(&presence.instance_uid) {
                by_partition[self.node.partition_index(uid)].push(presence.clone());
            }
        }
        for (partition, batch) in self.node.partitions.iter().zip(by_partition) {
            if !batch.is_empty() {
                if presences.introduction {
                    partition.introduced(&self.hello.gateway, &batch);
                } else {
                    self.to_note(partition.heard(&self.hello.gateway, &batch));
                }
            }
        }
    }

    fn closed(&self, closed: &Closed) {
        if let Ok(uid) = Uid::from_wire(&closed.instance_uid) {
            let partition = self.node.partition(uid);
            self.to_note(partition.closed(uid, closed.connection, closed.clean));
        }
    }

    fn to_note(&self, signs: impl IntoIterator<Item = (Uid, Sign)>) {
        for (uid, sign) in signs {
            let _full = self.signs[self.node.partition_index(uid)].try_send((uid, sign));
        }
    }

    async fn note(&self, told: Vec<mpsc::Receiver<(Uid, Sign)>>) {
        let noting = self.node.partitions.iter().zip(told);
        let noting = noting.map(|(partition, mut told)| async move {
            let mut signs = Vec::new();
            while told.recv_many(&mut signs, TOGETHER).await > 0 {
                partition.note(signs.drain(..)).await;
            }
        });
        futures::future::join_all(noting).await;
    }

    // ---- what it is told ----

    async fn notices(&self) {
        let mut notices = self.node.notices();
        // What was said while this gateway had no stream it has not heard, and it would answer from its sessions.
        self.node.name_again();
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
                Err(RecvError::Lagged(missed)) => self.node.has_missed(missed),
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
    fn gateway_is_here(&self, gateway: &str, here: bool) {
        for partition in self.partitions.iter() {
            partition.gateway_is_here(gateway, here);
        }
    }

    /// A gateway was too slow for so many batches of notices: everything that is pending is named anew.
    pub fn has_missed(&self, batches: u64) {
        self.gateways.missed.fetch_add(batches, Ordering::Relaxed);
        self.name_again();
    }

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
        let id = documents.cluster_id();
        Routes {
            node: cluster.config.node.0,
            cluster: cluster.config.name.clone(),
            nodes: addresses.into_iter().map(place).collect(),
            groups,
            cluster_id: id.map(ClusterId::bytes).unwrap_or_default(),
            incarnation: id.map_or(0, ClusterId::incarnation),
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
        // Nothing removes tokens, so that the newest of them says when the list changed last: also when one was revoked.
        let changed = documents.tokens.values().map(|t| t.version).max();
        let id = documents.cluster_id();
        Tokens {
            tokens: valid.map(token).collect(),
            changed: Some(changed.unwrap_or(0)),
            incarnation: id.map_or(0, ClusterId::incarnation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_show_how_full_they_are_until_their_conversation_is_over() {
        let gateways = Gateways::default();
        let (down, _taken) = mpsc::channel(WAITING);
        let (answers, _answered) = mpsc::channel::<Answered>(REPORTS);
        let places = Arc::new(Semaphore::new(REPORTS));
        let queues = Queues {
            places: places.clone(),
            answers: answers.downgrade(),
            down: down.downgrade(),
        };
        gateways.began("gateway-1", queues);
        let place = places.try_acquire_owned().unwrap();
        down.try_send(Ok(Downward::default())).unwrap();
        let full = Streams {
            streams: 1,
            reports: 1,
            messages: 1,
            ..Streams::default()
        };
        assert_eq!(gateways.streams(), full);
        gateways.ended();
        assert!(gateways.has("gateway-1"), "another stream has ended");
        drop((place, down));
        gateways.ended();
        assert!(!gateways.has("gateway-1"));
        assert_eq!(gateways.streams(), Streams::default());
    }
}
