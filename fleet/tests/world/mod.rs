//! A small world around the domain: agents that behave and misbehave, a partition that authorises offers, a controller
//! that observes, plans and performs. Everything that would be replicated survives [`World::kill_decider`].
//!
//! It decides nothing itself: what may be sent and how a rollout moves is asked of `fleet`, as the node does.

pub mod agent;
pub mod observe;
pub mod operator;
mod program;
pub mod room;

use std::collections::{BTreeMap, BTreeSet};

use fleet::audit::{self, Entry, Head, Record};
use fleet::budget::{Budget, Partition};
use fleet::digest::Digest;
use fleet::governance::freeze::{self, Freeze};
use fleet::offer::{self, Decision, Situation, State as OfferState};
use fleet::program::{Desired, OwnerChange, Program, ProgramPin, Reason};
use fleet::rollout::{Rollout, State, Step, plan};
use fleet::selector::Selector;

pub use agent::{Agent, Delivery, Reaction};
pub use program::{borrowed, delivery, name, uid};
pub use room::Rooms;

/// Unanswered offers of this age are closed.
pub const OFFER_TIMEOUT_MS: u64 = 60_000;
/// One step of the world.
pub const TICK_MS: u64 = 1_000;
/// What a crash of the controller may lose.
const KEEP_MS: u64 = 5_000;

pub type Id = u32;

/// Family and role.
pub type Owner = (String, String);

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
    pub owner_change: OwnerChange,
}

/// A rollout as it is stored, and as the controller has it in memory.
#[derive(Clone, Debug)]
pub struct Doc {
    pub family: String,
    pub from: Option<u64>,
    pub to: u64,
    pub opened: u64,
    /// From which program on a failure counts.
    pub since: u64,
    pub kept: Rollout,
    pub memory: Rollout,
    pub kept_at_ms: u64,
    pub members: BTreeMap<Id, Member>,
    pub waiting: Vec<String>,
    /// What persons have said: by role and wave, who was asked, and pass or fail.
    pub answers: BTreeMap<(String, u32), (String, bool)>,
}

/// A line of a rollout's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub role: String,
    pub wave: u32,
    pub unchanged: bool,
    pub taken_from: Option<Owner>,
}

