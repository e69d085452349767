//! A whole world from one seed: nodes, gateways, agents, people and misfortune, on virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet::budget::Budget;
use fleet::waves::Size;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use crate::agent::Agent;
use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::gateway::Gateway;
use crate::invariants::{Broken, Checker, Fact, Known};
use crate::ledger::{Change, Shelf};
use crate::settled::unsettled;
use crate::time::{now_ms, sleep_ms, spawn};
use crate::trouble::{self, Theme};
use crate::types::GroupId;
use crate::{operator, owners};

/// How a world is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub fault: Option<Fault>,
    pub theme: Theme,
    /// Agents are relabelled, and a person says whose they are.
    pub owners: bool,
    /// Of each zone so many agents may be in work at once; 0: as many as one likes.
    pub in_work: u64,
    /// So long things go wrong, and so long nothing does afterwards.
    pub trouble_ms: u64,
    pub settle_ms: u64,
}

/// What has been seen, and what did not hold.
#[derive(Debug)]
pub struct Report {
    pub broken: Option<Broken>,
    pub seen: BTreeMap<&'static str, u64>,
    /// A sum of all facts with their times, in order: the same for the same seed.
    pub trace: u64,
}

/// Who sees everything: the checker, the chance of this world and its mistake, if it has one.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    seed: u64,
    /// Every fact is printed.
    told: bool,
    fault: Option<Fault>,
    owners: bool,
    in_work: u64,
    chance: Arc<Mutex<Chance>>,
    shelf: Shelf,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    checker: Checker,
    broken: Option<Broken>,
    trace: u64,
    changes: u64,
}

impl Plan {
    /// A minute and a half of trouble, and three quarters of a minute to settle.
    pub fn of(seed: u64) -> Self {
        Plan {
            seed,
            fault: None,
            theme: Theme::of(seed),
            owners: seed.is_multiple_of(3),
            in_work: if seed % 7 < 3 { 2 } else { 0 },
            trouble_ms: 90_000,
            settle_ms: 45_000,
        }
    }
}

// === impl Watch ===

impl Watch {
    fn new(plan: &Plan) -> Self {
        Watch(Arc::new(Inner {
            seed: plan.seed,
            told: std::env::var_os("MUSTER_SIM_TRACE").is_some(),
            fault: plan.fault,
            owners: plan.owners,
            in_work: plan.in_work,
            chance: Arc::new(Mutex::new(Chance::new(plan.seed))),
            shelf: Shelf::default(),
            book: Mutex::default(),
        }))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    pub fn fault(&self) -> Option<Fault> {
        self.0.fault
    }

    /// Do agents change hands?
    pub fn has_owners(&self) -> bool {
        self.0.owners
    }

    /// What limits how many agents are in work.
    pub fn budget(&self) -> Option<Budget> {
        let size = Size::Count(self.0.in_work);
        let budget = Budget {
            size,
            urgent: size,
            ..Budget::default()
        };
        (self.0.in_work > 0).then_some(budget)
    }

    /// Where families and rollouts stand.
    pub fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// A change as replicas apply it: where the fence is forgotten, they do not learn by which program it offers.
    pub fn fenced(&self, change: &Change) -> Change {
        let mut change = change.clone();
        if self.fault() == Some(Fault::FenceForgotten) {
            change.entry.epoch = 0;
        }
        change
    }

    pub fn shared_chance(&self) -> Arc<Mutex<Chance>> {
        Arc::clone(&self.0.chance)
    }

    pub fn chance(&self) -> MutexGuard<'_, Chance> {
        self.0.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It happened: do all invariants hold?
    pub fn note(&self, fact: Fact) {
        let now = now_ms();
        let mut book = self.book();
        let text = format!("{now} {}", fact.brief());
        if self.0.told {
            eprintln!("{text}");
        }
        book.trace = fold(book.trace, &text);
        if book.broken.is_some() {
            return;
        }
        if let Err((invariant, what)) = book.checker.check(now, &fact) {
            book.broken = Some(Broken {
                invariant,
                what,
                at_ms: now,
            });
        }
    }

    /// The number of a new proposal.
    pub fn next_change(&self) -> u64 {
        let mut book = self.book();
        book.changes += 1;
        book.changes
    }

    /// What a read that begins now has to see at least.
    pub fn known(&self, group: GroupId) -> Known {
        self.book().checker.known(group)
    }

    /// Agents that have lost a message so long ago and were not asked for it.
    pub fn unasked(&self, ms: u64) -> Vec<u32> {
        self.book().checker.unasked(now_ms(), ms)
    }

    /// An agent that was taken over and is not given back, though all of that rollout went back.
    pub fn owed(&self) -> Option<String> {
        self.book().checker.owed()
    }

    /// Agents that nobody has answered for so long.
    pub fn unanswered(&self, ms: u64) -> Vec<u32> {
        self.book().checker.unanswered(now_ms(), ms)
    }

    /// Has a rollout gone on within so long?
    pub fn moved_within(&self, ms: u64) -> bool {
        self.book().checker.moved_within(now_ms(), ms)
    }

    pub fn is_broken(&self) -> bool {
        self.book().broken.is_some()
    }
}

/// FNV-1a of the time and of what tells one fact from another.
fn fold(trace: u64, text: &str) -> u64 {
    text.bytes()
        .fold(trace ^ 0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Lets a world live, and tells what was seen.
pub fn run(plan: Plan) -> Report {
    let watch = Watch::new(&plan);
    let mut runtime = SimRuntime::with_seed(plan.seed);
    let nodes = if plan.seed % 5 == 4 { 5 } else { 3 };
    let cluster = Cluster::new(watch.clone(), nodes);
    runtime.block_on(live(plan, Arc::clone(&cluster)));
    drop(runtime);
    cluster.forget();
    let book = watch.book();
    Report {
        broken: book.broken.clone(),
        seen: book.checker.seen.clone(),
        trace: book.trace,
    }
}

async fn live(plan: Plan, cluster: Arc<Cluster>) {
    let watch = cluster.watch.clone();
    if plan.in_work > 0 {
        let in_work = plan.in_work;
        watch.note(Fact::Limited { in_work });
    }
    cluster.initialize().await;
    let gateways: Vec<Arc<Gateway>> = (0..2).map(|id| Gateway::start(id, &cluster)).collect();
    let agents = watch.chance().between(8, 20);
    let agents = u32::try_from(agents).expect("a few");
    for id in 1..=agents {
        let agent = Agent::new(id, watch.clone(), gateways.clone());
        let _beside = spawn(agent.live());
    }
    let _person = spawn(operator::live(Arc::clone(&cluster), plan.trouble_ms));
    if plan.owners {
        let _another = spawn(owners::live(Arc::clone(&cluster), agents, plan.trouble_ms));
    }
    let _trouble = spawn(trouble::run(
        Arc::clone(&cluster),
        gateways,
        plan.theme,
        plan.trouble_ms,
    ));
    let end = plan.trouble_ms + plan.settle_ms;
    while now_ms() < end && !watch.is_broken() {
        sleep_ms(50).await;
        note_stopped(&cluster);
    }
    if let Some(what) = unsettled(&cluster) {
        watch.note(Fact::Unsettled { what });
    }
}

/// A replica that has stopped by itself is a fact, too.
fn note_stopped(cluster: &Cluster) {
    for node in cluster.node_ids() {
        if let Some(process) = cluster.process(node)
            && let Some((group, why)) = process.stopped()
        {
            cluster.watch.note(Fact::Stopped { node, group, why });
        }
    }
}
