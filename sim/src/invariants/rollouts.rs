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
    /// When a rollout went on last.
    moved_ms: u64,
}

impl Rollouts {
    /// Has a rollout gone on within so long?
    pub fn moved_within(&self, now_ms: u64, ms: u64) -> bool {
        now_ms < self.moved_ms + ms
    }

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
                evidence_age_ms,
                moves,
            } => {
                if !moves.is_empty() {
                    self.moved_ms = now_ms;
                }
                let before = *self.lists.entry(rollout.clone()).or_insert(*listed);
                // A replica that was not read of late may not have the list yet.
                let is_fresh = evidence_age_ms.is_some_and(|age| age <= FRESH_MS);
                let adds_up = !is_fresh || counted == listed;
                hold(adds_up && before == *listed, Invariant::AddsUp, || {
                    format!(
                        "{rollout} had {before} members, has {listed}, and {counted} are counted"
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
