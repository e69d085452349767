//! The rows of the conformance list (docs/conformance.md) that the leader decides, by raw bytes against a real server.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::path::Path;
use std::time::Duration;

use proto::opamp::{
    AgentCapabilities, AgentDisconnect, AgentToServer, AgentToServerFlags, CommandType,
    ComponentHealth, RemoteConfigStatuses, ServerErrorResponseType, ServerToAgent,
};
use proto::uid::Uid;
use system_tests::api::Api;
use system_tests::manifest::{Role, config, family, plan, role};
use system_tests::raw::{
    self, COMPONENTS, FULL_STATE, Http, Script, Ws, components, effective, healthy,
    managed_without, offer,
};
use system_tests::server::Server;
use system_tests::wait::{SOON, eventually, holds};

/// A server, and what to ask it.
struct Bench {
    server: Server,
    api: Api,
}

// === impl Bench ===

impl Bench {
    /// Nobody is lost while a test thinks.
    fn start() -> Self {
        Bench::with(&["--agent-interval", "20s"])
    }

    fn with(options: &[&str]) -> Self {
        let server = Server::start(options);
        let api = Api::new(server.api);
        Bench { server, api }
    }

    async fn http(&self) -> Http {
        Http::connect(self.server.opamp).await
    }

    async fn ws(&self) -> Ws {
        Ws::connect(self.server.opamp).await
    }

    /// Stores a revision with this marker for all agents of the role "raw", and opens its rollout in one wave.
    async fn target(&self, marker: &str) -> String {
        self.store(&[role("raw", "role = raw", &config(marker))]);
        self.api.start("raw", "all").await.unwrap().id
    }

    /// As `target`, for several agents at once: each is a role of its own, as one wave may not be a whole role of two.
    async fn target_each(&self, marker: &str, agents: &[&str]) -> String {
        let config = config(marker);
        let selectors: Vec<_> = agents
            .iter()
            .map(|agent| format!("host.name = {agent}"))
            .collect();
        let roles: Vec<_> = agents
            .iter()
            .zip(&selectors)
            .map(|(agent, selector)| role(agent, selector, &config))
            .collect();
        self.store(&roles);
        self.api.start("raw", "all").await.unwrap().id
    }

    fn store(&self, roles: &[Role<'_>]) {
        let manifests = format!(
            "{}---\n{}",
            family("raw", 1, roles),
            plan("all", &["size: 100%"], "hold")
        );
        self.server
            .cli()
            .apply(&self.server.write("raw.yaml", &manifests));
    }

    /// Waits until the rollout is in this state.
    async fn rollout_is(&self, id: &str, state: &str) {
        eventually(SOON, &format!("rollout {state}"), async || {
            let rollout = self.api.rollout(id).await;
            holds(
                rollout.state == state,
                (&rollout.state, &rollout.total, &rollout.waiting),
            )
        })
        .await;
    }

    /// Makes `marker` the stable revision, with `agent` as its first member. Answers the delivery hash.
    async fn stable(&self, marker: &str, http: &mut Http, agent: &mut Script) -> Vec<u8> {
        let id = self.target(marker).await;
        let (hash, _) = offered(http, agent).await;
        http.ask(&agent.status(&hash, RemoteConfigStatuses::Applied, ""))
            .await;
        self.rollout_is(&id, "completed").await;
        hash
    }
}

/// Polls until something is offered.
async fn offered(
    http: &mut Http,
    agent: &mut Script,
) -> (Vec<u8>, std::collections::BTreeMap<String, String>) {
    eventually(SOON, "an offer", async || {
        offer(&http.ask(&agent.bare()).await).ok_or_else(|| "none".to_owned())
    })
    .await
}

/// Polls so often; no answer may contain an offer.
async fn polls_without_offer(http: &mut Http, agent: &mut Script, polls: usize) {
    for _ in 0..polls {
        assert_eq!(offer(&http.ask(&agent.bare()).await), None);
    }
}

/// Of so many polls, how often full state was asked for.
async fn full_state_requests(http: &mut Http, agent: &mut Script, polls: usize) -> usize {
    let mut asked = 0;
    for _ in 0..polls {
        asked += usize::from(asks_full(&http.ask(&agent.bare()).await));
    }
    asked
}

fn asks_full(reply: &ServerToAgent) -> bool {
    reply.flags & FULL_STATE != 0
}

fn new_uid(reply: &ServerToAgent) -> Option<Vec<u8>> {
    reply
        .agent_identification
        .as_ref()
        .map(|id| id.new_instance_uid.clone())
}

// === status sync ===

#[tokio::test]
async fn an_absent_sub_message_leaves_what_was_reported() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    let status = raw::config_status(&[7; 32], RemoteConfigStatuses::Failed, "no such receiver");
    let first = AgentToServer {
        effective_config: Some(effective("receivers: {nop: {}}")),
        remote_config_status: Some(status),
        available_components: Some(components(b"list", true)),
        ..agent.full()
    };
    http.ask(&first).await;
    let health = ComponentHealth {
        healthy: false,
        last_error: "disk full".to_owned(),
        ..healthy()
    };
    let reply = http
        .ask(&AgentToServer {
            health: Some(health),
            ..agent.bare()
        })
        .await;
    assert!(!asks_full(&reply));
    let kept = bench.api.agent("a").await;
    assert!(!kept.health.unwrap().healthy);
    assert!(
        kept.attributes
            .iter()
            .any(|a| a.key == "service.version" && a.value == "0.163.0")
    );
    assert!(kept.effective[0].body.contains("nop"));
    assert_eq!(kept.status.unwrap().error, "no such receiver");
    assert!(!kept.components.is_empty());
}

