//! The shells against a small server in the test's own process: real sockets, both transports.

// The whole crate is a test; the switch in clippy.toml sees only its functions.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

mod server;

use std::time::Duration;

use muster_loadtest::agent::Options;
use muster_loadtest::bench::{self, bare::BareServer};
use muster_loadtest::fleet::{Error, Fleet, FleetConfig, Transport};
use muster_loadtest::transport::{self, Endpoint};
use muster_loadtest::{Behaviour, Script};
use proto::opamp::RemoteConfigStatuses::{Applied, Applying, Failed};

use server::{Server, Tls};

const SOON: Duration = Duration::from_secs(10);
const GOOD: &str = "receivers: { otlp: null }\nservice: { pipelines: { logs: { receivers: [otlp], exporters: [debug] } } }";
const BAD: &str = "receivers: { otlp: null }\nservice: { pipelines: { logs: { receivers: [otlp], exporters: [broken] } } }";

async fn fleet(server: &Server, agents: usize, transport: Transport) -> Fleet {
    let config = FleetConfig {
        transport,
        ..FleetConfig::fast(server.url(), agents)
    };
    let fleet = Fleet::start(config).unwrap();
    fleet.connected(SOON).await.unwrap();
    fleet
}

#[tokio::test]
async fn a_mixed_fleet_applies_an_offer_that_each_agent_gets_once() {
    let server = Server::start().await;
    let fleet = fleet(&server, 10, Transport::Mixed).await;
    server.offer(b"good", GOOD);
    fleet.converged(b"good", SOON).await.unwrap();
    assert_eq!(fleet.record().repeated_offers(), []);
    assert_eq!(fleet.offers().len(), 10);
    let agent = fleet.agent(3);
    assert_eq!(
        agent
            .reports()
            .iter()
            .skip_while(|r| r.hash.is_empty())
            .map(|r| r.status)
            .collect::<Vec<_>>(),
        [Applying, Applied]
    );
    assert!(agent.effective_config().contains(&agent.uid().to_string()));
    assert!(server.gaps().is_empty(), "{:?}", server.gaps());
    fleet.stop().await;
}

