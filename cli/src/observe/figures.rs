//! The figures of `/metrics`, sent over OTLP under the same names: one set of figures, wherever it is looked at.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::metrics::Meter;
use opentelemetry::{KeyValue, global};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// One look at the registry serves every instrument of one export.
const FRESH: Duration = Duration::from_secs(1);

/// One line of the exposition format.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<KeyValue>,
    value: f64,
}

/// The registry as it was a moment ago.
struct Scrape {
    registry: Arc<Registry>,
    last: Mutex<Option<(Instant, Arc<Vec<Sample>>)>>,
}

/// What is sent.
pub struct Figures {
    scrape: Arc<Scrape>,
    meter: Meter,
    known: HashSet<String>,
}

impl Figures {
    /// Over this registry. Costs next to nothing without an endpoint.
    pub fn new(registry: Arc<Registry>) -> Self {
        let last = Mutex::default();
        Figures {
            scrape: Arc::new(Scrape { registry, last }),
            meter: global::meter("muster"),
            known: HashSet::new(),
        }
    }

    /// Makes an instrument of each figure that is new: those with labels appear with their first value.
    pub fn refresh(&mut self) {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _infallible = encode(&mut text, &self.scrape.registry);
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let Some((name, kind)) = family.split_once(' ') else {
                continue;
            };
            if !self.known.insert(name.to_owned()) {
                continue;
            }
            match kind {
                "gauge" => gauge(&self.meter, name, &self.scrape),
                "counter" => counter(&self.meter, &format!("{name}_total"), &self.scrape),
                "histogram" => {
                    counter(&self.meter, &format!("{name}_count"), &self.scrape);
                    counter(&self.meter, &format!("{name}_sum"), &self.scrape);
                }
                _ => {}
            }
        }
    }
}

fn gauge(meter: &Meter, name: &str, scrape: &Arc<Scrape>) {
    let (scrape, wanted) = (scrape.clone(), name.to_owned());
    meter
        .f64_observable_gauge(name.to_owned())
        .with_callback(move |observer| {
            for sample in scrape.look().iter().filter(|sample| sample.name == wanted) {
                observer.observe(sample.value, &sample.labels);
            }
        })
        .build();
}

fn counter(meter: &Meter, name: &str, scrape: &Arc<Scrape>) {
    let (scrape, wanted) = (scrape.clone(), name.to_owned());
    meter
        .f64_observable_counter(name.to_owned())
        .with_callback(move |observer| {
            for sample in scrape.look().iter().filter(|sample| sample.name == wanted) {
                observer.observe(sample.value, &sample.labels);
            }
        })
        .build();
}

impl Scrape {
    fn look(&self) -> Arc<Vec<Sample>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, samples)) = &*last
            && at.elapsed() < FRESH
        {
            return samples.clone();
        }
        let mut text = String::new();
        let _infallible = encode(&mut text, &self.registry);
        let samples = Arc::new(text.lines().filter_map(sample).collect());
        *last = Some((Instant::now(), Arc::clone(&samples)));
        samples
    }
}

/// `name{key="value",…} number`; none for comments.
fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some(Sample {
        name: name.to_owned(),
        labels: pairs(labels),
        value: value.parse().ok()?,
    })
}

/// `key="value"` separated by commas; quotes, backslashes and line ends in values are escaped.
fn pairs(mut text: &str) -> Vec<KeyValue> {
    let mut pairs = Vec::new();
    while let Some((key, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.chars();
        while let Some(c) = chars.next().filter(|c| *c != '"') {
            match c {
                '\\' => value.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
                c => value.push(c),
            }
        }
        pairs.push(KeyValue::new(key.to_owned(), value));
        text = chars.as_str().trim_start_matches(',');
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_exposition_is_read_back() {
        let read = sample(r#"muster_agents{state="connected",note="a \"b\", c"} 12"#);
        let expected = Sample {
            name: "muster_agents".to_owned(),
            labels: vec![
                KeyValue::new("state", "connected"),
                KeyValue::new("note", "a \"b\", c"),
            ],
            value: 12.0,
        };
        assert_eq!(read, Some(expected));
        assert_eq!(sample("# TYPE muster_agents gauge"), None);
        assert_eq!(sample("muster_checkins_total 7").unwrap().value, 7.0);
    }
}
