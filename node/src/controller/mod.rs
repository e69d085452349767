//! Moves rollouts: observe, plan, propose. All it holds in memory can be lost and is rebuilt from the documents.

pub mod ask;
pub mod prepare;
mod quotas;
pub mod tally;
pub mod verbs;
pub mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fleet::bucket::Counts;
use fleet::offer::Failure;
use fleet::program::{Epoch, Scope};
use fleet::rollout::{Clock, Observed, Plan, Signs, State, Step, Waiting, plan};
use proto::store::{self, RevisionState, RolloutState};
use state::partition::stand::verdicts::Pace;
use tokio_util::sync::CancellationToken;

pub use verbs::{Verb, VerbError};

use crate::api::governance::still_missing;
use crate::control::{
    Doc, revision_key, revision_settings, rollout_state, settings_to_store, stored_rollout_state,
};
use crate::ledger::{ProposeError, act, entry, now_ms, put, table};
use crate::local::Node;
use crate::partition::{chain, millis};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// Soak and patience that a crash of the controller may lose.
const KEEP: Duration = Duration::from_secs(5);

/// What it may lose of the time that a wave has been open, where nothing else is counted: a rollout may wait for days.
const KEEP_CLOCKS: Duration = Duration::from_secs(60);

/// What each open rollout waits for.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<HashMap<String, Vec<Waiting>>>>);

/// The controller.
pub struct Controller {
    node: Arc<Node>,
    memory: HashMap<String, Memory>,
    divider: quotas::Divider,
    /// Judged in the look that is under way.
    gates: tally::Gates,
}

/// Between two writes.
struct Memory {
    looked: Instant,
    kept: Instant,
    /// Of the document it belongs to.
    version: u64,
    /// What that document says of it; another word, as of who resumes, makes it void.
    counted: Counted,
    /// What is being written, and may be stored or not.
    attempted: Option<Counted>,
    soaked_ms: BTreeMap<String, u64>,
    clocks: BTreeMap<String, Clock>,
    forgiven: BTreeMap<String, Vec<u64>>,
    inconclusive_ms: u64,
}

/// Where a stored rollout stands, and what was counted of that when it was written.
#[derive(PartialEq)]
struct Counted {
    state: i32,
    roles: Vec<store::RoleProgress>,
    inconclusive_ms: u64,
}

// === impl Board ===

impl Board {
    /// What this rollout waits for; empty if it moves or is not open.
    pub fn of(&self, rollout: &str) -> Vec<Waiting> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .get(rollout)
            .cloned()
            .unwrap_or_default()
    }

    /// How many rollouts wait for what, in one word each.
    pub fn kinds(&self) -> BTreeMap<&'static str, u64> {
        let board = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut kinds = BTreeMap::new();
        for waiting in board.values() {
            let names: BTreeSet<_> = waiting.iter().map(tally::waiting_name).collect();
            for name in names {
                *kinds.entry(name).or_default() += 1;
            }
        }
        kinds
    }

    fn write(&self, rollout: &str, waiting: Vec<Waiting>) {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(rollout.to_owned(), waiting);
    }

    /// Forgets all others: what has ended waits for nothing.
    fn keep(&self, open: &[String]) {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|rollout, _| open.contains(rollout));
    }
}

// === impl Controller ===

impl Controller {
    /// Over this node's groups.
    pub fn new(node: Arc<Node>) -> Self {
        Controller {
            node,
            memory: HashMap::new(),
            divider: quotas::Divider::new(),
            gates: tally::Gates::default(),
        }
    }

