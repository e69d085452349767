//! Desired state: one pure function from what an agent is and the published program to what it should run.

use super::{
    Claim, Condition, Desired, Fit, OwnerChange, PinTarget, Place, Placed, Program, ProgramFamily,
    ProgramRole, ProgramRollout, Reason, RevisionNumber, Subject, matching,
};
use crate::digest::Digest;
use crate::family::stop_delivery;
use crate::governance::pin;
use crate::selector::Facts;

/// What the agent should run under this program.
///
/// An order to stop goes first, then a pin, then the list of an open rollout, then who owns or claims it.
pub fn desired<F: Facts>(subject: &Subject<'_, F>, program: &Program) -> Desired {
    desired_borrowed(subject, program).named()
}

/// As [`desired`], with names that are borrowed.
pub fn desired_borrowed<'a, F: Facts>(
    subject: &Subject<'a, F>,
    program: &'a Program,
) -> Desired<&'a str> {
    let placed = subject.place.and_then(|place| Placed::of(program, &place));
    let fit = |roles: &[ProgramRole], target: &ProgramRole| {
        Fit::of(target.selector.matches(subject.facts), || {
            matching(roles, subject.facts).len()
        })
    };
    desired_placed(subject, placed.as_ref(), program, fit)
}

/// As [`desired_borrowed`], for who asks it of every member of a large rollout: with the subject's place looked up before,
/// and with what the selectors of its rollout's target, and of its role among them, say of the subject, which is only asked
/// for where it counts.
pub fn desired_placed<'a, F: Facts>(
    subject: &Subject<'a, F>,
    placed: Option<&Placed<'a>>,
    program: &'a Program,
    fit: impl FnOnce(&[ProgramRole], &ProgramRole) -> Fit,
) -> Desired<&'a str> {
    if subject.stopped {
        return Desired {
            delivery: Some(stop_delivery()),
            offerable: true,
            ..kept(subject, Reason::Stopped, vec![])
        };
    }
    // A person's word goes before the list of the family that it leaves.
    let listed = || {
        let placed = placed.filter(|_| !is_let_go(subject, program))?;
        desired_as_member(subject, subject.place.as_ref()?, placed, program, fit)
    };
    match desired_by_pin(subject, program) {
        None => listed().unwrap_or_else(|| desired_at_stable(subject, program)),
        Some(pinned) if pinned.offerable => pinned,
        // Who is only held must not be held at what is taken back.
        Some(pinned) => listed()
            .filter(|listed| matches!(listed.reason, Reason::RolledBack { .. }))
            .unwrap_or(pinned),
    }
}

/// As a member of an open rollout; none when the list no longer decides for it (it went to another family or role).
fn desired_as_member<'a, F: Facts>(
    subject: &Subject<'a, F>,
    place: &Place<'a>,
    placed: &Placed<'a>,
    program: &'a Program,
    fit: impl FnOnce(&[ProgramRole], &ProgramRole) -> Fit,
) -> Option<Desired<&'a str>> {
    let Placed {
        family,
        rollout,
        target,
        ..
    } = placed;
    let here = (family.name.as_str(), place.role);
    let whose = subject.whose();
    if whose.overrules(rollout, here) {
        return None;
    }
    // Who has come to stay is its own, as if it had been taken from nobody.
    let settled = whose.settles(rollout, here);
    let place = &Place {
        taken_from: place.taken_from.filter(|_| !settled),
        ..*place
    };
    let elsewhere = subject.owner.filter(|owner| *owner != here);
    if elsewhere.is_some() && elsewhere != place.taken_from {
        return None;
    }
    // Who was taken over and then stopped by order has still come here by this list only.
    let stopped = subject.delivery == Some(stop_delivery()) && elsewhere.is_none();
    let touched = subject.delivered_in == rollout.id || stopped && place.taken_from.is_some();
    let id = || rollout.id.as_str();
    if touched && placed.taken_back {
        let (owner, revision, delivery) = before(program, family, rollout, place, target);
        return Some(Desired {
            owner: Some(owner),
            revision,
            delivery: Some(delivery),
            offerable: true,
            reason: Reason::RolledBack { rollout: id() },
            conditions: vec![],
        });
    }
    let has_target = subject.delivery == Some(target.delivery);
    let gives = rollout.running && placed.open && !placed.covered;
    if has_target || gives {
        let roles = family.roles(rollout.to);
        let fits = match touched || has_target {
            true => Fit::Only,
            false => fit(roles, target),
        };
        let keeps = match fits {
            Fit::Only => None,
            Fit::Not => Some(Condition::Relabelled {
                rollout: id().to_owned(),
            }),
            Fit::Ambiguous => {
                let roles = matching(roles, subject.facts).into_iter();
                Some(Condition::AmbiguousRole {
                    family: family.name.clone(),
                    roles: roles.map(str::to_owned).collect(),
                })
            }
        };
        if let Some(condition) = keeps {
            return Some(kept(subject, Reason::Kept, vec![condition]));
        }
        if !touched && let Some(components) = subject.lacks(target) {
            let lacks = lacking(&family.name, components);
            return Some(kept(subject, Reason::Kept, vec![lacks]));
        }
        let offerable = rollout.running && placed.open;
        return Some(Desired {
            owner: Some(here),
            revision: Some(rollout.to),
            delivery: Some(target.delivery),
            offerable,
            reason: Reason::Wave { rollout: id() },
            conditions: vec![],
        });
    }
    // Its wave has not begun: what it would have without this rollout.
    let delivery = placed.before.filter(|_| subject.owner == Some(here));
    // Delivered outside of any rollout: at stable, by a pin, or an order to stop that was taken back.
    let outside = subject.delivered_in.is_empty();
    // Who was not touched by a rollout that goes back, or has gone back, is governed by it no more. What another rollout
    // has left there is not swept away all at once: that is the next rollout's work.
    if !touched && rollout.returning && (outside || subject.delivery == delivery) {
        return None;
    }
    Some(Desired {
        owner: subject.owner,
        revision: rollout.from,
        delivery,
        offerable: outside && delivery.is_some() && subject.delivery != delivery,
        reason: Reason::Waiting { rollout: id() },
        conditions: vec![],
    })
}

