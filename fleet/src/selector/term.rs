//! One term of a selector: a key and a test of its value.

use super::Version;
use super::explain::Reason;
use std::collections::BTreeSet;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    pub(super) key: String,
    pub(super) test: Test,
}

/// What a term asks of the value. The `Not…` tests hold for an agent without the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Test {
    Exists,
    Missing,
    Equal(String),
    NotEqual(String),
    /// Never empty.
    In(BTreeSet<String>),
    /// Never empty.
    NotIn(BTreeSet<String>),
    Version(Order, Version),
}

/// How a version has to stand to the one in the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Term {
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn test(&self) -> &Test {
        &self.test
    }

    /// True if the term holds for an agent whose value of the key is `value`.
    pub fn holds(&self, value: Option<&str>) -> bool {
        match (&self.test, value) {
            (Test::Exists, value) => value.is_some(),
            (Test::Missing, value) => value.is_none(),
            (Test::Equal(wanted), value) => value == Some(wanted),
            (Test::NotEqual(unwanted), value) => value != Some(unwanted),
            (Test::In(wanted), value) => value.is_some_and(|value| wanted.contains(value)),
            (Test::NotIn(unwanted), value) => !value.is_some_and(|value| unwanted.contains(value)),
            (Test::Version(order, bound), value) => value
                .and_then(Version::parse)
                .is_some_and(|version| order.holds(&version, bound)),
        }
    }

    /// True if `other` holds wherever this term does.
    pub(super) fn implies(&self, other: &Term) -> bool {
        let mut values = match &self.test {
            Test::Equal(value) => vec![Some(value.as_str())],
            Test::In(values) => values.iter().map(|value| Some(value.as_str())).collect(),
            Test::Missing => vec![None],
            // Which values they leave open is not known.
            _ => return self == other || (self.has_key() && *other == self.exists()),
        }
        .into_iter();
        self.key == other.key && values.all(|value| other.holds(value))
    }

    fn has_key(&self) -> bool {
        matches!(self.test, Test::Exists | Test::Version(..))
    }

    fn exists(&self) -> Term {
        Term {
            key: self.key.clone(),
            test: Test::Exists,
        }
    }

    pub(super) fn explain(&self, value: Option<&str>) -> Reason {
        let is_version = matches!(self.test, Test::Version(..));
        Reason {
            term: self.to_string(),
            holds: self.holds(value),
            key: self.key.clone(),
            value: value.map(str::to_owned),
            not_a_version: is_version && value.is_some_and(|value| Version::parse(value).is_none()),
        }
    }
}

impl Order {
    fn holds(self, version: &Version, bound: &Version) -> bool {
        match self {
            Self::Less => version < bound,
            Self::LessOrEqual => version <= bound,
            Self::Greater => version > bound,
            Self::GreaterOrEqual => version >= bound,
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::Exists => f.write_str(key),
            Test::Missing => write!(f, "!{key}"),
            Test::Equal(value) => write!(f, "{key} = {}", Shown(value)),
            Test::NotEqual(value) => write!(f, "{key} != {}", Shown(value)),
            Test::In(values) => write_set(f, key, "in", values),
            Test::NotIn(values) => write_set(f, key, "notin", values),
            Test::Version(order, bound) => write!(f, "{key} {} {bound}", order.sign()),
        }
    }
}

fn write_set(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    word: &str,
    values: &BTreeSet<String>,
) -> fmt::Result {
    write!(f, "{key} {word} (")?;
    for (at, value) in values.iter().enumerate() {
        write!(f, "{}{}", if at == 0 { "" } else { ", " }, Shown(value))?;
    }
    f.write_str(")")
}

/// A value as it is written: bare where that is possible, else in quotes.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_value_char) {
            return f.write_str(self.0);
        }
        write!(
            f,
            "\"{}\"",
            self.0.replace('\\', "\\\\").replace('"', "\\\"")
        )
    }
}

pub(super) fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._/-".contains(c)
}

pub(super) fn is_value_char(c: char) -> bool {
    is_key_char(c) || ":@+".contains(c)
}
