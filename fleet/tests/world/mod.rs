//! A small world around the domain: agents that behave and misbehave, a partition that authorises offers, a controller
//! that observes, plans and performs. Everything that would be replicated survives [`World::kill_decider`].
//!
//! It decides nothing itself: what may be sent and how a rollout moves is asked of `fleet`, as the node does.

pub mod agent;
pub mod observe;
pub mod operator;

use std::collections::{BTreeMap, BTreeSet};

use fleet::audit::{self, Entry, Head, Record};
use fleet::budget::{Budget, Domain, needs_room};
use fleet::digest::Digest;
use fleet::governance::freeze::{self, Freeze};
use fleet::offer::{self, Decision, Situation, State as OfferState};
use fleet::program::{
    Desired, Epoch, Place, Program, ProgramFamily, ProgramPin, ProgramRole, ProgramRollout, Reason,
    RevisionNumber, Subject, desired,
};
use fleet::rollout::{Rollout, State, Step, plan};
use fleet::selector::Selector;

pub use agent::{Agent, Delivery, Reaction};

/// Unanswered offers of this age are closed.
pub const OFFER_TIMEOUT_MS: u64 = 60_000;
/// One step of the world.
pub const TICK_MS: u64 = 1_000;
/// What a crash of the controller may lose.
const KEEP_MS: u64 = 5_000;

pub type Id = u32;

/// Name, selector, roles before it.
pub type FamilyRole = (String, Selector, Vec<String>);

/// A family as the control group keeps it.
#[derive(Clone, Debug)]
pub struct Family {
    pub precedence: i64,
    pub stable: Option<u64>,
    pub latest: u64,
    pub roles: Vec<FamilyRole>,
    /// What the next revision says instead.
    pub draft: Option<Vec<FamilyRole>>,
    pub rollout: Option<String>,
}

/// A rollout as it is stored, and as the controller has it in memory.
#[derive(Clone, Debug)]
pub struct Doc {
    pub family: String,
    pub from: Option<u64>,
    pub to: u64,
    pub opened: u64,
    pub kept: Rollout,
    pub memory: Rollout,
    pub kept_at_ms: u64,
    pub members: BTreeMap<Id, Member>,
    pub waiting: Vec<String>,
}

/// A line of a rollout's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub role: String,
    pub wave: u32,
    pub unchanged: bool,
}

/// What happened, for invariants and transcripts.
#[derive(Clone, Debug)]
pub enum Event {
    Offered {
        agent: Id,
        hash: Digest,
        desired: Desired,
        /// Its failure domain, with this offer in flight.
        domain: Option<Domain>,
    },
    Answered {
        agent: Id,
        hash: Digest,
        failed: bool,
    },
    Retried {
        agent: Id,
    },
    Planned {
        rollout: String,
        steps: Vec<Step>,
        before: Rollout,
        blind: bool,
    },
    Moved {
        rollout: String,
        to: State,
        cause: String,
    },
}

pub struct World {
    pub now_ms: u64,
    pub epoch: u64,
    pub agents: BTreeMap<Id, Agent>,
    pub families: BTreeMap<String, Family>,
    pub rollouts: BTreeMap<String, Doc>,
    pub pins: Vec<ProgramPin>,
    pub freezes: Vec<Freeze>,
    pub budget: Option<Budget>,
    /// A partition cannot be read.
    pub blind: bool,
    pub audit: Vec<Entry>,
    pub head: Head,
    pub events: Vec<Event>,
    /// How an agent takes a delivery; anything else applies it.
    pub reactions: BTreeMap<(Id, Digest), Reaction>,
}

impl World {
    pub fn new() -> Self {
        World {
            now_ms: 0,
            epoch: 1,
            agents: BTreeMap::new(),
            families: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            pins: vec![],
            freezes: vec![],
            budget: None,
            blind: false,
            audit: vec![],
            head: Head::genesis("world"),
            events: vec![],
            reactions: BTreeMap::new(),
        }
    }

