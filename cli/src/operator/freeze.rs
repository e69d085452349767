//! `muster freeze`: windows in which no wave starts.

use clap::{Args, Subcommand};
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::moment::{Ends, Point};
use crate::operator::output::{Output, now_ms};
use crate::render::governance as render;

const SET_EXAMPLES: &str = "\
A wave that is under way soaks on; rollbacks and urgent plans pass. Setting a freeze of the same
name again replaces it. Times are UTC: 14:02 of today, 2026-11-27, or 2026-11-27T18:00:00Z.

Examples:
  muster freeze set black-friday --from 2026-11-27 --until 2026-11-30 --reason 'sales week'
  muster freeze set incident --for 2h --family web --family db --reason INC-4711";

#[derive(Subcommand)]
pub enum Command {
    /// Set a freeze, or replace the one of this name
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// End a freeze now
    #[command(after_help = "Example:\n  muster freeze end incident")]
    End {
        /// Name of the freeze
        name: String,
    },
    /// List freezes that hold or are to come
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster freeze list\n  muster freeze list --past"
    )]
    List {
        /// Those that are over, too
        #[arg(long)]
        past: bool,
    },
}

#[derive(Args)]
pub struct SetArgs {
    /// Name to list and end it by
    name: String,
    /// Why: shown to those who wait for its end
    #[arg(long)]
    reason: String,
    /// When it begins [default: now]
    #[arg(long, value_name = "TIME", value_parser = Point::parse)]
    from: Option<Point>,
    #[command(flatten)]
    ends: Ends,
    /// Only this family; may be given several times [default: all]
    #[arg(long = "family", value_name = "FAMILY")]
    families: Vec<String>,
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::Set(args) => {
            let request = request(args, now_ms());
            let doing = format!("set freeze {}", request.name);
            let answer = client
                .call(&doing, async || {
                    client.governance().set_freeze(request.clone()).await
                })
                .await?;
            out.show(&answer, render::freeze)
        }
        Command::End { name } => {
            let doing = format!("end freeze {name}");
            let request = api::EndFreezeRequest {
                name,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.governance().end_freeze(request.clone()).await
                })
                .await?;
            out.show(&answer, render::freeze)
        }
        Command::List { past } => {
            let request = api::ListFreezesRequest { past };
            let answer = client
                .call("list freezes", async || {
                    client.governance().list_freezes(request).await
                })
                .await?;
            out.show(&answer, |answer, look| render::freezes(answer, past, look))
        }
    }
}

fn request(args: SetArgs, now_ms: u64) -> api::SetFreezeRequest {
    let from_ms = args.from.map_or(0, |from| from.at_ms(now_ms));
    let begins = if from_ms == 0 { now_ms } else { from_ms };
    api::SetFreezeRequest {
        name: args.name,
        reason: args.reason,
        from_ms,
        until_ms: args.ends.at_ms(begins, now_ms),
        families: args.families,
        idempotency_key: idempotency_key(),
    }
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

    const NOON: u64 = 1_788_264_000_000; // 2026-09-01T12:00:00Z

    fn asked(options: &str) -> Option<api::SetFreezeRequest> {
        let line = format!("set sales --reason r {options}");
        let parsed = Line::try_parse_from(line.split_whitespace()).ok()?;
        Some(request(parsed.args, NOON))
    }

    #[test]
    fn freeze_ends_at_a_time_or_so_long_after_it_begins() {
        let window = |options| asked(options).map(|request| (request.from_ms, request.until_ms));
        assert_eq!(window("--for 2h"), Some((0, NOON + 7_200_000)));
        assert_eq!(
            window("--from 13:00 --for 2h"),
            Some((NOON + 3_600_000, NOON + 3 * 3_600_000))
        );
        assert_eq!(window("--until 14:02"), Some((0, NOON + 7_320_000)));
    }

    #[test]
    fn freeze_has_one_end_and_no_duration_for_a_time() {
        for refused in ["", "--for 2h --until 14:02", "--until 2h", "--for 14:02"] {
            assert!(asked(refused).is_none(), "{refused}");
        }
    }

    #[test]
    fn freeze_is_for_all_families_unless_some_are_named() {
        assert!(asked("--for 2h").unwrap().families.is_empty());
        assert_eq!(
            asked("--for 2h --family web --family db").unwrap().families,
            ["web", "db"]
        );
    }
}
