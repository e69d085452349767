//! The partition leader: it answers reports, and authorises offers only under a lease.
//!
//! What it keeps in memory dies with its process; a new leader begins with nothing and waits out what an earlier one
//! may have granted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet::offer::State;

use crate::cluster::{Cluster, NoAnswer, Process};
use crate::evaluate::{Context, Evaluation, Grant, Message, evaluate, overdue};
use crate::fault::Fault;
use crate::invariants::Fact;
use crate::ledger::{AgentDoc, Change, Doc, Key, Outcome, Write};
use crate::program::program;
use crate::time::{now_ms, sleep_ms, spawn};
use crate::types::{CONTROL, GroupId};

/// A granted offer may be written for so long, counted by the gateway from its question.
pub const GRANT_LIFE_MS: u64 = 2_000;

/// A program confirmed with the control group authorises offers for so long.
const LEASE_MS: u64 = 3_000;

/// After so long no leader has a lease that it had before.
pub const LEASE_OVER_MS: u64 = 3_300;

/// A new leader has so long to get its first lease.
const HOLD_MS: u64 = 5_000;

/// Tries after a conflicting change.
const TRIES: u32 = 5;

/// What the leaders of one process remember.
#[derive(Default)]
pub struct Leaders(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    /// When the read was sent by which the program was confirmed last.
    confirmed_ms: Option<u64>,
    leads: BTreeMap<GroupId, Lead>,
    /// When each agent was heard last, as gateways tell.
    heard: BTreeMap<u32, u64>,
    /// Messages of one agent take turns.
    busy: BTreeSet<u32>,
}

#[derive(Clone, Copy, Default)]
struct Lead {
    /// The term in which it is ready to lead.
    term: u64,
    since_ms: u64,
    last_grant_ms: u64,
}

// === impl Leaders ===

impl Leaders {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gateway has heard this agent so long ago.
    pub fn hear(&self, agent: u32, age_ms: u64) {
        let at = now_ms().saturating_sub(age_ms);
        let mut memory = self.lock();
        let heard = memory.heard.entry(agent).or_default();
        *heard = at.max(*heard);
    }

    /// When an agent was heard last.
    pub fn heard_ms(&self, agent: u32) -> Option<u64> {
        self.lock().heard.get(&agent).copied()
    }
}

/// Begins everything that a process does for its partitions.
pub fn run(cluster: &Arc<Cluster>, process: &Arc<Process>) {
    let _lease = spawn(keep_lease(Arc::clone(cluster), Arc::clone(process)));
    let _lead = spawn(follow_leads(Arc::clone(cluster), Arc::clone(process)));
    let _look = spawn(look_for_overdue(Arc::clone(process)));
}

async fn keep_lease(cluster: Arc<Cluster>, process: Arc<Process>) {
    while process.is_alive() {
        let sent = now_ms();
        if cluster.sync(&process, CONTROL).await {
            let mut memory = process.leaders.lock();
            memory.confirmed_ms = memory.confirmed_ms.max(Some(sent));
        }
        sleep_ms(500).await;
    }
}

/// Takes the lead where this node was elected.
async fn follow_leads(cluster: Arc<Cluster>, process: Arc<Process>) {
    while process.is_alive() {
        for group in Cluster::partitions() {
            let term = process.group(group).leads_in();
            let ready = process
                .leaders
                .lock()
                .leads
                .get(&group)
                .map(|lead| lead.term);
            if let Some(term) = term.filter(|term| ready != Some(*term))
                && cluster.sync(&process, group).await
            {
                let (now, node) = (now_ms(), process.node);
                process.watch.note(Fact::Leads { node, group, term });
                let lead = Lead {
                    term,
                    since_ms: now,
                    // An earlier leader may still have its lease, and then repeats what it has granted.
                    last_grant_ms: now + LEASE_OVER_MS,
                };
                process.leaders.lock().leads.insert(group, lead);
            }
        }
        sleep_ms(50).await;
    }
}

async fn look_for_overdue(process: Arc<Process>) {
    while process.is_alive() {
        for group in Cluster::partitions().filter(|group| process.leads(*group)) {
            let ledger = process.group(group).view().1;
            for (id, version, agent) in ledger.agents() {
                let next = overdue(agent.clone(), now_ms());
                if next != *agent {
                    let change = process.record(id, version, next, 0);
                    // Whoever changed it meanwhile has looked, too; next second it is looked for again.
                    drop(process.propose_here(group, change).await);
                }
            }
        }
        sleep_ms(1_000).await;
    }
}

// === impl Process ===

impl Process {
    /// Does this node lead the partition, and is it ready to?
    fn leads(&self, group: GroupId) -> bool {
        let term = self.group(group).leads_in();
        let memory = self.leaders.lock();
        term.is_some() && memory.leads.get(&group).map(|lead| lead.term) == term
    }

