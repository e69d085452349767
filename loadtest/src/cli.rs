//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_loadtest::agent::{Options, capability};
use muster_loadtest::bench::Plan;
use muster_loadtest::fleet::{FleetConfig, Transport};
use muster_loadtest::script::ScriptFile;
use muster_loadtest::transport::Endpoint;

const EXAMPLES: &str = "\
Examples:
  A small fleet for a minute, with a page to look at afterwards:
    muster-loadtest run --agents 50 --server http://127.0.0.1:4320 --html result.html

  A fleet in roles, on both transports, polling every 5 s, that misbehaves by script:
    muster-loadtest run --roles gateway=2,cluster=3,agent=45 --transport mixed --interval 5s \\
        --script bad.yaml --server http://127.0.0.1:4320

  What a check-in costs the server, beside the cheapest server there can be:
    muster-loadtest bench-idle --server http://127.0.0.1:4320 --cpu-of $(pidof muster)
    muster-loadtest bare-server --listen 127.0.0.1:4399 &
    muster-loadtest bench-idle --server http://127.0.0.1:4399 --plain --cpu-of $!

  How fast new agents get in, and how fast those that are in change, one at a time and many together:
    muster-loadtest bench-register --server http://127.0.0.1:4320 --agents 20000
    muster-loadtest bench-change --server http://127.0.0.1:4320 --agents 10000 --connections 512
    muster-loadtest bench-change --server http://127.0.0.1:4320 --agents 10000 --under-way 64";

const SCRIPT_HELP: &str = "\
A script file deals out behaviours; an agent gets the first rule that names it:

  agents:
    - role: gateway            # only this role; unset: all
      every: 10                # every 10th index; unset: each
      does:
        - rejects: { error: 'unknown exporter \"debug/broken\"' }
      bad_when: debug/broken   # only configs with this text; unset: all
    - role: agent
      every: 50
      does: [ { crashes_after: { after: 2s } }, rollback ]

Behaviours: applies, rejects {error}, crashes_after {after}, unhealthy_after {after}, sleeps {from, for},
clones_uid {of}, never_answers, rollback, no_config_status.

Ctrl-C ends a run early; the results are still written.";

/// Simulated OpAMP supervisors: whole fleets, and benches of a server's check-in path.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a fleet of simulated supervisors and report what they saw.
    #[command(after_help = SCRIPT_HELP)]
    Run(Box<Run>),
    /// Register agents, then poll for them as fast as the server answers; prints JSON.
    BenchIdle(Bench),
    /// Register new agents with full first messages as fast as the server answers; prints JSON.
    BenchRegister(Bench),
    /// Register agents, then have them say something new, each change stored before it is answered; prints JSON.
    BenchChange(BenchChange),
    /// Answer any POST with constant bytes: the reference that bench-idle --plain is run against.
    BareServer {
        /// Address to listen on; port 0 picks one.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4399")]
        listen: std::net::SocketAddr,
        /// Allow an address that other machines can reach.
        #[arg(long)]
        allow_remote: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TransportArg {
    /// Polls.
    Http,
    /// Standing connections.
    Ws,
    /// Half of each.
    Mixed,
}

#[derive(Debug, Args)]
pub struct Run {
    /// How many agents; the roles are scaled to it [default: the sum of the roles, or 50].
    #[arg(long, value_name = "N")]
    pub agents: Option<usize>,
    /// Where the agents connect; repeat it for several gateways.
    #[arg(long, value_name = "URL", required = true)]
    pub server: Vec<String>,
    #[arg(long, value_enum, default_value = "http")]
    pub transport: TransportArg,
    /// Poll or heartbeat interval, until the server sets another.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s")]
    pub interval: Duration,
    /// The agents start spread over this.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    pub ramp: Duration,
    /// The run ends after this.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60s")]
    pub duration: Duration,
    /// Roles and their numbers, as in gateway=2,cluster=3,agent=45.
    #[arg(long, value_name = "ROLE=N,...", value_delimiter = ',', value_parser = role)]
    pub roles: Vec<(String, usize)>,
    /// Behaviours, see below.
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Decides uids and attributes: the same seed is the same fleet.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Enrolment token, sent as `Authorization: Bearer`.
    #[arg(long, env = "MUSTER_LOADTEST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Certificates to trust over https and wss, PEM.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How long a config must run before it counts as applied.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s")]
    pub apply_timeout: Duration,
    /// Agents accept no remote config: nothing but check-ins.
    #[arg(long)]
    pub idle: bool,
    /// Write the result here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the result here, as a page without external parts.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Allow servers on other machines. Load only what is yours.
    #[arg(long)]
    pub allow_remote: bool,
}

#[derive(Debug, Args)]
pub struct BenchChange {
    #[command(flatten)]
    pub bench: Bench,
    /// Agents of each connection that have a change under way at a time; above 1 they share a WebSocket.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub under_way: u16,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// An http URL.
    #[arg(long, value_name = "URL")]
    pub server: String,
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub agents: usize,
    /// Kept connections, one request in flight on each.
    #[arg(long, value_name = "C", default_value_t = 64)]
    pub connections: usize,
    /// Of the measured part; an upper bound for bench-register, and for bench-change once its agents have registered.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    pub duration: Duration,
    #[arg(long, env = "MUSTER_LOADTEST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Decides the uids [default: drawn, so that the agents are new].
    #[arg(long)]
    pub seed: Option<u64>,
    /// The server is a bare one: register nothing, ignore the answers.
    #[arg(long)]
    pub plain: bool,
    /// Report the CPU time of this process, too.
    #[arg(long, value_name = "PID")]
    pub cpu_of: Option<u32>,
    /// Allow a server on another machine. Load only what is yours.
    #[arg(long)]
    pub allow_remote: bool,
}

// === impl Run ===

impl Run {
    pub fn config(&self) -> anyhow::Result<FleetConfig> {
        let scripts = match &self.script {
            None => ScriptFile::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    anyhow::anyhow!("could not read {}: {error}", path.display())
                })?;
                ScriptFile::parse(&text)
                    .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?
            }
        };
        let not = if self.idle {
            capability::ACCEPTS_REMOTE_CONFIG
        } else {
            0
        };
        let options = Options {
            capabilities: capability::MANAGED & !not,
            interval: self.interval,
            apply_timeout: self.apply_timeout,
            ..Options::default()
        };
        Ok(FleetConfig {
            servers: self.server.clone(),
            transport: match self.transport {
                TransportArg::Http => Transport::Http,
                TransportArg::Ws => Transport::Ws,
                TransportArg::Mixed => Transport::Mixed,
            },
            roles: scaled(&self.roles, self.agents),
            seed: self.seed,
            options,
            ramp: self.ramp.min(self.duration),
            scripts,
            token: self.token.clone(),
            ca: self.ca.clone(),
            allow_remote: self.allow_remote,
            ..FleetConfig::new("", 0)
        })
    }
}

