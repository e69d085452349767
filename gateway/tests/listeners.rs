//! Addresses, TLS, Host and Origin rules, and the operators' side.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post as post_route};
use axum::{Extension, Router};
use gateway::api::{self, Services};
use gateway::{Gateway, Limits, Listener, Operator, StartError, TlsFiles};
use prometheus_client::registry::Registry;
use rustls::pki_types::{CertificateDer, ServerName};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

// T3
#[test]
fn the_default_port_is_4320() {
    assert_eq!(gateway::Config::default().listener.address.port(), 4320);
}

#[tokio::test]
async fn a_public_address_without_tls_or_tokens_does_not_start_unless_told_so_in_words() {
    let mut config = config(Limits::default());
    config.listener.address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let refused = Gateway::bind(config.clone(), TestLink::content(), TestAccess(true))
        .err()
        .unwrap();
    assert!(matches!(refused, StartError::Public { .. }));
    assert!(refused.to_string().contains("--tls-cert"));
    config.listener.insecure_public = true;
    assert!(Gateway::bind(config, TestLink::content(), TestAccess(false)).is_ok());
}

// DNS rebinding
#[tokio::test]
async fn foreign_hosts_and_origins_are_403_on_an_open_loopback_listener() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let cases = [
        ("Host: evil.example\r\n", 403),
        ("Host: 127.0.0.1.evil.example:4320\r\n", 403),
        ("Host: localhost:1\r\nOrigin: https://evil.example\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
        ("Host: [::1]:1\r\nOrigin: http://127.0.0.1:3000\r\n", 200),
        ("Host: LOCALHOST\r\n", 200),
    ];
    for (headers, status) in cases {
        let body = prost::Message::encode_to_vec(&bare(1, 0));
        let mut client = Http::connect(running.address).await;
        let headers = format!("Content-Type: application/x-protobuf\r\n{headers}");
        let answer = client.send("POST", "/v1/opamp", &headers, &body).await;
        assert_eq!(answer.status, status, "{headers}");
    }
    let (_, answer) = Ws::upgrade(running.address, "Origin: https://evil.example\r\n").await;
    assert_eq!(answer.status, 403);
}

struct Issued {
    certificate: CertificateDer<'static>,
}

fn issue(files: &TlsFiles) -> Issued {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    Issued {
        certificate: made.cert.der().clone(),
    }
}

