//! The orders of a scenario.

use std::collections::BTreeMap;

use fleet::audit::{Head, Verifier};
use fleet::bucket::Bucket;
use fleet::budget::Budget;
use fleet::governance::freeze::Freeze;
use fleet::governance::supersede::How;
use fleet::membership::Figures;
use fleet::program::{OwnerChange, PinTarget, ProgramPin, RevisionNumber};
use fleet::revisions::{Life, way_back};
use fleet::rollout::{
    Check, CheckSpec, Direction, PlanSpec, Return, State, Step, WaveSpec, schedule,
};
use fleet::selector::Selector;
use fleet::waves::{Size, WHOLE};

use super::world::operator::Start;
use super::world::{Agent, Event, Family, Id, Reaction, World, delivery, name, uid};

pub struct Script {
    world: World,
    plan: PlanSpec,
    next_id: Id,
    bad: Vec<(String, Reaction)>,
    offers: BTreeMap<Id, u32>,
}

impl Script {
    pub fn new() -> Self {
        Script {
            world: World::new(),
            plan: fleet::rollout::default_plan(),
            next_id: 1,
            bad: vec![],
            offers: BTreeMap::new(),
        }
    }

    /// What this order shows.
    pub fn order(&mut self, order: &str) -> Vec<String> {
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        match verb {
            "agents" => self.agents(rest),
            "family" => self.family(rest),
            "plan" => self.set_plan(rest),
            "bad" => self.bad(rest),
            "start" => self.start(rest),
            "back" => self.back(rest),
            "schedule" => self.schedule(),
            "run" => self.run(rest),
            "status" => self.status(),
            "list" => self.list(rest),
            "offers" => self.shown_offers(),
            "history" => self.history(),
            "budget" => {
                self.world.budget = Some(Budget {
                    size: size(rest),
                    ..Budget::default()
                });
                vec![]
            }
            "freeze" => self.freeze(rest),
            "kill" => {
                self.world.kill_decider();
                vec![]
            }
            "blind" => {
                self.world.unreachable.clear();
                self.world.unreachable.extend((rest == "on").then_some(0));
                vec![]
            }
            "pass" | "fail" => {
                let id = self.newest();
                let said = self.world.answer(&id, verb == "pass");
                vec![said.map_or_else(
                    || format!("refused: {id} asks nobody"),
                    |who| format!("{verb}, for {who}"),
                )]
            }
            "pause" | "resume" | "halt" | "rollback" | "restore" => self.verb(verb),
            _ => self.agent(verb, rest),
        }
    }

    /// `agents 20 role=agent zone=a`
    fn agents(&mut self, rest: &str) -> Vec<String> {
        let (count, labels) = rest.split_once(' ').expect("a count and labels");
        let labels: BTreeMap<String, String> = labels
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let first = self.next_id;
        for _ in 0..count.parse::<u32>().expect("a count") {
            let agent = Agent::new(labels.clone(), self.world.now_ms);
            self.world.agents.insert(self.next_id, agent);
            self.next_id += 1;
        }
        vec![format!("{} to {}", name(first), name(self.next_id - 1))]
    }

    /// `family web 1: gateway <- role = gateway; agent after gateway <- role = agent`
    fn family(&mut self, rest: &str) -> Vec<String> {
        let (head, roles) = rest.split_once(": ").expect("a name and roles");
        let (family, precedence) = head.split_once(' ').expect("a precedence");
        let role = |text: &str| {
            let (head, selector) = text.split_once(" <- ").expect("a selector");
            let (role, after) = head.split_once(" after ").unwrap_or((head, ""));
            let after = after.split_whitespace().map(str::to_owned).collect();
            let selector = Selector::parse(selector).expect("a selector");
            (role.trim().to_owned(), selector, after)
        };
        let roles: Vec<_> = roles.split("; ").map(role).collect();
        if let Some(family) = self.world.families.get_mut(family) {
            family.draft = Some(roles);
            return vec![];
        }
        let record = Family {
            precedence: precedence.parse().expect("a number"),
            stable: None,
            latest: 0,
            roles,
            draft: None,
            rollout: None,
            owner_change: OwnerChange::Ask,
        };
        self.world.families.insert(family.to_owned(), record);
        vec![]
    }

