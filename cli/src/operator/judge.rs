//! What a person says of a rollout: the answer to a check that asks for one, and the review that is owed after a start
//! without approvals.

use clap::Args;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::Output;
use crate::operator::rollout::{read, show};

#[derive(Args)]
pub struct CheckArgs {
    /// Id, or a family for its newest
    rollout: String,
    /// Person or team, as in the plan [default: the only one that is asked now]
    #[arg(
        long,
        value_name = "WHO",
        default_value = "",
        hide_default_value = true
    )]
    check: String,
    /// Why: shown with the check and kept in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Args)]
pub struct ReviewArgs {
    /// Id, or a family for its newest
    rollout: String,
    /// What was found: kept with the rollout and in the audit log
    #[arg(long, value_name = "TEXT")]
    note: String,
}

/// Answers a check.
pub async fn answer(
    args: CheckArgs,
    pass: bool,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let CheckArgs {
        rollout,
        check,
        reason,
    } = args;
    let request = api::AnswerCheckRequest {
        id: read(client, &rollout).await?.id,
        check,
        fail: !pass,
        reason,
        idempotency_key: idempotency_key(),
    };
    let doing = format!("answer a check of rollout {rollout}");
    let answer = client
        .call(&doing, async || {
            client.rollouts().answer_check(request.clone()).await
        })
        .await?;
    show(&answer, client, out).await
}

/// Pays the debt of a start without approvals.
pub async fn review(args: ReviewArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let ReviewArgs { rollout, note } = args;
    let request = api::ReviewRolloutRequest {
        id: read(client, &rollout).await?.id,
        note,
        idempotency_key: idempotency_key(),
    };
    let doing = format!("review rollout {rollout}");
    let answer = client
        .call(&doing, async || {
            client.rollouts().review_rollout(request.clone()).await
        })
        .await?;
    show(&answer, client, out).await
}
