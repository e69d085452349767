//! `muster apply`: sends manifests to be stored, all or nothing. Nothing is delivered by it.

use std::path::PathBuf;

use clap::Args;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, talk};
use crate::render::applied as render;

const EXAMPLES: &str = "\
A directory stands for its *.yaml and *.yml files, sorted, without those of its subdirectories.
Files that a manifest names (configFile, baselineFile) are read from the manifest's directory or
below it.

Examples:
  muster apply -f fleet/
  muster apply -f pii-redaction.yaml --dry-run
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
    /// Why: kept with the new revisions
    #[arg(long, default_value = "", hide_default_value = true)]
    pub note: String,
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
        note,
    } = args;
    let request = api::ApplyRequest {
        manifests,
        idempotency_key: idempotency_key(),
        dry_run,
        note,
        ..Default::default()
    };
    let answer = client
        .call("apply the manifests", async || {
            client.families().apply(request.clone()).await
        })
        .await?;
    out.show(&answer, render::applied)?;
    if dry_run {
        talk("dry run: nothing was stored");
    } else if let Some(new) = answer
        .results
        .iter()
        .find(|r| r.kind == "Family" && r.change != "unchanged")
    {
        talk(format_args!(
            "nothing was delivered; next: muster preview {}",
            new.name
        ));
    }
    Ok(())
}
