//! A small OpAMP server: remembers what it saw, offers one config once per agent, refuses on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use muster_loadtest::collector::config_map;
use prost::Message;
use proto::opamp::{AgentRemoteConfig, AgentToServer, ServerToAgent, any_value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// What the server knows, for the tests to look at.
#[derive(Default)]
pub struct Seen {
    last: BTreeMap<Vec<u8>, u64>,
    offered: BTreeMap<Vec<u8>, Vec<u8>>,
    offer: Option<(Vec<u8>, String)>,
    refuse: (u16, usize),
    pub refused: Vec<Bytes>,
    pub gaps: Vec<(u64, u64)>,
    pub goodbyes: usize,
    pub labels: BTreeSet<String>,
    authorizations: BTreeSet<String>,
    connections: usize,
}

pub struct Server {
    url: String,
    seen: Arc<Mutex<Seen>>,
    cut: watch::Sender<u64>,
}

/// A certificate for localhost, and its file.
pub struct Tls {
    certified: rcgen::CertifiedKey<rcgen::KeyPair>,
    folder: tempfile::TempDir,
}

impl Tls {
    pub fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certified.cert.pem()).unwrap();
        Tls { certified, folder }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let key =
            rustls_pki_types::PrivateKeyDer::try_from(self.certified.signing_key.serialize_der())
                .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certified.cert.der().clone()], key)
            .unwrap();
        Arc::new(config).into()
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::listen("http", None).await
    }

    pub async fn start_tls(tls: &Tls) -> Self {
        Self::listen("https", Some(tls.acceptor())).await
    }

    async fn listen(scheme: &str, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "{scheme}://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (cut, _) = watch::channel(0);
        tokio::spawn(accept(listener, tls, seen.clone(), cut.clone()));
        Server { url, seen, cut }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Each agent gets it once, with its next answer.
    pub fn offer(&self, hash: &[u8], body: &str) {
        self.seen.lock().unwrap().offer = Some((hash.to_vec(), body.to_owned()));
    }

    /// The next `times` requests over HTTP get this status.
    pub fn refuse(&self, status: u16, times: usize) {
        self.seen.lock().unwrap().refuse = (status, times);
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        self.cut.send_modify(|generation| *generation += 1);
    }

    pub fn refused(&self) -> Vec<Bytes> {
        self.seen.lock().unwrap().refused.clone()
    }

    pub fn gaps(&self) -> Vec<(u64, u64)> {
        self.seen.lock().unwrap().gaps.clone()
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn agents(&self) -> usize {
        self.seen.lock().unwrap().last.len()
    }

    pub fn authorizations(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap().authorizations.clone()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        for _ in 0..500 {
            if holds(&self.seen.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited for {what}");
    }
}

impl Seen {
    fn take(&mut self, message: &AgentToServer) -> ServerToAgent {
        let uid = message.instance_uid.to_vec();
        let number = message.sequence_num;
        if let Some(last) = self.last.insert(uid.clone(), number)
            && number != last + 1
            && number != 0
        {
            self.gaps.push((last, number));
        }
        self.goodbyes += usize::from(message.agent_disconnect.is_some());
        for attribute in message
            .agent_description
            .iter()
            .flat_map(|d| &d.non_identifying_attributes)
        {
            if let Some(any_value::Value::StringValue(value)) =
                attribute.value.as_ref().and_then(|v| v.value.as_ref())
            {
                self.labels.insert(value.clone());
            }
        }
        let mut reply = ServerToAgent {
            instance_uid: uid.clone(),
            capabilities: 7,
            ..Default::default()
        };
        if let Some((hash, body)) = &self.offer
            && self.offered.insert(uid, hash.clone()).as_ref() != Some(hash)
        {
            reply.remote_config = Some(AgentRemoteConfig {
                config: Some(config_map(body)),
                config_hash: hash.clone(),
            });
        }
        reply
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    seen: Arc<Mutex<Seen>>,
    cut: watch::Sender<u64>,
) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        seen.lock().unwrap().connections += 1;
        let (seen, cut, tls) = (seen.clone(), cut.subscribe(), tls.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => serve(Box::pin(tls.accept(tcp)).await.unwrap(), seen, cut).await,
                None => serve(tcp, seen, cut).await,
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    seen: Arc<Mutex<Seen>>,
    mut cut: watch::Receiver<u64>,
) {
    let service_cut = cut.clone();
    let service = service_fn(move |request| answer(request, seen.clone(), service_cut.clone()));
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        _ = connection => {}
        _ = cut.changed() => {}
    }
}

async fn answer(
    mut request: http::Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
    cut: watch::Receiver<u64>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let header = |name| Some(request.headers().get(name)?.to_str().unwrap().to_owned());
    seen.lock()
        .unwrap()
        .authorizations
        .extend(header("authorization"));
    assert_eq!(request.uri().path(), "/v1/opamp");
    if let Some(key) = header("sec-websocket-key") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(talk(upgrade, seen, cut));
        let response = http::Response::builder()
            .status(101)
            .header("upgrade", "websocket")
            .header("connection", "upgrade")
            .header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
        return Ok(response.body(Full::default()).unwrap());
    }
    assert_eq!(
        header("content-type").as_deref(),
        Some("application/x-protobuf")
    );
    let body = request
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let mut seen = seen.lock().unwrap();
    if seen.refuse.1 > 0 {
        seen.refuse.1 -= 1;
        seen.refused.push(body);
        return Ok(http::Response::builder()
            .status(seen.refuse.0)
            .body(Full::default())
            .unwrap());
    }
    let reply = seen
        .take(&AgentToServer::decode(body).unwrap())
        .encode_to_vec();
    let response = http::Response::builder().header("content-type", "application/x-protobuf");
    Ok(response.body(Full::new(reply.into())).unwrap())
}

async fn talk(
    upgrade: hyper::upgrade::OnUpgrade,
    seen: Arc<Mutex<Seen>>,
    mut cut: watch::Receiver<u64>,
) {
    let stream = TokioIo::new(upgrade.await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    loop {
        let frame = tokio::select! {
            frame = socket.next() => frame,
            _ = cut.changed() => return,
        };
        let Some(Ok(Frame::Binary(frame))) = frame else {
            return;
        };
        assert_eq!(frame[0], 0, "the header is a zero byte");
        let reply = seen
            .lock()
            .unwrap()
            .take(&AgentToServer::decode(&frame[1..]).unwrap());
        let frame = [vec![0], reply.encode_to_vec()].concat();
        if socket.send(Frame::Binary(frame.into())).await.is_err() {
            return;
        }
    }
}