    /// Looks and moves until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = LOOK;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            let leadership = *self.node.control_ledger.group().leadership().borrow();
            let leads = leadership.role == raft::Role::Leader;
            // Also who has just been elected: it may not have everything yet that was decided before.
            if !leads || self.node.control_ledger.sync().await.is_err() {
                // Whoever moves them next has it from the documents, and so has this node when it is its turn again.
                self.memory = HashMap::new();
                self.node.tally.rests();
                pause = LOOK;
                continue;
            }
            self.divider.leads_in(leadership.term);
            let began = Instant::now();
            if let Err(error) = expire_pins(&self.node).await {
                tracing::warn!(error = %chain(&error), "a pin that has expired was not ended; it is tried again");
            }
            let unread = self.node.look().await;
            quotas::divide(&self.node, &mut self.divider, &unread, began).await;
            self.gates = tally::Gates::default();
            for id in self.open() {
                if let Err(error) = self.step(&id).await {
                    self.node.tally.failed();
                    tracing::warn!(rollout = id, error = %chain(&error), "the rollout was not moved; it is tried again");
                }
            }
            let took = began.elapsed();
            self.node.tally.looked(took, &unread, self.gates);
            pause = rest(took);
        }
    }

    fn open(&mut self) -> Vec<String> {
        let documents = self.node.control.read();
        let open: Vec<_> = documents
            .rollouts
            .iter()
            .filter(|(_, rollout)| !rollout_state(rollout.value.state()).is_final())
            .map(|(id, _)| id.clone())
            .collect();
        drop(documents);
        self.memory.retain(|id, _| open.contains(id));
        self.node.waiting.keep(&open);
        self.node.asker.keep(&open);
        open
    }

    async fn step(&mut self, id: &str) -> Result<(), ProposeError> {
        let found = self.node.control.read().rollouts.get(id).cloned();
        let Some((version, stored)) = found.map(|r| (r.version, store::Rollout::clone(&r.value)))
        else {
            return Ok(());
        };
        match stored.state() {
            RolloutState::Planned => return prepare::prepare(&self.node, version, stored).await,
            RolloutState::AwaitingApproval => return self.await_approval(version, stored).await,
            // As a restore leaves it. There are no lists to be looked at.
            RolloutState::Halted if !stored.prepared => {
                let what = "resume, or halt to give it up".to_owned();
                self.node.waiting.write(id, vec![Waiting::Person { what }]);
                return Ok(());
            }
            _ => {}
        }
        let now = Instant::now();
        let (elapsed_ms, mut rollout) = {
            let memory = self
                .memory
                .entry(id.to_owned())
                .or_insert_with(|| Memory::of(&stored, version, now));
            memory.follow(&stored, version, now);
            let elapsed = now.duration_since(std::mem::replace(&mut memory.looked, now));
            let mut rollout = self.node.control.read().domain(&stored);
            for role in &mut rollout.roles {
                role.clock = memory.clocks.get(&role.name).copied().unwrap_or(role.clock);
                role.soaked_ms = memory
                    .soaked_ms
                    .get(&role.name)
                    .copied()
                    .unwrap_or(role.soaked_ms);
                if let Some(forgiven) = memory.forgiven.get(&role.name) {
                    role.forgiven.clone_from(forgiven);
                }
            }
            rollout.inconclusive_ms = memory.inconclusive_ms;
            // A pause of our own, e.g. a suspended machine, is no soak.
            (millis(elapsed.min(4 * LOOK)), rollout)
        };
        // A rollout that stands still decides nothing: its members need not be looked at.
        let mut observed = match rollout.state {
            State::Running | State::RollingBack => {
                let (node, stored) = (self.node.clone(), stored.clone());
                let seen = aside(move || observe_at_a_pace(&node, &stored)).await;
                seen.unwrap_or_default()
            }
            _ => Observed::default(),
        };
        self.node.asker.look(&stored, &rollout, &observed);
        observed.findings = self.node.asker.findings(&stored);
        // A partition that decides by an older program than this document sees its members as they were.
        let stored_in = Epoch::new(self.node.control.read().incarnation(), version);
        if self
            .node
            .partitions
            .iter()
            .any(|partition| partition.program().epoch < stored_in)
        {
            observed.evidence_age_ms = None;
        }
        observed.freeze = self
            .node
            .control
            .read()
            .freeze(&stored.family, &rollout, now_ms());
        let next = plan(&rollout, &observed, elapsed_ms);
        self.gates.add(&next.verdicts);
        rollout.inconclusive_ms = next.inconclusive_ms;
        self.node.waiting.write(id, next.waiting.clone());
        self.remember(id, version, stored, next, observed, now)
            .await
    }

    /// Begins once there are as many approvals as are needed; shows what is missing until then.
    async fn await_approval(
        &self,
        version: u64,
        stored: store::Rollout,
    ) -> Result<(), ProposeError> {
        let (rejected, missing) = {
            let documents = self.node.control.read();
            let revision = documents.revision(&stored.family, stored.to);
            let rejected = revision.is_some_and(|revision| !revision.value.rejected.is_empty());
            (rejected, still_missing(&documents, &stored))
        };
        match missing {
            // Of a revision that was rejected nothing is waited for: that ends it.
            Some(missing) if !rejected => {
                let what = missing.to_string();
                self.node
                    .waiting
                    .write(&stored.id, vec![Waiting::Person { what }]);
                Ok(())
            }
            _ => prepare::prepare(&self.node, version, stored).await,
        }
    }

    async fn remember(
        &mut self,
        id: &str,
        version: u64,
        stored: store::Rollout,
        next: Plan,
        observed: Observed,
        now: Instant,
    ) -> Result<(), ProposeError> {
        let Some(memory) = self.memory.get_mut(id) else {
            return Ok(());
        };
        memory.soaked_ms.extend(next.soaked_ms.clone());
        memory.clocks.extend(next.clocks.clone());
        memory.forgiven.extend(next.forgiven.clone());
        memory.inconclusive_ms = next.inconclusive_ms;
        if next.steps.is_empty() {
            if let Some(kept) = memory.to_keep(&stored, now.duration_since(memory.kept)) {
                memory.kept = now;
                memory.attempted = Some(Counted::of(&kept));
                let change = entry(vec![put(table::ROLLOUT, id, version, &kept)], vec![]);
                memory.version = self.node.control_ledger.propose(change).await?;
                memory.counted = Counted::of(&kept);
            }
            return Ok(());
        }
        let mut stored = stored;
        memory.write_to(&mut stored);
        let fences = next
            .steps
            .iter()
            .any(|step| matches!(step, Step::Stop { .. } | Step::Pause { .. }));
        let steps: Vec<_> = next.steps.iter().map(tally::step_name).collect();
        let node = self.node.clone();
        let change = aside(move || apply(&node, stored, version, &next.steps, &observed));
        let Some(change) = change.await else {
            return Ok(()); // the node stops
        };
        self.node.control_ledger.propose(change).await?;
        self.node.tally.stepped(&steps);
        self.memory.remove(id);
        if fences {
            self.node.fence().await?;
        }
        Ok(())
    }
}

