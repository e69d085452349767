//! The process itself: start and stop, tokens, listeners, what machines read of it, what it refuses.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::collections::BTreeSet;
use std::time::Duration;

use muster_loadtest::fleet::Transport;
use muster_loadtest::{Fleet, FleetConfig};
use prost::Message;
use proto::api::{
    AgentHistoryRequest, ListAgentsRequest, ListAgentsResponse, RestartAgentsRequest,
    StartRolloutRequest,
};
use proto::opamp::AgentCapabilities;
use system_tests::api::Api;
use system_tests::manifest::{config, family, role};
use system_tests::metrics::Exposed;
use system_tests::otlp::Receiver;
use system_tests::raw::{self, FULL_STATE, Http, Script, Ws};
use system_tests::server::{Server, free_address, get, serve_that_refuses};
use system_tests::wait::{SOON, eventually, holds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

// === start and stop ===

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_clean_in_time_with_agents_connected() {
    let mut server = Server::start(&["--agent-interval", "300ms"]);
    let mut config = FleetConfig::fast(server.http_url(), 20);
    config.transport = Transport::Mixed;
    let fleet = Fleet::start(config).unwrap();
    fleet.connected(SOON).await.unwrap();
    let mut ws = Ws::connect(server.opamp).await;
    ws.ask(&Script::new("standing").full()).await;
    server.stop();
    assert_eq!(
        ws.closed().await,
        1001,
        "a drain says that the server goes away"
    );
    server.again();
    let before = fleet.stats().check_ins;
    fleet
        .until("the fleet to be back", SOON, |_, now| {
            now.check_ins > before + 100 && now.connected == 20
        })
        .await
        .unwrap();
    assert_eq!(
        fleet.stats().full_state_requests,
        0,
        "a clean stop loses no conversation"
    );
}

#[tokio::test]
async fn sigterm_ends_it_clean_in_time_with_peers_that_do_not_answer() {
    let mut server = Server::start(&[]);
    // No Close is ever answered: nobody reads these.
    let mut silent = Vec::new();
    for n in 0..20 {
        let mut ws = Ws::connect(server.opamp).await;
        ws.ask(&Script::new(&format!("silent-{n}")).full()).await;
        silent.push(ws);
    }
    silent.push(Ws::connect(server.opamp).await);
    let post = |path: &str, kind: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n");
        format!("{head}Content-Length: 1000\r\n\r\n{}", "x".repeat(500))
    };
    let report = post("/v1/opamp", "application/x-protobuf");
    let call = post(
        "/muster.v1.AgentService/ListAgents",
        "application/grpc-web+proto",
    );
    // Half of a body, half of a head, and nothing at all.
    let mut half = Vec::new();
    for (address, sent) in [
        (server.opamp, report.as_str()),
        (server.opamp, &report[..20]),
        (server.opamp, ""),
        (server.api, call.as_str()),
        (server.api, &call[..20]),
        (server.api, ""),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        half.push(stream);
    }
    // Whoever asks now is answered after those were read.
    Http::connect(server.opamp)
        .await
        .ask(&Script::new("last").full())
        .await;
    server.stop();
    drop((silent, half));
    server.again();
    assert_eq!(Api::new(server.api).list("").await.len(), 21);
}

