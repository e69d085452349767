//! `muster restore`: a new cluster, made of a backup in an empty data directory, while nothing runs there.

use std::path::PathBuf;

use anyhow::Context;
use raft::NodeId;

use super::options::private_dir;
use crate::operator::backup::read_key;
use crate::operator::output::talk;
use crate::render::text::{plural, timestamp};

const EXAMPLES: &str = "\
What comes up is a new cluster that knows what the old one knew then. Stop the old one first, for
good. Every rollout that was open comes back halted, and nothing is offered to an agent before it
has said what it runs. Who runs what the backup does not know keeps it, as a conflict.

Examples:
  muster restore muster.bak --data-dir /var/lib/muster
  muster restore muster.bak --data-dir /var/lib/muster --key-file backup.key
As one process:
  muster serve --data-dir /var/lib/muster
As the first node of a cluster, which others join, empty, with --join:
  muster node --cluster prod-2 --id 1 --founders 1=10.0.0.1:4322 --data-dir /var/lib/muster
Then, whom to look at:
  muster rollout list --open
  muster agents list --state conflict";

/// Options of `muster restore`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RestoreArgs {
    /// What `muster backup` made
    file: PathBuf,
    /// Where to restore to: empty, or not there yet
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// The key that the backup was made with
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// Restores, and says what to do next.
pub async fn run(args: RestoreArgs) -> anyhow::Result<()> {
    let key = read_key(args.key_file.as_deref()).map_err(|failure| anyhow::anyhow!("{failure}"))?;
    private_dir(&args.data_dir)?;
    // One process is node 1, and so is who founds a cluster of it.
    let restoring = ::node::backup::restore(&args.file, &args.data_dir, key, NodeId(1));
    let restored = Box::pin(restoring).await.with_context(|| {
        format!(
            "{} is not restored from {}",
            args.data_dir.display(),
            args.file.display()
        )
    })?;
    let identity = &restored.identity;
    talk(format!(
        "restored what cluster {} was at {}: {} and {}",
        hex::encode(&identity.restored_from),
        timestamp(identity.backup_ms),
        plural(restored.summary.groups.len() as u64, "group"),
        plural(restored.agents, "agent"),
    ));
    talk(format!(
        "it is cluster {} now, incarnation {}",
        hex::encode(&identity.id),
        identity.incarnation
    ));
    for id in &restored.halted {
        talk(format!(
            "rollout {id} is halted until a person resumes it or rolls it back"
        ));
    }
    talk("tokens are as they were then: revoke again what was revoked since");
    Ok(())
}
