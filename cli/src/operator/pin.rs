//! `muster pin`: agents held at a revision, for a time.

use clap::{Args, Subcommand};
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::moment::{Ends, revision};
use crate::operator::names;
use crate::operator::output::{Output, now_ms};
use crate::render::governance as render;
use crate::render::names::Names;

const SET_EXAMPLES: &str = "\
One agent is also brought to the revision; agents that a selector matches are only held, as moving
many is a rollout's work. A pin ends after 90 days at most. Setting a pin of the same name again
replaces it. Times are UTC: 14:02 of today, 2026-11-27, or 2026-11-27T18:00:00Z.

Examples:
  muster pin set legacy --family web --agent web-7 --revision 3 --for 30d --reason 'old kernel'
  muster pin set lab --family web -l 'env = lab' --until 2026-11-27 --reason INC-4711 --owner edge";

#[derive(Subcommand)]
pub enum Command {
    /// Hold agents at a revision, or replace the pin of this name
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// Remove a pin: its agents follow their family again
    #[command(after_help = "Example:\n  muster pin remove legacy")]
    Remove {
        /// Name of the pin
        name: String,
    },
    /// List pins
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster pin list\n  muster pin list --family web"
    )]
    List {
        /// Only those of this family
        #[arg(long, default_value = "", hide_default_value = true)]
        family: String,
    },
}

#[derive(Args)]
pub struct SetArgs {
    /// Name to list and remove it by
    name: String,
    /// Family of the agents
    #[arg(long)]
    family: String,
    /// Uid, a prefix of it, or a name that only one agent has
    #[arg(
        long,
        required_unless_present = "selector",
        conflicts_with = "selector"
    )]
    agent: Option<String>,
    /// All agents that match, held only
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Revision [default: the stable one]
    #[arg(long, value_name = "N", value_parser = revision, default_value = "0", hide_default_value = true)]
    revision: u64,
    /// Why
    #[arg(long)]
    reason: String,
    /// Who answers for it [default: you]
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    #[command(flatten)]
    ends: Ends,
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::Set(args) => {
            let request = request(args, now_ms())?;
            let doing = format!("set pin {}", request.name);
            let answer = client
                .call(&doing, async || {
                    client.governance().set_pin(request.clone()).await
                })
                .await?;
            let known = known(&[&answer], client, out).await;
            out.show_named(&answer, known, render::pin)
        }
        Command::Remove { name } => {
            let doing = format!("remove pin {name}");
            let request = api::RemovePinRequest {
                name,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.governance().remove_pin(request.clone()).await
                })
                .await?;
            out.show(&answer, render::unpinned)
        }
        Command::List { family } => {
            let request = api::ListPinsRequest { family };
            let answer = client
                .call("list pins", async || {
                    client.governance().list_pins(request.clone()).await
                })
                .await?;
            let pins: Vec<&api::Pin> = answer.pins.iter().collect();
            let known = known(&pins, client, out).await;
            out.show_named(&answer, known, render::pins)
        }
    }
}

async fn known(pins: &[&api::Pin], client: &Client, out: Output) -> Names {
    let mut known = Names::default();
    if !out.for_programs() {
        let agents = pins.iter().map(|pin| pin.agent.as_str());
        names::learn(&mut known, agents.filter(|uid| !uid.is_empty()), client).await;
    }
    known
}

fn request(args: SetArgs, now_ms: u64) -> Result<api::SetPinRequest, Failure> {
    if args.selector.as_ref().is_some_and(|s| s.trim().is_empty()) {
        return Err(Failure::usage("an empty selector matches every agent")
            .hint("name a key, for example -l service.name"));
    }
    Ok(api::SetPinRequest {
        name: args.name,
        family: args.family,
        agent: args.agent.unwrap_or_default(),
        selector: args.selector.unwrap_or_default(),
        revision: args.revision,
        reason: args.reason,
        owner: args.owner,
        until_ms: args.ends.at_ms(now_ms, now_ms),
        idempotency_key: idempotency_key(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SetArgs,
    }

    fn parsed(options: &[&str]) -> Option<SetArgs> {
        let line = ["set", "legacy", "--family", "web", "--reason", "r"];
        let line = line.into_iter().chain(options.iter().copied());
        Some(Line::try_parse_from(line).ok()?.args)
    }

    #[test]
    fn pin_is_for_one_agent_or_a_selector_and_ends() {
        for refused in [
            &["--for", "30d"][..],
            &["--for", "30d", "--agent", "a", "-l", "env"],
            &["--agent", "a"],
            &["--agent", "a", "--for", "1d", "--until", "14:02"],
            &["--agent", "a", "--for", "1d", "--revision", "old"],
        ] {
            assert!(parsed(refused).is_none(), "{refused:?}");
        }
        let args = parsed(&["--agent", "web-7", "--for", "30d", "--revision", "r3"]).unwrap();
        let asked = request(args, 1_000).unwrap();
        assert_eq!((asked.agent.as_str(), asked.revision), ("web-7", 3));
        assert_eq!(asked.until_ms, 1_000 + 30 * 24 * 3_600_000);
    }

    #[test]
    fn selector_that_matches_everything_by_being_empty_is_refused() {
        let args = parsed(&["-l", " ", "--for", "30d"]).unwrap();
        assert!(request(args, 0).is_err());
    }
}
