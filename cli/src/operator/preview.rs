//! `muster preview`: what activating a revision would do. Changes nothing.

use clap::Args;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::Client;
use crate::operator::moment::revision;
use crate::operator::names;
use crate::operator::output::{Output, talk};
use crate::render::names::Names;
use crate::render::preview as render;

const EXAMPLES: &str = "\
The server keeps a preview for 24 hours, so that a rollout can be bound to it.

Examples:
  muster preview pii-redaction
  muster preview pii-redaction --revision 4 --plan careful
  muster preview pii-redaction --revision 3 --back
  muster rollout start pii-redaction --preview \"$(muster preview pii-redaction -o json | jq -r .id)\"";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PreviewArgs {
    /// Name of the family
    pub family: String,
    /// Revision [default: the latest]
    #[arg(long, value_name = "N", value_parser = revision, default_value = "0", hide_default_value = true)]
    pub revision: u64,
    /// Plan [default: 1, 1 %, 10 %, 50 %, rest]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub plan: String,
    /// The way back to this revision, an earlier one
    #[arg(long, requires = "revision", conflicts_with = "plan")]
    pub back: bool,
    /// Show diffs whole, however long
    #[arg(long)]
    pub full: bool,
}

/// Makes one and prints it.
pub async fn run(args: PreviewArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let request = api::PreviewRequest {
        family: args.family,
        revision: args.revision,
        plan: args.plan,
        back: args.back,
    };
    let preview = make(&request, client).await?;
    let mut known = Names::default();
    if !out.for_programs() {
        names::learn(&mut known, render::examples(&preview), client).await;
    }
    out.show_named(&preview, known, |preview, look| {
        render::preview(preview, args.full, look)
    })?;
    if !out.for_programs() {
        let start = api::StartRolloutRequest {
            plan: request.plan,
            back: request.back,
            ..Default::default()
        };
        talk(format_args!(
            "to activate exactly this:\n  {}",
            render::start_command(&preview, &start)
        ));
    }
    Ok(())
}

/// Makes a preview. It reads every matching agent, so a terminal shows that something happens.
pub async fn make(
    request: &api::PreviewRequest,
    client: &Client,
) -> Result<api::PreviewResponse, Failure> {
    let spinner = indicatif::ProgressBar::new_spinner()
        .with_message(format!("previewing {}", request.family));
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let doing = format!("preview family {}", request.family);
    let answer = client
        .call(&doing, async || {
            client.families().preview(request.clone()).await
        })
        .await;
    spinner.finish_and_clear();
    answer
}
