//! `muster families`: what the fleet should run, and how revisions differ.

use clap::Subcommand;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::moment::revision;
use crate::operator::output::{Output, confirm};
use crate::render::text::{clean, plural};
use crate::render::{applied, families as render, family};

const DELETE_EXAMPLES: &str = "\
No collector stops and nothing is sent: agents of the family run on with the config that they
have, until another family claims them. Its pins end. It is refused while a rollout of it is
open, and where a source owns it.

Examples:
  muster families delete pii-redaction --reason 'moved into platform'
  muster families delete pii-redaction --yes";

const DEACTIVATE_EXAMPLES: &str = "\
Its revisions stay, and none of them is stable any more: the family claims nobody, and agents
that match it get nothing. No collector stops and nothing is sent: its agents run on with the
config that they have. Its pins end. A rollout of one of its revisions activates it again.

It is refused while a rollout of it is open, and where a source owns it.

Examples:
  muster families deactivate pii-redaction --reason 'until the audit is over'
  muster rollout start pii-redaction
  muster rollout back pii-redaction 3";

const VALIDATE_EXAMPLES: &str = "\
A draft is what `muster apply --draft` stored although it did not pass every check. If the cause has gone
since, e.g. agents were labelled that had matched two roles, this makes a validated revision of it. It is
refused with what is missing otherwise: then fix the manifest and apply it again.

Examples:
  muster families validate pii-redaction
  muster families validate pii-redaction --revision 4";

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
    /// Check a draft again; it is validated if it passes every check
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate {
        /// Name of the family
        family: String,
        /// Revision to check [default: the latest]
        #[arg(long, value_name = "N", value_parser = revision, default_value = "0", hide_default_value = true)]
        revision: u64,
    },
    /// Leave a family without a stable revision; its agents keep what they run
    #[command(after_help = DEACTIVATE_EXAMPLES)]
    Deactivate {
        /// Name of the family
        family: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
        /// Why: goes into the audit log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Delete a family with its revisions; its agents keep what they run
    #[command(after_help = DELETE_EXAMPLES)]
    Delete {
        /// Name of the family
        family: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
        /// Why: goes into the audit log
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
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
        Command::Validate { family, revision } => {
            let doing = format!("validate family {family}");
            let request = api::ValidateRevisionRequest {
                family,
                revision,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.families().validate_revision(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, look| {
                family::validated(&request.family, answer, look)
            })
        }
        Command::Deactivate {
            family,
            yes,
            reason,
        } => {
            let doing = format!("deactivate family {family}");
            ask("Deactivate", &family, yes, &doing, client).await?;
            let request = api::DeactivateFamilyRequest {
                name: family,
                reason,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.families().deactivate_family(request.clone()).await
                })
                .await?;
            out.show(&answer, applied::applied)
        }
        Command::Delete {
            family,
            yes,
            reason,
        } => {
            let doing = format!("delete family {family}");
            ask("Delete", &family, yes, &doing, client).await?;
            let request = api::DeleteFamilyRequest {
                name: family,
                reason,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.families().delete_family(request.clone()).await
                })
                .await?;
            out.show(&answer, applied::applied)
        }
    }
}

/// Asks on a terminal, with what becomes of the family's agents.
async fn ask(
    what: &str,
    name: &str,
    yes: bool,
    doing: &str,
    client: &Client,
) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let request = api::GetFamilyRequest {
        name: name.to_owned(),
        revision: 0,
    };
    let found = client
        .call(doing, async || {
            client.families().get_family(request.clone()).await
        })
        .await?;
    let owned = found.family.map_or(0, |family| family.owned);
    confirm(false, &question(what, name, owned))
}

fn question(what: &str, name: &str, owned: u64) -> String {
    let name = clean(name);
    match owned {
        0 => format!("{what} family {name}, which owns no agents?"),
        1 => format!("{what} family {name}? 1 agent keeps what it runs."),
        owned => format!(
            "{what} family {name}? {} keep what they run.",
            plural(owned, "agent")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_deletes_or_deactivates_is_told_how_many_agents_run_on() {
        assert_eq!(
            question("Delete", "web", 1_200),
            "Delete family web? 1,200 agents keep what they run."
        );
        assert_eq!(
            question("Deactivate", "web", 1),
            "Deactivate family web? 1 agent keeps what it runs."
        );
        assert!(question("Delete", "web", 0).contains("owns no agents"));
    }
}
