//! The shell of a partition leader: turns per agent, proposals, the lease, floors and notices. What it decides is the
//! server's own: [`state::partition`].
//!
//! What it keeps in memory dies with its process; a new leader begins with what gateways tell and waits out what an
//! earlier one may have granted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet::digest::Digest;
use fleet::program::{Claim, Desired, Program};
use fleet::selector::Facts;
use prost::Message as _;
use proto::edge::{Answer, Notice, Report, Unsent, notice};
use proto::sequence::is_fresh;
use proto::store::{self, Entry, Link};
use proto::uid::Uid;
use state::inventory::{RecordFacts, reported, whose};
use state::ledger::{entry, put, put_any, table};
use state::partition::body::{Remembered, kept_by};
use state::partition::conversation::{Known, answer, follows, handled};
pub use state::partition::counting::Older;
use state::partition::counting::{Count, Counted, Counting, Waiting};
use state::partition::evaluate::{Context, Evaluation, evaluate};
use state::partition::history_key;
use state::partition::liveness;
use state::partition::occupancy::Occupancy;
use state::partition::place::OwnedPlace;
use state::partition::presence::{Core, Timing};
use state::partition::room::{Lane, Limits, QUOTA_LIFE, Rooms, Taken};
use state::partition::stand::verdicts::Verdicts;
use state::partition::timing::{GRANT_LIFE, HOLD, LEASE, LEASE_OVER, RECALL};
use state::partition::withdraw::{withdraw, withdrawn, without_offer};
use state::partition::{is_due, millis, place_of, room};

use crate::agent::SLOW_POLL_MS;
use crate::cluster::{Cluster, NoAnswer, Process};
use crate::fault::Fault;
use crate::invariants::Fact;
use crate::ledger::{Change, Outcome};
use crate::line::{self, Lines, Said, Told};
use crate::program::{config, desired_config, number, program};
use crate::time::{now_ms, sleep_ms, spawn, wall_ms};
use crate::types::{CONTROL, GroupId};

/// An unanswered offer of this age is *no answer*. Longer than poll and apply.
pub const OFFER_TIMEOUT_MS: u64 = 15_000;

/// When agents count as silent.
pub const TIMING: Timing = Timing {
    interval_ms: SLOW_POLL_MS,
    lost_after_ms: 3 * SLOW_POLL_MS,
};

/// Of so many agents a count finds what is due for them. Fewer than there are, so that counts come in parts.
const ASKED_AT_ONCE: usize = 3;

/// Tries after a conflicting change.
const TRIES: u32 = 5;

/// What the leaders of one process remember.
pub struct Leaders {
    memory: Mutex<Memory>,
    lines: Lines,
}

struct Memory {
    /// When the read was sent by which the program was confirmed last.
    confirmed_ms: Option<u64>,
    seats: BTreeMap<GroupId, Seat>,
    /// Messages of one agent take turns.
    busy: BTreeSet<u32>,
}

/// Of one partition.
struct Seat {
    core: Core,
    bodies: Arc<Remembered>,
    rooms: Arc<Rooms>,
    counting: Counting,
    waiting: Option<Waiting>,
    quotas_until_ms: u64,
    verdicts: BTreeMap<String, Verdicts>,
    /// The term in which this node is ready to lead.
    term: u64,
    last_grant_ms: u64,
    looked_ms: u64,
    /// The program by which agents were named last.
    named: u64,
}

// === impl Leaders ===

impl Default for Leaders {
    fn default() -> Self {
        let seat = || Seat {
            core: Core::new(TIMING, now_ms()),
            bodies: Arc::default(),
            rooms: Arc::default(),
            counting: Counting::default(),
            waiting: None,
            quotas_until_ms: 0,
            verdicts: BTreeMap::new(),
            term: 0,
            last_grant_ms: 0,
            looked_ms: now_ms(),
            named: 0,
        };
        let seats = Cluster::partitions().map(|group| (group, seat()));
        Leaders {
            memory: Mutex::new(Memory {
                confirmed_ms: None,
                seats: seats.collect(),
                busy: BTreeSet::new(),
            }),
            lines: Lines::default(),
        }
    }
}

