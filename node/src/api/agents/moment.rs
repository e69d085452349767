//! What ran on an agent at a time: its recorded transitions, played up to then.
//!
//! What no transition before that time tells is told by those after it: where all of them are kept, what they have not
//! changed was the same then as now. What is older than what is kept is said to be so, never guessed.

use proto::api::{self, AgentAt};
use proto::store::{self, Transition};
use proto::uid::Uid;
use tonic::Status;

use super::show::link_word;
use crate::api::{Api, broken};
use crate::inventory::state;
use crate::ledger::{now_ms, table};
use crate::partition::state_word;

/// Agents in one answer.
const AGENTS_MAX: usize = 1000;

const NOT_REGISTERED: &str = "not registered yet";
const TOO_OLD: &str = "older than what is kept";
const FORGOTTEN: &str = "forgotten";

/// An agent as its record has it now.
#[derive(Clone, Debug, Default)]
struct Present {
    first_seen_ms: u64,
    link: String,
    health: String,
    ran: Ran,
}

/// An authorised offer and where it stood; empty: nothing was ever offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ran {
    /// As transitions have it: the first twelve digits.
    hash: String,
    family: String,
    role: String,
    revision: u64,
    state: String,
    since_ms: u64,
}

/// Which part of an agent a transition is about.
enum Change {
    Registered,
    Link,
    Health,
    /// Something else was delivered.
    Delivery(Ran),
    /// What was delivered moved on.
    State,
    /// A person lets what failed be offered again.
    Retry,
    Forgotten,
    Other,
}

/// What transitions tell; none: they do not.
#[derive(Default)]
struct Told {
    link: Option<String>,
    health: Option<String>,
    ran: Option<Ran>,
    /// State of an offer whose own transition is not kept, and since when.
    state: Option<(String, u64)>,
    forgotten: bool,
}

// === impl Change ===

impl Change {
    fn of(transition: &Transition) -> Self {
        match transition.kind.as_str() {
            "connected" if transition.from.is_empty() => Change::Registered,
            "connected" | "lost" | "left" => Change::Link,
            "healthy" | "unhealthy" => Change::Health,
            "offered" => Ran::parse(transition, "offered").map_or(Change::Other, Change::Delivery),
            "adopted" => Ran::parse(transition, "applied").map_or(Change::Other, Change::Delivery),
            "applying"
            | "applied"
            | "failed"
            | "rolled back by the agent"
            | "no answer"
            | "withdrawn" => Change::State,
            "retry ordered" => Change::Retry,
            FORGOTTEN => Change::Forgotten,
            _ => Change::Other,
        }
    }
}

// === impl Ran ===

impl Ran {
    /// From `HASH family/role rN`, with or without more behind it.
    fn parse(transition: &Transition, state: &str) -> Option<Self> {
        let mut words = transition.detail.split_whitespace();
        let hash = words.next()?.to_owned();
        let (family, role) = words.next()?.split_once('/')?;
        let revision = words.next()?.trim_end_matches(',').strip_prefix('r')?;
        Some(Ran {
            hash,
            family: family.to_owned(),
            role: role.to_owned(),
            revision: revision.parse().ok()?,
            state: state.to_owned(),
            since_ms: transition.at_ms,
        })
    }
}

// === impl Told ===

impl Told {
    fn take(&mut self, transition: &Transition) {
        let kind = || transition.kind.clone();
        match Change::of(transition) {
            Change::Registered => {
                self.link = Some(kind());
                // Its health is written down before it.
                self.health.get_or_insert_default();
                self.ran = Some(Ran::default());
                self.state = None;
                self.forgotten = false;
            }
            Change::Link => self.link = Some(kind()),
            Change::Health => self.health = Some(kind()),
            Change::Delivery(ran) => {
                self.ran = Some(ran);
                self.state = None;
            }
            Change::State => self.moves(kind(), transition.at_ms),
            Change::Retry => {
                let ran = self.ran.as_ref().map(|ran| &ran.state);
                let state = ran.or(self.state.as_ref().map(|(state, _)| state));
                let failed = ["failed", "rolled back by the agent", "no answer"];
                if state.is_some_and(|state| failed.contains(&state.as_str())) {
                    self.moves("withdrawn".to_owned(), transition.at_ms);
                }
            }
            Change::Forgotten => {
                *self = Told {
                    forgotten: true,
                    ..Told::default()
                }
            }
            Change::Other => {}
        }
    }

    fn moves(&mut self, state: String, since_ms: u64) {
        match &mut self.ran {
            Some(ran) => (ran.state, ran.since_ms) = (state, since_ms),
            None => self.state = Some((state, since_ms)),
        }
    }

    /// What is not told yet, from what is now and from every transition since.
    fn complete(&mut self, after: &[&Transition], now: &Present) {
        let first = |is: fn(&Change) -> bool| after.iter().find(|t| is(&Change::of(t)));
        let was = |transition: &&Transition| Some(transition.from.clone());
        let was_told = |transition| was(transition).filter(|from| !from.is_empty());
        if self.link.is_none() {
            let next = first(|change| matches!(change, Change::Link));
            self.link = next.map_or_else(|| Some(now.link.clone()), was_told);
        }
        if self.health.is_none() {
            let next = first(|change| matches!(change, Change::Health));
            self.health = next.map_or_else(|| Some(now.health.clone()), was);
        }
        let same = first(|change| matches!(change, Change::Delivery(_))).is_none();
        if self.ran.is_none() && same {
            let next = first(|change| matches!(change, Change::State | Change::Retry));
            let before = next.map(|next| (next.from.clone(), 0));
            let mut ran = now.ran.clone();
            if let Some(then) = self.state.take().or(before) {
                (ran.state, ran.since_ms) = then;
            }
            self.ran = Some(ran);
        }
    }
}

