//! A run as one page without anything external: numbers, and charts as inline SVG.

use std::fmt::Write;

use super::RunResult;
use crate::stats::Sample;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 180.0;
const MARGIN: f64 = 46.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --dim: #66707f; --line: #dfe3e9; --paper: #fff; --ground: #f5f6f8;
  --a: #2563c9; --b: #c2410c; --c: #15803d }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #98a2b3; --line: #313a47; --paper: #1a212b;
  --ground: #11161d; --a: #7aa8f5; --b: #f59e6b; --c: #6fcf97 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 }
main { max-width: 920px; margin: 0 auto; padding: 32px 20px 60px }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 16px; margin: 0 0 10px } p { color: var(--dim); margin: 0 0 20px }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px; margin: 0 0 18px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 14px; margin: 0 0 18px }
.tiles section { margin: 0 } .tiles b { display: block; font-size: 26px; font-variant-numeric: tabular-nums }
.tiles span, text { color: var(--dim); fill: var(--dim); font-size: 12px }
table { border-collapse: collapse; width: 100% } td { border-top: 1px solid var(--line); padding: 6px 0 }
tr:first-child td { border: 0 } td + td { text-align: right; font-variant-numeric: tabular-nums }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere } svg { width: 100%; height: auto; display: block }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round } line { stroke: var(--line) }
";

/// One line of a chart.
struct Series {
    name: &'static str,
    color: &'static str,
    of: fn(&Sample) -> f64,
}

/// The whole page.
pub fn html(result: &RunResult) -> String {
    let mut page = String::with_capacity(16 << 10);
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Muster load test</title><style>{STYLE}</style><main><h1>Load test</h1>\
         <p>{} agents against {} for {:.0} s{}, seed {}</p>",
        result.totals.agents,
        escaped(&result.servers.join(", ")),
        result.seconds,
        if result.interrupted {
            ", ended early"
        } else {
            ""
        },
        result.seed,
    );
    tiles(&mut page, result);
    let per_second = Series {
        name: "check-ins per second",
        color: "--a",
        of: |s| s.check_ins_per_second,
    };
    let connected = Series {
        name: "connected agents",
        color: "--c",
        of: |s| s.connected as f64,
    };
    let p50 = Series {
        name: "p50",
        color: "--a",
        of: |s| s.p50_us as f64 / 1e3,
    };
    let p99 = Series {
        name: "p99",
        color: "--b",
        of: |s| s.p99_us as f64 / 1e3,
    };
    let offers = Series {
        name: "offers",
        color: "--a",
        of: |s| s.offers as f64,
    };
    let errors = Series {
        name: "errors",
        color: "--b",
        of: |s| s.errors as f64,
    };
    chart(
        &mut page,
        "Check-ins per second",
        &result.samples,
        &[per_second],
    );
    chart(
        &mut page,
        "Latency in milliseconds",
        &result.samples,
        &[p50, p99],
    );
    chart(&mut page, "Connected agents", &result.samples, &[connected]);
    chart(
        &mut page,
        "Offers and errors so far",
        &result.samples,
        &[offers, errors],
    );
    table(
        &mut page,
        "Totals",
        result
            .rows()
            .into_iter()
            .map(|(what, value)| (escaped(what), value)),
    );
    let hashes = result.offers_per_hash.iter();
    table(
        &mut page,
        "Offers per config",
        hashes.map(|(hash, n)| (format!("<code>{hash}</code>"), n.to_string())),
    );
    table(
        &mut page,
        "Agents per role",
        result
            .roles
            .iter()
            .map(|(role, n)| (escaped(role), n.to_string())),
    );
    let _ = write!(
        page,
        "<p><code>{}</code></p></main></html>",
        escaped(&result.command)
    );
    page
}