/// What a member has when the rollout is taken away: what it was taken from, the revision before, or the role's baseline.
fn before<'a>(
    program: &Program,
    family: &'a ProgramFamily,
    rollout: &ProgramRollout,
    place: &Place<'a>,
    target: &ProgramRole,
) -> ((&'a str, &'a str), Option<RevisionNumber>, Digest) {
    let (name, role) = place.taken_from.unwrap_or((&family.name, place.role));
    let revision = match place.taken_from {
        Some((owner, _)) => program.family(owner).and_then(|family| family.stable),
        None => rollout.from,
    };
    let had = program.family(name).zip(revision);
    let had = had.and_then(|(family, revision)| Some((revision, family.role(revision, role)?)));
    if let Some((revision, had)) = had {
        return ((name, role), Some(revision), had.delivery);
    }
    // Nothing to go back to: the baseline of the role that it had, as far as this family has that role.
    let own = family
        .role(rollout.to, role)
        .filter(|_| name == family.name);
    match own {
        Some(own) => ((name, role), None, own.baseline),
        None => ((&family.name, place.role), None, target.baseline),
    }
}

/// A pin on the family that owns it. One that names the agent brings it there; one that selects it only holds it.
fn desired_by_pin<'a, F: Facts>(
    subject: &Subject<'a, F>,
    program: &Program,
) -> Option<Desired<&'a str>> {
    let (family, role) = subject.owner?;
    let pin = pin::of(&program.pins, family, &subject.uid, subject.facts)?;
    let delivery = program.family(family)?.role(pin.revision, role);
    Some(Desired {
        revision: Some(pin.revision),
        delivery: delivery.map(|role| role.delivery),
        offerable: matches!(pin.target, PinTarget::Agent(_)),
        ..kept(subject, Reason::Pinned, vec![])
    })
}

/// Outside of any rollout: an unowned agent joins, an owned one stays with its owner.
fn desired_at_stable<'a, F: Facts>(
    subject: &Subject<'a, F>,
    program: &'a Program,
) -> Desired<&'a str> {
    let claims = program.claims(subject.facts);
    let mut conditions: Vec<Condition> = claims
        .iter()
        .skip(1)
        .map(|claim| Condition::Shadowed {
            family: claim.family.to_owned(),
        })
        .collect();
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
        return kept(subject, Reason::Kept, conditions);
    }
    let claim = claims.first().and_then(Claim::only);
    match (subject.owner, claim) {
        (None, None) => kept(subject, Reason::Unassigned, conditions),
        (None, Some(claim)) => join(subject, program, claim, conditions),
        (Some(owner), _) if subject.granted == Some(owner) => {
            join(subject, program, owner, conditions)
        }
        (Some(owner), Some(claim)) if owner == claim => join(subject, program, claim, conditions),
        (Some(owner), Some(claim)) if is_resolved(subject, program, owner, claim) => {
            join(subject, program, claim, conditions)
        }
        // What it keeps is what it had before it was stopped.
        (Some(owner), _) if subject.delivery == Some(stop_delivery()) => {
            join(subject, program, owner, conditions)
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
            kept(subject, Reason::Kept, conditions)
        }
    }
}

/// Has a person said that it goes from who owns it to who claims it?
fn is_let_go<F: Facts>(subject: &Subject<'_, F>, program: &Program) -> bool {
    let to = subject.granted.filter(|_| subject.owner.is_some());
    to.is_some_and(|to| {
        let claims = program.claims(subject.facts);
        subject.owner != Some(to) && claims.first().and_then(Claim::only) == Some(to)
    })
}

