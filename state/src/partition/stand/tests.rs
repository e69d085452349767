//! The look at a million members against its plain definition: everything looked up and every selector asked, each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::bucket::Counts;
use fleet::program::{Epoch, ProgramRollout, desired};
use prost::Message;
use proto::uid::Uid;

use super::*;
use crate::inventory::{Columns, Index, IndexMirror, Interner, chunk};
use crate::ledger::{Mirror, table};
use crate::partition::drawn::{Draw, ID, NOW_MS, OTHER_ID, agent, member, program};
use crate::partition::listing::Everybody;
use crate::partition::stand::verdicts::{Pace, Verdicts};
use crate::partition::{is_quiet, place_of};

/// Where a member stands, by the functions of the domain alone.
fn plainly(
    rollout: &store::Rollout,
    program: &Program,
    (row, member): (&Row, &Member),
    fresh: bool,
) -> Bucket {
    let named = program.rollout(&rollout.id);
    let roles = named.map(|(family, rollout)| family.roles(rollout.to));
    let role = roles.and_then(|roles| roles.get(member.role as usize));
    let place = role.map(|role| Place {
        rollout: &rollout.id,
        role: &role.name,
        wave: member.wave,
        taken_from: member.taken_from.as_ref().map(|from| (&*from.0, &*from.1)),
    });
    let desired = desired(&subject_of(row, place), program);
    let is = |what: fn(&ProgramRollout, &Place<'_>) -> bool| {
        let there = named.zip(place.as_ref());
        there.is_some_and(|((_, rollout), place)| what(rollout, place))
    };
    let completed = rollout.state() == store::RolloutState::Completed;
    let delivery = row.delivery.as_ref();
    let touched = delivery.is_some_and(|d| *d.rollout == *rollout.id);
    let target = role.map(|role| role.delivery);
    let covered = is(ProgramRollout::covers);
    let went_back = covered && touched && delivery.is_some_and(|d| Some(d.hash) != target);
    let (goal, taken_back) = match delivery {
        Some(d) if went_back => (Some(d.hash), true),
        _ => (desired.delivery, is(ProgramRollout::takes_back)),
    };
    let held = matches!(desired.reason, Reason::Wave { .. } | Reason::Waiting { .. });
    let named_role = role.map(|role| &*role.name);
    let elsewhere = delivery.is_some_and(|d| {
        *d.family != *rollout.family || named_role.is_some_and(|role| *d.role != *role)
    });
    let elsewhere = elsewhere && !(touched && covered) && !held;
    let excluded = exclusion(&Circumstances {
        duplicate: row.duplicate,
        reassigned: row.alias,
        re_owned: elsewhere,
        stopped: row.stopped,
        touched,
        roles: match roles {
            Some(roles) if !touched => matching(roles, row).len(),
            _ => 1,
        },
        accepts: row.can(AgentCapabilities::AcceptsRemoteConfig),
        many_collectors: row.many_collectors(),
        ..Circumstances::default()
    });
    let has_target = delivery.is_some_and(|d| Some(d.hash) == target);
    let excluded = excluded.filter(|why| !(has_target && *why == Exclusion::Relabelled));
    bucket(&Sighting {
        presence: match row.link {
            Link::Connected => Presence::Connected,
            Link::Left => Presence::Left,
            Link::Lost | Link::Unspecified => Presence::Lost,
        },
        unchanged: member.unchanged,
        open: completed || is(ProgramRollout::is_open),
        touched,
        covered,
        taken_back,
        fresh,
        excluded,
        pinned: desired.reason == Reason::Pinned && (desired.delivery != target || taken_back),
        target,
        flow_lost: false,
        since: Epoch(match rollout.failures_since {
            0 => rollout.opening_epoch,
            since => since,
        }),
        refused: goal.and_then(|hash| row.refusal(hash)),
        reports_status: row.can(AgentCapabilities::ReportsRemoteConfig),
        goal,
        offer: delivery.map(|d| (d.hash, d.state, &*d.error)),
        offered_by: Epoch(delivery.map_or(0, |d| d.epoch)),
        reported: row.reported,
        healthy: row.healthy,
        health_age_ms: NOW_MS.saturating_sub(row.health_since_ms),
        was_healthy: delivery.is_some_and(|d| d.was_healthy),
        contradicts: delivery.is_some_and(|d| d.effective == Match::No),
        proves: delivery.is_some_and(|d| d.effective == Match::Yes),
    })
}

