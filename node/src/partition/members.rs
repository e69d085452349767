//! A partition's part of a rollout: who could be a member, the stored list, and where each member stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::bucket::{Bucket, Counts};
use fleet::family::delivery_hash;
use fleet::governance::pin;
use fleet::membership::enlist::{Applicant, LeftOut, enlist};
use fleet::offer::{Failure, State};
use fleet::program::{Condition, Epoch, Program, ProgramRole, matching};
use fleet::rollout::Signs;
use fleet::waves;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link, Member, MemberChunk};
use proto::uid::Uid;
use state::Rising;
use state::partition::place::came_from;
use state::partition::stand::Stand;
use state::partition::stand::verdicts::{Pace, Verdicts};

use super::{Partition, desired_of};
use crate::control::{needs, role};
use crate::inventory::{Build, List, Row, chunk};
use crate::ledger::{ProposeError, delete_any, entry, now_ms, put_any, table};

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
    /// What it reports to run contradicts that.
    pub drifted: bool,
    /// As in [`Row::effective`].
    pub effective: Arc<str>,
    /// Its component list; none: it names none.
    pub build: Option<Arc<Build>>,
    /// Owned by this family now.
    pub owned: bool,
    /// A rollout that is continued has brought it through its wave.
    pub ahead: bool,
    /// A pin holds it at another revision: a member, and nobody's canary.
    pub pinned: bool,
    /// Family and role that it would be taken from: another family's, or another role's of this one.
    pub taken_from: Option<(String, String)>,
}

