//! A partition's part of a rollout: who could be a member, the stored list, and where each member stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::bucket::{Bucket, Counts};
use fleet::family::delivery_hash;
use fleet::governance::pin;
use fleet::offer::{Failure, State};
use fleet::program::{Condition, Program, matching};
use fleet::rollout::{Signs, is_restart_loop};
use fleet::waves;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link, Member, MemberChunk};
use proto::uid::Uid;

use super::stand::Stand;
use super::{Partition, desired_of};
use crate::control::role;
use crate::inventory::{Delivery, Row, chunk};
use crate::ledger::{ProposeError, delete_any, entry, now_ms, put_any, table};
use crate::rising::Rising;

/// Members in one chunk: about 400 KiB.
const CHUNK: usize = 10_000;

/// An agent as a rollout's preview and preparation see it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Identity.
    pub uid: Uid,
    /// Index of its role in the revision; none: left out.
    pub role: Option<u32>,
    /// Why it is left out.
    pub left_out: Option<String>,
    /// The components that its build lacks and the config of its role needs; none: it has all, or nobody has looked.
    pub lacks: Option<String>,
    /// Roles it matches, if more than one.
    pub conflict: Option<Vec<String>>,
    /// Its delivery does not change.
    pub unchanged: bool,
    /// Connected now.
    pub reachable: bool,
    /// Version, OS, architecture.
    pub stratum: String,
    /// What it runs by its last authorised offer: hash as bytes, family, role, revision, rollout; none: nothing.
    pub delivery: Option<store::Delivery>,
    /// It said that it applied that.
    pub applied: bool,
    /// As in [`Row::effective`].
    pub effective: Arc<str>,
    /// Component list hash.
    pub components: Box<[u8]>,
    /// Owned by this family now.
    pub owned: bool,
    /// A rollout that is continued has brought it through its wave.
    pub ahead: bool,
    /// A pin holds it at another revision: a member, and nobody's canary.
    pub pinned: bool,
    /// Family and role that it would be taken from.
    pub taken_from: Option<(String, String)>,
}

/// A member and its bucket.
pub struct MemberView {
    /// Who.
    pub uid: Uid,
    /// Index into the revision's roles.
    pub role: u32,
    /// Index from 0.
    pub wave: u32,
    /// Where it stands.
    pub bucket: Bucket,
    /// The error that explains a failure; empty otherwise.
    pub error: String,
}

// === impl Partition ===

impl Partition {
    /// Every agent that a revision of this family touches in some way: its roles match it, or the family owns it.
    pub fn candidates(
        &self,
        family: &str,
        precedence: i64,
        revision: &store::Revision,
    ) -> Vec<Candidate> {
        let program = self.program();
        let roles: Vec<_> = revision.roles.iter().filter_map(role).collect();
        let program_roles: Vec<_> = roles
            .iter()
            .map(|r| fleet::program::ProgramRole {
                name: r.name.clone(),
                selector: r.selector.clone(),
                delivery: delivery_hash(&r.config),
                baseline: delivery_hash(&r.baseline()),
            })
            .collect();
        let columns = self.index.read();
        let live = columns.rows.values().filter(|row| !row.alias);
        live.filter_map(|row| candidate(row, &program, family, precedence, &program_roles))
            .collect()
    }

    /// Stores this partition's list of a rollout. Idempotent: the same list replaces itself.
    pub async fn store_list(
        &self,
        rollout: &str,
        mut members: Vec<Member>,
    ) -> Result<(), ProposeError> {
        members.sort_by(|a, b| a.uid.cmp(&b.uid));
        for (i, part) in members.chunks(CHUNK).enumerate() {
            let list = MemberChunk {
                members: part.to_vec(),
            };
            let key = chunk(rollout, u32::try_from(i).unwrap_or(u32::MAX));
            self.ledger
                .propose(entry(vec![put_any(table::MEMBERS, key, &list)], vec![]))
                .await?;
        }
        Ok(())
    }

