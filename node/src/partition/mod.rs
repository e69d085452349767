//! A partition leader: it keeps the agents of one inventory group, answers their reports, and knows who is there.
//!
//! The decisions are those of [`state::partition`]; this file performs them: turns, proposals, leases, notices.

mod members;
mod occupancy;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fleet::program::{Desired, Program};
use fleet::selector::Facts;
use futures::StreamExt;
use proto::edge::{Answer, Notice, Presence, Report, Unsent, notice};
use proto::sequence::is_fresh;
use proto::store::{self, Link};
use proto::uid::Uid;
use state::inventory::whose;
use state::partition::conversation::{Known, answer, follows, handled};
use state::partition::evaluate::{self, Evaluation};
use state::partition::place::OwnedPlace;
use state::partition::presence::{Core, Timing};
use state::partition::stand::verdicts::Verdicts;
use state::partition::timing::{HOLD, RECALL};
use state::partition::withdraw::{withdraw, withdrawn, without_offer};
use state::partition::{is_due, liveness};
use tokio::sync::broadcast;

pub use members::{Candidate, MemberView};
pub use occupancy::{Count, Counted, Occupancy, Older, Room};
pub use state::inventory::state_word;
pub use state::partition::timing::{GRANT_LIFE, LEASE, LEASE_OVER};
pub use state::partition::{
    SERVER_CAPABILITIES, body, delivered_config, desired_config, desired_of, doubt_text,
    excluded_text, history_key, is_quiet, is_unchanged, merge, merged_config, millis, place_of,
    places_of, room, state_of,
};

use crate::control::Control;
use crate::inventory::{Index, IndexMirror};
use crate::ledger::{self, Ledger, ProposeError, entry, now_ms, put, put_any, table};

/// The refusals of a forgotten agent are kept for so long.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Documents of a table that are removed at a time: in ten minutes a partition writes fewer.
const PRUNED: usize = 200_000;

/// Removed by one entry: half a MiB.
const PRUNED_AT_ONCE: usize = 10_000;

/// Messages of one agent take turns; agents share so many queues.
const TURNS: usize = 1024;

/// Agents whose records are changed at once because time has passed.
const TOGETHER: usize = 256;

/// Agents that are named in one message: a quarter of a MiB.
const NAMED_AT_ONCE: usize = 10_000;

/// Tries after a conflicting change. More than three writers of one agent at once do not exist.
const TRIES: usize = 5;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Expected time between two messages of an agent. Default 30 s: what supervisors use.
    pub agent_interval: Duration,
    /// Silent for so many intervals: lost. Default 3.
    pub lost_after_intervals: u32,
    /// An offer that is not answered for so long is *no answer*. Longer than poll, validate and apply. Default 3 min.
    pub offer_timeout: Duration,
    /// Transitions are kept for so long. Default 30 days.
    pub history: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            agent_interval: Duration::from_secs(30),
            lost_after_intervals: 3,
            offer_timeout: Duration::from_secs(180),
            history: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// Why a report was not handled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not 16 bytes.
    #[error(transparent)]
    Uid(#[from] proto::uid::UidError),
    /// Not stored: nothing was answered.
    #[error("agent {uid}: its record was not stored")]
    Store {
        /// Whose.
        uid: Uid,
        /// Why.
        #[source]
        source: ProposeError,
    },
    /// The database failed.
    #[error("agent {uid}: its record cannot be read")]
    Read {
        /// Whose.
        uid: Uid,
        /// Why.
        #[source]
        source: raft::Fatal,
    },
    /// This node does not lead the partition.
    #[error("agent {uid}: its partition is not led here")]
    NotLeader {
        /// Whose.
        uid: Uid,
    },
    /// Another token speaks for this uid.
    #[error(
        "agent {uid} enrolled with token `{enrolled}`, not with `{token}`: forget the agent first if it is to enrol anew"
    )]
    Token {
        /// Whose.
        uid: Uid,
        /// Of the record.
        enrolled: String,
        /// Of the connection.
        token: String,
    },
}

impl Error {
    /// Was there no leader here, so that nothing has happened and a moment later, or elsewhere, it may work?
    pub fn is_leaderless(&self) -> bool {
        match self {
            Error::NotLeader { .. } => true,
            Error::Store { source, .. } => source.is_leaderless(),
            _ => false,
        }
    }
}

