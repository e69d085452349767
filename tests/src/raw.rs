//! OpAMP byte by byte: an agent that sends what it is told to, over a plain TCP stream.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use proto::opamp::{
    AgentCapabilities, AgentConfigMap, AgentConfigObject, AgentDescription, AgentToServer,
    AnyValue, AvailableComponents, ComponentDetails, ComponentHealth, EffectiveConfig, KeyValue,
    RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent, any_value,
};
use proto::uid::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// When the collectors of raw agents have started, unless a test says otherwise.
pub const STARTED_NANOS: u64 = 1_700_000_000_000_000_000;

/// ReportFullState.
pub const FULL_STATE: u64 = 1;
/// ReportAvailableComponents.
pub const COMPONENTS: u64 = 2;

/// A supervisor with remote config, status, health, components and restart: 0x7c07.
pub const MANAGED: u64 = AgentCapabilities::ReportsStatus as u64
    | AgentCapabilities::AcceptsRemoteConfig as u64
    | AgentCapabilities::ReportsEffectiveConfig as u64
    | AgentCapabilities::AcceptsRestartCommand as u64
    | AgentCapabilities::ReportsHealth as u64
    | AgentCapabilities::ReportsRemoteConfig as u64
    | AgentCapabilities::ReportsHeartbeat as u64
    | AgentCapabilities::ReportsAvailableComponents as u64;

/// `MANAGED` without this bit.
pub fn managed_without(bit: AgentCapabilities) -> u64 {
    MANAGED & !(bit as u64)
}

/// What identifies an agent, and the number of its next message. It knows no rules: tests build each message.
#[derive(Clone, Debug)]
pub struct Script {
    pub uid: [u8; 16],
    /// Of the next message.
    pub number: u64,
    pub capabilities: u64,
    pub attributes: BTreeMap<String, String>,
}

// === impl Script ===

impl Script {
    /// A new uid; `host.name` is `name`, `role` is "raw".
    pub fn new(name: &str) -> Self {
        let attributes = [
            ("service.name", "otelcol-contrib"),
            ("service.version", "0.163.0"),
            ("host.name", name),
            ("os.type", "linux"),
            ("role", "raw"),
        ];
        Script {
            uid: *uuid::Uuid::now_v7().as_bytes(),
            number: 0,
            capabilities: MANAGED,
            attributes: attributes
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn capable(mut self, capabilities: u64) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The uid as people write it.
    pub fn uid(&self) -> String {
        Uid::from_wire(&self.uid).unwrap().to_string()
    }

    /// The next message, nothing in it but uid, number and capabilities.
    pub fn bare(&mut self) -> AgentToServer {
        let number = self.number;
        self.number = self.number.wrapping_add(1);
        AgentToServer {
            instance_uid: self.uid.to_vec().into(),
            sequence_num: number,
            capabilities: self.capabilities,
            ..AgentToServer::default()
        }
    }

    /// The next message, with description and health.
    pub fn full(&mut self) -> AgentToServer {
        AgentToServer {
            agent_description: Some(self.description()),
            health: Some(healthy()),
            ..self.bare()
        }
    }

    /// The next message, with a config status.
    pub fn status(
        &mut self,
        hash: &[u8],
        status: RemoteConfigStatuses,
        error: &str,
    ) -> AgentToServer {
        AgentToServer {
            remote_config_status: Some(config_status(hash, status, error)),
            ..self.bare()
        }
    }

    pub fn description(&self) -> AgentDescription {
        let pair = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(value.to_owned())),
            }),
        };
        let identifies = |key: &str| key.starts_with("service.");
        AgentDescription {
            identifying_attributes: self
                .attributes
                .iter()
                .filter(|(k, _)| identifies(k))
                .map(|(k, v)| pair(k, v))
                .collect(),
            non_identifying_attributes: self
                .attributes
                .iter()
                .filter(|(k, _)| !identifies(k))
                .map(|(k, v)| pair(k, v))
                .collect(),
        }
    }
}

pub fn healthy() -> ComponentHealth {
    ComponentHealth {
        healthy: true,
        status: "StatusOK".to_owned(),
        start_time_unix_nano: STARTED_NANOS,
        ..ComponentHealth::default()
    }
}

pub fn config_status(hash: &[u8], status: RemoteConfigStatuses, error: &str) -> RemoteConfigStatus {
    RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec(),
        status: status.into(),
        error_message: error.to_owned(),
    }
}

/// An effective config of one file without a name.
pub fn effective(yaml: &str) -> EffectiveConfig {
    let object = AgentConfigObject {
        body: yaml.as_bytes().to_vec(),
        ..AgentConfigObject::default()
    };
    EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [(String::new(), object)].into(),
        }),
    }
}

