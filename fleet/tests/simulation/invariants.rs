//! What has to hold after each event, said without the code that is to keep it. Numbers are those of the design.

use std::collections::BTreeMap;

use fleet::audit::{Head, Verifier};
use fleet::bucket::Bucket;
use fleet::digest::Digest;
use fleet::family::stop_delivery;
use fleet::governance::freeze::Freeze;
use fleet::offer;
use fleet::program::{Desired, PinTarget, Program, Reason};
use fleet::rollout::{Direction, Rollout, State, Step};

use super::Total;
use super::ownership::Ownership;
use super::room::{self, Domains};
use super::world::{Doc, Event, Id, Member, World, delivery, uid};

/// What the checker remembers by itself.
#[derive(Default)]
pub struct Checker {
    agents: BTreeMap<Id, Memory>,
    ownership: Ownership,
    domains: Domains,
    lists: BTreeMap<String, BTreeMap<Id, Member>>,
    opened: BTreeMap<(String, String), u64>,
    /// By rollout: when it began.
    begun: BTreeMap<String, u64>,
    /// When a person last resumed it.
    resumed: BTreeMap<String, u64>,
    verifier: Option<Verifier>,
    verified: usize,
    moves: usize,
    written: usize,
}

#[derive(Default)]
struct Memory {
    last: Option<Digest>,
    offered_ms: u64,
    /// What it failed with, and when that was offered.
    failed: BTreeMap<Digest, u64>,
    retried: bool,
    /// A pin has brought it what it has.
    pinned: bool,
}

pub type Result = std::result::Result<(), String>;

pub fn hold(holds: bool, broken: impl FnOnce() -> String) -> Result {
    if holds { Ok(()) } else { Err(broken()) }
}

impl Checker {
    pub fn check(&mut self, world: &mut World, total: &mut Total) -> Result {
        for event in std::mem::take(&mut world.events) {
            self.event(world, event, total)?;
        }
        self.domains.count(world);
        self.audit(world)?;
        let program = world.program();
        let newest = world.families.values().filter_map(|f| f.rollout.clone());
        for id in newest.collect::<Vec<_>>() {
            self.counts(world, &program, &id, total)?;
        }
        Ok(())
    }

    fn event(&mut self, world: &World, event: Event, total: &mut Total) -> Result {
        match event {
            Event::Offered {
                agent,
                hash,
                desired,
                before,
                limited,
            } => {
                total.offers += 1;
                self.once(agent, hash)?;
                let memory = self.agents.entry(agent).or_default();
                memory.offered_ms = world.now_ms;
                let last = before.1.as_ref().filter(|_| !memory.pinned);
                memory.pinned = desired.reason == Reason::Pinned;
                let may = offer(world, agent, hash, &desired, last).and_then(|()| {
                    let ownership = &mut self.ownership;
                    ownership.sent(world, agent, &desired, &before, total)
                });
                may.map_err(|why| format!("agent {agent} was offered {hash}: {why}"))?;
                if let Some(limited) = limited {
                    room::in_wave(world, &desired, &limited, total)?;
                    self.domains.offered(world, &limited, total)?;
                }
            }
            Event::Answered {
                agent,
                hash,
                failed,
            } => {
                let memory = self.agents.entry(agent).or_default();
                if failed {
                    memory.failed.insert(hash, memory.offered_ms);
                }
            }
            Event::Retried { agent } => {
                let memory = self.agents.entry(agent).or_default();
                memory.failed.clear();
                memory.retried = true;
            }
            Event::Resolved { agent, from, to } => {
                self.ownership.resolved(world, agent, &from, to, total);
            }
            Event::Adopted {
                agent,
                desired,
                from,
            } => {
                self.agents.entry(agent).or_default().offered_ms = world.now_ms;
                let before = (from, None);
                let may = self.ownership.sent(world, agent, &desired, &before, total);
                may.map_err(|why| format!("agent {agent}: {why}"))?;
            }
            Event::Planned {
                rollout,
                steps,
                before,
                blind,
            } => {
                for step in &steps {
                    self.step(world, &rollout, step, &before, blind)?;
                }
            }
            Event::Moved { rollout, to, .. } => {
                self.moves += 1;
                match to {
                    State::Running => {
                        total.started += 1;
                        // Who resumes it accepts what has failed until then.
                        if self.begun.contains_key(&rollout) {
                            self.resumed.insert(rollout.clone(), world.now_ms);
                        } else {
                            self.begun.insert(rollout.clone(), world.now_ms);
                        }
                    }
                    State::Completed => total.completed += 1,
                    State::RolledBack => total.rolled_back += 1,
                    State::Superseded => total.superseded += 1,
                    _ => total.stopped += 1,
                }
                if to == State::Completed {
                    let doc = &world.rollouts[&rollout];
                    self.complete(world, doc)?;
                    self.ownership.completed(&doc.family);
                }
            }
        }
        Ok(())
    }

