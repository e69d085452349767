//! `muster apply`: sends manifests to be stored, all or nothing. Nothing is delivered by it, unless a source may
//! activate what it writes.

use std::path::PathBuf;

use clap::Args;
use proto::api;

use crate::exit::{Code, Failure};
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, talk};
use crate::render::applied as render;
use crate::render::text::{clean, plural};

const EXAMPLES: &str = "\
A directory stands for its *.yaml and *.yml files, sorted, without those of its subdirectories.
Files that a manifest names (configFile, baselineFile) are read from the manifest's directory or
below it.

A revision that does not pass every check refuses the apply. With --draft it is stored all the same, as
a draft: it can be looked at and previewed, and not started. `muster families validate` checks it again.

With --source the manifests are all that this source has: what it had and no longer has is removed
(see it with --dry-run before), and its agents keep what they run. --keep-gone leaves it.

Examples:
  muster apply -f fleet/
  muster apply -f pii-redaction.yaml --dry-run
  muster apply -f pii-redaction.yaml --draft
  muster apply -f fleet/ --source platform-git --commit \"$(git rev-parse HEAD)\" --activate
  kustomize build . | muster apply -f -";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ApplyArgs {
    /// Manifest, directory of manifests, or - for stdin; may be given several times
    #[arg(short, long, required = true, value_name = "FILE|DIR")]
    pub file: Vec<PathBuf>,
    /// Say what would change and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Store what does not pass every check, too, as a draft that cannot be started
    #[arg(long, conflicts_with = "activate")]
    pub draft: bool,
    /// Why: kept with the new revisions
    #[arg(long, default_value = "", hide_default_value = true)]
    pub note: String,
    /// These manifests are all that this source has
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub source: Option<String>,
    /// Leave what the source no longer has
    #[arg(long, requires = "source")]
    pub keep_gone: bool,
    /// Commit of the source: kept with the new revisions
    #[arg(
        long,
        value_name = "SHA",
        requires = "source",
        default_value = "",
        hide_default_value = true
    )]
    pub commit: String,
    /// Start rollouts of what is new, with the plan that the source was given
    #[arg(long)]
    pub activate: bool,
}

// === impl ApplyArgs ===

impl ApplyArgs {
    /// Refuses what cannot be, before a file is read.
    pub fn check(&self) -> Result<(), Failure> {
        if self.activate && self.source.is_none() {
            return Err(Failure::usage(
                "--activate is for sources: it starts rollouts with the source's plan",
            )
            .hint(
                "apply, and then: muster rollout start FAMILY\nor name the source: --source NAME",
            ));
        }
        Ok(())
    }
}

/// Sends them.
pub async fn run(
    args: ApplyArgs,
    manifests: Vec<api::Manifest>,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let ApplyArgs {
        file: _,
        dry_run,
        draft,
        note,
        source,
        keep_gone,
        commit,
        activate,
    } = args;
    let request = api::ApplyRequest {
        manifests,
        idempotency_key: idempotency_key(),
        dry_run,
        note,
        source: source.unwrap_or_default(),
        keep_gone,
        commit,
        activate,
        draft,
    };
    let answer = client
        .call("apply the manifests", async || {
            client.families().apply(request.clone()).await
        })
        .await?;
    out.show(&answer, render::applied)?;
    if dry_run {
        talk("dry run: nothing was stored");
        return Ok(());
    }
    if let Some(next) = next(&answer) {
        talk(next);
    }
    verdict(&answer)
}

/// Changes that make a revision, or make something of one.
const NEW: [&str; 3] = ["created", "new revision", "validated"];

/// What a person does next: look at what a rollout would do, where none was started.
fn next(answer: &api::ApplyResponse) -> Option<String> {
    let mut results = answer.results.iter();
    if answer
        .results
        .iter()
        .any(|result| !result.rollout.is_empty())
    {
        return Some("follow them: muster rollout list --open".to_owned());
    }
    let new = results.find(|r| r.kind == "Family" && NEW.contains(&r.change.as_str()))?;
    let family = clean(&new.name);
    let next = format!("nothing was delivered; next: muster preview {family}");
    Some(match new.draft {
        true => format!(
            "{next}\nonce it is right, apply it again, or: muster families validate {family}"
        ),
        false => next,
    })
}

/// Everything is stored; a rollout that was asked for and not started fails the command, so that a pipeline sees it.
fn verdict(answer: &api::ApplyResponse) -> Result<(), Failure> {
    let refused = answer.results.iter().filter(|r| !r.not_started.is_empty());
    let refused: Vec<String> = refused
        .map(|r| format!("{}: {}", clean(&r.name), clean(&r.not_started)))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let rollouts = plural(refused.len() as u64, "rollout");
    Err(Failure::new(
        Code::Conflict,
        format!("everything was stored, but {rollouts} that --activate asked for did not start"),
    )
    .hint(refused.join("\n")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::operator::Operator;

    fn parsed(options: &str) -> Option<ApplyArgs> {
        let line = format!("muster apply -f a.yaml {options}");
        match Cli::try_parse_from(line.split_whitespace()).ok()?.command {
            Command::Operator(Operator::Apply(args)) => Some(args),
            _ => None,
        }
    }

    fn answer(change: &str, rollout: &str, not_started: &str) -> api::ApplyResponse {
        let result = api::apply_response::Result {
            kind: "Family".into(),
            name: "pii".into(),
            change: change.into(),
            rollout: rollout.into(),
            not_started: not_started.into(),
            ..Default::default()
        };
        api::ApplyResponse {
            results: vec![result],
        }
    }

    #[test]
    fn activation_without_a_source_is_refused_with_the_way_out() {
        let failure = parsed("--activate").unwrap().check().unwrap_err();
        assert_eq!(failure.code(), Code::Usage);
        assert!(
            failure.to_string().contains("muster rollout start FAMILY"),
            "{failure}"
        );
        assert!(parsed("--activate --source git").unwrap().check().is_ok());
    }

    #[test]
    fn what_belongs_to_a_source_wants_one() {
        for refused in ["--keep-gone", "--commit abc", "--source="] {
            assert!(parsed(refused).is_none(), "{refused}");
        }
        assert!(parsed("--source git --keep-gone --commit abc").is_some());
        assert!(parsed("--source git --draft").unwrap().draft);
        assert!(parsed("--source git --draft --activate").is_none());
    }

    #[test]
    fn rollout_that_did_not_start_fails_the_command() {
        let failure = verdict(&answer("new revision", "", "rollout r1 is open")).unwrap_err();
        assert_eq!(failure.code(), Code::Conflict);
        assert!(
            failure.to_string().contains("pii: rollout r1 is open"),
            "{failure}"
        );
        assert!(verdict(&answer("new revision", "r1", "")).is_ok());
    }

    #[test]
    fn next_is_a_preview_unless_rollouts_were_started() {
        let said = |change, rollout| next(&answer(change, rollout, ""));
        assert!(said("created", "").unwrap().ends_with("muster preview pii"));
        assert!(said("new revision", "r1").unwrap().contains("rollout list"));
        assert_eq!(said("unchanged", ""), None);
        assert_eq!(said("pruned", ""), None);
        let mut draft = answer("created", "", "");
        draft.results[0].draft = true;
        let said = next(&draft).unwrap();
        assert!(said.ends_with("muster families validate pii"), "{said}");
    }
}