// === impl Bench ===

impl Bench {
    pub fn plan(self) -> anyhow::Result<Plan> {
        Ok(Plan {
            endpoint: Endpoint::parse(&self.server, self.allow_remote)?,
            token: self.token,
            agents: self.agents,
            connections: self.connections.clamp(1, self.agents.max(1)),
            duration: self.duration,
            seed: self.seed.unwrap_or_else(rand::random),
            plain: self.plain,
            cpu_of: self.cpu_of,
            under_way: 1,
        })
    }
}

// === impl BenchChange ===

impl BenchChange {
    pub fn plan(self) -> anyhow::Result<Plan> {
        Ok(Plan {
            under_way: self.under_way.into(),
            ..self.bench.plan()?
        })
    }
}

fn role(text: &str) -> Result<(String, usize), String> {
    let (name, count) = text.split_once('=').ok_or("expected ROLE=N")?;
    let count = count
        .trim()
        .parse()
        .map_err(|_| format!("`{count}` is no number"))?;
    if name.trim().is_empty() {
        Err("the role has no name".to_owned())
    } else {
        Ok((name.trim().to_owned(), count))
    }
}

/// The roles in their proportions, `agents` in all; the last role takes what rounding leaves.
fn scaled(roles: &[(String, usize)], agents: Option<usize>) -> Vec<(String, usize)> {
    let sum: usize = roles.iter().map(|(_, count)| count).sum();
    if sum == 0 {
        return vec![("agent".to_owned(), agents.unwrap_or(50))];
    }
    let agents = agents.unwrap_or(sum);
    let mut left = agents;
    let mut scaled: Vec<_> = roles
        .iter()
        .map(|(name, count)| {
            let share = (count * agents / sum).min(left);
            left -= share;
            (name.clone(), share)
        })
        .collect();
    if let Some((_, last)) = scaled.last_mut() {
        *last += left;
    }
    scaled
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn roles_are_scaled_to_the_number_of_agents() {
        let roles = vec![("gateway".to_owned(), 2), ("agent".to_owned(), 8)];
        let counts = |agents| {
            scaled(&roles, agents)
                .into_iter()
                .map(|(_, count)| count)
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(None), [2, 8]);
        assert_eq!(counts(Some(101)), [20, 81]);
        assert_eq!(scaled(&[], None), [("agent".to_owned(), 50)]);
    }
}