#[tokio::test]
async fn a_gap_a_repeated_number_and_a_step_back_ask_for_full_state() {
    let bench = Bench::start();
    for (name, number) in [("gap", 5), ("repeat", 1), ("reset", 0)] {
        let mut agent = Script::new(name);
        let mut http = bench.http().await;
        assert!(!asks_full(&http.ask(&agent.full()).await));
        assert!(!asks_full(&http.ask(&agent.bare()).await));
        agent.number = number;
        // Other bytes than the first message of this number, so that it is no retry.
        let message = AgentToServer {
            health: Some(ComponentHealth {
                healthy: false,
                ..healthy()
            }),
            ..agent.bare()
        };
        assert!(asks_full(&http.ask(&message).await), "{name}");
        assert!(
            !asks_full(&http.ask(&agent.full()).await),
            "{name}: told everything"
        );
        assert_eq!(
            full_state_requests(&mut http, &mut agent, 5).await,
            0,
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_number_after_the_largest_is_zero() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    agent.number = u64::MAX - 1;
    http.ask(&agent.full()).await;
    assert_eq!(full_state_requests(&mut http, &mut agent, 4).await, 0);
    assert_eq!(agent.number, 3);
}

#[tokio::test]
async fn an_unknown_agent_is_asked_for_full_state_whatever_its_number() {
    let bench = Bench::start();
    for number in [0, 1, 7] {
        let mut agent = Script::new(&format!("a{number}"));
        let mut http = bench.http().await;
        agent.number = number;
        assert!(asks_full(&http.ask(&agent.bare()).await), "{number}");
        assert!(!asks_full(&http.ask(&agent.full()).await), "{number}");
        assert_eq!(
            bench.api.agent(&agent.uid()).await.agent.unwrap().name,
            format!("a{number}")
        );
    }
}

#[tokio::test]
async fn a_client_that_starts_anew_with_zero_or_one_is_not_asked_for_full_state() {
    let bench = Bench::start();
    for first in [0, 1] {
        let mut agent = Script::new("a");
        let mut http = bench.http().await;
        for _ in 0..3 {
            agent.number = first;
            assert!(!asks_full(&http.ask(&agent.full()).await));
            assert_eq!(full_state_requests(&mut http, &mut agent, 3).await, 0);
        }
    }
}

#[tokio::test]
async fn a_compressed_reconnect_after_a_clean_stop_is_not_asked_for_full_state() {
    let mut bench = Bench::start();
    let (mut polling, mut connected) = (Script::new("polls"), Script::new("stays"));
    bench.http().await.ask(&polling.full()).await;
    full_state_requests(&mut bench.http().await, &mut polling, 5).await;
    let mut ws = bench.ws().await;
    ws.ask(&connected.full()).await;
    for _ in 0..5 {
        ws.ask(&connected.bare()).await;
    }
    bench.server.stop();
    bench.server.again();
    assert_eq!(
        full_state_requests(&mut bench.http().await, &mut polling, 5).await,
        0
    );
    assert!(!asks_full(&bench.ws().await.ask(&connected.bare()).await));
}

#[tokio::test]
async fn a_compressed_reconnect_after_a_crash_is_asked_for_full_state_once() {
    let mut bench = Bench::start();
    let mut agent = Script::new("a");
    bench.http().await.ask(&agent.full()).await;
    full_state_requests(&mut bench.http().await, &mut agent, 5).await;
    bench.server.kill_and_restart();
    let mut http = bench.http().await;
    assert_eq!(full_state_requests(&mut http, &mut agent, 6).await, 1);
    assert!(!asks_full(&http.ask(&agent.full()).await));
    assert_eq!(full_state_requests(&mut http, &mut agent, 6).await, 0);
}

#[tokio::test]
async fn a_quiescent_agent_is_never_asked_for_full_state() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    assert!(!asks_full(&http.ask(&agent.full()).await));
    assert_eq!(full_state_requests(&mut http, &mut agent, 50).await, 0);
    let mut ws = bench.ws().await;
    for _ in 0..50 {
        assert!(!asks_full(&ws.ask(&agent.bare()).await));
    }
}

#[tokio::test]
async fn an_agent_that_never_sends_sub_messages_is_asked_at_most_once() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut silent = Script::new("tells nothing");
    assert_eq!(full_state_requests(&mut http, &mut silent, 20).await, 1);
    let mut terse = Script::new("terse");
    let description = AgentToServer {
        agent_description: Some(terse.description()),
        ..terse.bare()
    };
    assert!(!asks_full(&http.ask(&description).await));
    assert_eq!(full_state_requests(&mut http, &mut terse, 20).await, 0);
}

