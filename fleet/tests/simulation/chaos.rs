//! What happens to a random fleet: agents that sleep, leave, are cloned, relabelled and deleted; configs that are bad;
//! operators who start, halt, resume, roll back, pin and freeze; a controller that dies.

use std::collections::BTreeMap;

use fleet::budget::Budget;
use fleet::governance::freeze::Freeze;
use fleet::governance::supersede::How;
use fleet::program::{OwnerChange, PinTarget, ProgramPin, RevisionNumber};
use fleet::rollout::{Direction, OnStop, PlanSpec, WaveSpec};
use fleet::selector::Selector;
use fleet::waves::{Size, WHOLE};

use super::random::Random;
use super::world::operator::Start;
use super::world::room::Slow;
use super::world::{Agent, Family, Id, Reaction, TICK_MS, World, delivery, uid};

pub struct Chaos {
    pub world: World,
    random: Random,
    /// Of what was added later: it changes nothing of what a seed means for the rest.
    besides: Random,
    next_id: Id,
}

impl Chaos {
    pub fn new(seed: u64) -> Self {
        let mut chaos = Chaos {
            world: World::new(),
            random: Random::new(seed),
            besides: Random::new(!seed),
            next_id: 1,
        };
        chaos.family(
            "base",
            1,
            &[
                ("gateway", "role = gateway", &[]),
                ("agent", "role = agent", &["gateway"]),
            ],
        );
        // Whoever has `edge` or `tier` is claimed by two families, or three.
        chaos.family("edge", 2, &[("agent", "role = agent, edge = yes", &[])]);
        chaos.family("core", 3, &[("node", "tier = core", &[])]);
        if chaos.random.one_in(2) {
            // There is somebody to take agents from.
            let base = chaos.world.families.get_mut("base").expect("it is there");
            (base.stable, base.latest) = (Some(1), 1);
        }
        if chaos.random.one_in(2) {
            let counted = Budget {
                size: Size::Count(2),
                urgent: Size::Count(4),
                ..Budget::default()
            };
            let shares = chaos.random.one_in(2);
            chaos.world.budget = Some(if shares { Budget::default() } else { counted });
        }
        chaos.world.partitions = chaos.random.pick(&[1, 2, 3, 4]).unwrap_or(1);
        for _ in 0..2 + chaos.random.below(30) {
            chaos.join();
        }
        chaos
    }

    fn family(&mut self, name: &str, precedence: i64, roles: &[(&str, &str, &[&str])]) {
        let role = |(role, selector, after): &(&str, &str, &[&str])| {
            let after = after.iter().map(|name| (*name).to_owned()).collect();
            let selector = Selector::parse(selector).expect("a selector");
            ((*role).to_owned(), selector, after)
        };
        let policies = [OwnerChange::Ask, OwnerChange::Ask, OwnerChange::Auto];
        let owner_change = self.random.pick(&policies);
        let family = Family {
            precedence,
            stable: None,
            latest: 0,
            roles: roles.iter().map(role).collect(),
            draft: None,
            rollout: None,
            owner_change: owner_change.unwrap_or_default(),
        };
        self.world.families.insert(name.to_owned(), family);
    }

    fn join(&mut self) {
        let mut labels = BTreeMap::new();
        let role = self.random.pick(&["gateway", "agent", "agent", "agent"]);
        labels.insert("role".to_owned(), role.unwrap_or("agent").to_owned());
        let zone = self.random.pick(&["a", "b"]).unwrap_or("a");
        labels.insert("zone".to_owned(), zone.to_owned());
        for (label, value) in [("edge", "yes"), ("tier", "core")] {
            if self.random.one_in(5) {
                labels.insert(label.to_owned(), value.to_owned());
            }
        }
        let mut agent = Agent::new(labels, self.world.now_ms);
        if self.random.one_in(20) {
            (agent.healthy, agent.told_healthy) = (false, false);
        }
        self.world.agents.insert(self.next_id, agent);
        self.next_id += 1;
    }

    /// One round of trouble.
    pub fn trouble(&mut self) {
        let agents: Vec<Id> = self.world.live_ids().into_iter().collect();
        let kind = self.random.below(120);
        if let Some(id) = self.random.pick(&agents) {
            self.agent_trouble(kind, id);
        }
        match kind {
            20..22 => self.start(),
            30..33 => self.verb(),
            36 => self.world.kill_decider(),
            37 | 45 | 46 => self.partition_trouble(),
            44 => self.world.unreachable.clear(),
            38 => self.join(),
            39 => self.freeze(),
            47..52 => {
                let keep = !self.random.one_in(6);
                self.speak_of(&agents, keep, World::is_taken);
            }
            52 => {
                let keep = self.random.one_in(3);
                self.speak_of(&agents, keep, World::is_to_be_taken);
            }
            _ => {}
        }
        if self.besides.one_in(200) {
            self.back();
        }
    }