    /// Removes this partition's list of a rollout.
    pub async fn drop_list(&self, rollout: &str) -> Result<(), ProposeError> {
        let members = self
            .index
            .read()
            .lists
            .get(rollout)
            .map_or(0, BTreeMap::len);
        if members == 0 {
            return Ok(());
        }
        let chunks = members.div_ceil(CHUNK);
        let keys = (0..chunks).map(|i| chunk(rollout, u32::try_from(i).unwrap_or(u32::MAX)));
        self.ledger
            .propose(entry(
                keys.map(|key| delete_any(table::MEMBERS, key)).collect(),
                vec![],
            ))
            .await
            .map(|_| ())
    }

    /// Where every member stands, in uid order.
    pub fn members(&self, rollout: &store::Rollout) -> Vec<MemberView> {
        let mut members = Vec::new();
        self.each_member(rollout, |uid, member, row, bucket| {
            members.push(MemberView {
                uid,
                role: member.role,
                wave: member.wave,
                bucket,
                error: error_of(row, bucket),
            });
        });
        members
    }

    /// Members that run what this rollout sent them, with when they came to; and how many have to, and do not.
    pub fn converged(&self, rollout: &store::Rollout) -> (Vec<(u64, Uid)>, u64) {
        let mut converged = Vec::new();
        let mut open = 0;
        self.each_member(rollout, |uid, _, row, bucket| match bucket {
            Bucket::Converged => {
                let at = row.map_or(0, |row| converged_ms(row, &rollout.id));
                converged.push((at, uid));
            }
            // Who has left or was deleted is out of the denominator.
            Bucket::Unchanged | Bucket::Left | Bucket::Deleted => {}
            _ => open += 1,
        });
        (converged, open)
    }

    /// Agents that joined since this rollout's lists were made: outside of its figures.
    pub fn late(&self, rollout: &str) -> u64 {
        let program = self.program();
        if program.rollout(rollout).is_none() {
            return 0;
        }
        let columns = self.index.read();
        let is_late = |row: &&Row| {
            let listed = columns.lists.get(rollout);
            !row.alias
                && !listed.is_some_and(|list| list.contains_key(&row.uid))
                && desired_of(row, None, &program).conditions.iter().any(
                    |condition| matches!(condition, Condition::Late { rollout: id } if id == rollout),
                )
        };
        columns.rows.values().filter(is_late).count() as u64
    }

    /// Every member in uid order, with its row and its bucket. A rollout may have a million of them.
    fn each_member(
        &self,
        rollout: &store::Rollout,
        mut look: impl FnMut(Uid, &crate::inventory::Member, Option<&Row>, Bucket),
    ) {
        let program = self.program();
        let uids: Vec<Uid> = {
            let columns = self.index.read();
            let Some(list) = columns.lists.get(&rollout.id) else {
                return;
            };
            list.keys().copied().collect()
        };
        let stale = self.stale(&uids);
        let stand = Stand::of(rollout, &program, now_ms());
        let columns = self.index.read();
        let Some(list) = columns.lists.get(&rollout.id) else {
            return;
        };
        let mut rows = Rising::of(&columns.rows);
        for (uid, member) in list {
            let row = rows.find(uid);
            let is_fresh = || stale.binary_search(uid).is_err();
            let bucket = row.map_or(Bucket::Deleted, |row| stand.bucket(row, member, is_fresh()));
            look(*uid, member, row, bucket);
        }
    }

    /// Counts and signs by role index and wave.
    pub fn count(&self, rollout: &store::Rollout) -> BTreeMap<(u32, u32), (Counts, Signs)> {
        let mut waves: BTreeMap<(u32, u32), (Counts, Signs)> = BTreeMap::new();
        let now = now_ms();
        self.each_member(rollout, |_, member, row, bucket| {
            let (counts, signs) = waves.entry((member.role, member.wave)).or_default();
            counts.add(bucket);
            let Some(row) = row else {
                return;
            };
            signs.unhealthy += u64::from(bucket == Bucket::Converged && !row.healthy);
            let delivery = row.delivery.as_ref();
            let ours = delivery.filter(|d| *d.rollout == *rollout.id);
            let loops =
                |d: &Delivery| is_restart_loop(d.restarts, now.saturating_sub(d.offered_ms));
            signs.restart_loops += u64::from(ours.is_some_and(loops));
        });
        waves
    }
}

