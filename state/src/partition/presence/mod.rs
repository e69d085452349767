//! What a partition leader knows of its agents that is never replicated: who is there, where each conversation stands,
//! who has something pending. `step`-like: every method takes the time and returns what is to be done.

mod budget;
mod full_state;
mod grace;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::edge::Presence;
use proto::sequence::Digest;
use proto::uid::Uid;

use self::budget::Budgets;
use self::full_state::FullAsks;
use self::grace::Grace;
use crate::rising::Rising;

pub use self::full_state::FULL_ASKS_PER_S;

/// Two backward jumps within so many intervals tell that two agents use one uid.
const DUPLICATE_INTERVALS: u64 = 10;

/// An agent as heard.
#[derive(Clone, Copy, Debug)]
struct Live {
    number: u64,
    digest: Digest,
    /// Monotonic.
    seen_ms: u64,
    connection: u64,
    /// That served it last.
    gateway: u32,
    /// The connection has not been told to have ended.
    open: bool,
    full_asked_ms: Option<u64>,
    /// Backward jumps from another connection, and when the first was.
    backs: u8,
    back_ms: u64,
}

/// What was said, and where it came in.
struct Said {
    number: u64,
    digest: Digest,
    connection: u64,
    open: bool,
    gateway: u32,
}

/// What two gateways say of one agent may be under way for so long, and come in the wrong order.
const UNDER_WAY_MS: u64 = 5_000;

/// What is late by that is not so many messages behind: a client of a lower number has begun anew.
const UNDER_WAY_MAX: u64 = 10;

/// Ages and clocks are whole milliseconds: of two messages in a moment the later one may seem to be older by so much.
const ROUNDED_MS: u64 = 2;

/// Timing of liveness.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Expected time between two messages of an agent.
    pub interval_ms: u64,
    /// Silent for so long: lost.
    pub lost_after_ms: u64,
}

/// Sans-I/O: no clock, no channel.
pub struct Core {
    timing: Timing,
    /// In order, so that all of it can be held against a list in one walk.
    live: BTreeMap<Uid, Live>,
    budgets: Budgets,
    full_asks: FullAsks,
    led_from_ms: u64,
    grace: Grace,
}

// === impl Core ===

impl Core {
    /// A leader that has just begun at `now_ms`: nobody is lost before a whole grace period.
    pub fn new(timing: Timing, now_ms: u64) -> Self {
        Core {
            timing,
            live: BTreeMap::new(),
            budgets: Budgets::default(),
            full_asks: FullAsks::default(),
            led_from_ms: now_ms,
            grace: Grace::from(now_ms),
        }
    }

    /// Begins to lead: everybody has a whole grace period to be heard, also who is known, since this node may have been
    /// cut off until now. Where conversations stand holds.
    pub fn begin(&mut self, now_ms: u64) {
        self.led_from_ms = now_ms;
        self.grace.begin(now_ms);
        self.full_asks.begin();
    }

    /// Looks for who is lost, after it has done so before. This node may have stood still in between and heard nobody:
    /// then everybody has a grace period.
    pub fn looks(&mut self, before_ms: u64, now_ms: u64) {
        self.grace
            .looks(before_ms, now_ms, self.timing.lost_after_ms);
    }

    /// A gateway can be heard from now on, or cannot be for now. When it is back it says at once where its conversations
    /// stand and how old each is, so that little more time is needed then.
    pub fn gateway_is_here(&mut self, gateway: &str, here: bool, now_ms: u64) {
        let gateway = self.grace.gateway(gateway);
        self.grace
            .is_here(gateway, here, now_ms, self.timing.lost_after_ms);
    }

