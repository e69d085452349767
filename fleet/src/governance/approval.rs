//! Approvals: by others than the author, bound to the revision hash and the plan hash, void after any edit.

use std::collections::BTreeSet;

use crate::digest::Digest;

/// Somebody's yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// To which content.
    pub revision: Digest,
    /// With which plan: see [`crate::rollout::PlanSpec::hash`].
    pub plan: Digest,
}

/// What needs approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Family and revision for people, e.g. `pii revision 7`.
    pub what: String,
    /// Who wrote it.
    pub author: String,
    /// Its content.
    pub revision: Digest,
    /// How it is to be rolled out.
    pub plan: Digest,
    /// Approvals that the family asks for.
    pub needed: u32,
}

/// Why an approval, or a start, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An approval that nobody asks for would only look like one.
    #[error("{what} needs no approval: start it with `muster rollout start`")]
    NotNeeded {
        /// What.
        what: String,
    },
    /// Nobody approves what he wrote.
    #[error("{by} wrote {what} and cannot approve it: ask somebody else")]
    OwnWork {
        /// Who.
        by: String,
        /// What.
        what: String,
    },
    /// Once each.
    #[error("{by} has approved {what} already: another person has to")]
    Twice {
        /// Who.
        by: String,
        /// What.
        what: String,
    },
    /// The approver saw something else.
    #[error(
        "{what} is not what {by} looked at: it was edited since; look again and approve {revision} with plan {plan}"
    )]
    Edited {
        /// Who.
        by: String,
        /// What.
        what: String,
        /// Its content now.
        revision: Digest,
        /// Its plan now.
        plan: Digest,
    },
    /// Too few that count.
    #[error("{what} has {found} of {needed} approvals{}: ask for more with `muster approve`", if *void > 0 { format!(" ({void} void since it was edited or its plan changed)") } else { String::new() })]
    Missing {
        /// What.
        what: String,
        /// That count.
        found: u32,
        /// That are needed.
        needed: u32,
        /// Given to something else.
        void: u32,
    },
}

impl Request {
    /// May this approval be added to those that were given?
    pub fn add(&self, given: &[Approval], approval: &Approval) -> Result<(), Refused> {
        let (by, what) = (approval.by.clone(), self.what.clone());
        if self.needed == 0 {
            return Err(Refused::NotNeeded { what });
        }
        if approval.by == self.author {
            return Err(Refused::OwnWork { by, what });
        }
        if !self.covers(approval) {
            return Err(Refused::Edited {
                by,
                what,
                revision: self.revision,
                plan: self.plan,
            });
        }
        match given.contains(approval) {
            true => Err(Refused::Twice { by, what }),
            false => Ok(()),
        }
    }

    /// Are there enough approvals that count? Those for another content or plan are void.
    pub fn check(&self, given: &[Approval]) -> Result<(), Refused> {
        let counts = |approval: &&Approval| self.covers(approval) && approval.by != self.author;
        let people: BTreeSet<&str> = given.iter().filter(counts).map(|a| a.by.as_str()).collect();
        let found = u32::try_from(people.len()).unwrap_or(u32::MAX);
        if found >= self.needed {
            return Ok(());
        }
        let void = given
            .iter()
            .filter(|approval| !self.covers(approval))
            .count();
        Err(Refused::Missing {
            what: self.what.clone(),
            found,
            needed: self.needed,
            void: u32::try_from(void).unwrap_or(u32::MAX),
        })
    }

    fn covers(&self, approval: &Approval) -> bool {
        approval.revision == self.revision && approval.plan == self.plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> Digest {
        Digest::of("test", &[text.as_bytes()])
    }

    fn request() -> Request {
        Request {
            what: "pii revision 7".into(),
            author: "anna".into(),
            revision: hash("r7"),
            plan: hash("careful"),
            needed: 2,
        }
    }

    fn by(who: &str) -> Approval {
        Approval {
            by: who.into(),
            revision: hash("r7"),
            plan: hash("careful"),
        }
    }

    fn said(result: Result<(), Refused>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn nobody_approves_twice_or_his_own_work() {
        let request = request();
        assert_eq!(
            said(request.add(&[], &by("anna"))),
            "anna wrote pii revision 7 and cannot approve it: ask somebody else"
        );
        assert_eq!(
            said(request.add(&[by("bob")], &by("bob"))),
            "bob has approved pii revision 7 already: another person has to"
        );
        assert_eq!(request.add(&[by("bob")], &by("carl")), Ok(()));
    }

    #[test]
    fn an_edit_or_another_plan_voids_approvals() {
        let request = request();
        let old = Approval {
            plan: hash("urgent"),
            ..by("bob")
        };
        assert!(
            said(request.add(&[], &old)).starts_with("pii revision 7 is not what bob looked at")
        );
        assert_eq!(
            said(request.check(&[old, by("carl"), by("carl"), by("anna")])),
            "pii revision 7 has 1 of 2 approvals (1 void since it was edited or its plan changed): ask for more with `muster approve`"
        );
        assert_eq!(request.check(&[by("bob"), by("carl")]), Ok(()));
        let free = Request {
            needed: 0,
            ..request
        };
        assert_eq!(free.check(&[]), Ok(()));
        assert_eq!(
            said(free.add(&[], &by("bob"))),
            "pii revision 7 needs no approval: start it with `muster rollout start`"
        );
    }
}