#[test]
fn a_look_at_many_members_finds_each_where_its_plain_definition_does() {
    let mut draw = Draw(7);
    let mut interner = Interner::default();
    let members: Vec<(Row, Member)> = (0..4_000)
        .map(|i| {
            let uid = Uid::from_wire(&[1 + (i % 9) as u8; 16]).expect("a uid");
            let row = Row::new(uid, i, &agent(&mut draw), &mut interner);
            (row, member(&mut draw))
        })
        .collect();
    let programs: Vec<Program> = (0..40).map(|_| program(&mut draw)).collect();
    let mut seen = std::collections::BTreeSet::new();
    // Each program twice, so that what rows remember is of the same question, and of another one.
    for program in programs.iter().flat_map(|program| [program, program]) {
        let state = draw.of(&[store::RolloutState::Running, store::RolloutState::Completed]);
        let rollout = store::Rollout {
            id: ID.into(),
            family: "web".into(),
            state: state.into(),
            opening_epoch: 5,
            failures_since: draw.of(&[0, 1]),
            ..store::Rollout::default()
        };
        let mut stand = Stand::of(&rollout, program, NOW_MS);
        for (row, member) in &members {
            let fresh = !draw.one_in(4);
            let expected = plainly(&rollout, program, (row, member), fresh);
            assert_eq!(
                stand.bucket(row, member, || fresh),
                expected,
                "{row:?} {member:?} {program:?}"
            );
            seen.insert(expected);
        }
    }
    let open = [
        Bucket::Waiting,
        Bucket::PendingPickup,
        Bucket::Converged,
        Bucket::Excluded,
    ];
    assert!(
        open.iter().all(|bucket| seen.contains(bucket)) && seen.len() > 15,
        "{seen:?}"
    );
}

#[test]
fn a_walk_beside_the_lists_finds_what_a_search_for_each_agent_does() {
    let mut draw = Draw(11);
    let mut interner = Interner::default();
    let mut columns = Columns::default();
    for i in 1..=500u16 {
        let mut bytes = [3; 16];
        bytes[..2].copy_from_slice(&i.to_be_bytes());
        let uid = Uid::from_wire(&bytes).expect("a uid");
        let row = Row::new(uid, 1, &agent(&mut draw), &mut interner);
        columns.rows.insert(uid, row);
        // One that no program names, and two in either order.
        let lists = draw.of(&[&[][..], &[ID], &[OTHER_ID, ID], &[ID, OTHER_ID], &["ro-0"]]);
        for id in lists {
            let list = columns.lists.entry((*id).to_owned()).or_default();
            list.insert(uid, member(&mut draw), 1);
            columns.listed.entry(uid).or_default().push((*id).into());
        }
    }
    for _ in 0..40 {
        let program = program(&mut draw);
        let mut everybody = Everybody::of(&columns, &program);
        // Not everybody is asked for.
        for row in columns.rows.values().filter(|_| !draw.one_in(3)) {
            let place = place_of(&columns, &program, row.uid, row.whose());
            let expected = desired(&subject_of(row, place), &program);
            assert_eq!(
                everybody.desired(row).named(),
                expected,
                "{row:?} {program:?}"
            );
        }
    }
}

/// Members by role and wave, each found anew.
fn counted_plainly(
    columns: &Columns,
    rollout: &store::Rollout,
    program: &Program,
    (wall_ms, fresh): (u64, impl Fn(&Row) -> bool),
) -> BTreeMap<(u32, u32), Counts> {
    let mut stand = Stand::of(rollout, program, wall_ms);
    let mut counted: BTreeMap<(u32, u32), Counts> = BTreeMap::new();
    for (uid, member) in columns.lists[ID].iter() {
        let row = columns.rows.get(uid);
        let bucket = row.map_or(Bucket::Deleted, |row| {
            stand.bucket(row, member, || fresh(row))
        });
        let wave = counted.entry((member.role, member.wave)).or_default();
        wave.add(bucket);
    }
    counted
}