    fn agent_trouble(&mut self, kind: u64, id: Id) {
        let pin = |world: &World| {
            let (family, _) = world.agents[&id].owner.clone()?;
            let latest = world.families[&family].latest;
            Some((family, latest))
        };
        match kind {
            0 => self.agent(id).asleep = true,
            1..4 => self.agent(id).asleep = false,
            4 => self.agent(id).left = true,
            5 | 6 => self.agent(id).left = false,
            7 if self.random.one_in(3) => self.agent(id).deleted = true,
            8 | 40..43 => self.relabel(id),
            18 | 19 => {
                let keep = self.random.one_in(3);
                self.world.resolve(id, keep);
            }
            9 if self.random.one_in(3) => self.agent(id).duplicate = true,
            10 | 11 => self.world.retry(id),
            12 if self.random.one_in(4) => self.agent(id).stopped = true,
            13 => self.agent(id).stopped = false,
            14 => {
                if let Some((family, latest)) = pin(&self.world) {
                    let revision = RevisionNumber(1 + self.random.below(latest.max(1)));
                    let target = PinTarget::Agent(uid(id));
                    self.world.pins.push(ProgramPin {
                        family,
                        target,
                        revision,
                    });
                    self.world.epoch += 1;
                }
            }
            15 => self.world.pins.clear(),
            16 | 17 => self.agent(id).healthy = true,
            _ => {}
        }
    }

    /// A person says of one of these agents that it stays, or takes that back.
    fn speak_of(&mut self, agents: &[Id], keep: bool, which: fn(&World, Id) -> bool) {
        let agents = agents.iter().copied();
        let found: Vec<Id> = agents.filter(|id| which(&self.world, *id)).collect();
        if let Some(id) = self.random.pick(&found) {
            self.world.resolve(id, keep);
        }
    }

    /// One cannot be reached, or can be again; quotas get lost on their way to it, or arrive late and in any order; its
    /// leader is another.
    fn partition_trouble(&mut self) {
        let partition = self.random.next() as u32 % self.world.partitions;
        let rooms = &mut self.world.rooms;
        let which = match self.random.below(8) {
            4..8 => {
                let mut late = || self.random.pick(&[0, 0, 1, 2, 5, 9]).unwrap_or(0) * TICK_MS;
                let slow = Slow {
                    count_ms: late(),
                    quotas_ms: late(),
                };
                rooms.slow.insert(partition, slow);
                return;
            }
            0 => {
                rooms.quotas.remove(&partition);
                return;
            }
            1 => &mut rooms.deaf,
            _ => &mut self.world.unreachable,
        };
        if !which.insert(partition) {
            which.remove(&partition);
        }
    }

    /// Claims move.
    fn relabel(&mut self, id: Id) {
        let labels = [
            ("role", "gateway"),
            ("role", "agent"),
            ("role", "none"),
            ("edge", "yes"),
            ("edge", "no"),
            ("tier", "core"),
            ("tier", "none"),
        ];
        if let Some((label, value)) = self.random.pick(&labels) {
            let labels = &mut self.agent(id).labels;
            labels.insert(label.to_owned(), value.to_owned());
        }
    }

    fn agent(&mut self, id: Id) -> &mut Agent {
        self.world.agents.get_mut(&id).expect("it is there")
    }

