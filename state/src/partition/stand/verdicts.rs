//! What was found of each member of an open rollout, kept from one look of the controller to the next.
//!
//! A verdict rests on the member's line, its agent's record, the program and the rollout's state. While none of these has
//! changed it holds, but for what time alone decides: a broken agent fails after a while, and who has converged has to be
//! heard again and again. So a look at a million members of whom a few thousand have changed costs little more than
//! going through the list. Where all have to be found anew, as after the opening of a wave, the controller does so in
//! several looks, and decides nothing before the last of them. What is kept can be lost at any instant.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::bucket::{Bucket, Counts, UNHEALTHY_AFTER_MS, buckets};
use fleet::program::{Epoch, Program};
use fleet::rollout::{Signs, is_restart_loop};
use proto::store::{self, RolloutState};
use proto::uid::Uid;

use super::Stand;
use crate::control::failures_since;
use crate::inventory::{Columns, Member, Row};
use crate::partition::is_quiet;
use crate::rising::Rising;

/// Of one rollout's list, in its order.
#[derive(Default)]
pub struct Verdicts {
    basis: Option<Basis>,
    /// Moment of the index up to which all changes are in.
    moment: u64,
    verdicts: Vec<Verdict>,
    /// Those before it rest on what is so now, the others on what was.
    anew: usize,
    /// How often what they rest on has changed before all were found anew.
    overtaken: u32,
    /// By role and wave.
    lanes: BTreeMap<(u32, u32), u32>,
    /// Of the look that was the last.
    now_ms: u64,
}

/// Of how many members one look of the controller finds anew where they stand, over all partitions, once what all of them
/// rest on has changed.
#[derive(Debug)]
pub struct Pace {
    each: usize,
    left: usize,
}

/// What all verdicts rest on.
struct Basis {
    program: Arc<Program>,
    state: RolloutState,
    failures_since: Epoch,
    /// What builds have is known only when their component list was read.
    builds_told: u64,
}

/// Of one member.
#[derive(Clone, Copy)]
struct Verdict {
    /// Where it stands if it was heard lately, and if not.
    buckets: (Bucket, Bucket),
    lane: u32,
    healthy: bool,
    restart_loop: bool,
    /// Time alone changes it.
    restless: bool,
    /// While its connection stands, its silence says nothing.
    quiet: bool,
    /// It was heard lately until then, on the monotonic clock.
    fresh_until_ms: u64,
}

// === impl Verdicts ===

impl Verdicts {
    /// Finds anew what has changed. Answers of whom it has to be known when they were heard, in rising order. Where
    /// everything has to be found anew, as many members are as the pace has left, and each time that it has to be once
    /// more before that is done, twice as many, whether it has any left or not: a program that changes all the time is
    /// caught up with in every partition. `now_ms`: monotonic, and wall clock.
    pub fn look(
        &mut self,
        columns: &Columns,
        rollout: &store::Rollout,
        program: &Arc<Program>,
        now_ms: (u64, u64),
        pace: &mut Pace,
    ) -> Vec<Uid> {
        let (now_ms, wall_ms) = now_ms;
        self.now_ms = now_ms;
        let Some(list) = columns.lists.get(&rollout.id) else {
            *self = Verdicts::default();
            return vec![];
        };
        let basis = Basis {
            program: Arc::clone(program),
            state: rollout.state(),
            failures_since: failures_since(rollout),
            builds_told: columns.builds_told,
        };
        let is_other = !self.basis.as_ref().is_some_and(|before| before.is(&basis));
        self.basis = Some(basis);
        if self.verdicts.len() != list.len() {
            self.lanes.clear();
            self.verdicts.clear();
            for (_, member) in list.iter() {
                let lane = self.lane(member);
                self.verdicts.push(Verdict::unseen(lane));
            }
            (self.anew, self.overtaken) = (0, 0);
        } else if is_other {
            self.overtaken = if self.is_whole() {
                0
            } else {
                self.overtaken + 1
            };
            self.anew = 0;
        }
        let found = self.anew;
        let share = pace.share(self.overtaken);
        self.anew = found.saturating_add(share).min(list.len());
        let anew = found..self.anew;
        pace.left = pace.left.saturating_sub(anew.len());
        let mut stand = Stand::of(rollout, program, wall_ms);
        let mut rows = Rising::of(&columns.rows);
        let mut due = Vec::new();
        for (at, (uid, member, changed)) in list.with_changes().enumerate() {
            if changed > self.moment || self.verdicts[at].restless || anew.contains(&at) {
                let lane = self.lane(member);
                self.verdicts[at] = Verdict::of(rows.find(uid), member, lane, &mut stand);
            }
            if self.verdicts[at].is_due(now_ms) {
                due.push(*uid);
            }
        }
        self.moment = columns.moment;
        due
    }