#[tokio::test]
async fn what_an_agent_says_before_it_sees_the_close_is_heard_by_a_clean_stop() {
    let mut server = Server::start(&[]);
    let mut agent = Script::new("hasty");
    let mut ws = Ws::connect(server.opamp).await;
    ws.ask(&agent.full()).await;
    server.terminate();
    assert_eq!(ws.closed().await, 1001);
    ws.say(&agent.bare()).await;
    ws.close().await;
    server.stop();
    server.again();
    let mut ws = Ws::connect(server.opamp).await;
    let answer = ws.ask(&agent.bare()).await;
    assert_eq!(
        answer.flags & FULL_STATE,
        0,
        "no message was lost, so nothing is asked for"
    );
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let mut server = Server::start(&[]);
    let mut agent = Script::new("a");
    Http::connect(server.opamp).await.ask(&agent.full()).await;
    let manifest = server.write(
        "f.yaml",
        &family("f", 1, &[role("raw", "role = raw", &config("one"))]),
    );
    server.cli().apply(&manifest);
    server.cli().ok(&["agents", "label", "a", "env=prod"]);
    server.kill_and_restart();
    let shown = Api::new(server.api).agent("a").await;
    assert_eq!(
        shown.operator_labels.get("env").map(String::as_str),
        Some("prod")
    );
    assert_eq!(
        server.cli().json(&["families", "get", "f"])["family"]["latest"],
        1
    );
    assert_eq!(server.cli().run(&["audit", "verify"]).code, 0);
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let server = Server::start(&[]);
    let (opamp, api) = (free_address().to_string(), free_address().to_string());
    let data = server.data.to_str().unwrap();
    let refused = serve_that_refuses(&[
        "--data-dir",
        data,
        "--opamp-listen",
        &opamp,
        "--api-listen",
        &api,
    ]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(
        refused.log.contains(data) && refused.log.contains("use"),
        "{refused:?}"
    );
    assert_eq!(
        get(server.api, "/readyz").unwrap().0,
        200,
        "the first one is not disturbed"
    );
}

#[test]
fn a_public_address_without_tls_or_tokens_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (public, api) = (
        format!("0.0.0.0:{}", free_address().port()),
        free_address().to_string(),
    );
    let data = directory.path().to_str().unwrap();
    let refused = serve_that_refuses(&[
        "--data-dir",
        data,
        "--opamp-listen",
        &public,
        "--api-listen",
        &api,
    ]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    for word in [
        public.as_str(),
        "--tls-cert",
        "--require-tokens",
        "--insecure-public",
    ] {
        assert!(refused.log.contains(word), "{word}: {refused:?}");
    }
}

// === tokens ===

#[tokio::test]
async fn with_required_tokens_nobody_speaks_without_one() {
    let server = Server::start(&["--require-tokens"]);
    let mut agent = Script::new("a");
    let first = prost::Message::encode_to_vec(&agent.full());
    let answer = Http::connect(server.opamp).await.post(&first).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").is_some());
    let (_, upgrade) = Ws::upgrade(server.opamp, "Authorization: Bearer nonsense\r\n").await;
    assert_eq!(upgrade.status, 401);
    let refused = server.cli().run(&["agents", "list"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    let wrong = server.cli().with_token("nonsense").run(&["agents", "list"]);
    assert_eq!(wrong.code, 6, "{wrong:?}");
    let admin = server.cli().with_token(&admin_token(&server));
    assert_eq!(admin.run(&["agents", "list"]).code, 0);
}

#[tokio::test]
async fn an_agent_carries_the_labels_of_its_enrolment_token_and_no_other_token_speaks_for_it() {
    let server = Server::start(&["--require-tokens"]);
    let admin = server.cli().with_token(&admin_token(&server));
    let create = |name: &str, label: &str| {
        let created = admin.json(&[
            "tokens", "create", name, "--kind", "agent", "--label", label,
        ]);
        created["secret"].as_str().unwrap().to_owned()
    };
    let (blue, green) = (create("blue", "site=blue"), create("green", "site=green"));
    let mut agent = Script::new("a");
    let mut http = Http::connect_with_token(server.opamp, &blue).await;
    http.ask(&agent.full()).await;
    let shown = admin.json(&["agents", "get", "a"]);
    assert_eq!(
        (&shown["token"], &shown["token_labels"]["site"]),
        (&"blue".into(), &"blue".into()),
        "{shown}"
    );

    let reply = Http::connect_with_token(server.opamp, &green)
        .await
        .ask(&agent.full())
        .await;
    let error = reply.error_response.expect("another token is refused");
    assert!(
        error.error_message.contains("blue") && error.error_message.contains("green"),
        "{error:?}"
    );
    let shown = admin.json(&["agents", "get", "a"]);
    assert_eq!(shown["token_labels"]["site"], "blue");

    admin.ok(&["tokens", "revoke", "blue"]);
    eventually(SOON, "the revoked token to be refused", async || {
        let body = prost::Message::encode_to_vec(&agent.bare());
        let status = Http::connect_with_token(server.opamp, &blue)
            .await
            .post(&body)
            .await
            .status;
        holds(status == 401, status)
    })
    .await;
}

#[tokio::test]
async fn an_operator_may_do_what_the_role_of_its_token_says() {
    let server = Server::start(&["--require-tokens"]);
    let admin = server.cli().with_token(&admin_token(&server));
    let created = admin.json(&[
        "tokens", "create", "eve", "--kind", "operator", "--role", "viewer",
    ]);
    let viewer = server.cli().with_token(created["secret"].as_str().unwrap());
    assert_eq!(viewer.run(&["agents", "list"]).code, 0);
    let manifest = server.write(
        "f.yaml",
        &family("f", 1, &[role("raw", "role = raw", &config("one"))]),
    );
    let refused = viewer.run(&["apply", "-f", manifest.to_str().unwrap()]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert_eq!(
        viewer
            .run(&["tokens", "create", "more", "--kind", "agent"])
            .code,
        6
    );
    admin.apply(&manifest);
    let secret = created["secret"].as_str().unwrap();
    assert!(
        !server.log().contains(secret)
            && !admin.ok(&["tokens", "list", "-o", "json"]).contains(secret)
    );
}

fn admin_token(server: &Server) -> String {
    std::fs::read_to_string(server.data.join("admin.token"))
        .unwrap()
        .trim()
        .to_owned()
}

// === what machines read ===

#[tokio::test]
async fn grpc_clients_find_reflection_and_health() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let server = Server::start(&[]);
    let channel = Endpoint::from_shared(server.api_url())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    for service in ["", "muster.v1.AgentService", "muster.v1.RolloutService"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = reflection
        .server_reflection_info(tonic_stream(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = services
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in [
        "AgentService",
        "FamilyService",
        "RolloutService",
        "AdminService",
    ] {
        assert!(
            names.contains(&format!("muster.v1.{service}").as_str()),
            "{names:?}"
        );
    }
}

fn tonic_stream<T: Send + 'static>(one: T) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::iter([one])
}

#[tokio::test]
async fn a_browser_reads_the_fleet_over_grpc_web() {
    let server = Server::start(&[]);
    let mut http = Http::connect(server.opamp).await;
    http.ask(&Script::new("seen-by-a-browser").full()).await;
    let request = ListAgentsRequest::default().encode_to_vec();
    let length = u32::try_from(request.len()).unwrap().to_be_bytes();
    let frame = [&[0][..], &length, &request].concat();
    // HTTP/1.0, so that the answer ends with the connection.
    let head = format!(
        "POST /muster.v1.AgentService/ListAgents HTTP/1.0\r\nHost: {}\r\nContent-Type: application/grpc-web+proto\r\n\
         X-Grpc-Web: 1\r\nContent-Length: {}\r\n\r\n",
        server.api,
        frame.len()
    );
    let mut browser = TcpStream::connect(server.api).await.unwrap();
    let sent = [head.as_bytes(), &frame].concat();
    browser.write_all(&sent).await.unwrap();
    let mut answer = Vec::new();
    browser.read_to_end(&mut answer).await.unwrap();
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let body = &answer[head..];
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    let list = ListAgentsResponse::decode(&body[5..5 + length]).unwrap();
    assert_eq!(list.agents[0].name, "seen-by-a-browser");
    let trailers = String::from_utf8_lossy(&body[5 + length..]);
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_the_figures_of_metrics_go_to_the_otlp_endpoint() {
    let receiver = Receiver::start().await;
    let mut server = Server::start(&["--otlp-endpoint", &receiver.endpoint]);
    let mut http = Http::connect(server.opamp).await;
    http.ask(&Script::new("a").full()).await;
    // A stop sends what has not been sent.
    server.stop();
    assert!(
        receiver.has_trace(&["check-in", "report", "commit"]),
        "{:?}",
        receiver.spans()
    );
    assert!(receiver.has_figure("muster_agents"));
    assert!(receiver.has_figure("muster_gateway_sessions"));
}

#[tokio::test]
async fn metrics_count_the_agents_and_are_those_that_the_manual_lists() {
    let server = Server::start(&[]);
    Http::connect(server.opamp)
        .await
        .ask(&Script::new("a").full())
        .await;
    eventually(
        Duration::from_secs(20),
        "one connected agent in the metrics",
        async || {
            let (status, body) = get(server.api, "/metrics").unwrap();
            let line = body
                .lines()
                .find(|line| line.starts_with("muster_agents{") && line.contains("connected"));
            holds(
                status == 200 && line.is_some_and(|line| line.ends_with(" 1")),
                line,
            )
        },
    )
    .await;
    let exposed = Exposed::at(server.api);
    assert_eq!(exposed.unlisted(), BTreeSet::new());
    assert_eq!(
        exposed.total("muster_group_leads"),
        9.0,
        "control and eight partitions"
    );
    assert_eq!(exposed.total("muster_gateway_check_ins_total"), 1.0);
    assert!(exposed.total("muster_log_syncs_total") > 0.0);
    assert_eq!(get(server.api, "/healthz").unwrap().0, 200);
}

// === the operator API ===

#[tokio::test]
async fn a_call_repeated_with_its_key_happens_once() {
    let server = Server::start(&[]);
    let api = Api::new(server.api);
    let restarts = AgentCapabilities::AcceptsRestartCommand as u64;
    let mut agent = Script::new("a").capable(raw::MANAGED | restarts);
    let mut http = Http::connect(server.opamp).await;
    http.ask(&agent.full()).await;
    let restart = RestartAgentsRequest {
        uids: vec![agent.uid()],
        idempotency_key: "k1".to_owned(),
        ..Default::default()
    };
    let again = async || {
        let changed = api.agents.clone().restart_agents(restart.clone()).await;
        let changed = changed.unwrap().into_inner();
        assert_eq!(changed.changed, 1, "{changed:?}");
    };
    again().await;
    again().await;
    let mut ordered = 0;
    for i in 0..24 {
        // The gateway learns a moment later that something is pending.
        ordered += usize::from(http.ask(&agent.bare()).await.command.is_some());
        tokio::time::sleep(Duration::from_millis(25)).await;
        if i == 19 {
            again().await;
        }
    }
    assert_eq!(ordered, 1, "one order is one restart");

    let manifest = family("f", 1, &[role("raw", "role = raw", &config("one"))]);
    server.cli().apply(&server.write("f.yaml", &manifest));
    let start = StartRolloutRequest {
        family: "f".to_owned(),
        idempotency_key: "k1".to_owned(),
        ..Default::default()
    };
    let mut started = Vec::new();
    for _ in 0..2 {
        let rollout = api.rollouts.clone().start_rollout(start.clone()).await;
        started.push(rollout.unwrap().into_inner().id);
    }
    assert_eq!(started[0], started[1], "one order is one rollout");
    let other = StartRolloutRequest {
        idempotency_key: "k2".to_owned(),
        ..start
    };
    let refused = api.rollouts.clone().start_rollout(other).await.unwrap_err();
    assert!(refused.message().contains(&started[0]), "{refused}");
}

#[tokio::test]
async fn a_list_is_sorted_by_any_attribute_and_read_in_pages_that_join() {
    let server = Server::start(&[]);
    let api = Api::new(server.api);
    let mut http = Http::connect(server.opamp).await;
    for (name, rack) in [
        ("a", "r3"),
        ("b", "r1"),
        ("c", "r5"),
        ("d", "r2"),
        ("e", "r4"),
    ] {
        http.ask(&Script::new(name).with("rack", rack).full()).await;
    }
    server.cli().ok(&["agents", "label", "d", "tier=gold"]);
    let mut names = Vec::new();
    let mut gold = Vec::new();
    let mut request = ListAgentsRequest {
        sort: "-rack".to_owned(),
        page_size: 2,
        ..Default::default()
    };
    loop {
        let page = api.agents.clone().list_agents(request.clone()).await;
        let page = page.unwrap().into_inner();
        assert_eq!(page.total, 5);
        for agent in page.agents {
            gold.extend(agent.labels.get("tier").map(|_| agent.name.clone()));
            names.push(agent.name);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["c", "e", "a", "d", "b"]);
    assert_eq!(gold, ["d"], "a label is shown with the agent that has it");
}

#[tokio::test]
async fn an_agent_that_flaps_writes_no_more_than_its_budget() {
    let server = Server::start(&[]);
    let mut agent = Script::new("a");
    let mut http = Http::connect(server.opamp).await;
    http.ask(&agent.full()).await;
    for i in 0..300 {
        let mut message = agent.bare();
        message.health = Some(proto::opamp::ComponentHealth {
            healthy: i % 2 == 0,
            ..raw::healthy()
        });
        let answer = http.ask(&message).await;
        assert!(
            answer.error_response.is_none(),
            "it is answered all the same"
        );
    }
    let history = AgentHistoryRequest {
        uid: agent.uid(),
        limit: 1_000,
    };
    let api = Api::new(server.api);
    let history = api.agents.clone().agent_history(history).await.unwrap();
    let written = history.into_inner().transitions.len();
    assert!(
        (30..100).contains(&written),
        "{written} transitions of 300 changes"
    );
}

// === manifests ===

#[test]
fn a_mistake_in_a_manifest_is_named_with_file_document_and_key() {
    let server = Server::start(&[]);
    let good = family("good", 1, &[role("raw", "role = raw", &config("one"))]);
    let bad = family("bad", 2, &[role("raw", "role = raw", &config("one"))])
        .replace("precedence: 2", "precedense: 2");
    let path = server.write("mixed.yaml", &format!("{good}---\n{bad}"));
    let refused = server.cli().run(&["apply", "-f", path.to_str().unwrap()]);
    assert_ne!(refused.code, 0);
    for word in ["mixed.yaml", "document 2", "spec", "precedense"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    assert_eq!(
        server.cli().json(&["families", "list"])["families"],
        serde_json::json!([]),
        "all or nothing"
    );
}

#[test]
fn a_config_that_cannot_run_is_refused_with_the_component() {
    let server = Server::start(&[]);
    for (name, body, word) in [
        (
            "undefined",
            config("one").replace("exporters: [debug/one]", "exporters: [debug/two]"),
            "debug/two",
        ),
        (
            "opamp",
            config("one").replace(
                "processors: {batch: {}}",
                "processors: {batch: {}}\nextensions: {opamp: {}}",
            ),
            "opamp",
        ),
        ("no-yaml", "receivers: [unclosed".to_owned(), "no-yaml"),
    ] {
        let path = server.write(
            &format!("{name}.yaml"),
            &family(name, 1, &[role("raw", "role = raw", &body)]),
        );
        let refused = server.cli().run(&["apply", "-f", path.to_str().unwrap()]);
        assert_ne!(refused.code, 0, "{name}: {refused:?}");
        assert!(refused.stderr.contains(word), "{name}: {refused:?}");
    }
}

/// A collector's `validate` in a script; answers its path.
fn collector(server: &std::path::Path, name: &str, body: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = server.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_config_that_the_agents_own_collector_refuses_is_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let refuses = "grep -q debug/bad \"$3\" || exit 0; echo 'unknown type: debug/bad' >&2; exit 1";
    let binary = collector(directory.path(), "otelcol", refuses);
    let server = Server::start(&["--otelcol", &binary, "--otelcol", "gone=/nowhere/otelcol"]);
    let apply = |marker: &str| {
        let body = config(marker);
        let manifest = family("raw", 1, &[role("raw", "role = raw", &body)]);
        let path = server.write("raw.yaml", &manifest);
        server
            .cli()
            .run(&["apply", "-f", path.to_str().unwrap(), "-o", "json"])
    };
    let refused = apply("bad");
    assert_eq!(refused.code, 1, "{refused:?}");
    for word in ["family raw", "role raw", &binary, "unknown type: debug/bad"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    let stored = server.cli().json(&["families", "list"]);
    assert_eq!(
        stored["families"],
        serde_json::json!([]),
        "nothing is stored"
    );
    let sound = apply("good");
    assert_eq!(sound.code, 0, "{sound:?}");
}

#[tokio::test]
async fn a_collector_that_does_not_start_is_a_warning() {
    let server = Server::start(&["--otelcol", "/nowhere/otelcol"]);
    let manifest = family("raw", 1, &[role("raw", "role = raw", &config("one"))]);
    let applied = server.cli().apply(&server.write("raw.yaml", &manifest));
    let message = &applied["results"][0]["findings"][0]["message"];
    assert!(
        message
            .as_str()
            .unwrap_or_default()
            .contains("its config was not validated: /nowhere/otelcol does not start"),
        "{applied}"
    );
}

#[tokio::test]
async fn a_deleted_family_leaves_its_agents_alone_and_its_name_free() {
    let server = Server::start(&[]);
    let manifest = server.write(
        "raw.yaml",
        &family("raw", 1, &[role("raw", "role = raw", &config("one"))]),
    );
    let cli = server.cli();
    cli.apply(&manifest);
    let unasked = cli.run(&["families", "delete", "raw"]);
    assert_eq!(unasked.code, 2, "nobody is there to ask: {unasked:?}");
    let args = ["families", "delete", "raw", "--yes", "--reason", "moved"];
    let deleted = cli.json(&args);
    assert_eq!(deleted["results"][0]["change"], "deleted");
    assert_eq!(cli.run(&args).code, 3, "it is gone");
    let audit = cli.json(&["audit", "list", "--action", "family.delete"]);
    let audit = audit.to_string();
    assert!(
        audit.contains("0 agents keep what they run: moved"),
        "{audit}"
    );
    let again = cli.apply(&manifest);
    assert_eq!(again["results"][0]["revision"], 2, "{again}");
}
