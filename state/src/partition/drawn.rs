//! Agents, members and programs of every kind, for tests that hold what is kept against what is found anew.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::program::{
    Epoch, OwnerChange, PinTarget, Program, ProgramFamily, ProgramPin, ProgramRole, ProgramRollout,
    RevisionNumber, RollBack, Scope,
};
use fleet::selector::Selector;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link};

use crate::inventory::Member;

pub(super) const ID: &str = "ro-1";
pub(super) const OTHER_ID: &str = "ro-2";
pub(super) const NOW_MS: u64 = 1_000_000;
pub(super) const ROLES: [&str; 2] = ["agent", "gateway"];

/// Numbers as if drawn, the same in each run.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len() as u64) as usize]
    }
}

pub(super) fn hash(family: &str, role: &str, revision: u64) -> Digest {
    let revision = revision.to_le_bytes();
    Digest::of("test", &[family.as_bytes(), role.as_bytes(), &revision])
}

pub(super) fn selector(text: &str) -> Selector {
    Selector::parse(text).expect("a selector")
}

pub(super) fn family(draw: &mut Draw, name: &str, precedence: i64) -> ProgramFamily {
    let selectors = [
        "role = agent",
        "role = gateway",
        "role, env in (prod, lab)",
        "!env",
        "*",
    ];
    let mut roles = |revision| {
        let role = |role: &&str| ProgramRole {
            name: (*role).into(),
            selector: selector(draw.of(&selectors)),
            delivery: hash(name, role, revision),
            baseline: hash(name, role, 0),
            needs: std::sync::Arc::default(),
        };
        (RevisionNumber(revision), ROLES.iter().map(role).collect())
    };
    ProgramFamily {
        name: name.into(),
        precedence,
        revisions: [roles(1), roles(2)].into(),
        stable: (!draw.one_in(4)).then_some(RevisionNumber(1)),
        owner_change: draw.of(&[OwnerChange::Ask, OwnerChange::Auto]),
        rollout: None,
    }
}

pub(super) fn rollout_of(draw: &mut Draw, id: &str) -> ProgramRollout {
    let going_back = draw.one_in(3);
    ProgramRollout {
        id: id.into(),
        from: (!draw.one_in(4)).then_some(RevisionNumber(1)),
        to: RevisionNumber(2),
        running: !going_back && !draw.one_in(3),
        open_waves: ROLES.map(|r| (r.to_owned(), draw.below(4) as u32)).into(),
        roll_back: going_back.then(|| RollBack {
            scope: match draw.one_in(2) {
                true => Scope::All,
                false => Scope::Wave {
                    role: draw.of(&ROLES).into(),
                    wave: draw.below(3) as u32,
                },
            },
            open_roles: vec![draw.of(&ROLES).into()],
        }),
        passed: draw.one_in(4),
        opened: Epoch(10),
        returning: going_back && !draw.one_in(3),
    }
}

pub(super) fn program(draw: &mut Draw) -> Program {
    let (mut web, mut db) = (family(draw, "web", 2), family(draw, "db", 1));
    web.rollout = (!draw.one_in(8)).then(|| rollout_of(draw, ID));
    db.rollout = draw.one_in(2).then(|| rollout_of(draw, OTHER_ID));
    let pin = |target| ProgramPin {
        family: "web".into(),
        target,
        revision: RevisionNumber(1),
    };
    let pins = match draw.below(4) {
        0 => vec![pin(PinTarget::Agent([3; 16]))],
        1 => vec![pin(PinTarget::Selected(selector("env = lab")))],
        _ => vec![],
    };
    Program {
        epoch: Epoch(11),
        families: vec![web, db],
        pins,
    }
}

pub(super) fn agent(draw: &mut Draw) -> store::Agent {
    let mut labels = BTreeMap::new();
    for (key, values) in [
        ("role", ["agent", "gateway", ""]),
        ("env", ["prod", "lab", ""]),
    ] {
        let value = draw.of(&values);
        if !value.is_empty() {
            labels.insert(key.to_owned(), value.to_owned());
        }
    }
    let mut some_hash = || {
        let (family, role) = (draw.of(&["web", "web", "db"]), draw.of(&ROLES));
        hash(family, role, draw.below(3)).as_bytes().to_vec()
    };
    let (delivered, reported, refused) = (some_hash(), some_hash(), some_hash());
    let reported = if draw.one_in(3) {
        reported
    } else {
        delivered.clone()
    };
    let error = draw.of(&["", "exit code 1", "no"]);
    let delivery = store::Delivery {
        hash: delivered,
        state: draw.of(&[1, 2, 3, 3, 3, 4, 5, 6, 7]),
        family: draw.of(&["web", "web", "web", "db"]).into(),
        role: draw.of(&ROLES).into(),
        rollout: draw.of(&[ID, ID, "", OTHER_ID]).into(),
        was_healthy: !draw.one_in(3),
        effective: draw.below(3) as i32,
        owned_since: draw.of(&[1, 12]),
        epoch: draw.of(&[1, 12]),
        error: error.into(),
        ..store::Delivery::default()
    };
    store::Agent {
        operator_labels: labels.into_iter().collect(),
        delivery: (!draw.one_in(6)).then_some(delivery),
        status: Some(store::ConfigStatus {
            hash: reported,
            state: draw.of(&[0, 1, 1, 1, 2, 3]),
            ..store::ConfigStatus::default()
        }),
        refused: match draw.one_in(5) {
            true => vec![store::Refusal {
                hash: refused,
                epoch: draw.of(&[0, 12]),
                ..store::Refusal::default()
            }],
            false => vec![],
        },
        capabilities: match draw.below(8) {
            0 => AgentCapabilities::AcceptsRemoteConfig as u64,
            1 => AgentCapabilities::ReportsRemoteConfig as u64,
            _ => {
                AgentCapabilities::AcceptsRemoteConfig as u64
                    | AgentCapabilities::ReportsRemoteConfig as u64
            }
        },
        health: Some(store::HealthState {
            healthy: !draw.one_in(3),
            since_ms: draw.of(&[1, NOW_MS - 1]),
            ..store::HealthState::default()
        }),
        link: draw
            .of(&[
                Link::Connected,
                Link::Connected,
                Link::Connected,
                Link::Lost,
                Link::Left,
            ])
            .into(),
        granted: draw.one_in(6).then(|| store::Owner {
            family: draw.of(&["web", "db"]).into(),
            role: draw.of(&ROLES).into(),
        }),
        resolved_epoch: draw.of(&[0, 0, 1, 12]),
        duplicate: draw.one_in(20),
        stopped: draw.one_in(20),
        alias_of: if draw.one_in(20) { vec![9; 16] } else { vec![] },
        ..store::Agent::default()
    }
}

pub(super) fn member(draw: &mut Draw) -> Member {
    Member {
        // One role that the target does not have.
        role: draw.of(&[0, 0, 1, 1, 2]),
        wave: draw.below(3) as u32,
        unchanged: draw.one_in(10),
        taken_from: draw
            .one_in(6)
            .then(|| Box::new(("db".into(), draw.of(&ROLES).into()))),
    }
}