impl Leaders {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a partition. Never over an await.
    fn seat<T>(&self, group: GroupId, look: impl FnOnce(&mut Seat) -> T) -> T {
        let mut memory = self.lock();
        look(memory.seats.get_mut(&group).expect("of a partition"))
    }

    fn core<T>(&self, group: GroupId, look: impl FnOnce(&mut Core) -> T) -> T {
        self.seat(group, |seat| look(&mut seat.core))
    }

    /// What was found of the members of a rollout. It is taken, and has to be put back.
    pub fn take_verdicts(&self, group: GroupId, rollout: &str) -> Verdicts {
        self.seat(group, |seat| seat.verdicts.remove(rollout))
            .unwrap_or_default()
    }

    pub fn keep_verdicts(&self, group: GroupId, rollout: &str, verdicts: Verdicts) {
        self.seat(group, |seat| {
            seat.verdicts.insert(rollout.to_owned(), verdicts)
        });
    }

    /// When each of these was heard, who come in rising order.
    pub fn heard_at(&self, group: GroupId, uids: &[Uid]) -> Vec<(u64, bool)> {
        self.core(group, |core| core.heard_at(uids))
    }
}

/// Begins everything that a process does for its partitions.
pub fn run(cluster: &Arc<Cluster>, process: &Arc<Process>) {
    for group in Cluster::partitions() {
        let limits = Limits {
            label: cluster.watch.budget().map(|budget| budget.label),
            ..Limits::default()
        };
        process
            .leaders
            .seat(group, |seat| seat.rooms.follow(limits));
    }
    let _lease = spawn(keep_lease(Arc::clone(cluster), Arc::clone(process)));
    let _lead = spawn(follow_leads(Arc::clone(cluster), Arc::clone(process)));
    let _look = spawn(look(Arc::clone(process)));
}

async fn keep_lease(cluster: Arc<Cluster>, process: Arc<Process>) {
    while process.is_alive() {
        process.awake().await;
        let sent = now_ms();
        if cluster.sync(&process, CONTROL).await {
            let mut memory = process.leaders.lock();
            memory.confirmed_ms = memory.confirmed_ms.max(Some(sent));
        }
        sleep_ms(500).await;
    }
}

/// Takes the lead where this node was elected, and names whom a new program has something for.
async fn follow_leads(cluster: Arc<Cluster>, process: Arc<Process>) {
    while process.is_alive() {
        process.awake().await;
        for group in Cluster::partitions() {
            let term = process.group(group).leads_in();
            let ready = process.leaders.seat(group, |seat| seat.term);
            if let Some(term) = term.filter(|term| ready != *term)
                && cluster.sync(&process, group).await
            {
                process.take_lead(group, term);
            }
            let epoch = process.control().epoch;
            let named = process
                .leaders
                .seat(group, |seat| std::mem::replace(&mut seat.named, epoch));
            if epoch > named {
                process.name_pending(group);
            }
        }
        sleep_ms(50).await;
    }
}

/// Looks for silent agents, for offers whose time has passed, and for gateways that are gone.
async fn look(process: Arc<Process>) {
    while process.is_alive() {
        process.awake().await;
        for change in process.leaders.lines.look() {
            let now = now_ms();
            for group in Cluster::partitions() {
                process.leaders.core(group, |core| match &change {
                    line::Change::Away(gateway) => core.gateway_is_here(gateway, false, now),
                    line::Change::Gone(gateway) => core.gateway_gone(gateway, now),
                });
            }
        }
        for group in Cluster::partitions().filter(|group| process.leads(*group)) {
            let learns = Arc::clone(&process);
            let _beside = spawn(async move { learns.learn_outcomes(group).await });
            process.look(group).await;
        }
        sleep_ms(1_000).await;
    }
}

// === impl Process ===

impl Process {
    /// Does this node lead the partition, and is it ready to?
    fn leads(&self, group: GroupId) -> bool {
        let term = self.group(group).leads_in();
        term.is_some_and(|term| self.leaders.seat(group, |seat| seat.term) == term)
    }