    /// 3: a hash is offered once, until it is another's turn or a person retries; a failed one only after a retry.
    fn once(&mut self, agent: Id, hash: Digest) -> Result {
        let memory = self.agents.entry(agent).or_default();
        let again = memory.last == Some(hash) && !memory.retried;
        hold(!again, || {
            format!("3: agent {agent} was offered {hash} twice")
        })?;
        let failed = memory.failed.contains_key(&hash);
        hold(!failed, || {
            format!("3: agent {agent} was offered {hash}, which it failed with")
        })?;
        memory.last = Some(hash);
        memory.retried = false;
        Ok(())
    }

    fn step(
        &mut self,
        world: &World,
        id: &str,
        step: &Step,
        before: &Rollout,
        blind: bool,
    ) -> Result {
        let doc = &world.rollouts[id];
        let (role, next) = match step {
            Step::OpenWave { role, wave } => (role, *wave),
            Step::FinishRole { role } => (role, u32::MAX),
            Step::Complete => return hold(!blind, || "8: completed without evidence".into()),
            Step::FinishRollBack => return hold(!blind, || "8: went back without evidence".into()),
            _ => return Ok(()),
        };
        let holds = |f: &Freeze| f.from_ms <= world.now_ms && world.now_ms < f.until_ms;
        let passes = before.plan.urgent || before.direction == Direction::Back;
        let frozen = !passes && world.freezes.iter().any(holds);
        let key = (id.to_owned(), role.clone());
        let found = before
            .roles
            .iter()
            .find(|r| r.name == *role)
            .ok_or("no such role")?;
        hold(!(frozen && next != u32::MAX), || {
            format!("{id} opened a wave of {role} in a freeze")
        })?;
        if next != u32::MAX {
            let at_once = found.open_waves == 0 && next + 1 == found.continue_at;
            hold(found.open_waves == next || at_once, || {
                format!("{id} skipped to wave {next} of {role}")
            })?;
        }
        if let Some(passed) = found.open_waves.checked_sub(1) {
            hold(!blind, || {
                format!("8: {id} passed wave {passed} of {role} without evidence")
            })?;
            let spec = before.wave(found, passed);
            let since = self.opened.get(&key).copied().unwrap_or(0);
            let judged = self.passes(
                world,
                doc,
                role,
                passed,
                found.forgiven(passed),
                spec.gate.success,
            )?;
            let soaked = world.now_ms - since >= spec.soak_ms;
            hold(soaked || !judged, || {
                format!("{id} passed wave {passed} of {role} unsoaked")
            })?;
        }
        self.opened.insert(key, world.now_ms);
        Ok(())
    }

    /// 6: counts add up to the list, which never changes; deleted members are named.
    fn counts(&mut self, world: &World, program: &Program, id: &str, total: &mut Total) -> Result {
        let doc = &world.rollouts[id];
        let list = self
            .lists
            .entry(id.to_owned())
            .or_insert_with(|| doc.members.clone());
        hold(*list == doc.members, || {
            format!("6: the list of {id} changed")
        })?;
        let (observed, stands) = world.observe(id, program);
        let counts = observed.roles.values().flatten();
        let counted: u64 = counts.map(fleet::bucket::Counts::members).sum();
        let listed = doc.members.len() as u64;
        hold(counted == listed, || {
            format!("6: {id} counts {counted} of {listed} members")
        })?;
        for (agent, bucket) in stands {
            let deleted = world.agents[&agent].deleted;
            let delivery_in = world.agents[&agent].delivery.as_ref().map(|d| &*d.rollout);
            let inherited = matches!(bucket, Bucket::Failed(_)) && delivery_in != Some(id);
            total.inherited += u64::from(inherited);
            let named = (bucket == Bucket::Deleted) == deleted;
            hold(named, || {
                format!("6: agent {agent} of {id} is called {}", bucket.name())
            })?;
            if let Bucket::Converged = bucket {
                let target = delivery(&doc.family, &doc.members[&agent].role, doc.to);
                let runs = world.agents[&agent].running;
                let back = doc.kept.roll_back.is_some() || doc.kept.state.is_final();
                hold(runs == Some(target) || back, || {
                    format!("6: agent {agent} of {id} is called converged and does not run it")
                })?;
            }
        }
        Ok(())
    }

