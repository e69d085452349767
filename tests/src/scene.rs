//! A server, a fleet of simulated supervisors on both transports, the command line, and what to ask them.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_loadtest::fleet::Transport;
use muster_loadtest::script::Rule;
use muster_loadtest::{Behaviour, Fleet, FleetConfig};
use proto::api::{Counts, Rollout};

use crate::api::Api;
use crate::cli::Cli;
use crate::manifest::{Role, config, family, plan, role};
use crate::server::Server;
use crate::wait::{SOON, eventually, holds};

/// The marker of configs that scripted agents do not like.
pub const BROKEN: &str = "broken";

/// For everything a rollout does here by itself; the longest is to call an agent unhealthy, after 30 s.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long agents take to apply a config.
const APPLY: Duration = Duration::from_millis(150);

/// A server, a fleet, and what to ask them.
pub struct Scene {
    pub server: Server,
    pub api: Api,
    pub cli: Cli,
    pub fleet: Fleet,
}

// === impl Scene ===

impl Scene {
    /// `agents` agents of the role "agent", half of them over WebSocket.
    pub async fn of(agents: usize) -> Self {
        Scene::with(vec![("agent".to_owned(), agents)], &[]).await
    }

    /// As [`Scene::of`]; every agent behaves like this when a config contains [`BROKEN`].
    pub async fn disliking(agents: usize, does: &[Behaviour]) -> Self {
        Scene::with(vec![("agent".to_owned(), agents)], does).await
    }

    /// As [`Scene::of`]; it takes the agents so long to apply a config.
    pub async fn slow(agents: usize, apply: Duration) -> Self {
        let roles = vec![("agent".to_owned(), agents)];
        Scene::start_with(roles, &[], apply, &[]).await
    }

    /// As [`Scene::of`], at a server with these options more.
    pub async fn at(agents: usize, options: &[&str]) -> Self {
        let roles = vec![("agent".to_owned(), agents)];
        Scene::start_with(roles, &[], APPLY, options).await
    }

    /// Agents of these roles, which behave like this when a config contains [`BROKEN`].
    pub async fn with(roles: Vec<(String, usize)>, does: &[Behaviour]) -> Self {
        Scene::start_with(roles, does, APPLY, &[]).await
    }

    async fn start_with(
        roles: Vec<(String, usize)>,
        does: &[Behaviour],
        apply: Duration,
        options: &[&str],
    ) -> Self {
        let timing = [
            "--agent-interval",
            "200ms",
            "--lost-after",
            "15",
            "--offer-timeout",
            "10s",
        ];
        let server = Server::start(&[&timing, options].concat());
        let mut config = FleetConfig::fast(server.http_url(), 0);
        config.roles = roles;
        config.transport = Transport::Mixed;
        config.options.interval = Duration::from_millis(150);
        config.options.apply_timeout = apply;
        if !does.is_empty() {
            let rule = Rule {
                does: does.to_vec(),
                bad_when: Some(BROKEN.to_owned()),
                ..Rule::default()
            };
            config.scripts.agents.push(rule);
        }
        let fleet = Fleet::start(config).unwrap();
        fleet.connected(SOON).await.unwrap();
        let (api, cli) = (Api::new(server.api), server.cli());
        let scene = Scene {
            server,
            api,
            cli,
            fleet,
        };
        eventually(
            SOON,
            "the whole fleet to be listed and healthy",
            async || {
                let agents = scene.api.list("").await;
                let healthy = agents.iter().filter(|agent| agent.healthy).count();
                holds(healthy == scene.fleet.len(), (healthy, agents.len()))
            },
        )
        .await;
        scene
    }

    /// Stores the family "edge" with one role for all agents, and the plans. Answers the delivery hash.
    pub async fn store(&self, marker: &str) -> Vec<u8> {
        self.store_roles(&[role("agent", "role = agent", &config(marker))]);
        self.api.delivery_hash("edge", "agent").await
    }

