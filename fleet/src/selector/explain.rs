//! Why a selector matches an agent or not, for people.

use super::term::Shown;
use std::fmt;

/// The answer of [`super::Selector::explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    reasons: Vec<Reason>,
}

/// What became of one term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The term in canonical form.
    pub term: String,
    pub holds: bool,
    pub key: String,
    /// What the agent has; `None` if it has no such key.
    pub value: Option<String>,
    /// True if the term compares versions and the value is none.
    pub not_a_version: bool,
}

impl Explanation {
    pub(super) fn new(reasons: Vec<Reason>) -> Self {
        Self { reasons }
    }

    /// True if the selector matches.
    pub fn matched(&self) -> bool {
        self.reasons.iter().all(|reason| reason.holds)
    }

    /// Every term in the selector's order; none for `*`.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }
}

impl fmt::Display for Explanation {
    /// `matched because …` with every term, or `not matched because …` with the terms that do not hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matched = self.matched();
        f.write_str(if matched {
            "matched because "
        } else {
            "not matched because "
        })?;
        if self.reasons.is_empty() {
            return f.write_str("`*` matches every agent");
        }
        for (at, reason) in self
            .reasons
            .iter()
            .filter(|reason| reason.holds == matched)
            .enumerate()
        {
            write!(f, "{}{reason}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            term,
            key,
            value,
            not_a_version,
            ..
        } = self;
        let verb = if self.holds { "holds" } else { "does not hold" };
        write!(f, "`{term}` {verb}: {key} is ")?;
        match value {
            Some(value) => write!(f, "{}", Shown(value))?,
            None => f.write_str("not set")?,
        }
        f.write_str(if *not_a_version {
            ", which is no version"
        } else {
            ""
        })
    }
}
