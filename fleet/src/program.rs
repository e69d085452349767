//! Desired state: one pure function from what an agent is and the published program to what it should run.
//!
//! The same function sets pending bits, authorises offers, previews and simulates. It never says *when*: whether an
//! offer may be written now is [`crate::offer`]'s question.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::selector::{Facts, Selector};

/// Stamp of a program: a higher one replaces a lower one. The upper 16 bits are the incarnation of the cluster, so
/// that a restored cluster is always ahead of its own past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Number of a revision within its family, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionNumber(pub u64);

/// What every partition needs to know to decide for its agents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Stamp; offers carry it and are fenced by it.
    pub epoch: Epoch,
    /// Highest precedence first.
    pub families: Vec<ProgramFamily>,
}

/// A family as far as decisions go.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramFamily {
    /// Unique name.
    pub name: String,
    /// Unique; the higher one's claim counts.
    pub precedence: i64,
    /// The revision for which a rollout is complete; none before the first one.
    pub stable: Option<RevisionNumber>,
    /// The revisions that decisions need: stable, and both ends of the rollout.
    pub revisions: BTreeMap<RevisionNumber, Vec<ProgramRole>>,
    /// The rollout that is open, or the last one while its rollback still holds agents.
    pub rollout: Option<ProgramRollout>,
}

/// A role of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramRole {
    /// Unique within the revision.
    pub name: String,
    /// Whom it claims.
    pub selector: Selector,
    /// Hash of the config map its agents get.
    pub delivery: Digest,
    /// Hash of the config map a rollback delivers where there is nothing to go back to.
    pub baseline: Digest,
}

/// A rollout as far as decisions go.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramRollout {
    /// Id.
    pub id: String,
    /// Where its members come from; none in a family's first rollout.
    pub from: Option<RevisionNumber>,
    /// Where they go.
    pub to: RevisionNumber,
    /// Running: members of open waves may be offered `to`. Otherwise who has it keeps it and nobody else gets it.
    pub running: bool,
    /// By role name: how many waves are open.
    pub open_waves: BTreeMap<String, u32>,
    /// Set once a rollback was decided.
    pub roll_back: Option<RollBack>,
    /// Rolling back, or rolled back: what the rollback covers is given back. A halt stops that, too.
    pub returning: bool,
}

/// What goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollBack {
    /// Which members.
    pub scope: Scope,
    /// Roles whose turn has come; a rollback goes against the `after` order.
    pub open_roles: Vec<String>,
}

/// Which members a rollback is about; only those that were offered the revision are touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every wave of every role.
    All,
    /// One wave of one role.
    Wave {
        /// Role name.
        role: String,
        /// Index from 0.
        wave: u32,
    },
}

/// An agent's place on a rollout's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Rollout id.
    pub rollout: &'a str,
    /// Role name within the rollout.
    pub role: &'a str,
    /// Wave index from 0.
    pub wave: u32,
}

/// What is known of the agent that a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, F> {
    /// Labels and attributes.
    pub facts: &'a F,
    /// Family and role of the last authorised offer.
    pub owner: Option<(&'a str, &'a str)>,
    /// Delivery hash of the last authorised offer.
    pub delivery: Option<Digest>,
    /// Id of the rollout that the last authorised offer was made in; empty when it joined at stable.
    pub delivered_in: &'a str,
    /// Its place in a rollout that the program names.
    pub place: Option<Place<'a>>,
}

/// What an agent should run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Family and role; none: unassigned.
    pub owner: Option<(String, String)>,
    /// Revision; none: a baseline, or what it has.
    pub revision: Option<RevisionNumber>,
    /// What to run; none: leave it as it is.
    pub delivery: Option<Digest>,
    /// May it be sent now? A rollout that stands still leaves its members what they have and sends nothing.
    pub offerable: bool,
    /// Why.
    pub reason: Reason,
    /// What people should know about the decision.
    pub conditions: Vec<Condition>,
}

/// Why an agent should run what it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No family claims it.
    Unassigned,
    /// The stable revision of its family.
    Stable,
    /// Its wave of this rollout is open.
    Wave {
        /// Rollout id.
        rollout: String,
    },
    /// Listed by this rollout, whose wave has not begun or which does not move.
    Waiting {
        /// Rollout id.
        rollout: String,
    },
    /// The rollout took its revision back.
    RolledBack {
        /// Rollout id.
        rollout: String,
    },
    /// It keeps what it has; the condition says why.
    Kept,
}