impl Memory {
    fn of(stored: &store::Rollout, version: u64, now: Instant) -> Self {
        let soaked_ms = stored
            .roles
            .iter()
            .map(|r| (r.role.clone(), r.soaked_ms))
            .collect();
        Memory {
            looked: now,
            kept: now,
            version,
            counted: Counted::of(stored),
            attempted: None,
            soaked_ms,
            clocks: BTreeMap::new(),
            forgiven: BTreeMap::new(),
            inconclusive_ms: stored.inconclusive_ms,
        }
    }

    /// Somebody may have written the rollout. Who has written something else, as an answer to a check, has not seen what was
    /// counted since: it is not forgotten for that.
    fn follow(&mut self, stored: &store::Rollout, version: u64, now: Instant) {
        if self.version == version {
            return;
        }
        let counted = Counted::of(stored);
        if self.counted == counted || self.attempted.as_ref() == Some(&counted) {
            self.version = version;
            self.counted = counted;
        } else {
            *self = Memory::of(stored, version, now);
        }
    }

    /// The rollout with what was counted since it was stored so long ago, so that whoever controls it next goes on from
    /// there: soak, patience, clocks. None: nothing was, or it is not time yet.
    fn to_keep(&self, stored: &store::Rollout, ago: Duration) -> Option<store::Rollout> {
        let mut kept = stored.clone();
        self.write_to(&mut kept);
        let mut roles = kept.roles.iter().zip(&stored.roles);
        let decides = kept.inconclusive_ms != stored.inconclusive_ms
            || roles.any(|(now, before)| {
                (now.soaked_ms, &now.forgiven) != (before.soaked_ms, &before.forgiven)
            });
        // Who recovers is forgiven no more: whoever fails next must not be, whoever controls then.
        let forgives_less = kept.roles.iter().zip(&stored.roles).any(|(now, before)| {
            let mut waves = now.forgiven.iter().zip(&before.forgiven);
            waves.any(|(now, before)| now < before)
        });
        let every = match (forgives_less, decides) {
            (true, _) => Duration::ZERO,
            (false, true) => KEEP,
            (false, false) => KEEP_CLOCKS,
        };
        (ago >= every && kept != *stored).then_some(kept)
    }

