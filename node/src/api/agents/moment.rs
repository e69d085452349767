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
        let uids = self.chosen(&request.uids, selector)?;
        if uids.len() > AGENTS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} agents are named, and one answer has at most {AGENTS_MAX}: narrow the selector",
                uids.len()
            )));
        }
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
mod tests {
    use super::*;

    fn at(at_ms: u64, kind: &str, from: &str, detail: &str) -> Transition {
        Transition {
            at_ms,
            kind: kind.to_owned(),
            from: from.to_owned(),
            to: kind.to_owned(),
            detail: detail.to_owned(),
        }
    }

    /// Registered at 100, revision 1 applied at 130, revision 2 failed at 230, went back at 240, lost at 300.
    fn life() -> Vec<Transition> {
        vec![
            at(100, "healthy", "", ""),
            at(100, "connected", "", "10.0.0.1:9"),
            at(110, "offered", "", "aaaaaaaaaaaa web/agent r1"),
            at(120, "applying", "offered", "aaaaaaaaaaaa "),
            at(130, "applied", "applying", "aaaaaaaaaaaa "),
            at(200, "labelled", "", "env=prod"),
            at(210, "offered", "", "bbbbbbbbbbbb web/agent r2"),
            at(220, "unhealthy", "healthy", "exit code 1"),
            at(230, "failed", "offered", "bbbbbbbbbbbb bad exporter"),
            at(240, "rolled back by the agent", "failed", "bbbbbbbbbbbb "),
            at(250, "healthy", "unhealthy", ""),
            at(300, "lost", "connected", "silent"),
        ]
    }

    fn now() -> Present {
        Present {
            first_seen_ms: 100,
            link: "lost".into(),
            health: "healthy".into(),
            ran: Ran {
                hash: "bbbbbbbbbbbb".into(),
                family: "web".into(),
                role: "agent".into(),
                revision: 2,
                state: "rolled back by the agent".into(),
                since_ms: 240,
            },
        }
    }

    fn line(agent: &AgentAt) -> String {
        format!(
            "{}, {}, {}/{} r{} {} since {}{}",
            agent.link,
            agent.health,
            agent.family,
            agent.role,
            agent.revision,
            agent.state,
            agent.since_ms,
            if agent.note.is_empty() {
                String::new()
            } else {
                format!(" ({})", agent.note)
            }
        )
    }

    fn told(history: &[Transition], kept_from_ms: u64, at_ms: u64) -> String {
        line(&replay(history, Some(&now()), kept_from_ms, at_ms))
    }

    #[test]
    fn each_time_has_what_the_transitions_before_it_tell() {
        let expected = [
            (105, "connected, healthy, / r0  since 0"),
            (110, "connected, healthy, web/agent r1 offered since 110"),
            (205, "connected, healthy, web/agent r1 applied since 130"),
            (235, "connected, unhealthy, web/agent r2 failed since 230"),
            (
                299,
                "connected, healthy, web/agent r2 rolled back by the agent since 240",
            ),
            (
                900,
                "lost, healthy, web/agent r2 rolled back by the agent since 240",
            ),
        ];
        for (at_ms, line) in expected {
            assert_eq!(told(&life(), 0, at_ms), line, "at {at_ms}");
        }
        let agent = replay(&life(), Some(&now()), 0, 205);
        assert_eq!(agent.delivery_hash, "aaaaaaaaaaaa");
    }

    #[test]
    fn before_it_registered_there_is_nothing() {
        assert_eq!(replay(&life(), Some(&now()), 0, 99), noted(NOT_REGISTERED));
        assert_eq!(replay(&life(), None, 0, 99), noted(NOT_REGISTERED));
    }

    #[test]
    fn an_agent_that_did_not_change_is_known_though_its_history_is_pruned() {
        let line = "lost, healthy, web/agent r2 rolled back by the agent since 240";
        assert_eq!(told(&[], 1000, 1500), line);
    }

    #[test]
    fn what_changed_later_is_told_by_where_it_came_from() {
        let pruned = &life()[8..];
        let expected = "connected, unhealthy, web/agent r2 offered since 0";
        assert_eq!(told(pruned, 225, 226), expected);
        let expected = "connected, unhealthy, web/agent r2 failed since 230";
        assert_eq!(told(pruned, 225, 235), expected);
    }

    #[test]
    fn what_is_older_than_what_is_kept_is_not_guessed() {
        let pruned = &life()[6..];
        assert_eq!(replay(pruned, Some(&now()), 500, 150), noted(TOO_OLD));
        // Every transition since is kept; what it ran before the first of them is not among them.
        let agent = replay(pruned, Some(&now()), 150, 150);
        assert_eq!(
            line(&agent),
            "connected, healthy, / r0  since 0 (older than what is kept)"
        );
        assert_eq!(replay(pruned, None, 500, 150), noted(TOO_OLD));
    }

    #[test]
    fn a_forgotten_agent_is_known_up_to_then() {
        let mut history = life();
        history.push(at(400, "forgotten", "", "alice"));
        let was = line(&replay(&history, None, 0, 399));
        assert_eq!(
            was,
            "lost, healthy, web/agent r2 rolled back by the agent since 240"
        );
        assert_eq!(replay(&history, None, 0, 400), noted(FORGOTTEN));
        history.push(at(500, "healthy", "", ""));
        history.push(at(500, "connected", "", "10.0.0.1:9"));
        let back = Present {
            first_seen_ms: 500,
            ..now()
        };
        let again = line(&replay(&history, Some(&back), 0, 510));
        assert_eq!(again, "connected, healthy, / r0  since 0");
        assert_eq!(replay(&history, Some(&back), 0, 450), noted(FORGOTTEN));
    }

    #[test]
    fn adopted_repeated_and_retried_deliveries_are_understood() {
        let mut history = life();
        history.push(at(310, "retry ordered", "", "alice"));
        assert_eq!(
            told(&history, 0, 310),
            "lost, healthy, web/agent r2 withdrawn since 310"
        );
        history.push(at(320, "adopted", "", "cccccccccccc web/agent r3"));
        history.push(at(
            330,
            "offered",
            "",
            "cccccccccccc web/agent r3, once more, since it drifted",
        ));
        assert_eq!(
            told(&history, 0, 325),
            "lost, healthy, web/agent r3 applied since 320"
        );
        assert_eq!(
            told(&history, 0, 335),
            "lost, healthy, web/agent r3 offered since 330"
        );
    }
}