    /// Do all rest on what is so now?
    pub fn is_whole(&self) -> bool {
        self.anew == self.verdicts.len()
    }

    fn lane(&mut self, member: &Member) -> u32 {
        let lanes = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
        *self
            .lanes
            .entry((member.role, member.wave))
            .or_insert(lanes)
    }

    /// When those that were asked for were heard, and whether their connections are open. Heard within this limit is
    /// lately.
    pub fn heard(&mut self, heard: &[(u64, bool)], limit_ms: u64) {
        let now_ms = self.now_ms;
        let due = self.verdicts.iter_mut().filter(|v| v.is_due(now_ms));
        for (verdict, (at, open)) in due.zip(heard) {
            verdict.fresh_until_ms = at + limit_ms;
            if verdict.fresh_until_ms <= now_ms && *open && verdict.quiet {
                verdict.fresh_until_ms = now_ms + 1;
            }
        }
    }

    /// By role index and wave.
    pub fn count(&self) -> BTreeMap<(u32, u32), (Counts, Signs)> {
        let mut counted = vec![(Counts::default(), Signs::default()); self.lanes.len()];
        for verdict in &self.verdicts {
            let Some((counts, signs)) = counted.get_mut(verdict.lane as usize) else {
                continue;
            };
            let (fresh, stale) = verdict.buckets;
            let bucket = if verdict.fresh_until_ms > self.now_ms {
                fresh
            } else {
                stale
            };
            counts.add(bucket);
            signs.add(bucket, verdict.healthy, verdict.restart_loop);
        }
        let of = |(wave, lane): (&(u32, u32), &u32)| (*wave, counted[*lane as usize]);
        self.lanes.iter().map(of).collect()
    }
}

impl Pace {
    /// So many in one look.
    pub fn of(each: usize) -> Self {
        Pace { each, left: each }
    }

    /// All at once: for a person, who wants to know all.
    pub fn whole() -> Self {
        Pace::of(usize::MAX)
    }

    fn share(&self, overtaken: u32) -> usize {
        match overtaken {
            0 => self.left,
            times => self.each.saturating_mul(1 << times.min(30)),
        }
    }
}

impl Basis {
    /// Another program that decides the same is the same.
    fn is(&self, other: &Basis) -> bool {
        (self.state, self.failures_since, self.builds_told)
            == (other.state, other.failures_since, other.builds_told)
            && (Arc::ptr_eq(&self.program, &other.program)
                || self.program.decides_as(&other.program))
    }
}

impl Verdict {
    /// Of a member that was not looked at yet.
    fn unseen(lane: u32) -> Verdict {
        Verdict {
            buckets: (Bucket::Waiting, Bucket::Waiting),
            lane,
            healthy: true,
            restart_loop: false,
            restless: false,
            quiet: false,
            fresh_until_ms: 0,
        }
    }

    fn of(row: Option<&Row>, member: &Member, lane: u32, stand: &mut Stand<'_>) -> Verdict {
        let Some(row) = row else {
            return Verdict {
                buckets: (Bucket::Deleted, Bucket::Deleted),
                ..Verdict::unseen(lane)
            };
        };
        let ours = row.delivery.as_ref();
        let ours = ours.filter(|d| *d.rollout == *stand.rollout.id && d.restarts > 0);
        let loops = |d: &crate::inventory::Delivery| {
            is_restart_loop(d.restarts, stand.now_ms.saturating_sub(d.offered_ms))
        };
        let sick_ms = stand.now_ms.saturating_sub(row.health_since_ms);
        Verdict {
            restart_loop: ours.is_some_and(loops),
            restless: ours.is_some() || (!row.healthy && sick_ms < UNHEALTHY_AFTER_MS),
            buckets: buckets(&stand.sighting(row, member)),
            lane,
            healthy: row.healthy,
            quiet: is_quiet(row),
            fresh_until_ms: 0,
        }
    }

    /// Does it have to be known when the agent was heard?
    fn is_due(&self, now_ms: u64) -> bool {
        self.buckets.0 != self.buckets.1 && self.fresh_until_ms <= now_ms
    }
}
