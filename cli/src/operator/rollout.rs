//! `muster rollout`: start, watch and stop a change on its way.

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::judge::{self, CheckArgs, ReviewArgs};
use crate::operator::output::Output;
use crate::operator::{names, start, watch};
use crate::render::names::Names;
use crate::render::rollout as render;

const WATCH_EXAMPLES: &str = "\
Redraws on a terminal; elsewhere one line for each change, or with -o json one object a line.
Ends when the rollout ends or halts: exit code 0 if it completed, else 7. With --follow a halt is
waited out.

Examples:
  muster rollout watch pii-redaction
  muster rollout watch pii-redaction -o json | jq -c '.total'";

#[derive(Subcommand)]
pub enum Command {
    /// Open a rollout of a revision, bound to a preview
    #[command(after_help = start::EXAMPLES)]
    Start(start::StartArgs),
    /// Take a family back to an earlier revision, by a rollout of its own
    #[command(after_help = start::BACK_EXAMPLES)]
    Back(start::BackArgs),
    /// List rollouts, newest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster rollout list\n  muster rollout list --family pii-redaction --open\n  muster rollout list --unreviewed"
    )]
    List {
        /// Only those of this family
        #[arg(long, default_value = "", hide_default_value = true)]
        family: String,
        /// Only those that have not ended
        #[arg(long)]
        open: bool,
        /// Only those that were started without their approvals and wait for a review
        #[arg(long)]
        unreviewed: bool,
    },
    /// Show one rollout: waves, counts, errors
    #[command(
        after_help = "Examples:\n  muster rollout get pii-redaction\n  muster rollout get pii-redaction -o json | jq .total"
    )]
    Get {
        /// Id, or a family for its newest
        rollout: String,
    },
    /// Follow a rollout until it ends
    #[command(after_help = WATCH_EXAMPLES)]
    Watch {
        /// Id, or a family for its newest
        rollout: String,
        #[command(flatten)]
        until: Until,
    },
    /// Start no further offers, for now
    #[command(
        after_help = "Example:\n  muster rollout pause pii-redaction --reason 'deploy freeze until Monday'"
    )]
    Pause(VerbArgs),
    /// Go on after a pause or a halt
    #[command(
        after_help = "Example:\n  muster rollout resume pii-redaction --reason 'the full disk on web-7 was the cause'"
    )]
    Resume(VerbArgs),
    /// Stop: no further agent is offered the revision
    #[command(after_help = "Example:\n  muster rollout halt pii-redaction --reason INC-4711")]
    Halt(VerbArgs),
    /// Take an open rollout back: its agents get what they would have without it
    #[command(
        after_help = "After a rollout has completed, `muster rollout back FAMILY REVISION` takes the family back to an\nearlier revision instead.\n\nExamples:\n  muster rollout rollback pii-redaction --reason INC-4711\n  muster rollout watch pii-redaction             # follow it back"
    )]
    Rollback(VerbArgs),
    /// Answer a check that asks a person: it may go on
    #[command(
        after_help = "Examples:\n  muster rollout pass pii-redaction\n  muster rollout pass pii-redaction --check platform --reason 'dashboards look good'"
    )]
    Pass(CheckArgs),
    /// Answer a check that asks a person: it must not go on
    #[command(
        after_help = "Example:\n  muster rollout fail pii-redaction --reason 'cards in the logs of web-7'"
    )]
    Fail(CheckArgs),
    /// Review a rollout that was started without its approvals
    #[command(
        after_help = "By somebody else than who started it. `muster rollout list --unreviewed` lists what is owed.\n\nExample:\n  muster rollout review 01JD... --note 'looked at the diff and the dashboards, fine'"
    )]
    Review(ReviewArgs),
}

/// How long a watch lasts.
#[derive(Args, Clone, Copy)]
pub struct Until {
    /// Stop waiting after so long (90s, 2h); the rollout goes on, the exit code is 7
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Wait through halts, too
    #[arg(long)]
    pub follow: bool,
}

#[derive(Args)]
pub struct VerbArgs {
    /// Id, or a family for its newest
    rollout: String,
    /// Why: kept in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Clone, Copy)]
enum Verb {
    Pause,
    Resume,
    Halt,
    Rollback,
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::Start(args) => start::run(args, client, out).await,
        Command::Back(args) => start::back(args, client, out).await,
        Command::List {
            family,
            open,
            unreviewed,
        } => {
            let request = api::ListRolloutsRequest {
                family,
                open_only: open,
                unreviewed,
            };
            let answer = client
                .call("list rollouts", async || {
                    client.rollouts().list_rollouts(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, look| match answer.rollouts.is_empty() {
                true if unreviewed => "no rollout waits for a review\n".to_owned(),
                true if open => "no open rollouts; `muster rollout list` shows all\n".to_owned(),
                _ => render::list(answer, look),
            })
        }
        Command::Get { rollout } => show(&read(client, &rollout).await?, client, out).await,
        Command::Watch { rollout, until } => {
            watch::run(read(client, &rollout).await?, until, client, out).await
        }
        Command::Pause(args) => verb(Verb::Pause, args, client, out).await,
        Command::Resume(args) => verb(Verb::Resume, args, client, out).await,
        Command::Halt(args) => verb(Verb::Halt, args, client, out).await,
        Command::Rollback(args) => verb(Verb::Rollback, args, client, out).await,
        Command::Pass(args) => judge::answer(args, true, client, out).await,
        Command::Fail(args) => judge::answer(args, false, client, out).await,
        Command::Review(args) => judge::review(args, client, out).await,
    }
}

async fn verb(verb: Verb, args: VerbArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let id = read(client, &args.rollout).await?.id;
    let request = api::RolloutVerb {
        id,
        reason: args.reason,
        idempotency_key: idempotency_key(),
    };
    let name = match verb {
        Verb::Pause => "pause",
        Verb::Resume => "resume",
        Verb::Halt => "halt",
        Verb::Rollback => "roll back",
    };
    let doing = format!("{name} rollout {}", args.rollout);
    let answer = client.call(&doing, async || {
        let request = request.clone();
        match verb {
            Verb::Pause => client.rollouts().pause_rollout(request).await,
            Verb::Resume => client.rollouts().resume_rollout(request).await,
            Verb::Halt => client.rollouts().halt_rollout(request).await,
            Verb::Rollback => client.rollouts().rollback_rollout(request).await,
        }
    });
    show(&answer.await?, client, out).await
}

/// Prints it, its agents by their names.
pub async fn show(rollout: &api::Rollout, client: &Client, out: Output) -> Result<(), Failure> {
    let mut known = Names::default();
    if !out.for_programs() {
        names::learn(&mut known, render::examples(rollout), client).await;
    }
    out.show_named(rollout, known, render::detail)
}

/// The rollout of this id, or the newest of this family.
pub async fn read(client: &Client, rollout: &str) -> Result<api::Rollout, Failure> {
    let request = api::GetRolloutRequest {
        id: rollout.to_owned(),
    };
    client
        .call(&format!("read rollout {rollout}"), async || {
            client.rollouts().get_rollout(request.clone()).await
        })
        .await
}