    /// `plan 1 soak 60s | 10% soak 60s zone a | 100%`, `plan default`, `plan urgent`, with `, interleave`
    fn set_plan(&mut self, rest: &str) -> Vec<String> {
        let (waves, interleave) = match rest.strip_suffix(", interleave") {
            Some(waves) => (waves, true),
            None => (rest, false),
        };
        self.plan = match waves {
            "default" => fleet::rollout::default_plan(),
            "urgent" => fleet::rollout::urgent_plan(),
            waves => PlanSpec::of(waves.split(" | ").map(wave).collect()),
        };
        self.plan.interleave = interleave;
        let mistakes = self.plan.check();
        mistakes.iter().map(|m| format!("refused: {m}")).collect()
    }

    /// `bad reject all`, `bad crash host-03`: how the next revision is taken.
    fn bad(&mut self, rest: &str) -> Vec<String> {
        let (how, whom) = rest.split_once(' ').expect("how and whom");
        let reaction = match how {
            "reject" => Reaction::Reject,
            "crash" => Reaction::Crash,
            "sicken" => Reaction::Sicken,
            "ignore" => Reaction::Ignore,
            "fall-back" => Reaction::FallBack,
            "loop" => Reaction::Loop,
            "dry" => Reaction::Dry,
            _ => Reaction::Apply,
        };
        self.bad.push((whom.to_owned(), reaction));
        vec![]
    }

    /// `start web reach 5 supersede continue`
    fn start(&mut self, rest: &str) -> Vec<String> {
        let words: Vec<&str> = rest.split(' ').collect();
        let option = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        let family = words[0].to_owned();
        let to = self.world.families[&family].latest + 1;
        for (whom, reaction) in std::mem::take(&mut self.bad) {
            let ids: Vec<Id> = self.world.live_ids().into_iter().collect();
            for id in ids
                .into_iter()
                .filter(|id| whom == "all" || whom == name(*id))
            {
                let roles = self.world.families[&family].roles.clone();
                for (role, ..) in roles {
                    let hash = delivery(&family, &role, to);
                    self.world.reactions.insert((id, hash), reaction);
                }
            }
        }
        let supersede = option("supersede").map(|how| match how {
            "continue" => How::Continue,
            _ => How::Restart,
        });
        let started = self.world.start(&Start {
            family: &family,
            plan: self.plan.clone(),
            reach: option("reach").and_then(|number| number.parse().ok()),
            supersede,
            to: None,
            direction: Direction::Forward,
        });
        self.drain(self.world.now_ms);
        match started {
            Ok(id) => vec![format!("{id}: {family} to revision {to}")],
            Err(refused) => vec![format!("refused: {refused}")],
        }
    }

    /// `back web 1`: to an earlier revision.
    fn back(&mut self, rest: &str) -> Vec<String> {
        let (family, to) = rest.split_once(' ').expect("a family and a revision");
        let to: u64 = to.parse().expect("a number");
        let record = &self.world.families[family];
        let stable = record.stable.map(RevisionNumber);
        let life = (1..=record.latest)
            .contains(&to)
            .then_some(Life::Superseded);
        let back = match way_back(family, stable, stable, RevisionNumber(to), life) {
            Ok(back) => back,
            Err(refused) => return vec![format!("refused: {refused}")],
        };
        let started = self.world.start(&Start {
            family,
            plan: back.plan,
            reach: None,
            supersede: None,
            to: Some(to),
            direction: back.direction,
        });
        self.drain(self.world.now_ms);
        vec![started.map_or_else(
            |e| format!("refused: {e}"),
            |id| format!("{id}: {family} back to revision {to}"),
        )]
    }

    fn newest(&self) -> String {
        format!("ro-{}", self.world.rollouts.len())
    }

