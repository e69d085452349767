//! Desired state: one pure function from what an agent is and the published program to what it should run.
//!
//! The same function sets pending bits, authorises offers, previews and simulates. It never says *when*: whether an
//! offer may be written now is [`crate::offer`]'s question.

mod desired;
pub mod word;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use desired::{desired, desired_borrowed, desired_placed};

use crate::components::{Available, Used, lacking};
use crate::digest::Digest;
use crate::selector::{Facts, Selector};

/// Stamp of a program: a higher one replaces a lower one. The upper 16 bits are the incarnation of the cluster, so
/// that a restored cluster is always ahead of its own past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Bits of an epoch that count within one incarnation: a thousand changes a second for 8,900 years.
const COUNTER_BITS: u32 = 48;

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
    /// Those that hold now: see [`crate::governance::pin::holding`].
    pub pins: Vec<ProgramPin>,
}

/// A pin as far as decisions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramPin {
    /// Family.
    pub family: String,
    /// Whom it holds.
    pub target: PinTarget,
    /// Where.
    pub revision: RevisionNumber,
}

/// Whom a pin holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinTarget {
    /// One agent, which is also brought there.
    Agent([u8; 16]),
    /// Agents that are only kept from anything else.
    Selected(Selector),
}

/// What happens to an agent whose owner is not who claims it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnerChange {
    /// It keeps owner and config until a person resolves it.
    #[default]
    Ask,
    /// It goes to who claims it, within the budget.
    Auto,
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
    /// What happens to agents that come to match another role or family, or no longer match this one.
    pub owner_change: OwnerChange,
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
    /// The components that its config uses, shared by everybody who has this program.
    pub needs: Arc<Used>,
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
    /// The last wave of every role has passed: late joiners get the target from now on.
    pub passed: bool,
    /// Stamp of the program it was opened by: who joined since is late.
    pub opened: Epoch,
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
    /// Family and role that the rollout takes it over from.
    pub taken_from: Option<(&'a str, &'a str)>,
}

/// A place, looked up in the program: what is the same for all members of a role's wave.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// Family of the rollout.
    pub family: &'a ProgramFamily,
    /// The rollout.
    pub rollout: &'a ProgramRollout,
    /// The role at the rollout's target.
    pub target: &'a ProgramRole,
    /// What the role gets at the revision before; none: there was no such role.
    pub before: Option<Digest>,
    /// Its wave is open.
    pub open: bool,
    /// A rollback covers it.
    pub covered: bool,
    /// A rollback covers it, and its turn has come.
    pub taken_back: bool,
}

/// Whose an agent is, and what a person has said last about that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whose<'a> {
    /// Family and role of the last authorised offer.
    pub owner: Option<(&'a str, &'a str)>,
    /// Family and role that a person has resolved its owner to, until it changes hands.
    pub granted: Option<(&'a str, &'a str)>,
    /// The program at the time; none: nobody has said anything.
    pub resolved: Option<Epoch>,
}

/// What is known of the agent that a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, F> {
    /// Instance uid.
    pub uid: [u8; 16],
    /// Labels and attributes.
    pub facts: &'a F,
    /// Family and role of the last authorised offer.
    pub owner: Option<(&'a str, &'a str)>,
    /// Delivery hash of the last authorised offer.
    pub delivery: Option<Digest>,
    /// Id of the rollout that the last authorised offer was made in; empty when it joined at stable.
    pub delivered_in: &'a str,
    /// Stamp of the program by which its owner came to own it; none: unowned.
    pub owned_since: Option<Epoch>,
    /// Family and role that a person has resolved its owner to.
    pub granted: Option<(&'a str, &'a str)>,
    /// The program when a person last said whose it is; none: nobody has.
    pub resolved: Option<Epoch>,
    /// A person has ordered its collector to be stopped.
    pub stopped: bool,
    /// The components of its build; none: it does not report them.
    pub components: Option<&'a Available>,
    /// Its place in a rollout that the program names.
    pub place: Option<Place<'a>>,
}

/// What an agent should run, and why. Its names are owned, or borrowed from the program: see [`desired_borrowed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired<S = String> {
    /// Family and role; none: unassigned.
    pub owner: Option<(S, S)>,
    /// Revision; none: a baseline, or what it has.
    pub revision: Option<RevisionNumber>,
    /// What to run; none: leave it as it is.
    pub delivery: Option<Digest>,
    /// May it be sent now? A rollout that stands still leaves its members what they have and sends nothing.
    pub offerable: bool,
    /// Why.
    pub reason: Reason<S>,
    /// What people should know about the decision.
    pub conditions: Vec<Condition>,
}

/// Why an agent should run what it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason<S = String> {
    /// No family claims it.
    Unassigned,
    /// The stable revision of its family.
    Stable,
    /// Its wave of this rollout is open.
    Wave {
        /// Rollout id.
        rollout: S,
    },
    /// Listed by this rollout, whose wave has not begun or which does not move.
    Waiting {
        /// Rollout id.
        rollout: S,
    },
    /// The rollout took its revision back.
    RolledBack {
        /// Rollout id.
        rollout: S,
    },
    /// A pin holds it at a revision.
    Pinned,
    /// A person ordered its collector to be stopped: the only reason for an empty config.
    Stopped,
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
    /// It joined its family while this rollout was open: outside of its figures.
    Late {
        /// Rollout id.
        rollout: String,
    },
    /// A member of a rollout that no longer matches its role and has not been offered anything.
    Relabelled {
        /// Rollout id.
        rollout: String,
    },
    /// It is not given what its role gets, since its build could not run that.
    LacksComponents {
        /// The family.
        family: String,
        /// What its build lacks, in words.
        components: String,
    },
}

