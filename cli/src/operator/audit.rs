//! `muster audit`: who changed what, and the proof that the log is what was written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use indicatif::ProgressBar;
use proto::api;

use crate::exit::{Code, Failure};
use crate::operator::client::Client;
use crate::operator::names;
use crate::operator::output::{Output, now_ms};
use crate::render::admin as render;
use crate::render::names::Names;
use crate::render::text::plural;

#[derive(Subcommand)]
pub enum Command {
    /// List audit entries, newest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster audit list --since 2h\n  muster audit list --actor alice --object family/pii-redaction"
    )]
    List {
        /// Entries to show
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Only objects that begin with this
        #[arg(long, default_value = "", hide_default_value = true)]
        object: String,
        /// Only what this actor did
        #[arg(long, default_value = "", hide_default_value = true)]
        actor: String,
        /// Only since then: 2h, 7d, or 2026-09-01T14:02:00Z
        #[arg(long, value_parser = moment)]
        since: Option<Since>,
    },
    /// Recompute every hash chain from its beginning; exit code 8 if one is broken
    #[command(
        after_help = "Examples:\n  muster audit verify\n  muster audit verify -o json | jq -r '.[] | [.group, .entries, .head] | @tsv' > heads.tsv"
    )]
    Verify,
}

/// A point in time, as people name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    At(u64),
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::List {
            limit,
            object,
            actor,
            since,
        } => {
            let since_ms = match since {
                None => 0,
                Some(Since::Ago(ago)) => now_ms().saturating_sub(millis(ago)),
                Some(Since::At(at_ms)) => at_ms,
            };
            let narrowed = !object.is_empty() || !actor.is_empty() || since.is_some();
            let request = api::ListAuditRequest {
                limit,
                object,
                actor,
                since_ms,
                ..Default::default()
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
    }
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

fn moment(text: &str) -> Result<Since, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let at: SystemTime = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "neither a duration (2h) nor a time (2026-09-01T14:02:00Z)")?;
    Ok(Since::At(millis(
        at.duration_since(UNIX_EPOCH).unwrap_or_default(),
    )))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    fn moment_is_a_duration_back_or_a_time() {
        assert_eq!(moment("2h"), Ok(Since::Ago(Duration::from_secs(7200))));
        assert_eq!(moment("1970-01-01T00:00:02Z"), Ok(Since::At(2000)));
        assert!(moment("yesterday").is_err());
    }
}