#[tokio::test]
async fn each_agent_keeps_one_connection() {
    let server = Server::start().await;
    let fleet = fleet(&server, 4, Transport::Http).await;
    fleet
        .until("five polls each", SOON, |_, now| now.check_ins >= 24)
        .await
        .unwrap();
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_websocket_agent_says_goodbye_and_a_killed_one_does_not() {
    let server = Server::start().await;
    let fleet = fleet(&server, 2, Transport::Ws).await;
    fleet.agent(0).kill().await;
    assert!(!fleet.agent(0).state().alive);
    fleet.agent(1).stop().await;
    server.until("a goodbye", |seen| seen.goodbyes == 1).await;
    assert_eq!(fleet.stats().started, 0);
}

#[tokio::test]
async fn an_overloaded_server_gets_the_same_bytes_again() {
    let server = Server::start().await;
    let fleet = fleet(&server, 1, Transport::Http).await;
    server.refuse(503, 2);
    server
        .until("two refusals", |seen| seen.refused.len() == 2)
        .await;
    let after = fleet.stats().check_ins;
    fleet
        .until("an answer", SOON, |_, now| now.check_ins > after)
        .await
        .unwrap();
    let refused = server.refused();
    assert_eq!(refused[0], refused[1]);
    assert!(server.gaps().is_empty());
    assert_eq!(fleet.stats().shed, 2);
}

#[tokio::test]
async fn a_refused_message_leaves_a_gap_on_the_wire() {
    let server = Server::start().await;
    let fleet = fleet(&server, 1, Transport::Http).await;
    server.refuse(400, 1);
    fleet
        .until("a discard", SOON, |_, now| now.discarded == 1)
        .await
        .unwrap();
    server.until("a gap", |seen| !seen.gaps.is_empty()).await;
}

#[tokio::test]
async fn agents_come_back_after_the_server_was_away() {
    let server = Server::start().await;
    let fleet = fleet(&server, 4, Transport::Mixed).await;
    server.cut();
    fleet
        .until("errors", SOON, |_, now| now.network_errors >= 2)
        .await
        .unwrap();
    fleet.connected(SOON).await.unwrap();
}

#[tokio::test]
async fn orders_and_scripts_are_followed() {
    let server = Server::start().await;
    let mut options = Options::fast();
    options.restart_delay = Duration::from_secs(60);
    let fleet = Fleet::start(FleetConfig {
        options,
        ..FleetConfig::fast(server.url(), 1)
    })
    .unwrap();
    let rolling = Script::crashing("broken", Duration::from_millis(50)).and(Behaviour::Rollback);
    let other = fleet.spawn("gateway", rolling);
    fleet.connected(SOON).await.unwrap();
    server.offer(b"good", GOOD);
    fleet.converged(b"good", SOON).await.unwrap();
    server.offer(b"bad", BAD);
    fleet
        .until("a rollback", SOON, |fleet, _| {
            fleet.agent(other).reports().len() >= 5
        })
        .await
        .unwrap();
    let said: Vec<_> = fleet
        .agent(other)
        .reports()
        .iter()
        .map(|r| (r.hash.clone(), r.status))
        .skip(2)
        .collect();
    assert_eq!(
        said,
        [
            (b"bad".to_vec(), Applying),
            (b"bad".to_vec(), Failed),
            (b"good".to_vec(), Applied)
        ]
    );

    let first = fleet.agent(0);
    first.crash().await;
    fleet
        .until("a crash", SOON, |fleet, _| !fleet.agent(0).state().healthy)
        .await
        .unwrap();
    first.relabel("env", "elsewhere").await;
    server
        .until("the label", |seen| seen.labels.contains("elsewhere"))
        .await;
    let before = first.state().next_sequence_num;
    first.restart().await;
    fleet
        .until("number 0", SOON, |fleet, _| {
            fleet.agent(0).state().next_sequence_num < before
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_clone_shares_the_uid_and_a_sleeper_is_silent() {
    let server = Server::start().await;
    let fleet = fleet(&server, 1, Transport::Http).await;
    let clone = fleet.clone_agent(0);
    assert_eq!(fleet.agent(clone).uid(), fleet.agent(0).uid());
    fleet.connected(SOON).await.unwrap();
    fleet.agent(clone).kill().await;
    fleet.agent(0).sleep(Duration::from_secs(600)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = fleet.stats().messages_sent;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(fleet.stats().messages_sent, before);
}

#[tokio::test]
async fn tokens_travel_over_tls_on_both_transports() {
    let tls = Tls::new();
    let server = Server::start_tls(&tls).await;
    let config = FleetConfig {
        transport: Transport::Mixed,
        token: Some("secret".to_owned()),
        ca: Some(tls.ca_file()),
        ..FleetConfig::fast(server.url(), 4)
    };
    let fleet = Fleet::start(config).unwrap();
    fleet.connected(SOON).await.unwrap();
    assert_eq!(server.authorizations(), ["Bearer secret".to_owned()].into());
}

#[tokio::test]
async fn foreign_servers_are_refused_unless_allowed() {
    let refused = Fleet::start(FleetConfig::new("http://192.0.2.1:4320", 1));
    assert!(matches!(
        refused,
        Err(Error::Transport(transport::Error::Remote(_)))
    ));
}

fn plan(address: &str, plain: bool) -> bench::Plan {
    bench::Plan {
        endpoint: Endpoint::parse(address, false).unwrap(),
        token: None,
        agents: 20,
        connections: 3,
        duration: Duration::from_millis(400),
        seed: 5,
        plain,
        cpu_of: Some(std::process::id()),
        under_way: 1,
    }
}

#[tokio::test]
async fn idle_polls_need_no_full_state_and_leave_no_gap() {
    let server = Server::start().await;
    let outcome = bench::idle(plan(&server.url(), false)).await.unwrap();
    assert!(
        outcome.checkins > 20 && outcome.per_second > 1.0,
        "{outcome:?}"
    );
    assert_eq!((outcome.non_200, outcome.full_state_requests), (0, 0));
    assert!(outcome.cpu_us_per_checkin.is_some());
    assert!(server.gaps().is_empty(), "{:?}", server.gaps());
}

#[tokio::test]
async fn every_agent_registers_once_in_the_register_bench() {
    let server = Server::start().await;
    let outcome = bench::register(bench::Plan {
        duration: SOON,
        ..plan(&server.url(), false)
    })
    .await
    .unwrap();
    assert_eq!((outcome.checkins, server.agents()), (20, 20));
}

#[tokio::test]
async fn agents_change_one_at_a_time_and_batched_and_leave_no_gap() {
    for under_way in [1, 4] {
        let server = Server::start().await;
        let outcome = bench::change(bench::Plan {
            duration: SOON,
            under_way,
            ..plan(&server.url(), false)
        })
        .await
        .unwrap();
        assert_eq!(outcome.checkins, 20 * 20, "20 agents, 20 times each");
        assert_eq!((outcome.non_200, outcome.full_state_requests), (0, 0));
        assert!(server.gaps().is_empty(), "{:?}", server.gaps());
        assert_eq!(server.agents(), 20);
    }
}

#[tokio::test]
async fn a_change_that_was_shed_is_said_again_with_its_number() {
    let server = Server::start().await;
    server.refuse(503, 3);
    let outcome = bench::change(bench::Plan {
        duration: SOON,
        ..plan(&server.url(), false)
    })
    .await
    .unwrap();
    assert_eq!(outcome.checkins, 20 * 20);
    assert!(server.gaps().is_empty(), "{:?}", server.gaps());
}

#[tokio::test]
async fn the_bare_server_answers_plain_polls() {
    let bare = BareServer::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let url = format!("http://{}", bare.address);
    tokio::spawn(bare.run());
    let outcome = bench::idle(plan(&url, true)).await.unwrap();
    assert!(outcome.checkins > 20 && outcome.non_200 == 0);
}
