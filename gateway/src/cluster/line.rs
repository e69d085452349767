//! The connection to one node: asks go up together, answers and news come down. Made again whenever it breaks.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::cluster_id::ClusterId;
use proto::edge::edge_client::EdgeClient;
use proto::edge::{Ask, Asks, Closed, Hello, Report, Upward, answered, downward, upward};
use rand::Rng;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::metrics::Held;
use super::{Cluster, trace};

/// A node that does not accept within this is not there.
const CONNECT: Duration = Duration::from_secs(1);

/// A node says where everything is each second: silent for so long, it is gone.
const SILENT: Duration = Duration::from_secs(4);

/// After a line broke, with as much again by chance; longer each time, up to the second.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// A line is made anew after this, with up to a quarter more by chance, on a new connection: so both ends show their
/// certificates again. Well before a node ends it for its age.
const RENEW: Duration = Duration::from_secs(3600);
const RENEWED: &str = "it is made anew after a while";

/// Messages before the first that says where everything is, which a node sends at once.
const EARLY: usize = 64;

/// Messages that wait to be sent; beyond it reports wait for their turn, and are given up by their own time.
const WAITING: usize = 1024;

/// Asks that go into one message.
const TOGETHER: usize = 512;

/// One message between a gateway and a node: see the node's own limit.
const MESSAGE_BYTES_MAX: usize = 80 << 20;

/// To one node.
pub struct Line {
    address: String,
    /// Another one each time the line is made.
    channel: ArcSwap<Channel>,
    state: Mutex<State>,
    next: AtomicU64,
    /// When the node said something last, in milliseconds of the gateway's clock; 0: not since the line was made.
    heard_ms: AtomicU64,
    breaks: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Whom it reaches.
    node: u64,
    up: Option<Up>,
    asked: HashMap<u64, oneshot::Sender<answered::Result>>,
    /// The groups whose replica at the other end knows where this gateway's conversations stand.
    introduced: BTreeSet<u32>,
}

#[derive(Clone)]
struct Up {
    asks: mpsc::Sender<Ask>,
    others: mpsc::Sender<upward::What>,
    /// In a queue of their own: when thousands leave together, what is said of those who stay is not behind them.
    closes: mpsc::Sender<Closed>,
}

