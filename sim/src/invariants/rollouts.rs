//! Rollouts: counts add up to a list that never changes (6), and nothing passes without fresh evidence (8).

use std::collections::BTreeMap;

use super::{Fact, Invariant, Move, Verdict, hold};
use crate::cluster::Cluster;
use crate::types::GroupId;

/// What was read longer ago decides nothing.
const FRESH_MS: u64 = 5_000;

#[derive(Debug, Default)]
pub struct Rollouts {
    lists: BTreeMap<String, u64>,
    read_ms: BTreeMap<GroupId, u64>,
}

impl Rollouts {
    pub fn check(&mut self, now_ms: u64, fact: &Fact) -> Verdict {
        match fact {
            Fact::Read { group, .. } => {
                self.read_ms.insert(*group, now_ms);
                Ok(())
            }
            Fact::Looked {
                rollout,
                listed,
                counted,
                moves,
            } => {
                let before = *self.lists.entry(rollout.clone()).or_insert(*listed);
                let adds_up = counted.is_none_or(|counted| counted == *listed);
                hold(adds_up && before == *listed, Invariant::AddsUp, || {
                    format!(
                        "{rollout} had {before} members, has {listed}, and {counted:?} are counted"
                    )
                })?;
                let decides =
                    |step: &Move| matches!(step, Move::Passes | Move::Completes | Move::WentBack);
                let Some(step) = moves.iter().find(|step| decides(step)) else {
                    return Ok(());
                };
                Cluster::partitions().try_for_each(|group| {
                    let read = self.read_ms.get(&group);
                    let is_fresh = read.is_some_and(|read| now_ms - read <= FRESH_MS);
                    hold(is_fresh, Invariant::FreshEvidence, || {
                        format!(
                            "{rollout}: {step:?} at {now_ms}, {group:?} was read last at {read:?}"
                        )
                    })
                })
            }
            _ => Ok(()),
        }
    }
}
