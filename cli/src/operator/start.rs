//! `muster rollout start` and `muster rollout back`: always bound to a preview, the one that was named, or one that is
//! made, printed and agreed to here.

use std::time::Duration;

use clap::{Args, ValueEnum};
use proto::api;
use tokio::time::Instant;

use crate::exit::{Code, Failure};
use crate::operator::client::{Client, idempotency_key};
use crate::operator::moment::revision;
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

A revision that lacks approvals is started and waits for them. --break-glass does not wait: for
admins, with an urgent plan, and somebody else has to review it (muster rollout review).

Examples:
  muster rollout start pii-redaction
  muster rollout start pii-redaction --plan careful --wait
  muster rollout start pii-redaction --preview 01JD... --reach 9447
  muster rollout start pii-redaction --supersede continue          # instead of the open one
  muster rollout start pii-redaction --plan urgent --break-glass 'INC-4711: card numbers leak'
  muster rollout start pii-redaction --yes --wait --timeout 2h     # in a pipeline";

/// For `--help`.
pub const BACK_EXAMPLES: &str = "\
Brings the whole family back to a revision that was active before, in waves as any rollout.
`muster rollout rollback ROLLOUT` is another thing: it takes one open rollout back, and gives its
members what they would have without it.

Examples:
  muster rollout back pii-redaction 3
  muster rollout back pii-redaction r3 --supersede restart --wait
  muster rollout back pii-redaction 3 --preview 01JD... --reach 9447   # of `muster preview --back`";

#[derive(Args)]
pub struct StartArgs {
    /// Name of the family
    family: String,
    /// Plan [default: 1, 1 %, 10 %, 50 %, rest]
    #[arg(long, default_value = "", hide_default_value = true)]
    plan: String,
    /// Revision [default: the latest]
    #[arg(long, value_name = "N", value_parser = revision, default_value = "0", hide_default_value = true)]
    revision: u64,
    /// Start an urgent plan without its approvals, for this reason
    #[arg(long, value_name = "REASON", value_parser = reason)]
    break_glass: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
pub struct BackArgs {
    /// Name of the family
    family: String,
    /// Revision to go back to: an earlier one that was active
    #[arg(value_parser = revision)]
    revision: u64,
    /// Plan [default: one canary, then everything]
    #[arg(long, default_value = "", hide_default_value = true)]
    plan: String,
    #[command(flatten)]
    how: How,
}

/// What one agrees to, and how long one waits.
#[derive(Args)]
struct How {
    /// Preview to bind to; nothing is asked
    #[arg(long, value_name = "ID")]
    preview: Option<String>,
    /// Number of members the preview showed, where it reaches far
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    reach: u64,
    /// Replace the family's open rollout: from wave 1, or from where it is
    #[arg(
        long,
        value_enum,
        value_name = "restart|continue",
        hide_possible_values = true
    )]
    supersede: Option<Supersede>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Watch it until it ends; exit code 7 unless it completed
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Supersede {
    Restart,
    Continue,
}

/// Starts a rollout of a revision.
pub async fn run(args: StartArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let StartArgs {
        family,
        plan,
        revision,
        break_glass,
        how,
    } = args;
    let request = api::StartRolloutRequest {
        family,
        revision,
        plan,
        break_glass: break_glass.unwrap_or_default(),
        ..Default::default()
    };
    go(request, how, client, out).await
}

/// Starts the way back to an earlier revision.
pub async fn back(args: BackArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let BackArgs {
        family,
        revision,
        plan,
        how,
    } = args;
    let request = api::StartRolloutRequest {
        family,
        revision,
        plan,
        back: true,
        ..Default::default()
    };
    go(request, how, client, out).await
}