    /// 9: the chain verifies, and every change of state has its entry.
    fn audit(&mut self, world: &World) -> Result {
        let verifier = self
            .verifier
            .get_or_insert_with(|| Verifier::after(Head::genesis("world")));
        for entry in &world.audit[self.verified..] {
            self.written += usize::from(entry.record.action.starts_with("rollout."));
            verifier
                .check(entry)
                .map_err(|broken| format!("9: {broken}"))?;
        }
        self.verified = world.audit.len();
        hold(verifier.head() == world.head, || {
            "9: the head is not the last entry's".into()
        })?;
        let written = self.written;
        for (id, doc) in &world.rollouts {
            let entries = world.audit.iter().rev().filter(|e| e.record.object == *id);
            let last = entries.map(|e| e.record.action.as_str()).next();
            let state = format!("rollout.{}", doc.memory.state.name());
            hold(last == Some(&state), || {
                format!("9: {id} came to {state} without an entry")
            })?;
        }
        hold(written == self.moves, || {
            format!("9: {} moves, {written} entries", self.moves)
        })
    }

    /// 10: what still runs says what it waits for. 4: who may run again runs again.
    pub fn settled(&self, world: &World) -> Result {
        for (id, agent) in &world.agents {
            let there = !agent.deleted && !agent.duplicate && !agent.is_lost(world.now_ms);
            let delivery = agent.delivery.as_ref().filter(|_| there && !agent.stopped);
            let stopped = delivery.is_some_and(|d| d.hash == stop_delivery());
            let wants = world.desired(*id, &world.program());
            let refused = wants
                .delivery
                .is_none_or(|hash| agent.refused.contains(&hash));
            // Who may be offered something may still wait for room.
            hold(!stopped || refused || wants.offerable, || {
                format!("4: agent {id} is not stopped any more and is given nothing to run")
            })?;
        }
        self.ownership.settled(world)?;
        for (id, doc) in &world.rollouts {
            let says = doc.memory.state.is_final() || !doc.waiting.is_empty();
            hold(says, || {
                format!("{id} is {} and waits for nothing", doc.memory.state.name())
            })?;
        }
        Ok(())
    }

    /// Did enough of a wave's members converge, by what is true of them? False: there was nobody to judge.
    fn passes(
        &self,
        world: &World,
        doc: &Doc,
        role: &str,
        wave: u32,
        forgiven: u64,
        success: u32,
    ) -> std::result::Result<bool, String> {
        let members = doc
            .members
            .iter()
            .filter(|(_, m)| m.role == role && m.wave == wave);
        let (mut good, mut missing) = (0, Vec::new());
        for (id, member) in members {
            // An exception that runs it all the same (relabelled since, say) still counts.
            if runs(world, doc, *id, member) {
                good += 1;
            } else if !self.is_exception(world, doc, *id, member) {
                missing.push(*id);
            }
        }
        let all = good + missing.len() as u64;
        let needed = (all.saturating_sub(forgiven) * u64::from(success)).div_ceil(100_000);
        hold(good >= needed, || {
            format!("8: wave {wave} of {role} passed with {good} of {all}, without {missing:?}")
        })?;
        Ok(all > 0)
    }

