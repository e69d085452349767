//! What runs, when it ran, and who says so: drift, versions, moments, the exported log, and gates that ask the outside.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::opamp::{ComponentHealth, RemoteConfigStatuses};
use serde_json::{Value, json};
use system_tests::manifest::{config, family, plan, role};
use system_tests::raw::{Http, Script, config_status, effective, offer};
use system_tests::scene::Scene;
use system_tests::server::Server;
use system_tests::wait::{SOON, eventually, holds};

/// A server with the family "edge" for agents of the role "raw", stable at revision 1.
async fn server_with(settings: &str) -> Server {
    let server = Server::start(&["--agent-interval", "60s"]);
    apply(&server, "one", settings);
    server
}

fn apply(server: &Server, marker: &str, settings: &str) {
    let text = family("edge", 10, &[role("agent", "role = raw", &config(marker))]);
    let text = text.replace(
        "  precedence: 10\n",
        &format!("  precedence: 10\n{settings}"),
    );
    let plan = plan("swift", &["size: 1", "size: 100%"], "hold");
    server
        .cli()
        .apply(&server.write("edge.yaml", &[text, plan].join("---\n")));
}

/// An agent that takes what it is offered and says that it runs `instead`, or what it got.
async fn takes(http: &mut Http, agent: &mut Script, instead: Option<&str>) -> Option<Vec<u8>> {
    let mut reply = http.ask(&agent.full()).await;
    for _ in 0..100 {
        if offer(&reply).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        reply = http.ask(&agent.bare()).await;
    }
    let (hash, files) = offer(&reply)?;
    let sent = files.into_values().next().unwrap();
    let mut message = agent.status(&hash, RemoteConfigStatuses::Applied, "");
    message.effective_config = Some(effective(instead.unwrap_or(&sent)));
    http.ask(&message).await;
    Some(hash)
}

