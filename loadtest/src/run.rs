//! `muster-loadtest run`: start the fleet, show how it goes, write what it saw.

use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use muster_loadtest::fleet::Fleet;
use muster_loadtest::report::{self, RunResult, us};
use muster_loadtest::stats::{Sample, Sampler, Snapshot};
use tokio::time::{Instant, MissedTickBehavior};

use crate::cli::Run;

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

pub async fn run(args: Run) -> anyhow::Result<()> {
    let config = args.config()?;
    let roles = config.roles.iter().cloned().collect();
    let fleet = Fleet::start(config)?;
    let start = Instant::now();
    let (samples, interrupted) = watch(&fleet, &args, start).await;
    let seconds = start.elapsed().as_secs_f64();
    let totals = fleet.stats();
    let result = RunResult {
        command: command(),
        servers: args.server.clone(),
        seed: args.seed,
        seconds,
        roles,
        interrupted,
        check_ins_per_second: 0.0,
        totals,
        offers_per_hash: Default::default(),
        repeated_offers: 0,
        samples,
    }
    .count(fleet.record());
    fleet.stop().await;
    println!("{}", result.table());
    write(&args, &result)
}

/// Until the duration is over or a person has had enough.
async fn watch(fleet: &Fleet, args: &Run, start: Instant) -> (Vec<Sample>, bool) {
    let bar = bar(args.duration);
    let mut sampler = Sampler::default();
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval_at(start + SAMPLE_EVERY, SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = tokio::time::sleep_until(start + args.duration);
    let enough = tokio::signal::ctrl_c();
    tokio::pin!(end, enough);
    let interrupted = loop {
        tokio::select! {
            _ = ticks.tick() => {
                let sample = sampler.sample(fleet.record());
                bar.set_position(start.elapsed().as_secs());
                bar.set_message(line(&sample, &fleet.stats()));
                samples.push(sample);
            }
            () = &mut end => break false,
            _ = &mut enough => break true,
        }
    };
    bar.finish_and_clear();
    (samples, interrupted)
}

fn bar(duration: Duration) -> ProgressBar {
    let bar = ProgressBar::new(duration.as_secs());
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} s  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn line(sample: &Sample, totals: &Snapshot) -> String {
    format!(
        "{}/{} connected · {:.0} check-ins/s · p50 {} p99 {} · {} offers · {} errors",
        sample.connected,
        totals.agents,
        sample.check_ins_per_second,
        us(sample.p50_us),
        us(sample.p99_us),
        sample.offers,
        sample.errors,
    )
}

fn write(args: &Run, result: &RunResult) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(result)?;
        std::fs::write(path, json)
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    if let Some(path) = &args.html {
        let page = report::html(result);
        std::fs::write(path, page)
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// The command line as it was typed, but for the token.
fn command() -> String {
    let mut words = Vec::new();
    let mut secret = false;
    for word in std::env::args() {
        let shown = if std::mem::replace(&mut secret, word == "--token") {
            "***".to_owned()
        } else if word.starts_with("--token=") {
            "--token=***".to_owned()
        } else {
            word
        };
        words.push(shown);
    }
    words.join(" ")
}
