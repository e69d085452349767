//! `muster approve` and `muster reject`: what somebody else than the author says of a revision.

use clap::Args;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::moment::revision;
use crate::operator::output::Output;
use crate::render::governance as render;

const APPROVE_EXAMPLES: &str = "\
An approval is for one revision with one plan, and is void after an edit of either. Nobody approves
what he wrote. With --hash it is refused unless the revision is the one that was looked at.

Examples:
  muster approve pii-redaction
  muster approve pii-redaction --revision 4 --plan careful --hash 0123456789ab
  muster approve pii-redaction --reason 'tried it in staging'";

#[derive(Args)]
#[command(after_help = APPROVE_EXAMPLES)]
pub struct ApproveArgs {
    /// Name of the family
    family: String,
    /// Revision [default: the latest]
    #[arg(long, value_name = "N", value_parser = revision, default_value = "0", hide_default_value = true)]
    revision: u64,
    /// Plan it is to be rolled out with [default: 1, 1 %, 10 %, 50 %, rest]
    #[arg(long, default_value = "", hide_default_value = true)]
    plan: String,
    /// Hash of the revision as it was looked at, or its first digits
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    hash: String,
    /// Why: kept with the approval
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Args)]
#[command(
    after_help = "No rollout of a rejected revision can be started any more; the way on is a new revision.\n\nExample:\n  muster reject pii-redaction --revision 4 --reason 'drops the audit pipeline'"
)]
pub struct RejectArgs {
    /// Name of the family
    family: String,
    /// Revision [default: the latest]
    #[arg(long, value_name = "N", value_parser = revision, default_value = "0", hide_default_value = true)]
    revision: u64,
    /// Why: for its author
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// Approves a revision with a plan.
pub async fn approve(args: ApproveArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let ApproveArgs {
        family,
        revision,
        plan,
        hash,
        reason,
    } = args;
    let doing = format!("approve family {family}");
    let request = api::ApproveRequest {
        family,
        revision,
        plan,
        revision_hash: hash,
        reason,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call(&doing, async || {
            client.governance().approve(request.clone()).await
        })
        .await?;
    out.show(&answer, |answer, look| {
        render::approved(&request.family, answer, look)
    })
}

/// Rejects a revision.
pub async fn reject(args: RejectArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let RejectArgs {
        family,
        revision,
        reason,
    } = args;
    let doing = format!("reject family {family}");
    let request = api::RejectRequest {
        family,
        revision,
        reason,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call(&doing, async || {
            client.governance().reject(request.clone()).await
        })
        .await?;
    out.show(&answer, |answer, look| {
        render::rejected(&request.family, answer, look)
    })
}
