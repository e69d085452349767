//! What a large fleet costs the state cluster, on a real node: `tick` is one look of the controller at a rollout,
//! `preview` a preview with grouped diffs. Each prints one JSON object; `scripts/bench` runs them.
//!
//! Usage: fleet tick|preview AGENTS ROUNDS

mod preview;
mod tick;
mod world;

use std::time::Duration;

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|w| w != "--bench")
        .collect();
    let number = |at: usize, default: usize| match words.get(at).map(|word| word.parse()) {
        None => default,
        Some(Ok(number)) => number,
        Some(Err(_)) => usage(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let figures = match words.first().map(String::as_str) {
        Some("tick") => runtime.block_on(tick::run(number(1, 1_000_000), number(2, 10))),
        Some("preview") => runtime.block_on(preview::run(number(1, 100_000), number(2, 5))),
        // `cargo test --benches` runs it without a word: nothing is measured there.
        None => return,
        Some(_) => usage(),
    };
    println!("{figures}");
}

fn usage() -> ! {
    eprintln!("usage: fleet tick|preview AGENTS ROUNDS");
    std::process::exit(2);
}

/// Milliseconds with their fraction.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The smallest, the median and the largest.
fn figure(mut values: Vec<f64>) -> serde_json::Value {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| (values[at] * 10.0).round() / 10.0;
    serde_json::json!({"median": at(values.len() / 2), "min": at(0), "max": at(values.len() - 1)})
}
