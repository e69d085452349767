//! The tree of a YAML or JSON document.
//!
//! What it is not: a parser (that is `proto::yaml`), nor a faithful copy of the text: comments, anchors, key order and
//! the spelling of scalars are gone.
//!
//! Invariants: equality is total and agrees with the order; floats compare by their bits, so a NaN equals itself and
//! `-0.0` is not `0.0`; `1` and `1.0` are different values. Functions that walk a tree recurse: the parser bounds the
//! depth (64).

use std::collections::BTreeMap;
use std::fmt;

pub use path::{Path, Segment};

mod path;
mod text;

/// The map of a document, ordered by key.
pub type Map = BTreeMap<String, Value>;

/// One node of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(Float),
    String(String),
    List(Vec<Value>),
    Map(Map),
}

/// A float with a total order (IEEE 754 `totalOrder`).
#[derive(Debug, Clone, Copy)]
pub struct Float(f64);

// === impl Float ===

impl Float {
    pub const fn new(value: f64) -> Self {
        Self(value)
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Float {}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

// === impl Value ===

impl Value {
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self {
            Some(text)
        } else {
            None
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        if let Self::Map(map) = self {
            Some(map)
        } else {
            None
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        if let Self::List(list) = self {
            Some(list)
        } else {
            None
        }
    }

    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// True for a list or a map.
    pub fn is_container(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }

    /// What kind of node this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// The node under `keys`, from map to map; `None` where a key is missing or a node on the way is no map.
    pub fn at(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter()
            .try_fold(self, |node, key| node.as_map()?.get(*key))
    }

    /// The node at `path`, through maps and lists.
    pub fn get(&self, path: &Path) -> Option<&Value> {
        path.segments()
            .iter()
            .try_fold(self, |node, segment| match segment {
                Segment::Key(key) => node.as_map()?.get(key),
                Segment::Index(index) => node.as_list()?.get(*index),
            })
    }

    /// Every leaf with its path, in document order. A scalar is a leaf, and so is an empty list or map.
    pub fn leaves(&self) -> Vec<(Path, &Value)> {
        let mut found = Vec::new();
        collect(self, Path::root(), &mut found);
        found
    }

    /// Nesting: 0 for a scalar, 1 for an empty or flat list or map.
    pub fn depth(&self) -> usize {
        match self {
            Self::List(list) => 1 + list.iter().map(Self::depth).max().unwrap_or(0),
            Self::Map(map) => 1 + map.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Bytes that are equal exactly if the values are: a tag and a length before everything of variable size.
    /// Made for hashing; the form is frozen by a test.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode(self, &mut out);
        out
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl fmt::Display for Value {
    /// One line of flow YAML (`{a: 1, b: [x, "y z"]}`), for messages and diffs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(self, f)
    }
}

fn collect<'a>(node: &'a Value, path: Path, found: &mut Vec<(Path, &'a Value)>) {
    match node {
        Value::List(list) if !list.is_empty() => {
            for (index, item) in list.iter().enumerate() {
                collect(item, path.index(index), found);
            }
        }
        Value::Map(map) if !map.is_empty() => {
            for (key, item) in map {
                collect(item, path.key(key), found);
            }
        }
        leaf => found.push((path, leaf)),
    }
}

fn encode(node: &Value, out: &mut Vec<u8>) {
    match node {
        Value::Null => out.push(0),
        Value::Bool(value) => out.extend([1, u8::from(*value)]),
        Value::Int(value) => {
            out.push(2);
            out.extend(value.to_le_bytes());
        }
        Value::Float(value) => {
            out.push(3);
            out.extend(value.get().to_bits().to_le_bytes());
        }
        Value::String(value) => {
            out.push(4);
            encode_text(value, out);
        }
        Value::List(list) => {
            out.push(5);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|item| encode(item, out));
        }
        Value::Map(map) => {
            out.push(6);
            out.extend((map.len() as u64).to_le_bytes());
            for (key, item) in map {
                encode_text(key, out);
                encode(item, out);
            }
        }
    }
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
