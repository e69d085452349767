//! The exact difference between two documents, by path.
//!
//! What it is not: a text diff. Order of keys, comments and spelling do not count, and neither does anything that was
//! redacted: what cannot be seen is neither equal nor different, but [`Kind::NotComparable`].
//!
//! Invariants: changes are ordered by path, no path twice; the diff of a document without redactions with itself is
//! empty; `diff(a, b).apply(a) == b` for documents without redactions; equal diffs have equal digests.
//!
//! Lists: a list of scalars changes as a whole, since its order is its meaning (`processors`), and so does a list whose
//! length changed; other lists are compared item by item.

use crate::digest::Digest;
use crate::redact;
use crate::value::{Map, Path, Segment, Value};
use std::fmt;

/// Domain of the digest by which identical diffs are grouped.
const DOMAIN: &str = "muster.diff.v1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Added,
    Removed,
    Changed,
    /// One side or both are redacted, and what is visible agrees.
    NotComparable,
}

/// One difference. `before` is absent exactly for what was added, `after` for what was removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub path: Path,
    pub kind: Kind,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// All differences between two documents, ordered by path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Diff {
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the diff was not made from this document: at {path} it expects something else")]
    OtherBase { path: Path },
}

/// What turns `before` into `after`.
pub fn diff(before: &Value, after: &Value) -> Diff {
    let mut changes = Vec::new();
    compare(before, after, Path::root(), &mut changes);
    changes.sort();
    Diff { changes }
}

// === impl Diff ===

impl Diff {
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// True if there is nothing to report, not even something that cannot be compared.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// True if some change is certain, that is, of any kind but [`Kind::NotComparable`].
    pub fn is_certain(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.kind != Kind::NotComparable)
    }

    /// The same for identical diffs, for grouping; stable across processes and versions.
    pub fn digest(&self) -> Digest {
        let mut parts = Vec::new();
        for Change {
            path,
            kind,
            before,
            after,
        } in &self.changes
        {
            parts.push(path_bytes(path));
            parts.push(vec![
                *kind as u8,
                u8::from(before.is_some()),
                u8::from(after.is_some()),
            ]);
            parts.extend(
                [before, after]
                    .into_iter()
                    .flatten()
                    .map(Value::canonical_bytes),
            );
        }
        Digest::of(DOMAIN, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// `base` with the changes made. What cannot be compared is left as it is in `base`.
    ///
    /// # Errors
    ///
    /// [`Error::OtherBase`] where `base` does not hold what the diff says was there before.
    pub fn apply(&self, base: &Value) -> Result<Value, Error> {
        let mut document = base.clone();
        for change in &self.changes {
            change
                .apply(&mut document)
                .ok_or_else(|| Error::OtherBase {
                    path: change.path.clone(),
                })?;
        }
        Ok(document)
    }
}

impl fmt::Display for Diff {
    /// One line per change, nothing for an empty diff.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes
            .iter()
            .try_for_each(|change| writeln!(f, "{change}"))
    }
}

// === impl Change ===

impl Change {
    /// `None` if the document does not hold what was there before.
    fn apply(&self, document: &mut Value) -> Option<()> {
        if let (Kind::Added | Kind::Removed, Some((Segment::Key(key), parent))) =
            (self.kind, self.path.segments().split_last())
        {
            let Value::Map(map) = node(document, parent)? else {
                return None;
            };
            let before = match &self.after {
                Some(after) => map.insert(key.clone(), after.clone()),
                None => map.remove(key),
            };
            return (before == self.before).then_some(());
        }
        let node = node(document, self.path.segments())?;
        if self.kind == Kind::NotComparable {
            return Some(());
        }
        let before = std::mem::replace(node, self.after.clone()?);
        (Some(before) == self.before).then_some(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match (self.kind, &self.before, &self.after) {
            (Kind::Added, _, Some(after)) => write!(f, "+ {path}: {after}"),
            (Kind::Changed, Some(before), Some(after)) => write!(f, "~ {path}: {before} → {after}"),
            (Kind::NotComparable, ..) => write!(f, "? {path}: redacted, cannot be compared"),
            _ => write!(f, "- {path}"),
        }
    }
}

fn node<'a>(document: &'a mut Value, path: &[Segment]) -> Option<&'a mut Value> {
    path.iter()
        .try_fold(document, |node, segment| match (segment, node) {
            (Segment::Key(key), Value::Map(map)) => map.get_mut(key),
            (Segment::Index(index), Value::List(list)) => list.get_mut(*index),
            _ => None,
        })
}

fn compare(before: &Value, after: &Value, path: Path, changes: &mut Vec<Change>) {
    match (before, after) {
        (Value::Map(before), Value::Map(after)) => compare_maps(before, after, &path, changes),
        (Value::List(before), Value::List(after)) if item_by_item(before, after) => {
            for (at, (before, after)) in before.iter().zip(after).enumerate() {
                compare(before, after, path.index(at), changes);
            }
        }
        _ => {
            if let Some(kind) = compare_leaves(before, after) {
                changes.push(Change {
                    path,
                    kind,
                    before: Some(before.clone()),
                    after: Some(after.clone()),
                });
            }
        }
    }
}

fn compare_maps(before: &Map, after: &Map, path: &Path, changes: &mut Vec<Change>) {
    for (key, old) in before {
        match after.get(key) {
            Some(new) => compare(old, new, path.key(key), changes),
            None => changes.push(Change {
                path: path.key(key),
                kind: Kind::Removed,
                before: Some(old.clone()),
                after: None,
            }),
        }
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        changes.push(Change {
            path: path.key(key),
            kind: Kind::Added,
            before: None,
            after: Some(new.clone()),
        });
    }
}

fn item_by_item(before: &[Value], after: &[Value]) -> bool {
    let structured =
        |item: &Value| item.is_container() || item.as_str().is_some_and(redact::is_marked);
    before.len() == after.len() && before.iter().chain(after).any(structured)
}

fn compare_leaves(before: &Value, after: &Value) -> Option<Kind> {
    let marked = |value: &Value| value.as_str().is_some_and(redact::is_marked);
    match (before, after) {
        _ if !marked(before) && !marked(after) => (before != after).then_some(Kind::Changed),
        (Value::String(before), Value::String(after)) if !redact::may_agree(before, after) => {
            Some(Kind::Changed)
        }
        _ => Some(Kind::NotComparable),
    }
}

fn path_bytes(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in path.segments() {
        let (tag, text) = match segment {
            Segment::Key(key) => (0, key.as_bytes().to_vec()),
            Segment::Index(index) => (1, (*index as u64).to_le_bytes().to_vec()),
        };
        bytes.push(tag);
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
    }
    bytes
}

#[cfg(test)]
mod tests;
