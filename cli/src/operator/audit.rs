//! `muster audit`: who changed what, and the proof that the log is what was written.

pub mod check;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use indicatif::ProgressBar;
use proto::api;

use crate::exit::{Code, Failure};
use crate::operator::client::Client;
use crate::operator::moment::Moment;
use crate::operator::names;
use crate::operator::output::{Output, now_ms, talk};
use crate::render::audit as render;
use crate::render::names::Names;
use crate::render::text::{plural, thousands};

/// Text is gathered to so many bytes before it is written.
const WRITE_BYTES: usize = 1 << 16;

const CHECK_EXAMPLES: &str = "\
Needs no server. A chain that holds is one of which no entry was changed, added or left out up to
its head; that the log did not go on, or was not rewritten as a whole, is seen by comparing the
heads with those of `muster audit verify`, or with some that were kept elsewhere. What was exported
with --since begins in the middle and is checked from there.

Examples:
  muster audit check audit.jsonl
  zcat audit.jsonl.gz | muster audit check -";

#[derive(Subcommand)]
pub enum Command {
    /// List audit entries, newest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster audit list --since 2h\n  muster audit list --actor alice --object family/pii-redaction\n  muster audit list --since 14:00 --until 14:05 --action rollout."
    )]
    List {
        /// Entries to show
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Only actions that begin with this: rollout., token.create
        #[arg(long, default_value = "", hide_default_value = true)]
        action: String,
        /// Only objects that begin with this
        #[arg(long, default_value = "", hide_default_value = true)]
        object: String,
        /// Only what this actor did
        #[arg(long, default_value = "", hide_default_value = true)]
        actor: String,
        /// Only since then: 2h, 7d, 14:02 of today, or 2026-09-01T14:02:00Z, all UTC
        #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
        since: Option<Moment>,
        /// Only until then
        #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
        until: Option<Moment>,
    },
    /// Recompute every hash chain from its beginning; exit code 8 if one is broken
    #[command(
        after_help = "Examples:\n  muster audit verify\n  muster audit verify -o json | jq -r '.[] | [.group, .entries, .head] | @tsv' > heads.tsv"
    )]
    Verify,
    /// Print the whole log, one JSON object a line
    #[command(
        after_help = "Whatever -o says: `muster audit check` reads these lines.\n\nExamples:\n  muster audit export > audit.jsonl\n  muster audit export --since 30d | gzip > audit.jsonl.gz"
    )]
    Export {
        /// Only since then: 2h, 7d, 14:02 of today, or 2026-09-01T14:02:00Z, all UTC
        #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
        since: Option<Moment>,
        /// Only until then
        #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
        until: Option<Moment>,
    },
    /// Recompute the chains of an exported log (offline); exit code 8 if one is broken
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// What `muster audit export` printed, - for stdin
        file: PathBuf,
    },
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::List {
            limit,
            action,
            object,
            actor,
            since,
            until,
        } => {
            let (since_ms, until_ms) = span(since, until)?;
            let narrowed = [&action, &object, &actor].iter().any(|by| !by.is_empty())
                || since.is_some()
                || until.is_some();
            let request = api::ListAuditRequest {
                limit,
                object,
                actor,
                since_ms,
                until_ms,
                action,
            };
            let answer = client
                .call("list the audit log", async || {
                    client.admin().list_audit(request.clone()).await
                })
                .await?;
            let mut known = Names::default();
            if !out.for_programs() {
                let agents = answer.entries.iter().filter_map(render::agent_of);
                names::learn(&mut known, agents, client).await;
            }
            out.show_named(&answer, known, |answer, look| {
                if answer.entries.is_empty() {
                    render::no_entries(narrowed).to_owned()
                } else {
                    render::audit(answer, look)
                }
            })
        }
        Command::Verify => verify(client, out).await,
        Command::Export { since, until } => export(since, until, client, out).await,
        // Also run without a client: it needs no server.
        Command::Check { file } => check::run(&file, out),
    }
}

