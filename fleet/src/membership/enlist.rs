//! Whom a rollout lists: the agents that its family's target revision claims, by one role each, and that nobody of a
//! higher precedence has or claims.

use std::fmt;

use crate::program::{Claim, Program};

/// An agent as a rollout that is about to open sees it.
#[derive(Clone, Debug, Default)]
pub struct Applicant<'a> {
    /// Family and role of its last authorised offer.
    pub owner: Option<(&'a str, &'a str)>,
    /// Roles of the target revision that match it.
    pub roles: Vec<&'a str>,
    /// Every claim on it, by the program.
    pub claims: Vec<Claim<'a>>,
    /// Two agents speak with its uid.
    pub duplicate: bool,
    /// It stands for many collectors.
    pub many_collectors: bool,
    /// It declares AcceptsRemoteConfig.
    pub accepts: bool,
    /// A person has ordered its collector to be stopped.
    pub stopped: bool,
}

/// A line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Role of the target revision.
    pub role: &'a str,
    /// Whose it is until its wave opens, and again after a rollback: another family's, or another role's of this one.
    pub taken_from: Option<(&'a str, &'a str)>,
}

/// Why an agent is not on the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// Owned by the family, and claimed by it no more.
    Unclaimed,
    /// Several roles claim it.
    Ambiguous(Vec<String>),
    /// Two agents speak with its uid.
    Duplicate,
    /// It stands for many collectors.
    ManyCollectors,
    /// It does not take remote configuration.
    DoesNotAccept,
    /// Its collector is stopped by order.
    Stopped,
    /// A family of higher precedence claims it.
    Shadowed(String),
    /// A family of higher precedence owns it.
    OwnedByHigher(String),
    /// Its owner has no stable revision, so that a rollback could not give it back.
    NotToGiveBack(String),
}

/// Is this agent a member of a rollout of this family? `precedence` is the one that the target revision gives it.
pub fn enlist<'a>(
    family: &str,
    precedence: i64,
    agent: &Applicant<'a>,
    program: &Program,
) -> Result<Listed<'a>, LeftOut> {
    let is_higher = |other: &str| {
        let found = program.family(other).filter(|_| other != family);
        found.is_some_and(|found| found.precedence > precedence)
    };
    let role = match agent.roles[..] {
        [] => return Err(LeftOut::Unclaimed),
        [role] => role,
        _ => {
            let roles = agent.roles.iter().map(|role| (*role).to_owned());
            return Err(LeftOut::Ambiguous(roles.collect()));
        }
    };
    for (is, why) in [
        (agent.duplicate, LeftOut::Duplicate),
        (agent.many_collectors, LeftOut::ManyCollectors),
        (!agent.accepts, LeftOut::DoesNotAccept),
        (agent.stopped, LeftOut::Stopped),
    ] {
        if is {
            return Err(why);
        }
    }
    if let Some(claim) = agent.claims.iter().find(|claim| is_higher(claim.family)) {
        return Err(LeftOut::Shadowed(claim.family.to_owned()));
    }
    let taken_from = agent.owner.filter(|owner| *owner != (family, role));
    let foreign = taken_from.filter(|(owner, _)| *owner != family);
    if let Some((owner, _)) = foreign {
        if is_higher(owner) {
            return Err(LeftOut::OwnedByHigher(owner.to_owned()));
        }
        let found = program.family(owner);
        if found.is_some_and(|found| found.stable.is_none()) {
            return Err(LeftOut::NotToGiveBack(owner.to_owned()));
        }
    }
    Ok(Listed { role, taken_from })
}