    fn start(&mut self) {
        let families = ["base", "base", "edge", "core"];
        let family = self.random.pick(&families).unwrap_or("base");
        let on_stop = [
            OnStop::Default,
            OnStop::Hold,
            OnStop::RollBackWave,
            OnStop::RollBackAll,
        ];
        let mut plan = PlanSpec::of(vec![
            WaveSpec::of(Size::Count(1), 10_000),
            WaveSpec::of(Size::Percent(50_000), 10_000),
            WaveSpec::of(Size::Percent(WHOLE), 5_000),
        ]);
        plan.on_stop = self.random.pick(&on_stop).unwrap_or(OnStop::Default);
        plan.interleave = self.random.one_in(4);
        if plan.interleave && !self.random.one_in(4) {
            // Each zone has its own gateways.
            for (wave, zone) in plan.waves.iter_mut().zip(["a", "b"]) {
                (wave.size, wave.zone) = (Size::Percent(WHOLE), Some(zone.to_owned()));
            }
        }
        plan.urgent = self.random.one_in(6);
        if plan.urgent {
            plan.waves.remove(1);
        }
        if self.random.one_in(3) {
            for wave in &mut plan.waves {
                wave.gate.success = 60_000;
                wave.gate.max_failures = Some(Size::Count(4));
            }
        }
        if self.random.one_in(4) {
            plan.waves[0].deadline_ms = Some(20_000);
        }
        if self.random.one_in(3) {
            for wave in &mut plan.waves {
                wave.max_in_flight = self.random.pick(&[0, 1, 2, 3]).unwrap_or(0);
            }
        }
        let supersede = self
            .random
            .pick(&[None, None, Some(How::Restart), Some(How::Continue)]);
        let latest = self.world.families[family].latest;
        // Who replaces a rollout may bring the very same once more.
        let same = supersede.flatten().is_some() && latest > 0 && self.random.one_in(2);
        let to = if same { latest } else { latest + 1 };
        if !same {
            self.reactions(family, to);
        }
        // Who takes agents over, or reaches far, has to say how far.
        let reach = self.world.members_of(family).len() as u64;
        let reach = (!self.random.one_in(4)).then_some(reach);
        // A refusal is an answer, too.
        let _ = self.world.start(&Start {
            family,
            plan,
            reach,
            supersede: supersede.flatten(),
            to: same.then_some(to),
            direction: Direction::Forward,
        });
    }

    /// The whole family to an earlier revision, which is bad for nobody that it was not bad for before.
    fn back(&mut self) {
        let family = self.besides.pick(&["base", "edge", "core"]);
        let family = family.unwrap_or("base");
        let Some(stable) = self.world.families[family].stable.filter(|s| *s > 1) else {
            return;
        };
        let to = 1 + self.besides.below(stable - 1);
        let mut plan = fleet::rollout::rollback_plan();
        if self.besides.one_in(3) {
            for wave in &mut plan.waves {
                wave.max_in_flight = self.besides.pick(&[0, 1, 2]).unwrap_or(0);
            }
        }
        let _ = self.world.start(&Start {
            family,
            plan,
            reach: Some(self.world.members_of(family).len() as u64),
            supersede: Some(How::Restart),
            to: Some(to),
            direction: Direction::Back,
        });
    }

    fn reactions(&mut self, family: &str, revision: u64) {
        let bad = [
            Reaction::Reject,
            Reaction::Crash,
            Reaction::Sicken,
            Reaction::Ignore,
            Reaction::FallBack,
            Reaction::Loop,
            Reaction::Dry,
        ];
        let rate = self.random.pick(&[0, 40, 15, 5]).unwrap_or(0);
        let ids: Vec<Id> = self.world.live_ids().into_iter().collect();
        for id in ids.into_iter().filter(|_| rate > 0) {
            let roles = &self.world.families[family].roles;
            let labels = &self.world.agents[&id].labels;
            let role = roles.iter().find(|(_, s, _)| s.matches(labels));
            let role = role.map_or_else(String::new, |(role, ..)| role.clone());
            if self.random.one_in(rate) {
                let hash = delivery(family, &role, revision);
                let reaction = self.random.pick(&bad).unwrap_or_default();
                self.world.reactions.insert((id, hash), reaction);
            }
        }
    }

    fn verb(&mut self) {
        let open = self
            .world
            .rollouts
            .iter()
            .filter(|(_, doc)| !doc.kept.state.is_final());
        let open: Vec<String> = open.map(|(id, _)| id.clone()).collect();
        let at = self.random.below(open.len().max(1) as u64);
        let Some(id) = open.get(usize::try_from(at).unwrap_or(0)) else {
            return;
        };
        match self.random.below(7) {
            0 => self.world.pause(id),
            1 => self.world.halt(id),
            2 => self.world.roll_back(id),
            _ => self.world.resume(id),
        };
    }

    fn freeze(&mut self) {
        let from_ms = self.world.now_ms;
        self.world.freezes.push(Freeze {
            name: "quiet".into(),
            reason: "night".into(),
            from_ms,
            until_ms: from_ms + 60_000,
            families: vec![],
        });
    }

    /// The trouble is over; what is broken stays broken.
    pub fn calm(&mut self) {
        self.world.unreachable.clear();
        self.world.rooms.deaf.clear();
        self.world.rooms.slow.clear();
        self.world.freezes.clear();
        self.world.pins.clear();
        self.world.epoch += 1;
        for agent in self.world.agents.values_mut() {
            agent.asleep = false;
            agent.stopped = false;
        }
    }
}