    fn write_to(&self, stored: &mut store::Rollout) {
        for role in &mut stored.roles {
            role.soaked_ms = self
                .soaked_ms
                .get(&role.role)
                .copied()
                .unwrap_or(role.soaked_ms);
            if let Some(clock) = self.clocks.get(&role.role) {
                let Clock {
                    open_ms,
                    quiet_ms,
                    outcomes,
                } = *clock;
                (role.open_ms, role.quiet_ms, role.outcomes) = (open_ms, quiet_ms, outcomes);
            }
            if let Some(forgiven) = self.forgiven.get(&role.role) {
                role.forgiven.clone_from(forgiven);
            }
        }
        stored.inconclusive_ms = self.inconclusive_ms;
    }
}

impl Counted {
    fn of(stored: &store::Rollout) -> Self {
        Counted {
            state: stored.state,
            roles: stored.roles.clone(),
            inconclusive_ms: stored.inconclusive_ms,
        }
    }
}

/// How long to rest after a look that took so long: a large fleet must not keep a processor busy.
fn rest(looked: Duration) -> Duration {
    LOOK.saturating_sub(looked).max(3 * looked)
}

/// Looks at every agent, off the threads that answer them; none: the node stops.
async fn aside<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(look).await.ok()
}

/// Ends the pins whose time is over: the program names them no more.
async fn expire_pins(node: &Node) -> Result<(), ProposeError> {
    let now = now_ms();
    let (writes, acts): (Vec<_>, Vec<_>) = {
        let documents = node.control.read();
        let pins = documents.pins.values();
        let over = pins.filter(|pin| !pin.value.ended && pin.value.until_ms <= now);
        let end = |pin: &Doc<store::Pin>| {
            let ended = store::Pin {
                ended: true,
                ..store::Pin::clone(&pin.value)
            };
            let object = format!("pin/{}", ended.name);
            let write = put(table::PIN, ended.name.as_str(), pin.version, &ended);
            (
                write,
                act("controller", "pin.expire", object, String::new()),
            )
        };
        over.map(end).unzip()
    };
    if writes.is_empty() {
        return Ok(());
    }
    node.control_ledger
        .propose(entry(writes, acts))
        .await
        .map(|_| ())
}

/// Members of whom one look finds anew where they stand, once what all of them rest on has changed: a million after the
/// opening of a wave are eight looks, and none of them holds up the other rollouts for long.
const ANEW_MAX: usize = 125_000;

/// What the partitions see of the members, by role name and wave.
pub fn observe(node: &Node, stored: &store::Rollout) -> Observed {
    counted(node, stored, Pace::whole())
}

