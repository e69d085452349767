//! Who is there: what presence tells, held against the records.

use fleet::offer::on_time;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Link};
use proto::uid::Uid;

use super::merge::{link_word, transition};
use super::presence::Core;
use crate::inventory::{Columns, Row};

/// An agent that promises no heartbeats: while its WebSocket stands, silence says nothing.
pub fn is_quiet(row: &Row) -> bool {
    row.websocket && !row.can(AgentCapabilities::ReportsHeartbeat)
}

/// Those of the agents that were heard, and whether their connection has ended since, whose records say that they are
/// not there.
pub fn back(columns: &Columns, heard: Vec<(Uid, bool)>) -> Vec<Uid> {
    let is_back = |(uid, closed): &(Uid, bool)| {
        let row = columns.rows.get(uid);
        row.is_some_and(|row| {
            row.link != Link::Connected && !row.alias && !(*closed && row.websocket)
        })
    };
    let back = heard.into_iter().filter(is_back);
    back.map(|(uid, _)| uid).collect()
}

/// Agents whose records say that they are there, and whether silence says nothing while their connection stands.
pub fn connected(columns: &Columns) -> Vec<(Uid, bool)> {
    let rows = columns.rows.values();
    let connected = rows.filter(|row| row.link == Link::Connected && !row.alias);
    connected.map(|row| (row.uid, is_quiet(row))).collect()
}

/// Those of them that have been silent for too long.
pub fn lost(core: &Core, connected: Vec<(Uid, bool)>, now_ms: u64) -> Vec<Uid> {
    let is_lost =
        |(uid, quiet): &(Uid, bool)| core.is_lost(*uid, now_ms) && !(*quiet && core.is_open(*uid));
    let lost = connected.into_iter().filter(is_lost);
    lost.map(|(uid, _)| uid).collect()
}

/// Agents with an offer whose time has passed.
pub fn late(columns: &Columns, wall_ms: u64, offer_timeout_ms: u64) -> Vec<Uid> {
    let is_late = |row: &&Row| {
        let offer = row.offer(wall_ms);
        offer.is_some_and(|offer| on_time(&offer, offer_timeout_ms).is_some())
    };
    let rows = columns.rows.values().filter(is_late);
    rows.map(|row| row.uid).collect()
}

/// Writes down whether an agent is there. None: its record says so already.
pub fn link(
    agent: &mut store::Agent,
    link: Link,
    detail: &str,
    now_ms: u64,
) -> Option<store::Transition> {
    if agent.link() == link {
        return None;
    }
    let (from, word) = (link_word(agent.link()), link_word(link));
    agent.link = link.into();
    agent.link_since_ms = now_ms;
    Some(transition(now_ms, word, from, word, detail))
}