/// A condition of an agent, by its name in SEMANTICS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A family of higher precedence owns it; this one claims it too.
    Shadowed {
        /// The family that claims in vain.
        family: String,
    },
    /// Its owner no longer claims it, or another one's claim counts now.
    OwnerChanging {
        /// Who claims it now; none: nobody.
        claimed_by: Option<String>,
    },
    /// It matches several roles of one family.
    AmbiguousRole {
        /// The family.
        family: String,
        /// The roles.
        roles: Vec<String>,
    },
    /// A member of a rollout that no longer matches its role and has not been offered anything.
    Relabelled {
        /// Rollout id.
        rollout: String,
    },
}

/// A family's claim on an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'p> {
    /// Family name.
    pub family: &'p str,
    /// Roles that match, in the revision's order; more than one is ambiguous.
    pub roles: Vec<&'p str>,
}

// === impl Program ===

impl Program {
    /// The family of this name.
    pub fn family(&self, name: &str) -> Option<&ProgramFamily> {
        self.families.iter().find(|family| family.name == name)
    }

    /// The rollout of this id, with its family.
    pub fn rollout(&self, id: &str) -> Option<(&ProgramFamily, &ProgramRollout)> {
        self.families
            .iter()
            .find_map(|family| match &family.rollout {
                Some(rollout) if rollout.id == id => Some((family, rollout)),
                _ => None,
            })
    }

    /// Who claims an agent with these facts by a stable revision, highest precedence first.
    pub fn claims(&self, facts: &impl Facts) -> Vec<Claim<'_>> {
        self.families
            .iter()
            .filter_map(|family| family.claim(facts))
            .collect()
    }
}

// === impl ProgramFamily ===

impl ProgramFamily {
    /// Roles of a revision; empty when the program does not carry it.
    pub fn roles(&self, revision: RevisionNumber) -> &[ProgramRole] {
        self.revisions.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// A role of a revision by name.
    pub fn role(&self, revision: RevisionNumber, name: &str) -> Option<&ProgramRole> {
        self.roles(revision).iter().find(|role| role.name == name)
    }

    fn claim(&self, facts: &impl Facts) -> Option<Claim<'_>> {
        let roles = matching(self.roles(self.stable?), facts);
        (!roles.is_empty()).then_some(Claim {
            family: &self.name,
            roles,
        })
    }
}

// === impl ProgramRollout ===

impl ProgramRollout {
    /// Is the wave of this place open?
    pub fn is_open(&self, place: &Place<'_>) -> bool {
        self.open_waves
            .get(place.role)
            .is_some_and(|open| place.wave < *open)
    }

    /// Does the rollback, if there is one, cover this place and has its turn come?
    pub fn takes_back(&self, place: &Place<'_>) -> bool {
        self.returning
            && self.covers(place)
            && self
                .roll_back
                .as_ref()
                .is_some_and(|back| back.open_roles.iter().any(|role| role == place.role))
    }

    /// Does the rollback, if there is one, cover this place?
    pub fn covers(&self, place: &Place<'_>) -> bool {
        match self.roll_back.as_ref().map(|back| &back.scope) {
            None => false,
            Some(Scope::All) => true,
            Some(Scope::Wave { role, wave }) => role == place.role && *wave == place.wave,
        }
    }
}

/// Names of the roles whose selector matches.
pub fn matching<'r>(roles: &'r [ProgramRole], facts: &impl Facts) -> Vec<&'r str> {
    roles
        .iter()
        .filter(|role| role.selector.matches(facts))
        .map(|role| role.name.as_str())
        .collect()
}

/// What the agent should run under this program.
pub fn desired<F: Facts>(subject: &Subject<'_, F>, program: &Program) -> Desired {
    if let Some(place) = &subject.place
        && let Some((family, rollout)) = program.rollout(place.rollout)
        && let Some(desired) = desired_as_member(subject, place, family, rollout)
    {
        return desired;
    }
    desired_at_stable(subject, program)
}