/// As [`observe`], with the work of a large rollout spread over several looks. Before the last of them there is no
/// evidence, so that nothing is decided.
pub fn observe_at_a_pace(node: &Node, stored: &store::Rollout) -> Observed {
    counted(node, stored, Pace::of(ANEW_MAX))
}

fn counted(node: &Node, stored: &store::Rollout, mut pace: Pace) -> Observed {
    let revision = node
        .control
        .read()
        .revision(&stored.family, stored.to)
        .map(|r| r.value.clone());
    let names: Vec<String> = revision
        .map(|r| r.roles.iter().map(|role| role.name.clone()).collect())
        .unwrap_or_default();
    let mut roles: BTreeMap<String, Vec<Counts>> = BTreeMap::new();
    let mut all_signs: BTreeMap<String, Vec<Signs>> = BTreeMap::new();
    let mut evidence_age_ms = Some(0);
    let mut offer_timeout_ms = 0;
    for partition in node.partitions.iter() {
        let stopped = partition.ledger.group().status().stopped.is_some();
        let age = partition.evidence_age_ms();
        let (counts, is_whole) = partition.count(stored, &mut pace);
        evidence_age_ms = evidence_age_ms
            .filter(|_| is_whole && !stopped)
            .map(|oldest: u64| oldest.max(age));
        offer_timeout_ms = offer_timeout_ms.max(partition.offer_timeout_ms());
        for ((role, wave), (counts, seen)) in counts {
            let Some(name) = names.get(role as usize) else {
                continue;
            };
            let waves = roles.entry(name.clone()).or_default();
            if waves.len() <= wave as usize {
                waves.resize(wave as usize + 1, Counts::default());
            }
            waves[wave as usize].merge(&counts);
            let signs = all_signs.entry(name.clone()).or_default();
            if signs.len() <= wave as usize {
                signs.resize(wave as usize + 1, Signs::default());
            }
            signs[wave as usize].unhealthy += seen.unhealthy;
            signs[wave as usize].restart_loops += seen.restart_loops;
        }
    }
    Observed {
        roles,
        signs: all_signs,
        evidence_age_ms,
        offer_timeout_ms,
        ..Observed::default()
    }
}

/// The entry that performs these steps. A step that ends something looks at every member once more.
fn apply(
    node: &Node,
    mut stored: store::Rollout,
    version: u64,
    steps: &[Step],
    observed: &Observed,
) -> store::Entry {
    let mut writes = Vec::new();
    let mut acts = Vec::new();
    let object = format!("rollout/{}", stored.id);
    if steps.iter().any(|step| matches!(step, Step::Stop { .. })) {
        let members: Vec<_> = node
            .partitions
            .iter()
            .flat_map(|partition| partition.members(&stored))
            .collect();
        stored.stopped_errors = crate::folding::error_groups(&members);
    }
    for step in steps {
        let (action, detail) = perform(&mut stored, step);
        acts.push(act("controller", action, object.clone(), detail));
    }
    let state = rollout_state(stored.state());
    if state.is_final() {
        stored.window = Some(window::of(node, &stored));
    }
    let documents = node.control.read();
    if let Some(family) = documents.families.get(&stored.family)
        && state.is_final()
    {
        let mut next = store::Family::clone(&family.value);
        if state == State::Completed {
            for (number, state) in [
                (next.stable, RevisionState::Superseded),
                (stored.to, RevisionState::Active),
            ] {
                if let Some(revision) = documents
                    .revision(&stored.family, number)
                    .filter(|_| number != 0)
                {
                    let revision_next = store::Revision {
                        state: state.into(),
                        ..store::Revision::clone(&revision.value)
                    };
                    writes.push(put(
                        table::REVISION,
                        revision_key(&stored.family, number),
                        revision.version,
                        &revision_next,
                    ));
                }
            }
            next.stable = stored.to;
            // Precedence and settings take effect with the revision that carries them: it is what was approved.
            if let Some(revision) = documents.revision(&stored.family, stored.to) {
                next.precedence = revision.value.precedence;
                next.settings = settings_to_store(&revision_settings(&next, &revision.value));
            }
            next.rollout.clear();
        }
        next.target = documents.target(&next, &stored.id);
        stored.ended_ms = now_ms();
        stored.ended_counts = ended_counts(observed);
        writes.push(put(
            table::FAMILY,
            stored.family.as_str(),
            family.version,
            &next,
        ));
    }
    writes.push(put(table::ROLLOUT, stored.id.as_str(), version, &stored));
    entry(writes, acts)
}

