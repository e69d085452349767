//! Pins: an agent or a selector held at a revision, with reason, owner and expiry.
//!
//! A pin on one agent also brings it there: that is what a person who pins one host means. A pin on a selector only
//! holds: bringing many agents to a revision is a rollout's work, with waves and a gate.

use crate::program::{PinTarget, ProgramPin, RevisionNumber};
use crate::selector::Facts;

/// Longest life of a pin: a held agent gets no security fix, so somebody has to look at it four times a year.
pub const LIFE_MS_MAX: u64 = 90 * 24 * 3_600_000;

/// A pin as a person sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Name.
    pub name: String,
    /// Whom and where.
    pub held: ProgramPin,
    /// Why.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// First millisecond in which it no longer holds.
    pub until_ms: u64,
}

/// Why a pin is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Reason or owner is missing.
    #[error("pin {name} has no {what}: give it one, somebody will ask")]
    Missing {
        /// Name.
        name: String,
        /// What.
        what: &'static str,
    },
    /// It would never hold, or too long.
    #[error(
        "pin {name} has to end between now and 90 days from now: give it such an expiry, and renew it when it ends"
    )]
    Expiry {
        /// Name.
        name: String,
    },
    /// To something that does not exist.
    #[error(
        "pin {name}: family {family} has no revision {revision}: list them with `muster families get {family}`"
    )]
    Revision {
        /// Name.
        name: String,
        /// Family.
        family: String,
        /// As given.
        revision: u64,
    },
}

impl Pin {
    /// Can it be set? `revisions` are those of its family.
    pub fn check(&self, now_ms: u64, revisions: &[RevisionNumber]) -> Result<(), Error> {
        let name = || self.name.clone();
        for (text, what) in [(&self.reason, "reason"), (&self.owner, "owner")] {
            if text.trim().is_empty() {
                return Err(Error::Missing { name: name(), what });
            }
        }
        let life = self.until_ms.saturating_sub(now_ms);
        if life == 0 || life > LIFE_MS_MAX {
            return Err(Error::Expiry { name: name() });
        }
        match revisions.contains(&self.held.revision) {
            true => Ok(()),
            false => Err(Error::Revision {
                name: name(),
                family: self.held.family.clone(),
                revision: self.held.revision.0,
            }),
        }
    }
}

/// The pins that hold at this time, as the program carries them.
pub fn holding(pins: &[Pin], now_ms: u64) -> Vec<ProgramPin> {
    let live = pins.iter().filter(|pin| pin.until_ms > now_ms);
    live.map(|pin| pin.held.clone()).collect()
}

/// The pin of a family that holds this agent; one that names it goes before one that selects it.
pub fn of<'p>(
    pins: &'p [ProgramPin],
    family: &str,
    uid: &[u8; 16],
    facts: &(impl Facts + ?Sized),
) -> Option<&'p ProgramPin> {
    let of_family = || pins.iter().filter(|pin| pin.family == family);
    let named = of_family().find(|pin| matches!(&pin.target, PinTarget::Agent(at) if at == uid));
    named.or_else(|| {
        of_family()
            .find(|pin| matches!(&pin.target, PinTarget::Selected(who) if who.matches(facts)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Selector;
    use std::collections::BTreeMap;

    fn pin() -> Pin {
        Pin {
            name: "legacy".into(),
            held: ProgramPin {
                family: "web".into(),
                target: PinTarget::Selected(Selector::parse("env = lab").unwrap()),
                revision: RevisionNumber(3),
            },
            reason: "ticket 12".into(),
            owner: "anna".into(),
            until_ms: 1_000,
        }
    }

    #[test]
    fn a_pin_has_reason_owner_expiry_and_an_existing_revision() {
        let known = [RevisionNumber(3)];
        assert_eq!(pin().check(0, &known), Ok(()));
        let said = |pin: Pin, now| pin.check(now, &known).unwrap_err().to_string();
        let nobody = Pin {
            owner: String::new(),
            ..pin()
        };
        assert_eq!(
            said(nobody, 0),
            "pin legacy has no owner: give it one, somebody will ask"
        );
        assert_eq!(
            said(pin(), 1_000),
            "pin legacy has to end between now and 90 days from now: give it such an expiry, and renew it when it ends"
        );
        assert_eq!(
            pin().check(0, &[]).unwrap_err().to_string(),
            "pin legacy: family web has no revision 3: list them with `muster families get web`"
        );
    }

    #[test]
    fn a_pin_holds_until_it_expires_and_a_named_agent_goes_first() {
        assert_eq!(holding(&[pin()], 999).len(), 1);
        assert_eq!(holding(&[pin()], 1_000).len(), 0);
        let named = ProgramPin {
            target: PinTarget::Agent([7; 16]),
            revision: RevisionNumber(2),
            ..pin().held
        };
        let pins = [pin().held, named];
        let facts = BTreeMap::from([("env".to_owned(), "lab".to_owned())]);
        let found = |family, uid: u8| of(&pins, family, &[uid; 16], &facts).map(|p| p.revision.0);
        assert_eq!(found("web", 7), Some(2));
        assert_eq!(found("web", 8), Some(3));
        assert_eq!(found("db", 7), None);
    }
}