fn kinds(server: &Server, name: &str) -> Vec<String> {
    let detail = server.cli().json(&["agents", "get", name]);
    let drift = detail["drift"].as_array().unwrap();
    drift
        .iter()
        .map(|d| d["kind"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until the family's rollout has completed.
async fn completed(server: &Server) {
    eventually(SOON, "the rollout to complete", async || {
        let rollout = server.cli().json(&["rollout", "get", "edge"]);
        holds(rollout["state"] == "completed", rollout["state"].clone())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_drift_is_told_by_key_with_its_origin_and_never_healed_in_secret() {
    let server = server_with("").await;
    let mut agent = Script::new("drifter");
    let mut http = Http::connect(server.opamp).await;
    http.ask(&agent.full()).await;
    server
        .cli()
        .ok(&["rollout", "start", "edge", "--plan", "swift", "--yes"]);
    let edited = config("one").replace("127.0.0.1:4318", "0.0.0.0:4318");
    takes(&mut http, &mut agent, Some(&edited)).await.unwrap();
    assert_eq!(kinds(&server, "drifter"), ["content"]);
    let detail = server.cli().json(&["agents", "get", "drifter"]);
    let said = detail["drift"][0]["differences"][0].as_str().unwrap();
    assert!(
        said.contains(
            "receivers.otlp.protocols.http.endpoint is \"0.0.0.0:4318\" instead of \"127.0.0.1:4318\""
        ),
        "{said}"
    );
    assert_eq!(detail["drift"][0]["answer"], "reported", "{detail:#}");
    let listed = server
        .cli()
        .json(&["agents", "list", "--state", "content drift"]);
    assert_eq!(listed["total"], 1, "{listed}");
    for _ in 0..3 {
        let reply = http.ask(&agent.bare()).await;
        assert_eq!(offer(&reply), None, "by policy it is only reported");
    }
    // A preview compares with what it runs now, not with what it was sent.
    apply(&server, "two", "");
    let preview = server.cli().json(&["preview", "edge", "--plan", "swift"]);
    let group = &preview["groups"][0];
    let against = group["against"].as_str().unwrap();
    assert!(
        against.contains("it has drifted from edge/agent r1"),
        "{preview:#}"
    );
    assert!(
        group["diff"].as_str().unwrap().contains("0.0.0.0:4318"),
        "{preview:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_family_says_so_a_drifted_config_is_offered_once_more_and_only_once() {
    let server = server_with("  drift: re-offer\n").await;
    let mut agent = Script::new("drifter");
    let mut http = Http::connect(server.opamp).await;
    http.ask(&agent.full()).await;
    server
        .cli()
        .ok(&["rollout", "start", "edge", "--plan", "swift", "--yes"]);
    let edited = config("one").replace("127.0.0.1:4318", "0.0.0.0:4318");
    let first = takes(&mut http, &mut agent, None).await.unwrap();
    // A revision's settings are in force once it is stable.
    completed(&server).await;
    let mut drifted = agent.bare();
    drifted.effective_config = Some(effective(&edited));
    let reply = http.ask(&drifted).await;
    let (again, _) = offer(&reply).unwrap();
    let mut applied = agent.status(&again, RemoteConfigStatuses::Applied, "");
    applied.effective_config = Some(effective(&edited));
    assert_eq!(offer(&http.ask(&applied).await), None, "it drifted again");
    assert_eq!(first, again);
    for _ in 0..3 {
        let reply = http.ask(&agent.bare()).await;
        assert_eq!(offer(&reply), None, "it drifted again: a person looks");
    }
    let detail = server.cli().json(&["agents", "get", "drifter"]);
    assert!(
        detail["drift"][0]["answer"]
            .as_str()
            .unwrap()
            .contains("once more"),
        "{detail:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_put_back_to_a_snapshot_is_shown_as_that_and_not_healed_in_secret() {
    let server = server_with("").await;
    let mut agent = Script::new("restored");
    let mut http = Http::connect(server.opamp).await;
    http.ask(&agent.full()).await;
    let start = |server: &Server| {
        let args = ["rollout", "start", "edge", "--plan", "swift", "--yes"];
        server.cli().ok(&args);
    };
    start(&server);
    let first = takes(&mut http, &mut agent, None).await.unwrap();
    completed(&server).await;
    apply(&server, "two", "");
    start(&server);
    let second = takes(&mut http, &mut agent, None).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(kinds(&server, "restored"), Vec::<String>::new());

    // It comes back from a snapshot and speaks of what it had then.
    let mut old = agent.full();
    old.remote_config_status = Some(config_status(&first, RemoteConfigStatuses::Applied, ""));
    old.effective_config = Some(effective(&config("one")));
    assert_eq!(offer(&http.ask(&old).await), None);
    assert_eq!(kinds(&server, "restored"), ["identity"]);
    let detail = server.cli().json(&["agents", "get", "restored"]);
    let said = detail["drift"][0]["text"].as_str().unwrap();
    assert!(said.contains("put back to an older snapshot"), "{said}");
    assert_eq!(detail["agent"]["state"], "drifted", "{detail:#}");
    let listed = server
        .cli()
        .json(&["agents", "list", "--state", "identity drift"]);
    assert_eq!(listed["total"], 1, "{listed}");
    for _ in 0..3 {
        let reply = http.ask(&agent.bare()).await;
        assert_eq!(offer(&reply), None, "by policy it is only reported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_outside_of_the_policy_are_named_in_family_preview_and_agent() {
    let server = server_with("  versions: {from: 0.150.0, behind: 1}\n").await;
    let mut connections = Vec::new();
    for (name, version) in [("new", "0.163.0"), ("old", "0.140.0"), ("odd", "nightly")] {
        let mut agent = Script::new(name).with("service.version", version);
        let mut http = Http::connect(server.opamp).await;
        http.ask(&agent.full()).await;
        connections.push((http, agent));
    }
    let preview = server.cli().json(&["preview", "edge", "--plan", "swift"]);
    let findings = preview["findings"].to_string();
    assert!(
        findings.contains("0.140.0 is below the family's range"),
        "{findings}"
    );
    server
        .cli()
        .ok(&["rollout", "start", "edge", "--plan", "swift", "--yes"]);
    let taken = connections
        .iter_mut()
        .map(|(http, agent)| takes(http, agent, None));
    for taken in futures::future::join_all(taken).await {
        taken.unwrap();
    }
    completed(&server).await;
    assert_eq!(kinds(&server, "old"), ["version"]);
    assert_eq!(kinds(&server, "odd"), ["version"]);
    assert_eq!(kinds(&server, "new"), Vec::<String>::new());
    let family = server.cli().json(&["families", "get", "edge"]);
    assert_eq!(family["family"]["outside_versions"], 2, "{family:#}");
    let versions = family["family"]["versions"].as_str().unwrap();
    assert_eq!(versions, "1 × 0.163.0, 1 × 0.140.0, 1 unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_where_at_a_moment_is_told_from_recorded_transitions_with_its_proof() {
    let server = server_with("").await;
    let mut agent = Script::new("web-1");
    let mut http = Http::connect(server.opamp).await;
    http.ask(&agent.full()).await;
    server
        .cli()
        .ok(&["rollout", "start", "edge", "--plan", "swift", "--yes"]);
    takes(&mut http, &mut agent, None).await.unwrap();
    eventually(SOON, "the rollout to end", async || {
        let rollout = server.cli().json(&["rollout", "get", "edge"]);
        holds(rollout["state"] == "completed", &rollout["state"])
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let then = humantime_now();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    apply(&server, "two", "");
    server
        .cli()
        .ok(&["rollout", "start", "edge", "--plan", "swift", "--yes"]);
    takes(&mut http, &mut agent, None).await.unwrap();
    let mut sick = agent.bare();
    sick.health = Some(ComponentHealth {
        healthy: false,
        last_error: "disk is full".to_owned(),
        ..ComponentHealth::default()
    });
    http.ask(&sick).await;

    let at = server.cli().json(&["agents", "at", &then, "web-1"]);
    let moment = &at["agents"][0];
    assert_eq!(
        (&moment["revision"], &moment["health"], &moment["state"]),
        (&json!(1), &json!("healthy"), &json!("applied")),
        "{at:#}"
    );
    let now = server.cli().json(&["agents", "at", "0s", "web-1"]);
    assert_eq!(
        (&now["agents"][0]["revision"], &now["agents"][0]["health"]),
        (&json!(2), &json!("unhealthy")),
        "{now:#}"
    );
    let before = server.cli().json(&["agents", "at", "1h", "web-1"]);
    assert_eq!(
        before["agents"][0]["note"], "not registered yet",
        "{before:#}"
    );

    // Who changed what until then, and the proof of it, which is checked without the server.
    let until = server
        .cli()
        .json(&["audit", "list", "--until", &then, "--action", "rollout."]);
    assert_eq!(
        until["entries"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["action"] == "rollout.start")
            .count(),
        1
    );
    let exported = server.cli().ok(&["audit", "export"]);
    let file = server.write("audit.jsonl", &exported);
    server.cli().ok(&["audit", "check", file.to_str().unwrap()]);
    let forged = exported.replacen("rollout.start", "rollout.staat", 1);
    let file = server.write("forged.jsonl", &forged);
    let checked = server
        .cli()
        .run(&["audit", "check", file.to_str().unwrap()]);
    assert_eq!(checked.code, 8, "{checked:#?}");
}

fn humantime_now() -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

// === gates that ask ===

/// Answers of a Prometheus and of a webhook, which tests change.
#[derive(Clone)]
struct Outside {
    answer: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<String>>>,
    address: std::net::SocketAddr,
}

impl Outside {
    async fn start(answer: Value) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = Outside {
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        let shared = outside.clone();
        let answers = move |request: axum::extract::Request| {
            let shared = shared.clone();
            async move {
                let uri = request.uri().to_string();
                shared.asked.lock().unwrap().push(uri);
                shared.answer.lock().unwrap().to_string()
            }
        };
        let router = axum::Router::new().fallback(answers);
        tokio::spawn(async move { axum::serve(listener, router).await });
        outside
    }

    fn say(&self, answer: Value) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn vector(values: &[&str]) -> Value {
    let sample = |value: &&str| json!({"metric": {}, "value": [1.0, value]});
    let result: Vec<Value> = values.iter().map(sample).collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": result}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_passes_only_when_its_promql_expression_holds() {
    let outside = Outside::start(vector(&[])).await;
    let url = format!("http://{}", outside.address);
    let scene = Scene::at(4, &["--prometheus", &url]).await;
    let hash = scene.store("one").await;
    let gate = "gate: {checks: [converged, {promql: 'sum(otelcol_exporter_queue_size) < 100'}]}";
    scene.apply(&plan(
        "asking",
        &[&format!("size: 1, {gate}"), "size: 100%"],
        "hold",
    ));
    let id = scene.start("asking").await;
    let halted = scene.state(&id, "halted").await;
    assert!(halted.cause.contains("promql"), "{}", halted.cause);
    assert_eq!(scene.offered(&hash).len(), 1);
    outside.say(vector(&["5"]));
    scene.cli.ok(&[
        "rollout",
        "resume",
        &id,
        "--reason",
        "the query was too early",
    ]);
    scene.state(&id, "completed").await;
    assert!(outside.asked.lock().unwrap()[0].starts_with("/api/v1/query?query="));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_answers_only_where_its_host_is_allowed() {
    let outside = Outside::start(json!({"answer": "pass", "reason": ""})).await;
    let gate = format!(
        "gate: {{checks: [converged, {{webhook: 'http://{}/go'}}]}}",
        outside.address
    );
    let asking = plan(
        "asking",
        &[&format!("size: 1, {gate}"), "size: 100%"],
        "hold",
    );
    let closed = Scene::of(3).await;
    closed.store("one").await;
    closed.apply(&asking);
    let id = closed.start("asking").await;
    closed
        .until(&id, "the gate to say why", |rollout| {
            let checks = rollout.roles[0].waves.first().map(|wave| &wave.checks);
            checks.is_some_and(|checks| checks.iter().any(|c| c.answer.contains("--webhook-hosts")))
        })
        .await;
    assert_eq!(outside.asked.lock().unwrap().len(), 0);

    let open = Scene::at(3, &["--webhook-hosts", "127.0.0.1"]).await;
    open.store("one").await;
    open.apply(&asking);
    let id = open.start("asking").await;
    open.state(&id, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_waits_for_the_person_that_its_gate_asks() {
    let scene = Scene::of(4).await;
    let hash = scene.store("one").await;
    scene.apply(&plan(
        "asking",
        &[
            "size: 1, gate: {checks: [converged, {person: platform}]}",
            "size: 100%",
        ],
        "hold",
    ));
    let id = scene.start("asking").await;
    scene
        .until(&id, "the person to be waited for", |rollout| {
            rollout.waiting.iter().any(|what| what.contains("platform"))
        })
        .await;
    scene.several_polls().await;
    assert_eq!(scene.offered(&hash).len(), 1);
    let own = scene.refused(&["rollout", "pass", &id]);
    assert!(
        own.contains("somebody else passes what a person is asked"),
        "{own}"
    );
    let nobody = scene.refused(&["rollout", "pass", &id, "--check", "finance"]);
    assert!(nobody.contains("platform"), "{nobody}");
    scene
        .cli
        .as_user("carol")
        .ok(&["rollout", "pass", &id, "--reason", "dashboards are green"]);
    scene.state(&id, "completed").await;
    let audit = scene.api.audit(&format!("rollout/{id}")).await;
    assert!(
        audit
            .iter()
            .any(|entry| entry.action == "check.answer" && entry.actor == "local/carol"),
        "{audit:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_that_is_said_while_the_rollout_is_paused_counts_when_it_is_resumed() {
    let scene = Scene::of(4).await;
    let hash = scene.store("one").await;
    scene.apply(&plan(
        "asking",
        &[
            "size: 1, gate: {checks: [converged, {person: platform}]}",
            "size: 100%",
        ],
        "hold",
    ));
    let id = scene.start("asking").await;
    scene
        .until(&id, "the person to be waited for", |rollout| {
            rollout.waiting.iter().any(|what| what.contains("platform"))
        })
        .await;
    scene.cli.ok(&["rollout", "pause", &id]);
    scene.state(&id, "paused").await;
    scene
        .cli
        .as_user("carol")
        .ok(&["rollout", "fail", &id, "--reason", "dashboards are red"]);
    scene.several_polls().await;
    assert_eq!(scene.api.rollout(&id).await.state, "paused");
    scene.cli.ok(&["rollout", "resume", &id]);
    let halted = scene.state(&id, "halted").await;
    assert!(halted.cause.contains("platform"), "{}", halted.cause);
    assert_eq!(scene.offered(&hash).len(), 1, "the first wave did not pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_a_source_of_evidence_is_inconclusive_and_says_so() {
    let scene = Scene::of(3).await;
    let hash = scene.store("one").await;
    let checks = "gate: {checks: [converged, flow, {check: resource regression, observe: true}]}";
    scene.apply(&plan(
        "flowing",
        &[&format!("size: 1, {checks}"), "size: 100%"],
        "hold",
    ));
    let id = scene.start("flowing").await;
    let seen = scene
        .until(&id, "the checks to be shown", |rollout| {
            let wave = rollout.roles[0].waves.first();
            wave.is_some_and(|wave| wave.checks.len() == 3)
        })
        .await;
    let checks = &seen.roles[0].waves[0].checks;
    let flow = checks.iter().find(|c| c.check == "flow").unwrap();
    assert_eq!(flow.answer, "inconclusive: no evidence source");
    assert!(
        checks
            .iter()
            .any(|c| c.check == "resource regression" && c.observe)
    );
    scene.several_polls().await;
    assert_eq!(scene.offered(&hash).len(), 1, "inconclusive never passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compliance_window_names_the_last_agent_and_outlives_the_lists() {
    let scene = Scene::of(6).await;
    scene.store("one").await;
    let id = scene.start("quick").await;
    let done = scene.state(&id, "completed").await;
    let window = done.window.unwrap();
    assert_eq!((window.converged, window.open), (6, 0));
    assert!(window.p50_ms > 0 && window.p50_ms <= window.p99_ms && window.p99_ms <= window.last_ms);
    assert!(
        scene
            .fleet
            .uids()
            .iter()
            .any(|uid| uid.to_string() == window.last)
    );
    scene.stable("two").await;
    let later = scene.api.rollout(&id).await.window.unwrap();
    assert_eq!(later, window);
}