async fn export(
    since: Option<Moment>,
    until: Option<Moment>,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let doing = "export the audit log";
    let (since_ms, until_ms) = span(since, until)?;
    let request = api::ExportAuditRequest { since_ms, until_ms };
    let bar = ProgressBar::new_spinner().with_message("exporting");
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut stream = client
        .call(doing, async || client.admin().export_audit(request).await)
        .await?;
    let (mut entries, mut lines) = (0u64, String::new());
    while let Some(entry) = stream
        .message()
        .await
        .map_err(|status| client.failure(doing, &status))?
    {
        entries += 1;
        lines += &serde_json::to_string(&entry)
            .map_err(|error| Failure::new(Code::Failed, format!("cannot {doing}: {error}")))?;
        lines.push('\n');
        if lines.len() >= WRITE_BYTES {
            out.text(&lines)?;
            lines.clear();
            bar.set_message(format!("{} exported", plural_entries(entries)));
        }
    }
    out.text(&lines)?;
    bar.finish_and_clear();
    talk(format_args!("{} exported", plural_entries(entries)));
    Ok(())
}

/// From and until in ms since 1970, 0 where nothing was said.
fn span(since: Option<Moment>, until: Option<Moment>) -> Result<(u64, u64), Failure> {
    let now_ms = now_ms();
    let at_ms = |moment: Option<Moment>| moment.map_or(0, |moment| moment.at_ms(now_ms));
    let (since_ms, until_ms) = (at_ms(since), at_ms(until));
    if until.is_some() && until_ms < since_ms {
        return Err(
            Failure::usage("--until is before --since, so nothing lies between")
                .hint("times are UTC; 2h is two hours ago"),
        );
    }
    Ok((since_ms, until_ms))
}

async fn verify(client: &Client, out: Output) -> Result<(), Failure> {
    let doing = "verify the audit log";
    let bar = ProgressBar::new_spinner().with_message("recomputing the hash chains");
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut stream = client
        .call(doing, async || {
            client
                .admin()
                .verify_audit(api::VerifyAuditRequest {})
                .await
        })
        .await?;
    let mut groups = Vec::new();
    while let Some(group) = stream
        .message()
        .await
        .map_err(|status| client.failure(doing, &status))?
    {
        bar.set_message(format!(
            "{} verified",
            plural(groups.len() as u64 + 1, "group")
        ));
        groups.push(group);
    }
    bar.finish_and_clear();
    out.show(&groups, |groups, look| render::verified(groups, look))?;
    verdict(&groups)
}

fn plural_entries(entries: u64) -> String {
    match entries {
        1 => "1 entry".to_owned(),
        entries => format!("{} entries", thousands(entries)),
    }
}

fn verdict(groups: &[api::VerifyAuditResponse]) -> Result<(), Failure> {
    let broken: Vec<&str> = groups
        .iter()
        .filter(|g| !g.intact)
        .map(|g| g.group.as_str())
        .collect();
    if groups.is_empty() {
        return Err(Failure::new(
            Code::NotIntact,
            "the server verified no group, so nothing is proven",
        ));
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::NotIntact, format!("the audit log is not intact in {}", broken.join(", ")))
        .hint("keep the data directories of all nodes as they are, and compare the heads with those kept elsewhere"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(intact: bool) -> api::VerifyAuditResponse {
        api::VerifyAuditResponse {
            group: "control".into(),
            intact,
            ..Default::default()
        }
    }

    #[test]
    fn broken_chain_and_no_chain_at_all_are_not_intact() {
        assert!(verdict(&[group(true)]).is_ok());
        assert_eq!(
            verdict(&[group(true), group(false)]).unwrap_err().code(),
            Code::NotIntact
        );
        assert_eq!(verdict(&[]).unwrap_err().code(), Code::NotIntact);
    }

    #[test]
    fn span_that_ends_before_it_begins_is_refused() {
        let ago = |hours: u64| Some(Moment::Ago(Duration::from_secs(hours * 3600)));
        assert_eq!(span(None, None).unwrap(), (0, 0));
        let (since, until) = span(ago(2), ago(1)).unwrap();
        assert_eq!(until - since, 3_600_000);
        assert_eq!(span(ago(1), ago(2)).unwrap_err().code(), Code::Usage);
    }

    #[test]
    fn entries_are_counted_in_words() {
        assert_eq!(plural_entries(1), "1 entry");
        assert_eq!(plural_entries(1_200), "1,200 entries");
    }
}
