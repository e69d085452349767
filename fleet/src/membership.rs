//! Who counts how: why a member is excluded, who is late, how far an activation may reach, and that figures add up.
//!
//! Members are a list, fixed when the rollout opens. Whatever happens to an agent afterwards, it stays on that list and
//! is counted under one name; who comes afterwards is *late* and counted outside.

pub mod enlist;

use std::fmt;

use crate::bucket::{ALL, Bucket, Counts};

/// Why a member cannot be configured now, or belongs to the rollout no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Two agents speak with its uid.
    Duplicate,
    /// A person has ordered its collector to be stopped.
    Stopped,
    /// Another family owns it now, or another role of this one.
    ReOwned,
    /// It no longer matches its role, and has not been offered anything.
    Relabelled,
    /// It came to match two roles.
    AmbiguousRole,
    /// It does not take remote configuration.
    DoesNotAccept,
    /// It stands for many collectors.
    ManyCollectors,
    /// Its build lacks a component that the config needs.
    LacksComponents,
    /// Its uid was replaced by another.
    Reassigned,
    /// A restore left it with a config that the database does not know: a person has to resume it.
    Conflict,
}

/// What decides whether a member is excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Two agents speak with its uid.
    pub duplicate: bool,
    /// Its uid was replaced.
    pub reassigned: bool,
    /// Another family or role made the last authorised offer, and the list does not take it over.
    pub re_owned: bool,
    /// A person has ordered its collector to be stopped.
    pub stopped: bool,
    /// It was offered this rollout's revision: relabelling takes nothing back.
    pub touched: bool,
    /// Roles of its family's target revision that match it.
    pub roles: usize,
    /// It declares AcceptsRemoteConfig.
    pub accepts: bool,
    /// It stands for many collectors.
    pub many_collectors: bool,
    /// Its build lacks a component.
    pub lacks_components: bool,
    /// It reports a delivery hash that the database lacks or never offered to it.
    pub conflict: bool,
}

/// The one reason for which this member is excluded; none: it is not. What is most in the way comes first.
pub fn exclusion(c: &Circumstances) -> Option<Exclusion> {
    if c.duplicate {
        return Some(Exclusion::Duplicate);
    }
    if c.reassigned {
        return Some(Exclusion::Reassigned);
    }
    if c.conflict {
        return Some(Exclusion::Conflict);
    }
    if c.stopped {
        return Some(Exclusion::Stopped);
    }
    if c.re_owned {
        return Some(Exclusion::ReOwned);
    }
    if c.many_collectors {
        return Some(Exclusion::ManyCollectors);
    }
    if !c.accepts {
        return Some(Exclusion::DoesNotAccept);
    }
    if c.touched {
        return None;
    }
    match c.roles {
        0 => Some(Exclusion::Relabelled),
        1 if c.lacks_components => Some(Exclusion::LacksComponents),
        1 => None,
        _ => Some(Exclusion::AmbiguousRole),
    }
}

/// How many agents a family may reach without saying so: twice what it owns, or a hundred more, whichever is more.
pub fn reach_limit(owned: u64) -> u64 {
    owned.saturating_mul(2).max(owned.saturating_add(100))
}

/// What an activation would reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Family.
    pub family: String,
    /// Agents that it owns now.
    pub owned: u64,
    /// Members that the rollout would have.
    pub members: u64,
    /// Agents taken from other families, by family.
    pub takeovers: Vec<(String, u64)>,
}

/// Why an activation is refused: it reaches further than anybody has said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooFar {
    /// More agents than the limit.
    #[error(
        "family {family} owns {owned} agents and this reaches {members}, more than {limit}: if that is meant, say --reach {members}"
    )]
    Members {
        /// Family.
        family: String,
        /// Agents that it owns now.
        owned: u64,
        /// Members.
        members: u64,
        /// The limit.
        limit: u64,
    },
    /// Agents of other families.
    #[error("family {family} would take {taken}: if that is meant, say --reach {members}")]
    Takeover {
        /// Family.
        family: String,
        /// Whose agents, in words.
        taken: String,
        /// Members.
        members: u64,
    },
    /// A number, but another one than the preview showed.
    #[error(
        "--reach {given} is not what the preview of family {family} shows: it reaches {members} agents; look at it again and say --reach {members}"
    )]
    OtherNumber {
        /// Family.
        family: String,
        /// As given.
        given: u64,
        /// Members.
        members: u64,
    },
}

/// May this activation go on, given what was said with `--reach`?
pub fn check_reach(reach: &Reach, given: Option<u64>) -> Result<(), TooFar> {
    let Reach {
        family,
        owned,
        members,
        takeovers,
    } = reach;
    let (family, limit) = (family.clone(), reach_limit(*owned));
    match given {
        Some(given) if given == *members => Ok(()),
        Some(given) => Err(TooFar::OtherNumber {
            family,
            given,
            members: *members,
        }),
        None if !takeovers.is_empty() => {
            let taken = takeovers
                .iter()
                .map(|(from, agents)| format!("{agents} agents from family {from}"));
            Err(TooFar::Takeover {
                family,
                taken: taken.collect::<Vec<_>>().join(" and "),
                members: *members,
            })
        }
        None if *members > limit => Err(TooFar::Members {
            family,
            owned: *owned,
            members: *members,
            limit,
        }),
        None => Ok(()),
    }
}

/// A rollout's figures at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Length of its lists.
    pub listed: u64,
    /// Where the members stand.
    pub counts: Counts,
    /// Joined after the lists were made: outside of the counts.
    pub late: u64,
}

// === impl Figures ===