impl Line {
    /// Begins to connect.
    pub fn start(cluster: Arc<Cluster>, address: String, stop: &CancellationToken) -> Arc<Line> {
        let line = Arc::new(Line {
            channel: ArcSwap::from_pointee(channel(&cluster.config, &address)),
            address,
            state: Mutex::default(),
            next: AtomicU64::new(1),
            heard_ms: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
        });
        let running = line.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut pause = AGAIN;
            loop {
                let renew = RENEW.mul_f64(rand::rng().random_range(1.0..1.25));
                let why = running.hold(&cluster, renew).await;
                let heard = running.fall_silent();
                tracing::debug!(
                    address = running.address,
                    why,
                    "the line to a node does not stand"
                );
                if why == RENEWED {
                    pause = AGAIN;
                    continue;
                }
                if heard {
                    running.breaks.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(address = running.address, why, "the line to a node broke");
                    pause = AGAIN;
                }
                let chance = rand::rng().random_range(1.0..2.0);
                tokio::time::sleep(pause.mul_f64(chance)).await;
                pause = (pause * 2).min(AGAIN_MAX);
            }
        }));
        line
    }

    /// Does it stand, and reach this node?
    pub fn reaches(&self, node: u64) -> bool {
        let state = self.state();
        state.node == node && state.up.is_some()
    }

    /// The node at the other end; none while the line does not stand.
    pub fn node(&self) -> Option<u64> {
        let state = self.state();
        state
            .up
            .as_ref()
            .map(|_| state.node)
            .filter(|node| *node != 0)
    }

    /// When the node said something last, on the gateway's clock.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// What it holds now.
    pub(super) fn held(&self) -> Held {
        let state = self.state();
        let (reports_queued, messages_queued) = state.up.as_ref().map_or((0, 0), |up| {
            let messages = queued(&up.others) + queued(&up.closes);
            (queued(&up.asks), messages)
        });
        Held {
            node: state.node,
            connected: state.up.is_some(),
            heard_ms: self.heard_ms(),
            reports_queued,
            messages_queued,
            unanswered: state.asked.len(),
            breaks: self.breaks.load(Ordering::Relaxed),
        }
    }

    /// The node has replicas of these groups: those of them to which this gateway is unknown. From now on it is known to
    /// all of them.
    pub fn introduce(&self, groups: BTreeSet<u32>) -> BTreeSet<u32> {
        let mut state = self.state();
        if state.up.is_none() {
            return BTreeSet::new();
        }
        let unheard = &groups - &state.introduced;
        state.introduced = groups;
        unheard
    }

    /// For calls beside the stream.
    pub fn channel(&self) -> Channel {
        Channel::clone(&self.channel.load())
    }

    /// Asks the node. None: the line broke, or the node has gone; whether it has handled the report is not known.
    pub async fn ask(&self, report: Report) -> Option<answered::Result> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let up = {
            let mut state = self.state();
            let up = state.up.clone()?;
            state.asked.insert(id, answer);
            up
        };
        let _forgotten = Forget { line: self, id };
        let ask = Ask {
            id,
            report: Some(report),
            traceparent: trace::traceparent(),
        };
        up.asks.send(ask).await.ok()?;
        answered.await.ok()
    }

    /// Tells the node something that needs no answer. What cannot be told is lost.
    pub async fn tell(&self, what: upward::What) {
        let up = self.state().up.clone();
        if let Some(up) = up {
            let _broke = up.others.send(what).await;
        }
    }

    /// Tells the node that a connection has ended, as [`Line::tell`].
    pub async fn close(&self, closed: Closed) {
        let up = self.state().up.clone();
        if let Some(up) = up {
            let _broke = up.closes.send(closed).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what waits for an answer. Says whether the node had been heard.
    fn fall_silent(&self) -> bool {
        let mut state = self.state();
        state.up = None;
        state.asked.clear();
        state.introduced.clear();
        self.heard_ms.swap(0, Ordering::Relaxed) > 0
    }

    /// Connects and holds the line until it breaks or is to be made anew; answers why.
    async fn hold(&self, cluster: &Cluster, renew: Duration) -> String {
        let (up, said) = mpsc::channel(WAITING);
        let id = cluster.id();
        let hello = Hello {
            gateway: cluster.config.name.clone(),
            cluster: cluster.config.cluster.clone(),
            protocol: proto::protocol::LOWEST,
            protocol_highest: proto::protocol::HIGHEST,
            cluster_id: id.map(ClusterId::bytes).unwrap_or_default(),
            incarnation: id.map_or(0, ClusterId::incarnation),
        };
        if up.try_send(message(upward::What::Hello(hello))).is_err() {
            return "it cannot be told anything".to_owned();
        }
        let channel = channel(&cluster.config, &self.address);
        self.channel.store(Arc::new(channel.clone()));
        let mut client = EdgeClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let connecting = client.converse(ReceiverStream::new(said));
        let mut down = match tokio::time::timeout(SILENT, connecting).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "it does not answer".to_owned(),
        };
        let (asks, mut asked) = mpsc::channel(WAITING);
        let (others, mut other) = mpsc::channel(WAITING);
        let (closes, mut closed) = mpsc::channel(WAITING);
        let to = Up {
            asks,
            others,
            closes,
        };
        let (asks_up, others_up, closes_up) = (up.clone(), up.clone(), up);
        let sending_asks = async move {
            loop {
                let mut asks = Vec::new();
                if asked.recv_many(&mut asks, TOGETHER).await == 0
                    || asks_up
                        .send(message(upward::What::Asks(Asks { asks })))
                        .await
                        .is_err()
                {
                    return "asks cannot be sent".to_owned();
                }
            }
        };
        let sending_others = async move {
            while let Some(what) = other.recv().await {
                if others_up.send(message(what)).await.is_err() {
                    break;
                }
            }
            "nothing can be sent".to_owned()
        };
        // One message each, as nodes have always read them.
        let sending_closes = async move {
            while let Some(closed) = closed.recv().await {
                let closed = message(upward::What::Closed(closed));
                if closes_up.send(closed).await.is_err() {
                    break;
                }
            }
            "no end of a connection can be sent".to_owned()
        };
        let hearing = async {
            // What comes before it has said of which cluster it is.
            let mut early = Some(Vec::new());
            loop {
                let heard = match tokio::time::timeout(SILENT, down.message()).await {
                    Ok(Ok(Some(heard))) => heard,
                    Ok(Ok(None)) => return "the node has ended it".to_owned(),
                    Ok(Err(status)) => return status.message().to_owned(),
                    Err(_) => return format!("silent for {SILENT:?}"),
                };
                let Some(what) = heard.what else { continue };
                if let downward::What::Routes(routes) = &what {
                    if let Err(why) = cluster.admit(routes) {
                        return why;
                    }
                } else if let Some(early) = &mut early {
                    early.push(what);
                    if early.len() > EARLY {
                        return "it does not say of which cluster it is".to_owned();
                    }
                    continue;
                }
                self.heard_ms
                    .store(cluster.now_ms().max(1), Ordering::Relaxed);
                let early = early.take().into_iter().flatten();
                for what in std::iter::once(what).chain(early) {
                    if let Err(why) = self.take(cluster, what, &to) {
                        return why;
                    }
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(renew) => RENEWED.to_owned(),
            why = sending_asks => why,
            why = sending_others => why,
            why = sending_closes => why,
            why = hearing => why,
        }
    }

    /// Waits for nobody: answers are behind. Err: the line has to be made anew, and why.
    fn take(&self, cluster: &Cluster, what: downward::What, to: &Up) -> Result<(), String> {
        match what {
            downward::What::Answers(answers) => {
                let mut state = self.state();
                for answered in answers.answers {
                    let waiting = state.asked.remove(&answered.id);
                    if let (Some(waiting), Some(result)) = (waiting, answered.result) {
                        let _gone = waiting.send(result);
                    }
                }
            }
            downward::What::Notices(notices) => {
                // What is missed here is lost; of a new line the node says everything that is pending anew.
                if let Err(TrySendError::Full(_)) = cluster.notices.try_send(notices.notices) {
                    return Err("this gateway is behind with what it was told".to_owned());
                }
            }
            downward::What::Routes(routes) => {
                let first = {
                    let mut state = self.state();
                    state.node = routes.node;
                    let first = state.up.is_none();
                    state.up.get_or_insert_with(|| to.clone());
                    first
                };
                if first {
                    tracing::info!(
                        address = self.address,
                        node = routes.node,
                        "connected to a node"
                    );
                }
                cluster.take_routes(&routes);
                if first {
                    cluster.changed.send_modify(|n| *n += 1);
                }
            }
            downward::What::Tokens(tokens) => cluster.take_tokens(&tokens),
        }
        Ok(())
    }
}

/// An ask that nobody waits for any more is forgotten.
struct Forget<'a> {
    line: &'a Line,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.line.state().asked.remove(&self.id);
    }
}

