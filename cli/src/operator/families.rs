//! `muster families`: what the fleet should run, and how revisions differ.

use clap::Subcommand;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::Client;
use crate::operator::output::Output;
use crate::render::{families as render, family};

#[derive(Subcommand)]
pub enum Command {
    /// List families with their stable and target revisions
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster families list\n  muster families list -o json | jq -r '.families[] | select(.failed > 0).name'"
    )]
    List,
    /// Show one family: roles, selectors, revisions
    #[command(
        after_help = "Examples:\n  muster families get pii-redaction\n  muster families get pii-redaction --revision 3 --config"
    )]
    Get {
        /// Name of the family
        family: String,
        /// Revision to show [default: the latest]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: u64,
        /// Print the configs of the revision, too
        #[arg(long)]
        config: bool,
    },
    /// Show how two revisions differ
    #[command(
        after_help = "Examples:\n  muster families diff pii-redaction\n  muster families diff pii-redaction --from 3 --to 5"
    )]
    Diff {
        /// Name of the family
        family: String,
        /// Older revision [default: the stable one]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        from: u64,
        /// Newer revision [default: the latest]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        to: u64,
    },
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::List => {
            let answer = client
                .call("list families", async || {
                    client
                        .families()
                        .list_families(api::ListFamiliesRequest {})
                        .await
                })
                .await?;
            out.show(&answer, render::list)
        }
        Command::Get {
            family,
            revision,
            config,
        } => {
            let doing = format!("read family {family}");
            let request = api::GetFamilyRequest {
                name: family,
                revision,
            };
            let answer = client
                .call(&doing, async || {
                    client.families().get_family(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, look| family::detail(answer, config, look))
        }
        Command::Diff { family, from, to } => {
            let doing = format!("compare revisions of family {family}");
            let request = api::DiffRevisionsRequest { family, from, to };
            let answer = client
                .call(&doing, async || {
                    client.families().diff_revisions(request.clone()).await
                })
                .await?;
            out.show(&answer, render::diff)
        }
    }
}