impl Figures {
    /// Is every member in exactly one bucket?
    pub fn add_up(&self) -> bool {
        self.counts.members() == self.listed
    }
}

impl fmt::Display for Figures {
    /// `complete, 37 not reached` in the making: every bucket that is not empty, in order, and who is late.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} members", self.listed)?;
        let mut between = ": ";
        let mut buckets: Vec<Bucket> = ALL.to_vec();
        buckets.sort();
        for bucket in buckets {
            let members = self.counts.of(bucket);
            if members > 0 {
                write!(f, "{between}{members} {}", bucket.name())?;
                between = ", ";
            }
        }
        if self.late > 0 {
            write!(f, "; {} late", self.late)?;
        }
        Ok(())
    }
}

// === impl Exclusion ===

impl Exclusion {
    /// Why, in words that name the way out.
    pub fn why(self) -> &'static str {
        match self {
            Exclusion::Duplicate => {
                "two agents speak with its uid: give one of them a new uid, then retry it"
            }
            Exclusion::Stopped => "its collector is stopped by order: start it again",
            Exclusion::ReOwned => "another family or role owns it now",
            Exclusion::Relabelled => {
                "it no longer matches its role: label it back, or let it go to who claims it"
            }
            Exclusion::AmbiguousRole => {
                "it matches more than one role: make the selectors exclude each other"
            }
            Exclusion::DoesNotAccept => {
                "it does not accept remote configuration: allow it in the supervisor's capabilities"
            }
            Exclusion::ManyCollectors => "it stands for many collectors and is never configured",
            Exclusion::LacksComponents => {
                "its build lacks a component that the config needs: upgrade the collector"
            }
            Exclusion::Reassigned => "it speaks with a new uid now",
            Exclusion::Conflict => {
                "it runs a config that this server never offered to it: look at it, then `muster agents retry` it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Circumstances {
        Circumstances {
            accepts: true,
            roles: 1,
            ..Circumstances::default()
        }
    }

    #[test]
    fn each_circumstance_excludes_under_its_own_name() {
        assert_eq!(exclusion(&able()), None);
        let cases = [
            (
                Circumstances {
                    duplicate: true,
                    ..able()
                },
                Exclusion::Duplicate,
            ),
            (
                Circumstances {
                    reassigned: true,
                    ..able()
                },
                Exclusion::Reassigned,
            ),
            (
                Circumstances {
                    conflict: true,
                    ..able()
                },
                Exclusion::Conflict,
            ),
            (
                Circumstances {
                    re_owned: true,
                    ..able()
                },
                Exclusion::ReOwned,
            ),
            (
                Circumstances {
                    many_collectors: true,
                    ..able()
                },
                Exclusion::ManyCollectors,
            ),
            (
                Circumstances {
                    accepts: false,
                    ..able()
                },
                Exclusion::DoesNotAccept,
            ),
            (Circumstances { roles: 0, ..able() }, Exclusion::Relabelled),
            (
                Circumstances { roles: 2, ..able() },
                Exclusion::AmbiguousRole,
            ),
            (
                Circumstances {
                    lacks_components: true,
                    ..able()
                },
                Exclusion::LacksComponents,
            ),
        ];
        for (circumstances, expected) in cases {
            assert_eq!(exclusion(&circumstances), Some(expected));
            assert!(!expected.why().is_empty());
        }
    }

    #[test]
    fn relabelling_takes_nothing_back_from_who_was_offered_it() {
        let touched = Circumstances {
            roles: 0,
            touched: true,
            ..able()
        };
        assert_eq!(exclusion(&touched), None);
    }

    #[test]
    fn the_reach_limit_is_twice_what_is_owned_or_a_hundred_more() {
        assert_eq!(reach_limit(0), 100);
        assert_eq!(reach_limit(100), 200);
        assert_eq!(reach_limit(5_000), 10_000);
        assert_eq!(reach_limit(u64::MAX), u64::MAX);
    }

    #[test]
    fn reaching_too_far_is_refused_with_the_number_to_say() {
        let typo = Reach {
            family: "pii".into(),
            owned: 12,
            members: 9_412,
            takeovers: vec![],
        };
        assert_eq!(
            check_reach(&typo, None).unwrap_err().to_string(),
            "family pii owns 12 agents and this reaches 9412, more than 112: if that is meant, say --reach 9412"
        );
        assert_eq!(
            check_reach(&typo, Some(9_000)).unwrap_err().to_string(),
            "--reach 9000 is not what the preview of family pii shows: it reaches 9412 agents; look at it again and say --reach 9412"
        );
        assert_eq!(check_reach(&typo, Some(9_412)), Ok(()));
        let takes = Reach {
            members: 20,
            takeovers: vec![("web".into(), 3), ("db".into(), 1)],
            ..typo
        };
        assert_eq!(
            check_reach(&takes, None).unwrap_err().to_string(),
            "family pii would take 3 agents from family web and 1 agents from family db: if that is meant, say --reach 20"
        );
        let small = Reach {
            takeovers: vec![],
            ..takes
        };
        assert_eq!(check_reach(&small, None), Ok(()));
    }

    #[test]
    fn figures_name_every_bucket_and_who_is_late() {
        let mut figures = Figures {
            listed: 40,
            late: 2,
            ..Figures::default()
        };
        (0..3).for_each(|_| figures.counts.add(Bucket::Converged));
        (0..37).for_each(|_| figures.counts.add(Bucket::NotReached));
        assert!(figures.add_up());
        assert_eq!(
            figures.to_string(),
            "40 members: 3 converged, 37 not reached; 2 late"
        );
    }
}