fn queued<T>(queue: &mpsc::Sender<T>) -> usize {
    queue.max_capacity() - queue.capacity()
}

fn message(what: upward::What) -> Upward {
    Upward { what: Some(what) }
}

fn channel(config: &super::Config, address: &str) -> Channel {
    // Addresses were checked where they came from; one that makes no sense after all is never reached.
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.unwrap_or_else(|_| Endpoint::from_static("http://0.0.0.0:0"));
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    match config
        .certificates
        .as_ref()
        .map(|c| c.connector(tls::Name::AnyNode))
    {
        Some(Ok(connector)) => endpoint.connect_with_connector_lazy(connector),
        // A cluster's name was checked when its certificates were read.
        Some(Err(error)) => {
            tracing::error!(%error, "nodes cannot be reached");
            Endpoint::from_static("http://0.0.0.0:0").connect_lazy()
        }
        None => endpoint.connect_lazy(),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proto::edge::edge_server::{Edge, EdgeServer};
    use proto::edge::{Downward, Notice, Notices, Routes};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status, Streaming};

    use super::*;
    use crate::Link;
    use crate::cluster::NOTICES;
    use crate::cluster::tests::cluster;

    struct Nodes {
        closes: mpsc::Receiver<Closed>,
        _asks: mpsc::Receiver<Ask>,
        _others: mpsc::Receiver<upward::What>,
    }

    /// A line that stands, with room for one end of a connection, and its other end.
    fn standing(node: u64) -> (Arc<Line>, Up, Nodes) {
        let ((asks, asked), (others, other)) = (mpsc::channel(1), mpsc::channel(1));
        let (closes, closed) = mpsc::channel(1);
        let up = Up {
            asks,
            others,
            closes,
        };
        let state = State {
            node,
            up: Some(up.clone()),
            ..State::default()
        };
        let line = Line {
            address: format!("127.0.0.1:{node}"),
            channel: ArcSwap::from_pointee(
                Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
            ),
            state: Mutex::new(state),
            next: AtomicU64::new(1),
            heard_ms: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
        };
        let nodes = Nodes {
            closes: closed,
            _asks: asked,
            _others: other,
        };
        (Arc::new(line), up, nodes)
    }

    #[tokio::test]
    async fn a_node_that_takes_no_ends_of_connections_keeps_none_of_the_others_waiting() {
        let stop = CancellationToken::new();
        let _ends = stop.clone().drop_guard();
        let cluster = cluster(&stop);
        let (stuck, _, mut slow) = standing(1);
        let (well, _, mut quick) = standing(2);
        stuck.close(Closed::default()).await;
        cluster
            .lines()
            .extend([("a".to_owned(), stuck), ("b".to_owned(), well)]);
        let uid = proto::uid::Uid::from_wire(&[7; 16]).unwrap();
        let mut telling = Box::pin(cluster.closed(uid, 3, true));
        assert!(telling.as_mut().now_or_never().is_none(), "one is full");
        let told = quick.closes.try_recv().unwrap();
        assert_eq!((told.connection, told.clean), (3, true));
        slow.closes.try_recv().unwrap();
        telling.await;
        assert_eq!(slow.closes.try_recv().unwrap(), told);
    }

    #[tokio::test]
    async fn a_line_of_a_gateway_that_is_behind_with_notices_is_made_anew_and_does_not_wait() {
        let stop = CancellationToken::new();
        let _ends = stop.clone().drop_guard();
        let cluster = cluster(&stop);
        let (line, up, _node) = standing(1);
        let tell = || {
            let notices = vec![Notice::default()];
            line.take(&cluster, downward::What::Notices(Notices { notices }), &up)
        };
        for _ in 0..NOTICES {
            tell().unwrap();
        }
        assert!(tell().unwrap_err().contains("is behind"));
    }

    /// Says where everything is, once, and notes from which connection it was asked.
    struct Node(mpsc::UnboundedSender<std::net::SocketAddr>);

    #[tonic::async_trait]
    impl Edge for Node {
        type ConverseStream = ReceiverStream<Result<Downward, Status>>;

        async fn converse(
            &self,
            asked: Request<Streaming<Upward>>,
        ) -> Result<Response<Self::ConverseStream>, Status> {
            self.0.send(asked.remote_addr().unwrap()).unwrap();
            let (down, stream) = mpsc::channel(2);
            let routes = Routes {
                node: 1,
                cluster_id: vec![1; 16].into(),
                ..Routes::default()
            };
            let what = Some(downward::What::Routes(routes));
            down.send(Ok(Downward { what })).await.unwrap();
            tokio::spawn(async move { down.closed().await });
            Ok(Response::new(ReceiverStream::new(stream)))
        }
    }

    #[tokio::test]
    async fn a_line_that_is_made_anew_after_a_while_shows_its_certificate_on_a_new_connection() {
        let stop = CancellationToken::new();
        let _ends = stop.clone().drop_guard();
        let cluster = cluster(&stop);
        let (mut line, _, _node) = standing(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Arc::get_mut(&mut line).unwrap().address = address;
        line.fall_silent();
        let (asks, mut asked) = mpsc::unbounded_channel();
        let served = tonic::transport::Server::builder()
            .add_service(EdgeServer::new(Node(asks)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        let mut connections = std::collections::BTreeSet::new();
        for _ in 0..2 {
            let why = line.hold(&cluster, Duration::from_millis(300)).await;
            assert_eq!(why, RENEWED);
            assert!(line.reaches(1), "it stood until then");
            connections.insert(asked.recv().await.unwrap());
            line.fall_silent();
        }
        assert_eq!(connections.len(), 2);
    }
}
