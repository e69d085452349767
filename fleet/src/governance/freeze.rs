//! Freezes: windows in which no wave starts. A wave that runs soaks on; rollbacks and urgent plans pass.

use crate::rollout::{Direction, Rollout};

/// A freeze ends within a year.
pub const LIFE_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// A window, in wall time: it is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// First millisecond.
    pub from_ms: u64,
    /// First millisecond after it.
    pub until_ms: u64,
    /// Families it is about; empty: all.
    pub families: Vec<String>,
}

/// Why a freeze is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has no length.
    #[error("freeze {name} ends before it begins: give it an end after its beginning")]
    Empty {
        /// Name.
        name: String,
    },
    /// It is over.
    #[error("freeze {name} is over already: give it an end in the future")]
    Past {
        /// Name.
        name: String,
    },
    /// It would hold until everybody has forgotten it.
    #[error("freeze {name} ends in more than a year: give it an end within one, and set it again")]
    TooLong {
        /// Name.
        name: String,
    },
    /// Nobody will know why.
    #[error("freeze {name} has no reason: say why, for those who wait for its end")]
    NoReason {
        /// Name.
        name: String,
    },
}

impl Freeze {
    /// Can it be set at this time?
    pub fn check(&self, now_ms: u64) -> Result<(), Error> {
        let name = self.name.clone();
        if self.until_ms <= self.from_ms {
            return Err(Error::Empty { name });
        }
        if self.until_ms <= now_ms {
            return Err(Error::Past { name });
        }
        if self.until_ms - now_ms > LIFE_MS_MAX {
            return Err(Error::TooLong { name });
        }
        match self.reason.trim().is_empty() {
            true => Err(Error::NoReason { name }),
            false => Ok(()),
        }
    }

    fn holds(&self, family: &str, now_ms: u64) -> bool {
        let about = self.families.is_empty() || self.families.iter().any(|name| name == family);
        about && (self.from_ms..self.until_ms).contains(&now_ms)
    }
}

/// The freeze that keeps this rollout's waves from starting now, in words; none: nothing does. The one that ends last.
pub fn blocks(freezes: &[Freeze], family: &str, rollout: &Rollout, now_ms: u64) -> Option<String> {
    if rollout.plan.urgent || rollout.direction == Direction::Back {
        return None;
    }
    let holding = freezes.iter().filter(|freeze| freeze.holds(family, now_ms));
    let last = holding.max_by_key(|freeze| freeze.until_ms)?;
    let minutes = (last.until_ms - now_ms).div_ceil(60_000);
    Some(format!(
        "{} ({}, {minutes} minutes left)",
        last.name, last.reason
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{State, default_plan, urgent_plan};

    fn freeze() -> Freeze {
        Freeze {
            name: "black-friday".into(),
            reason: "sales".into(),
            from_ms: 1_000,
            until_ms: 61_000,
            families: vec!["web".into()],
        }
    }

    fn rollout() -> Rollout {
        Rollout {
            state: State::Running,
            direction: Direction::Forward,
            plan: default_plan(),
            roles: vec![],
            roll_back: None,
            inconclusive_ms: 0,
        }
    }

    #[test]
    fn a_freeze_holds_its_families_for_its_time() {
        let freezes = [freeze()];
        let said = Some("black-friday (sales, 1 minutes left)".to_owned());
        assert_eq!(blocks(&freezes, "web", &rollout(), 1_000), said);
        assert_eq!(blocks(&freezes, "web", &rollout(), 61_000), None);
        assert_eq!(blocks(&freezes, "db", &rollout(), 1_000), None);
    }

    #[test]
    fn a_freeze_ends_within_a_year() {
        let forever = Freeze {
            until_ms: u64::MAX,
            ..freeze()
        };
        assert_eq!(
            forever.check(0).unwrap_err().to_string(),
            "freeze black-friday ends in more than a year: give it an end within one, and set it again"
        );
    }

    #[test]
    fn urgent_plans_and_the_way_back_pass() {
        let freezes = [Freeze {
            families: vec![],
            ..freeze()
        }];
        let urgent = Rollout {
            plan: urgent_plan(),
            ..rollout()
        };
        let back = Rollout {
            direction: Direction::Back,
            ..rollout()
        };
        assert!(blocks(&freezes, "db", &rollout(), 2_000).is_some());
        assert_eq!(blocks(&freezes, "db", &urgent, 2_000), None);
        assert_eq!(blocks(&freezes, "db", &back, 2_000), None);
    }

    #[test]
    fn a_freeze_has_a_length_a_future_and_a_reason() {
        assert_eq!(freeze().check(0), Ok(()));
        let said = |freeze: Freeze, now| freeze.check(now).unwrap_err().to_string();
        let empty = Freeze {
            until_ms: 1_000,
            ..freeze()
        };
        assert_eq!(
            said(empty, 0),
            "freeze black-friday ends before it begins: give it an end after its beginning"
        );
        assert_eq!(
            said(freeze(), 90_000),
            "freeze black-friday is over already: give it an end in the future"
        );
        let mute = Freeze {
            reason: " ".into(),
            ..freeze()
        };
        assert_eq!(
            said(mute, 0),
            "freeze black-friday has no reason: say why, for those who wait for its end"
        );
    }
}
