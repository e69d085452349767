//! Content drift: the effective config against the delivered one, key by key, each with its origin.
//!
//! Semantic: order of keys, spelling and a component's own way to print its settings are no difference. A redacted value
//! is *cannot be compared*: never equal, never different. Keys that the supervisor injects are known and named: they are
//! shown as its own and are no drift.

use std::collections::BTreeSet;
use std::fmt;

use crate::consistency::{in_component, normal, scalar};
use crate::redact::{is_marked, may_agree};
use crate::value::{Path, Segment, Value};

/// Something besides the delivered config that the effective one may come from, e.g. a local file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What people call it.
    pub name: String,
    /// Its document.
    pub document: Value,
}

/// Where a key of the effective config comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// What was delivered.
    Delivered,
    /// The supervisor adds it to every config.
    Supervisor,
    /// A component shows settings that it was not given: its defaults.
    Default,
    /// A layer that is known.
    Layer(String),
    /// Nobody knows: edited by hand, or a local file that was not told.
    Unknown,
}

/// How a key differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Delivered, and not there.
    Missing,
    /// There with another value.
    Changed,
    /// There, and not delivered.
    Extra,
    /// Redacted or resolved by the collector: cannot be compared.
    NotComparable,
}

/// One key that is not as delivered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Which.
    pub path: Path,
    /// How.
    pub sort: Sort,
    /// Where what is there comes from; for what is missing, that it was delivered.
    pub origin: Origin,
    /// As delivered.
    pub delivered: Option<Value>,
    /// As it runs.
    pub effective: Option<Value>,
}

/// Everything that is not as delivered, ordered by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    found: Vec<Difference>,
}

/// Sections in which every entry is a component of its own.
const SECTIONS: [&str; 5] = [
    "receivers",
    "processors",
    "exporters",
    "connectors",
    "extensions",
];

/// Compares the merged delivered config with the effective one. `layers` are what else is known to be merged under it.
pub fn content(delivered: &Value, effective: &Value, layers: &[Layer]) -> Content {
    let mut compare = Compare {
        layers,
        found: Vec::new(),
    };
    compare.node(Some(delivered), Some(effective), &Path::root());
    compare.found.sort();
    Content {
        found: compare.found,
    }
}

struct Compare<'a> {
    layers: &'a [Layer],
    found: Vec<Difference>,
}

impl Compare<'_> {
    fn node(&mut self, delivered: Option<&Value>, effective: Option<&Value>, path: &Path) {
        if is_injected(path) {
            if let Some(there) = effective {
                self.push(path, Sort::Extra, Origin::Supervisor, None, Some(there));
            }
            return;
        }
        match (delivered, effective) {
            (Some(Value::Map(sent)), Some(Value::Map(there))) => {
                let keys: BTreeSet<&String> = sent.keys().chain(there.keys()).collect();
                for key in keys {
                    self.node(sent.get(key), there.get(key), &path.key(key));
                }
            }
            (Some(Value::Map(sent)), Some(Value::Null)) if sent.is_empty() => {}
            (Some(Value::Null), Some(Value::Map(_))) => {}
            (Some(Value::List(sent)), Some(Value::List(there))) => self.list(sent, there, path),
            (Some(sent), Some(there)) => self.leaf(sent, there, path),
            (Some(sent), None) => {
                // Inside of a component a key may be decoded away (`scrapers`); a section or component may not.
                if !within_component(path) && !is_empty(sent) {
                    self.push(path, Sort::Missing, Origin::Delivered, Some(sent), None);
                }
            }
            (None, Some(there)) => self.extra(there, path),
            (None, None) => {}
        }
    }

    fn list(&mut self, sent: &[Value], there: &[Value], path: &Path) {
        if *path == Path::of(["service", "extensions"]) {
            self.extensions(sent, there, path);
            return;
        }
        let plain = sent.iter().chain(there).all(|item| scalar(item).is_some());
        if plain && sent.len() == there.len() {
            for (at, (sent, there)) in sent.iter().zip(there).enumerate() {
                self.leaf(sent, there, &path.index(at));
            }
        } else if plain || !within_component(path) {
            let (sent, there) = (Value::List(sent.into()), Value::List(there.into()));
            if sent != there {
                let origin = self.origin(path, &there);
                self.push(path, Sort::Changed, origin, Some(&sent), Some(&there));
            }
        }
    }

    /// The supervisor joins this list with its own extension.
    fn extensions(&mut self, sent: &[Value], there: &[Value], path: &Path) {
        for item in sent.iter().filter(|item| !there.contains(item)) {
            self.push(path, Sort::Missing, Origin::Delivered, Some(item), None);
        }
        for item in there.iter().filter(|item| !sent.contains(item)) {
            let own = item
                .as_str()
                .is_some_and(|id| id.split('/').next() == Some("opamp"));
            let origin = match own {
                true => Origin::Supervisor,
                false => self.origin(path, item),
            };
            self.push(path, Sort::Extra, origin, None, Some(item));
        }
    }

    fn leaf(&mut self, sent: &Value, there: &Value, path: &Path) {
        let (Some(sent_text), Some(there_text)) = (scalar(sent), scalar(there)) else {
            if !within_component(path) && sent != there {
                let origin = self.origin(path, there);
                self.push(path, Sort::Changed, origin, Some(sent), Some(there));
            }
            return;
        };
        if sent_text == there_text && !is_marked(&sent_text) {
            return;
        }
        let hidden = is_marked(&sent_text) || is_marked(&there_text);
        let resolved = sent_text.contains("${");
        if resolved || hidden && may_agree(&sent_text, &there_text) {
            let origin = Origin::Delivered;
            self.push(path, Sort::NotComparable, origin, Some(sent), Some(there));
        } else if hidden || !within_component(path) || normal(&sent_text) != normal(&there_text) {
            let origin = self.origin(path, there);
            self.push(path, Sort::Changed, origin, Some(sent), Some(there));
        }
    }

    fn extra(&mut self, there: &Value, path: &Path) {
        if let Value::Map(map) = there
            && !map.is_empty()
            && path.segments().len() < 2
        {
            for (key, value) in map {
                self.node(None, Some(value), &path.key(key));
            }
            return;
        }
        if let Value::List(list) = there
            && *path == Path::of(["service", "extensions"])
        {
            self.extensions(&[], list, path);
            return;
        }
        if is_empty(there) {
            return;
        }
        let origin = match within_component(path) {
            true => Origin::Default,
            false => self.origin(path, there),
        };
        self.push(path, Sort::Extra, origin, None, Some(there));
    }

    /// The last layer that says so; the last one merged wins.
    fn origin(&self, path: &Path, there: &Value) -> Origin {
        let says = |layer: &&Layer| {
            let found = layer.document.get(path);
            found == Some(there)
                || found
                    .and_then(Value::as_list)
                    .is_some_and(|l| l.contains(there))
        };
        let layer = self.layers.iter().rev().find(says);
        layer.map_or(Origin::Unknown, |layer| Origin::Layer(layer.name.clone()))
    }

    fn push(
        &mut self,
        path: &Path,
        sort: Sort,
        origin: Origin,
        delivered: Option<&Value>,
        effective: Option<&Value>,
    ) {
        self.found.push(Difference {
            path: path.clone(),
            sort,
            origin,
            delivered: delivered.cloned(),
            effective: effective.cloned(),
        });
    }
}