/// The agent at this time, without its names. `history` is what is kept, oldest first: the newest part of it, and all
/// since `kept_from_ms`. `now` is its record; none: it was forgotten.
fn replay(history: &[Transition], now: Option<&Present>, kept_from_ms: u64, at_ms: u64) -> AgentAt {
    let (before, after): (Vec<&Transition>, Vec<&Transition>) =
        history.iter().partition(|t| t.at_ms <= at_ms);
    let mut told = Told::default();
    before.iter().for_each(|transition| told.take(transition));
    if told.forgotten {
        return noted(FORGOTTEN);
    }
    let record = now.filter(|now| now.first_seen_ms <= at_ms);
    if before.is_empty() && record.is_none() {
        let mut changes = after.iter().map(|transition| Change::of(transition));
        let first = changes.find(|change| !matches!(change, Change::Health | Change::Other));
        let joins_later = now.is_some() || matches!(first, Some(Change::Registered));
        return noted(if joins_later { NOT_REGISTERED } else { TOO_OLD });
    }
    let all_after = !before.is_empty() || at_ms >= kept_from_ms;
    if let Some(record) = record.filter(|_| all_after) {
        told.complete(&after, record);
    }
    let known = told.link.is_some() && told.ran.is_some();
    let (state, since_ms) = told.state.unwrap_or_default();
    let unnamed = Ran {
        state,
        since_ms,
        ..Ran::default()
    };
    let ran = told.ran.unwrap_or(unnamed);
    AgentAt {
        link: told.link.unwrap_or_default(),
        health: told.health.unwrap_or_default(),
        delivery_hash: ran.hash,
        family: ran.family,
        role: ran.role,
        revision: ran.revision,
        state: ran.state,
        since_ms: ran.since_ms,
        ..noted(if known { "" } else { TOO_OLD })
    }
}

fn check_number(agents: usize) -> Result<(), Status> {
    if agents <= AGENTS_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "{agents} agents are named, and one answer has at most {AGENTS_MAX}: narrow the selector"
    )))
}

fn noted(note: &str) -> AgentAt {
    AgentAt {
        note: note.to_owned(),
        ..AgentAt::default()
    }
}

// === impl Present ===

impl Present {
    fn of(agent: &store::Agent) -> Self {
        let health = agent.health.as_ref();
        Present {
            first_seen_ms: agent.first_seen_ms,
            link: link_word(agent.link()).to_owned(),
            health: health.map_or("", |h| health_word(h.healthy)).to_owned(),
            ran: agent.delivery.as_ref().map(ran).unwrap_or_default(),
        }
    }
}

fn health_word(healthy: bool) -> &'static str {
    match healthy {
        true => "healthy",
        false => "unhealthy",
    }
}

fn ran(delivery: &store::Delivery) -> Ran {
    Ran {
        hash: crate::control::digest(&delivery.hash).to_string(),
        family: delivery.family.clone(),
        role: delivery.role.clone(),
        revision: delivery.revision,
        state: state(delivery.state()).map_or("", state_word).to_owned(),
        since_ms: delivery.answered_ms.max(delivery.offered_ms),
    }
}

// === impl Api ===

impl Api {
    /// What ran on the named agents at a time; a time to come is now. Reads each agent's history.
    pub(super) fn moment(
        &self,
        request: &api::AgentsAtRequest,
    ) -> Result<api::AgentsAtResponse, Status> {
        if request.at_ms == 0 {
            return Err(Status::invalid_argument(
                "no time is named: give at_ms, milliseconds since 1970",
            ));
        }
        let at_ms = request.at_ms.min(now_ms());
        let all = request.uids.is_empty() && request.selector.trim().is_empty();
        let selector = if all { "*" } else { &request.selector };
        // Before names are looked up: each is looked for among all agents.
        check_number(request.uids.len())?;
        let uids = self.chosen(&request.uids, selector)?;
        check_number(uids.len())?;
        let named = !request.uids.is_empty();
        let mut agents = Vec::with_capacity(uids.len());
        for uid in uids {
            match self.one_at(uid, at_ms)? {
                Some(agent) => agents.push(agent),
                None if named => {
                    return Err(Status::not_found(format!(
                        "there is no agent {uid}, and no history of one is kept"
                    )));
                }
                // Forgotten since it was chosen.
                None => {}
            }
        }
        agents.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        Ok(api::AgentsAtResponse { at_ms, agents })
    }

    /// None: neither a record nor a history of it is kept.
    fn one_at(&self, uid: Uid, at_ms: u64) -> Result<Option<AgentAt>, Status> {
        let partition = self.node.partition(uid);
        let view = partition.ledger.view().map_err(|e| broken(&e))?;
        let record: Option<(u64, store::Agent)> = view
            .get(table::AGENT, uid.as_bytes())
            .map_err(|e| broken(&e))?;
        let history: Result<Vec<Transition>, _> = view
            .scan(table::HISTORY, uid.as_bytes())
            .map(|row| row.map(|(_, _, transition)| transition))
            .collect();
        let history = history.map_err(|e| broken(&e))?;
        if record.is_none() && history.is_empty() {
            return Ok(None);
        }
        let name = {
            let columns = partition.index().read();
            let row = columns.rows.get(&uid);
            row.map_or_else(|| uid.to_string(), crate::inventory::Row::name)
        };
        let now = record.map(|(_, agent)| Present::of(&agent));
        Ok(Some(AgentAt {
            uid: uid.to_string(),
            name,
            ..replay(&history, now.as_ref(), partition.kept_from_ms(), at_ms)
        }))
    }
}

#[cfg(test)]
mod tests;
