//! A fleet in front of a cluster, its operator, and what has to be true of both whatever happens to the cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use muster_loadtest::fleet::Transport;
use muster_loadtest::{Fleet, FleetConfig};

use crate::api::Api;
use crate::cli::Cli;
use crate::grants::{Acts, unexplained};
use crate::manifest::{config, family, role};
use crate::scene::{assert_adds_up, plans};
use crate::wait::{SOON, eventually, holds};

/// For everything that waits for an election, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Options of nodes whose agents poll as those of a [`Crowd`].
pub const NODE: [&str; 3] = [
    "--agent-interval=500ms",
    "--lost-after=20",
    "--offer-timeout=20s",
];

/// A fleet, and who looks after it.
pub struct Crowd {
    pub api: Api,
    pub cli: Cli,
    pub fleet: Fleet,
}

impl Crowd {
    /// So many agents, half of them over WebSocket, spread over these gateways; listed and healthy. Its operator is at `api`.
    pub async fn of(agents: usize, urls: Vec<String>, api: SocketAddr) -> Self {
        let mut config = FleetConfig::fast(urls[0].clone(), 0);
        config.servers = urls;
        config.roles = vec![("agent".to_owned(), agents)];
        config.transport = Transport::Mixed;
        // In a network of its own; everywhere else a fleet goes no further than loopback.
        config.allow_remote = !api.ip().is_loopback();
        config.options.interval = Duration::from_millis(300);
        config.options.apply_timeout = Duration::from_millis(200);
        let fleet = Fleet::start(config).unwrap();
        fleet.connected(SOON).await.unwrap();
        let crowd = Crowd {
            api: Api::new(api),
            cli: Cli::new(format!("http://{api}")),
            fleet,
        };
        eventually(
            SOON,
            "the whole fleet to be listed and healthy",
            async || {
                let agents = crowd.api.try_list("").await;
                let agents = agents.map_err(|status| status.to_string())?;
                let healthy = agents.iter().filter(|agent| agent.healthy).count();
                holds(healthy == crowd.fleet.len(), (healthy, agents.len()))
            },
        )
        .await;
        crowd
    }

    /// Stores the family "edge" and the plans, by way of this file. Answers the delivery hash.
    pub async fn store(&self, file: &Path, marker: &str) -> Vec<u8> {
        let manifests = family(
            "edge",
            10,
            &[role("agent", "role = agent", &config(marker))],
        );
        let manifests = [&[manifests], &plans()[..]].concat().join("---\n");
        std::fs::write(file, manifests).unwrap();
        self.cli.apply(file);
        self.api.delivery_hash("edge", "agent").await
    }

    /// Waits until so many members of a rollout have converged.
    pub async fn converge(&self, id: &str, members: u64) {
        eventually(SOON, "the first members to converge", async || {
            let rollout = self.api.try_rollout(id).await;
            let rollout = rollout.map_err(|status| status.to_string())?;
            let converged = rollout.total.as_ref().map_or(0, |total| total.converged);
            holds(converged >= members, rollout.total)
        })
        .await;
    }

    /// Waits until a rollout is complete; its figures add up whenever looked at.
    pub async fn completes(&self, id: &str) {
        eventually(PATIENCE, "the rollout to complete", async || {
            let rollout = self
                .api
                .try_rollout(id)
                .await
                .map_err(|status| status.to_string())?;
            assert_adds_up(&rollout);
            holds(
                rollout.state == "completed",
                (
                    &rollout.state,
                    &rollout.cause,
                    &rollout.total,
                    &rollout.waiting,
                ),
            )
        })
        .await;
    }

    /// Waits until `muster cluster status` has nothing to say.
    pub async fn cluster_is_whole(&self) {
        eventually(PATIENCE, "the cluster to be whole", async || {
            let view = self.api.cluster().await;
            let view = view.map_err(|status| status.to_string())?;
            holds(view.waits_for.is_empty(), &view.waits_for)
        })
        .await;
    }

    /// Waits until groups of these names are led, and by none of these nodes.
    pub async fn is_led_without(&self, lost: &[u64], groups: impl Fn(&str) -> bool) {
        eventually(PATIENCE, "others to lead", async || {
            let view = self.api.cluster().await;
            let view = view.map_err(|status| status.to_string())?;
            let mut meant = view.groups.iter().filter(|group| groups(&group.name));
            let led = meant.all(|group| group.leader != 0 && !lost.contains(&group.leader));
            holds(led, &view.groups)
        })
        .await;
    }

    /// Waits until the cluster has these nodes, and each of them answers.
    pub async fn has_nodes(&self, nodes: &[u64]) {
        eventually(PATIENCE, "nodes to be known", async || {
            let view = self.api.cluster().await;
            let view = view.map_err(|status| status.to_string())?;
            let answer = view.nodes.iter().filter(|node| node.answers);
            let answer: Vec<u64> = answer.map(|node| node.id).collect();
            holds(answer == nodes, &view.nodes)
        })
        .await;
    }

    /// Offers of this config so far.
    pub fn offers(&self, hash: &[u8]) -> usize {
        self.fleet
            .offers()
            .iter()
            .filter(|o| o.hash == hash)
            .count()
    }

    pub fn assert_offered_once_to_everybody(&self, hash: &[u8]) {
        let offers = self.fleet.offers();
        let mut agents: Vec<usize> = offers
            .iter()
            .filter(|o| o.hash == hash)
            .map(|o| o.agent)
            .collect();
        agents.sort_unstable();
        let everybody: Vec<usize> = (0..self.fleet.len()).collect();
        assert_eq!(agents, everybody);
        assert_eq!(self.fleet.record().repeated_offers(), []);
    }

    /// Messages that were lost to an answer after which a client does not say them again by itself.
    pub fn not_retried(&self) -> u64 {
        let stats = self.fleet.stats();
        stats.discarded + stats.undecodable + stats.error_responses
    }

    pub async fn assert_nobody_is_lost(&self) {
        let agents = self.api.list("").await;
        let mut lost = Vec::new();
        for agent in agents.iter().filter(|agent| agent.link == "lost") {
            let seen = self.api.agent(&agent.name).await;
            lost.push((seen.agent, seen.number, seen.history));
        }
        assert!(lost.is_empty(), "{lost:#?}");
        assert_eq!(agents.len(), self.fleet.len());
    }

    pub fn assert_audit_verifies(&self) {
        let verified = self.cli.run(&["audit", "verify"]);
        assert_eq!(verified.code, 0, "{verified:?}");
    }

    /// Nor has anybody been called lost for a while.
    pub async fn assert_nobody_was_lost(&self) {
        for agent in self.api.list("").await {
            let seen = self.api.agent(&agent.name).await;
            let lost = seen.history.iter().find(|was| was.kind == "lost");
            assert!(lost.is_none(), "{}: {:#?}", agent.name, seen.history);
        }
    }

    /// No offer came without a reason; one that was not answered may come again after the time of [`NODE`].
    pub fn assert_offers_are_explained(&self) {
        let acts = Acts {
            timeout: Duration::from_secs(20),
            ..Acts::default()
        };
        let record = self.fleet.record();
        let unexplained = unexplained(&record.offers(), &record.reports(), &acts);
        assert!(unexplained.is_empty(), "{unexplained:#?}");
    }
}
