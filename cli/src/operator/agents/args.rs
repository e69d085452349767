//! What `muster agents` understands.

use clap::{Args, Subcommand};

use crate::operator::moment::Moment;

const LIST_EXAMPLES: &str = "\
Examples:
  muster agents list -l 'role = agent, env in (prod, staging)'
  muster agents list --state failed -o wide
  muster agents list --rollout pii-redaction --bucket rejected
  muster agents list --limit 0 -o json | jq -r '.agents[].uid'

States: connected, lost, left, healthy, unhealthy, unassigned, pending pickup, applying,
soaking, converged, failed, rolled back, refused, no answer, drifted, content drift,
assignment drift, version drift, identity drift, fallback drift, conflict
(\"pending pickup\", applying, soaking, converged, ...).";

const RETRY_EXAMPLES: &str = "\
An agent with the condition \"conflict\" runs what a restored server never offered to it. Retrying it
gives it what it should run by what the server knows now, which may be older. If what it runs is
right, apply that revision again and roll it out instead: who runs it already is sent nothing.

Examples:
  muster agents retry web-1
  muster agents retry -l 'region = eu-1' --yes
  muster agents list --state conflict   who has to be looked at after a restore";

const OWNER_EXAMPLES: &str = "\
For agents with the condition \"owner changing\": another family claims them, and its policy is to
ask. And for members of an open rollout that takes them over, or has taken them over, from another
family or role, whether their wave has begun or not:

  --keep    the rollout does not take them over, and its rollback does not give them back
  --accept  takes that back: the rollout takes them over with its wave

A word counts for the lists that were there when it was said. --accept lets agents go at once, to
the family that claims them, where no rollout lists them for it.

Examples:
  muster agents owner web-1 web-2 --accept
  muster agents owner -l 'team = edge' --keep --reason 'relabelled by mistake'";

const STOP_EXAMPLES: &str = "\
The only act that stops collectors. Their agents get an empty config and stay connected, until
`muster agents start` gives them what they should run.

Examples:
  muster agents stop web-1 --reason 'floods the gateway, INC-4711'
  muster agents stop -l 'env = lab' --reason 'lab is closed' --yes";

const AT_EXAMPLES: &str = "\
TIME is UTC: 14:02 of today, 2h for two hours ago, 2026-09-01T14:02:00Z.

Examples:
  muster agents at 14:02
  muster agents at 2h web-1 web-2
  muster agents at 2026-09-01T14:02:00Z -l 'role = gateway' -o json";

const LABEL_EXAMPLES: &str = "\
KEY=VALUE sets a label, KEY- removes it; anything else is an agent. Relabelling never pushes a
config.

Examples:
  muster agents label web-1 env=prod
  muster agents label web-1 web-2 team=edge canary-
  muster agents label -l 'host.name = web-1' env=prod";

#[derive(Subcommand)]
pub enum Command {
    /// List agents
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one agent: health, delivery, effective config, components
    #[command(
        after_help = "Examples:\n  muster agents get web-1\n  muster agents get 0192f3 --effective\n  muster agents get web-1 --config > sent.yaml\n  muster agents get web-1 --why pii-redaction"
    )]
    Get(GetArgs),
    /// Show what happened to one agent, newest first
    #[command(
        after_help = "Examples:\n  muster agents history web-1\n  muster agents history 0192f3 --limit 10 -o json"
    )]
    History {
        /// Uid, a prefix of it, or a name that only one agent has
        agent: String,
        /// Transitions to show
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Set and remove labels
    #[command(after_help = LABEL_EXAMPLES)]
    Label {
        /// Agents, then KEY=VALUE or KEY-
        #[arg(required = true, value_name = "AGENT|KEY=VALUE|KEY-")]
        items: Vec<String>,
        /// All agents that match, instead of named ones
        #[arg(short = 'l', long)]
        selector: Option<String>,
    },
    /// Order supervisors to restart their collectors, once
    #[command(
        after_help = "Examples:\n  muster agents restart web-1 web-2\n  muster agents restart -l 'role = gateway, region = eu-1'"
    )]
    Restart(Chosen),
    /// Remove the record of agents; one that is alive comes back as new
    #[command(
        after_help = "Examples:\n  muster agents forget old-web-1\n  muster agents forget $(muster agents list --state lost -o json | jq -r '.agents[].uid')"
    )]
    Forget {
        /// Uid, a prefix of it, or a name that only one agent has
        #[arg(required = true)]
        agents: Vec<String>,
    },
    /// Let a refused or unanswered config be offered again, and resolve conflicts after a restore
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(Chosen),
    /// Settle who owns agents that another family claims, or a rollout takes over
    #[command(after_help = OWNER_EXAMPLES)]
    Owner(OwnerArgs),
    /// Stop collectors, by an empty config; the only act that does
    #[command(after_help = STOP_EXAMPLES)]
    Stop(StopArgs),
    /// Take the order to stop back
    #[command(
        after_help = "Examples:\n  muster agents start web-1\n  muster agents start -l 'env = lab' --reason 'lab is open'"
    )]
    Start(StartArgs),
    /// What ran on agents at a given time
    #[command(after_help = AT_EXAMPLES)]
    At(AtArgs),
    /// Identical errors over the fleet, most frequent first
    #[command(
        after_help = "Examples:\n  muster agents errors\n  muster agents errors -l 'role = agent, env = prod'"
    )]
    Errors {
        /// Only agents that match
        #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
        selector: String,
    },
    /// Count agents by the values of a key
    #[command(
        after_help = "Examples:\n  muster agents count --by service.version\n  muster agents count --by state -l 'env = prod'"
    )]
    Count(CountArgs),
}

