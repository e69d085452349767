//! A Muster server with real supervisors at it: agents that take logs and pass them to one gateway, which writes a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use system_tests::cli::{Cli, Output};
use system_tests::server::{Server, free_address};
use system_tests::wait::{eventually_blocking, holds};

use crate::logs::{self, Sink, Stream};
use crate::peers::{Home, Setup, Supervisor, source};

/// Supervisors bootstrap their collector before they connect, several at once on a small machine.
pub const ARRIVAL: Duration = Duration::from_secs(60);
/// Over http:// an agent learns of a config with its next poll, up to 30 s later; this is three waves of that.
pub const ROLLOUT: Duration = Duration::from_secs(150);

/// The family of all tests here.
pub const FAMILY: &str = "pii-redaction";

/// The version in collector.yaml.
pub const COLLECTOR: &str = "0.158.0";

/// Held by the fleet that starts. Tests run side by side, and each supervisor starts its collector twice before it
/// connects: all at once would exceed its `bootstrap_timeout` on a small machine.
static STARTING: Mutex<()> = Mutex::new(());

/// How supervisors reach the server. Over HTTP this one polls every 30 s, which no setting of it changes, and says what is
/// new at once; over WebSocket it is told at once, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Http,
    Ws,
}

pub struct Fleet {
    pub agents: Vec<Supervisor>,
    pub gateway: Supervisor,
    pub sink: Sink,
    /// A second port for the gateway, on which nothing listens until a configuration says so.
    pub new_port: SocketAddr,
    /// An editor: writes manifests and looks after agents.
    pub bob: Cli,
    /// An approver: starts rollouts, and may not write.
    pub alice: Cli,
    /// Who alone may stop collectors.
    pub admin: Cli,
    pub server: Server,
    home: Home,
}

// === impl Fleet ===

impl Fleet {
    /// Starts a server that wants tokens, a gateway and `agents` agents, and waits until all are in the inventory.
    pub fn start(transport: Transport, agents: usize) -> Self {
        Self::of(transport, agents, false)
    }

    /// As [`Fleet::start`], of supervisors that go back by themselves to the last config that worked.
    pub fn that_goes_back(transport: Transport, agents: usize) -> Self {
        Self::of(transport, agents, true)
    }

    fn of(transport: Transport, agents: usize, goes_back: bool) -> Self {
        let _turn = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let server = Server::start(&[
            "--require-tokens",
            "--offer-timeout",
            "2m",
            "--lost-after",
            "2",
        ]);
        let admin = std::fs::read_to_string(server.data.join("admin.token")).unwrap();
        let admin = server.cli().with_patience(ROLLOUT).with_token(admin.trim());
        let token = admin.ok(&["tokens", "create", "fleet", "--label", "env=interop"]);
        let operator = |name, role| {
            let secret = admin.ok(&[
                "tokens", "create", name, "--kind", "operator", "--role", role,
            ]);
            admin.with_token(secret.trim())
        };
        let (bob, alice) = (operator("bob", "editor"), operator("alice", "approver"));

        let home = Home::new();
        let sink = Sink::new(home.path().join("gateway.jsonl"));
        let endpoint = match transport {
            Transport::Http => server.http_url(),
            Transport::Ws => server.ws_url(),
        };
        let start = |name: &str, role: &str, env| {
            let token = Some(token.trim());
            Supervisor::start(
                Setup {
                    name,
                    role,
                    endpoint: &endpoint,
                    token,
                    authority: None,
                    env,
                    goes_back,
                },
                &home,
            )
        };
        let new_port = free_address();
        let gateway = start(
            "gateway-0",
            "gateway",
            vec![
                ("GATEWAY_FILE", sink.path().display().to_string()),
                ("GATEWAY_OTLP_NEW_ENDPOINT", new_port.to_string()),
            ],
        );
        let urls = [
            ("GATEWAY_OTLP_URL", format!("http://{}", gateway.otlp)),
            ("GATEWAY_OTLP_NEW_URL", format!("http://{new_port}")),
        ];
        let agents: Vec<_> = (0..agents)
            .map(|n| start(&format!("agent-{n}"), "agent", urls.to_vec()))
            .collect();
        let fleet = Fleet {
            agents,
            gateway,
            sink,
            new_port,
            bob,
            alice,
            admin,
            server,
            home,
        };
        for supervisor in fleet.supervisors() {
            arrives(&fleet.alice, &supervisor.name);
        }
        fleet
    }

    pub fn supervisors(&self) -> impl Iterator<Item = &Supervisor> {
        self.agents.iter().chain([&self.gateway])
    }

    /// Writes the manifests with these configurations of the folder `configs`.
    pub fn manifest(&self, gateway: &str, agent: &str) -> PathBuf {
        manifest(&self.home, gateway, agent)
    }

    /// As [`Fleet::manifest`], and stores them.
    pub fn apply(&self, gateway: &str, agent: &str) -> Value {
        self.bob.apply(&self.manifest(gateway, agent))
    }

    /// Starts a rollout of the latest revision and waits for its end.
    pub fn roll_out(&self) -> Ended {
        roll_out(&self.alice, "quick")
    }

