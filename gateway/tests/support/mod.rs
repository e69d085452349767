//! A scripted link, an access list, and raw clients that build every byte themselves.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt};
use gateway::{
    Access, Bound, Config, Denied, Gateway, Limits, Link, LinkError, Listener, Metrics, Operator,
    Role,
};
use prost::Message;
use proto::edge;
use proto::opamp::{AgentDescription, AgentToServer, ServerToAgent};
use proto::uid::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(10);

type Script = Box<dyn Fn(&edge::Report) -> Result<edge::Answer, LinkError> + Send + Sync>;

/// A leader that answers by script and remembers everything.
pub struct TestLink {
    script: Script,
    pub delay: Mutex<Duration>,
    pub reports: Mutex<Vec<edge::Report>>,
    pub presence: Mutex<Vec<edge::Presence>>,
    pub closed: Mutex<Vec<(Uid, u64, bool)>>,
    pub in_contact: AtomicBool,
    /// From now on nobody can be told who spoke, and whoever tries waits.
    pub deaf: AtomicBool,
    notices: Mutex<Option<mpsc::UnboundedReceiver<Vec<edge::Notice>>>>,
    pub notify: mpsc::UnboundedSender<Vec<edge::Notice>>,
}

impl TestLink {
    pub fn new(
        script: impl Fn(&edge::Report) -> Result<edge::Answer, LinkError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (notify, notices) = mpsc::unbounded_channel();
        Arc::new(TestLink {
            script: Box::new(script),
            delay: Mutex::default(),
            reports: Mutex::default(),
            presence: Mutex::default(),
            closed: Mutex::default(),
            in_contact: AtomicBool::new(true),
            deaf: AtomicBool::new(false),
            notices: Mutex::new(Some(notices)),
            notify,
        })
    }

    /// Says yes to everything.
    pub fn content() -> Arc<Self> {
        TestLink::new(|report| Ok(accept(report, vec![])))
    }

    pub fn reports(&self) -> usize {
        self.reports.lock().unwrap().len()
    }

    pub fn notice(&self, uid: &[u8], kind: edge::notice::Kind) {
        let notice = edge::Notice {
            instance_uid: uid.to_vec().into(),
            kind: kind.into(),
            ..edge::Notice::default()
        };
        self.notify.send(vec![notice]).unwrap();
    }
}

impl Link for TestLink {
    async fn report(&self, report: edge::Report) -> Result<edge::Answer, LinkError> {
        let answer = (self.script)(&report);
        self.reports.lock().unwrap().push(report);
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        answer
    }

    async fn presence(&self, batch: Vec<edge::Presence>) {
        if self.deaf.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.presence.lock().unwrap().extend(batch);
    }

    async fn closed(&self, uid: Uid, connection: u64, clean: bool) {
        self.closed.lock().unwrap().push((uid, connection, clean));
    }

    fn notices(&self) -> impl Stream<Item = Vec<edge::Notice>> + Send {
        let taken = self.notices.lock().unwrap().take();
        let stream: BoxStream<'static, _> = match taken {
            Some(notices) => futures::stream::unfold(notices, |mut notices| async {
                notices.recv().await.map(|n| (n, notices))
            })
            .boxed(),
            None => futures::stream::pending().boxed(),
        };
        stream
    }

    fn in_contact(&self, _: Uid) -> bool {
        self.in_contact.load(Ordering::Relaxed)
    }
}

/// The message is taken; the session follows it.
pub fn accept(report: &edge::Report, replies: Vec<ServerToAgent>) -> edge::Answer {
    let before = report.session.clone().unwrap_or_default();
    let session = match &report.message {
        Some(message) => edge::Session {
            number: message.sequence_num,
            digest: report.digest.clone(),
            pending: false,
            lost: false,
            capabilities: if message.capabilities == 0 {
                before.capabilities
            } else {
                message.capabilities
            },
        },
        None => edge::Session {
            pending: false,
            ..before
        },
    };
    edge::Answer {
        replies,
        session: Some(session),
        ..edge::Answer::default()
    }
}

/// Tokens `secret-a` (named a), `secret-b` (named b); or none needed.
pub struct TestAccess(pub bool);

impl Access for TestAccess {
    fn agent(&self, bearer: Option<&str>) -> Result<String, Denied> {
        match (self.0, bearer) {
            (false, _) => Ok(String::new()),
            (true, Some("secret-a")) => Ok("a".into()),
            (true, Some("secret-b")) => Ok("b".into()),
            _ => Err(Denied),
        }
    }

    fn operator(&self, bearer: Option<&str>) -> Result<Operator, Denied> {
        match bearer {
            Some("operator") => Ok(Operator {
                name: "ann".into(),
                role: Role::Editor,
            }),
            _ => Err(Denied),
        }
    }

    fn tokens_required(&self) -> bool {
        self.0
    }
}

/// A running gateway.
pub struct Running {
    pub address: SocketAddr,
    pub metrics: Metrics,
    pub drain: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

pub fn config(limits: Limits) -> Config {
    Config {
        listener: Listener::loopback(0),
        limits,
        ..Config::default()
    }
}

pub fn start(link: &Arc<TestLink>, limits: Limits) -> Running {
    start_with(link, config(limits), false)
}

pub fn start_with(link: &Arc<TestLink>, config: Config, tokens: bool) -> Running {
    let bound: Bound<_, _> = Gateway::bind(config, link.clone(), TestAccess(tokens)).unwrap();
    let (address, metrics, drain) = (bound.address(), bound.metrics(), CancellationToken::new());
    let task = tokio::spawn(bound.run(drain.clone()));
    Running {
        address,
        metrics,
        drain,
        task,
    }
}

// === messages ===

pub fn bare(agent: u8, sequence_num: u64) -> AgentToServer {
    AgentToServer {
        instance_uid: vec![agent; 16].into(),
        sequence_num,
        capabilities: 0x2845,
        ..AgentToServer::default()
    }
}

pub fn described(agent: u8, sequence_num: u64) -> AgentToServer {
    AgentToServer {
        agent_description: Some(AgentDescription::default()),
        ..bare(agent, sequence_num)
    }
}

// === plain HTTP, byte by byte ===

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn message(&self) -> ServerToAgent {
        assert_eq!(self.status, 200, "{}", self.head);
        ServerToAgent::decode(&self.body[..]).unwrap()
    }
}