#[test]
fn verdicts_that_are_kept_are_those_that_would_be_found_anew() {
    const LIMIT_MS: u64 = 60_000;
    let mut draw = Draw(5);
    let index = Index::default();
    let mut mirror = index.mirror();
    let uids: Vec<Uid> = (1..=300u16)
        .map(|i| {
            let mut bytes = [3; 16];
            bytes[..2].copy_from_slice(&i.to_be_bytes());
            Uid::from_wire(&bytes).expect("a uid")
        })
        .collect();
    let write = |mirror: &mut IndexMirror, draw: &mut Draw, uid: Uid| {
        let mut agent = agent(draw);
        agent.transport = draw.of(&["http", "websocket"]).into();
        if let Some(delivery) = &mut agent.delivery {
            delivery.restarts = draw.of(&[0, 0, 0, 3, 9]);
            delivery.offered_ms = draw.of(&[1, NOW_MS - 1_000]);
        }
        mirror.put(table::AGENT, uid.as_bytes(), 1, &agent.encode_to_vec());
    };
    uids.iter()
        .for_each(|uid| write(&mut mirror, &mut draw, *uid));
    let members = uids.iter().map(|uid| {
        let member = member(&mut draw);
        store::Member {
            uid: uid.as_bytes().to_vec(),
            role: member.role,
            wave: member.wave,
            unchanged: member.unchanged,
            ..store::Member::default()
        }
    });
    let list = store::MemberChunk {
        members: members.collect(),
    };
    mirror.put(table::MEMBERS, &chunk(ID, 0), 1, &list.encode_to_vec());
    mirror.publish(0);
    let mut heard: BTreeMap<Uid, (u64, bool)> = BTreeMap::new();
    let mut rollout = store::Rollout {
        id: ID.into(),
        family: "web".into(),
        ..store::Rollout::default()
    };
    let mut decides = Arc::new(program(&mut draw));
    let mut verdicts = Verdicts::default();
    let (mut now_ms, mut seen) = (100_000, std::collections::BTreeSet::new());
    let mut partial = 0;
    for round in 0..600 {
        match draw.below(8) {
            0 => decides = Arc::new(program(&mut draw)),
            1 => {
                let mut same = Program::clone(&decides);
                same.epoch = Epoch(same.epoch.0 + 1);
                decides = Arc::new(same);
            }
            2 => {
                use store::RolloutState::{Completed, Running};
                rollout.state = draw.of(&[Running, Completed]).into();
                rollout.failures_since = draw.of(&[1, 11, 20]);
            }
            3 => now_ms += draw.below(2 * LIMIT_MS),
            4 => {
                let gone = draw.of(&uids);
                mirror.delete(table::AGENT, gone.as_bytes());
            }
            _ => {
                for _ in 0..draw.below(20) {
                    let uid = draw.of(&uids);
                    write(&mut mirror, &mut draw, uid);
                }
            }
        }
        mirror.publish(0);
        for _ in 0..draw.below(30) {
            heard.insert(draw.of(&uids), (now_ms, !draw.one_in(3)));
        }
        now_ms += 500;
        let wall_ms = NOW_MS + now_ms;
        let columns = index.read();
        // Now and then for a person, who wants to know all.
        let share = draw.of(&[usize::MAX, 20, 50]);
        let mut pace = Pace::of(share);
        let times = (now_ms, wall_ms);
        let due = verdicts.look(&columns, &rollout, &decides, times, &mut pace);
        let at = |uid: &Uid| heard.get(uid).copied().unwrap_or((0, false));
        verdicts.heard(&due.iter().map(at).collect::<Vec<_>>(), LIMIT_MS);
        let fresh = |row: &Row| {
            let (at, open) = at(&row.uid);
            now_ms - at < LIMIT_MS || (open && is_quiet(row))
        };
        let plain = counted_plainly(&columns, &rollout, &decides, (wall_ms, fresh));
        let kept = verdicts.count();
        let kept: BTreeMap<_, _> = kept
            .into_iter()
            .map(|(k, (counts, _))| (k, counts))
            .collect();
        let members: u64 = kept.values().map(Counts::members).sum();
        assert_eq!(members, uids.len() as u64, "round {round}: each is in one");
        if verdicts.is_whole() {
            assert_eq!(kept, plain, "round {round}");
        } else {
            assert_ne!(share, usize::MAX, "round {round}");
            partial += 1;
        }
        let all = kept.values().flat_map(|counts| {
            fleet::bucket::ALL
                .iter()
                .filter(|bucket| counts.of(**bucket) > 0)
        });
        seen.extend(all.map(|bucket| bucket.name()));
    }
    assert!(seen.len() > 12, "{seen:?}");
    assert!(
        (100..500).contains(&partial),
        "{partial} looks were partial"
    );
}