    /// May this node's leaders authorise offers now?
    fn has_lease(&self) -> bool {
        let confirmed = self.leaders.lock().confirmed_ms;
        let holds = confirmed.is_some_and(|confirmed| now_ms() - confirmed < LEASE_MS);
        holds || self.watch.fault() == Some(Fault::FenceForgotten)
    }

    fn record(&self, id: u32, version: u64, agent: AgentDoc, epoch: u64) -> Change {
        Change {
            id: self.watch.next_change(),
            epoch,
            writes: vec![Write {
                key: Key::Agent(id),
                version,
                doc: Doc::Agent(Box::new(agent)),
            }],
            at_ms: now_ms(),
            ..Change::default()
        }
    }

    /// Answers a report, after what it changed is stored: what may be written to the agent, if anything. None: not
    /// here, or it is not known whether it was stored.
    pub async fn report(&self, group: GroupId, message: Message) -> Option<Option<Grant>> {
        let id = message.agent;
        if !self.leads(group) || !self.leaders.lock().busy.insert(id) {
            return None;
        }
        let answer = self.answer(group, &message).await;
        self.leaders.lock().busy.remove(&id);
        answer
    }

    async fn answer(&self, group: GroupId, message: &Message) -> Option<Option<Grant>> {
        for _ in 0..TRIES {
            let ledger = self.group(group).view().1;
            let (version, stored) = ledger.agent(message.agent);
            let control = self.control();
            let program = program(&control);
            let evaluation = evaluate(
                stored,
                message,
                &Context {
                    control: &control,
                    program: &program,
                    lease: self.has_lease(),
                    now_ms: now_ms(),
                    fault: self.watch.fault(),
                },
            )?;
            let Evaluation {
                agent,
                grant,
                unsure,
            } = evaluation;
            if unsure && now_ms() - self.led_since(group) < HOLD_MS {
                return None;
            }
            if grant.is_some() {
                self.granted(group);
            }
            if stored == Some(&agent) {
                // A retry repeats an offer without an entry that the group could fence: look at the floor here.
                let fenced = self.watch.fault() != Some(Fault::FenceForgotten);
                if grant.is_some() && fenced && ledger.floor > program.epoch.0 {
                    sleep_ms(50).await;
                    continue;
                }
                return Some(grant);
            }
            let epoch = if grant.is_some() { program.epoch.0 } else { 0 };
            let reported = agent.reported;
            let change = self.record(message.agent, version, agent, epoch);
            match self.propose_here(group, change).await {
                Ok((_, Outcome::Stored(_))) => {
                    self.watch.note(Fact::Heard {
                        group,
                        agent: message.agent,
                        number: message.number,
                        reported,
                    });
                    // Checked before proposing and again after commit: a lease that ran out in between authorises
                    // nothing.
                    if grant.is_some() && !self.has_lease() {
                        self.take_back(group, message).await;
                        return Some(None);
                    }
                    return Some(grant);
                }
                Ok((_, Outcome::Conflict(_))) => {}
                Ok((_, Outcome::StaleEpoch(_) | Outcome::Nothing)) => sleep_ms(50).await,
                Err(NoAnswer::NotLeader(_) | NoAnswer::Unknown) => return None,
            }
        }
        None
    }

    fn led_since(&self, group: GroupId) -> u64 {
        let memory = self.leaders.lock();
        memory.leads.get(&group).map_or(0, |lead| lead.since_ms)
    }

    fn granted(&self, group: GroupId) {
        let mut memory = self.leaders.lock();
        let lead = memory.leads.entry(group).or_default();
        lead.last_grant_ms = lead.last_grant_ms.max(now_ms());
    }

    /// What was granted to this message was not written: it was not offered, and is due again.
    pub async fn take_back(&self, group: GroupId, message: &Message) {
        for _ in 0..TRIES {
            let ledger = self.group(group).view().1;
            let (version, Some(stored)) = ledger.agent(message.agent) else {
                return;
            };
            let mut agent = stored.clone();
            let last = agent.delivery.as_mut();
            let Some(last) =
                last.filter(|last| last.asking == message.number && last.state == State::Offered)
            else {
                return;
            };
            last.state = State::Withdrawn;
            last.grants = last.grants.saturating_sub(1);
            let change = self.record(message.agent, version, agent, 0);
            if !matches!(
                self.propose_here(group, change).await,
                Ok((_, Outcome::Conflict(_)))
            ) {
                return;
            }
        }
    }

    /// Answers when no offer of an older program can be written any more: new ones are refused by the group, and the
    /// grants that are out have run out.
    pub async fn raise_floor(&self, group: GroupId, epoch: u64) -> Option<()> {
        if !self.leads(group) {
            return None;
        }
        let change = Change {
            id: self.watch.next_change(),
            raise_floor: epoch,
            at_ms: now_ms(),
            ..Change::default()
        };
        self.propose_here(group, change).await.ok()?;
        let over = self.leaders.lock().leads.get(&group)?.last_grant_ms + GRANT_LIFE_MS;
        sleep_ms(over.saturating_sub(now_ms())).await;
        Some(())
    }
}