fn ended_counts(observed: &Observed) -> Vec<store::WaveCounts> {
    let waves = |(role, waves): (&String, &Vec<Counts>)| {
        let role = role.clone();
        let wave = move |(wave, counts): (usize, &Counts)| store::WaveCounts {
            role: role.clone(),
            wave: u32::try_from(wave).unwrap_or(u32::MAX),
            members: counts.by_bucket().to_vec(),
        };
        waves.iter().enumerate().map(wave).collect::<Vec<_>>()
    };
    observed.roles.iter().flat_map(waves).collect()
}

fn perform(stored: &mut store::Rollout, step: &Step) -> (&'static str, String) {
    match step {
        Step::OpenWave { role, wave } => {
            let mut agents = 0;
            if let Some(progress) = stored.roles.iter_mut().find(|r| r.role == *role) {
                progress.open_waves = wave + 1;
                progress.soaked_ms = 0;
                (progress.open_ms, progress.quiet_ms) = (0, 0);
                let end = |i: usize| progress.wave_ends.get(i).copied().unwrap_or(0);
                agents = end(*wave as usize)
                    - if *wave == 0 {
                        0
                    } else {
                        end(*wave as usize - 1)
                    };
            }
            (
                "wave.open",
                format!("{role} wave {}: {}", wave + 1, number(agents, "agent")),
            )
        }
        Step::FinishRole { role } => {
            if let Some(progress) = stored.roles.iter_mut().find(|r| r.role == *role) {
                progress.done = true;
            }
            ("role.finish", role.clone())
        }
        Step::Complete => {
            set_state(
                stored,
                State::Completed,
                "every member has converged or is a named exception",
            );
            (
                "rollout.complete",
                format!("revision {} is stable", stored.to),
            )
        }
        Step::Stop {
            role,
            wave,
            cause,
            roll_back,
        } => {
            stored.stopped_by = cause.failure().map_or("", Failure::name).to_owned();
            let cause = format!("{role} wave {}: {cause}", wave + 1);
            match roll_back {
                Some(scope) => {
                    set_state(stored, State::RollingBack, &cause);
                    stored.roll_back = Some(stored_scope(scope));
                }
                None => set_state(stored, State::Halted, &cause),
            }
            ("rollout.stop", cause)
        }
        Step::Pause { why } => {
            set_state(stored, State::Paused, why);
            ("rollout.pause", stored.cause.clone())
        }
        Step::OpenRollBack { role } => {
            if let Some(back) = &mut stored.roll_back {
                back.open_roles.push(role.clone());
            }
            ("rollback.open", role.clone())
        }
        Step::FinishRollBack => {
            let open: u32 = stored.roles.iter().map(|r| r.open_waves).sum();
            let everything = stored
                .roll_back
                .as_ref()
                .is_none_or(|back| back.all || open <= 1);
            let next = if everything {
                State::RolledBack
            } else {
                State::Halted
            };
            let cause = format!("{}; what it covers has gone back", stored.cause);
            set_state(stored, next, &cause);
            let detail = format!("{}: {cause}", next.name());
            ("rollback.finish", detail)
        }
    }
}

