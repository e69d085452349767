//! Versions as collectors report them: `0.150.0`, `v1.60.0`, `0.150.0-rc1`, `0.150.0+build.5`.
//!
//! What it is not: strict SemVer. Any number of numeric segments, an optional leading `v`; missing segments are 0. A
//! pre-release sorts before its release, and numbers inside a pre-release count as numbers (`rc2` < `rc10`). Build
//! metadata after `+` does not count.

use std::cmp::Ordering;
use std::fmt;

/// Segments shown at least, as in `0.150.0`.
const SEGMENTS_SHOWN: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Without trailing zeros, so that `0.150` is `0.150.0`.
    segments: Vec<u64>,
    /// What stands after the first `-`; `None` for a release.
    pre: Option<String>,
}

impl Version {
    /// `None` if the text is no version: an empty or non-numeric segment, a number beyond 64 bits, an empty pre-release
    /// or one with other characters than ASCII letters, digits, `.` and `-`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let text = text
            .split_once('+')
            .map_or(text, |(version, _build)| version);
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (text, None),
        };
        let is_pre = |pre: &str| {
            !pre.is_empty()
                && pre
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        };
        if pre.is_some_and(|pre| !is_pre(pre)) {
            return None;
        }
        let mut segments = numbers
            .split('.')
            .map(segment)
            .collect::<Option<Vec<u64>>>()?;
        while segments.last() == Some(&0) {
            segments.pop();
        }
        Some(Self {
            segments,
            pre: pre.map(str::to_owned),
        })
    }
}

impl Version {
    /// Major and minor number: what people call a release of a collector.
    pub fn release(&self) -> (u64, u64) {
        let at = |index: usize| self.segments.get(index).copied().unwrap_or(0);
        (at(0), at(1))
    }

    /// True for `0.150.0-rc1`.
    pub fn is_pre_release(&self) -> bool {
        self.pre.is_some()
    }
}

/// Only digits: `u64::from_str` would take a sign.
fn segment(text: &str) -> Option<u64> {
    text.chars()
        .all(|c| c.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.segments
            .cmp(&other.segments)
            .then_with(|| match (&self.pre, &other.pre) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(one), Some(other)) => {
                    chunks(one).cmp(&chunks(other)).then_with(|| one.cmp(other))
                }
            })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    /// At least three segments: `0.150` is shown as `0.150.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in 0..self.segments.len().max(SEGMENTS_SHOWN) {
            write!(
                f,
                "{}{}",
                if at == 0 { "" } else { "." },
                self.segments.get(at).unwrap_or(&0)
            )?;
        }
        self.pre.iter().try_for_each(|pre| write!(f, "-{pre}"))
    }
}

/// A run of digits or of anything else; numbers before text, as in SemVer.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Chunk<'a> {
    /// Without leading zeros: longer is larger.
    Number(usize, &'a str),
    Text(&'a str),
}

fn chunks(pre: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    for part in pre.split(['.', '-']) {
        let mut rest = part;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let end = rest
                .find(|c: char| c.is_ascii_digit() != digits)
                .unwrap_or(rest.len());
            let (run, tail) = rest.split_at(end);
            let number = run.trim_start_matches('0');
            chunks.push(if digits {
                Chunk::Number(number.len(), number)
            } else {
                Chunk::Text(run)
            });
            rest = tail;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_ordered_as_people_release_them() {
        let ordered = [
            "0.9",
            "0.149.9",
            "0.150.0-alpha",
            "0.150.0-rc1",
            "0.150.0-rc2",
            "0.150.0-rc10",
            "0.150.0",
            "0.150.0.1",
            "v0.150.1",
            "0.151",
            "1",
        ];
        for pair in ordered.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn missing_segments_are_zero() {
        assert_eq!(version("0.150"), version("v0.150.0.0"));
        assert_eq!(version("0.150+build.7").to_string(), "0.150.0");
        assert_eq!(version("0"), version("0.0.0"));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            "v",
            "latest",
            "1..2",
            "1.x",
            "+1",
            "-1",
            "1.2-",
            "1.2-ö",
            "99999999999999999999",
            "1.2 ",
        ] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }
}