#[tokio::test]
async fn a_message_with_nothing_new_counts_as_a_heartbeat() {
    let bench = Bench::with(&["--agent-interval", "300ms", "--lost-after", "3"]);
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    http.ask(&agent.full()).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while tokio::time::Instant::now() < until {
        pace.tick().await;
        http.ask(&agent.bare()).await;
    }
    let found = bench.api.agent("a").await;
    assert_eq!(found.agent.unwrap().link, "connected");
    assert!(
        found.history.iter().all(|t| t.kind != "lost"),
        "{:?}",
        found.history
    );
}

#[tokio::test]
async fn a_connected_agent_without_heartbeats_is_not_given_up() {
    let bench = Bench::with(&["--agent-interval", "300ms", "--lost-after", "3"]);
    let (mut mute, mut beating) = (
        Script::new("mute").capable(managed_without(AgentCapabilities::ReportsHeartbeat)),
        Script::new("beats"),
    );
    let mut ws = bench.ws().await;
    ws.ask(&mute.full()).await;
    bench.http().await.ask(&beating.full()).await;
    // By the time the one that promised heartbeats is lost, the other has been silent for as long.
    eventually(SOON, "the agent with heartbeats to be lost", async || {
        let link = bench.api.agent("beats").await.agent.unwrap().link;
        holds(link == "lost", link)
    })
    .await;
    assert_eq!(
        bench.api.agent("mute").await.agent.unwrap().link,
        "connected"
    );
}

#[tokio::test]
async fn an_agent_that_stops_polling_is_lost_after_its_intervals_and_back_at_its_next_poll() {
    let bench = Bench::with(&["--agent-interval", "300ms", "--lost-after", "3"]);
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    http.ask(&agent.full()).await;
    let link = async || bench.api.agent("a").await.agent.unwrap().link;
    assert_eq!(link().await, "connected");
    eventually(SOON, "the agent to be lost", async || {
        holds(link().await == "lost", link().await)
    })
    .await;
    assert!(
        !asks_full(&http.ask(&agent.bare()).await),
        "silence is no loss of messages"
    );
    eventually(SOON, "the agent to be back", async || {
        holds(link().await == "connected", link().await)
    })
    .await;
}

// === identity ===

#[tokio::test]
async fn an_agent_that_asks_for_a_uid_gets_one_of_version_7_and_the_same_one_on_a_retry() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let ask = AgentToServer {
        flags: AgentToServerFlags::RequestInstanceUid as u64,
        ..agent.full()
    };
    let reply = bench.http().await.ask(&ask).await;
    assert_eq!(
        reply.instance_uid, agent.uid,
        "the reply answers the old uid"
    );
    let given = new_uid(&reply).unwrap();
    assert_eq!((given.len(), given[6] >> 4), (16, 7));
    assert_ne!(given, agent.uid);
    let again = bench.http().await.ask(&ask).await;
    assert_eq!(
        new_uid(&again),
        Some(given.clone()),
        "a retry mints no second identity"
    );
    let next = AgentToServer {
        flags: AgentToServerFlags::RequestInstanceUid as u64,
        ..agent.full()
    };
    assert_eq!(
        new_uid(&bench.http().await.ask(&next).await),
        Some(given.clone()),
        "nor does asking again"
    );

    agent.uid = given.as_slice().try_into().unwrap();
    agent.number = 0;
    let reply = bench.http().await.ask(&agent.full()).await;
    assert_eq!(
        (reply.instance_uid, reply.agent_identification),
        (given, None)
    );
    let agents = bench.api.list("").await;
    assert_eq!(
        agents.iter().map(|a| a.uid.as_str()).collect::<Vec<_>>(),
        [agent.uid()]
    );
}

