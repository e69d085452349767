//! OpAMP over WebSocket: the upgrade, and the life of one connection with the agents that it carries.
//!
//! Malformed messages are answered and the connection stays; only what breaks RFC 6455, is too large, or comes
//! malformed many times in a row closes it, always with a Close frame.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::uid::Uid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::budget::{Budget, Share};
use crate::limits::Limits;
use crate::link::{Access, Link};
use crate::listen::{Connection, Shared};
use crate::opamp::http::{Answer, overloaded, text};
use crate::opamp::meter::Metered;
use crate::opamp::reply::Reply;
use crate::opamp::{Edge, frame, negotiate};
use crate::session::exchange::{Exchange, First, Later, Outcome, Refusal, Source};
use crate::session::{Holder, Order};

/// Orders that a connection may have waiting; beyond it the pending bit alone remains.
const ORDERS: usize = 16;
/// After our Close frame the peer's is awaited for so long.
const LINGER: Duration = Duration::from_secs(1);
/// What is still under way when a connection ends has so long to finish.
const LAST_REPORTS: Duration = Duration::from_secs(6);
/// What the peer still sends after our Close frame is read up to here, so that it sees the frame and no reset.
const DISCARD_BYTES: usize = 128 * 1024 * 1024;
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

/// Answers an upgrade request, and serves the connection in a task of its own.
pub fn upgrade<L: Link, A: Access>(
    edge: &Arc<Edge<L, A>>,
    connection: Arc<Connection>,
    token: String,
    mut request: Request<Incoming>,
    busy: bool,
) -> Answer {
    let key = match handshake(&request) {
        Ok(key) => key,
        Err(answer) => return *answer,
    };
    if busy || edge.budget.take(1).is_none() {
        edge.exchange.metrics.refused.reports.inc();
        return overloaded();
    }
    let accept = derive_accept_key(&key);
    let Ok(accept) = HeaderValue::try_from(accept) else {
        return text(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key\n");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let tasks = connection.shared().tasks.clone();
    tasks.spawn(serve(edge.clone(), connection, token, upgraded));
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

/// The key of a legal handshake (RFC 6455, 4.2.1), or the answer to one that is none.
fn handshake(request: &Request<Incoming>) -> Result<Bytes, Box<Answer>> {
    let headers = request.headers();
    let wanted = negotiate::has_token(headers, header::CONNECTION, "upgrade")
        && negotiate::has_token(headers, header::UPGRADE, "websocket");
    if !wanted || request.version() != Version::HTTP_11 {
        let mut answer = text(
            StatusCode::UPGRADE_REQUIRED,
            "OpAMP is spoken here: POST application/x-protobuf, or upgrade to websocket\n",
        );
        answer
            .headers_mut()
            .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        return Err(Box::new(answer));
    }
    if request.method() != Method::GET {
        return Err(Box::new(text(
            StatusCode::BAD_REQUEST,
            "a WebSocket handshake is a GET\n",
        )));
    }
    if !is_version_13(headers) {
        let mut answer = text(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is spoken here\n",
        );
        answer.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return Err(Box::new(answer));
    }
    match headers.get(header::SEC_WEBSOCKET_KEY) {
        Some(key) if key.len() == 24 => Ok(Bytes::copy_from_slice(key.as_bytes())),
        _ => Err(Box::new(text(
            StatusCode::BAD_REQUEST,
            "bad Sec-WebSocket-Key\n",
        ))),
    }
}

fn is_version_13(headers: &HeaderMap) -> bool {
    headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_some_and(|version| version.as_bytes() == b"13")
}

async fn serve<L: Link, A: Access>(
    edge: Arc<Edge<L, A>>,
    connection: Arc<Connection>,
    token: String,
    upgraded: OnUpgrade,
) {
    let Ok(upgraded) = upgraded.await else {
        return;
    };
    connection.upgraded();
    let (orders, ear) = mpsc::channel(ORDERS);
    let holder = Holder {
        connection: connection.number,
        orders,
    };
    let source = Source {
        connection: connection.number,
        peer: connection.peer,
        token,
        holder: Some(holder),
    };
    let stream = TokioIo::new(upgraded);
    let Shared { drain, kill, .. } = connection.shared().clone();
    let conversation = converse(&edge.exchange, &edge.budget, &source, stream, ear, drain);
    let _killed = kill.run_until_cancelled(conversation).await;
}

/// One connection from its first frame to its last.
pub async fn converse<L: Link, S: AsyncRead + AsyncWrite + Unpin>(
    exchange: &Exchange<L>,
    budget: &Budget,
    source: &Source,
    stream: S,
    orders: mpsc::Receiver<Order>,
    drain: CancellationToken,
) {
    let limits = &exchange.limits;
    let stream = Metered::new(stream, budget.clone(), limits.clone());
    let socket =
        WebSocketStream::from_raw_socket(stream, Role::Server, Some(settings(limits))).await;
    let conversation = Conversation {
        exchange,
        source,
        socket,
        agents: HashMap::new(),
        busy: FuturesUnordered::new(),
        malformed: 0,
        heard: Instant::now(),
        drain_at: None,
        pinged: false,
    };
    conversation.run(orders, drain).await;
}

fn settings(limits: &Limits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(limits.ws_read_buffer_bytes)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(limits.send_bytes.saturating_add(2 * WRITE_BUFFER_BYTES))
        .max_message_size(Some(limits.receive_bytes))
        .max_frame_size(Some(limits.receive_bytes))
}

/// One connection.
struct Conversation<'e, L, S> {
    exchange: &'e Exchange<L>,
    source: &'e Source,
    socket: WebSocketStream<Metered<S>>,
    /// The agents that spoke here, and whether they said that they leave.
    agents: HashMap<Uid, bool>,
    busy: FuturesUnordered<BoxFuture<'e, Done>>,
    /// Malformed messages in a row.
    malformed: u32,
    /// When something came last.
    heard: Instant,
    pinged: bool,
    drain_at: Option<Instant>,
}

enum Done {
    Message(Uid, Result<Outcome, Refusal>),
    Pull(Option<Outcome>),
}

/// How a connection ends.
enum End {
    /// The peer closed with this code.
    Peer(Option<CloseCode>),
    /// We close with this code.
    Ours(CloseCode, &'static str),
    /// The stream is broken or too slow.
    Broken,
}

// === impl Conversation ===

impl<'e, L: Link, S: AsyncRead + AsyncWrite + Unpin> Conversation<'e, L, S> {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>, drain: CancellationToken) {
        let end = self.talk(&mut orders, &drain).await;
        let clean = matches!(end, End::Peer(Some(CloseCode::Normal)));
        self.farewell(end).await;
        let busy = std::mem::take(&mut self.busy);
        let rest = async {
            let mut busy = busy;
            while let Some(done) = busy.next().await {
                let (Done::Message(_, Ok(outcome)) | Done::Pull(Some(outcome))) = done else {
                    continue;
                };
                if let Some(uid) = outcome.uid {
                    *self.agents.entry(uid).or_default() |= outcome.left;
                }
                if let Some(unwritten) = outcome.unwritten() {
                    self.exchange.give_back(self.source, unwritten).await;
                }
            }
        };
        let _late = timeout(LAST_REPORTS, rest).await;
        for (uid, left) in &self.agents {
            self.exchange.sessions.release(uid, self.source.connection);
            self.exchange
                .link
                .closed(*uid, self.source.connection, clean || *left)
                .await;
        }
    }

    async fn talk(&mut self, orders: &mut mpsc::Receiver<Order>, drain: &CancellationToken) -> End {
        loop {
            let room = self.busy.len() < self.exchange.limits.messages_per_connection;
            if !room {
                // Nothing is read until something is done.
                self.socket.get_mut().excuse();
            }
            let next = self.next_check();
            let step = tokio::select! {
                message = self.socket.next(), if room => self.received(message).await,
                Some(done) = self.busy.next(), if !self.busy.is_empty() => self.done(done).await,
                Some(order) = orders.recv() => self.obey(order),
                () = tokio::time::sleep_until(next.into()) => self.check().await,
                () = drain.cancelled(), if self.drain_at.is_none() => {
                    let spread = self.exchange.limits.drain_spread.mul_f64(rand::random_range(0.0..1.0));
                    self.drain_at = Some(Instant::now() + spread);
                    Ok(())
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn received(&mut self, message: Option<Result<Message, Error>>) -> Result<(), End> {
        self.heard = Instant::now();
        self.pinged = false;
        match message {
            Some(Ok(Message::Binary(bytes))) => {
                let share = self.socket.get_mut().message();
                self.message(bytes, share).await
            }
            Some(Ok(Message::Text(_))) => {
                self.socket.get_mut().message();
                self.malformed(Reply::bad_request(
                    &[],
                    "OpAMP messages are binary, this one is text",
                ))
                .await
            }
            Some(Ok(Message::Close(frame))) => Err(End::Peer(frame.map(|frame| frame.code))),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. }))) => {
                self.exchange.metrics.refused.too_large.inc();
                Err(End::Ours(CloseCode::Size, "message too large"))
            }
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                Err(End::Broken)
            }
            Some(Err(Error::Protocol(_))) => Err(End::Ours(CloseCode::Protocol, "protocol error")),
            Some(Err(Error::Utf8(_))) => Err(End::Ours(CloseCode::Invalid, "text is not UTF-8")),
            Some(Err(Error::Io(error))) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                self.exchange.metrics.refused.bytes.inc();
                Err(End::Ours(CloseCode::Again, "too many bytes in flight"))
            }
            Some(Err(Error::Io(_))) if self.socket.get_ref().is_late() => {
                self.exchange.metrics.refused.late.inc();
                let why = "the message did not arrive in time";
                Err(End::Ours(CloseCode::Policy, why))
            }
            Some(Err(_)) => Err(End::Broken),
        }
    }

    async fn message(&mut self, mut bytes: Bytes, share: Option<Share>) -> Result<(), End> {
        let Ok(header) = frame::strip(&bytes) else {
            self.exchange.metrics.refused.malformed.inc();
            return self
                .malformed(Reply::bad_request(
                    &[],
                    "the message does not begin with the header 0",
                ))
                .await;
        };
        let bytes = bytes.split_off(header);
        let size = bytes.len();
        match self.exchange.hear(self.source, bytes) {
            First::Done { uid, reply } => {
                self.malformed = 0;
                self.meet(uid);
                self.write(reply).await
            }
            First::Again { uid, replies } => {
                self.malformed = 0;
                self.meet(uid);
                for reply in replies.iter() {
                    self.write(reply.clone()).await?;
                }
                Ok(())
            }
            First::Malformed(reply) => self.malformed(reply).await,
            First::Queue { uid } => self.write(Refusal::Overloaded.reply(uid.as_bytes())).await,
            First::Later(later) => {
                self.malformed = 0;
                let uid = later.uid();
                if self.agents.len() >= self.exchange.limits.agents_per_connection
                    && !self.agents.contains_key(&uid)
                {
                    self.exchange.metrics.refused.agents.inc();
                    let why = "too many agents on one connection (limit agents_per_connection)";
                    return self.write(Reply::bad_request(uid.as_bytes(), why)).await;
                }
                let share = share.or_else(|| self.socket.get_ref().take(size));
                if share.is_none() {
                    self.exchange.metrics.refused.bytes.inc();
                    return self.write(Refusal::Overloaded.reply(uid.as_bytes())).await;
                }
                self.agents.entry(uid).or_default();
                self.exchange.hold(self.source, uid);
                self.report(later, share);
                Ok(())
            }
        }
    }

    /// Goes on with a message beside the others; its bytes count until it is done.
    fn report(&mut self, later: Later, share: Option<Share>) {
        let (exchange, source, uid) = (self.exchange, self.source, later.uid());
        let work = async move {
            let _share_of_the_budget = share;
            Done::Message(uid, exchange.finish(source, later).await)
        };
        self.busy.push(work.boxed());
    }

    async fn malformed(&mut self, reply: Reply) -> Result<(), End> {
        self.malformed += 1;
        self.write(reply).await?;
        if self.malformed < self.exchange.limits.malformed_in_a_row {
            return Ok(());
        }
        Err(End::Ours(CloseCode::Policy, "too many malformed messages"))
    }

    async fn done(&mut self, done: Done) -> Result<(), End> {
        let mut outcome = match done {
            Done::Pull(None) => return Ok(()),
            Done::Pull(Some(outcome)) | Done::Message(_, Ok(outcome)) => outcome,
            Done::Message(uid, Err(refusal)) => {
                return self.write(refusal.reply(uid.as_bytes())).await;
            }
        };
        if let Some(uid) = outcome.uid {
            *self.agents.entry(uid).or_default() |= outcome.left;
        }
        if let Some(moved) = outcome.moved {
            self.meet(moved);
        }
        for at in 0..outcome.replies.len() {
            if let Some(unwritten) = self.exchange.at_write(&mut outcome) {
                let (exchange, source) = (self.exchange, self.source);
                let again = async move {
                    let uid = unwritten.uid;
                    exchange.give_back(source, unwritten).await;
                    Done::Pull(exchange.pull(source, uid).await)
                };
                self.busy.push(again.boxed());
            }
            self.write(outcome.replies[at].clone()).await?;
        }
        if outcome.disconnect {
            Err(End::Ours(CloseCode::Policy, "closed by the server"))
        } else {
            Ok(())
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Close => Err(End::Ours(CloseCode::Policy, "closed by the server")),
            Order::Pull(uid) => {
                let (exchange, source) = (self.exchange, self.source);
                self.busy
                    .push(async move { Done::Pull(exchange.pull(source, uid).await) }.boxed());
                Ok(())
            }
        }
    }

    /// The agent can be reached here from now on.
    fn meet(&mut self, uid: Uid) {
        if let Entry::Vacant(new) = self.agents.entry(uid) {
            new.insert(false);
            self.exchange.hold(self.source, uid);
        }
    }

    fn next_check(&self) -> Instant {
        let limits = &self.exchange.limits;
        let silence = if self.pinged {
            limits.ws_read_timeout
        } else {
            limits.ws_ping.min(limits.ws_read_timeout)
        };
        let next = self.heard + silence;
        self.drain_at.map_or(next, |drain| drain.min(next))
    }

    async fn check(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.drain_at.is_some_and(|at| at <= now) {
            return Err(End::Ours(CloseCode::Away, "the server is going down"));
        }
        let limits = &self.exchange.limits;
        if now >= self.heard + limits.ws_read_timeout {
            self.exchange.metrics.silent.inc();
            return Err(End::Broken);
        }
        if now >= self.heard + limits.ws_ping && !self.pinged {
            self.pinged = true;
            return self.send(Message::Ping(Bytes::new())).await;
        }
        Ok(())
    }

    async fn write(&mut self, reply: Reply) -> Result<(), End> {
        self.send(Message::Binary(reply.into_message())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match timeout(
            self.exchange.limits.write_timeout,
            self.socket.send(message),
        )
        .await
        {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => Err(End::Peer(None)),
            Ok(Err(_)) => Err(End::Broken),
            Err(_) => {
                self.exchange.metrics.slow.inc();
                Err(End::Broken)
            }
        }
    }

    /// The closing handshake, whoever began it.
    async fn farewell(&mut self, end: End) {
        match end {
            End::Broken => {}
            End::Peer(_) => {
                let _late = timeout(LINGER, async {
                    while let Some(Ok(_)) = self.socket.next().await {}
                })
                .await;
            }
            End::Ours(code, reason) => {
                let frame = CloseFrame {
                    code,
                    reason: reason.into(),
                };
                if !matches!(
                    timeout(LINGER, self.socket.close(Some(frame))).await,
                    Ok(Ok(()))
                ) {
                    return;
                }
                if code == CloseCode::Away {
                    let _late = timeout(LINGER, self.last_words()).await;
                } else {
                    let _late = timeout(LINGER, self.discard()).await;
                }
            }
        }
    }

    /// Hears what the peer had sent before it saw our Close frame. Nothing can be answered any more, but a number
    /// that was not heard is a lost message to whoever serves this agent next, and costs a full state.
    async fn last_words(&mut self) {
        let limit = self.exchange.limits.messages_per_connection;
        while self.busy.len() < limit
            && let Some(Ok(message)) = self.socket.next().await
        {
            let share = self.socket.get_mut().message();
            let Message::Binary(mut bytes) = message else {
                continue;
            };
            let Ok(header) = frame::strip(&bytes) else {
                continue;
            };
            let bytes = bytes.split_off(header);
            if let First::Later(later) = self.exchange.hear(self.source, bytes) {
                self.report(later, share);
            }
        }
        self.discard().await;
    }

    /// Reads what the peer has still sent, until it closes.
    async fn discard(&mut self) {
        let mut scratch = vec![0; 16 * 1024];
        let mut left = DISCARD_BYTES;
        let stream = self.socket.get_mut();
        stream.let_go();
        while let Ok(read @ 1..) = stream.read(&mut scratch).await {
            match left.checked_sub(read) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}