    /// May this node's leaders authorise offers now?
    fn has_lease(&self) -> bool {
        let confirmed = self.leaders.lock().confirmed_ms;
        let holds = confirmed.is_some_and(|confirmed| now_ms() - confirmed < millis(LEASE));
        holds || self.watch.fault() == Some(Fault::FenceForgotten)
    }

    fn take_lead(&self, group: GroupId, term: u64) {
        let (now, node) = (now_ms(), self.node);
        self.watch.note(Fact::Leads { node, group, term });
        self.leaders.seat(group, |seat| {
            seat.core.begin(now);
            // An earlier leader may still have its lease, and then repeats what it has granted.
            seat.last_grant_ms = seat.last_grant_ms.max(now + millis(LEASE_OVER));
            seat.rooms.begin();
            seat.waiting = None;
            seat.term = term;
        });
        self.name_pending(group);
    }

    // ---- rooms ----

    /// Counts, and grants nothing more until quotas answer this count. None: it does not lead.
    pub fn hold_rooms(&self, group: GroupId, count: Count) -> Option<Result<Counted, Older>> {
        let leads = self.leads(group) && self.is_alive();
        let term = self.group(group).leads_in().filter(|_| leads)?;
        Some(self.leaders.seat(group, |seat| {
            seat.counting.begin(count, term)?;
            let mut counted = Counted {
                occupancy: self.occupancy(group, seat),
                bounds: seat.rooms.hold(),
                number: None,
            };
            seat.waiting = Some(Waiting::of(&mut counted, count.0, count, now_ms()));
            Ok(counted)
        }))
    }

    /// As the server does, where offers of unknown outcome use room.
    async fn learn_outcomes(&self, group: GroupId) {
        let rooms = self.leaders.seat(group, |seat| Arc::clone(&seat.rooms));
        let Some(unknowns) = rooms.unknown() else {
            return;
        };
        if self.store(group, entry(vec![], vec![])).await.is_ok() {
            rooms.resolve(unknowns);
        }
    }

    /// What this replica has of a partition that does not answer, whose leader may have granted up to these quotas.
    pub fn seen_here(&self, group: GroupId, quotas: &BTreeMap<Lane, u64>) -> Counted {
        self.leaders.seat(group, |seat| {
            let occupancy = self.occupancy(group, seat);
            Counted::unanswered(occupancy, seat.rooms.hold(), quotas)
        })
    }

    fn occupancy(&self, group: GroupId, seat: &mut Seat) -> Occupancy {
        let (program, none) = (Arc::new(program(&self.control())), Arc::default());
        seat.rooms.begin_count();
        let (seen, in_flight) = {
            let columns = self.group(group).index.read();
            let limits = seat.rooms.limits();
            let counter = &mut seat.counting.counter;
            counter.count(&columns, &program, &none, &limits, ASKED_AT_ONCE)
        };
        seat.rooms.end_count(&in_flight);
        seen
    }

    /// Quotas, if they answer the newest count: whoever waits for what is new in them is asked again.
    pub fn open_rooms(
        &self,
        group: GroupId,
        count: u64,
        quotas: &BTreeMap<Lane, u64>,
    ) -> Option<()> {
        if !self.leads(group) || !self.is_alive() {
            return None;
        }
        let named = self.leaders.seat(group, |seat| {
            let answered = |waiting: &mut Waiting| waiting.is_answered_by(count);
            let waiting = seat.waiting.take_if(answered)?;
            let used = seat.rooms.open(quotas);
            seat.quotas_until_ms = waiting.at_ms + millis(QUOTA_LIFE);
            Some(waiting.with_room(quotas, &used))
        });
        for uid in named.into_iter().flatten() {
            self.tell_pending(uid);
        }
        Some(())
    }

    // ---- gateways ----

