//! The versions of what the processes of a cluster say to each other: in `Caller` between nodes, in `Hello` of gateways.
//!
//! A new field that the other end may overlook is no new version. A version is new when the other end would misunderstand
//! or have to answer; a release that has one still speaks and understands the one before, so that a cluster is upgraded
//! process by process. Each side says the lowest and the highest that it speaks. The lowest stands where the only one stood
//! before there were ranges: software from then hears who speaks its own.

use std::fmt;

/// The lowest version that this software speaks, and understands.
pub const LOWEST: u32 = 1;

/// The highest.
pub const HIGHEST: u32 = 1;

/// What one side speaks, and understands: all versions between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    lowest: u32,
    highest: u32,
}

/// The other end speaks nothing that is understood here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{who} speaks {spoken} of the cluster's protocol and {here} {own}: upgrade the older one first, one release at a time"
)]
pub struct Incompatible {
    who: String,
    spoken: Spoken,
    here: String,
    own: Spoken,
}

// === impl Spoken ===

impl Spoken {
    /// By this software.
    pub const OWN: Spoken = Spoken {
        lowest: LOWEST,
        highest: HIGHEST,
    };

    /// As it is said on the wire. Nothing is said, 0, by software from before there were versions: that is 1. A highest is
    /// not said, 0, from before there were ranges: there is one version only.
    pub fn of(lowest: u32, highest: u32) -> Spoken {
        let lowest = lowest.max(1);
        Spoken {
            lowest,
            highest: highest.max(lowest),
        }
    }

    fn meets(self, other: Spoken) -> bool {
        self.lowest <= other.highest && other.lowest <= self.highest
    }
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lowest == self.highest {
            true => write!(f, "version {}", self.lowest),
            false => write!(f, "versions {} to {}", self.lowest, self.highest),
        }
    }
}

/// Can what `who` says be understood `here`, by this software?
pub fn check(who: &str, spoken: Spoken, here: &str) -> Result<(), Incompatible> {
    understood(who, spoken, here, Spoken::OWN)
}

fn understood(who: &str, spoken: Spoken, here: &str, own: Spoken) -> Result<(), Incompatible> {
    if spoken.meets(own) {
        return Ok(());
    }
    Err(Incompatible {
        who: who.to_owned(),
        spoken,
        here: here.to_owned(),
        own,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_is_of_the_first_version_and_another_version_is_refused_with_what_to_do() {
        assert_eq!(
            LOWEST, 1,
            "0 is the first version, and all that software without ranges knows"
        );
        assert_eq!(check("n2", Spoken::of(0, 0), "n1"), Ok(()));
        assert_eq!(check("n2", Spoken::of(1, 0), "n1"), Ok(()));
        let refused = check("n2", Spoken::of(2, 0), "n1").unwrap_err().to_string();
        assert_eq!(
            refused,
            "n2 speaks version 2 of the cluster's protocol and n1 version 1: upgrade the older one first, one release at a time"
        );
    }

    #[test]
    fn who_speaks_the_version_before_as_well_is_understood_and_who_does_not_any_more_is_refused() {
        assert_eq!(check("n2", Spoken::of(1, 2), "n1"), Ok(()));
        let between = |spoken, own| understood("n2", spoken, "n1", own).is_ok();
        let (first, second, third) = (Spoken::of(1, 1), Spoken::of(1, 2), Spoken::of(2, 3));
        for (one, other) in [(first, second), (second, third), (second, second)] {
            assert!(between(one, other) && between(other, one));
        }
        assert!(!between(first, third) && !between(third, first));
        let refused = understood("n2", third, "n1", first).unwrap_err();
        let said = refused.to_string();
        assert!(said.starts_with("n2 speaks versions 2 to 3 "), "{said}");
        // Nonsense is the lowest alone.
        assert_eq!(Spoken::of(3, 2), Spoken::of(3, 3));
    }
}
