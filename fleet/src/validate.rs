//! Whether a collector would take a config, and whether policy allows it: every finding at once.
//!
//! What it is not: `otelcol validate`. The settings inside a component are its own; only what holds for every collector
//! is checked. References (`${env:X}`) in the place of a section or a name cannot be followed: they are warned about.
//!
//! Invariants: no error means that every pipeline's components are defined, that the config cannot replace the
//! supervisor's own opamp extension, and that every section has the shape a collector expects. Findings come in the
//! order of the document, errors and warnings mixed.

use crate::components::{Kind, type_of};
use crate::value::{Map, Path, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use policy::{Policy, Rule, check_policies};

mod pipelines;
mod policy;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The collector would not start, or would be cut off.
    Error,
    /// It starts, but something is there for nothing or cannot be checked.
    Warning,
}

/// One thing that is wrong. The message names the object and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub path: Path,
    pub message: String,
}

/// Checks the parsed config of a role.
pub fn validate(config: &Value) -> Vec<Finding> {
    let mut check = Check::default();
    match config {
        Value::Map(root) => check.root(root),
        Value::Null => check.error(
            Path::root(),
            "the config is empty: define receivers, exporters and service.pipelines",
        ),
        other => check.error(
            Path::root(),
            format!("the config is {}, not a map of sections", other.kind()),
        ),
    }
    check.findings
}

/// True if nothing stands in the way of the config.
pub fn is_valid(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.severity != Severity::Error)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error {
            "error"
        } else {
            "warning"
        };
        write!(f, "{severity}: {}", self.message)
    }
}

/// The findings so far, and what the sections define.
#[derive(Default)]
struct Check {
    findings: Vec<Finding>,
    defined: BTreeMap<Kind, BTreeSet<String>>,
    /// Sections whose content is a reference: nothing in them can be called undefined.
    unreadable: BTreeSet<Kind>,
    used: BTreeSet<(Kind, String)>,
}

impl Check {
    fn error(&mut self, path: Path, message: impl Into<String>) {
        self.findings.push(Finding {
            severity: Severity::Error,
            path,
            message: message.into(),
        });
    }

    fn warning(&mut self, path: Path, message: impl Into<String>) {
        self.findings.push(Finding {
            severity: Severity::Warning,
            path,
            message: message.into(),
        });
    }

    fn root(&mut self, root: &Map) {
        for (key, section) in root {
            match Kind::of_section(key) {
                Some(kind) => self.section(kind, section),
                None if key == "service" => {}
                None => self.error(
                    Path::of([key.as_str()]),
                    format!("{key} is no section of a collector config: use receivers, processors, exporters, connectors, extensions or service"),
                ),
            }
        }
        self.ambiguous();
        match root.get("service") {
            Some(Value::Map(service)) => self.service(service),
            Some(Value::String(text)) if is_reference(text) => {
                self.unchecked(Path::of(["service"]), text)
            }
            _ => self.error(
                Path::of(["service"]),
                "service is missing: define service.pipelines with at least one pipeline",
            ),
        }
        self.unused();
    }

    fn section(&mut self, kind: Kind, section: &Value) {
        let (name, path) = (kind.section(), Path::of([kind.section()]));
        match section {
            Value::Map(components) if !components.is_empty() => {
                for id in components.keys() {
                    self.component(kind, id);
                }
            }
            Value::Map(_) | Value::Null => {
                self.warning(path, format!("{name} is empty: fill it or remove it"))
            }
            Value::String(text) if is_reference(text) => {
                self.unreadable.insert(kind);
                self.unchecked(path, text);
            }
            other => self.error(
                path,
                format!("{name} is {}, not a map of component ids", other.kind()),
            ),
        }
    }

    fn component(&mut self, kind: Kind, id: &str) {
        let path = Path::of([kind.section(), id]);
        if let Err(reason) = check_id(id) {
            self.error(path.clone(), format!("{path} is no component id: {reason}"));
        }
        if kind == Kind::Extension && type_of(id) == "opamp" {
            self.error(path.clone(), format!("{path} would replace the supervisor's own opamp extension and cut the agent off: remove it"));
            self.used.insert((kind, id.to_owned()));
        }
        self.defined.entry(kind).or_default().insert(id.to_owned());
    }