    /// What a gateway says over its stream, and what it is told.
    pub fn hear(self: &Arc<Self>, gateway: &str, said: &Said) -> Option<Told> {
        let begins = self.leaders.lines.hear(gateway, said)?;
        for group in Cluster::partitions() {
            let of_group = |presence: &&proto::edge::Presence| {
                let uid = Uid::from_wire(&presence.instance_uid);
                uid.is_ok_and(|uid| crate::gateway::partition_of(number(uid)) == group)
            };
            let batch: Vec<_> = said.presences.iter().filter(of_group).cloned().collect();
            let (leads, now) = (self.leads(group), now_ms());
            let heard = self.leaders.core(group, |core| {
                if begins {
                    core.gateway_is_here(gateway, true, now);
                }
                core.heard(gateway, &batch, leads, now)
            });
            // What was said while there was no stream nobody has heard.
            if begins {
                self.name_pending(group);
            }
            if leads && !said.introduces {
                let back = liveness::back(&self.group(group).index.read(), heard);
                let process = Arc::clone(self);
                let _beside = spawn(async move {
                    for uid in back {
                        process
                            .link(group, uid, Link::Connected, "heard again")
                            .await;
                    }
                });
            }
        }
        let leads = Cluster::groups().filter_map(|group| {
            let (term, leader) = self.group(group).known_leader()?;
            Some((group, term, leader))
        });
        Some(Told {
            leads: leads.collect(),
            notices: self.leaders.lines.take(gateway),
        })
    }

    fn name_pending(&self, group: GroupId) {
        if !self.leads(group) {
            return;
        }
        let program = program(&self.control());
        let notices: Vec<Notice> = {
            let columns = self.group(group).index.read();
            let rows = columns.rows.values();
            let due = rows.filter(|row| is_due(&columns, &program, &BTreeSet::new(), row));
            due.map(|row| told(row.uid, notice::Kind::Pending, ""))
                .collect()
        };
        self.leaders.lines.notify(&notices);
    }

    /// A person has changed something about an agent, and perhaps something is due for it now.
    pub fn tell_pending(&self, uid: Uid) {
        let pending = told(uid, notice::Kind::Pending, "");
        self.leaders.lines.notify(&[pending]);
    }

    // ---- reports ----

    /// Answers a report, after what it changed is stored. None: not here, or it is not known whether it was stored.
    pub async fn report(&self, group: GroupId, report: Report) -> Option<Answer> {
        let uid = Uid::from_wire(&report.instance_uid).ok()?;
        let id = number(uid);
        if !self.leads(group) || !self.leaders.lock().busy.insert(id) {
            return None;
        }
        let answer = self.answer(group, uid, report).await;
        self.leaders.lock().busy.remove(&id);
        answer
    }

    async fn answer(&self, group: GroupId, uid: Uid, mut report: Report) -> Option<Answer> {
        let has_lost = report.session.as_ref().is_some_and(|session| session.lost);
        self.take_over(group, uid, &mut report).await;
        if let Some(unsent) = &report.unsent {
            self.take_back(group, uid, unsent).await;
            return Some(Answer::default());
        }
        let now = now_ms();
        let known = self
            .leaders
            .core(group, |core| Known::of(core, uid, &report, has_lost, now));
        let mut evaluation = self.evaluate(group, uid, &report, known, true).await?;
        let led_for_ms = self.leaders.core(group, |core| core.led_for_ms(now));
        if evaluation.unsure && led_for_ms < millis(HOLD) {
            return None;
        }
        evaluation.pending |= self.leaders.core(group, |core| {
            handled(core, uid, &report, &evaluation, now);
            core.is_owed(uid)
        });
        let changed_meanwhile = evaluation.epoch.0 != self.control().epoch;
        let mut answer = answer(&report, evaluation);
        if changed_meanwhile && let Some(session) = &mut answer.session {
            session.pending = true;
        }
        Some(answer)
    }