/// What happened, for invariants and transcripts.
#[derive(Clone, Debug)]
pub enum Event {
    Offered {
        agent: Id,
        hash: Digest,
        desired: Desired,
        /// Whose it was, and what it had been given, in which rollout.
        before: (Option<Owner>, Option<(Digest, String)>),
        /// It needed room: how much is taken there now.
        limited: Option<Limited>,
    },
    Answered {
        agent: Id,
        hash: Digest,
        failed: bool,
    },
    Retried {
        agent: Id,
    },
    /// It changed hands without being sent anything: it runs the other's config already.
    Adopted {
        agent: Id,
        desired: Desired,
        from: Option<Owner>,
    },
    /// A person has resolved whose it is.
    Resolved {
        agent: Id,
        /// Whose it was.
        from: Owner,
        /// None: what was said before is taken back.
        to: Option<Owner>,
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

/// What is in flight in a failure domain of what needed room, with the offer at hand.
#[derive(Clone, Debug)]
pub struct Limited {
    pub domain: String,
    pub ordinary: u64,
    pub urgent: u64,
    /// Unhealthy when quotas were given.
    pub sick: u64,
    /// In flight then without having waited for room in the domain.
    pub unasked: u64,
    /// The offer at hand has waited for room in the domain, not only for its wave.
    pub waited: bool,
    /// The offer at hand is urgent.
    pub urgent_now: bool,
    /// In flight of its rollout and role, in all domains.
    pub in_wave: u64,
    /// Of which so many waves are open.
    pub open_waves: u32,
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
    pub partitions: u32,
    /// Partitions that the controller cannot reach.
    pub unreachable: BTreeSet<Partition>,
    pub rooms: Rooms,
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
            partitions: 1,
            unreachable: BTreeSet::new(),
            rooms: Rooms::default(),
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
        self.divide(&program);
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
        self.rooms.forget();
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
            if let Some(next) =
                before.and_then(|last| offer::on_report(&last, hash, reported, false))
            {
                let failed = matches!(next, OfferState::Failed | OfferState::RolledBackByAgent);
                let delivery = agent.delivery.as_mut().expect("an offer was moved");
                delivery.state = next;
                if !error.is_empty() {
                    delivery.error = error;
                }
                let (hash, epoch) = (delivery.hash, program.epoch.0);
                let failure = offer::failure_of(&delivery.error);
                if failed && !agent.refused.contains(&hash) {
                    agent.refused.push(hash);
                    agent.refusals.insert(hash, (epoch, failure));
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

    pub fn situation(&self, id: Id, wants: &Desired, has_room: bool) -> Situation<'_> {
        let agent = &self.agents[&id];
        Situation {
            desired: wants.delivery,
            offerable: wants.offerable,
            has_room,
            last: agent.delivery.as_ref().map(|d| d.offer(self.now_ms)),
            reported: agent.reported,
            refused: &agent.refused,
            accepts: true,
            many_collectors: false,
            duplicate: agent.duplicate,
            doubt: fleet::restored::Doubt::None,
            changes_owner: wants.owner.is_some() && wants.owner != agent.owner,
            proves_not_received: false,
        }
    }

    fn authorise(&mut self, id: Id, program: &Program) {
        let wants = self.desired(id, program);
        let (hash, sent) = match offer::decide(&self.situation(id, &wants, true)) {
            Decision::Offer(hash) if self.take_room(id, &wants) => (hash, true),
            Decision::Adopt(hash) => (hash, false),
            Decision::Offer(_) | Decision::Nothing(_) => return,
        };
        let lane = self.lane(id, &wants);
        let rollout = match &wants.reason {
            Reason::Wave { rollout } | Reason::RolledBack { rollout } => rollout.clone(),
            _ => String::new(),
        };
        let (now, epoch) = (self.now_ms, self.epoch);
        // A way back waits for its own wave only: in its domain it counts as what has waited for nothing.
        let waited = lane.as_ref().filter(|lane| !self.is_back(&lane.rollout));
        let limited = waited.map(|lane| self.is_urgent(&lane.rollout));
        let agent = self.agents.get_mut(&id).expect("it is there");
        let last = agent.delivery.as_ref();
        let before = (
            agent.owner.clone(),
            last.map(|d| (d.hash, d.rollout.clone())),
        );
        if agent.owner != wants.owner {
            // What a person has resolved is done.
            agent.granted = None;
        }
        if agent.owner.as_ref().map(|(f, _)| f) != wants.owner.as_ref().map(|(f, _)| f) {
            agent.owned_since = Some(epoch);
        }
        agent.owner.clone_from(&wants.owner);
        agent.delivery = Some(Delivery {
            hash,
            rollout,
            epoch,
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
            limited,
        });
        if !sent {
            self.events.push(Event::Adopted {
                agent: id,
                desired: wants,
                from: before.0,
            });
            return;
        }
        let reaction = self.reactions.get(&(id, hash)).copied().unwrap_or_default();
        agent.receive(hash, reaction, now);
        self.act("partition", "offer", &name(id), &hash.to_string());
        let limited = lane.map(|lane| self.limited(id, lane));
        self.events.push(Event::Offered {
            agent: id,
            hash,
            desired: wants,
            before,
            limited,
        });
    }

    /// What needed room and is in flight in this domain.
    fn limited(&self, id: Id, lane: room::Lane) -> Limited {
        let domain = lane.domain.clone();
        let urgency = |agent: &Agent| agent.delivery.as_ref().and_then(|d| d.limited);
        let live = self.agents.values().filter(|a| !a.deleted);
        let open = live.filter(|a| a.is_in_flight() && self.domain_of(a) == domain);
        let open: Vec<bool> = open.filter_map(urgency).collect();
        let urgent = open.iter().filter(|urgent| **urgent).count() as u64;
        Limited {
            ordinary: open.len() as u64 - urgent,
            urgent,
            sick: self.rooms.sick.get(&domain).copied().unwrap_or(0),
            unasked: self.rooms.unasked.get(&domain).copied().unwrap_or(0),
            waited: urgency(&self.agents[&id]).is_some(),
            urgent_now: urgency(&self.agents[&id]) == Some(true),
            in_wave: self.in_wave(&lane),
            open_waves: self.open_waves(&lane),
            domain,
        }
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
        if self.is_blind() {
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
                blind: self.is_blind(),
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
