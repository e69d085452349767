//! The order of a rollout, shown before it starts: which role's which wave goes when, and how it would go back.

use std::collections::BTreeMap;
use std::fmt;

use super::{PlanSpec, Role, Rollout};

/// What goes in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Forward.
    pub turns: Vec<Turn>,
    /// Roles in the order of a rollback.
    pub back: Vec<String>,
}

/// One wave's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Role.
    pub role: String,
    /// Wave index from 0.
    pub wave: u32,
    /// Waves of this role.
    pub waves: u32,
    /// Agents in it.
    pub agents: u64,
    /// Soak.
    pub soak_ms: u64,
    /// What has to have passed before it begins, besides its own earlier wave.
    pub after: Vec<String>,
}

/// The order in which this rollout will go. Roles without members have no turn.
pub fn schedule(rollout: &Rollout) -> Schedule {
    let order: Vec<&Role> = rollout.in_order();
    let turns = match rollout.plan.interleave {
        true => interleaved(rollout, &order),
        false => order
            .iter()
            .flat_map(|role| (0..waves(role)).map(|wave| turn(rollout, role, wave)))
            .collect(),
    };
    let back = order.iter().rev().filter(|role| !role.wave_ends.is_empty());
    Schedule {
        turns,
        back: back.map(|role| role.name.clone()).collect(),
    }
}

/// Round by round, the next wave of each role that has nothing to wait for any more.
fn interleaved(rollout: &Rollout, order: &[&Role]) -> Vec<Turn> {
    let mut turns = Vec::new();
    let mut gone: BTreeMap<&str, u32> = BTreeMap::new();
    loop {
        let before = turns.len();
        for role in order {
            let of = |role: &Role| gone.get(role.name.as_str()).copied().unwrap_or(0);
            let wave = of(role);
            let has_gone =
                |first: &&Role| of(first) as usize >= rollout.waves_before(role, wave, first);
            if wave < waves(role) && rollout.before(role).iter().all(has_gone) {
                turns.push(turn(rollout, role, wave));
                gone.insert(&role.name, wave + 1);
            }
        }
        if turns.len() == before {
            return turns;
        }
    }
}

fn waves(role: &Role) -> u32 {
    u32::try_from(role.wave_ends.len()).unwrap_or(u32::MAX)
}

fn turn(rollout: &Rollout, role: &Role, wave: u32) -> Turn {
    let spec = rollout.wave(role, wave);
    let before = rollout.before(role).into_iter();
    let before = before.filter(|before| !before.wave_ends.is_empty());
    let PlanSpec { interleave, .. } = rollout.plan;
    let after: Vec<String> = before
        .filter_map(|before| match interleave {
            true => match rollout.waves_before(role, wave, before) {
                0 => None,
                waves => Some(format!("{} wave {waves}", before.name)),
            },
            false => (wave == 0).then(|| before.name.clone()),
        })
        .collect();
    Turn {
        role: role.name.clone(),
        wave,
        waves: waves(role),
        agents: role.wave_size(wave),
        soak_ms: spec.soak_ms,
        after,
    }
}

impl fmt::Display for Schedule {
    /// One line per turn, and one for the way back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, turn) in self.turns.iter().enumerate() {
            let Turn {
                role,
                wave,
                waves,
                agents,
                soak_ms,
                after,
            } = turn;
            write!(f, "{}. {role} wave {}/{waves}: {agents} ", at + 1, wave + 1)?;
            f.write_str(if *agents == 1 { "agent" } else { "agents" })?;
            if *soak_ms > 0 {
                write!(f, ", soak {} s", soak_ms / 1000)?;
            }
            if !after.is_empty() {
                write!(f, ", after {}", after.join(" and "))?;
            }
            writeln!(f)?;
        }
        write!(f, "a rollback goes: {}", self.back.join(", then "))
    }
}
