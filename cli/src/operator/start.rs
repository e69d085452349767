//! `muster rollout start`: always bound to a preview, the one that was named, or one that is made, printed and agreed
//! to here.

use std::time::Duration;

use clap::Args;
use proto::api;
use tokio::time::Instant;

use crate::exit::{Code, Failure};
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, can_ask, confirm, talk};
use crate::operator::rollout::{self, Until};
use crate::operator::{names, preview, watch};
use crate::render::preview as render_preview;
use crate::render::rollout as render;
use crate::render::text::{clean, plural};

/// How long the first picture waits for the lists of members.
const PREPARATION: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// For `--help`.
pub const EXAMPLES: &str = "\
Without --preview this makes one, prints it, and asks; where there is no terminal to ask on, it
wants --yes. The server refuses (exit code 4) if what the preview showed no longer holds. A change
that reaches far, or takes agents from another family, wants --reach with the number of members
the preview showed.

Examples:
  muster rollout start pii-redaction
  muster rollout start pii-redaction --plan careful --wait
  muster rollout start pii-redaction --preview 01JD... --reach 9447
  muster rollout start pii-redaction --yes --wait --timeout 2h     # in a pipeline";

#[derive(Args)]
pub struct StartArgs {
    /// Name of the family
    family: String,
    /// Plan [default: 1, 1 %, 10 %, 50 %, rest]
    #[arg(long, default_value = "", hide_default_value = true)]
    plan: String,
    /// Preview to bind to; nothing is asked
    #[arg(long, value_name = "ID")]
    preview: Option<String>,
    /// Number of members the preview showed, where it reaches far
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    reach: u64,
    /// Revision [default: the latest]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    revision: u64,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Watch it until it ends; exit code 7 unless it completed
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    until: Until,
}

/// Starts it.
pub async fn run(args: StartArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let StartArgs {
        family,
        plan,
        preview,
        reach,
        revision,
        yes,
        wait,
        until,
    } = args;
    let (preview, revision) = match preview {
        Some(id) => (id, revision),
        None => {
            agree(
                api::PreviewRequest {
                    family: family.clone(),
                    revision,
                    plan: plan.clone(),
                    back: false,
                },
                reach,
                yes,
                client,
                out,
            )
            .await?
        }
    };
    let doing = format!("start a rollout of family {family}");
    let request = api::StartRolloutRequest {
        family,
        revision,
        plan,
        preview,
        reach,
        idempotency_key: idempotency_key(),
        ..Default::default()
    };
    let rollout = client
        .call(&doing, async || {
            client.rollouts().start_rollout(request.clone()).await
        })
        .await?;
    if wait {
        talk(format_args!("rollout {} started", clean(&rollout.id)));
        return watch::run(rollout, until, client, out).await;
    }
    if out.for_programs() {
        out.show(&rollout, render::detail)?;
    } else {
        out.show(&under_way(rollout.clone(), client).await, render::detail)?;
    }
    talk(format_args!(
        "follow it: muster rollout watch {}",
        clean(&rollout.id)
    ));
    Ok(())
}

/// The rollout with its lists of members, which are made right after it was opened; as it is where that takes long.
async fn under_way(mut rollout: api::Rollout, client: &Client) -> api::Rollout {
    let patience = Instant::now() + PREPARATION;
    while rollout.state == "planned" && Instant::now() < patience {
        tokio::time::sleep(LOOK_AGAIN).await;
        match rollout::read(client, &rollout.id).await {
            Ok(next) => rollout = next,
            // It was started; whoever follows it sees the server's trouble.
            Err(_) => break,
        }
    }
    rollout
}

/// Makes a preview, shows it, and has it agreed to. Answers its id and its revision.
async fn agree(
    request: api::PreviewRequest,
    reach: u64,
    yes: bool,
    client: &Client,
    out: Output,
) -> Result<(String, u64), Failure> {
    if !yes && !can_ask() {
        return Err(Failure::usage(
            "a rollout asks before it starts, and there is no terminal to ask on",
        )
        .hint("give --preview ID of a preview that was read, or --yes"));
    }
    let preview = preview::make(&request, client).await?;
    let mut look = out.look_of_talk();
    names::learn(&mut look.names, render_preview::examples(&preview), client).await;
    talk(render_preview::preview(&preview, false, &look));
    within_reach(&preview, reach, &request.plan)?;
    let members = plural(preview.members, "agent");
    confirm(
        yes,
        &format!(
            "Start the rollout of {} r{} to {members}?",
            clean(&preview.family),
            preview.revision
        ),
    )?;
    Ok((preview.id, preview.revision))
}

/// What the server would refuse is said here with the command that would do.
fn within_reach(preview: &api::PreviewResponse, reach: u64, plan: &str) -> Result<(), Failure> {
    if !render_preview::needs_reach(preview) || reach != 0 {
        return Ok(());
    }
    let why = if preview.takeovers.is_empty() {
        format!(
            "more than the limit of {}",
            plural(preview.reach_limit, "agent")
        )
    } else {
        format!(
            "{} of them from other families",
            plural(preview.takeovers.len() as u64, "agent")
        )
    };
    let what = format!(
        "the rollout of {} would reach {}, {why}",
        clean(&preview.family),
        plural(preview.members, "agent")
    );
    let again = render_preview::start_command(preview, plan);
    Err(Failure::new(Code::Conflict, what).hint(format!("if that is meant:\n{again}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_reach_is_a_conflict_that_names_the_command_to_give() {
        let preview = api::PreviewResponse {
            id: "p1".into(),
            family: "f".into(),
            revision: 4,
            members: 9447,
            reach_limit: 100,
            ..Default::default()
        };
        let failure = within_reach(&preview, 0, "careful").unwrap_err();
        assert_eq!(failure.code(), Code::Conflict);
        assert!(failure.to_string().contains(
            "muster rollout start f --revision 4 --plan careful --preview p1 --reach 9447"
        ));
        assert!(within_reach(&preview, 9447, "careful").is_ok());
    }

    #[test]
    fn takeover_needs_reach_however_few_agents() {
        let preview = api::PreviewResponse {
            members: 1,
            reach_limit: 100,
            takeovers: vec!["u from f2".into()],
            ..Default::default()
        };
        assert!(
            within_reach(&preview, 0, "")
                .unwrap_err()
                .to_string()
                .contains("1 agent of them from other families")
        );
    }
}
