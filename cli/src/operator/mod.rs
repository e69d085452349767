//! The commands of an operator: each asks the API, and hands the answer to `render`.
//!
//! Nothing here decides about the fleet; what the server refuses is shown with its reason.

pub mod address;
pub mod agents;
pub mod apply;
pub mod approve;
pub mod audit;
pub mod backup;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod families;
pub mod freeze;
pub mod judge;
pub mod manifests;
pub mod moment;
pub mod names;
pub mod output;
pub mod pin;
pub mod plans;
pub mod preview;
pub mod rollout;
pub mod sources;
pub mod start;
pub mod supervisor;
pub mod tokens;
pub mod trouble;
pub mod watch;

use clap::{CommandFactory, Subcommand};

use crate::args::{Cli, Connection};
use crate::exit::Failure;
use client::Client;
use output::Output;

/// Commands that speak to a server, and the few that need none.
#[derive(Subcommand)]
pub enum Operator {
    /// Look at agents, label them, restart their collectors
    #[command(
        subcommand,
        visible_alias = "agent",
        after_help = "Examples:\n  muster agents list -l 'role = agent' --state failed\n  muster agents get web-1\n  muster agents count --by service.version"
    )]
    Agents(agents::Command),
    /// Store manifests of families and plans; nothing is delivered
    Apply(apply::ApplyArgs),
    /// Look at families and revisions, deactivate and delete them
    #[command(
        subcommand,
        visible_alias = "family",
        after_help = "Examples:\n  muster families list\n  muster families diff pii-redaction"
    )]
    Families(families::Command),
    /// Look at plans: waves and gates
    #[command(
        subcommand,
        visible_alias = "plan",
        after_help = "Example:\n  muster plans list"
    )]
    Plans(plans::Command),
    /// Look at sources, and let them activate what they write
    #[command(
        subcommand,
        visible_alias = "source",
        after_help = "Examples:\n  muster sources list\n  muster sources set platform-git --plan careful"
    )]
    Sources(sources::Command),
    /// Hand families and plans over to a source, or back
    Adopt(sources::AdoptArgs),
    /// Show exactly what activating a revision would do
    Preview(preview::PreviewArgs),
    /// Approve a revision with a plan, as somebody else than its author
    Approve(approve::ApproveArgs),
    /// Reject a revision: no rollout of it can be started
    Reject(approve::RejectArgs),
    /// Start a rollout, watch it, stop it, go back
    #[command(
        subcommand,
        visible_alias = "rollouts",
        after_help = "Examples:\n  muster rollout start pii-redaction --plan careful --wait\n  muster rollout watch pii-redaction\n  muster rollout halt pii-redaction --reason INC-4711"
    )]
    Rollout(rollout::Command),
    /// Keep waves from starting, for a time
    #[command(
        subcommand,
        visible_alias = "freezes",
        after_help = "Examples:\n  muster freeze set incident --for 2h --reason INC-4711\n  muster freeze list"
    )]
    Freeze(freeze::Command),
    /// Hold agents at a revision, for a time
    #[command(
        subcommand,
        visible_alias = "pins",
        after_help = "Examples:\n  muster pin set legacy --family web --agent web-7 --for 30d --reason 'old kernel'\n  muster pin list"
    )]
    Pin(pin::Command),
    /// Make and revoke tokens of agents and operators
    #[command(
        subcommand,
        visible_alias = "token",
        after_help = "Examples:\n  muster tokens create prod-edge --label env=prod --expires-in 90d > token\n  muster tokens create ci --kind operator --role editor"
    )]
    Tokens(tokens::Command),
    /// Who changed what, and the proof that nothing was removed
    #[command(
        subcommand,
        after_help = "Examples:\n  muster audit list --since 2h\n  muster audit verify\n  muster audit export > audit.jsonl && muster audit check audit.jsonl"
    )]
    Audit(audit::Command),
    /// Keep everything in a file, while the server runs
    Backup(backup::BackupArgs),
    /// Look at the cluster: nodes, groups, what it waits for
    #[command(subcommand, after_help = "Example:\n  muster cluster status")]
    Cluster(cluster::Command),
    /// Make certificates for nodes and gateways (offline)
    #[command(
        subcommand,
        after_help = "Examples:\n  muster certs init --cluster prod --dir ./authority\n  muster certs issue --cluster prod --dir ./authority --node 1 --out ./node-1"
    )]
    Certs(certs::Command),
    /// Print a Supervisor config that is right for its version (offline)
    SupervisorConfig(supervisor::SupervisorArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  muster completion bash > /etc/bash_completion.d/muster\n  muster completion zsh > ~/.zfunc/_muster"
    )]
    Completion {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Runs one command.
pub async fn run(command: Operator, connection: &Connection) -> Result<(), Failure> {
    let out = Output::new(connection.output);
    match command {
        Operator::SupervisorConfig(args) => out.text(&supervisor::config(&args)),
        Operator::Completion { shell } => completion(shell, out),
        Operator::Certs(command) => certs::run(command, out),
        Operator::Agents(command) => {
            agents::run(command, &Client::connect(connection).await?, out).await
        }
        // Files are read first: a mistake in them shows without a server.
        Operator::Apply(args) => {
            args.check()?;
            let manifests = manifests::read_all(&args.file)?;
            apply::run(args, manifests, &Client::connect(connection).await?, out).await
        }
        Operator::Families(command) => {
            families::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Plans(command) => {
            plans::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Sources(command) => {
            sources::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Adopt(args) => {
            sources::adopt(args, &Client::connect(connection).await?, out).await
        }
        Operator::Preview(args) => {
            preview::run(args, &Client::connect(connection).await?, out).await
        }
        Operator::Approve(args) => {
            approve::approve(args, &Client::connect(connection).await?, out).await
        }
        Operator::Reject(args) => {
            approve::reject(args, &Client::connect(connection).await?, out).await
        }
        Operator::Rollout(command) => {
            rollout::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Freeze(command) => {
            freeze::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Pin(command) => pin::run(command, &Client::connect(connection).await?, out).await,
        Operator::Tokens(command) => {
            tokens::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Cluster(command) => {
            cluster::run(command, &Client::connect(connection).await?, out).await
        }
        Operator::Backup(backup::BackupArgs {
            command: Some(backup::Command::Verify { file, key_file }),
            ..
        }) => backup::verify(&file, key_file.as_deref(), out),
        Operator::Backup(args) => backup::run(args, &Client::connect(connection).await?, out).await,
        Operator::Audit(audit::Command::Check { file }) => audit::check::run(&file, out),
        Operator::Audit(command) => {
            audit::run(command, &Client::connect(connection).await?, out).await
        }
    }
}

fn completion(shell: clap_complete::Shell, out: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
    out.text(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, command: &clap::Command) {
        let help = command.clone().render_help().to_string();
        assert!(
            help.contains(&format!("\n  {path} ")) || help.contains(&format!("\n  {path}\n")),
            "no example of `{path}` in its --help"
        );
        for below in command.get_subcommands() {
            check(&format!("{path} {}", below.get_name()), below);
        }
    }

    #[test]
    fn help_of_every_operator_command_has_an_example_of_it() {
        for command in Cli::command().get_subcommands() {
            let server = ["serve", "node", "gateway", "local-cluster"];
            if !server.contains(&command.get_name()) {
                check(&format!("muster {}", command.get_name()), command);
            }
        }
    }
}