/// By role index and wave.
pub type Counted = BTreeMap<(u32, u32), (Counts, Signs)>;

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
            .map(|r| ProgramRole {
                name: r.name.clone(),
                selector: r.selector.clone(),
                delivery: delivery_hash(&r.config),
                baseline: delivery_hash(&r.baseline()),
                needs: needs(delivery_hash(&r.config), &r.config),
            })
            .collect();
        let columns = self.index.read();
        let live = columns.rows.values().filter(|row| !row.alias);
        // A completed one is not named any more.
        let last = program.family(family).and_then(|f| f.rollout.as_ref());
        let last = last.and_then(|rollout| Some((rollout.opened, columns.lists.get(&rollout.id)?)));
        live.filter_map(|row| candidate(row, &program, (family, precedence), &program_roles, last))
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
        let members = self.index.read().lists.get(rollout).map_or(0, List::len);
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
                && listed.is_none_or(|list| list.get(&row.uid).is_none())
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
            list.iter().map(|(uid, _)| *uid).collect()
        };
        let stale = self.stale(&uids);
        let mut stand = Stand::of(rollout, &program, now_ms());
        let columns = self.index.read();
        let Some(list) = columns.lists.get(&rollout.id) else {
            return;
        };
        let mut rows = Rising::of(&columns.rows);
        let mut stale = stale.iter().peekable();
        for (uid, member) in list.iter() {
            let row = rows.find(uid);
            while stale.next_if(|silent| *silent < uid).is_some() {}
            let is_fresh = || stale.peek().is_none_or(|silent| *silent != uid);
            let bucket = row.map_or(Bucket::Deleted, |row| stand.bucket(row, member, is_fresh));
            look(*uid, member, row, bucket);
        }
    }

    /// Counts and signs by role index and wave. `pace`: of how many members it may be found anew where they stand, if it
    /// has to be of all. True: the counts are of now for all of them.
    pub fn count(&self, rollout: &store::Rollout, pace: &mut Pace) -> (Counted, bool) {
        let program = self.program();
        let mut kept = self.verdicts();
        kept.retain(|id, _| program.rollout(id).is_some());
        let mut once = Verdicts::default();
        let verdicts = match program.rollout(&rollout.id) {
            Some(_) => kept.entry(rollout.id.clone()).or_default(),
            // The program names it no more: only people look at it.
            None => &mut once,
        };
        let (now_ms, limit_ms) = (self.monotonic_ms(), self.stale_after_ms());
        let due = {
            let columns = self.index.read();
            verdicts.look(
                &columns,
                rollout,
                &program,
                (now_ms, crate::ledger::now_ms()),
                pace,
            )
        };
        let heard = self.core().heard_at(&due);
        verdicts.heard(&heard, limit_ms);
        (verdicts.count(), verdicts.is_whole())
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

/// An agent for a rollout of this family, whose target gives it the precedence. `last`: the list of its last rollout, and
/// the program that opened it.
fn candidate(
    row: &Row,
    program: &Program,
    (family, precedence): (&str, i64),
    roles: &[ProgramRole],
    last: Option<(Epoch, &List)>,
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
        drifted: delivery.is_some_and(|d| d.effective == store::Match::No),
        effective: row.effective.clone(),
        build: row.build.clone(),
        owned,
        ahead: false,
        pinned: false,
        taken_from: None,
    };
    let applicant = Applicant {
        owner: row.owner(),
        roles: names,
        claims: program.claims(row),
        duplicate: row.duplicate,
        many_collectors: row.many_collectors(),
        accepts: row.can(AgentCapabilities::AcceptsRemoteConfig),
        stopped: row.stopped,
    };
    match enlist(family, precedence, &applicant, program) {
        Err(why) => {
            candidate.left_out = Some(why.to_string());
            if let LeftOut::Ambiguous(roles) = why {
                candidate.conflict = Some(roles);
            }
        }
        Ok(listed) => {
            let at = roles.iter().position(|role| role.name == listed.role)?;
            candidate.role = u32::try_from(at).ok();
            let taken_from = listed.taken_from.or_else(|| came_from(row, last));
            let runs =
                delivery.is_some_and(|d| d.hash == roles[at].delivery && d.state == State::Applied);
            candidate.unchanged = runs && taken_from.is_none();
            candidate.taken_from =
                taken_from.map(|(family, role)| (family.to_owned(), role.to_owned()));
            let held = pin::of(&program.pins, family, row.uid.as_bytes(), row);
            candidate.pinned = owned && held.is_some() && !candidate.unchanged;
        }
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

#[cfg(test)]
mod tests {
    use fleet::digest::Digest;
    use fleet::program::{OwnerChange, ProgramFamily, RevisionNumber};
    use fleet::selector::Selector;

    use super::*;
    use crate::inventory::Interner;

    fn uid() -> Uid {
        Uid::from_wire(&[7; 16]).unwrap()
    }

    fn role_named(name: &str) -> ProgramRole {
        ProgramRole {
            name: name.into(),
            selector: Selector::parse("*").unwrap(),
            delivery: Digest::of("test", &[b"target"]),
            baseline: Digest::of("test", &[b"baseline"]),
            needs: Arc::default(),
        }
    }

    fn family(name: &str, stable: Option<u64>) -> ProgramFamily {
        ProgramFamily {
            name: name.into(),
            precedence: 1,
            stable: stable.map(RevisionNumber),
            revisions: BTreeMap::new(),
            owner_change: OwnerChange::Ask,
            rollout: None,
        }
    }

    /// It runs the target by an offer for this owner, in this rollout.
    fn runs(owner: (&str, &str), rollout: &str) -> Row {
        let agent = store::Agent {
            capabilities: AgentCapabilities::AcceptsRemoteConfig as u64,
            delivery: Some(store::Delivery {
                hash: role_named("agent").delivery.as_bytes().to_vec(),
                state: store::DeliveryState::Applied.into(),
                family: owner.0.into(),
                role: owner.1.into(),
                rollout: rollout.into(),
                ..store::Delivery::default()
            }),
            ..store::Agent::default()
        };
        Row::new(uid(), 1, &agent, &mut Interner::default())
    }

    /// As a rollout of family web sees it, whose last one has taken it from family db.
    fn seen(row: &Row, last: Option<(Epoch, &List)>) -> Candidate {
        let program = Program {
            epoch: Epoch(1),
            families: vec![
                family("web", Some(1)),
                family("db", Some(1)),
                family("new", None),
            ],
            pins: vec![],
        };
        candidate(row, &program, ("web", 5), &[role_named("agent")], last).unwrap()
    }

    fn taken_from(candidate: &Candidate) -> Option<(&str, &str)> {
        let from = candidate.taken_from.as_ref();
        from.map(|(family, role)| (family.as_str(), role.as_str()))
    }

    #[test]
    fn who_changes_its_role_is_taken_from_the_one_that_it_had() {
        let same = seen(&runs(("web", "agent"), ""), None);
        assert_eq!((taken_from(&same), same.unchanged), (None, true));
        let other = seen(&runs(("web", "gateway"), ""), None);
        assert_eq!(taken_from(&other), Some(("web", "gateway")));
        assert!(other.owned && !other.unchanged);
    }

    #[test]
    fn who_could_not_be_given_back_is_left_out_by_name() {
        let left_out = seen(&runs(("new", "agent"), ""), None);
        assert_eq!(left_out.role, None);
        let why = left_out.left_out.unwrap();
        assert!(
            why.contains("owned by family new, which has no stable revision to give it back to"),
            "{why}"
        );
    }

    #[test]
    fn who_slept_through_a_rollback_is_still_owed_its_way_back() {
        let member = crate::inventory::Member {
            role: 0,
            wave: 0,
            unchanged: false,
            taken_from: Some(Box::new(("db".into(), "agent".into()))),
        };
        let mut last = List::default();
        last.insert(uid(), member, 1);
        let last = Some((Epoch(7), &last));
        let slept = seen(&runs(("web", "agent"), "ro-1"), last);
        assert_eq!(taken_from(&slept), Some(("db", "agent")));
        assert!(slept.owned && !slept.unchanged);
        // It has joined since, outside of any rollout.
        let joined = seen(&runs(("web", "agent"), ""), last);
        assert_eq!((taken_from(&joined), joined.unchanged), (None, true));
        // A person has said that it stays: before that list was made, and since.
        let said = |resolved| {
            let mut row = runs(("web", "agent"), "ro-1");
            row.resolved = resolved;
            row
        };
        assert_eq!(taken_from(&seen(&said(6), last)), Some(("db", "agent")));
        assert_eq!(taken_from(&seen(&said(7), last)), None);
    }
}