// === impl LeftOut ===

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeftOut::Unclaimed => {
                f.write_str("no role of this revision matches it any more: it keeps what it runs")
            }
            LeftOut::Ambiguous(roles) => {
                write!(f, "it matches {} roles: {}", roles.len(), roles.join(", "))
            }
            LeftOut::Duplicate => f.write_str("two agents speak with its uid"),
            LeftOut::ManyCollectors => {
                f.write_str("it stands for many collectors and is never configured")
            }
            LeftOut::DoesNotAccept => f.write_str("it does not accept remote configuration"),
            LeftOut::Stopped => f.write_str("its collector is stopped by order"),
            LeftOut::Shadowed(family) => write!(
                f,
                "shadowed by family {family}, which has a higher precedence"
            ),
            LeftOut::OwnedByHigher(family) => write!(
                f,
                "it is owned by family {family}, which has a higher precedence"
            ),
            LeftOut::NotToGiveBack(family) => write!(
                f,
                "it is owned by family {family}, which has no stable revision to give it back to: complete a rollout of that family first, or delete it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::program::{OwnerChange, ProgramFamily, RevisionNumber};

    fn program() -> Program {
        let family = |(name, precedence, stable): (&str, i64, Option<u64>)| ProgramFamily {
            name: name.into(),
            precedence,
            stable: stable.map(RevisionNumber),
            revisions: BTreeMap::new(),
            owner_change: OwnerChange::Ask,
            rollout: None,
        };
        let families = [
            ("top", 9, Some(1)),
            ("web", 5, Some(1)),
            ("low", 1, Some(1)),
        ];
        Program {
            families: families
                .into_iter()
                .chain([("new", 0, None)])
                .map(family)
                .collect(),
            ..Program::default()
        }
    }

    fn owned(owner: Option<(&'static str, &'static str)>) -> Applicant<'static> {
        Applicant {
            owner,
            roles: vec!["agent"],
            accepts: true,
            ..Applicant::default()
        }
    }

    fn of_web(agent: &Applicant<'static>) -> Result<Listed<'static>, LeftOut> {
        enlist("web", 5, agent, &program())
    }

    #[test]
    fn a_list_says_whom_each_member_is_taken_from() {
        let listed = |taken_from| {
            Ok(Listed {
                role: "agent",
                taken_from,
            })
        };
        assert_eq!(of_web(&owned(None)), listed(None));
        assert_eq!(of_web(&owned(Some(("web", "agent")))), listed(None));
        for other in [("low", "node"), ("gone", "agent"), ("web", "gateway")] {
            assert_eq!(of_web(&owned(Some(other))), listed(Some(other)));
        }
    }

    #[test]
    fn who_is_left_out_is_told_why() {
        let why = |agent: Applicant<'static>| of_web(&agent).unwrap_err().to_string();
        let able = || owned(None);
        let by = |family| {
            vec![Claim {
                family,
                roles: vec!["x"],
            }]
        };
        assert_eq!(
            [
                why(Applicant {
                    roles: vec![],
                    ..able()
                }),
                why(Applicant {
                    roles: vec!["a", "b"],
                    ..able()
                }),
                why(Applicant {
                    duplicate: true,
                    ..able()
                }),
                why(Applicant {
                    many_collectors: true,
                    ..able()
                }),
                why(Applicant {
                    accepts: false,
                    ..able()
                }),
                why(Applicant {
                    stopped: true,
                    ..able()
                }),
                why(Applicant {
                    claims: by("top"),
                    ..able()
                }),
                why(owned(Some(("top", "x")))),
                why(owned(Some(("new", "x")))),
            ],
            [
                "no role of this revision matches it any more: it keeps what it runs",
                "it matches 2 roles: a, b",
                "two agents speak with its uid",
                "it stands for many collectors and is never configured",
                "it does not accept remote configuration",
                "its collector is stopped by order",
                "shadowed by family top, which has a higher precedence",
                "it is owned by family top, which has a higher precedence",
                "it is owned by family new, which has no stable revision to give it back to: complete a rollout of that family first, or delete it",
            ]
        );
        assert!(
            of_web(&Applicant {
                claims: by("low"),
                ..able()
            })
            .is_ok()
        );
    }
}