/// When a converged member came to run what this rollout sent it; 0 = another one had sent it before. Where that was not
/// noted, since it cannot say that it applied it, the last change of its record is.
fn converged_ms(row: &Row, rollout: &str) -> u64 {
    let ours = row.delivery.as_ref().filter(|d| *d.rollout == *rollout);
    ours.map_or(0, |delivery| match delivery.converged_ms {
        0 => row.last_seen_ms.max(delivery.offered_ms),
        noted => noted,
    })
}

/// The error that explains a failure; empty for other buckets.
fn error_of(row: Option<&Row>, bucket: Bucket) -> String {
    match bucket {
        Bucket::Failed(Failure::Unhealthy) | Bucket::WasUnhealthy => {
            row.map(|row| row.health_error.to_string())
        }
        Bucket::Failed(_) => {
            let delivery = row.and_then(|row| row.delivery.as_ref());
            delivery.map(|d| d.error.to_string())
        }
        _ => None,
    }
    .unwrap_or_default()
}

fn candidate(
    row: &Row,
    program: &Program,
    family: &str,
    precedence: i64,
    roles: &[fleet::program::ProgramRole],
) -> Option<Candidate> {
    let names = matching(roles, row);
    let owned = row.owner().is_some_and(|(owner, _)| owner == family);
    if names.is_empty() && !owned {
        return None;
    }
    let delivery = row.delivery.as_ref();
    let mut candidate = Candidate {
        uid: row.uid,
        role: None,
        left_out: None,
        lacks: None,
        conflict: None,
        unchanged: false,
        reachable: row.link == Link::Connected,
        stratum: row.stratum(),
        delivery: delivery.map(|d| store::Delivery {
            hash: d.hash.as_bytes().to_vec(),
            family: d.family.to_string(),
            role: d.role.to_string(),
            revision: d.revision,
            rollout: d.rollout.to_string(),
            ..store::Delivery::default()
        }),
        applied: delivery.is_some_and(|d| d.state == State::Applied),
        effective: row.effective.clone(),
        components: row.components.clone(),
        owned,
        ahead: false,
        pinned: false,
        taken_from: None,
    };
    let by_higher = program.claims(row).into_iter().find(|claim| {
        claim.family != family
            && program
                .family(claim.family)
                .is_some_and(|f| f.precedence > precedence)
    });
    candidate.left_out = if names.is_empty() {
        Some("no role of this revision matches it any more: it keeps what it runs".to_owned())
    } else if names.len() > 1 {
        candidate.conflict = Some(names.iter().map(|name| (*name).to_owned()).collect());
        Some(format!(
            "it matches {} roles: {}",
            names.len(),
            names.join(", ")
        ))
    } else if row.duplicate {
        Some("two agents speak with its uid".to_owned())
    } else if row.many_collectors() {
        Some("it stands for many collectors and is never configured".to_owned())
    } else if !row.can(AgentCapabilities::AcceptsRemoteConfig) {
        Some("it does not accept remote configuration".to_owned())
    } else if row.stopped {
        Some("its collector is stopped by order".to_owned())
    } else if let Some(claim) = by_higher {
        Some(format!(
            "shadowed by family {}, which has a higher precedence",
            claim.family
        ))
    } else if let Some((owner, role)) = row.owner().filter(|(owner, _)| *owner != family) {
        let higher = program.family(owner).filter(|f| f.precedence > precedence);
        if higher.is_none() {
            candidate.taken_from = Some((owner.to_owned(), role.to_owned()));
        }
        higher.map(|_| format!("it is owned by family {owner}, which has a higher precedence"))
    } else {
        None
    };
    if candidate.left_out.is_none() {
        let at = roles.iter().position(|r| r.name == names[0])?;
        candidate.role = u32::try_from(at).ok();
        let same =
            delivery.is_some_and(|d| d.hash == roles[at].delivery && d.state == State::Applied);
        candidate.unchanged = same && candidate.taken_from.is_none();
        let held = pin::of(&program.pins, family, row.uid.as_bytes(), row);
        candidate.pinned = owned && held.is_some() && !candidate.unchanged;
    }
    Some(candidate)
}

impl Candidate {
    /// As the wave assignment takes it.
    pub fn for_waves(&self) -> waves::Candidate {
        waves::Candidate {
            uid: *self.uid.as_bytes(),
            stratum: self.stratum.clone(),
            reachable: self.reachable,
            ahead: self.ahead,
        }
    }
}