    pub fn store_roles(&self, roles: &[Role<'_>]) {
        let plans = plans();
        let manifests = [&[family("edge", 10, roles)], &plans[..]]
            .concat()
            .join("---\n");
        self.cli.apply(&self.server.write("edge.yaml", &manifests));
    }

    /// Stores these manifests.
    pub fn apply(&self, manifests: &str) {
        self.cli
            .apply(&self.server.write("manifests.yaml", manifests));
    }

    /// What is said where this command is refused.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.cli.run(args);
        assert_ne!(output.code, 0, "muster {}: {output:#?}", args.join(" "));
        // A terminal's width must not break what a test looks for.
        output
            .stderr
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Rolls the latest revision of a family out to everybody.
    pub async fn complete(&self, family: &str) {
        let id = self.api.start(family, "quick").await.unwrap().id;
        self.state(&id, "completed").await;
    }

    /// Opens a rollout of the latest revision.
    pub async fn start(&self, plan: &str) -> String {
        self.api.start("edge", plan).await.unwrap().id
    }

    /// Rolls `marker` out to everybody. Answers the delivery hash.
    pub async fn stable(&self, marker: &str) -> Vec<u8> {
        let hash = self.store(marker).await;
        let id = self.start("quick").await;
        self.state(&id, "completed").await;
        hash
    }

    /// Waits until the rollout is in this state; its figures add up whenever looked at.
    pub async fn state(&self, id: &str, state: &str) -> Rollout {
        self.until(id, &format!("rollout {state}"), |rollout| {
            rollout.state == state
        })
        .await
    }

    pub async fn until(&self, id: &str, what: &str, reached: impl Fn(&Rollout) -> bool) -> Rollout {
        eventually(PATIENCE, what, async || {
            let rollout = self.api.rollout(id).await;
            assert_adds_up(&rollout);
            let seen = (
                &rollout.state,
                &rollout.cause,
                &rollout.total,
                &rollout.waiting,
            );
            holds(reached(&rollout), seen).map(|()| rollout)
        })
        .await
    }

    /// Agents that were offered this hash, by index, with repetitions.
    pub fn offered(&self, hash: &[u8]) -> Vec<usize> {
        self.fleet
            .offers()
            .iter()
            .filter(|offer| offer.hash == hash)
            .map(|offer| offer.agent)
            .collect()
    }

    pub async fn until_offered(&self, hash: &[u8], agents: usize) -> BTreeSet<usize> {
        let what = format!("{agents} agents to be offered it");
        eventually(SOON, &what, async || {
            let offered: BTreeSet<usize> = self.offered(hash).into_iter().collect();
            holds(offered.len() >= agents, &offered).map(|()| offered)
        })
        .await
    }

    /// Every agent that is awake has checked in several times more.
    pub async fn several_polls(&self) {
        let polls = self.fleet.stats().check_ins + 8 * self.fleet.len() as u64;
        self.fleet
            .until("several more polls", SOON, |_, now| now.check_ins >= polls)
            .await
            .unwrap();
    }

    /// Nobody is offered anything while every agent polls several times.
    pub async fn nobody_is_offered_anything(&self) {
        let before = self.fleet.offers().len();
        self.several_polls().await;
        let offers = self.fleet.offers();
        assert_eq!(offers.len(), before, "{:?}", &offers[before..]);
    }

    pub fn assert_nobody_was_offered_twice(&self) {
        assert_eq!(self.fleet.record().repeated_offers(), []);
    }
}

/// The plans of the tests.
pub fn plans() -> Vec<String> {
    [
        plan(
            "quick",
            &[
                "size: 1, soak: 500ms",
                "size: 50%, soak: 500ms",
                "size: 100%",
            ],
            "",
        ),
        plan("canary", &["size: 1, soak: 1h", "size: 100%"], ""),
        plan(
            "half",
            &["size: 1", "size: 50%, soak: 1h", "size: 100%"],
            "",
        ),
        plan(
            "pausing",
            &["size: 1", "size: 50%, soak: 4s", "size: 100%"],
            "",
        ),
        plan("holding", &["size: 1", "size: 100%"], "hold"),
        plan("watching", &["size: 1, soak: 1h", "size: 100%"], "hold"),
        plan(
            "by-wave",
            &["size: 1, soak: 2s", "size: 50%, soak: 4s", "size: 100%"],
            "roll back the wave",
        ),
    ]
    .into()
}

/// The figures of the whole and of each wave are those of their parts.
pub fn assert_adds_up(rollout: &Rollout) {
    let sum = |c: &Counts| {
        [
            c.waiting,
            c.pending_pickup,
            c.applying,
            c.soaking,
            c.converged,
            c.unchanged,
            c.rejected,
            c.crashed,
            c.rolled_back_by_agent,
            c.unhealthy,
            c.was_unhealthy,
            c.no_answer,
            c.vanished,
            c.not_reached,
            c.unverifiable,
            c.left,
            c.deleted,
            c.refused,
            c.excluded,
            c.returned,
            c.pinned,
            c.flow_lost,
        ]
        .iter()
        .sum::<u64>()
    };
    let Some(total) = &rollout.total else { return };
    assert_eq!(total.members, sum(total), "{total:?}");
    let waves = rollout.roles.iter().flat_map(|role| &role.waves);
    for wave in waves {
        if let Some(counts) = &wave.counts {
            assert_eq!(
                counts.members,
                sum(counts),
                "wave {}: {counts:?}",
                wave.number
            );
        }
    }
}

pub fn rejects() -> Behaviour {
    Behaviour::Rejects {
        error: "unknown processor: redactoin".to_owned(),
    }
}