fn tiles(page: &mut String, result: &RunResult) {
    let totals = &result.totals;
    page.push_str("<div class=tiles>");
    for (name, value) in [
        (
            "check-ins per second",
            format!("{:.0}", result.check_ins_per_second),
        ),
        ("latency p99", super::us(totals.p99_us)),
        (
            "full state asked for",
            totals.full_state_requests.to_string(),
        ),
        (
            "errors",
            (totals.network_errors + totals.discarded + totals.error_responses).to_string(),
        ),
    ] {
        let _ = write!(page, "<section><b>{value}</b><span>{name}</span></section>");
    }
    page.push_str("</div>");
}

fn table(page: &mut String, title: &str, rows: impl Iterator<Item = (String, String)>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = write!(page, "<section><h2>{title}</h2><table>");
    for (what, value) in rows {
        let _ = write!(page, "<tr><td>{what}<td>{}", escaped(&value));
    }
    page.push_str("</table></section>");
}

fn chart(page: &mut String, title: &str, samples: &[Sample], series: &[Series]) {
    let last = samples.last().map_or(0.0, |sample| sample.at_seconds);
    let top = series
        .iter()
        .flat_map(|line| samples.iter().map(line.of))
        .fold(0.0, f64::max);
    if samples.len() < 2 || last <= 0.0 {
        return;
    }
    let (top, right, bottom) = (top.max(1.0), WIDTH - 10.0, HEIGHT - 24.0);
    let x = |at: f64| MARGIN + (right - MARGIN) * at / last;
    let y = |value: f64| bottom - (bottom - 12.0) * value / top;
    let _ = write!(
        page,
        "<section><h2>{title}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{title}\">"
    );
    for share in [0.0, 0.5, 1.0] {
        let (at, value) = (y(top * share), top * share);
        let digits = usize::from(top < 10.0);
        let _ = write!(
            page,
            "<line x1={MARGIN} x2={right} y1={at:.1} y2={at:.1} />\
             <text x={:.1} y={:.1} text-anchor=end>{value:.digits$}</text>",
            MARGIN - 6.0,
            at + 4.0,
        );
    }
    let _ = write!(page, "<text x={MARGIN} y={}>0 s</text>", HEIGHT - 6.0);
    let _ = write!(
        page,
        "<text x={right} y={} text-anchor=end>{last:.0} s</text>",
        HEIGHT - 6.0
    );
    for (number, line) in series.iter().enumerate() {
        page.push_str("<polyline points=\"");
        for sample in samples {
            let _ = write!(
                page,
                "{:.1},{:.1} ",
                x(sample.at_seconds),
                y((line.of)(sample))
            );
        }
        let _ = write!(page, "\" style=\"stroke:var({})\" />", line.color);
        if series.len() > 1 {
            let left = MARGIN + 60.0 + 90.0 * number as f64;
            let _ = write!(
                page,
                "<text x={left} y={} style=\"fill:var({})\">&#9632; {}</text>",
                HEIGHT - 6.0,
                line.color,
                line.name
            );
        }
    }
    page.push_str("</svg></section>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(samples: usize) -> RunResult {
        let sample = |at| Sample {
            at_seconds: at as f64,
            check_ins_per_second: 10.0 * at as f64,
            ..Sample::default()
        };
        RunResult {
            command: "run <b>".to_owned(),
            servers: vec!["http://127.0.0.1:4320".to_owned()],
            seed: 1,
            seconds: 3.0,
            roles: [("gateway".to_owned(), 2)].into(),
            interrupted: false,
            check_ins_per_second: 10.0,
            totals: crate::stats::Snapshot::default(),
            offers_per_hash: [("ab".to_owned(), 2)].into(),
            repeated_offers: 0,
            samples: (0..samples).map(sample).collect(),
        }
    }

    #[test]
    fn the_page_is_self_contained_and_escaped() {
        let page = html(&result(4));
        assert!(page.contains("<polyline") && page.contains("run &lt;b&gt;"));
        assert!(!page.contains("src=") && !page.contains("href=") && !page.contains("url("));
    }

    #[test]
    fn a_run_without_samples_has_no_chart() {
        assert!(!html(&result(1)).contains("<svg"));
    }
}