#[tokio::test]
async fn messages_under_the_old_uid_are_still_answered_after_a_reassignment() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    let ask = AgentToServer {
        flags: AgentToServerFlags::RequestInstanceUid as u64,
        ..agent.full()
    };
    let given = new_uid(&http.ask(&ask).await).unwrap();
    let mut renamed = Script {
        uid: given.as_slice().try_into().unwrap(),
        number: 0,
        ..agent.clone()
    };
    http.ask(&renamed.full()).await;
    for _ in 0..3 {
        let reply = http.ask(&agent.bare()).await;
        assert_eq!(reply.instance_uid, agent.uid);
        assert_eq!(reply.error_response, None);
        assert_eq!(reply.remote_config, None);
    }
    assert_eq!(
        bench.api.list("").await.len(),
        1,
        "the old uid is no second agent"
    );
}

#[tokio::test]
async fn two_agents_with_one_uid_are_marked_and_offered_a_new_uid_once() {
    let bench = Bench::start();
    let mut original = Script::new("original");
    let (mut here, mut there) = (bench.http().await, bench.http().await);
    original.number = 40;
    here.ask(&original.full()).await;
    bench.stable("one", &mut here, &mut original).await;
    let mut clone = Script {
        number: 0,
        ..original.clone()
    };
    clone
        .attributes
        .insert("host.name".to_owned(), "clone".to_owned());
    let mut offers = vec![new_uid(&there.ask(&clone.full()).await)];
    for _ in 0..10 {
        for reply in [
            here.ask(&original.bare()).await,
            there.ask(&clone.bare()).await,
        ] {
            assert_eq!(reply.instance_uid, original.uid);
            assert_eq!(reply.remote_config, None);
            offers.push(new_uid(&reply));
        }
    }
    let offers: Vec<_> = offers.into_iter().flatten().collect();
    assert_eq!(
        offers.len(),
        1,
        "a new uid is offered once, also to clients that never take it"
    );
    assert_eq!(offers[0][6] >> 4, 7);
    let shown = bench.api.agent(&original.uid()).await.agent.unwrap();
    assert!(
        shown.conditions.iter().any(|c| c.contains("duplicate uid")),
        "{:?}",
        shown.conditions
    );
    bench.store(&[role("raw", "role = raw", &config("two"))]);
    let refused = bench.api.start("raw", "all").await.unwrap_err();
    assert!(
        refused.message().contains("two agents speak with its uid"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_clone_that_takes_its_new_uid_is_an_agent_of_its_own() {
    let bench = Bench::start();
    let (mut here, mut there) = (bench.http().await, bench.http().await);
    let mut original = Script::new("original");
    original.number = 60;
    here.ask(&original.full()).await;
    let mut clone = Script {
        number: 0,
        ..original.clone()
    }
    .with("host.name", "clone");
    there.ask(&clone.full()).await;
    let given = eventually(SOON, "a new uid", async || {
        let first = new_uid(&here.ask(&original.bare()).await);
        let second = new_uid(&there.ask(&clone.bare()).await);
        assert_eq!(first, None, "the later stream is the one to move");
        second.ok_or_else(|| "none".to_owned())
    })
    .await;
    clone.uid = given.as_slice().try_into().unwrap();
    clone.number = 0;
    assert_eq!(new_uid(&there.ask(&clone.full()).await), None);
    assert_eq!(
        bench.api.agent(&clone.uid()).await.agent.unwrap().name,
        "clone"
    );
    assert_eq!(bench.api.list("").await.len(), 2);
}

// === capabilities ===

#[tokio::test]
async fn only_what_is_implemented_is_offered_in_capabilities_and_flags() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a").capable(0xffff);
    let first = AgentToServer {
        available_components: Some(components(b"unknown", false)),
        ..agent.full()
    };
    let mut replies = vec![http.ask(&first).await];
    bench.target("one").await;
    for _ in 0..10 {
        replies.push(http.ask(&agent.bare()).await);
    }
    for reply in replies {
        assert_eq!(
            reply.capabilities, 0x7,
            "AcceptsStatus, OffersRemoteConfig, AcceptsEffectiveConfig"
        );
        assert_eq!(reply.flags & !0x3, 0);
        assert_eq!(reply.connection_settings, None);
        assert_eq!(reply.packages_available, None);
        assert_eq!(reply.custom_capabilities, None);
        assert_eq!(reply.custom_message, None);
    }
}

#[tokio::test]
async fn an_agent_without_accepts_remote_config_is_offered_nothing_until_it_states_it() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let without = managed_without(AgentCapabilities::AcceptsRemoteConfig);
    let (mut never, mut changing, mut able) = (
        Script::new("never").capable(without),
        Script::new("changing"),
        Script::new("able"),
    );
    for agent in [&mut never, &mut changing, &mut able] {
        http.ask(&agent.full()).await;
    }
    changing.capabilities = without;
    http.ask(&changing.bare()).await;
    bench.stable("one", &mut http, &mut able).await;
    polls_without_offer(&mut http, &mut never, 5).await;
    polls_without_offer(&mut http, &mut changing, 5).await;
    changing.capabilities = raw::MANAGED;
    offered(&mut http, &mut changing).await;
}

#[tokio::test]
async fn an_agent_without_accepts_restart_command_is_refused_by_name_and_sent_no_command() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent =
        Script::new("a").capable(managed_without(AgentCapabilities::AcceptsRestartCommand));
    http.ask(&agent.full()).await;
    let changed = bench
        .server
        .cli()
        .run(&["agents", "restart", "a", "--yes", "-o", "json"]);
    assert!(
        format!("{}{}", changed.stdout, changed.stderr).contains("restart"),
        "{changed:?}"
    );
    for _ in 0..5 {
        assert_eq!(http.ask(&agent.bare()).await.command, None);
    }
}

