//! Follows a rollout: redrawn on a terminal, appended lines elsewhere, objects for programs.
//!
//! A stream that breaks is opened again; the rollout does not notice who watches.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use proto::api::{Rollout, WatchRolloutRequest};
use tokio::time::Instant;

use crate::exit::{Code, Failure};
use crate::operator::client::Client;
use crate::operator::names;
use crate::operator::output::{Output, now_ms, talk};
use crate::operator::rollout::{self, Until};
use crate::render::rollout as render;
use crate::render::text::{clean, timestamp};
use crate::render::{Look, frame, progress};

/// A server that is gone for longer ends the watch.
const GONE_MAX: Duration = Duration::from_secs(60);
/// Pause before the stream is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// Follows `watched` until it ends, as `until` understands it.
pub async fn run(
    watched: Rollout,
    until: Until,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let id = watched.id.clone();
    let mut screen = Screen::new(out);
    let followed = tokio::select! {
        ended = follow(watched, until.follow, client, &mut screen) => ended,
        () = after(until.timeout) => Err(left(&id, Code::NotCompleted, "has not ended in the time given")),
        _ = tokio::signal::ctrl_c() => Err(left(&id, Code::Interrupted, "is no longer watched")),
    };
    screen.close();
    let last = followed?;
    if matches!(screen, Screen::Live(..)) {
        rollout::show(&last, client, out).await?;
    }
    verdict(&last)
}

async fn follow(
    mut now: Rollout,
    through_halts: bool,
    client: &Client,
    screen: &mut Screen,
) -> Result<Rollout, Failure> {
    let doing = format!("watch rollout {}", now.id);
    let request = WatchRolloutRequest { id: now.id.clone() };
    screen.update(&now, client).await?;
    let mut answered = Instant::now();
    while !is_over(&now, through_halts) {
        let ended = match client.rollouts().watch_rollout(request.clone()).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(next)) => {
                            answered = Instant::now();
                            screen.update(&next, client).await?;
                            now = next;
                            if is_over(&now, through_halts) {
                                return Ok(now);
                            }
                        }
                        Ok(None) => {
                            break tonic::Status::unavailable("the server closed the watch");
                        }
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        let for_a_while = matches!(
            ended.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
        );
        if !for_a_while || answered.elapsed() > GONE_MAX {
            return Err(client.failure(&doing, &ended));
        }
        screen.note("lost the server, trying again");
        tokio::time::sleep(REOPEN).await;
    }
    Ok(now)
}

/// Where the figures go.
enum Screen {
    /// Redrawn in place, on stderr.
    Live(ProgressBar, Look),
    /// Lines for what changed, on stdout.
    Lines {
        out: Output,
        look: Look,
        before: Box<Option<Rollout>>,
    },
    /// One object for each update, on stdout.
    Items(Output),
}

// === impl Screen ===

impl Screen {
    fn new(out: Output) -> Self {
        if out.for_programs() {
            return Screen::Items(out);
        }
        if !(std::io::stdout().is_terminal() && std::io::stderr().is_terminal()) {
            return Screen::Lines {
                out,
                look: out.look(),
                before: Box::new(None),
            };
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Screen::Live(bar, out.look())
    }

    async fn update(&mut self, now: &Rollout, client: &Client) -> Result<(), Failure> {
        if let Screen::Live(_, look) | Screen::Lines { look, .. } = self {
            names::learn(&mut look.names, render::examples(now), client).await;
        }
        match self {
            Screen::Live(bar, look) => {
                look.now_ms = now_ms();
                bar.set_message(frame::frame(now, look));
                Ok(())
            }
            Screen::Lines { out, look, before } => {
                let stamp = timestamp(now_ms());
                for line in progress::lines(before.as_ref().as_ref(), now, look) {
                    out.text(&format!("{stamp} {line}"))?;
                }
                **before = Some(now.clone());
                Ok(())
            }
            Screen::Items(out) => out.item(now),
        }
    }

    fn note(&self, note: &str) {
        match self {
            Screen::Live(bar, _) => bar.println(note),
            Screen::Lines { .. } | Screen::Items(_) => talk(note),
        }
    }

    fn close(&self) {
        if let Screen::Live(bar, _) = self {
            bar.finish_and_clear();
        }
    }
}

/// Whether nothing more will happen: it ended, or it halted and is not rolling back by itself.
fn is_over(rollout: &Rollout, through_halts: bool) -> bool {
    match rollout.state.as_str() {
        "completed" | "rolled back" | "aborted" | "superseded" => true,
        "halted" => !through_halts && rollout.rolling_back.is_empty(),
        // A state of a newer server that has an end is an end.
        _ => rollout.ended_ms != 0,
    }
}

fn verdict(last: &Rollout) -> Result<(), Failure> {
    if last.state == "completed" {
        return Ok(());
    }
    let (id, family) = (clean(&last.id), clean(&last.family));
    let cause = if last.cause.is_empty() {
        String::new()
    } else {
        format!(": {}", clean(&last.cause))
    };
    let failure = Failure::new(
        Code::NotCompleted,
        format!("rollout {id} of {family} is {}{cause}", clean(&last.state)),
    );
    Err(match last.state.as_str() {
        "halted" => failure.hint(format!(
            "see why:   muster agents list --rollout {id} --state failed\ngo on:     muster rollout resume {id}\ngo back:   muster rollout rollback {id}"
        )),
        _ => failure,
    })
}

fn left(id: &str, code: Code, why: &str) -> Failure {
    Failure::new(code, format!("rollout {id} {why}; it goes on"))
        .hint(format!("watch it again: muster rollout watch {id}"))
}

async fn after(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(state: &str) -> Rollout {
        Rollout {
            id: "r1".into(),
            family: "f".into(),
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn only_completion_is_success() {
        assert!(verdict(&rollout("completed")).is_ok());
        for state in ["halted", "rolled back", "aborted", "superseded"] {
            assert_eq!(
                verdict(&rollout(state)).unwrap_err().code(),
                Code::NotCompleted,
                "{state}"
            );
        }
    }

    #[test]
    fn halt_ends_a_watch_unless_it_follows_or_rolls_back_by_itself() {
        assert!(is_over(&rollout("halted"), false));
        assert!(!is_over(&rollout("halted"), true));
        assert!(!is_over(
            &Rollout {
                rolling_back: "wave 1 of agent".into(),
                ..rollout("halted")
            },
            false
        ));
        assert!(!is_over(&rollout("paused"), false));
        assert!(!is_over(&rollout("rolling back"), false));
        assert!(!is_over(&rollout("awaiting approval"), false));
    }
}