    /// Everything moves on by one tick.
    pub fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let ids: Vec<Id> = self.agents.keys().copied().collect();
        let program = self.program();
        for id in ids {
            self.live(id, &program);
        }
        let open: Vec<String> = self.rollouts.keys().cloned().collect();
        for id in open {
            self.control(&id);
        }
    }

    /// The controller dies; its successor knows what was stored.
    pub fn kill_decider(&mut self) {
        for doc in self.rollouts.values_mut() {
            doc.memory = doc.kept.clone();
        }
    }

    pub fn program(&self) -> Program {
        let mut families: Vec<ProgramFamily> = self
            .families
            .iter()
            .map(|(name, family)| self.program_family(name, family))
            .collect();
        families.sort_by_key(|family| std::cmp::Reverse(family.precedence));
        Program {
            epoch: Epoch(self.epoch),
            families,
            pins: self.pins.clone(),
        }
    }

    fn program_family(&self, name: &str, family: &Family) -> ProgramFamily {
        let roles = |revision: u64| -> Vec<ProgramRole> {
            let role = |(role, selector, _): &FamilyRole| ProgramRole {
                name: role.clone(),
                selector: selector.clone(),
                delivery: delivery(name, role, revision),
                baseline: delivery(name, role, 0),
            };
            family.roles.iter().map(role).collect()
        };
        let rollout = family.rollout.as_ref().and_then(|id| {
            let doc = &self.rollouts[id];
            let rollout = &doc.kept;
            let gone = matches!(
                rollout.state,
                State::Completed | State::Aborted | State::Superseded
            );
            let open = |role: &fleet::rollout::Role| (role.name.clone(), role.open_waves);
            (!gone).then(|| ProgramRollout {
                id: id.clone(),
                from: doc.from.map(RevisionNumber),
                to: RevisionNumber(doc.to),
                running: rollout.state == State::Running,
                open_waves: rollout.roles.iter().map(open).collect(),
                roll_back: rollout.roll_back.clone(),
                passed: rollout.has_passed(),
                opened: Epoch(doc.opened),
                returning: matches!(rollout.state, State::RollingBack | State::RolledBack),
            })
        });
        ProgramFamily {
            name: name.to_owned(),
            precedence: family.precedence,
            stable: family.stable.map(RevisionNumber),
            revisions: self
                .needed(name, family)
                .into_iter()
                .map(|n| (RevisionNumber(n), roles(n)))
                .collect(),
            owner_change: fleet::program::OwnerChange::Ask,
            rollout,
        }
    }

    /// Revisions that decisions need.
    fn needed(&self, name: &str, family: &Family) -> BTreeSet<u64> {
        let doc = family.rollout.as_ref().map(|id| &self.rollouts[id]);
        let ends = doc.map(|doc| [doc.from, Some(doc.to)]).unwrap_or_default();
        let pins = self.pins.iter().filter(|pin| pin.family == name);
        let mut needed: BTreeSet<u64> = pins.map(|pin| pin.revision.0).collect();
        needed.extend(ends.into_iter().flatten().chain(family.stable));
        needed
    }

    /// The place of an agent in the one rollout whose list has it and that the program names.
    pub fn place(&self, id: Id, program: &Program) -> Option<(String, String, u32)> {
        let named = program.families.iter().filter_map(|f| f.rollout.as_ref());
        let places = named.filter_map(|named| {
            let (rollout, doc) = (&named.id, &self.rollouts[&named.id]);
            let member = doc.members.get(&id)?;
            Some((rollout.clone(), member.role.clone(), member.wave))
        });
        let owner = self.agents[&id].owner.as_ref();
        let mut places: Vec<_> = places.collect();
        places.sort_by_key(|(rollout, ..)| {
            owner.is_none_or(|(family, _)| self.rollouts[rollout].family != *family)
        });
        places.into_iter().next()
    }

    pub fn desired(&self, id: Id, program: &Program) -> Desired {
        let agent = &self.agents[&id];
        let place = self.place(id, program);
        let last = agent.delivery.as_ref();
        desired(
            &Subject {
                uid: uid(id),
                facts: &agent.labels,
                owner: agent.owner.as_ref().map(|(f, r)| (f.as_str(), r.as_str())),
                delivery: last.map(|d| d.hash),
                delivered_in: last.map_or("", |d| &d.rollout),
                owned_since: agent.owned_since.map(Epoch),
                granted: None,
                stopped: agent.stopped,
                place: place.as_ref().map(|(rollout, role, wave)| Place {
                    rollout,
                    role,
                    wave: *wave,
                    taken_from: None,
                }),
            },
            program,
        )
    }

    /// One agent lives for a tick, and checks in when its poll is due.
    fn live(&mut self, id: Id, program: &Program) {
        let now = self.now_ms;
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        agent.work(now);
        if let Some(delivery) = &mut agent.delivery
            && let Some(next) = offer::on_time(&delivery.offer(now), OFFER_TIMEOUT_MS)
        {
            delivery.state = next;
        }
        let agent = self.agents.get_mut(&id).expect("it was there");
        if !agent.checks_in(id, now) {
            return;
        }
        if let Some((hash, reported, error)) = agent.report(now) {
            let before = agent.delivery.as_ref().map(|d| d.offer(now));
            if let Some(next) = before.and_then(|last| offer::on_report(&last, hash, reported)) {
                let failed = matches!(next, OfferState::Failed | OfferState::RolledBackByAgent);
                let delivery = agent.delivery.as_mut().expect("an offer was moved");
                delivery.state = next;
                if !error.is_empty() {
                    delivery.error = error;
                }
                let hash = delivery.hash;
                if failed && !agent.refused.contains(&hash) {
                    agent.refused.push(hash);
                }
                let event = Event::Answered {
                    agent: id,
                    hash,
                    failed,
                };
                self.events.push(event);
            }
        }
        self.authorise(id, program);
    }

    fn authorise(&mut self, id: Id, program: &Program) {
        let wants = self.desired(id, program);
        let agent = &self.agents[&id];
        let situation = Situation {
            desired: wants.delivery,
            offerable: wants.offerable,
            has_room: !needs_room(&wants.reason) || self.has_room(id),
            last: agent.delivery.as_ref().map(|d| d.offer(self.now_ms)),
            reported: agent.reported,
            refused: &agent.refused,
            accepts: true,
            many_collectors: false,
            duplicate: agent.duplicate,
            changes_owner: false,
            proves_not_received: false,
        };
        let (hash, sent) = match offer::decide(&situation) {
            Decision::Offer(hash) => (hash, true),
            Decision::Adopt(hash) => (hash, false),
            Decision::Nothing(_) => return,
        };
        let rollout = match &wants.reason {
            Reason::Wave { rollout } | Reason::RolledBack { rollout } => rollout.clone(),
            _ => String::new(),
        };
        let (now, epoch) = (self.now_ms, self.epoch);
        let agent = self.agents.get_mut(&id).expect("it is there");
        if agent.owner.as_ref().map(|(f, _)| f) != wants.owner.as_ref().map(|(f, _)| f) {
            agent.owned_since = Some(epoch);
        }
        agent.owner.clone_from(&wants.owner);
        agent.delivery = Some(Delivery {
            hash,
            rollout,
            state: if sent {
                OfferState::Offered
            } else {
                OfferState::Applied
            },
            grants: 1,
            offered_ms: now,
            was_healthy: agent.told_healthy,
            error: String::new(),
            restarts: 0,
        });
        if !sent {
            return;
        }
        let reaction = self.reactions.get(&(id, hash)).copied().unwrap_or_default();
        agent.receive(hash, reaction, now);
        self.act("partition", "offer", &name(id), &hash.to_string());
        let domain = self.budget.as_ref().map(|budget| {
            let zone = |agent: &Agent| agent.labels.get(&budget.label).cloned();
            let own = zone(&self.agents[&id]);
            self.domain(|agent| zone(agent) == own)
        });
        self.events.push(Event::Offered {
            agent: id,
            hash,
            desired: wants,
            domain,
        });
    }

    /// Is there room in the agent's zone, over all rollouts?
    fn has_room(&self, id: Id) -> bool {
        let Some(budget) = &self.budget else {
            return true;
        };
        let zone = |agent: &Agent| agent.labels.get(&budget.label).cloned();
        let own = zone(&self.agents[&id]);
        budget.room(&self.domain(|agent| zone(agent) == own), false) > 0
    }

    pub fn domain(&self, of: impl Fn(&Agent) -> bool) -> Domain {
        let mut domain = Domain::default();
        for agent in self.agents.values().filter(|a| !a.deleted && of(a)) {
            domain.agents += 1;
            if agent.is_in_flight() {
                domain.in_flight += 1;
            } else if !agent.told_healthy {
                domain.unhealthy += 1;
            }
        }
        domain
    }

    /// The controller looks at one rollout.
    fn control(&mut self, id: &str) {
        let doc = &self.rollouts[id];
        if doc.memory.state.is_final() {
            return;
        }
        let (mut observed, _) = self.observe(id, &self.program());
        let frozen = freeze::blocks(&self.freezes, &doc.family, &doc.memory, self.now_ms);
        observed.freeze = frozen;
        if self.blind {
            observed.evidence_age_ms = None;
        }
        let before = doc.memory.clone();
        let next = plan(&before, &observed, TICK_MS);
        let doc = self.rollouts.get_mut(id).expect("it is there");
        let moved = doc.memory.apply(&next);
        doc.waiting = next.waiting.iter().map(ToString::to_string).collect();
        let due = self.now_ms - doc.kept_at_ms >= KEEP_MS;
        if !next.steps.is_empty() || due {
            doc.kept = doc.memory.clone();
            doc.kept_at_ms = self.now_ms;
        }
        if !next.steps.is_empty() {
            self.epoch += 1;
            self.events.push(Event::Planned {
                rollout: id.to_owned(),
                steps: next.steps,
                before,
                blind: self.blind,
            });
        }
        for transition in moved {
            self.moved(id, "controller", transition.to, &transition.cause);
        }
    }

    /// Writes a change of state down, and what it means for the family.
    pub fn moved(&mut self, id: &str, actor: &str, to: State, cause: &str) {
        self.act(actor, &format!("rollout.{}", to.name()), id, cause);
        let doc = &self.rollouts[id];
        if to == State::Completed {
            let family = self.families.get_mut(&doc.family).expect("it is there");
            family.stable = Some(doc.to);
        }
        self.events.push(Event::Moved {
            rollout: id.to_owned(),
            to,
            cause: cause.to_owned(),
        });
    }

    pub fn act(&mut self, actor: &str, action: &str, object: &str, detail: &str) {
        let record = Record {
            actor: actor.to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            detail: detail.to_owned(),
            at_ms: self.now_ms,
        };
        let (head, entry) = audit::append(self.head, record);
        self.head = head;
        self.audit.push(entry);
    }

    pub fn live_ids(&self) -> BTreeSet<Id> {
        let live = self.agents.iter().filter(|(_, agent)| !agent.deleted);
        live.map(|(id, _)| *id).collect()
    }
}

/// What a role is sent in a revision. Gateways change with every other revision only.
pub fn delivery(family: &str, role: &str, revision: u64) -> Digest {
    let content = match role {
        "gateway" => revision / 2,
        _ => revision,
    };
    let kind: &[u8] = if revision == 0 {
        b"baseline"
    } else {
        b"config"
    };
    Digest::of(
        "world",
        &[
            family.as_bytes(),
            role.as_bytes(),
            kind,
            &content.to_le_bytes(),
        ],
    )
}

pub fn uid(id: Id) -> [u8; 16] {
    u128::from(id).to_be_bytes()
}

pub fn name(id: Id) -> String {
    format!("host-{id:02}")
}