async fn handshake(
    address: SocketAddr,
    trusted: &Issued,
    alpn: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

fn tls_files(directory: &tempfile::TempDir) -> TlsFiles {
    TlsFiles {
        certificate: directory.path().join("cert.pem"),
        key: directory.path().join("key.pem"),
    }
}

// H12
#[tokio::test]
async fn tls_offers_h2_and_http_1_1_on_one_port() {
    let directory = tempfile::tempdir().unwrap();
    let files = tls_files(&directory);
    let issued = issue(&files);
    let mut config = config(Limits::default());
    config.listener.tls = Some(files);
    let running = start_with(&TestLink::content(), config, true);
    let h2 = handshake(running.address, &issued, "h2").await.unwrap();
    assert_eq!(h2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut h1 = handshake(running.address, &issued, "http/1.1")
        .await
        .unwrap();
    assert_eq!(h1.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    h1.write_all(b"GET /v1/opamp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    within(h1.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[tokio::test]
async fn a_new_certificate_is_used_without_restart_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let files = tls_files(&directory);
    let first = issue(&files);
    let mut config = config(Limits {
        certificate_poll: Duration::from_millis(50),
        ..Limits::default()
    });
    config.listener.tls = Some(files.clone());
    let running = start_with(&TestLink::content(), config, true);
    handshake(running.address, &first, "h2").await.unwrap();
    std::fs::write(&files.certificate, "broken").unwrap();
    // Several looks at the files: none of them may take the broken one.
    tokio::time::sleep(Duration::from_millis(300)).await;
    handshake(running.address, &first, "h2").await.unwrap();
    let second = issue(&files);
    within(async {
        while handshake(running.address, &second, "h2").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(handshake(running.address, &first, "h2").await.is_err());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_at_start() {
    let mut config = config(Limits::default());
    config.listener.tls = Some(TlsFiles {
        certificate: "/nowhere/cert.pem".into(),
        key: "/nowhere/key.pem".into(),
    });
    let refused = Gateway::bind(config, TestLink::content(), TestAccess(true))
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("/nowhere/cert.pem"),
        "{refused}"
    );
}

// === operators ===

struct Api {
    address: SocketAddr,
    drain: CancellationToken,
}

fn start_api(tokens: bool) -> Api {
    let who = |Extension(operator): Extension<Operator>| async move {
        format!("{} {:?}", operator.name, operator.role)
    };
    let router = Router::new()
        .route("/who", get(who))
        .route("/muster.v1.Agents/List", post_route(who))
        .route("/console/index.html", get(|| async { "page" }));
    let mut registry = Registry::default();
    gateway::Metrics::default().register(&mut registry);
    let services = Services {
        router,
        open_paths: vec!["/console/*".to_owned()],
        registry: Arc::new(registry),
        ready: Arc::new(|| Err("the first leader".to_owned())),
    };
    let mut listener = Listener::loopback(0);
    listener.origins = vec!["https://console.example".to_owned()];
    let bound = api::bind(
        &listener,
        Limits::default(),
        Arc::new(TestAccess(tokens)),
        services,
    )
    .unwrap();
    let api = Api {
        address: bound.address(),
        drain: CancellationToken::new(),
    };
    tokio::spawn(bound.run(api.drain.clone()));
    api
}

async fn get_path(api: &Api, path: &str, headers: &str) -> (u16, String, Answer) {
    let answer = Http::connect(api.address)
        .await
        .send("GET", path, headers, b"")
        .await;
    (
        answer.status,
        String::from_utf8(answer.body.clone()).unwrap(),
        answer,
    )
}

#[tokio::test]
async fn health_needs_no_token_and_readiness_says_what_it_waits_for() {
    let api = start_api(true);
    assert_eq!(get_path(&api, "/healthz", "").await.0, 200);
    let (status, body, _) = get_path(&api, "/readyz", "").await;
    assert_eq!(
        (status, body.as_str()),
        (503, "not ready: the first leader\n")
    );
}

#[tokio::test]
async fn without_tokens_an_operator_is_the_user_who_says_so() {
    let api = start_api(false);
    assert_eq!(get_path(&api, "/who", "").await.1, "local/unknown Admin");
    assert_eq!(
        get_path(&api, "/who", "Muster-User: ann<script>\r\n")
            .await
            .1,
        "local/annscript Admin"
    );
}

#[tokio::test]
async fn with_tokens_an_operator_is_who_the_token_names() {
    let api = start_api(true);
    let (status, _, answer) = get_path(&api, "/who", "Muster-User: root\r\n").await;
    assert_eq!(
        (status, answer.header("www-authenticate")),
        (401, Some("Bearer realm=\"muster\""))
    );
    assert_eq!(
        get_path(&api, "/who", "Authorization: Bearer operator\r\n")
            .await
            .1,
        "ann Editor"
    );
    assert_eq!(get_path(&api, "/console/index.html", "").await.1, "page");
    assert_eq!(get_path(&api, "/metrics", "").await.0, 401);
    let (status, text, _) = get_path(&api, "/metrics", "Authorization: Bearer operator\r\n").await;
    assert_eq!(status, 200);
    assert!(text.contains("muster_gateway_check_ins_total"), "{text}");
}

#[tokio::test]
async fn grpc_clients_without_a_token_read_unauthenticated_in_their_own_status() {
    let api = start_api(true);
    for kind in ["application/grpc", "application/grpc-web+proto"] {
        let headers = format!("Content-Type: {kind}\r\n");
        let answer = Http::connect(api.address)
            .await
            .send("POST", "/muster.v1.Agents/List", &headers, b"")
            .await;
        assert_eq!(
            (answer.status, answer.header("grpc-status")),
            (200, Some("16")),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn browsers_are_let_in_from_loopback_and_configured_origins_only() {
    let api = start_api(true);
    let preflight = |origin: &str| {
        let headers = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: x-grpc-web,authorization\r\n"
        );
        let address = api.address;
        async move {
            Http::connect(address)
                .await
                .send("OPTIONS", "/muster.v1.Agents/List", &headers, b"")
                .await
        }
    };
    for origin in ["https://console.example", "http://localhost:5173"] {
        assert_eq!(
            preflight(origin)
                .await
                .header("access-control-allow-origin"),
            Some(origin)
        );
    }
    assert_eq!(
        preflight("https://evil.example")
            .await
            .header("access-control-allow-origin"),
        None
    );
    let open = start_api(false);
    assert_eq!(
        get_path(&open, "/who", "Origin: https://evil.example\r\n")
            .await
            .0,
        403
    );
    assert_eq!(
        get_path(&open, "/who", "Host: evil.example\r\n").await.0,
        403
    );
}
