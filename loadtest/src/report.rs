//! The result of a run: as a table, as JSON, as a page.

mod html;

pub use html::html;

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use crate::stats::{Record, Sample, Snapshot};

/// A finished run.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// The command line, without the token.
    pub command: String,
    pub servers: Vec<String>,
    pub seed: u64,
    pub seconds: f64,
    pub roles: BTreeMap<String, usize>,
    /// Ended by a person before its time.
    pub interrupted: bool,
    pub check_ins_per_second: f64,
    pub totals: Snapshot,
    /// Config hash in hexadecimal → offers.
    pub offers_per_hash: BTreeMap<String, usize>,
    /// (agent, hash) pairs that were offered more than once.
    pub repeated_offers: usize,
    /// One per second.
    pub samples: Vec<Sample>,
}

// === impl RunResult ===

impl RunResult {
    /// Fills in what the record knows.
    pub fn count(mut self, record: &Record) -> Self {
        self.offers_per_hash = record.offers_per_hash();
        self.repeated_offers = record.repeated_offers().len();
        self.check_ins_per_second = self.totals.check_ins as f64 / self.seconds.max(1e-9);
        self
    }

    /// The rows of table and page: what, how much.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let totals = &self.totals;
        vec![
            (
                "agents connected",
                format!("{} of {}", totals.connected, totals.agents),
            ),
            (
                "check-ins",
                format!("{} ({:.0}/s)", totals.check_ins, self.check_ins_per_second),
            ),
            (
                "latency p50 / p99 / max",
                format!(
                    "{} / {} / {}",
                    us(totals.p50_us),
                    us(totals.p99_us),
                    us(totals.max_us)
                ),
            ),
            (
                "offers",
                format!(
                    "{} of {} configs, {} repeated",
                    totals.offers,
                    self.offers_per_hash.len(),
                    self.repeated_offers
                ),
            ),
            (
                "config statuses",
                format!(
                    "{} applying, {} applied, {} failed",
                    totals.statuses_applying, totals.statuses_applied, totals.statuses_failed
                ),
            ),
            (
                "full state asked for",
                totals.full_state_requests.to_string(),
            ),
            (
                "restart commands, new uids",
                format!("{}, {}", totals.restart_commands, totals.uids_adopted),
            ),
            (
                "collector exits, rollbacks",
                format!("{}, {}", totals.collector_exits, totals.rollbacks),
            ),
            ("network errors", totals.network_errors.to_string()),
            ("shed (429, 503)", totals.shed.to_string()),
            (
                "messages lost to other statuses",
                totals.discarded.to_string(),
            ),
            (
                "error responses, undecodable",
                format!("{}, {}", totals.error_responses, totals.undecodable),
            ),
            (
                "sent",
                format!(
                    "{} messages, {} KiB",
                    totals.messages_sent,
                    totals.bytes_sent >> 10
                ),
            ),
        ]
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        for (what, value) in self.rows() {
            table.add_row([
                Cell::new(what),
                Cell::new(value).set_alignment(CellAlignment::Right),
            ]);
        }
        table.to_string()
    }
}

/// Microseconds for people.
pub fn us(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}