/// `1 agent`, `7 agents`.
fn number(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Moves a stored rollout; the table of moves is the domain's.
fn set_state(stored: &mut store::Rollout, next: State, cause: &str) {
    debug_assert!(rollout_state(stored.state()).can_move_to(next));
    stored.state = stored_rollout_state(next).into();
    stored.cause = cause.to_owned();
}

fn stored_scope(scope: &Scope) -> store::RollBack {
    match scope {
        Scope::All => store::RollBack {
            all: true,
            ..store::RollBack::default()
        },
        Scope::Wave { role, wave } => store::RollBack {
            role: role.clone(),
            wave: *wave,
            ..store::RollBack::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> store::Rollout {
        let role = store::RoleProgress {
            role: "agent".into(),
            open_waves: 1,
            ..store::RoleProgress::default()
        };
        store::Rollout {
            roles: vec![role],
            ..store::Rollout::default()
        }
    }

    #[test]
    fn whoever_controls_a_rollout_next_goes_on_with_its_patience_and_its_deadline() {
        let stored = stored();
        let mut memory = Memory::of(&stored, 1, Instant::now());
        let kept_by = |memory: &Memory, ago| memory.to_keep(&stored, ago);
        assert_eq!(kept_by(&memory, KEEP_CLOCKS), None, "nothing was counted");
        // The soak stands still, as it does without evidence.
        memory.inconclusive_ms = 840_000;
        let clock = Clock {
            open_ms: 3_000_000,
            quiet_ms: 500,
            outcomes: 3,
        };
        memory.clocks.insert("agent".into(), clock);
        assert_eq!(kept_by(&memory, KEEP / 2), None, "it is not time yet");
        memory.forgiven.insert("agent".into(), vec![1]);
        let kept = kept_by(&memory, KEEP).expect("it is kept");
        let next = Memory::of(&kept, 2, Instant::now());
        assert_eq!(next.inconclusive_ms, 840_000);
        assert_eq!(
            (kept.roles[0].open_ms, kept.roles[0].quiet_ms),
            (3_000_000, 500)
        );
        assert_eq!(kept.roles[0].forgiven, [1]);
        assert_eq!(memory.to_keep(&kept, KEEP_CLOCKS), None);
        // Who recovers is forgiven no more, at once.
        memory.forgiven.insert("agent".into(), vec![0]);
        assert!(memory.to_keep(&kept, Duration::ZERO).is_some());
        memory.forgiven.insert("agent".into(), vec![1]);
        // In a freeze of days the clocks alone go on.
        let open_ms = clock.open_ms + 5_000;
        memory
            .clocks
            .insert("agent".into(), Clock { open_ms, ..clock });
        assert_eq!(memory.to_keep(&kept, KEEP), None);
        assert!(memory.to_keep(&kept, KEEP_CLOCKS).is_some());
    }
    #[test]
    fn who_writes_something_else_of_a_rollout_does_not_set_its_clocks_back() {
        let stored = stored();
        let now = Instant::now();
        let mut memory = Memory::of(&stored, 1, now);
        memory.inconclusive_ms = 840_000;
        let answered = store::Rollout {
            cause: "ben says pass".into(),
            ..stored.clone()
        };
        memory.follow(&answered, 2, now);
        assert_eq!((memory.version, memory.inconclusive_ms), (2, 840_000));
        // What it has written itself may be stored without an answer.
        let kept = store::Rollout {
            inconclusive_ms: 840_000,
            ..answered.clone()
        };
        memory.attempted = Some(Counted::of(&kept));
        memory.follow(&answered, 3, now);
        memory.follow(&kept, 4, now);
        assert_eq!((memory.version, memory.inconclusive_ms), (4, 840_000));
        let resumed = store::Rollout {
            state: RolloutState::Halted.into(),
            ..stored
        };
        memory.follow(&resumed, 5, now);
        assert_eq!((memory.version, memory.inconclusive_ms), (5, 0));
    }
}