/// What the supervisor puts into every config: its own extension, and everything about the collector's own telemetry.
fn is_injected(path: &Path) -> bool {
    let keys = keys(path);
    matches!(keys[..], ["service", "telemetry"])
        || matches!(keys[..], ["extensions", id] if id.split('/').next() == Some("opamp"))
}

/// Inside of one component's settings.
fn within_component(path: &Path) -> bool {
    let keys = keys(path);
    in_component(&keys) && SECTIONS.contains(&keys[0])
}

fn keys(path: &Path) -> Vec<&str> {
    fn key(segment: &Segment) -> &str {
        match segment {
            Segment::Key(key) => key,
            Segment::Index(_) => "",
        }
    }
    path.segments().iter().map(key).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Map(map) => map.is_empty(),
        Value::List(list) => list.is_empty(),
        _ => false,
    }
}

// === impl Content ===

impl Content {
    /// Everything that is not as delivered, also what is nobody's fault.
    pub fn all(&self) -> &[Difference] {
        &self.found
    }

    /// What is drift: not what cannot be compared, nor what supervisor, component or a known layer adds.
    pub fn differences(&self) -> impl Iterator<Item = &Difference> {
        self.found.iter().filter(|difference| difference.is_drift())
    }

    /// Is there any?
    pub fn is_drift(&self) -> bool {
        self.differences().next().is_some()
    }
}

// === impl Difference ===

impl Difference {
    /// Is it drift?
    pub fn is_drift(&self) -> bool {
        match self.sort {
            Sort::NotComparable => false,
            Sort::Missing | Sort::Changed => true,
            Sort::Extra => self.origin == Origin::Unknown,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference {
            path,
            sort,
            origin,
            delivered,
            effective,
        } = self;
        match (sort, delivered, effective) {
            (Sort::NotComparable, ..) => write!(f, "{path} cannot be compared"),
            (Sort::Changed, Some(sent), Some(there)) => {
                write!(f, "{path} is {there} instead of {sent}, from {origin}")
            }
            (Sort::Extra, ..) => write!(f, "{path} was not delivered, from {origin}"),
            _ => write!(f, "{path} was delivered and is missing"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Delivered => f.write_str("what was delivered"),
            Origin::Supervisor => f.write_str("the supervisor"),
            Origin::Default => f.write_str("the component's defaults"),
            Origin::Layer(name) => f.write_str(name),
            Origin::Unknown => f.write_str("an unknown origin"),
        }
    }
}