/// One partition on this node.
pub struct Partition {
    /// The group below.
    pub ledger: Ledger<IndexMirror>,
    index: Index,
    control: Control,
    config: Config,
    core: std::sync::Mutex<Core>,
    started: Instant,
    program: ArcSwap<Program>,
    /// Families that send once more what an agent has drifted from; as new as the program.
    re_offering: ArcSwap<BTreeSet<String>>,
    /// Held while a newer program is taken, so that it never goes backwards.
    taking: std::sync::Mutex<()>,
    /// The term in which this node leads and is ready to; 0: it does not.
    leads_in: std::sync::atomic::AtomicU64,
    /// When the program, and this node's lead, were last confirmed; in milliseconds since `started`, 0 = never.
    confirmed_ms: std::sync::atomic::AtomicU64,
    last_grant_ms: std::sync::atomic::AtomicU64,
    /// When silence and overdue offers were last looked for.
    looked_ms: std::sync::atomic::AtomicU64,
    bodies: body::Remembered,
    rooms: room::Rooms,
    /// What the controller has found of members, by open rollout. Never taken while another lock is held.
    verdicts: std::sync::Mutex<HashMap<String, Verdicts>>,
    /// Until when the quotas hold, in milliseconds since `started`.
    quotas_until_ms: std::sync::atomic::AtomicU64,
    /// Who waited when rooms were counted last; none: they were not, since this node leads.
    waiting: std::sync::Mutex<Option<occupancy::Waiting>>,
    counting: std::sync::Mutex<occupancy::Counting>,
    /// Number of the next count that none has numbered. It begins with the wall clock, so that no process repeats those of
    /// one before it.
    counts: std::sync::atomic::AtomicU64,
    /// The sum of the quotas that were given last, and how many agents had something due when they were counted.
    given: std::sync::atomic::AtomicU64,
    wanted: std::sync::atomic::AtomicU64,
    /// Conversations that other gateways were asked for, and those that none of them knew of in time.
    recalls: std::sync::atomic::AtomicU64,
    recalls_unanswered: std::sync::atomic::AtomicU64,
    notices: broadcast::Sender<Arc<Vec<Notice>>>,
    /// Are there other nodes that may have led it before?
    others: bool,
    turns: Box<[tokio::sync::Mutex<()>]>,
    /// Wakes whoever waits for a gateway's word.
    told: tokio::sync::Notify,
}

// === impl Partition ===

impl Partition {
    /// A leader over a started group.
    pub fn new(
        ledger: Ledger<IndexMirror>,
        index: Index,
        control: Control,
        config: Config,
        notices: broadcast::Sender<Arc<Vec<Notice>>>,
        others: bool,
    ) -> Self {
        let interval_ms = millis(config.agent_interval);
        let timing = Timing {
            interval_ms,
            lost_after_ms: interval_ms * u64::from(config.lost_after_intervals),
        };
        Partition {
            ledger,
            index,
            control,
            config,
            core: std::sync::Mutex::new(Core::new(timing, 0)),
            started: Instant::now(),
            program: ArcSwap::from_pointee(Program::default()),
            re_offering: ArcSwap::default(),
            taking: std::sync::Mutex::default(),
            leads_in: 0.into(),
            confirmed_ms: 0.into(),
            last_grant_ms: 0.into(),
            looked_ms: 0.into(),
            bodies: body::Remembered::default(),
            rooms: room::Rooms::default(),
            verdicts: std::sync::Mutex::default(),
            quotas_until_ms: 0.into(),
            waiting: std::sync::Mutex::default(),
            counting: std::sync::Mutex::default(),
            counts: now_ms().max(1).into(),
            given: 0.into(),
            wanted: 0.into(),
            recalls: 0.into(),
            recalls_unanswered: 0.into(),
            notices,
            others,
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect(),
            told: tokio::sync::Notify::new(),
        }
    }

    /// The column index, for queries.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The program it decides by.
    pub fn program(&self) -> Arc<Program> {
        self.program.load_full()
    }

    /// How long ago each of these agents was heard.
    pub fn ages_ms(&self, uids: &[Uid]) -> Vec<u64> {
        let now = self.monotonic_ms();
        let core = self.core();
        uids.iter().map(|uid| core.age_ms(*uid, now)).collect()
    }

    /// Silent for so long, what is known of an agent proves nothing any more: two intervals.
    fn stale_after_ms(&self) -> u64 {
        2 * millis(self.config.agent_interval)
    }

