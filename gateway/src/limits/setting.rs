//! How a limit is written and read: bytes, counts and durations as people write them, and what is said of a mistake.

use std::time::Duration;

/// No limit of bytes is above 1 TiB: more is a slip of the hand.
pub const MAX_BYTES: u64 = 1 << 40;
/// No count is above what its narrowest type holds.
pub const MAX_COUNT: u64 = u32::MAX as u64;
/// No duration is above 30 days, so that none overflows when it is added to a time.
pub const MAX_MS: u64 = 30 * 24 * 3600 * 1000;

/// A limit for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As `Limits::set` takes it.
    pub name: &'static str,
    /// As `Limits::set` takes it.
    pub default: String,
    /// What it bounds, and why there.
    pub meaning: &'static str,
}

/// Why a limit was not set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// There is none of this name.
    #[error("there is no limit `{name}`{}", suggestion(.near))]
    Unknown {
        /// The name given.
        name: String,
        /// Names like it.
        near: Vec<&'static str>,
    },
    /// The value cannot be read or is out of range.
    #[error("the limit {name} cannot be `{value}`: it takes {expected}")]
    Value {
        /// The limit.
        name: &'static str,
        /// The value given.
        value: String,
        /// What it takes.
        expected: String,
    },
}

/// What a limit counts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bytes,
    Count,
    Time,
}

/// The least and the most, as bytes, count or milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Range(u64, u64);

/// A limit as bytes, count or milliseconds.
pub trait Plain {
    /// Of a number within the range of its kind.
    fn of(plain: u64) -> Self;
    /// The number.
    fn plain(&self) -> u64;
}

// === impl Kind ===

impl Kind {
    /// Any value above 0.
    pub fn range(self) -> Range {
        match self {
            Kind::Bytes => Range(1, MAX_BYTES),
            Kind::Count => Range(1, MAX_COUNT),
            Kind::Time => Range(1, MAX_MS),
        }
    }

    /// Reads the value of the limit `name`.
    pub fn read(self, name: &'static str, value: &str, range: Range) -> Result<u64, LimitError> {
        let text = value.trim();
        let read = match self {
            Kind::Bytes => bytes(text),
            Kind::Count => number(text),
            Kind::Time => humantime::parse_duration(text)
                .ok()
                .and_then(|time| u64::try_from(time.as_millis()).ok()),
        };
        read.filter(|plain| (range.0..=range.1).contains(plain))
            .ok_or_else(|| LimitError::Value {
                name,
                value: value.to_owned(),
                expected: self.expected(range),
            })
    }

    /// Writes what `read` reads.
    pub fn show(self, plain: u64) -> String {
        match self {
            Kind::Bytes if plain > 0 && plain.is_multiple_of(1 << 20) => {
                format!("{}MiB", plain >> 20)
            }
            Kind::Bytes if plain > 0 && plain.is_multiple_of(1 << 10) => {
                format!("{}KiB", plain >> 10)
            }
            Kind::Bytes | Kind::Count => plain.to_string(),
            Kind::Time => humantime::format_duration(Duration::from_millis(plain)).to_string(),
        }
    }

    fn expected(self, range: Range) -> String {
        let form = match self {
            Kind::Bytes => "bytes as 65536, 64KiB or 8MiB",
            Kind::Count => "a number",
            Kind::Time => "a duration as 250ms, 30s or 1h 30m",
        };
        let (least, most) = (self.show(range.0), self.show(range.1));
        format!("{form}, from {least} to {most}")
    }
}

fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let (digits, unit) = match (text.strip_suffix("kib"), text.strip_suffix("mib")) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        (None, None) => (text.as_str(), 1),
    };
    number(digits.trim_end())?.checked_mul(unit)
}

fn number(text: &str) -> Option<u64> {
    text.replace('_', "").parse().ok()
}

// === impl Range ===

impl Range {
    /// This range instead.
    pub fn min_max(self, least: u64, most: u64) -> Self {
        Range(least, most)
    }
}

// === impl Plain ===

impl Plain for usize {
    fn of(plain: u64) -> Self {
        usize::try_from(plain).unwrap_or(usize::MAX)
    }

    fn plain(&self) -> u64 {
        *self as u64
    }
}

impl Plain for u32 {
    fn of(plain: u64) -> Self {
        u32::try_from(plain).unwrap_or(u32::MAX)
    }

    fn plain(&self) -> u64 {
        u64::from(*self)
    }
}

impl Plain for Duration {
    fn of(plain: u64) -> Self {
        Duration::from_millis(plain)
    }

    fn plain(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
}

// === impl LimitError ===

impl LimitError {
    /// For a name that no limit has.
    pub fn unknown(name: &str) -> Self {
        let names = super::Limits::described()
            .into_iter()
            .map(|limit| limit.name);
        let near = names.filter(|known| is_near(name, known)).collect();
        LimitError::Unknown {
            name: name.to_owned(),
            near,
        }
    }
}

fn suggestion(near: &[&str]) -> String {
    if near.is_empty() {
        return "; `--limit help` lists all".to_owned();
    }
    format!("; did you mean {}?", near.join(", "))
}

/// A part of the name, or the name with up to two slips.
fn is_near(name: &str, known: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    (name.len() >= 4 && known.contains(&name)) || slips(&name, known) <= 2
}

/// Letters to insert, remove or replace until one name is the other.
fn slips(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
