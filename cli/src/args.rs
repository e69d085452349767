//! The command line as a whole. Each command's own options stand beside the command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit;
use crate::operator::Operator;
use crate::operator::output::Format;
use crate::server::{gateway, local_cluster, node, restore, serve};

const EXAMPLES: &str = "\
A first change, from file to fleet:
  muster apply -f fleet/                   store the manifests; nothing is delivered
  muster preview pii-redaction             who would get what, in which order
  muster rollout start pii-redaction       preview, ask, go
  muster rollout watch pii-redaction       live figures
  muster rollout halt pii-redaction        stop: no further agent is offered it
  muster rollout back pii-redaction 3      go back to an earlier revision

Who is there, and how they are:
  muster agents list -l 'role = agent, env = prod' --state failed
  muster agents errors";

/// An open control plane for OpenTelemetry collectors.
#[derive(Parser)]
#[command(name = "muster", version, after_help = EXAMPLES, after_long_help = long_examples())]
#[command(propagate_version = false, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the server is, who asks, and how the answer is to look.
#[derive(Args, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Connection {
    /// Operator API of the server
    #[arg(
        long,
        global = true,
        env = "MUSTER_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:4321"
    )]
    pub server: String,
    /// Operator token; prefer --token-file, as other users of this host can read command lines
    #[arg(
        long,
        global = true,
        env = "MUSTER_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// File that holds the operator token; counts before --token
    #[arg(long, global = true, env = "MUSTER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    // The environment is read where the file is: `supervisor-config --ca-file` means a path of another host.
    /// Certificates (PEM) to trust for an https server; default: those of the system [env: MUSTER_CA_FILE=]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How to print: table, wide (more columns), json, yaml
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Format,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Command {
    /// Run the control plane in one process
    Serve(Box<serve::ServeArgs>),
    /// Run a node of a state cluster
    Node(Box<node::NodeArgs>),
    /// Run a gateway in front of a state cluster
    Gateway(Box<gateway::GatewayArgs>),
    /// Run a whole cluster on this machine, to try it
    LocalCluster(Box<local_cluster::LocalClusterArgs>),
    /// Make the data of a new cluster of a backup (offline)
    Restore(Box<restore::RestoreArgs>),
    #[command(flatten)]
    Operator(Operator),
}

/// Examples and exit codes, for `--help`.
fn long_examples() -> String {
    format!("{EXAMPLES}\n\n{}", exit::HELP)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn server_defaults_to_the_loopback_port_and_may_stand_anywhere() {
        assert_eq!(
            parse("muster agents list").unwrap().connection.server,
            "http://127.0.0.1:4321"
        );
        for line in [
            "muster --server http://a:1 agents list",
            "muster agents list --server http://a:1",
        ] {
            assert_eq!(parse(line).unwrap().connection.server, "http://a:1");
        }
    }

    #[test]
    fn unknown_format_is_refused_as_usage() {
        let error = parse("muster agents list -o xml").err().unwrap();
        assert_eq!(error.exit_code(), i32::from(exit::Code::Usage as u8));
    }

    #[test]
    fn rollback_and_halt_want_an_object() {
        assert!(parse("muster rollout halt").is_err());
        assert!(parse("muster rollout rollback f --reason why").is_ok());
    }

    #[test]
    fn a_backup_wants_a_file_and_a_restore_wants_a_directory() {
        assert!(parse("muster backup").is_err());
        assert!(parse("muster backup verify").is_err());
        assert!(parse("muster restore f.bak").is_err());
    }

    #[test]
    fn every_command_of_the_manual_parses() {
        for line in [
            "muster agents list -l a --text t --sort -name --state failed --limit 10 -o wide",
            "muster agents list --rollout r --bucket rejected",
            "muster agents get web-1 --effective",
            "muster agents history web-1 --limit 5",
            "muster agents label web-1 env=prod old-",
            "muster agents restart web-1 web-2",
            "muster agents restart -l env --yes",
            "muster agents forget web-1",
            "muster agents retry -l env",
            "muster agents errors -l env",
            "muster agents count --by env",
            "muster apply -f a.yaml -f dir --dry-run --note n",
            "muster apply -f -",
            "muster families list",
            "muster families get f --revision 3",
            "muster families diff f --from 1 --to 2",
            "muster families deactivate f --yes --reason r",
            "muster families delete f --yes --reason r",
            "muster preview f --revision 2 --plan careful",
            "muster rollout start f --plan p --preview i --reach 9 --revision 2 --yes --wait",
            "muster rollout list --family f --open",
            "muster rollout get f",
            "muster rollout watch f",
            "muster rollout pause f",
            "muster rollout resume f",
            "muster tokens create t --kind agent --label env=prod --expires-in 30d",
            "muster tokens list",
            "muster tokens revoke t",
            "muster audit list --object family/ --actor alice --since 2h",
            "muster audit verify",
            "muster backup f.bak",
            "muster backup f.bak --key-file k",
            "muster backup verify f.bak --key-file k",
            "muster restore f.bak --data-dir d --key-file k",
            "muster agents owner web-1 web-2 --accept --reason r",
            "muster agents owner -l env --keep --yes",
            "muster agents stop web-1 --reason r --yes",
            "muster agents start -l env --reason r",
            "muster agents at 14:02 web-1",
            "muster agents at 2h -l env",
            "muster apply -f d --source git --keep-gone --commit abc --activate",
            "muster plans list",
            "muster sources list",
            "muster sources set git --plan careful",
            "muster adopt f plan/careful --source git",
            "muster adopt f --to-api",
            "muster preview f --revision r3 --back",
            "muster approve f --revision r4 --plan careful --hash 01ab --reason r",
            "muster reject f --revision 4 --reason r",
            "muster rollout start f --plan urgent --break-glass r --supersede continue",
            "muster rollout back f r3 --yes --wait --reach 9 --supersede restart",
            "muster rollout back f 3 --preview i",
            "muster rollout list --unreviewed",
            "muster rollout pass f --check platform --reason r",
            "muster rollout fail f",
            "muster rollout review f --note n",
            "muster freeze set w --for 2h --reason r --family f --family g",
            "muster freeze end w",
            "muster freeze list --past",
            "muster pin set p --family f --agent web-1 --for 30d --reason r --revision 3 --owner o",
            "muster pin set p --family f -l env --until 2026-11-27 --reason r",
            "muster pin remove p",
            "muster pin list --family f",
            "muster audit list --since 14:00 --until 14:05 --action rollout.",
            "muster audit export --since 30d --until 1d",
            "muster audit check audit.jsonl",
            "muster supervisor-config --version 0.160 --ca-file /etc/ca.pem",
            "muster completion bash",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn bucket_means_nothing_without_a_rollout() {
        assert!(parse("muster agents list --bucket rejected").is_err());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "muster preview f --back",
            "muster preview f --back --revision 3 --plan careful",
            "muster rollout start f --supersede later",
            "muster rollout start f --break-glass",
            "muster rollout start f --break-glass=",
            "muster rollout back f",
            "muster rollout back f old",
            "muster rollout review f",
            "muster approve",
            "muster audit check",
            "muster audit list --until soon",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_shows_the_exit_codes() {
        assert!(
            Cli::command()
                .render_long_help()
                .to_string()
                .contains("stale preview")
        );
    }
}