#[test]
fn a_program_that_changes_at_each_look_is_caught_up_with() {
    let mut draw = Draw(7);
    let index = Index::default();
    let mut mirror = index.mirror();
    let members = (1..=200u16).map(|i| store::Member {
        uid: [&i.to_be_bytes()[..], &[3; 14]].concat(),
        ..store::Member::default()
    });
    let list = store::MemberChunk {
        members: members.collect(),
    };
    mirror.put(table::MEMBERS, &chunk(ID, 0), 1, &list.encode_to_vec());
    mirror.publish(0);
    let mut rollout = store::Rollout {
        id: ID.into(),
        family: "web".into(),
        ..store::Rollout::default()
    };
    let decides = Arc::new(program(&mut draw));
    // Of several partitions none is left behind by those that are asked before it.
    let mut partitions: [Verdicts; 3] = Default::default();
    let mut looks = |most: usize| {
        let whole = (1..=most).find(|_| {
            rollout.failures_since += 1;
            let mut pace = Pace::of(10);
            for verdicts in &mut partitions {
                verdicts.look(&index.read(), &rollout, &decides, (1, NOW_MS), &mut pace);
            }
            partitions.iter().all(Verdicts::is_whole)
        });
        whole.expect("all are found anew in the end")
    };
    // 10, 20, 40, 80, 160, 320.
    assert_eq!((looks(20), looks(20)), (6, 6));
}

#[test]
fn a_member_whose_build_lacks_what_its_role_needs_is_excluded_as_soon_as_its_list_is_read() {
    let index = Index::default();
    let mut mirror = index.mirror();
    let uid = [3; 16];
    let agent = store::Agent {
        components: Some(store::ComponentList {
            hash: b"one".to_vec(),
            body: [7; 32].to_vec(),
        }),
        capabilities: AgentCapabilities::AcceptsRemoteConfig as u64,
        link: Link::Connected.into(),
        ..store::Agent::default()
    };
    mirror.put(table::AGENT, &uid, 1, &agent.encode_to_vec());
    let list = store::MemberChunk {
        members: vec![store::Member {
            uid: uid.to_vec(),
            ..store::Member::default()
        }],
    };
    mirror.put(table::MEMBERS, &chunk(ID, 0), 1, &list.encode_to_vec());
    mirror.publish(0);
    let needs = fleet::components::Used {
        processors: ["redaction".to_owned()].into(),
        ..fleet::components::Used::default()
    };
    let role = fleet::program::ProgramRole {
        name: "agent".into(),
        selector: fleet::selector::Selector::parse("*").unwrap(),
        delivery: Digest::of("test", &[b"redacts"]),
        baseline: Digest::of("test", &[b"baseline"]),
        needs: Arc::new(needs),
    };
    let target = fleet::program::RevisionNumber(1);
    let family = fleet::program::ProgramFamily {
        name: "web".into(),
        precedence: 1,
        stable: None,
        revisions: BTreeMap::from([(target, vec![role])]),
        owner_change: fleet::program::OwnerChange::Ask,
        rollout: Some(ProgramRollout {
            id: ID.into(),
            from: None,
            to: target,
            running: true,
            open_waves: BTreeMap::from([("agent".to_owned(), 1)]),
            roll_back: None,
            passed: false,
            opened: Epoch(1),
            returning: false,
        }),
    };
    let program = Arc::new(Program {
        epoch: Epoch(2),
        families: vec![family],
        pins: vec![],
    });
    let rollout = store::Rollout {
        id: ID.into(),
        family: "web".into(),
        state: store::RolloutState::Running.into(),
        ..store::Rollout::default()
    };
    let mut verdicts = Verdicts::default();
    let mut stands = || {
        let mut pace = Pace::whole();
        verdicts.look(&index.read(), &rollout, &program, (1, NOW_MS), &mut pace);
        verdicts.count()[&(0, 0)].0
    };
    assert_eq!(stands().of(Bucket::PendingPickup), 1, "it is not known");
    let has = fleet::components::Available::from_report([("processors", "batch")]);
    index.tell(b"one", has);
    assert_eq!(stands().of(Bucket::Excluded), 1);
}