    /// Another gateway has served the agent until now, perhaps: it is told to let go, and asked where the conversation
    /// stood if this message would look as if one had been lost.
    async fn take_over(&self, group: GroupId, uid: Uid, report: &mut Report) {
        let gateway = report.gateway.clone();
        let before = self.leaders.core(group, |core| core.holder(uid, &gateway));
        if before.is_some() {
            report.session = None;
        }
        let here = report.session.as_ref().map(|session| session.number);
        let message = report.message.as_ref().filter(|m| !is_fresh(m));
        let next = message.map(|message| message.sequence_num);
        let follows = || {
            self.leaders
                .core(group, |core| follows(core, uid, here, next))
        };
        if before.is_none() && follows() {
            return;
        }
        let moved = told(uid, notice::Kind::Moved, &gateway);
        self.leaders.lines.notify(&[moved]);
        let until = now_ms() + millis(RECALL);
        while !follows() && now_ms() < until {
            sleep_ms(20).await;
        }
        let heard = self.leaders.core(group, |core| core.last(uid));
        if heard.map(|(number, _)| number) > here {
            report.session = None;
        }
    }

    async fn evaluate(
        &self,
        group: GroupId,
        uid: Uid,
        report: &Report,
        known: Known,
        may_offer: bool,
    ) -> Option<Evaluation> {
        for _ in 0..TRIES {
            let ledger = self.group(group).view().1;
            let program = program(&self.control());
            let stored = ledger.agent(number(uid));
            let (mut evaluation, lane) =
                self.evaluate_once(group, uid, report, &known, may_offer, &program, stored);
            let rooms = self.leaders.seat(group, |seat| Arc::clone(&seat.rooms));
            let settle = |outcome| {
                if let Some(lane) = &lane {
                    rooms.settle(lane, outcome);
                }
            };
            if evaluation.offers {
                self.granted(group);
            }
            if evaluation.can_wait
                && evaluation.entry.is_some()
                && !self
                    .leaders
                    .core(group, |core| core.may_write(uid, now_ms()))
            {
                evaluation.entry = None;
            }
            let Some(entry) = evaluation.entry.take() else {
                settle(room::Outcome::Nothing);
                // A retry repeats an offer without an entry that the group could fence: look at the floor here.
                let fenced = self.watch.fault() != Some(Fault::FenceForgotten);
                if evaluation.offers && fenced && ledger.floor > program.epoch.0 {
                    sleep_ms(50).await;
                    continue;
                }
                return Some(evaluation);
            };
            let bodies: Vec<_> = kept_by(&entry.writes).collect();
            let said = says(&entry);
            let stored = self.store(group, entry).await;
            settle(match stored {
                Ok(Outcome::Stored(_)) => room::Outcome::Stored,
                Ok(_) | Err(NoAnswer::NotLeader(_)) => room::Outcome::Nothing,
                Err(NoAnswer::Unknown) => room::Outcome::Unknown,
            });
            match stored {
                Ok(Outcome::Stored(version)) => {
                    if evaluation.can_wait {
                        self.leaders.core(group, |core| core.wrote(uid));
                    }
                    let remembered = self.leaders.seat(group, |seat| Arc::clone(&seat.bodies));
                    remembered.stored(bodies, &evaluation.learned);
                    self.watch.note(Fact::Heard {
                        group,
                        agent: number(uid),
                        version,
                        reported: said,
                    });
                    // Checked before proposing and again after commit: a lease that ran out in between authorises
                    // nothing.
                    if evaluation.offers && !self.has_lease() {
                        self.take_back(group, uid, &Unsent::default()).await;
                        return Some(without_offer(evaluation));
                    }
                    return Some(evaluation);
                }
                Ok(Outcome::Conflict) => {}
                Ok(Outcome::StaleEpoch | Outcome::Nothing) => sleep_ms(50).await,
                Err(NoAnswer::NotLeader(_) | NoAnswer::Unknown) => return None,
            }
        }
        None
    }

