//! The same over TLS, with an authority of the test's own.

use serde_json::json;
use system_tests::cli::Cli;
use system_tests::server::Server;

use crate::fleet::{self, arrives, manifest};
use crate::logs::{self, PERSONAL, Sink};
use crate::peers::{Home, Setup, Supervisor};

#[test]
fn supervisor_enrols_and_is_configured_over_https() {
    is_configured("https", "http");
}

#[test]
fn supervisor_enrols_and_is_configured_over_wss() {
    is_configured("wss", "websocket");
}

fn is_configured(scheme: &str, transport: &str) {
    let home = Home::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (
        home.path().join("server.pem"),
        home.path().join("server.key"),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = [certificate.to_str().unwrap(), key.to_str().unwrap()];
    let server = Server::start(&[
        "--tls-cert",
        files[0],
        "--tls-key",
        files[1],
        "--offer-timeout",
        "2m",
    ]);
    let cli = Cli::new(format!("https://{}", server.api))
        .with_authority(&certificate)
        .with_patience(fleet::ROLLOUT);

    let sink = Sink::new(home.path().join("gateway.jsonl"));
    let supervisor = Supervisor::start(
        Setup {
            name: "gateway-0",
            role: "gateway",
            endpoint: &format!("{scheme}://{}/v1/opamp", server.opamp),
            token: None,
            authority: Some(&certificate),
            env: vec![("GATEWAY_FILE", sink.path().display().to_string())],
            goes_back: false,
        },
        &home,
    );
    arrives(&cli, "gateway-0");
    let detail = cli.json(&["agents", "get", "gateway-0"]);
    assert_eq!(detail["agent"]["transport"], transport, "{detail:#}");
    assert_eq!(detail["agent"]["version"], fleet::COLLECTOR, "{detail:#}");
    assert_eq!(detail["health"]["status"], "StatusOK", "{detail:#}");

    cli.apply(&manifest(&home, "gateway-redacted", "agent-redacted"));
    fleet::roll_out(&cli, "quick").completed();
    assert_eq!(
        cli.json(&["agents", "get", "gateway-0"])["agent"]["state"],
        json!("converged")
    );
    logs::send(supervisor.otlp, "secret-0");
    let written = sink.after(0, &["secret-0".to_owned()]);
    PERSONAL
        .iter()
        .for_each(|personal| assert!(!written.contains(personal), "{personal} is in {written}"));
}
