//! The course of a run, second by second.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;

use super::Record;

/// One second of a run. `offers` and `errors` are totals so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    pub at_seconds: f64,
    pub connected: u64,
    pub check_ins_per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub offers: u64,
    pub errors: u64,
}

/// Takes a [`Sample`] now and then.
#[derive(Debug, Default)]
pub struct Sampler {
    last_at: Duration,
    last_check_ins: u64,
}

// === impl Sampler ===

impl Sampler {
    /// What happened since the last call; the latencies are those of this time only.
    pub fn sample(&mut self, record: &Record) -> Sample {
        let at = record.now();
        let counters = &record.counters;
        let check_ins = counters.check_ins.load(Relaxed);
        let latency = record.drain_latencies();
        let errors = [
            &counters.network_errors,
            &counters.discarded,
            &counters.error_responses,
        ];
        let elapsed = (at - self.last_at).as_secs_f64().max(1e-9);
        let sample = Sample {
            at_seconds: at.as_secs_f64(),
            connected: record.connected.load(Relaxed).max(0) as u64,
            check_ins_per_second: (check_ins - self.last_check_ins) as f64 / elapsed,
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            offers: counters.offers.load(Relaxed),
            errors: errors.iter().map(|counter| counter.load(Relaxed)).sum(),
        };
        (self.last_at, self.last_check_ins) = (at, check_ins);
        sample
    }
}