/// As a member of an open rollout; none when the list no longer decides for it (it went to another family).
fn desired_as_member<F: Facts>(
    subject: &Subject<'_, F>,
    place: &Place<'_>,
    family: &ProgramFamily,
    rollout: &ProgramRollout,
) -> Option<Desired> {
    if subject.owner.is_some_and(|(owner, _)| owner != family.name) {
        return None;
    }
    let target = family.role(rollout.to, place.role)?;
    let touched = subject.delivered_in == rollout.id;
    let owner = Some((family.name.clone(), place.role.to_owned()));
    let id = || rollout.id.clone();
    if touched && rollout.takes_back(place) {
        let (revision, delivery) = before(family, rollout, place, target);
        return Some(Desired {
            owner,
            revision,
            delivery: Some(delivery),
            offerable: true,
            reason: Reason::RolledBack { rollout: id() },
            conditions: vec![],
        });
    }
    let has_target = subject.delivery == Some(target.delivery);
    if has_target || (rollout.is_open(place) && rollout.running && !rollout.covers(place)) {
        if !touched && !has_target && !target.selector.matches(subject.facts) {
            let conditions = vec![Condition::Relabelled { rollout: id() }];
            return Some(Desired {
                owner: owned(subject),
                revision: None,
                delivery: None,
                offerable: false,
                reason: Reason::Kept,
                conditions,
            });
        }
        let offerable = rollout.running && rollout.is_open(place);
        return Some(Desired {
            owner,
            revision: Some(rollout.to),
            delivery: Some(target.delivery),
            offerable,
            reason: Reason::Wave { rollout: id() },
            conditions: vec![],
        });
    }
    // Its wave has not begun: what it would have without this rollout, which is what it has.
    let delivery = rollout
        .from
        .and_then(|from| family.role(from, place.role))
        .filter(|_| {
            subject
                .owner
                .is_some_and(|(owner, role)| owner == family.name && role == place.role)
        })
        .map(|role| role.delivery);
    Some(Desired {
        owner: owned(subject),
        revision: rollout.from,
        delivery,
        offerable: false,
        reason: Reason::Waiting { rollout: id() },
        conditions: vec![],
    })
}

/// What a member has when the rollout is taken away: the revision before, or the role's baseline.
fn before(
    family: &ProgramFamily,
    rollout: &ProgramRollout,
    place: &Place<'_>,
    target: &ProgramRole,
) -> (Option<RevisionNumber>, Digest) {
    match rollout
        .from
        .and_then(|from| Some((from, family.role(from, place.role)?)))
    {
        Some((from, role)) => (Some(from), role.delivery),
        None => (None, target.baseline),
    }
}

/// Outside of any rollout: an unowned agent joins, an owned one stays with its owner.
fn desired_at_stable<F: Facts>(subject: &Subject<'_, F>, program: &Program) -> Desired {
    let claims = program.claims(subject.facts);
    let mut conditions: Vec<Condition> = claims
        .iter()
        .skip(1)
        .map(|claim| Condition::Shadowed {
            family: claim.family.to_owned(),
        })
        .collect();
    let kept = |conditions| Desired {
        owner: owned(subject),
        revision: None,
        delivery: None,
        offerable: false,
        reason: Reason::Kept,
        conditions,
    };
    if let Some(first) = claims.first()
        && first.roles.len() > 1
    {
        let roles = first.roles.iter().map(|role| (*role).to_owned()).collect();
        conditions.insert(
            0,
            Condition::AmbiguousRole {
                family: first.family.to_owned(),
                roles,
            },
        );
        return kept(conditions);
    }
    let claim = claims.first().map(|claim| (claim.family, claim.roles[0]));
    match (subject.owner, claim) {
        (None, None) => Desired {
            owner: None,
            revision: None,
            delivery: None,
            offerable: false,
            reason: Reason::Unassigned,
            conditions,
        },
        (None, Some((family, role))) => at_stable(program, family, role, conditions),
        (Some(owner), Some(claim)) if owner == claim => {
            at_stable(program, claim.0, claim.1, conditions)
        }
        (Some((owner, _)), claim) => {
            // A family without a stable revision claims nobody; its agents keep what its rollouts left them.
            if claim.is_some()
                || program
                    .family(owner)
                    .is_some_and(|family| family.stable.is_some())
            {
                let claimed_by = claim.map(|(family, role)| format!("{family}/{role}"));
                conditions.insert(0, Condition::OwnerChanging { claimed_by });
            }
            kept(conditions)
        }
    }
}

fn at_stable(program: &Program, family: &str, role: &str, conditions: Vec<Condition>) -> Desired {
    let stable = program
        .family(family)
        .and_then(|f| Some((f.stable?, f.role(f.stable?, role)?)));
    Desired {
        owner: Some((family.to_owned(), role.to_owned())),
        revision: stable.map(|(number, _)| number),
        delivery: stable.map(|(_, role)| role.delivery),
        offerable: true,
        reason: Reason::Stable,
        conditions,
    }
}

fn owned<F>(subject: &Subject<'_, F>) -> Option<(String, String)> {
    subject
        .owner
        .map(|(family, role)| (family.to_owned(), role.to_owned()))
}