pub struct Http {
    pub stream: TcpStream,
    rest: Vec<u8>,
}

impl Http {
    pub async fn connect(address: SocketAddr) -> Self {
        Http {
            stream: TcpStream::connect(address).await.unwrap(),
            rest: Vec::new(),
        }
    }

    pub async fn post(&mut self, message: &AgentToServer) -> Answer {
        self.post_bytes(&message.encode_to_vec(), "").await
    }

    /// `headers`: whole lines, each ended by CRLF.
    pub async fn post_bytes(&mut self, body: &[u8], headers: &str) -> Answer {
        self.send(
            "POST",
            "/v1/opamp",
            &format!("Content-Type: application/x-protobuf\r\n{headers}"),
            body,
        )
        .await
    }

    pub async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let host = if headers.to_ascii_lowercase().contains("host:") {
            ""
        } else {
            "Host: localhost\r\n"
        };
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\n\r\n");
        self.stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .unwrap();
        self.read().await
    }

    pub async fn read(&mut self) -> Answer {
        within(async {
            let end = loop {
                if let Some(at) = self
                    .rest
                    .windows(4)
                    .position(|window| window == b"\r\n\r\n")
                {
                    break at + 4;
                }
                self.more().await;
            };
            let head = String::from_utf8(self.rest.drain(..end).collect()).unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let mut answer = Answer {
                status,
                head,
                body: Vec::new(),
            };
            let length = answer
                .header("content-length")
                .map_or(0, |length| length.parse().unwrap());
            while self.rest.len() < length {
                self.more().await;
            }
            answer.body = self.rest.drain(..length).collect();
            answer
        })
        .await
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.rest).await.unwrap();
        assert!(read > 0, "the server closed the connection");
    }
}

pub async fn post(address: SocketAddr, message: &AgentToServer) -> Answer {
    Http::connect(address).await.post(message).await
}

// === WebSocket, frame by frame ===

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

pub struct Ws {
    pub http: Http,
}

impl Ws {
    pub async fn connect(address: SocketAddr) -> Self {
        let (ws, answer) = Ws::upgrade(address, "").await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        ws
    }

    pub async fn upgrade(address: SocketAddr, headers: &str) -> (Self, Answer) {
        let mut http = Http::connect(address).await;
        let head = format!(
            "GET /v1/opamp HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        http.stream.write_all(head.as_bytes()).await.unwrap();
        let answer = http.read().await;
        (Ws { http }, answer)
    }

    /// One masked frame with the FIN bit.
    pub async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        self.http
            .stream
            .write_all(&frame(opcode, payload))
            .await
            .unwrap();
    }

    /// A binary message of header and protobuf.
    pub async fn say(&mut self, message: &AgentToServer) {
        let payload = [&[0][..], &message.encode_to_vec()].concat();
        self.frame(BINARY, &payload).await;
    }

    /// The next frame: opcode and payload. Server frames are never masked nor fragmented here.
    pub async fn next(&mut self) -> (u8, Vec<u8>) {
        within(async {
            self.fill(2).await;
            let (opcode, short) = (self.http.rest[0] & 0xf, self.http.rest[1]);
            assert_eq!(short & 0x80, 0, "servers do not mask");
            let (head, length) = match short {
                126 => {
                    self.fill(4).await;
                    (
                        4,
                        usize::from(u16::from_be_bytes(self.http.rest[2..4].try_into().unwrap())),
                    )
                }
                127 => {
                    self.fill(10).await;
                    (
                        10,
                        u64::from_be_bytes(self.http.rest[2..10].try_into().unwrap()) as usize,
                    )
                }
                short => (2, usize::from(short)),
            };
            self.fill(head + length).await;
            let payload = self.http.rest[head..head + length].to_vec();
            self.http.rest.drain(..head + length);
            (opcode, payload)
        })
        .await
    }

    /// The next binary message, its header checked.
    pub async fn hear(&mut self) -> ServerToAgent {
        let (opcode, payload) = self.next().await;
        assert_eq!((opcode, payload.first()), (BINARY, Some(&0)), "{payload:?}");
        ServerToAgent::decode(&payload[1..]).unwrap()
    }

    pub async fn ask(&mut self, message: &AgentToServer) -> ServerToAgent {
        self.say(message).await;
        self.hear().await
    }

    /// The status of the Close frame that comes next, after whatever is still under way.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            let (opcode, payload) = self.next().await;
            if opcode == CLOSE {
                return u16::from_be_bytes(payload[..2].try_into().unwrap());
            }
        }
    }

    /// Nothing comes for a moment.
    pub async fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        self.http.rest.is_empty()
            && tokio::time::timeout(Duration::from_millis(300), self.http.stream.peek(&mut byte))
                .await
                .is_err()
    }

    async fn fill(&mut self, length: usize) {
        while self.http.rest.len() < length {
            self.http.more().await;
        }
    }
}

pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ mask[i % 4]),
    );
    bytes
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("the server took too long")
}

/// Waits until a condition holds.
pub async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