/// How an agent fits the role that a list has for it, among the roles of the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The role does not match it.
    Not,
    /// That role alone matches it.
    Only,
    /// Others match it, too.
    Ambiguous,
}

/// A family's claim on an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'p> {
    /// Family name.
    pub family: &'p str,
    /// Roles that match, in the revision's order; more than one is ambiguous.
    pub roles: Vec<&'p str>,
}

// === impl Epoch ===

impl Epoch {
    /// Of the change with this number, in this incarnation of the cluster.
    pub fn new(incarnation: u16, counter: u64) -> Self {
        Epoch(u64::from(incarnation) << COUNTER_BITS | counter & ((1 << COUNTER_BITS) - 1))
    }

    /// The first that is later.
    pub fn next(self) -> Self {
        Epoch(self.0.saturating_add(1))
    }

    /// How often the cluster had been restored from a backup.
    pub fn incarnation(self) -> u16 {
        u16::try_from(self.0 >> COUNTER_BITS).unwrap_or(u16::MAX)
    }
}

// === impl Claim ===

impl<'p> Claim<'p> {
    /// Family and role, if exactly one role matches.
    pub fn only(&self) -> Option<(&'p str, &'p str)> {
        match self.roles[..] {
            [role] => Some((self.family, role)),
            _ => None,
        }
    }
}

// === impl Program ===

impl Program {
    /// The family of this name.
    pub fn family(&self, name: &str) -> Option<&ProgramFamily> {
        self.families.iter().find(|family| family.name == name)
    }

    /// Does it decide the same for every agent? A soak or a clock that is written down stamps a new program, which does.
    pub fn decides_as(&self, other: &Program) -> bool {
        let incarnation = |program: &Program| program.epoch.incarnation();
        incarnation(self) == incarnation(other)
            && self.families == other.families
            && self.pins == other.pins
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

    /// Which place decides for an agent that stands on several open lists: one that takes it over, as soon as its wave is
    /// open and unless a person has said otherwise since, and that of its owner's rollout until then. None: no list does.
    pub fn place_that_counts<'a>(
        &self,
        whose: Whose<'_>,
        places: &[Place<'a>],
    ) -> Option<Place<'a>> {
        let owner = whose.owner;
        let find = |counts: &dyn Fn(&ProgramFamily, &ProgramRollout, &Place<'_>) -> bool| {
            self.families.iter().find_map(|family| {
                let rollout = family.rollout.as_ref()?;
                let place = places.iter().find(|place| place.rollout == rollout.id)?;
                counts(family, rollout, place).then_some(*place)
            })
        };
        find(&|family, rollout, place| {
            rollout.gives(place)
                && owner.is_none_or(|owner| place.taken_from == Some(owner))
                && !whose.overrules(rollout, (&family.name, place.role))
        })
        .or_else(|| find(&|family, _, _| owner.is_none_or(|(owner, _)| owner == family.name)))
    }

    /// Who claims an agent with these facts, highest precedence first: by a stable revision, or by the target of a rollout
    /// whose last wave has passed.
    pub fn claims(&self, facts: &impl Facts) -> Vec<Claim<'_>> {
        self.families
            .iter()
            .filter_map(|family| family.claim(facts))
            .collect()
    }
}

// === impl Whose ===

impl Whose<'_> {
    /// Has a person said, since the rollout was opened, that the agent is elsewhere than `here`, where its list has it?
    /// Then the list decides no more.
    pub fn overrules(&self, rollout: &ProgramRollout, here: (&str, &str)) -> bool {
        let elsewhere = self.owner.is_some_and(|owner| owner != here);
        elsewhere && self.granted != Some(here) && self.is_said_since(rollout)
    }

    /// Is the agent `here` by a person's word that is younger than the list? Then it goes back to nobody whom the list
    /// has taken it from.
    pub fn settles(&self, rollout: &ProgramRollout, here: (&str, &str)) -> bool {
        let stays = self.granted.is_none_or(|to| to == here);
        self.owner == Some(here) && stays && self.is_said_since(rollout)
    }

    fn is_said_since(&self, rollout: &ProgramRollout) -> bool {
        self.resolved.is_some_and(|said| said >= rollout.opened)
    }
}

// === impl Subject ===

impl<'a, F> Subject<'a, F> {
    /// Whose it is.
    pub fn whose(&self) -> Whose<'a> {
        Whose {
            owner: self.owner,
            granted: self.granted,
            resolved: self.resolved,
        }
    }

    /// What its build lacks of what the config of this role uses, in words. None: nothing, or it has not said what it has,
    /// or it was offered that config before, or it was stopped by order: keeping what it has would leave it so.
    fn lacks(&self, role: &ProgramRole) -> Option<String> {
        let available = self.components?;
        let was_offered = self.delivery == Some(role.delivery);
        let was_stopped = self.delivery == Some(crate::family::stop_delivery());
        (!was_offered && !was_stopped)
            .then(|| lacking(&role.needs, available))
            .flatten()
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

    /// The revision that new agents join at.
    pub fn joins_at(&self) -> Option<RevisionNumber> {
        let passed = self.rollout.as_ref().filter(|r| r.passed && r.running);
        passed.map(|rollout| rollout.to).or(self.stable)
    }

    fn claim(&self, facts: &impl Facts) -> Option<Claim<'_>> {
        let roles = matching(self.roles(self.joins_at()?), facts);
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

    /// May this place have the target now: does the rollout move, is the wave open, and is it not taken back?
    pub fn gives(&self, place: &Place<'_>) -> bool {
        self.running && self.is_open(place) && !self.covers(place)
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

#[cfg(test)]
mod tests;