    fn schedule(&self) -> Vec<String> {
        let rollout = &self.world.rollouts[&self.newest()].memory;
        schedule(rollout)
            .to_string()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn verb(&mut self, verb: &str) -> Vec<String> {
        let id = self.newest();
        let done = match verb {
            "pause" => self.world.pause(&id),
            "resume" => self.world.resume(&id),
            "halt" => self.world.halt(&id),
            "restore" => self
                .world
                .order(&id, "system", |rollout, _| rollout.restore()),
            _ => self.world.roll_back(&id),
        };
        self.drain(self.world.now_ms);
        let state = self.world.rollouts[&id].memory.state.name();
        match done {
            true => vec![format!("{id} is {state}")],
            false => vec![format!("refused: {id} is {state}")],
        }
    }

    /// `run 5m`: what happens meanwhile.
    fn run(&mut self, rest: &str) -> Vec<String> {
        let begun = self.world.now_ms;
        let mut lines = Vec::new();
        while self.world.now_ms < begun + duration(rest) {
            self.world.tick();
            lines.extend(self.drain(begun));
        }
        lines
    }

    fn drain(&mut self, begun: u64) -> Vec<String> {
        let mut lines = Vec::new();
        for event in std::mem::take(&mut self.world.events) {
            let at = (self.world.now_ms - begun) / 1_000;
            match event {
                Event::Offered { agent, .. } => *self.offers.entry(agent).or_default() += 1,
                Event::Planned { rollout, steps, .. } => {
                    lines.extend(
                        steps
                            .iter()
                            .filter_map(|step| self.step(&rollout, step))
                            .map(|l| format!("+{at} s {l}")),
                    );
                }
                Event::Moved {
                    rollout, to, cause, ..
                } if to != State::Running => {
                    lines.push(format!("+{at} s {rollout} is {}: {cause}", to.name()));
                }
                _ => {}
            }
        }
        lines
    }

    fn step(&self, rollout: &str, step: &Step) -> Option<String> {
        match step {
            Step::OpenWave { role, wave } => {
                let doc = &self.world.rollouts[rollout];
                let found = doc.memory.roles.iter().find(|r| r.name == *role)?;
                let agents = found.wave_size(*wave);
                let s = if agents == 1 { "" } else { "s" };
                let together = found.continue_at == wave + 1 && *wave > 0;
                Some(match together {
                    true => format!(
                        "{role} waves 1 to {} begin at once: {} agents",
                        wave + 1,
                        found.wave_ends[*wave as usize]
                    ),
                    false => format!("{role} wave {} begins: {agents} agent{s}", wave + 1),
                })
            }
            Step::FinishRole { role } => Some(format!("{role} is done")),
            Step::OpenRollBack { role } => Some(format!("{role} goes back")),
            _ => None,
        }
    }

    /// State, figures, and what is waited for.
    fn status(&self) -> Vec<String> {
        let id = self.newest();
        let doc = &self.world.rollouts[&id];
        let program = self.world.program();
        let (observed, _) = self.world.observe(&id, &program);
        let mut figures = Figures {
            listed: doc.members.len() as u64,
            ..Figures::default()
        };
        for counts in observed.roles.values().flatten() {
            figures.counts.merge(counts);
        }
        let newcomers = self.world.live_ids().into_iter().filter(|id| {
            let desired = self.world.desired(*id, &program);
            let late =
                |c: &fleet::program::Condition| matches!(c, fleet::program::Condition::Late { .. });
            desired.conditions.iter().any(late)
        });
        figures.late = newcomers.count() as u64;
        assert!(figures.add_up(), "{figures}");
        let mut lines = vec![format!("{id} is {}: {figures}", doc.memory.state.name())];
        if doc.memory.roll_back.is_some() {
            lines.push(format!("rollback: {}", Return::of(&doc.memory, &observed)));
        }
        let stands = doc.memory.state.is_final();
        lines.extend(
            doc.waiting
                .iter()
                .filter(|_| !stands)
                .map(|w| format!("waits for {w}")),
        );
        lines
    }

    /// `list not reached`: who is in which bucket.
    fn list(&self, rest: &str) -> Vec<String> {
        let (_, stands) = self.world.observe(&self.newest(), &self.world.program());
        let named: Vec<String> = stands
            .iter()
            .filter(|(_, bucket)| bucket.name() == rest)
            .map(|(id, bucket)| match bucket {
                Bucket::Failed(_) => {
                    let delivery = self.world.agents[id].delivery.as_ref();
                    format!("{}: {}", name(*id), delivery.map_or("", |d| &d.error))
                }
                _ => name(*id),
            })
            .collect();
        vec![format!("{rest}: {}", named.join(", "))]
    }

    /// How many agents were sent something since the last time, and the most that one got.
    fn shown_offers(&mut self) -> Vec<String> {
        let offers = std::mem::take(&mut self.offers);
        let most = offers.values().max().copied().unwrap_or(0);
        vec![format!(
            "{} agents were sent something, none more than {most} times",
            offers.len()
        )]
    }

    /// The audit log of the newest rollout, after its chain was verified.
    fn history(&self) -> Vec<String> {
        let mut verifier = Verifier::after(Head::genesis("world"));
        for entry in &self.world.audit {
            verifier.check(entry).expect("the chain holds");
        }
        verifier
            .finish(self.world.head)
            .expect("the chain is whole");
        let of_rollout = self
            .world
            .audit
            .iter()
            .filter(|e| e.record.object == self.newest());
        of_rollout
            .map(|entry| {
                let record = &entry.record;
                format!(
                    "{} s {} {}: {}",
                    record.at_ms / 1_000,
                    record.actor,
                    record.action,
                    record.detail
                )
            })
            .collect()
    }

    /// `freeze 10m black-friday`
    fn freeze(&mut self, rest: &str) -> Vec<String> {
        let (length, why) = rest.split_once(' ').expect("a length and a name");
        self.world.freezes.push(Freeze {
            name: why.to_owned(),
            reason: "by order".to_owned(),
            from_ms: self.world.now_ms,
            until_ms: self.world.now_ms + duration(length),
            families: vec![],
        });
        vec![]
    }

    /// `sleep host-03 host-04`, `relabel host-03 role=none`, `pin host-03 1`
    fn agent(&mut self, verb: &str, rest: &str) -> Vec<String> {
        let words: Vec<&str> = rest.split(' ').collect();
        let ids: Vec<Id> = words
            .iter()
            .filter_map(|word| word.strip_prefix("host-")?.parse().ok())
            .collect();
        for id in ids {
            if verb == "retry" {
                self.world.retry(id);
                continue;
            }
            if verb == "repair" {
                self.world.reactions.retain(|(agent, _), _| *agent != id);
                continue;
            }
            if verb == "pin" {
                let (family, _) = self.world.agents[&id].owner.clone().expect("an owner");
                self.world.pins.push(ProgramPin {
                    family,
                    target: PinTarget::Agent(uid(id)),
                    revision: RevisionNumber(words[1].parse().expect("a revision")),
                });
                continue;
            }
            let agent = self.world.agents.get_mut(&id).expect("an agent");
            match verb {
                "sleep" => agent.asleep = true,
                "wake" => agent.asleep = false,
                "leave" => agent.left = true,
                "delete" => agent.deleted = true,
                "clone" => agent.duplicate = true,
                "stop" => agent.stopped = true,
                "relabel" => {
                    let pairs = words.iter().filter_map(|pair| pair.split_once('='));
                    let pairs = pairs.map(|(k, v)| (k.to_owned(), v.to_owned()));
                    agent.labels.extend(pairs);
                }
                _ => panic!("no such order: {verb}"),
            }
        }
        vec![]
    }
}

/// `10% soak 60s zone a max-unreachable 5%`
fn wave(text: &str) -> WaveSpec {
    let words: Vec<&str> = text.split(' ').collect();
    let mut wave = WaveSpec::of(size(words[0]), 0);
    for pair in words[1..].chunks(2) {
        match pair {
            ["soak", length] => wave.soak_ms = duration(length),
            ["zone", zone] => wave.zone = Some((*zone).to_owned()),
            ["max-unreachable", limit] => wave.max_unreachable = Some(size(limit)),
            ["person", who] => {
                let check = Check::Person((*who).to_owned());
                wave.gate.checks.push(CheckSpec::gate(check));
            }
            ["unreachable-wait", length] => wave.unreachable_ms = duration(length),
            ["deadline", length] => wave.deadline_ms = Some(duration(length)),
            _ => panic!("no such option: {pair:?}"),
        }
    }
    wave
}

fn size(text: &str) -> Size {
    match text.strip_suffix('%') {
        Some(percent) => Size::Percent(percent.parse::<u32>().expect("a percentage") * WHOLE / 100),
        None => Size::Count(text.parse().expect("a count")),
    }
}

fn duration(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let factor = match unit {
        "h" => 3_600_000,
        "m" => 60_000,
        _ => 1_000,
    };
    number.parse::<u64>().expect("a number") * factor
}
