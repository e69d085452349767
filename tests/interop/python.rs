//! A second implementation of the protocol, written by others: the Python OpAMP client, which polls over HTTP.

use serde_json::Value;
use system_tests::server::Server;
use system_tests::wait::{SOON, eventually_blocking, holds};

use crate::fleet::{Ended, FAMILY, manifest, roll_out};
use crate::peers::{Home, Python};

#[test]
fn python_client_takes_a_config_and_its_goodbye_is_heard() {
    let (server, home) = (Server::start(&[]), Home::new());
    let cli = server.cli();
    let mut python = client(&server, &[]);
    let uid = python.event("started")["instance_uid"]
        .as_str()
        .unwrap()
        .to_owned();
    python.event("connected");
    let agent = |cli: &system_tests::cli::Cli| cli.json(&["agents", "list"])["agents"][0].take();
    assert_eq!(agent(&cli)["uid"].as_str().unwrap().replace('-', ""), uid);
    assert_eq!(agent(&cli)["service"], "shop");

    cli.apply(&manifest(&home, "gateway", "agent"));
    roll_out(&cli, "quick").completed();
    let config = python.event("config");
    let sent = std::fs::read_to_string(home.path().join("manifests/configs/agent.yaml")).unwrap();
    let bodies: Vec<_> = config["entries"]
        .as_object()
        .unwrap()
        .values()
        .map(|entry| &entry["body"])
        .collect();
    assert_eq!(bodies, [&Value::from(sent)], "{config:#}");
    assert_eq!(config["hash"], agent(&cli)["delivery_hash"], "{config:#}");
    assert_eq!(agent(&cli)["state"], "converged", "{:#}", agent(&cli));
    assert_eq!(python.events("config").len(), 1, "offered once");
    assert!(
        python.events("error").is_empty(),
        "{:#?}",
        python.events("error")
    );

    python.stop();
    eventually_blocking(SOON, "the goodbye", || {
        holds(agent(&cli)["link"] == "left", agent(&cli))
    });
}

#[test]
fn what_the_python_client_refuses_is_rolled_back_with_its_words() {
    let (server, home) = (Server::start(&[]), Home::new());
    let cli = server.cli();
    let python = client(&server, &["--fail", "no room on the shelf"]);
    python.event("connected");

    cli.apply(&manifest(&home, "gateway", "agent"));
    let Ended { rollout, output } = roll_out(&cli, "quick");
    assert_eq!(output.code, 7, "{output:#?}");
    assert_eq!(rollout["family"], FAMILY);
    assert_eq!(
        rollout["errors"][0]["error"], "no room on the shelf",
        "{rollout:#}"
    );
}

fn client(server: &Server, more: &[&str]) -> Python {
    let url = server.http_url();
    let args = [
        "--url",
        &url,
        "--name",
        "shop",
        "--attribute",
        "role=agent",
        "--attribute",
        "host.name=shop-0",
    ];
    Python::start(&[&args[..], more].concat())
}