    fn verdicts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Verdicts>> {
        self.verdicts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Those of these agents, which come in rising order, that were silent for two intervals: what is known of them proves
    /// nothing any more. In rising order.
    fn stale(&self, uids: &[Uid]) -> Vec<Uid> {
        let (now, limit_ms) = (self.monotonic_ms(), self.stale_after_ms());
        let heard = self.core().heard_at(uids);
        let columns = self.index.read();
        let is_quiet = |uid| columns.rows.get(uid).is_some_and(is_quiet);
        let stale = uids.iter().zip(heard).filter(|(uid, (at, open))| {
            now.saturating_sub(*at) >= limit_ms && !(*open && is_quiet(uid))
        });
        stale.map(|(uid, _)| *uid).collect()
    }

    // Locks: the core's, the control documents' and the index's are never held together. Each of them has a writer that
    // waits for its readers, so that two that nest in different orders stop all three.

    fn core(&self) -> std::sync::MutexGuard<'_, Core> {
        self.core
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn monotonic_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn turn(&self, uid: Uid) -> &tokio::sync::Mutex<()> {
        let bytes = uid.as_bytes();
        &self.turns[usize::from(u16::from_be_bytes([bytes[12], bytes[13]])) % TURNS]
    }

    // ---- the lead ----

    /// Does this node lead the partition, and is it ready to?
    pub fn leads(&self) -> bool {
        let leadership = *self.ledger.group().leadership().borrow();
        let term = self.leads_in.load(std::sync::atomic::Ordering::SeqCst);
        leadership.role == raft::Role::Leader && leadership.term == term
    }

    /// Begins to lead in this term: what was committed before is applied, agents have a right to be heard again, and
    /// what an earlier leader has granted is waited for like grants of its own.
    ///
    /// # Errors
    /// The lead was lost again, or is not sure yet.
    pub async fn take_lead(&self, term: u64) -> Result<(), raft::ReadError> {
        self.ledger.group().linearize().await?;
        let now = self.monotonic_ms();
        self.core().begin(now);
        // It may still have its lease, and then repeats what it has granted.
        let earlier = if self.others {
            now + millis(LEASE_OVER)
        } else {
            0
        };
        self.last_grant_ms
            .fetch_max(earlier, std::sync::atomic::Ordering::SeqCst);
        self.rooms.hold();
        *self.waiting() = None;
        self.take_program();
        self.leads_in
            .store(term, std::sync::atomic::Ordering::SeqCst);
        if let Err(error) = self.read_numbers().await {
            tracing::warn!(partition = self.ledger.name(), error = %chain(&error), "written-down conversations cannot be read: agents will be asked for full state");
        }
        self.name_pending(&self.program());
        Ok(())
    }

    /// An agent that another gateway has served until now: what that one knows counts, and it lets go. It is waited for
    /// only where what is known would make this message look as if one had been lost; then all of them are asked, since
    /// a leader that has just begun may not know who served the agent last.
    async fn take_over(&self, uid: Uid, report: &mut Report) {
        let before = self.core().holder(uid, &report.gateway);
        if before.is_some() {
            report.session = None;
        }
        let here = report.session.as_ref().map(|session| session.number);
        let message = report.message.as_ref().filter(|m| !is_fresh(m));
        let number = message.map(|message| message.sequence_num);
        let follows = |core: &Core| follows(core, uid, here, number);
        if before.is_none() && (!self.others || follows(&self.core())) {
            return;
        }
        self.recalls
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.notify(vec![Notice {
            instance_uid: uid.as_bytes().to_vec().into(),
            kind: notice::Kind::Moved.into(),
            holder: report.gateway.clone(),
        }]);
        let until = tokio::time::Instant::now() + RECALL;
        loop {
            let told = self.told.notified();
            if follows(&self.core()) {
                break;
            }
            if tokio::time::timeout_at(until, told).await.is_err() {
                self.recalls_unanswered
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tracing::debug!(%uid, "no gateway knows of the messages before this one");
                return;
            }
        }
        let heard = self.core().last(uid).map(|(number, _)| number);
        if heard > here {
            report.session = None;
        }
    }

    // ---- reports ----

    /// Answers a report, after what it changed is stored.
    #[tracing::instrument(name = "report", skip_all, fields(uid = %hex::encode(&report.instance_uid), partition = self.ledger.name()))]
    pub async fn report(&self, mut report: Report) -> Result<Answer, Error> {
        let uid = Uid::from_wire(&report.instance_uid)?;
        let _turn = self.turn(uid).lock().await;
        if !self.leads() {
            return Err(Error::NotLeader { uid });
        }
        // Known to its gateway, as the leader before may have seen it.
        let has_lost = report.session.as_ref().is_some_and(|session| session.lost);
        self.take_over(uid, &mut report).await;
        if let Some(unsent) = &report.unsent {
            self.take_back(uid, unsent).await?;
            return Ok(Answer::default());
        }
        let now = self.monotonic_ms();
        let known = Known::of(&mut self.core(), uid, &report, has_lost, now);
        let last = known.heard.map(|(number, _)| number);
        let mut evaluation = self.evaluate(uid, &report, known, true).await?;
        // What the leader before has granted, and its gateway has not seen, must not get lost in the first moments of this
        // one, which has no lease yet. Later the agent's liveness counts more.
        if evaluation.unsure && self.core().led_for_ms(now) < millis(HOLD) {
            return Err(Error::NotLeader { uid });
        }
        if let (Some(message), true) = (&report.message, evaluation.asks_full) {
            let here = report.session.as_ref().map(|session| session.number);
            tracing::debug!(%uid, number = message.sequence_num, last, here, report.gateway, "asked for full state");
        }
        handled(&mut self.core(), uid, &report, &evaluation, now);
        evaluation.pending |= self.core().is_owed(uid);
        let changed_meanwhile = evaluation.epoch != self.program().epoch;
        let mut answer = answer(&report, evaluation);
        if changed_meanwhile && let Some(session) = &mut answer.session {
            session.pending = true;
        }
        Ok(answer)
    }

    async fn evaluate(
        &self,
        uid: Uid,
        report: &Report,
        known: Known,
        may_offer: bool,
    ) -> Result<Evaluation, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let program = self.program();
            let re_offering = self.re_offering.load_full();
            let stored = self.stored(uid)?;
            let token_labels = if stored.is_none() {
                self.token_labels(&report.token)
            } else {
                BTreeMap::new()
            };
            if let Some((_, agent)) = &stored {
                check_token(uid, agent, report)?;
            }
            let tombstone = if stored.is_none() {
                self.tombstone(uid)?
            } else {
                None
            };
            let whose = stored
                .as_ref()
                .map(|(_, agent)| whose(agent))
                .unwrap_or_default();
            let place = {
                let columns = self.index.read();
                place_of(&columns, &program, uid, whose).map(OwnedPlace::of)
            };
            let taken = RefCell::new(None);
            self.expire_rooms();
            let mut evaluation = {
                let has_room = |desired: &Desired, facts: &dyn Facts| {
                    match self.rooms.take(desired, facts) {
                        room::Taken::Full => return false,
                        room::Taken::Unlimited => {}
                        room::Taken::In(lane) => {
                            taken.replace(Some(lane));
                        }
                    }
                    true
                };
                let config = |delivery: &store::Delivery| {
                    let reason_rollout = delivery.rollout.as_str();
                    delivered_config(
                        &self.control.read(),
                        &delivery.family,
                        &delivery.role,
                        delivery.revision,
                        reason_rollout,
                    )
                };
                let desired_config =
                    |desired: &Desired| desired_config(&self.control.read(), desired);
                let ctx = evaluate::Context {
                    program: &program,
                    place: place.as_ref().map(OwnedPlace::borrow),
                    lease: may_offer && self.has_lease(),
                    replies: may_offer,
                    token_labels: &token_labels,
                    // Of an agent that was forgotten, what it said before counts no more.
                    heard: known.heard.filter(|_| stored.is_some()),
                    skipped: known.skipped,
                    full_asked_ms_ago: known.asked_ago,
                    has_lost: known.has_lost,
                    may_ask_full: &|| self.core().may_ask_full(self.monotonic_ms()),
                    config: &config,
                    desired_config: &desired_config,
                    re_offers: &|family| re_offering.contains(family),
                    has_room: &has_room,
                    remembered: &self.bodies,
                    knows_components: &|hash| self.index.read().components.contains_key(hash),
                    offer_timeout_ms: millis(self.config.offer_timeout),
                    now_ms: now_ms(),
                    new_uid: new_uid(uid),
                    duplicate: known.duplicate,
                };
                evaluate::evaluate(
                    uid,
                    report,
                    stored.as_ref().map(|(v, a)| (*v, a)),
                    tombstone.as_ref(),
                    &ctx,
                )
            };
            let taken = UnderWay {
                rooms: &self.rooms,
                lane: taken.into_inner(),
                stored: false,
            };
            if evaluation.offers {
                self.last_grant_ms
                    .fetch_max(self.monotonic_ms(), std::sync::atomic::Ordering::SeqCst);
            }
            if evaluation.can_wait
                && evaluation.entry.is_some()
                && !self.core().may_write(uid, self.monotonic_ms())
            {
                evaluation.entry = None;
            }
            let Some(entry) = evaluation.entry.take() else {
                // A retry repeats an offer without an entry that the group could fence: look at the floor here.
                if evaluation.offers && self.index.read().floor > program.epoch.0 && tries < TRIES {
                    self.take_program();
                    continue;
                }
                return Ok(evaluation);
            };
            let bodies: Vec<_> = body::kept_by(&entry.writes).collect();
            let stored = self.ledger.propose_here(entry).await;
            if stored.is_ok() {
                self.bodies.stored(bodies, &evaluation.learned);
                taken.stored();
                if evaluation.can_wait {
                    self.core().wrote(uid);
                }
            } else {
                drop(taken);
            }
            match stored {
                // Checked before proposing and again after commit: a lease that ran out in between authorises nothing.
                Ok(_) if evaluation.offers && !self.has_lease() => {
                    self.withdraw(uid).await?;
                    return Ok(without_offer(evaluation));
                }
                Ok(_) => return Ok(evaluation),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(ProposeError::StaleEpoch(_)) if tries < TRIES => self.take_program(),
                Err(source) => return Err(Error::Store { uid, source }),
            }
        }
    }

    /// Labels that the enrolling token binds.
    fn token_labels(&self, token: &str) -> BTreeMap<String, String> {
        self.control
            .read()
            .tokens
            .get(token)
            .map(|t| t.value.labels.clone())
            .unwrap_or_default()
    }

    /// Writes down that the offer just granted was not sent.
    async fn withdraw(&self, uid: Uid) -> Result<bool, Error> {
        let why = "the program lease ran out";
        self.change_with(
            uid,
            String::new(),
            vec![withdrawn(uid, why, now_ms())],
            |agent| withdraw(agent, |_| true, why, now_ms()),
        )
        .await
    }

    /// A gateway did not write what was granted: it was not offered, and is due again.
    async fn take_back(&self, uid: Uid, unsent: &Unsent) -> Result<bool, Error> {
        let why = "its gateway did not write it in time";
        self.change_with(
            uid,
            String::new(),
            vec![withdrawn(uid, why, now_ms())],
            |agent| {
                let restart = unsent.restart && !agent.restart_pending;
                agent.restart_pending |= unsent.restart;
                let withdrawn = withdraw(agent, |hash| *hash == unsent.config_hash, why, now_ms());
                let again = || merge::transition(now_ms(), "restart not sent", "", "", "");
                withdrawn.or_else(|| restart.then(again))
            },
        )
        .await
    }

    fn stored(&self, uid: Uid) -> Result<Option<(u64, store::Agent)>, Error> {
        // Most first messages come from agents that the index does not know: no need to ask the database.
        if !self.index.read().rows.contains_key(&uid) {
            return Ok(None);
        }
        self.document(uid, table::AGENT)
    }

    fn tombstone(&self, uid: Uid) -> Result<Option<store::Agent>, Error> {
        Ok(self
            .document(uid, table::TOMBSTONE)?
            .map(|(_, agent)| agent))
    }

    fn document(&self, uid: Uid, table: u8) -> Result<Option<(u64, store::Agent)>, Error> {
        let read = || self.ledger.view()?.get(table, uid.as_bytes());
        read().map_err(|source| Error::Read { uid, source })
    }

    /// The stored record of an agent with its version.
    pub fn agent(&self, uid: Uid) -> Result<Option<(u64, store::Agent)>, Error> {
        self.stored(uid)
    }

    // ---- liveness ----

    /// Agents spoke without saying anything new.
    pub async fn heard(&self, gateway: &str, batch: &[Presence]) {
        let leads = self.leads();
        let heard = self
            .core()
            .heard(gateway, batch, leads, self.monotonic_ms());
        self.told.notify_waiters();
        if !leads {
            return;
        }
        let back = liveness::back(&self.index.read(), heard);
        self.link_all(back, Link::Connected, "heard again").await;
    }

    /// Where the conversations of a gateway stand that was not heard before. Nobody is back for that: who has gone stays
    /// in its gateway's memory for a while.
    pub fn introduced(&self, gateway: &str, batch: &[Presence]) {
        let leads = self.leads();
        let now = self.monotonic_ms();
        let _known = self.core().heard(gateway, batch, leads, now);
        self.told.notify_waiters();
    }

    /// A gateway can be heard from now on, or cannot be for now: its silence says nothing of its agents.
    pub fn gateway_is_here(&self, gateway: &str, here: bool) {
        let now = self.monotonic_ms();
        self.core().gateway_is_here(gateway, here, now);
    }

    /// A connection ended. Only a clean end says that the agent has left.
    pub async fn closed(&self, uid: Uid, connection: u64, clean: bool) {
        // A newer connection may own the agent already.
        let owns = {
            let mut core = self.core();
            core.closed(uid, connection);
            core.connection(uid).is_none_or(|owner| owner == connection)
        };
        if clean && owns && self.leads() {
            self.link(uid, Link::Left, "connection closed by the agent")
                .await;
        }
    }

    /// A gateway has been gone for a while: whoever it held is silent from now on if it does not come elsewhere.
    pub fn gateway_gone(&self, gateway: &str) {
        let now = self.monotonic_ms();
        self.core().gateway_gone(gateway, now);
    }

    /// Many at a time, so that they share their fsyncs.
    async fn link_all(&self, uids: Vec<Uid>, link: Link, detail: &str) {
        futures::stream::iter(uids)
            .for_each_concurrent(TOGETHER, |uid| self.link(uid, link, detail))
            .await;
    }

    async fn link(&self, uid: Uid, link: Link, detail: &str) {
        let through = match link {
            // It has said so itself.
            Link::Left => Through::Leader,
            _ => Through::ThisNode,
        };
        let changed = self
            .change_through(through, uid, (String::new(), vec![]), |agent| {
                let heard_meanwhile =
                    link == Link::Lost && !self.core().is_lost(uid, self.monotonic_ms());
                if heard_meanwhile {
                    return None;
                }
                liveness::link(agent, link, detail, now_ms())
            })
            .await;
        match changed {
            // Another node leads now, or nobody does: whoever leads next sees it anew.
            Err(error) if error.is_leaderless() => {
                tracing::debug!(%uid, "liveness change was left to the next leader");
            }
            Err(error) => {
                tracing::warn!(%uid, error = %chain(&error), "liveness change was not stored");
            }
            Ok(_) => {}
        }
    }

    /// Changes a record by itself, e.g. a label. `None` from the closure: leave it. Answers whether it was changed.
    pub async fn change(
        &self,
        uid: Uid,
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> Result<bool, Error> {
        self.change_with(uid, String::new(), vec![], change).await
    }

    /// As [`Partition::change`], by a key and with entries for the audit chain.
    async fn change_through(
        &self,
        through: Through,
        uid: Uid,
        (key, acts): (String, Vec<store::Act>),
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> Result<bool, Error> {
        let decide = |agent: &mut store::Agent| {
            let decided = |transition| Decided {
                transition,
                acts: acts.clone(),
                said: (),
            };
            Ok(change(agent).map(decided))
        };
        let done: Result<_, Error> = self.decide_through(through, uid, key, decide).await;
        done.map(|done| done.is_some())
    }

    /// Changes a record by what is decided on it, once for a key that is not empty; answers what was said of that. `None`
    /// from the closure: leave it. It is asked anew when the record has changed meanwhile: what is stored was decided on
    /// the very version that it replaces.
    pub async fn decide<T, E: From<Error>>(
        &self,
        uid: Uid,
        key: String,
        decide: impl Fn(&mut store::Agent) -> Result<Option<Decided<T>>, E>,
    ) -> Result<Option<T>, E> {
        self.decide_through(Through::Leader, uid, key, decide).await
    }

    async fn decide_through<T, E: From<Error>>(
        &self,
        through: Through,
        uid: Uid,
        key: String,
        decide: impl Fn(&mut store::Agent) -> Result<Option<Decided<T>>, E>,
    ) -> Result<Option<T>, E> {
        let mut tries = 0;
        loop {
            tries += 1;
            let Some((version, mut agent)) = self.stored(uid)? else {
                return Ok(None);
            };
            let Some(decided) = decide(&mut agent)? else {
                return Ok(None);
            };
            let Decided {
                transition,
                acts,
                said,
            } = decided;
            let history = put_any(
                table::HISTORY,
                history_key(uid, transition.at_ms, version, 0),
                &transition,
            );
            let writes = vec![put(table::AGENT, *uid.as_bytes(), version, &agent), history];
            let change = store::Entry {
                idempotency_key: key.clone(),
                ..entry(writes, acts)
            };
            let stored = match through {
                Through::Leader => self.ledger.propose(change).await,
                Through::ThisNode => self.ledger.propose_here(change).await,
            };
            match stored {
                Ok(_) => return Ok(Some(said)),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(source) => return Err(Error::Store { uid, source }.into()),
            }
        }
    }

    /// As [`Partition::change`], with entries for the audit chain, and once for a key that is not empty.
    pub async fn change_with(
        &self,
        uid: Uid,
        key: String,
        acts: Vec<store::Act>,
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> Result<bool, Error> {
        self.change_through(Through::Leader, uid, (key, acts), change)
            .await
    }

    /// Those of another node's: its leader looked so long before the question, which was sent at `sent`, was answered.
    pub fn has_looked(&self, sent: Instant, looked_ms: u64) {
        let sent = millis(sent.saturating_duration_since(self.started));
        self.looked_ms.fetch_max(
            sent.saturating_sub(looked_ms),
            std::sync::atomic::Ordering::SeqCst,
        );
    }

    /// How long ago this partition looked at its agents last: what it says of them is no younger.
    pub fn evidence_age_ms(&self) -> u64 {
        let looked = self.looked_ms.load(std::sync::atomic::Ordering::SeqCst);
        self.monotonic_ms().saturating_sub(looked)
    }

    /// After so long an unanswered offer is *no answer*.
    pub fn offer_timeout_ms(&self) -> u64 {
        millis(self.config.offer_timeout)
    }

    /// Looks for silent agents and for offers whose time has passed. Call it every second.
    pub async fn tick(&self) {
        let now = self.monotonic_ms();
        let before = self.looked_ms.load(std::sync::atomic::Ordering::SeqCst);
        {
            let mut core = self.core();
            core.rest(now);
            core.looks(before, now);
        }
        let (lost, late) = self.overdue();
        self.link_all(lost, Link::Lost, "silent").await;
        let now = self.monotonic_ms();
        self.looked_ms
            .store(now, std::sync::atomic::Ordering::SeqCst);
        // Many at a time, so that they share their fsyncs.
        futures::stream::iter(late)
            .for_each_concurrent(TOGETHER, |uid| self.close_late(uid))
            .await;
    }

    /// An offer's time has passed: it has no answer.
    async fn close_late(&self, uid: Uid) {
        let _turn = self.turn(uid).lock().await;
        let report = Report {
            instance_uid: uid.as_bytes().to_vec().into(),
            ..Report::default()
        };
        match self.evaluate(uid, &report, Known::default(), false).await {
            // As with liveness: whoever leads next sees it anew.
            Err(error) if error.is_leaderless() => {
                tracing::debug!(%uid, "that an offer's time has passed was left to the next leader");
            }
            Err(error) => {
                tracing::warn!(%uid, error = %chain(&error), "an offer's time has passed and that was not stored");
            }
            Ok(_) => {}
        }
    }

    fn overdue(&self) -> (Vec<Uid>, Vec<Uid>) {
        let timeout_ms = millis(self.config.offer_timeout);
        let (connected, late) = {
            let columns = self.index.read();
            (
                liveness::connected(&columns),
                liveness::late(&columns, now_ms(), timeout_ms),
            )
        };
        let now = self.monotonic_ms();
        (liveness::lost(&self.core(), connected, now), late)
    }

    // ---- the program ----

    /// Takes the control group's newest program; agents that it has something for are named to their gateways.
    pub fn take_program(&self) {
        let (before, program, same_policy) = {
            let _one = self
                .taking
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let before = self.program();
            // Before the program that may need it, so that nothing of it is offered without limit.
            let limits = room::Limits::of(&self.control.read());
            {
                // Quotas on their way may be for a wave that is over.
                let mut counted = self.waiting();
                if self.rooms.follow(limits) {
                    *counted = None;
                }
            }
            let newest = self.control.read().epoch();
            if newest <= before.epoch {
                return;
            }
            let (program, re_offering) = {
                let documents = self.control.read();
                let program = Arc::new(crate::control::build_program(&documents));
                (program, Arc::new(state::drift::re_offering(&documents)))
            };
            let policy = self.re_offering.swap(re_offering.clone());
            self.program.store(program.clone());
            (before, program, policy == re_offering)
        };
        let same = (&before.families, &before.pins) == (&program.families, &program.pins);
        if !(same && same_policy) && self.leads() {
            self.name_pending(&program);
        }
    }

    /// Tells the gateways which agents have something pending.
    pub fn name_pending(&self, program: &Program) {
        let kind = notice::Kind::Pending.into();
        let re_offering = self.re_offering.load_full();
        let notices: Vec<Notice> = {
            let columns = self.index.read();
            let due = columns
                .rows
                .values()
                .filter(|row| is_due(&columns, program, &re_offering, row));
            due.map(|row| Notice {
                instance_uid: row.uid.as_bytes().to_vec().into(),
                kind,
                ..Notice::default()
            })
            .collect()
        };
        for some in notices.chunks(NAMED_AT_ONCE) {
            self.notify(some.to_vec());
        }
    }

    /// One notice to the gateways.
    pub fn tell(&self, uid: Uid, kind: notice::Kind) {
        self.notify(vec![Notice {
            instance_uid: uid.as_bytes().to_vec().into(),
            kind: kind.into(),
            ..Notice::default()
        }]);
    }

    fn notify(&self, notices: Vec<Notice>) {
        if !notices.is_empty() {
            // No gateway listening is no error: sessions are opened with a report.
            let _ = self.notices.send(Arc::new(notices));
        }
    }

    /// The program was confirmed with the control group by a read sent at `sent`.
    pub fn confirm(&self, sent: Instant) {
        let at = millis(sent.saturating_duration_since(self.started)).max(1);
        self.confirmed_ms
            .fetch_max(at, std::sync::atomic::Ordering::SeqCst);
    }

    /// Conversations that other gateways were asked for since this node runs, and those of which none knew in time.
    pub fn recalls(&self) -> (u64, u64) {
        let read = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        (read(&self.recalls), read(&self.recalls_unanswered))
    }

    /// Agents that have lost a message and are still to be asked for full state.
    pub fn full_asks_postponed(&self) -> u64 {
        self.core().full_asks_postponed() as u64
    }

    /// May this node's leader authorise offers now?
    pub fn has_lease(&self) -> bool {
        let confirmed = self.confirmed_ms.load(std::sync::atomic::Ordering::SeqCst);
        confirmed != 0 && self.monotonic_ms().saturating_sub(confirmed) < millis(LEASE)
    }

    /// Answers when no offer of an older program can be written any more: new ones are refused by the group, and the
    /// grants that are out have run out.
    pub async fn raise_floor(&self, epoch: u64) -> Result<(), ProposeError> {
        self.take_program();
        let entry = store::Entry {
            raise_floor: epoch,
            ..entry(vec![], vec![])
        };
        self.ledger.propose_here(entry).await?;
        let last = self.last_grant_ms.load(std::sync::atomic::Ordering::SeqCst);
        let over = last + millis(GRANT_LIFE);
        let now = self.monotonic_ms();
        if last != 0 && over > now {
            tokio::time::sleep(Duration::from_millis(over - now)).await;
        }
        Ok(())
    }

    // ---- a clean stop ----

    /// Writes down where each conversation stands.
    pub async fn write_numbers(&self) {
        let now = self.monotonic_ms();
        let wall = now_ms();
        let numbers: Vec<store::Number> = self
            .core()
            .conversations(now)
            .map(|(uid, number, digest, age)| store::Number {
                uid: uid.as_bytes().to_vec(),
                number,
                digest: digest.to_vec(),
                seen_ms: wall.saturating_sub(age),
            })
            .collect();
        for (i, chunk) in numbers.chunks(10_000).enumerate() {
            let key = u32::try_from(i).unwrap_or(u32::MAX).to_be_bytes();
            let write = put_any(
                table::NUMBERS,
                key,
                &store::Numbers {
                    numbers: chunk.to_vec(),
                },
            );
            if let Err(error) = self.ledger.propose(entry(vec![write], vec![])).await {
                tracing::warn!(error = %chain(&error), "conversations were not written down: agents will be asked for full state");
                return;
            }
        }
    }

    /// Reads what a clean stop wrote down, and removes it: it is true once.
    pub async fn read_numbers(&self) -> Result<(), raft::Fatal> {
        let found: Vec<(Vec<u8>, u64, store::Numbers)> = self
            .ledger
            .view()?
            .scan(table::NUMBERS, &[])
            .collect::<Result<_, _>>()?;
        let now = self.monotonic_ms();
        for number in found.iter().flat_map(|(_, _, numbers)| &numbers.numbers) {
            if let (Ok(uid), Ok(digest)) = (
                Uid::from_wire(&number.uid),
                number.digest.as_slice().try_into(),
            ) {
                self.core()
                    .handled(uid, number.number, digest, ("", 0), false, now);
            }
        }
        let writes: Vec<_> = found
            .into_iter()
            .map(|(key, ..)| ledger::delete_any(table::NUMBERS, key))
            .collect();
        if !writes.is_empty()
            && let Err(error) = self.ledger.propose(entry(writes, vec![])).await
        {
            tracing::warn!(error = %chain(&error), "written-down conversations were not removed");
        }
        Ok(())
    }

    /// Every transition since then is kept, wall clock.
    pub fn kept_from_ms(&self) -> u64 {
        now_ms().saturating_sub(millis(self.config.history))
    }

    /// Removes what is past its time: transitions, and the refusals of forgotten agents. Call it now and then.
    pub async fn prune(&self) -> Result<(), raft::Fatal> {
        let transitions_before = self.kept_from_ms();
        let tombstones_before = now_ms().saturating_sub(millis(TOMBSTONE_LIFE));
        let ledger = self.ledger.clone();
        // Reads whole tables: not on a thread that answers agents.
        let find = move || -> Result<Vec<store::Write>, raft::Fatal> {
            let view = ledger.view()?;
            let mut writes = past::<store::Transition>(&view, table::HISTORY, |transition| {
                transition.at_ms < transitions_before
            })?;
            writes.extend(past::<store::Agent>(&view, table::TOMBSTONE, |agent| {
                agent.last_seen_ms < tombstones_before
            })?);
            Ok(writes)
        };
        let writes = tokio::task::spawn_blocking(find)
            .await
            .map_err(|error| raft::Fatal::because("look for what is past its time", error))??;
        for part in writes.chunks(PRUNED_AT_ONCE) {
            if let Err(error) = self.ledger.propose(entry(part.to_vec(), vec![])).await {
                tracing::warn!(error = %chain(&error), "what is past its time was not removed");
                break;
            }
        }
        Ok(())
    }
}

/// Deletes of the documents of a table that are past their time; the rest of a large number goes next time.
fn past<T: prost::Message + Default>(
    view: &ledger::View,
    table: u8,
    is_past: impl Fn(&T) -> bool,
) -> Result<Vec<store::Write>, raft::Fatal> {
    let past = view
        .scan::<T>(table, &[])
        .filter_map(|document| match document {
            Ok((key, _, document)) => {
                is_past(&document).then(|| Ok(ledger::delete_any(table, key)))
            }
            Err(error) => Some(Err(error)),
        });
    past.take(PRUNED).collect()
}

fn check_token(uid: Uid, agent: &store::Agent, report: &Report) -> Result<(), Error> {
    let (enrolled, token) = (agent.token.clone(), report.token.clone());
    let same = enrolled == token || enrolled.is_empty() || report.message.is_none();
    if same {
        Ok(())
    } else {
        Err(Error::Token {
            uid,
            enrolled,
            token,
        })
    }
}

/// What was decided on a record.
pub struct Decided<T> {
    /// For its history.
    pub transition: store::Transition,
    /// For the audit chain.
    pub acts: Vec<store::Act>,
    /// For who asked.
    pub said: T,
}

/// By whose lead is a record changed?
#[derive(Clone, Copy)]
enum Through {
    /// Wherever the leader is.
    Leader,
    /// Only if it is this node: whom it has heard is worth nothing to who leads after it. A leader that was cut off finds
    /// everybody silent, and may learn of its successor before that is stored.
    ThisNode,
}

/// An offer that is under way in a lane, until it is known whether it was stored.
struct UnderWay<'a> {
    rooms: &'a room::Rooms,
    lane: Option<room::Lane>,
    stored: bool,
}

impl UnderWay<'_> {
    fn stored(mut self) {
        self.stored = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(lane) = &self.lane {
            self.rooms.settle(lane, self.stored);
        }
    }
}

/// A new uid of version 7 in the slot of the old one, so that record, alias and retry answer are one entry.
fn new_uid(old: Uid) -> Uid {
    let mut bytes = *uuid::Uuid::now_v7().as_bytes();
    bytes[14] = (bytes[14] & !0x03) | (old.as_bytes()[14] & 0x03);
    bytes[15] = old.as_bytes()[15];
    Uid::from_wire(&bytes).unwrap_or(old)
}

/// An error with everything below it, for logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Partition {
    /// The agent's record is gone: its conversation is, too.
    pub fn forget(&self, uid: Uid) {
        self.core().forget(uid);
        self.tell(uid, notice::Kind::Drop);
    }
}