    #[expect(clippy::too_many_arguments, reason = "what it is decided by")]
    fn evaluate_once(
        &self,
        group: GroupId,
        uid: Uid,
        report: &Report,
        known: &Known,
        may_offer: bool,
        program: &Program,
        stored: Option<(u64, &store::Agent)>,
    ) -> (Evaluation, Option<Lane>) {
        let mistaken = match self.watch.fault() {
            Some(Fault::OfferByMismatch) => {
                stored.map(|(version, agent)| (version, without_memory(agent)))
            }
            Some(Fault::OwnerByClaim) => {
                stored.map(|(version, agent)| (version, let_go(agent, program)))
            }
            _ => None,
        };
        let stored = match &mistaken {
            Some((version, agent)) => Some((*version, agent)),
            None => stored,
        };
        let index = &self.group(group).index;
        let whose = stored.map(|(_, agent)| whose(agent)).unwrap_or_default();
        let place = place_of(&index.read(), program, uid, whose).map(OwnedPlace::of);
        let (bodies, rooms) = self.leaders.seat(group, |seat| {
            // Quotas that were not renewed in time are none.
            if seat.quotas_until_ms < now_ms() {
                seat.rooms.hold();
            }
            (Arc::clone(&seat.bodies), Arc::clone(&seat.rooms))
        });
        let lane = RefCell::new(None);
        let has_room = |desired: &Desired, facts: &dyn Facts| match rooms.take(desired, facts) {
            Taken::Full => false,
            Taken::Unlimited => true,
            Taken::In(taken) => {
                lane.replace(Some(taken));
                true
            }
        };
        let evaluation = evaluate(
            uid,
            report,
            stored,
            None,
            &Context {
                program,
                place: place.as_ref().map(OwnedPlace::borrow),
                lease: may_offer && self.has_lease(),
                replies: may_offer,
                token_labels: &BTreeMap::new(),
                heard: known.heard.filter(|_| stored.is_some()),
                skipped: known.skipped,
                full_asked_ms_ago: known.asked_ago,
                has_lost: known.has_lost,
                may_ask_full: &|| self.leaders.core(group, |core| core.may_ask_full(now_ms())),
                config: &|last| Some(config(&last.family, last.revision)),
                desired_config: &desired_config,
                re_offers: &|_| false,
                has_room: &has_room,
                remembered: &bodies,
                knows_components: &|_| true,
                build: &|_| None,
                offer_timeout_ms: OFFER_TIMEOUT_MS,
                now_ms: wall_ms(),
                new_uid: uid,
                duplicate: known.duplicate,
            },
        );
        (evaluation, lane.into_inner())
    }

    fn granted(&self, group: GroupId) {
        self.leaders.seat(group, |seat| {
            seat.last_grant_ms = seat.last_grant_ms.max(now_ms());
        });
    }

    /// Has it stored, if this node leads.
    async fn store(&self, group: GroupId, entry: Entry) -> Result<Outcome, NoAnswer> {
        let change = Change {
            id: self.watch.next_change(),
            entry,
        };
        let (_, outcome) = self.propose_here(group, change).await?;
        Ok(outcome)
    }