    /// Complete, exactly: everyone runs it, or is a named exception, or was accepted by a person.
    fn complete(&self, world: &World, doc: &Doc) -> Result {
        let accepted: u64 = doc.kept.roles.iter().flat_map(|role| &role.forgiven).sum();
        let missing: Vec<Id> = doc
            .members
            .iter()
            .filter(|(id, member)| !self.is_exception(world, doc, **id, member))
            .filter(|(id, member)| !runs(world, doc, **id, member))
            .map(|(id, _)| *id)
            .collect();
        hold(missing.len() as u64 <= accepted, || {
            format!("complete without {missing:?}")
        })
    }

    fn is_exception(&self, world: &World, doc: &Doc, id: Id, member: &Member) -> bool {
        let agent = &world.agents[&id];
        let target = delivery(&doc.family, &member.role, doc.to);
        let gone = agent.deleted || agent.left || agent.asleep || agent.is_lost(world.now_ms);
        let pinned = world
            .pins
            .iter()
            .any(|pin| matches!(pin.target, PinTarget::Agent(held) if held == uid(id)));
        // Refused is who failed with it before: who has failed in this rollout, or in one that it replaces, is no exception,
        // unless a person has accepted that.
        let begun = self.begun(world, doc);
        let resumed = self.resumed(world, doc);
        let accepted = |offered_ms: u64| resumed.is_some_and(|resumed| offered_ms <= resumed);
        let before = |offered_ms: u64| offered_ms < begun || accepted(offered_ms);
        let memory = self.agents.get(&id);
        let failed = memory.and_then(|memory| memory.failed.get(&target));
        let has_it = agent.delivery.as_ref().filter(|d| d.hash == target);
        let silent = has_it.filter(|d| d.state == offer::State::NoAnswer);
        let refused = failed.is_some_and(|offered_ms| before(*offered_ms))
            || silent.is_some_and(|d| before(d.offered_ms));
        let roles = &world.families[&doc.family].roles;
        let role = roles.iter().find(|(role, ..)| *role == member.role);
        let moved = !role.is_some_and(|(_, selector, _)| selector.matches(&agent.labels));
        let elsewhere = agent
            .owner
            .as_ref()
            .is_none_or(|owner| owner.0 != doc.family && Some(owner) != member.taken_from.as_ref());
        // A person has said since its list was made that it is somebody else's.
        let here = (doc.family.clone(), member.role.clone());
        let said = id_of(world, doc).and_then(|of| self.ownership.said_since(world, id, of));
        let elsewhere = elsewhere || said.is_some_and(|to| *to != here);
        let elsewhere = elsewhere || self.ownership.is_let_go(world, id);
        let was_ill = agent.delivery.as_ref().is_none_or(|d| !d.was_healthy);
        gone || pinned
            || refused
            || moved
            || elsewhere
            || was_ill
            || member.unchanged
            || agent.duplicate
            || agent.stopped
    }

    /// When the first of those began that replace each other without a gap, up to this one.
    fn begun(&self, world: &World, doc: &Doc) -> u64 {
        let own = id_of(world, doc).and_then(|id| self.begun.get(id));
        match replaced(world, doc) {
            Some(replaced) => self.begun(world, replaced),
            None => own.copied().unwrap_or(world.now_ms),
        }
    }

    /// When a person last resumed it, or one of those.
    fn resumed(&self, world: &World, doc: &Doc) -> Option<u64> {
        let own = id_of(world, doc).and_then(|id| self.resumed.get(id));
        let before = replaced(world, doc).and_then(|replaced| self.resumed(world, replaced));
        own.copied().max(before)
    }
}

/// The rollout whose place this one took without a gap.
fn replaced<'a>(world: &'a World, doc: &Doc) -> Option<&'a Doc> {
    let earlier = world
        .rollouts
        .values()
        .filter(|other| other.family == doc.family && other.opened < doc.opened);
    let last = earlier.max_by_key(|other| other.opened);
    last.filter(|other| other.kept.state == State::Superseded)
}

/// A rollout's id.
fn id_of<'a>(world: &'a World, doc: &Doc) -> Option<&'a str> {
    let mut all = world.rollouts.iter();
    let found = all.find(|(_, other)| other.opened == doc.opened);
    found.map(|(id, _)| id.as_str())
}

