//! The pipelines of a config: ids, what they name, and connectors, which join an exporter side to a receiver side.

use super::{Check, check_id, is_reference};
use crate::components::Kind;
use crate::value::{Map, Path, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What can flow through a pipeline.
pub(super) const SIGNALS: [&str; 4] = ["traces", "metrics", "logs", "profiles"];

const KEYS: [(&str, Kind); 3] = [
    ("receivers", Kind::Receiver),
    ("processors", Kind::Processor),
    ("exporters", Kind::Exporter),
];

/// In which pipelines a connector stands, on which side.
#[derive(Default)]
struct Sides {
    exports: BTreeSet<String>,
    receives: BTreeSet<String>,
}

impl Check {
    pub(super) fn pipelines(&mut self, pipelines: Option<&Value>) {
        let path = Path::of(["service", "pipelines"]);
        let pipelines = match pipelines {
            Some(Value::Map(pipelines)) if !pipelines.is_empty() => pipelines,
            Some(Value::String(text)) if is_reference(text) => return self.unchecked(path, text),
            Some(Value::Map(_) | Value::Null) | None => {
                return self.error(
                    path,
                    "service.pipelines is empty: define at least one pipeline, e.g. logs",
                );
            }
            Some(other) => {
                return self.error(
                    path,
                    format!(
                        "service.pipelines is {}, not a map of pipeline ids",
                        other.kind()
                    ),
                );
            }
        };
        let mut sides = BTreeMap::new();
        for (id, pipeline) in pipelines {
            self.pipeline_id(id, path.key(id));
            match pipeline {
                Value::Map(pipeline) => self.pipeline(id, pipeline, &path.key(id), &mut sides),
                Value::String(text) if is_reference(text) => self.unchecked(path.key(id), text),
                other => {
                    let path = path.key(id);
                    self.error(
                        path.clone(),
                        format!(
                            "{path} is {}, not a map of receivers, processors and exporters",
                            other.kind()
                        ),
                    );
                }
            }
        }
        self.connectors(&sides);
    }

    fn pipeline_id(&mut self, id: &str, path: Path) {
        let signal = id.split('/').next().unwrap_or(id).trim();
        if !SIGNALS.contains(&signal) {
            self.error(
                path.clone(),
                format!(
                    "{path} is no pipeline: its id begins with one of {}, e.g. logs/audit",
                    SIGNALS.join(", ")
                ),
            );
        } else if let Err(reason) = check_id(id) {
            self.error(path.clone(), format!("{path} is no pipeline id: {reason}"));
        }
    }

    fn pipeline(
        &mut self,
        id: &str,
        pipeline: &Map,
        path: &Path,
        sides: &mut BTreeMap<String, Sides>,
    ) {
        for key in pipeline
            .keys()
            .filter(|key| KEYS.iter().all(|(known, _)| known != key))
        {
            let path = path.key(key);
            self.error(
                path.clone(),
                format!("{path} is no part of a pipeline: use receivers, processors or exporters"),
            );
        }
        for (key, kind) in KEYS {
            let (path, list) = (path.key(key), pipeline.get(key).unwrap_or(&Value::Null));
            if kind != Kind::Processor && is_empty(list) {
                self.error(
                    path.clone(),
                    format!("{path} is empty: a pipeline needs at least one {kind}"),
                );
                continue;
            }
            let mut seen = BTreeSet::new();
            for (at, name) in self.names(list, &path) {
                self.member(kind, &name, at.clone(), &path);
                self.side(kind, &name, id, sides);
                if !seen.insert(name.clone()) {
                    self.repeated(kind, &name, at, &path);
                }
            }
        }
    }

    /// One name in a pipeline: defined as what it is there, or as a connector.
    fn member(&mut self, kind: Kind, name: &str, at: Path, list: &Path) {
        let connects = kind != Kind::Processor && self.is_connector(name);
        self.used.insert((
            if connects { Kind::Connector } else { kind },
            name.to_owned(),
        ));
        let is_known = self.is_defined(kind, name)
            || kind != Kind::Processor && self.is_defined(Kind::Connector, name);
        if !is_known {
            let section = kind.section();
            self.error(
                at,
                format!("{list} names `{name}`, but {section}.{name} is not defined: define it or remove it from the pipeline"),
            );
        }
    }

    fn side(&self, kind: Kind, name: &str, pipeline: &str, sides: &mut BTreeMap<String, Sides>) {
        if kind == Kind::Processor || !self.is_connector(name) {
            return;
        }
        let sides = sides.entry(name.to_owned()).or_default();
        let side = if kind == Kind::Exporter {
            &mut sides.exports
        } else {
            &mut sides.receives
        };
        side.insert(pipeline.to_owned());
    }

    fn repeated(&mut self, kind: Kind, name: &str, at: Path, list: &Path) {
        let message = format!("{list} names `{name}` twice: remove one");
        match kind {
            Kind::Processor => self.error(at, message),
            _ => self.warning(at, message),
        }
    }

    fn connectors(&mut self, sides: &BTreeMap<String, Sides>) {
        for (id, Sides { exports, receives }) in sides {
            let path = Path::of(["connectors", id.as_str()]);
            let names = |pipelines: &BTreeSet<String>| {
                pipelines.iter().cloned().collect::<Vec<_>>().join(", ")
            };
            if receives.is_empty() {
                let message = format!(
                    "connectors.{id} is an exporter of {}, but a receiver of no pipeline: add it to the receivers of one",
                    names(exports)
                );
                self.error(path, message);
            } else if exports.is_empty() {
                let message = format!(
                    "connectors.{id} is a receiver of {}, but an exporter of no pipeline: add it to the exporters of one",
                    names(receives)
                );
                self.error(path, message);
            }
        }
        if let Some(pipelines) = cycle(sides) {
            let message = format!(
                "connectors lead round in a circle through the pipelines {}: take one of them out",
                pipelines.join(", ")
            );
            self.error(Path::of(["connectors"]), message);
        }
    }

    fn is_connector(&self, id: &str) -> bool {
        self.defined
            .get(&Kind::Connector)
            .is_some_and(|ids| ids.contains(id))
    }
}

fn is_empty(list: &Value) -> bool {
    list.is_null() || list.as_list().is_some_and(<[Value]>::is_empty)
}

/// The pipelines that can never be ordered because connectors lead round among them; `None` if there is an order.
/// Pipelines behind a circle are not named: those without a way back are taken off from both ends.
fn cycle(sides: &BTreeMap<String, Sides>) -> Option<Vec<String>> {
    let mut edges: BTreeSet<(&str, &str)> = BTreeSet::new();
    for Sides { exports, receives } in sides.values() {
        for from in exports {
            edges.extend(receives.iter().map(|to| (from.as_str(), to.as_str())));
        }
    }
    loop {
        let sources: BTreeSet<&str> = edges.iter().map(|edge| edge.0).collect();
        let targets: BTreeSet<&str> = edges.iter().map(|edge| edge.1).collect();
        let before = edges.len();
        edges.retain(|(from, to)| targets.contains(from) && sources.contains(to));
        if edges.len() == before {
            break;
        }
    }
    let pipelines: BTreeSet<&str> = edges.iter().map(|edge| edge.0).collect();
    (!pipelines.is_empty()).then(|| pipelines.into_iter().map(str::to_owned).collect())
}