#[tokio::test]
async fn an_agent_without_config_status_is_offered_a_config_once_and_called_unverifiable() {
    let bench = Bench::with(&["--agent-interval", "20s", "--offer-timeout", "1s"]);
    let mut http = bench.http().await;
    let mut agent =
        Script::new("a").capable(managed_without(AgentCapabilities::ReportsRemoteConfig));
    http.ask(&agent.full()).await;
    let rollout = bench.target("one").await;
    offered(&mut http, &mut agent).await;
    eventually(SOON, "the rollout to call it unverifiable", async || {
        polls_without_offer(&mut http, &mut agent, 1).await;
        let total = bench.api.rollout(&rollout).await.total.unwrap_or_default();
        holds(total.unverifiable == 1, total)
    })
    .await;
    http.ask(&AgentToServer {
        effective_config: Some(effective("receivers: {nop: {}}")),
        ..agent.full()
    })
    .await;
    polls_without_offer(&mut http, &mut agent, 10).await;
    let shown = bench.api.agent("a").await.agent.unwrap();
    assert!(
        shown
            .conditions
            .iter()
            .any(|c| c.starts_with("unverifiable")),
        "{:?}",
        shown.conditions
    );
}

#[tokio::test]
async fn an_agent_that_stands_for_many_collectors_is_shown_and_never_configured() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut bridge =
        Script::new("bridge").with("service.name", "io.opentelemetry.operator-opamp-bridge");
    let mut agent = Script::new("a");
    http.ask(&bridge.full()).await;
    http.ask(&agent.full()).await;
    bench.target("one").await;
    offered(&mut http, &mut agent).await;
    polls_without_offer(&mut http, &mut bridge, 10).await;
    assert_eq!(
        bench.api.agent("bridge").await.agent.unwrap().link,
        "connected"
    );
}

// === remote configuration ===

#[tokio::test]
async fn an_agent_with_another_hash_is_sent_one_named_file_and_its_hash() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let (mut a, mut b) = (Script::new("a"), Script::new("b"));
    http.ask(&AgentToServer {
        remote_config_status: Some(raw::config_status(
            &[9; 32],
            RemoteConfigStatuses::Applied,
            "",
        )),
        ..a.full()
    })
    .await;
    http.ask(&b.full()).await;
    bench.target_each("marked", &["a", "b"]).await;
    let (hash, files) = offered(&mut http, &mut a).await;
    assert_eq!(hash.len(), 32);
    assert_eq!(files.len(), 1);
    assert!(
        files.values().all(|body| body.contains("debug/marked")),
        "{files:?}"
    );
    let mut other_connection = bench.http().await;
    let (same, _) = offered(&mut other_connection, &mut b).await;
    assert_eq!(hash, same, "one config has one hash for every agent");
}

#[tokio::test]
async fn an_agent_that_has_the_config_is_not_sent_it_again() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    let hash = bench.stable("one", &mut http, &mut agent).await;
    polls_without_offer(&mut http, &mut agent, 5).await;
    agent.number = 0;
    let applied = raw::config_status(&hash, RemoteConfigStatuses::Applied, "");
    let restarted = AgentToServer {
        remote_config_status: Some(applied.clone()),
        ..agent.full()
    };
    assert_eq!(offer(&http.ask(&restarted).await), None);
    polls_without_offer(&mut http, &mut agent, 5).await;
    // One that says so of itself at its first word is taken at its word.
    let mut newcomer = Script::new("b");
    let first = AgentToServer {
        remote_config_status: Some(applied),
        ..newcomer.full()
    };
    assert_eq!(offer(&http.ask(&first).await), None);
    polls_without_offer(&mut http, &mut newcomer, 5).await;
}

#[tokio::test]
async fn a_newcomer_joins_at_the_stable_revision_with_its_first_message() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    let hash = bench.stable("one", &mut http, &mut agent).await;
    let mut newcomer = Script::new("b");
    assert_eq!(
        offer(&http.ask(&newcomer.full()).await).map(|(hash, _)| hash),
        Some(hash)
    );
    polls_without_offer(&mut http, &mut newcomer, 5).await;
}

