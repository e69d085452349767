//! Versions of collectors: what a family allows, what its fleet runs, and who is outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::selector::Version;

/// What a family allows. Nothing set: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Lowest version, itself allowed.
    pub from: Option<Version>,
    /// First version that is too high.
    pub below: Option<Version>,
    /// Releases (`0.150` → `0.151` is one) behind the newest that the family runs.
    pub behind_max: Option<u64>,
}

/// What is wrong with a policy as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "version policy of family {family} allows nothing: {from} is not below {below}; swap or correct them"
)]
pub struct EmptyRange {
    /// Family.
    pub family: String,
    /// As given.
    pub from: Version,
    /// As given.
    pub below: Version,
}

/// Why a version is outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Below the range.
    TooLow(Version),
    /// Above the range.
    TooHigh(Version),
    /// Too many releases behind the newest.
    Behind {
        /// So many.
        releases: u64,
        /// The newest.
        newest: Version,
    },
    /// What the agent reports is no version.
    Unknown(String),
}

/// Agents by version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    versions: BTreeMap<Version, u64>,
    unknown: u64,
}

// === impl Policy ===

impl Policy {
    /// Is there any version that it allows?
    pub fn check(&self, family: &str) -> Result<(), EmptyRange> {
        match (&self.from, &self.below) {
            (Some(from), Some(below)) if from >= below => Err(EmptyRange {
                family: family.to_owned(),
                from: from.clone(),
                below: below.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Why an agent that reports this is outside; none: it is not. `spread` is its family's.
    pub fn violation(&self, reported: &str, spread: &Spread) -> Option<Violation> {
        if *self == Policy::default() {
            return None;
        }
        let Some(version) = Version::parse(reported) else {
            return Some(Violation::Unknown(reported.to_owned()));
        };
        if self.from.as_ref().is_some_and(|from| version < *from) {
            return Some(Violation::TooLow(version));
        }
        if self.below.as_ref().is_some_and(|below| version >= *below) {
            return Some(Violation::TooHigh(version));
        }
        let releases = spread.behind(&version);
        let newest = spread.newest()?;
        let behind = self.behind_max.is_some_and(|max| releases > max);
        behind.then(|| Violation::Behind {
            releases,
            newest: newest.clone(),
        })
    }
}

/// Does an agent show *unvalidated version*: was the revision that it runs never validated with a build like its own?
/// `validated` are the builds' versions; it stays in its family all the same.
pub fn is_unvalidated(reported: &str, validated: &BTreeSet<String>) -> bool {
    let same = |known: &String| match (Version::parse(known), Version::parse(reported)) {
        (Some(known), Some(reported)) => known == reported,
        _ => known == reported,
    };
    !validated.is_empty() && !validated.iter().any(same)
}

// === impl Spread ===

impl Spread {
    /// Of agents that report these versions.
    pub fn of<'a>(reported: impl IntoIterator<Item = &'a str>) -> Self {
        let mut spread = Spread::default();
        for text in reported {
            match Version::parse(text) {
                Some(version) => *spread.versions.entry(version).or_default() += 1,
                None => spread.unknown += 1,
            }
        }
        spread
    }

    /// Agents by version, lowest first.
    pub fn versions(&self) -> &BTreeMap<Version, u64> {
        &self.versions
    }

    /// Agents whose version is none.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// The highest release; a pre-release is nobody's target.
    pub fn newest(&self) -> Option<&Version> {
        let mut releases = self.versions.keys().rev();
        let newest = releases.find(|version| !version.is_pre_release());
        newest.or(self.versions.keys().next_back())
    }

    /// Distinct releases that the fleet runs above this one; patches of one release count once.
    pub fn behind(&self, version: &Version) -> u64 {
        let above = self.versions.keys().filter(|v| !v.is_pre_release());
        let above = above.filter(|v| v.release() > version.release());
        above.map(Version::release).collect::<BTreeSet<_>>().len() as u64
    }
}

impl fmt::Display for Spread {
    /// `12 × 0.151.0, 9 × 0.150.1, 1 unknown`, newest first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.versions.iter().rev();
        let mut parts: Vec<String> = known.map(|(v, agents)| format!("{agents} × {v}")).collect();
        if self.unknown > 0 {
            parts.push(format!("{} unknown", self.unknown));
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::TooLow(version) => {
                write!(f, "{version} is below the family's range: upgrade it")
            }
            Violation::TooHigh(version) => {
                write!(
                    f,
                    "{version} is above the family's range: raise the range, or go back"
                )
            }
            Violation::Behind { releases, newest } => write!(
                f,
                "{releases} releases behind {newest}, the newest that the family runs: upgrade it"
            ),
            Violation::Unknown(text) => {
                write!(
                    f,
                    "{text:?} is no version: let the agent report service.version"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn fleet() -> Spread {
        Spread::of([
            "0.151.0",
            "0.151.0",
            "0.150.1",
            "0.150.0",
            "0.148.0",
            "0.152.0-rc1",
            "dev",
        ])
    }

    #[test]
    fn the_spread_counts_every_agent_newest_first() {
        assert_eq!(
            fleet().to_string(),
            "1 × 0.152.0-rc1, 2 × 0.151.0, 1 × 0.150.1, 1 × 0.150.0, 1 × 0.148.0, 1 unknown"
        );
        assert_eq!(fleet().newest(), Some(&version("0.151.0")));
        assert_eq!((fleet().versions().len(), fleet().unknown()), (5, 1));
    }

    #[test]
    fn releases_behind_do_not_count_patches_or_candidates() {
        assert_eq!(fleet().behind(&version("0.148.0")), 2);
        assert_eq!(fleet().behind(&version("0.150.0")), 1);
        assert_eq!(fleet().behind(&version("0.151.0")), 0);
    }

    #[test]
    fn who_is_outside_is_told_the_way_back() {
        let policy = Policy {
            from: Some(version("0.149")),
            below: Some(version("0.152")),
            behind_max: Some(0),
        };
        let said = |reported: &str| {
            let violation = policy.violation(reported, &fleet());
            violation.map(|violation| violation.to_string())
        };
        assert_eq!(said("0.151.3"), None);
        let expected = [
            ("0.148", "0.148.0 is below the family's range: upgrade it"),
            (
                "0.152",
                "0.152.0 is above the family's range: raise the range, or go back",
            ),
            (
                "0.150",
                "1 releases behind 0.151.0, the newest that the family runs: upgrade it",
            ),
            (
                "dev",
                "\"dev\" is no version: let the agent report service.version",
            ),
        ];
        for (reported, text) in expected {
            assert_eq!(said(reported).as_deref(), Some(text));
        }
        assert_eq!(Policy::default().violation("dev", &fleet()), None);
    }

    #[test]
    fn an_empty_range_is_refused() {
        let policy = Policy {
            from: Some(version("0.160")),
            below: Some(version("0.150")),
            behind_max: None,
        };
        assert_eq!(
            policy.check("web").unwrap_err().to_string(),
            "version policy of family web allows nothing: 0.160.0 is not below 0.150.0; swap or correct them"
        );
        assert_eq!(Policy::default().check("web"), Ok(()));
    }

    #[test]
    fn an_upgraded_build_that_nobody_validated_is_shown() {
        let validated = BTreeSet::from(["0.150.0".to_owned()]);
        assert!(is_unvalidated("0.151.0", &validated));
        assert!(!is_unvalidated("v0.150", &validated));
        assert!(!is_unvalidated("anything", &BTreeSet::new()));
    }
}