/// 2, 4 and whose turn it is: may this agent have been offered this?
fn offer(
    world: &World,
    id: Id,
    hash: Digest,
    desired: &Desired,
    last: Option<&(Digest, String)>,
) -> Result {
    let agent = &world.agents[&id];
    hold((hash == stop_delivery()) == agent.stopped, || {
        "4: an empty config, or none in spite of an order".into()
    })?;
    if agent.stopped {
        return Ok(());
    }
    hold(!agent.duplicate, || "two agents speak with its uid".into())?;
    let Some((family, role)) = &desired.owner else {
        return Err("nobody owns it".into());
    };
    let pin = world.pins.iter().find(|pin| {
        pin.family == *family && matches!(pin.target, PinTarget::Agent(held) if held == uid(id))
    });
    if let Some(pin) = pin.filter(|_| desired.reason == Reason::Pinned) {
        let held = delivery(family, role, pin.revision.0);
        return hold(hash == held, || "it is pinned at another revision".into());
    }
    let record = &world.families[family];
    let Some(doc) = record
        .rollout
        .as_ref()
        .map(|rollout| &world.rollouts[rollout])
    else {
        return Ok(());
    };
    let target = delivery(family, role, doc.to);
    let waits = matches!(doc.kept.state, State::Paused | State::Halted);
    let late = last.is_some_and(|(hash, within)| *hash == target && within.is_empty());
    let back = late && desired.reason == Reason::Stable;
    hold(!(waits && back), || {
        "2: its rollout stands still, and takes back what it gave".into()
    })?;
    let is_target = hash == target;
    let is_stable = record
        .stable
        .is_some_and(|stable| hash == delivery(family, role, stable));
    if !is_target || is_stable {
        return Ok(());
    }
    // The program that it was decided by is at most one tick old, and the controller looks after the agents.
    let rollout = &doc.kept;
    let stands = rollout.state != State::Running && !just_moved(world, rollout);
    hold(!stands, || {
        format!("2: its rollout is {}", rollout.state.name())
    })?;
    match doc.members.get(&id) {
        None => hold(rollout.has_passed(), || {
            "it is late, and waves are open".into()
        }),
        Some(member) => turn(world, doc, id, member),
    }
}

/// Did the controller stop it in this very tick, after the offer?
fn just_moved(world: &World, rollout: &Rollout) -> bool {
    let last = world
        .audit
        .iter()
        .rev()
        .find(|e| e.record.action.starts_with("rollout."));
    let stopped = matches!(
        rollout.state,
        State::Halted | State::RollingBack | State::Paused | State::Completed
    );
    stopped
        && last.is_some_and(|e| e.record.at_ms == world.now_ms && e.record.actor == "controller")
}

/// Is the member's wave open, and are the roles before its own done?
fn turn(world: &World, doc: &Doc, id: Id, member: &Member) -> Result {
    let rollout = &doc.kept;
    let role = rollout.roles.iter().find(|role| role.name == member.role);
    let role = role.ok_or("its role is unknown")?;
    hold(member.wave < role.open_waves, || {
        format!("wave {} has not begun", member.wave)
    })?;
    if rollout.direction == Direction::Back {
        return Ok(());
    }
    let first = rollout
        .roles
        .iter()
        .filter(|other| role.after.contains(&other.name));
    for other in first.filter(|other| !other.done) {
        hold(rollout.plan.interleave, || {
            format!("{} goes first", other.name)
        })?;
        // Where gateways are not shared, those of its own zone go first; all of them in a wave for everybody.
        let zone = |id: &Id| world.agents[id].labels.get("zone");
        let zoned = rollout.wave(role, member.wave).zone.is_some();
        let passed = other.open_waves.saturating_sub(1);
        let waits = |(gateway, m): &(&Id, &Member)| {
            let here = !zoned || zone(gateway) == zone(&id);
            m.role == other.name && !m.unchanged && m.wave >= passed && here
        };
        let waiting = doc.members.iter().filter(waits).count();
        hold(waiting == 0, || {
            format!("{waiting} of {} in its zone go first", other.name)
        })?;
    }
    Ok(())
}

fn runs(world: &World, doc: &Doc, id: Id, member: &Member) -> bool {
    let agent = &world.agents[&id];
    agent.running == Some(delivery(&doc.family, &member.role, doc.to)) && agent.told_healthy
}