async fn go(
    mut request: api::StartRolloutRequest,
    how: How,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    request.reach = how.reach;
    request.supersede = how.supersede.map_or("", Supersede::word).to_owned();
    match how.preview {
        Some(id) => request.preview = id,
        None => agree(&mut request, how.yes, client, out).await?,
    }
    request.idempotency_key = idempotency_key();
    let doing = format!("start a rollout of family {}", request.family);
    let rollout = client
        .call(&doing, async || {
            client.rollouts().start_rollout(request.clone()).await
        })
        .await?;
    if how.wait {
        talk(format_args!("rollout {} started", clean(&rollout.id)));
        return watch::run(rollout, how.until, client, out).await;
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

/// Makes a preview of what is to be started, shows it, has it agreed to, and binds the start to it.
async fn agree(
    request: &mut api::StartRolloutRequest,
    yes: bool,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    if !yes && !can_ask() {
        return Err(Failure::usage(
            "a rollout asks before it starts, and there is no terminal to ask on",
        )
        .hint("give --preview ID of a preview that was read, or --yes"));
    }
    let asked = api::PreviewRequest {
        family: request.family.clone(),
        revision: request.revision,
        plan: request.plan.clone(),
        back: request.back,
    };
    let preview = preview::make(&asked, client).await?;
    let mut look = out.look_of_talk();
    names::learn(&mut look.names, render_preview::examples(&preview), client).await;
    talk(render_preview::preview(&preview, false, &look));
    within_reach(&preview, request)?;
    confirm(yes, &question(&preview, request.back))?;
    request.preview = preview.id;
    request.revision = preview.revision;
    Ok(())
}

fn question(preview: &api::PreviewResponse, back: bool) -> String {
    let (family, revision) = (clean(&preview.family), preview.revision);
    let members = plural(preview.members, "agent");
    match back {
        true => format!("Take {members} of {family} back to r{revision}?"),
        false => format!("Start the rollout of {family} r{revision} to {members}?"),
    }
}

/// What the server would refuse is said here with the command that would do.
fn within_reach(
    preview: &api::PreviewResponse,
    request: &api::StartRolloutRequest,
) -> Result<(), Failure> {
    if !render_preview::needs_reach(preview) || request.reach != 0 {
        return Ok(());
    }
    let why = if preview.takeovers.is_empty() {
        format!(
            "more than the limit of {}",
            plural(preview.reach_limit, "agent")
        )
    } else {
        let taken: Vec<String> = preview.takeovers.iter().map(|line| clean(line)).collect();
        format!("of them {}", taken.join(", "))
    };
    let what = format!(
        "the rollout of {} would reach {}, {why}",
        clean(&preview.family),
        plural(preview.members, "agent")
    );
    let again = render_preview::start_command(preview, request);
    Err(Failure::new(Code::Conflict, what).hint(format!("if that is meant:\n{again}")))
}

/// A reason that says something.
fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why: whoever reviews it afterwards reads it".to_owned()),
        text => Ok(text.to_owned()),
    }
}

// === impl Supersede ===

impl Supersede {
    fn word(self) -> &'static str {
        match self {
            Supersede::Restart => "restart",
            Supersede::Continue => "continue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(plan: &str, reach: u64) -> api::StartRolloutRequest {
        api::StartRolloutRequest {
            family: "f".into(),
            plan: plan.into(),
            reach,
            ..Default::default()
        }
    }

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
        let failure = within_reach(&preview, &request("careful", 0)).unwrap_err();
        assert_eq!(failure.code(), Code::Conflict);
        assert!(failure.to_string().contains(
            "muster rollout start f --revision 4 --plan careful --preview p1 --reach 9447"
        ));
        assert!(within_reach(&preview, &request("careful", 9447)).is_ok());
    }

    #[test]
    fn takeover_needs_reach_however_few_agents() {
        let preview = api::PreviewResponse {
            members: 3,
            reach_limit: 100,
            takeovers: vec!["1 agent from family web".into()],
            ..Default::default()
        };
        let failure = within_reach(&preview, &request("", 0)).unwrap_err();
        assert!(
            failure
                .to_string()
                .contains("would reach 3 agents, of them 1 agent from family web"),
            "{failure}"
        );
    }

    #[test]
    fn glass_is_not_broken_without_a_reason() {
        assert!(reason("  ").is_err());
        assert_eq!(reason(" INC-4711 ").as_deref(), Ok("INC-4711"));
    }

    #[test]
    fn question_tells_a_way_back_from_a_way_forward() {
        let preview = api::PreviewResponse {
            family: "pii".into(),
            revision: 3,
            members: 2,
            ..Default::default()
        };
        assert_eq!(question(&preview, true), "Take 2 agents of pii back to r3?");
        assert_eq!(
            question(&preview, false),
            "Start the rollout of pii r3 to 2 agents?"
        );
    }
}
