//! `muster certs`: a certificate authority for a cluster, for those who have none. Works on files, without a server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use tls::{Authority, IssueError, Name};

use crate::exit::{Code, Failure};
use crate::operator::output::Output;

/// A year, for certificates of processes.
const LIFE: &str = "365d";
/// Ten years, for the authority.
const AUTHORITY_LIFE: &str = "3650d";

#[derive(Subcommand)]
pub enum Command {
    /// Make the authority of a cluster. Whoever has its key can join as a node: keep DIR off the hosts
    #[command(after_help = "Example:\n  muster certs init --cluster prod --dir ./authority")]
    Init {
        /// Name of the cluster
        #[arg(long, env = "MUSTER_CLUSTER", value_name = "NAME")]
        cluster: String,
        /// Where ca.pem and ca.key are written
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long it is good for
        #[arg(long, default_value = AUTHORITY_LIFE, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Duration,
    },
    /// Issue a certificate for a node or for gateways
    #[command(
        after_help = "Examples:\n  muster certs issue --cluster prod --dir ./authority --node 1 --out ./node-1\n  muster certs issue --cluster prod --dir ./authority --gateway --out ./gateway\n\nIssued again into the same directory it is taken up without restart."
    )]
    Issue {
        /// Name of the cluster
        #[arg(long, env = "MUSTER_CLUSTER", value_name = "NAME")]
        cluster: String,
        /// Where the authority is
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// For the node of this number
        #[arg(long, value_name = "N", conflicts_with = "gateway", required_unless_present = "gateway", value_parser = clap::value_parser!(u64).range(1..))]
        node: Option<u64>,
        /// For gateways; they may share one
        #[arg(long)]
        gateway: bool,
        /// Where certificate, key and ca.pem are written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it is good for
        #[arg(long, default_value = LIFE, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Duration,
    },
}

/// Runs one of them.
pub fn run(command: Command, out: Output) -> Result<(), Failure> {
    let failed = |error: IssueError| Failure::new(Code::Failed, error.to_string());
    match command {
        Command::Init {
            cluster,
            dir,
            expires_in,
        } => {
            make(&dir)?;
            let authority = Authority::new(&cluster, expires_in).map_err(failed)?;
            authority.write(&dir).map_err(failed)?;
            out.text(&format!(
                "authority of cluster {cluster} in {}; keep ca.key off the hosts\nnext: muster certs issue --cluster {cluster} --dir {} --node 1 --out node-1\n",
                dir.display(), dir.display()
            ))
        }
        Command::Issue {
            cluster,
            dir,
            node,
            gateway: _,
            out: into,
            expires_in,
        } => {
            let name = node.map_or(Name::Gateway, Name::Node);
            let authority = Authority::read(&dir, &cluster).map_err(failed)?;
            let issued = authority.issue(name, expires_in).map_err(failed)?;
            make(&into)?;
            let (certificate, key) = issued.write(&into, name).map_err(failed)?;
            out.text(&format!(
                "{}: start it with\n  --peer-cert {} --peer-key {} --peer-ca {}\n",
                name.dns(&cluster),
                certificate.display(),
                key.display(),
                into.join("ca.pem").display()
            ))
        }
    }
}

fn make(dir: &std::path::Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|error| {
        Failure::new(
            Code::Failed,
            format!("cannot create {}: {error}", dir.display()),
        )
    })
}