#[tokio::test]
async fn a_failed_config_is_not_sent_again_and_its_error_is_kept() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    bench.target("one").await;
    let (hash, _) = offered(&mut http, &mut agent).await;
    http.ask(&agent.status(
        &hash,
        RemoteConfigStatuses::Failed,
        "unknown exporter debug/one",
    ))
    .await;
    polls_without_offer(&mut http, &mut agent, 5).await;
    agent.number = 0;
    let told = raw::config_status(
        &hash,
        RemoteConfigStatuses::Failed,
        "unknown exporter debug/one",
    );
    assert_eq!(
        offer(
            &http
                .ask(&AgentToServer {
                    remote_config_status: Some(told),
                    ..agent.full()
                })
                .await
        ),
        None
    );
    polls_without_offer(&mut http, &mut agent, 5).await;
    let shown = bench.api.agent("a").await;
    assert_eq!(shown.agent.unwrap().state, "failed");
    assert_eq!(shown.status.unwrap().error, "unknown exporter debug/one");
    assert_eq!(shown.refused.len(), 1);
}

#[tokio::test]
async fn a_websocket_agent_is_pushed_to_and_its_messages_under_way_bring_no_second_offer() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let mut ws = bench.ws().await;
    ws.ask(&agent.full()).await;
    bench.target("one").await;
    let (hash, _) = offer(&ws.hear().await).expect("the push is an offer");
    for i in 0..10 {
        let health = ComponentHealth {
            healthy: i % 2 == 0,
            ..healthy()
        };
        let reply = ws
            .ask(&AgentToServer {
                health: Some(health),
                ..agent.bare()
            })
            .await;
        assert_eq!(offer(&reply), None, "message {i} after the push");
    }
    let reply = ws
        .ask(&agent.status(&hash, RemoteConfigStatuses::Applying, ""))
        .await;
    assert_eq!(offer(&reply), None);
    assert_eq!(bench.api.agent("a").await.delivery.unwrap().offers, 1);
}

#[tokio::test]
async fn an_agent_that_rolled_back_by_itself_is_not_sent_the_config_again() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    let good = bench.stable("good", &mut http, &mut agent).await;
    bench.target("bad").await;
    let (bad, _) = offered(&mut http, &mut agent).await;
    assert_ne!(good, bad);
    for (hash, status, error) in [
        (&bad, RemoteConfigStatuses::Applying, ""),
        (
            &bad,
            RemoteConfigStatuses::Failed,
            "collector exited unexpectedly",
        ),
        (&good, RemoteConfigStatuses::Applied, ""),
    ] {
        assert_eq!(
            offer(&http.ask(&agent.status(hash, status, error)).await),
            None
        );
    }
    polls_without_offer(&mut http, &mut agent, 10).await;
    assert_eq!(
        bench.api.agent("a").await.agent.unwrap().state,
        "rolled back"
    );
}

#[tokio::test]
async fn an_empty_config_is_refused_when_it_is_applied() {
    let bench = Bench::start();
    for body in ["{}", "# nothing"] {
        let path = bench.server.write(
            "empty.yaml",
            &family("empty", 1, &[role("raw", "role = raw", body)]),
        );
        let refused = bench
            .server
            .cli()
            .run(&["apply", "-f", path.to_str().unwrap()]);
        assert_ne!(refused.code, 0, "{body}: {refused:?}");
    }
}

#[tokio::test]
async fn an_offer_that_is_ignored_runs_out_and_is_not_repeated() {
    let bench = Bench::with(&["--agent-interval", "20s", "--offer-timeout", "1s"]);
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    let rollout = bench.target("one").await;
    offered(&mut http, &mut agent).await;
    eventually(SOON, "the offer to run out", async || {
        polls_without_offer(&mut http, &mut agent, 1).await;
        let total = bench.api.rollout(&rollout).await.total.unwrap_or_default();
        holds(total.no_answer == 1, total)
    })
    .await;
    bench.rollout_is(&rollout, "halted").await;
    polls_without_offer(&mut http, &mut agent, 5).await;
}

#[tokio::test]
async fn another_effective_config_is_no_reason_to_send_again() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    bench.stable("one", &mut http, &mut agent).await;
    let other = AgentToServer {
        effective_config: Some(effective("exporters: {debug/two: {verbosity: detailed}}")),
        ..agent.bare()
    };
    assert_eq!(offer(&http.ask(&other).await), None);
    polls_without_offer(&mut http, &mut agent, 5).await;
}