#[derive(Args)]
pub struct ListArgs {
    /// Only agents that match: 'k = v, k in (a, b), !k, service.version >= 0.150'
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Only agents with this text in uid, attributes, labels or errors
    #[arg(long, default_value = "", hide_default_value = true)]
    pub text: String,
    /// Column or attribute to sort by, '-' before it for descending
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub sort: String,
    /// Only agents in this state
    #[arg(long, default_value = "", hide_default_value = true)]
    pub state: String,
    /// Only members of this rollout
    #[arg(long, default_value = "", hide_default_value = true)]
    pub rollout: String,
    /// Only members in this bucket of the rollout: converged, rejected, not_reached, ...
    #[arg(
        long,
        requires = "rollout",
        default_value = "",
        hide_default_value = true
    )]
    pub bucket: String,
    /// Agents to print, 0 for all [default: 500 as a table, all as json or yaml]
    #[arg(long)]
    pub limit: Option<u64>,
}

#[derive(Args)]
pub struct GetArgs {
    /// Uid, a prefix of it, or a name that only one agent has
    pub agent: String,
    /// Print the effective config only, as the agent reported it, redacted
    #[arg(long, conflicts_with_all = ["config", "why"])]
    pub effective: bool,
    /// Print the config sent last only
    #[arg(long, conflicts_with = "why")]
    pub config: bool,
    /// Say why the roles of this family's latest revision match the agent or not
    #[arg(long, value_name = "FAMILY")]
    pub why: Option<String>,
}

#[derive(Args)]
pub struct Chosen {
    /// Uids, prefixes of them, or names that only one agent has
    #[arg(required_unless_present = "selector", conflicts_with = "selector")]
    pub agents: Vec<String>,
    /// All agents that match; asks first
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Args)]
pub struct OwnerArgs {
    #[command(flatten)]
    pub chosen: Chosen,
    #[command(flatten)]
    pub to: Owner,
    /// Why: kept in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// One of both.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Owner {
    /// They go to the family that claims them, or to the rollout that they were kept from
    #[arg(long)]
    pub accept: bool,
    /// They stay with the family that has them, whatever open rollouts say
    #[arg(long)]
    pub keep: bool,
}

#[derive(Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub chosen: Chosen,
    /// Why: kept in the audit log
    #[arg(long)]
    pub reason: String,
}

#[derive(Args)]
pub struct StartArgs {
    #[command(flatten)]
    pub chosen: Chosen,
    /// Why: kept in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

#[derive(Args)]
pub struct AtArgs {
    /// Then: 14:02, 2h, 2026-09-01T14:02:00Z
    #[arg(value_name = "TIME", value_parser = Moment::parse)]
    pub time: Moment,
    /// Uids, prefixes of them, or names that only one agent has [default: all agents]
    #[arg(conflicts_with = "selector")]
    pub agents: Vec<String>,
    /// Only agents that match
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
}

#[derive(Args)]
pub struct CountArgs {
    /// Attribute, label or column
    #[arg(long, value_name = "KEY")]
    pub by: String,
    /// Only agents that match
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Only agents with this text in uid, attributes, labels or errors
    #[arg(long, default_value = "", hide_default_value = true)]
    pub text: String,
    /// Only agents in this state
    #[arg(long, default_value = "", hide_default_value = true)]
    pub state: String,
}