    /// For how long it has been led here.
    pub fn led_for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.led_from_ms)
    }

    /// The gateway that holds the agent's session, if it is another one.
    pub fn holder(&self, uid: Uid, gateway: &str) -> Option<Arc<str>> {
        let live = self.live.get(&uid)?;
        let holder = self.grace.name(live.gateway)?;
        (!holder.is_empty() && &**holder != gateway).then(|| holder.clone())
    }

    /// Agents spoke without saying anything new. Answers of whom nothing later is known, and whether the connection has
    /// ended since, if it was a WebSocket: what was said before a goodbye
    /// may arrive after it. `leads`: this node does, and has handled itself whatever was new since.
    pub fn heard(
        &mut self,
        gateway: &str,
        batch: &[Presence],
        leads: bool,
        now_ms: u64,
    ) -> Vec<(Uid, bool)> {
        let gateway = self.grace.gateway(gateway);
        let led_from_ms = self.led_from_ms;
        let mut uids = Vec::with_capacity(batch.len());
        for presence in batch {
            let Ok(uid) = Uid::from_wire(&presence.instance_uid) else {
                continue;
            };
            let digest = presence.digest.as_ref().try_into().unwrap_or_default();
            let seen_ms = now_ms.saturating_sub(presence.age_ms.into());
            // What a gateway says of an agent that another one serves by now is news only if it goes further. How long ago
            // it was cannot be told exactly enough, as it has been under way. Much later, or far behind, it is a client that
            // began anew.
            let elsewhere = |live: &&Live| {
                let late = || {
                    live.number - presence.number <= UNDER_WAY_MAX
                        && seen_ms < live.seen_ms + UNDER_WAY_MS
                };
                live.gateway != gateway
                    && live.number >= presence.number
                    && (leads && live.seen_ms >= led_from_ms || late())
            };
            if let Some(live) = self.live.get(&uid).filter(elsewhere).copied() {
                // The same message, repeated elsewhere: whoever serves the agent, it was there.
                if (live.number, live.digest) == (presence.number, digest)
                    && let Some(live) = self.live.get_mut(&uid)
                {
                    live.seen_ms = live.seen_ms.max(seen_ms);
                }
                continue;
            }
            let said = Said {
                number: presence.number,
                digest,
                connection: presence.connection,
                open: !presence.closed,
                gateway,
            };
            if self.note(uid, said, seen_ms) {
                uids.push((uid, presence.closed));
            }
        }
        uids
    }

    /// A message with something new was handled, by this gateway and connection.
    pub fn handled(
        &mut self,
        uid: Uid,
        number: u64,
        digest: Digest,
        by: (&str, u64),
        asked_full: bool,
        now_ms: u64,
    ) {
        let said = Said {
            number,
            digest,
            connection: by.1,
            open: true,
            gateway: self.grace.gateway(by.0),
        };
        self.note(uid, said, now_ms);
        if asked_full && let Some(live) = self.live.get_mut(&uid) {
            live.full_asked_ms = Some(now_ms);
        }
    }

    /// Whether this is the latest that is known, and news: gateways name an agent for each message, also for the goodbye
    /// that was handled already.
    fn note(&mut self, uid: Uid, said: Said, seen_ms: u64) -> bool {
        let Said {
            number,
            digest,
            connection,
            open,
            gateway,
        } = said;
        let before = self.last(uid);
        let live = self.live.entry(uid).or_insert(Live {
            number,
            digest,
            seen_ms,
            connection,
            gateway,
            open,
            full_asked_ms: None,
            backs: 0,
            back_ms: 0,
        });
        let latest =
            seen_ms >= live.seen_ms || number > live.number && seen_ms + ROUNDED_MS >= live.seen_ms;
        if latest {
            let seen_ms = seen_ms.max(live.seen_ms);
            (live.number, live.digest, live.seen_ms) = (number, digest, seen_ms);
            (live.connection, live.gateway) = (connection, gateway);
            live.open = open;
        }
        latest && before != Some((number, digest))
    }

    /// Does this message tell that two agents use one uid? Numbers that go back, from another connection, without a
    /// fresh start, twice in ten intervals.
    pub fn sees_double(
        &mut self,
        uid: Uid,
        number: u64,
        connection: u64,
        fresh: bool,
        now_ms: u64,
    ) -> bool {
        let window = DUPLICATE_INTERVALS * self.timing.interval_ms;
        let Some(live) = self.live.get_mut(&uid) else {
            return false;
        };
        if fresh || connection == live.connection || number >= live.number {
            return false;
        }
        if now_ms.saturating_sub(live.back_ms) > window {
            (live.backs, live.back_ms) = (0, now_ms);
        }
        live.backs = live.backs.saturating_add(1);
        live.backs >= 2
    }

    /// Last number and digest heard.
    pub fn last(&self, uid: Uid) -> Option<(u64, Digest)> {
        self.live.get(&uid).map(|live| (live.number, live.digest))
    }

    /// A connection ended, in whatever way.
    pub fn closed(&mut self, uid: Uid, connection: u64) {
        if let Some(live) = self
            .live
            .get_mut(&uid)
            .filter(|live| live.connection == connection)
        {
            live.open = false;
        }
    }

    /// A gateway is gone, and its connections with it. Its agents have a grace period to come elsewhere.
    pub fn gateway_gone(&mut self, gateway: &str, now_ms: u64) {
        let gateway = self.grace.gateway(gateway);
        self.grace.is_gone(gateway, now_ms);
        for live in self
            .live
            .values_mut()
            .filter(|live| live.gateway == gateway)
        {
            live.open = false;
        }
    }

    /// Is the connection open that was heard last? It is the sign of life of agents that promise no heartbeats.
    pub fn is_open(&self, uid: Uid) -> bool {
        self.live.get(&uid).is_some_and(|live| live.open)
    }

    /// The connection that was heard last.
    pub fn connection(&self, uid: Uid) -> Option<u64> {
        self.live.get(&uid).map(|live| live.connection)
    }

    /// How long ago full state was asked for.
    pub fn full_asked_ms_ago(&self, uid: Uid, now_ms: u64) -> Option<u64> {
        self.live
            .get(&uid)?
            .full_asked_ms
            .map(|at| now_ms.saturating_sub(at))
    }

    /// How long ago the agent was heard; since this node leads if not yet.
    pub fn age_ms(&self, uid: Uid, now_ms: u64) -> u64 {
        let seen = self.live.get(&uid).map(|live| live.seen_ms);
        now_ms.saturating_sub(seen.unwrap_or(self.led_from_ms))
    }

    /// When each of these agents, which come in rising order, was heard, since this node leads if not yet; and whether the
    /// connection that was heard last is open.
    pub fn heard_at(&self, uids: &[Uid]) -> Vec<(u64, bool)> {
        let mut live = Rising::of(&self.live);
        let heard = |uid: &Uid| match live.find(uid) {
            Some(live) => (live.seen_ms, live.open),
            None => (self.led_from_ms, false),
        };
        uids.iter().map(heard).collect()
    }

    /// Has it been silent for too long, of a time in which it could be heard?
    pub fn is_lost(&self, uid: Uid, now_ms: u64) -> bool {
        let live = self.live.get(&uid);
        let since_ms = self.grace.since_ms(live.map(|live| live.gateway));
        let seen_ms = live.map_or(0, |live| live.seen_ms);
        since_ms.is_some_and(|since| {
            now_ms.saturating_sub(seen_ms.max(since)) >= self.timing.lost_after_ms
        })
    }

    /// May a change that can wait be written? It can if the agent's state is asked for in full later.
    pub fn may_write(&mut self, uid: Uid, now_ms: u64) -> bool {
        self.budgets.may_write(uid, now_ms)
    }

    /// Such a change was written, and not only tried.
    pub fn wrote(&mut self, uid: Uid) {
        self.budgets.wrote(uid);
    }

    /// How many changes were skipped of an agent that may write again: once, for they are told and asked for now.
    pub fn owed(&mut self, uid: Uid, now_ms: u64) -> Option<u64> {
        self.budgets.owed(uid, now_ms)
    }

    /// Is there something that this agent has not been asked for: skipped changes, or its full state? Its next message
    /// must come here.
    pub fn is_owed(&self, uid: Uid) -> bool {
        self.budgets.owes(uid) || self.has_lost(uid)
    }

    /// Has a loss been seen of it, for which it is still to be asked?
    pub fn has_lost(&self, uid: Uid) -> bool {
        self.full_asks.is_postponed(uid)
    }

    /// May an agent be asked for full state now? It uses up what there is.
    pub fn may_ask_full(&mut self, now_ms: u64) -> bool {
        self.full_asks.may_ask(now_ms)
    }

    /// Its loss was seen, and it is asked later; or it was asked, or has told everything.
    pub fn postpone_full(&mut self, uid: Uid, postponed: bool) {
        self.full_asks.postpone(uid, postponed);
    }

    /// It has told everything: a loss from now on is a new one.
    pub fn told_full(&mut self, uid: Uid) {
        if let Some(live) = self.live.get_mut(&uid) {
            live.full_asked_ms = None;
        }
    }

    /// Agents that are still to be asked for full state.
    pub fn full_asks_postponed(&self) -> usize {
        self.full_asks.postponed()
    }

    /// Forgets budgets that are whole again.
    pub fn rest(&mut self, now_ms: u64) {
        self.budgets.rest(now_ms);
    }

    /// Everything heard, to be written down by a clean stop: uid, number, digest, age.
    pub fn conversations(&self, now_ms: u64) -> impl Iterator<Item = (Uid, u64, Digest, u64)> {
        self.live.iter().map(move |(uid, live)| {
            (
                *uid,
                live.number,
                live.digest,
                now_ms.saturating_sub(live.seen_ms),
            )
        })
    }

    /// The agent's record is gone.
    pub fn forget(&mut self, uid: Uid) {
        self.live.remove(&uid);
        self.budgets.forget(uid);
        self.full_asks.postpone(uid, false);
    }
}

#[cfg(test)]
mod tests;
