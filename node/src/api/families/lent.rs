//! Agents of a family that a rollout of another one has taken, or is about to, and may have to give back.

use std::collections::BTreeMap;
use std::fmt;

use fleet::program::Epoch;
use fleet::rollout::State;
use proto::uid::Uid;
use state::partition::place::came_from;

use crate::control::{Documents, rollout_state};
use crate::inventory::Columns;

use super::super::Api;

/// A rollout of another family whose list counts.
struct Taker {
    id: String,
    opened: Epoch,
    /// It may still take what it lists. One that has been rolled back owes a way back to those only that have slept through
    /// it.
    open: bool,
}

/// Agents of one family that are lent.
#[derive(Clone, Debug, Default)]
pub(super) struct Lent {
    /// How many.
    pub agents: u64,
    /// The first of them, at most [`NAMED`].
    pub named: Vec<Uid>,
}

/// So many of the agents that are lent are named: who has to look at them one after the other asks again.
pub(super) const NAMED: usize = 3;

impl Api {
    /// Which agents of this family are lent.
    pub(super) fn lent(&self, family: &str) -> Lent {
        let takers = takers(&self.node.control.read(), family);
        let mut lent = Lent::default();
        for partition in self.node.partitions.iter() {
            lent_in(&partition.index().read(), &takers, family, &mut lent);
        }
        lent
    }

    /// What the families that this source has are lent, by name.
    pub(super) fn lent_by(&self, documents: &Documents, source: &str) -> BTreeMap<String, Lent> {
        let families = documents.families.values().map(|family| &family.value);
        let of_it = families.filter(|family| family.source == source);
        of_it
            .map(|family| (family.name.clone(), self.lent(&family.name)))
            .collect()
    }
}

// === impl Lent ===

impl Lent {
    fn add(&mut self, uid: Uid) {
        self.agents += 1;
        if self.named.len() < NAMED {
            self.named.push(uid);
        }
    }
}

impl fmt::Display for Lent {
    /// `2 of its agents (…, …)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> = self.named.iter().map(Uid::to_string).collect();
        let more = match self.agents > named.len() as u64 {
            true => ", …",
            false => "",
        };
        let agents = self.agents;
        write!(f, "{agents} of its agents ({}{more})", named.join(", "))
    }
}

/// Its own rollouts only move agents from role to role.
fn takers(documents: &Documents, family: &str) -> Vec<Taker> {
    let others = documents.rollouts.values();
    let others = others.filter(|rollout| rollout.value.family != family);
    let takers = others.filter_map(|rollout| {
        let rollout = &rollout.value;
        let state = rollout_state(rollout.state());
        // Its list decides for its agents as long as its family names it.
        let named = documents.families.get(&rollout.family);
        let named = named.is_some_and(|family| family.value.rollout == rollout.id);
        let open = !state.is_final();
        (open || named && state == State::RolledBack).then(|| Taker {
            id: rollout.id.clone(),
            opened: Epoch(rollout.opening_epoch),
            open,
        })
    });
    takers.collect()
}

fn lent_in(columns: &Columns, takers: &[Taker], family: &str, lent: &mut Lent) {
    for taker in takers {
        let Some(list) = columns.lists.get(&taker.id) else {
            continue;
        };
        for (uid, member) in list.iter() {
            let from = member.taken_from.as_ref();
            if from.is_none_or(|from| *from.0 != *family) {
                continue;
            }
            // Whoever was forgotten, or speaks with another uid now, is given back to nobody.
            let Some(row) = columns.rows.get(uid).filter(|row| !row.alias) else {
                continue;
            };
            if taker.open || came_from(row, Some((taker.opened, list))).is_some() {
                lent.add(*uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::store::{self, RolloutState};

    use super::*;
    use crate::control::Control;
    use crate::inventory::{Index, chunk};
    use crate::ledger::{Mirror, table};

    /// Rollout `ro-1` of `b` has taken agents 1, 2 and 3 from `a`; 1 has gone back since.
    fn lent(state: RolloutState, named: bool) -> u64 {
        lent_unless(0, state, named)
    }

    /// A person has said so long after the rollout began whose they are; 0: nobody has.
    fn lent_unless(said: u64, state: RolloutState, named: bool) -> u64 {
        let control = Control::default();
        let mut mirror = control.mirror();
        let rollout = store::Rollout {
            id: "ro-1".into(),
            family: "b".into(),
            state: state.into(),
            ..store::Rollout::default()
        };
        let family = store::Family {
            name: "b".into(),
            rollout: if named { "ro-1".into() } else { String::new() },
            ..store::Family::default()
        };
        mirror.put(table::ROLLOUT, b"ro-1", 1, &rollout.encode_to_vec());
        mirror.put(table::FAMILY, b"b", 1, &family.encode_to_vec());
        mirror.publish(0);

        let index = Index::default();
        let mut mirror = index.mirror();
        let mut members = vec![];
        // Agent 3 is nobody's any more: it was given another uid.
        for (n, owner) in [(1, "a"), (2, "b"), (3, "b")] {
            let uid = vec![n; 16];
            let agent = store::Agent {
                alias_of: if n == 3 { vec![2; 16] } else { vec![] },
                resolved_epoch: said,
                delivery: Some(store::Delivery {
                    family: owner.into(),
                    role: "agent".into(),
                    hash: vec![n; 32],
                    state: store::DeliveryState::Applied.into(),
                    rollout: "ro-1".into(),
                    ..store::Delivery::default()
                }),
                ..store::Agent::default()
            };
            mirror.put(table::AGENT, &uid, 1, &agent.encode_to_vec());
            members.push(store::Member {
                uid,
                taken_from: Some(store::Owner {
                    family: "a".into(),
                    role: "agent".into(),
                }),
                ..store::Member::default()
            });
        }
        let list = store::MemberChunk { members }.encode_to_vec();
        mirror.put(table::MEMBERS, &chunk("ro-1", 0), 1, &list);
        mirror.publish(0);
        let takers = takers(&control.read(), "a");
        let mut lent = Lent::default();
        lent_in(&index.read(), &takers, "a", &mut lent);
        assert_eq!(lent.named.len() as u64, lent.agents);
        lent.agents
    }

    #[test]
    fn an_open_rollout_may_have_to_give_back_whom_it_lists() {
        assert_eq!(lent(RolloutState::Running, true), 2);
        assert_eq!(lent(RolloutState::Planned, false), 2);
        assert_eq!(lent(RolloutState::Completed, false), 0);
    }

    #[test]
    fn who_has_slept_through_a_rollback_is_lent_until_it_is_back() {
        assert_eq!(lent(RolloutState::RolledBack, true), 1);
        // A person has said that it stays.
        assert_eq!(lent_unless(9, RolloutState::RolledBack, true), 0);
        // The family has gone on: its next rollout's list says who is owed a way back.
        assert_eq!(lent(RolloutState::RolledBack, false), 0);
    }

    #[test]
    fn the_first_few_that_are_lent_are_named() {
        let mut lent = Lent::default();
        (1..=4).for_each(|n| lent.add(Uid::from_wire(&[n; 16]).unwrap()));
        let [one, two, three] = [1, 2, 3].map(|n| Uid::from_wire(&[n; 16]).unwrap());
        assert_eq!(
            lent.to_string(),
            format!("4 of its agents ({one}, {two}, {three}, …)")
        );
    }
}