#[tokio::test]
async fn an_identical_retry_gets_the_same_offer_again() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    bench.target("one").await;
    let (message, first) = eventually(SOON, "an offer", async || {
        let message = agent.bare();
        let reply = http.ask(&message).await;
        offer(&reply)
            .map(|offer| (message, offer))
            .ok_or_else(|| "none".to_owned())
    })
    .await;
    for _ in 0..3 {
        let again = bench.http().await.ask(&message).await;
        assert_eq!(offer(&again), Some(first.clone()));
    }
    polls_without_offer(&mut http, &mut agent, 5).await;
    assert_eq!(bench.api.agent("a").await.delivery.unwrap().offers, 1);
}

#[tokio::test]
async fn a_retry_after_a_halt_gets_its_answer_without_the_offer() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    let rollout = bench.target("one").await;
    let message = eventually(SOON, "an offer", async || {
        let message = agent.bare();
        let reply = http.ask(&message).await;
        holds(offer(&reply).is_some(), "none").map(|()| message)
    })
    .await;
    bench.server.cli().ok(&["rollout", "halt", &rollout]);
    let again = http.ask(&message).await;
    assert_eq!((again.error_response.as_ref(), offer(&again)), (None, None));
    polls_without_offer(&mut http, &mut agent, 5).await;
    bench.server.cli().ok(&["rollout", "resume", &rollout]);
    offered(&mut http, &mut agent).await;
}

// === commands and components ===

#[tokio::test]
async fn a_restart_travels_alone_and_once_and_the_config_follows() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a");
    http.ask(&agent.full()).await;
    bench.server.cli().ok(&["agents", "restart", "a", "--yes"]);
    let reply = eventually(SOON, "the command", async || {
        let reply = http.ask(&agent.bare()).await;
        holds(reply.command.is_some(), "none").map(|()| reply)
    })
    .await;
    assert_eq!(reply.command.unwrap().r#type(), CommandType::Restart);
    let rest = ServerToAgent {
        command: None,
        instance_uid: vec![],
        capabilities: 0,
        ..reply
    };
    assert_eq!(rest, ServerToAgent::default(), "the command is alone");
    for _ in 0..5 {
        assert_eq!(http.ask(&agent.bare()).await.command, None);
    }
}

#[tokio::test]
async fn a_restart_and_a_config_that_are_due_together_both_arrive_apart() {
    let bench = Bench::start();
    let (mut polling, mut connected) = (Script::new("polls"), Script::new("stays"));
    let (mut http, mut ws) = (bench.http().await, bench.ws().await);
    http.ask(&polling.full()).await;
    ws.ask(&connected.full()).await;
    bench.target_each("one", &["polls", "stays"]).await;
    offer(&ws.hear().await).expect("the push is an offer");
    bench
        .server
        .cli()
        .ok(&["agents", "restart", "polls", "stays", "--yes"]);
    let (mut commands, mut configs) = (0, 0);
    for _ in 0..10 {
        let reply = http.ask(&polling.bare()).await;
        assert!(reply.command.is_none() || reply.remote_config.is_none());
        commands += usize::from(reply.command.is_some());
        configs += usize::from(reply.remote_config.is_some());
    }
    assert_eq!((commands, configs), (1, 1));
    assert!(ws.hear().await.command.is_some(), "a restart is pushed");
}

#[tokio::test]
async fn agents_with_one_component_list_are_asked_for_it_once_in_each_partition() {
    const AGENTS: usize = 60;
    const PARTITIONS: usize = 8;
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agents: Vec<Script> = (0..AGENTS).map(|i| Script::new(&format!("a{i}"))).collect();
    let mut asked = Vec::new();
    for (i, agent) in agents.iter_mut().enumerate() {
        let first = AgentToServer {
            available_components: Some(components(b"one list", false)),
            ..agent.full()
        };
        if http.ask(&first).await.flags & COMPONENTS != 0 {
            asked.push(i);
            let whole = AgentToServer {
                available_components: Some(components(b"one list", true)),
                ..agent.bare()
            };
            http.ask(&whole).await;
        }
    }
    assert_eq!(asked[0], 0);
    assert!(
        asked.len() <= PARTITIONS,
        "the others share the list of the first: {asked:?}"
    );
    for agent in &mut agents {
        assert_eq!(http.ask(&agent.bare()).await.flags, 0);
    }
    for name in ["a0", "a59"] {
        let kinds = bench.api.agent(name).await.components;
        assert_eq!(
            kinds.iter().map(|k| k.kind.as_str()).collect::<Vec<_>>(),
            ["receivers"],
            "{name}"
        );
    }
}

#[tokio::test]
async fn agents_without_the_capability_are_not_asked_for_components() {
    let bench = Bench::start();
    let mut http = bench.http().await;
    let mut agent = Script::new("a").capable(managed_without(
        AgentCapabilities::ReportsAvailableComponents,
    ));
    let first = AgentToServer {
        available_components: Some(components(b"list", false)),
        ..agent.full()
    };
    assert_eq!(http.ask(&first).await.flags, 0);
}