    /// As [`Fleet::apply`] and [`Fleet::roll_out`], and everyone must get it.
    pub fn deliver(&self, gateway: &str, agent: &str) {
        self.apply(gateway, agent);
        self.roll_out().completed();
    }

    /// Sends `each` records through every agent. Answers the marks they bear.
    pub fn send(&self, what: &str, each: usize) -> Vec<String> {
        let mut marks = Vec::new();
        for agent in &self.agents {
            for n in 0..each {
                marks.push(format!("{what}-{}-{n}", agent.name));
                logs::send(agent.otlp, &marks[marks.len() - 1]);
            }
        }
        marks
    }

    /// Sends records through every agent until it is told to end.
    pub fn stream(&self, what: &str) -> Stream {
        let agents = self.agents.iter();
        Stream::start(agents.map(|agent| (format!("{what}-{}", agent.name), agent.otlp)))
    }

    /// What `muster agents get` says about one of them.
    pub fn agent(&self, name: &str) -> Value {
        self.alice.json(&["agents", "get", name])
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // All at once; each is then waited for on its own.
        self.supervisors().for_each(Supervisor::interrupt);
    }
}

/// How `muster rollout start --wait` ended.
#[derive(Debug)]
pub struct Ended {
    /// As it was last printed.
    pub rollout: Value,
    pub output: Output,
}

// === impl Ended ===

impl Ended {
    pub fn completed(&self) {
        assert_eq!(
            (self.output.code, &self.rollout["state"]),
            (0, &"completed".into()),
            "{self:#?}"
        );
    }
}

/// Starts a rollout of the latest revision and waits until it ends or halts, as a script of an operator does.
pub fn roll_out(cli: &Cli, plan: &str) -> Ended {
    ended(
        cli,
        &[
            "rollout", "start", FAMILY, "--plan", plan, "--yes", "--wait",
        ],
    )
}

/// Waits until this rollout ends or halts.
pub fn watch(cli: &Cli, rollout: &str) -> Ended {
    ended(cli, &["rollout", "watch", rollout])
}

fn ended(cli: &Cli, command: &[&str]) -> Ended {
    let output = cli.run(&[command, &["--timeout", "140s", "-o", "json"]].concat());
    let last = output.stdout.lines().last().unwrap_or("null");
    Ended {
        rollout: serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:#?}")),
        output,
    }
}

/// Waits until an agent of this name is connected, its collector runs, and its components are known.
pub fn arrives(cli: &Cli, name: &str) {
    eventually_blocking(ARRIVAL, &format!("{name} in the inventory"), || {
        let found = cli.run(&["agents", "get", name, "-o", "json"]);
        let detail: Value = serde_json::from_str(&found.stdout).map_err(|_| found.stderr)?;
        let there = detail["agent"]["link"] == "connected"
            && detail["agent"]["healthy"] == true
            && detail["components"]
                .as_array()
                .is_some_and(|kinds| !kinds.is_empty());
        holds(there, detail)
    });
}

/// A directory of manifests: the family, the configurations it names, and three plans of one agent of a role and then the
/// others. `quick` does what rollouts do by default, `holding` leaves it to a person what follows a stop, and `watched`
/// leaves time to take it back when everyone has it. The only wave of the one gateway is a last wave, too.
pub fn manifest(home: &Home, gateway: &str, agent: &str) -> PathBuf {
    let directory = home.directory("manifests");
    for entry in std::fs::read_dir(source().join("configs")).unwrap() {
        let configs = home.directory("manifests/configs");
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), configs.join(entry.file_name())).unwrap();
    }
    let yaml = format!(
        "apiVersion: muster/v1
kind: Family
metadata: {{name: {FAMILY}, owner: platform-security}}
spec:
  precedence: 100
  roles:
    - name: gateway
      selector: role = gateway
      configFile: configs/{gateway}.yaml
    - name: agent
      after: [gateway]
      selector: role = agent
      configFile: configs/{agent}.yaml
---
apiVersion: muster/v1
kind: Plan
metadata: {{name: quick}}
spec:
  waves:
    - {{size: 1, soak: 1s}}
    - {{size: 100%, soak: 1s}}
---
apiVersion: muster/v1
kind: Plan
metadata: {{name: holding}}
spec:
  waves:
    - {{size: 1, soak: 1s}}
    - {{size: 100%, soak: 1s}}
  onStop: hold
---
apiVersion: muster/v1
kind: Plan
metadata: {{name: watched}}
spec:
  waves:
    - {{size: 1, soak: 1s}}
    - {{size: 100%, soak: 20s}}
"
    );
    std::fs::write(directory.join("fleet.yaml"), yaml).unwrap();
    directory
}

/// What happened to an agent, oldest first.
pub fn history(cli: &Cli, name: &str) -> Vec<Value> {
    let history = cli.json(&["agents", "history", name, "--limit", "500"]);
    let mut transitions = history["transitions"].as_array().unwrap().clone();
    transitions.reverse();
    transitions
}

/// The words for what happened, in order.
pub fn kinds(transitions: &[Value]) -> Vec<&str> {
    transitions
        .iter()
        .map(|transition| transition["kind"].as_str().unwrap())
        .collect()
}