/// May the agent go to who claims it: has a person said so, or do both families let their agents go?
fn is_resolved<F>(
    subject: &Subject<'_, F>,
    program: &Program,
    owner: (&str, &str),
    claim: (&str, &str),
) -> bool {
    let policy = |family: &str| program.family(family).map(|family| family.owner_change);
    subject.granted == Some(claim)
        || policy(claim.0) == Some(OwnerChange::Auto) && policy(owner.0) == Some(OwnerChange::Auto)
}

/// At the family's stable revision; who comes while a rollout is open is late, and gets the target once the last wave
/// has passed.
fn join<'a, F>(
    subject: &Subject<'a, F>,
    program: &Program,
    (family, role): (&'a str, &'a str),
    mut conditions: Vec<Condition>,
) -> Desired<&'a str> {
    let mut revision = None;
    let mut stands = false;
    let mut joins = None;
    if let Some(found) = program.family(family) {
        let rollout = found.rollout.as_ref();
        let own = subject.owner.is_some_and(|(owner, _)| owner == family);
        let since = subject.owned_since.filter(|_| own);
        let late = rollout.filter(|rollout| {
            !rollout.returning && since.is_none_or(|since| since >= rollout.opened)
        });
        joins = late.map(|rollout| Condition::Late {
            rollout: rollout.id.clone(),
        });
        // A rollout that stands still takes nothing back from those that came after its last wave, either.
        let kept = late
            .filter(|rollout| !rollout.running && own)
            .filter(|rollout| {
                let target = found.role(rollout.to, role);
                target.is_some_and(|target| subject.delivery == Some(target.delivery))
            });
        stands = kept.is_some();
        let number = kept.map(|rollout| rollout.to);
        let number = number.or(late.and(found.joins_at())).or(found.stable);
        revision = number.and_then(|number| Some((number, found.role(number, role)?)));
    }
    // No wave and no gate would see it fail.
    if let Some(components) = revision.and_then(|(_, role)| subject.lacks(role)) {
        conditions.insert(0, lacking(family, components));
        return kept(subject, Reason::Kept, conditions);
    }
    conditions.extend(joins);
    Desired {
        owner: Some((family, role)),
        revision: revision.map(|(number, _)| number),
        delivery: revision.map(|(_, role)| role.delivery),
        offerable: !stands,
        reason: Reason::Stable,
        conditions,
    }
}

fn lacking(family: &str, components: String) -> Condition {
    Condition::LacksComponents {
        family: family.to_owned(),
        components,
    }
}

/// It keeps what it has.
fn kept<'a, F>(
    subject: &Subject<'a, F>,
    reason: Reason<&'a str>,
    conditions: Vec<Condition>,
) -> Desired<&'a str> {
    Desired {
        owner: subject.owner,
        revision: None,
        delivery: None,
        offerable: false,
        reason,
        conditions,
    }
}

// === impl Fit ===

impl Fit {
    /// Of whom its role matches or not; `count` says how many roles do.
    pub fn of(matches: bool, count: impl FnOnce() -> usize) -> Self {
        match matches {
            false => Fit::Not,
            true if count() > 1 => Fit::Ambiguous,
            true => Fit::Only,
        }
    }
}

// === impl Placed ===

impl<'a> Placed<'a> {
    /// Looks a place up; none: the program does not name its rollout, or the rollout's target has no such role.
    pub fn of(program: &'a Program, place: &Place<'_>) -> Option<Self> {
        let (family, rollout) = program.rollout(place.rollout)?;
        let role = |revision| family.role(revision, place.role);
        Some(Placed {
            target: role(rollout.to)?,
            before: rollout.from.and_then(role).map(|role| role.delivery),
            open: rollout.is_open(place),
            covered: rollout.covers(place),
            taken_back: rollout.takes_back(place),
            family,
            rollout,
        })
    }
}

// === impl Desired ===

impl Desired<&str> {
    /// With names of its own.
    pub fn named(&self) -> Desired {
        let Desired {
            owner,
            revision,
            delivery,
            offerable,
            reason,
            conditions,
        } = self.clone();
        let reason = match reason {
            Reason::Unassigned => Reason::Unassigned,
            Reason::Stable => Reason::Stable,
            Reason::Wave { rollout: id } => Reason::Wave {
                rollout: id.to_owned(),
            },
            Reason::Waiting { rollout: id } => Reason::Waiting {
                rollout: id.to_owned(),
            },
            Reason::RolledBack { rollout: id } => Reason::RolledBack {
                rollout: id.to_owned(),
            },
            Reason::Pinned => Reason::Pinned,
            Reason::Stopped => Reason::Stopped,
            Reason::Kept => Reason::Kept,
        };
        Desired {
            owner: owner.map(|(family, role)| (family.to_owned(), role.to_owned())),
            revision,
            delivery,
            offerable,
            reason,
            conditions,
        }
    }
}