// === errors and disconnects ===

#[tokio::test]
async fn garbage_is_a_bad_request_on_both_transports_and_the_connection_stays() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let assert_bad = |reply: ServerToAgent| {
        let error = reply.error_response.expect("an error");
        assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
        assert!(!error.error_message.is_empty());
    };
    let mut http = bench.http().await;
    assert_bad(http.post(&[0xff; 40]).await.message());
    assert_eq!(http.ask(&agent.full()).await.error_response, None);
    let mut ws = bench.ws().await;
    ws.say_bytes(&[0xff; 40]).await;
    assert_bad(ws.hear().await);
    assert_eq!(ws.ask(&agent.bare()).await.error_response, None);
}

#[tokio::test]
async fn a_farewell_is_answered_and_marks_the_agent_as_left_at_once() {
    let bench = Bench::start();
    for transport in ["http", "ws"] {
        let mut agent = Script::new(transport);
        let first = agent.full();
        let farewell = AgentToServer {
            agent_disconnect: Some(AgentDisconnect {}),
            ..agent.bare()
        };
        let reply = if transport == "http" {
            let mut http = bench.http().await;
            http.ask(&first).await;
            http.ask(&farewell).await
        } else {
            let mut ws = bench.ws().await;
            ws.ask(&first).await;
            ws.ask(&farewell).await
        };
        assert_eq!(reply.instance_uid, agent.uid);
        assert_eq!(bench.api.agent(transport).await.agent.unwrap().link, "left");
    }
}

#[tokio::test]
async fn the_end_of_an_older_connection_does_not_disconnect_the_agent() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    let (mut old, mut new) = (bench.ws().await, bench.ws().await);
    old.ask(&agent.full()).await;
    new.ask(&agent.bare()).await;
    let report = AgentToServer {
        health: Some(ComponentHealth {
            healthy: false,
            ..healthy()
        }),
        ..agent.bare()
    };
    new.ask(&report).await;
    old.close().await;
    old.closed().await;
    assert!(!asks_full(&new.ask(&agent.bare()).await));
    assert_eq!(bench.api.agent("a").await.agent.unwrap().link, "connected");
    new.close().await;
    eventually(SOON, "the agent to have left", async || {
        let link = bench.api.agent("a").await.agent.unwrap().link;
        holds(link == "left", link)
    })
    .await;
}

// === security ===

#[tokio::test]
async fn secrets_of_an_effective_config_are_neither_shown_nor_stored() {
    const SECRETS: [&str; 4] = [
        "hunter2-password",
        "k-9f8e7d6c5b4a",
        "bearer-3141592653",
        "url-s3cr3t",
    ];
    let mut bench = Bench::start();
    let mut agent = Script::new("a");
    let mut http = bench.http().await;
    let yaml = format!(
        "extensions: {{basicauth: {{client_auth: {{username: u, password: {}}}}}}}\n\
         exporters:\n  otlphttp:\n    endpoint: https://user:{}@collector.example\n    headers: {{Authorization: Bearer {}}}\n    api_key: {}\n",
        SECRETS[0], SECRETS[3], SECRETS[2], SECRETS[1]
    );
    http.ask(&AgentToServer {
        effective_config: Some(effective(&yaml)),
        ..agent.full()
    })
    .await;
    let cli = bench.server.cli();
    let shown = [
        cli.ok(&["agents", "get", "a", "--effective"]),
        cli.ok(&["agents", "get", "a", "-o", "json"]),
    ]
    .concat();
    assert!(shown.contains("otlphttp"), "{shown}");
    bench.server.stop();
    let mut files = 0;
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} is shown");
        files += assert_absent(&bench.server.data, secret.as_bytes());
        assert!(!bench.server.log().contains(secret), "{secret} is logged");
    }
    assert!(files > 0);
}

/// No file below `directory` contains `needle`. Answers how many were read.
fn assert_absent(directory: &Path, needle: &[u8]) -> usize {
    let mut read = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read += assert_absent(&path, needle);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).any(|window| window == needle);
        assert!(
            !found,
            "{} contains {}",
            path.display(),
            String::from_utf8_lossy(needle)
        );
        read += 1;
    }
    read
}

#[tokio::test]
async fn uids_are_shown_in_their_canonical_form() {
    let bench = Bench::start();
    let mut agent = Script::new("a");
    bench.http().await.ask(&agent.full()).await;
    let listed = bench.server.cli().json(&["agents", "list"]);
    assert!(
        listed
            .to_string()
            .contains(&Uid::from_wire(&agent.uid).unwrap().to_string()),
        "{listed}"
    );
}