    /// A connector stands in pipelines under the same ids as receivers and exporters.
    fn ambiguous(&mut self) {
        for kind in [Kind::Receiver, Kind::Exporter] {
            let (connectors, others) = (self.ids(Kind::Connector), self.ids(kind));
            for id in connectors.intersection(&others) {
                let section = kind.section();
                self.error(
                    Path::of(["connectors", id.as_str()]),
                    format!("`{id}` is defined under connectors and under {section}: give one of them another name"),
                );
            }
        }
    }

    fn service(&mut self, service: &Map) {
        for key in service
            .keys()
            .filter(|key| !["extensions", "pipelines", "telemetry"].contains(&key.as_str()))
        {
            self.error(
                Path::of(["service", key.as_str()]),
                format!("service.{key} is no setting of a collector: use extensions, pipelines or telemetry"),
            );
        }
        self.extensions(service.get("extensions").unwrap_or(&Value::Null));
        self.pipelines(service.get("pipelines"));
    }

    fn extensions(&mut self, extensions: &Value) {
        let path = Path::of(["service", "extensions"]);
        for (at, id) in self.names(extensions, &path) {
            if type_of(&id) == "opamp" {
                self.error(at, format!("service.extensions names `{id}`: the supervisor adds its own opamp extension, remove it"));
            } else if !self.is_defined(Kind::Extension, &id) {
                self.error(
                    at,
                    format!("service.extensions names `{id}`, but extensions.{id} is not defined: define it or remove it from service.extensions"),
                );
            }
            self.used.insert((Kind::Extension, id));
        }
    }

    fn unused(&mut self) {
        let defined = self
            .defined
            .iter()
            .flat_map(|(kind, ids)| ids.iter().map(|id| (*kind, id.clone())));
        let unused: Vec<_> = defined
            .filter(|component| !self.used.contains(component))
            .collect();
        for (kind, id) in unused {
            let section = kind.section();
            let place = if kind == Kind::Extension {
                "service.extensions"
            } else {
                "any pipeline"
            };
            self.warning(
                Path::of([section, id.as_str()]),
                format!("{section}.{id} is defined but not in {place}: use it or remove it"),
            );
        }
    }

    /// The names in a list with their places; anything else is a finding. Null is an empty list.
    fn names(&mut self, list: &Value, path: &Path) -> Vec<(Path, String)> {
        let mut names = Vec::new();
        match list {
            Value::Null => {}
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    match item {
                        Value::String(text) if is_reference(text) => {
                            self.unchecked(path.index(at), text)
                        }
                        Value::String(id) => names.push((path.index(at), id.clone())),
                        other => self.error(
                            path.index(at),
                            format!("{path} holds {}, not a component id", other.kind()),
                        ),
                    }
                }
            }
            Value::String(text) if is_reference(text) => self.unchecked(path.clone(), text),
            other => self.error(
                path.clone(),
                format!("{path} is {}, not a list of component ids", other.kind()),
            ),
        }
        names
    }

    fn unchecked(&mut self, path: Path, reference: &str) {
        let message = format!(
            "{path} is the reference {reference}: what it stands for cannot be checked here"
        );
        self.warning(path, message);
    }

    fn is_defined(&self, kind: Kind, id: &str) -> bool {
        self.unreadable.contains(&kind)
            || self.defined.get(&kind).is_some_and(|ids| ids.contains(id))
    }

    fn ids(&self, kind: Kind) -> BTreeSet<String> {
        self.defined.get(&kind).cloned().unwrap_or_default()
    }
}

fn is_reference(text: &str) -> bool {
    text.starts_with("${") && text.ends_with('}')
}

/// Checks `type[/name]` as the collector's `component.ID` does.
fn check_id(id: &str) -> Result<(), &'static str> {
    /// Longest type and name, in bytes, as upstream has them.
    const TYPE_MAX: usize = 63;
    const NAME_MAX: usize = 1024;
    let (kind, name) = match id.split_once('/') {
        Some((kind, name)) => (kind.trim(), Some(name.trim())),
        None => (id, None),
    };
    if !kind.starts_with(|c: char| c.is_ascii_alphabetic())
        || !kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Err(
            "write type or type/name, the type of letters, digits and _, beginning with a letter",
        );
    }
    if kind.len() > TYPE_MAX {
        return Err("its type is longer than 63 characters");
    }
    match name {
        Some("") => Err("the name after / is empty: leave the / out"),
        Some(name) if name.len() > NAME_MAX => Err("its name is longer than 1024 bytes"),
        Some(name) if name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err("its name holds white space")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
