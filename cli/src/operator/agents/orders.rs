//! What one orders over the head of a family: who owns agents, and that collectors stop.

use proto::api;

use super::acts::{changed, choose, how_many, resolve};
use super::args::{OwnerArgs, StartArgs, StopArgs};
use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, confirm, talk};

pub async fn owner(args: OwnerArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let keep = args.to.keep;
    let (act, done) = match keep {
        true => ("Leave to the family that has them", "to be kept:"),
        false => ("Let go to the family that claims them", "to be let go:"),
    };
    let (uids, selector) = choose(args.chosen, act, client).await?;
    let request = api::ResolveOwnerRequest {
        uids,
        selector,
        keep,
        reason: args.reason,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call("resolve the owner of agents", async || {
            client.agents().resolve_owner(request.clone()).await
        })
        .await?;
    changed(&answer, done, out)?;
    if answer.changed == 0 && !out.for_programs() {
        talk("nothing was changed: that was said of them before");
    }
    Ok(())
}

/// Always asks, also for one agent: nothing else in Muster stops a collector.
pub async fn stop(args: StopArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let (uids, selector) = resolve(&args.chosen, client).await?;
    if !args.chosen.yes {
        let agents = how_many(&uids, &selector, client).await?;
        confirm(false, &question(&agents))?;
    }
    let request = api::StopCollectorsRequest {
        uids,
        selector,
        start: false,
        reason: args.reason,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call("stop collectors", async || {
            client.agents().stop_collectors(request.clone()).await
        })
        .await?;
    changed(&answer, "ordered to stop:", out)?;
    talk("they run again after: muster agents start");
    Ok(())
}

pub async fn start(args: StartArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let (uids, selector) = choose(args.chosen, "Start the collectors of", client).await?;
    let request = api::StopCollectorsRequest {
        uids,
        selector,
        start: true,
        reason: args.reason,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call("start collectors", async || {
            client.agents().stop_collectors(request.clone()).await
        })
        .await?;
    changed(&answer, "to get what they should run:", out)
}

fn question(agents: &str) -> String {
    format!(
        "This is the only act that stops collectors: they get an empty config, and no telemetry passes through them\n\
         until `muster agents start`. Stop the collectors of {agents}?"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn question_says_what_stopping_means() {
        let question = question("12 agents in `env = lab`");
        assert!(question.contains("the only act that stops collectors"));
        assert!(question.ends_with("Stop the collectors of 12 agents in `env = lab`?"));
    }

    #[test]
    fn orders_say_for_whom_which_and_why() {
        for (line, good) in [
            ("owner web-1", false),
            ("owner --accept", false),
            ("owner web-1 --accept --keep", false),
            ("owner web-1 -l env --accept", false),
            ("owner web-1 web-2 --keep --reason r", true),
            ("owner -l env --accept", true),
            ("stop web-1", false),
            ("stop --reason r", false),
            ("stop web-1 -l env --reason r", false),
            ("stop web-1 --reason r", true),
            ("stop -l env --reason r --yes", true),
            ("start web-1", true),
            ("start", false),
            ("at 14:02", true),
            ("at 2h web-1 web-2", true),
            ("at 2026-09-01T14:02:00Z -l env", true),
            ("at 2h web-1 -l env", false),
            ("at yesterday", false),
            ("at", false),
        ] {
            let line = format!("muster agents {line}");
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), good, "{line}");
        }
    }
}