    /// Changes a record by itself. None from the closure: it is left. True: it was changed.
    async fn change(
        &self,
        group: GroupId,
        uid: Uid,
        acts: Vec<store::Act>,
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> bool {
        for _ in 0..TRIES {
            let ledger = self.group(group).view().1;
            let Some((version, agent)) = ledger.agent(number(uid)) else {
                return false;
            };
            let mut agent = agent.clone();
            let Some(transition) = change(&mut agent) else {
                return false;
            };
            let history = put_any(
                table::HISTORY,
                history_key(uid, transition.at_ms, version, 0),
                &transition,
            );
            let writes = vec![put(table::AGENT, *uid.as_bytes(), version, &agent), history];
            match self.store(group, entry(writes, acts.clone())).await {
                Ok(Outcome::Conflict) => {}
                stored => return matches!(stored, Ok(Outcome::Stored(_))),
            }
        }
        false
    }

    /// What was granted was not written: it was not offered, and is due again. No hash: whatever was granted last.
    async fn take_back(&self, group: GroupId, uid: Uid, unsent: &Unsent) {
        let (why, hash) = ("its gateway did not write it in time", &unsent.config_hash);
        let acts = vec![withdrawn(uid, why, wall_ms())];
        let is_it = |granted: &[u8]| hash.is_empty() || hash.as_ref() == granted;
        self.change(group, uid, acts, |agent| {
            withdraw(agent, is_it, why, wall_ms())
        })
        .await;
    }

    // ---- liveness ----

    async fn link(&self, group: GroupId, uid: Uid, link: Link, detail: &str) {
        let is_lost = || self.leaders.core(group, |core| core.is_lost(uid, now_ms()));
        let decided_ms = now_ms();
        let changed = self.change(group, uid, vec![], |agent| {
            if link == Link::Lost && !is_lost() {
                return None;
            }
            liveness::link(agent, link, detail, wall_ms())
        });
        if changed.await && link == Link::Lost {
            self.watch.note(Fact::Declared {
                agent: number(uid),
                decided_ms,
            });
        }
    }

    async fn look(&self, group: GroupId) {
        let (now, index) = (now_ms(), &self.group(group).index);
        self.leaders.seat(group, |seat| {
            seat.core.rest(now);
            seat.core.looks(seat.looked_ms, now);
        });
        let (connected, late) = {
            let columns = index.read();
            (
                liveness::connected(&columns),
                liveness::late(&columns, wall_ms(), OFFER_TIMEOUT_MS),
            )
        };
        let lost = self
            .leaders
            .core(group, |core| liveness::lost(core, connected, now));
        for uid in lost {
            self.link(group, uid, Link::Lost, "silent").await;
        }
        self.leaders.seat(group, |seat| seat.looked_ms = now_ms());
        for uid in late {
            if !self.leaders.lock().busy.insert(number(uid)) {
                continue; // whoever changes it looks, too
            }
            let report = Report {
                instance_uid: uid.as_bytes().to_vec().into(),
                ..Report::default()
            };
            self.evaluate(group, uid, &report, Known::default(), false)
                .await;
            self.leaders.lock().busy.remove(&number(uid));
        }
    }

    // ---- fences ----

    /// Answers when no offer of an older program can be written any more: new ones are refused by the group, and the
    /// grants that are out have run out.
    pub async fn raise_floor(&self, group: GroupId, epoch: u64) -> Option<()> {
        if !self.leads(group) {
            return None;
        }
        let raise = Entry {
            raise_floor: epoch,
            ..entry(vec![], vec![])
        };
        self.store(group, raise).await.ok()?;
        let last = self.leaders.seat(group, |seat| seat.last_grant_ms);
        sleep_ms((last + millis(GRANT_LIFE)).saturating_sub(now_ms())).await;
        Some(())
    }
}

fn told(uid: Uid, kind: notice::Kind, holder: &str) -> Notice {
    Notice {
        instance_uid: uid.as_bytes().to_vec().into(),
        kind: kind.into(),
        holder: holder.to_owned(),
    }
}

/// What an agent's record says that it has said.
fn says(entry: &Entry) -> Option<(Digest, fleet::offer::Reported)> {
    let is_record = |write: &&store::Write| write.table == u32::from(table::AGENT);
    let record = entry.writes.iter().find(is_record)?;
    let agent = store::Agent::decode(record.value.as_slice()).ok()?;
    agent.status.as_ref().and_then(reported)
}

/// A mistake: whether it has been offered that already, and whether it failed it, is not asked.
fn without_memory(agent: &store::Agent) -> store::Agent {
    let mut agent = agent.clone();
    agent.refused.clear();
    if let Some(last) = &mut agent.delivery {
        last.state = store::DeliveryState::Withdrawn.into();
    }
    agent
}

/// A mistake: as if a person had said that it goes to who claims it.
fn let_go(agent: &store::Agent, program: &Program) -> store::Agent {
    let mut agent = agent.clone();
    let claims = program.claims(&RecordFacts(&agent));
    let claim = claims.first().and_then(Claim::only);
    let owner = claim.map(|(family, role)| store::Owner {
        family: family.to_owned(),
        role: role.to_owned(),
    });
    if owner.is_some() {
        agent.granted = owner;
    }
    agent
}