/// A component list: its hash alone, or with its content.
pub fn components(hash: &[u8], whole: bool) -> AvailableComponents {
    let kind = ComponentDetails {
        sub_component_map: [("otlp".to_owned(), ComponentDetails::default())].into(),
        ..ComponentDetails::default()
    };
    AvailableComponents {
        hash: hash.to_vec(),
        components: if whole {
            [("receivers".to_owned(), kind)].into()
        } else {
            Default::default()
        },
    }
}

/// Delivery hash of the config in a reply, and its bodies.
pub fn offer(reply: &ServerToAgent) -> Option<(Vec<u8>, BTreeMap<String, String>)> {
    let offer = reply.remote_config.as_ref()?;
    let files = offer
        .config
        .as_ref()
        .map(|map| &map.config_map)
        .into_iter()
        .flatten();
    let files =
        files.map(|(name, file)| (name.clone(), String::from_utf8(file.body.clone()).unwrap()));
    Some((offer.config_hash.clone(), files.collect()))
}

// === plain HTTP ===

/// What the server sent back.
#[derive(Clone, Debug)]
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

/// One connection of a polling agent.
pub struct Http {
    stream: TcpStream,
    rest: Vec<u8>,
    /// Whole header lines sent with each request, each ended by CRLF.
    pub headers: String,
}

impl Http {
    pub async fn connect(address: SocketAddr) -> Self {
        Http {
            stream: TcpStream::connect(address).await.unwrap(),
            rest: Vec::new(),
            headers: String::new(),
        }
    }

    pub async fn connect_with_token(address: SocketAddr, token: &str) -> Self {
        Http {
            headers: format!("Authorization: Bearer {token}\r\n"),
            ..Http::connect(address).await
        }
    }

    /// Posts a message; the answer must be a message.
    pub async fn ask(&mut self, message: &AgentToServer) -> ServerToAgent {
        self.post(&message.encode_to_vec()).await.message()
    }

    pub async fn post(&mut self, body: &[u8]) -> Answer {
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n{}Content-Length: {}\r\n\r\n",
            self.headers,
            body.len()
        );
        self.stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .unwrap();
        self.read().await
    }

    async fn read(&mut self) -> Answer {
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

// === WebSocket ===

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A standing connection, frame by frame.
pub struct Ws {
    http: Http,
}

impl Ws {
    pub async fn connect(address: SocketAddr) -> Self {
        let (ws, answer) = Ws::upgrade(address, "").await;
        assert_eq!(answer.status, 101, "{}", answer.head);
        ws
    }

    /// Asks for a connection; `headers` are whole lines.
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

    /// A binary message: the header (a varint of value 0) and the protobuf.
    pub async fn say(&mut self, message: &AgentToServer) {
        self.say_bytes(&[&[0][..], &message.encode_to_vec()].concat())
            .await;
    }

    /// A binary message of exactly these bytes.
    pub async fn say_bytes(&mut self, payload: &[u8]) {
        self.http
            .stream
            .write_all(&frame(BINARY, payload))
            .await
            .unwrap();
    }

    pub async fn ask(&mut self, message: &AgentToServer) -> ServerToAgent {
        self.say(message).await;
        self.hear().await
    }

    /// The next message of the server.
    pub async fn hear(&mut self) -> ServerToAgent {
        loop {
            let (opcode, payload) = self.next().await;
            if opcode == PING {
                continue;
            }
            assert_eq!((opcode, payload.first()), (BINARY, Some(&0)), "{payload:?}");
            return ServerToAgent::decode(&payload[1..]).unwrap();
        }
    }

    /// A Close frame that says all is well.
    pub async fn close(&mut self) {
        self.http
            .stream
            .write_all(&frame(CLOSE, &1000u16.to_be_bytes()))
            .await
            .unwrap();
    }

    /// The Close frame that comes next.
    pub async fn closed(&mut self) -> u16 {
        loop {
            let (opcode, payload) = self.next().await;
            if opcode == CLOSE {
                return u16::from_be_bytes(payload[..2].try_into().unwrap());
            }
        }
    }

    /// Servers neither mask nor fragment here.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        within(async {
            self.fill(2).await;
            let (opcode, short) = (self.http.rest[0] & 0xf, self.http.rest[1]);
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

    async fn fill(&mut self, bytes: usize) {
        while self.http.rest.len() < bytes {
            self.http.more().await;
        }
    }
}

/// One masked frame with the FIN bit.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("the server does not answer")
}
