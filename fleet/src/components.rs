//! The component matrix: which component types a config uses, and whether an agent's build has them.
//!
//! What it is not: a check of the config itself (that is `validate`), nor of versions or stability.
//!
//! A type counts as used when it is defined, also without a pipeline: a collector refuses to start on an unknown type
//! wherever it stands. An agent that reports nothing of a kind is *unknown* there, which is neither present nor missing.

use crate::value::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

use aliases::current_name;

mod aliases;

/// A kind of component; its config section and, in an agent's report, the top-level key is [`Kind::section`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Receiver,
    Processor,
    Exporter,
    Extension,
    Connector,
}

/// What a family does about agents whose build lacks what a config needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// They are left out by name, and the rollout goes on without them.
    #[default]
    Exclude,
    /// No rollout starts while there are any.
    Block,
}

/// The component types that a config defines, without names: `otlp/a` and `otlp/b` are one `otlp`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Used {
    pub receivers: BTreeSet<String>,
    pub processors: BTreeSet<String>,
    pub exporters: BTreeSet<String>,
    pub extensions: BTreeSet<String>,
    pub connectors: BTreeSet<String>,
}

/// The component types that an agent reports; `None` where it reports none, which says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Available {
    pub receivers: Option<BTreeSet<String>>,
    pub processors: Option<BTreeSet<String>>,
    pub exporters: Option<BTreeSet<String>>,
    pub extensions: Option<BTreeSet<String>>,
    pub connectors: Option<BTreeSet<String>>,
}

/// What `used` needs and `available` lacks, ordered by kind and type. Unknown kinds lack nothing.
///
/// A config with a deprecated name runs on a build that reports the new one; a config with the new name does not run on
/// a build that reports only the old.
pub fn missing(used: &Used, available: &Available) -> Vec<(Kind, String)> {
    let mut missing = Vec::new();
    for kind in Kind::ALL {
        let Some(reported) = available.of(kind) else {
            continue;
        };
        let lacking = used
            .of(kind)
            .iter()
            .filter(|used| !accepts(kind, reported, used));
        missing.extend(lacking.map(|used| (kind, used.clone())));
    }
    missing
}

/// As [`missing`], in words: `processor redaction, exporter kafka`; none: nothing is.
pub fn lacking(used: &Used, available: &Available) -> Option<String> {
    let lacks = missing(used, available);
    let names = lacks.iter().map(|(kind, name)| format!("{kind} {name}"));
    (!lacks.is_empty()).then(|| names.collect::<Vec<_>>().join(", "))
}

/// True if both are names of one component type, deprecated or not.
pub fn is_same_type(kind: Kind, one: &str, other: &str) -> bool {
    current_name(kind, one) == current_name(kind, other)
}

/// The type of a component id: `otlp` of `otlp/backend`.
pub fn type_of(id: &str) -> &str {
    id.split('/').next().unwrap_or(id).trim()
}

fn accepts(kind: Kind, reported: &BTreeSet<String>, used: &str) -> bool {
    reported.contains(used) || reported.contains(current_name(kind, used))
}

// === impl Kind ===

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Receiver,
        Self::Processor,
        Self::Exporter,
        Self::Extension,
        Self::Connector,
    ];

    /// The section of a config that defines components of this kind.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Receiver => "receivers",
            Self::Processor => "processors",
            Self::Exporter => "exporters",
            Self::Extension => "extensions",
            Self::Connector => "connectors",
        }
    }

    /// The kind of a section; `None` for any other key.
    pub fn of_section(section: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.section() == section)
    }
}

impl fmt::Display for Kind {
    /// In the singular: `processor`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.section().trim_end_matches('s'))
    }
}

// === impl Used ===

impl Used {
    /// The types in a config. Sections that are no map count as empty: `validate` names them.
    pub fn by(config: &Value) -> Self {
        let types = |kind: Kind| {
            let section = config.at(&[kind.section()]).and_then(Value::as_map);
            section
                .into_iter()
                .flat_map(Map::keys)
                .map(|id| type_of(id).to_owned())
                .collect()
        };
        Self {
            receivers: types(Kind::Receiver),
            processors: types(Kind::Processor),
            exporters: types(Kind::Exporter),
            extensions: types(Kind::Extension),
            connectors: types(Kind::Connector),
        }
    }

    pub fn of(&self, kind: Kind) -> &BTreeSet<String> {
        match kind {
            Kind::Receiver => &self.receivers,
            Kind::Processor => &self.processors,
            Kind::Exporter => &self.exporters,
            Kind::Extension => &self.extensions,
            Kind::Connector => &self.connectors,
        }
    }
}

// === impl Available ===

impl Available {
    /// From pairs of a report's top-level key (`receivers`) and the keys of its sub-component map. Other top-level keys
    /// are ignored; of a pair that comes twice both count.
    pub fn from_report<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut available = Self::default();
        for (section, name) in pairs {
            if let Some(kind) = Kind::of_section(section) {
                available
                    .slot(kind)
                    .get_or_insert_default()
                    .insert(type_of(name).to_owned());
            }
        }
        available
    }

    /// `None` if the agent did not say.
    pub fn of(&self, kind: Kind) -> Option<&BTreeSet<String>> {
        match kind {
            Kind::Receiver => self.receivers.as_ref(),
            Kind::Processor => self.processors.as_ref(),
            Kind::Exporter => self.exporters.as_ref(),
            Kind::Extension => self.extensions.as_ref(),
            Kind::Connector => self.connectors.as_ref(),
        }
    }

    /// True if the agent said nothing at all.
    pub fn is_unknown(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.of(kind).is_none())
    }

    fn slot(&mut self, kind: Kind) -> &mut Option<BTreeSet<String>> {
        match kind {
            Kind::Receiver => &mut self.receivers,
            Kind::Processor => &mut self.processors,
            Kind::Exporter => &mut self.exporters,
            Kind::Extension => &mut self.extensions,
            Kind::Connector => &mut self.connectors,
        }
    }
}

#[cfg(test)]
mod tests;
