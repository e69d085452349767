//! What a partition leader knows of its agents that is never replicated: who is there, where each conversation stands,
//! who has something pending. `step`-like: every method takes the time and returns what is to be done.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proto::edge::Presence;
use proto::sequence::Digest;
use proto::uid::Uid;

use crate::rising::Rising;

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

/// Looks are a second apart; after so much longer this node has stood still, or is so loaded that it hears nobody in time.
const STOOD_STILL_MS: u64 = 3_000;

/// A gateway that has come back has said within this where all its conversations stand.
const INTRODUCED_MS: u64 = 10_000;

/// What two gateways say of one agent may be under way for so long, and come in the wrong order.
const UNDER_WAY_MS: u64 = 5_000;

/// An agent may change its record so often in a row, and once in [`WRITE_EVERY_MS`] in the long run.
const WRITES: u32 = 30;
const WRITE_EVERY_MS: u64 = 2_000;

/// Who has earned so many changes since has rested, and is asked for what was skipped: after 6 s of quiet.
const RESTED: u32 = 3;

/// What an agent has left of its write budget. Only agents that wrote lately have one.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    since_ms: u64,
    /// Changes that were not written.
    skipped: u64,
}

/// So many agents in a second are asked for full state, and so many at once: after a loss of power none of a million
/// conversations may be known, and each answer is some KiB to be stored.
pub const FULL_ASKS_PER_S: u64 = 500;

/// Who has lost a message and is asked for full state when it is its turn.
#[derive(Default)]
struct FullAsks {
    /// In thousandths of an ask.
    used: u64,
    since_ms: u64,
    /// Agents whose loss was seen and who were not asked.
    postponed: HashSet<Uid>,
}

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
    budgets: HashMap<Uid, Budget>,
    full_asks: FullAsks,
    led_from_ms: u64,
    /// Since then all could be heard, as far as it is for this node. Silence before proves nothing.
    listens_from_ms: u64,
    /// That were heard; an agent's is an index into it.
    gateways: Vec<Gateway>,
}

struct Gateway {
    name: Arc<str>,
    /// It has no stream to this node, and has had one lately.
    away: bool,
    /// Silence of its agents before that proves nothing.
    silent_until_ms: u64,
}

// === impl Core ===

impl Core {
    /// A leader that has just begun at `now_ms`: nobody is lost before a whole grace period.
    pub fn new(timing: Timing, now_ms: u64) -> Self {
        Core {
            timing,
            live: BTreeMap::new(),
            budgets: HashMap::new(),
            full_asks: FullAsks::default(),
            led_from_ms: now_ms,
            listens_from_ms: now_ms,
            gateways: Vec::new(),
        }
    }

    /// Begins to lead: everybody has a whole grace period to be heard, also who is known, since this node may have been
    /// cut off until now. Where conversations stand holds.
    pub fn begin(&mut self, now_ms: u64) {
        self.led_from_ms = now_ms;
        self.listens_from_ms = now_ms;
        self.full_asks.postponed.clear();
    }

    /// Looks for who is lost, after it has done so before. This node may have stood still in between and heard nobody:
    /// then everybody has a grace period.
    pub fn looks(&mut self, before_ms: u64, now_ms: u64) {
        let stood_still_ms = STOOD_STILL_MS.max(self.timing.lost_after_ms / 2);
        if now_ms.saturating_sub(before_ms) > stood_still_ms {
            self.listens_from_ms = now_ms;
        }
    }

    /// A gateway can be heard from now on, or cannot be for now. When it is back it says at once where its conversations
    /// stand and how old each is, so that little more time is needed then.
    pub fn gateway_is_here(&mut self, gateway: &str, here: bool, now_ms: u64) {
        let judged_ms = (now_ms + INTRODUCED_MS).saturating_sub(self.timing.lost_after_ms);
        let gateway = self.gateway(gateway) as usize;
        if let Some(gateway) = self.gateways.get_mut(gateway) {
            gateway.away = !here;
            if here {
                gateway.silent_until_ms = gateway.silent_until_ms.max(judged_ms);
            }
        }
    }

    /// For how long it has been led here.
    pub fn led_for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.led_from_ms)
    }

    /// The gateway that holds the agent's session, if it is another one.
    pub fn holder(&self, uid: Uid, gateway: &str) -> Option<Arc<str>> {
        let live = self.live.get(&uid)?;
        let holder = &self.gateways.get(live.gateway as usize)?.name;
        (!holder.is_empty() && &**holder != gateway).then(|| holder.clone())
    }

    /// One text for all agents of a gateway; there are few.
    fn gateway(&mut self, name: &str) -> u32 {
        let known = self.gateways.iter().position(|known| &*known.name == name);
        let at = known.unwrap_or_else(|| {
            self.gateways.push(Gateway {
                name: name.into(),
                away: false,
                silent_until_ms: 0,
            });
            self.gateways.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Agents spoke without saying anything new. Answers of whom nothing later is known, and whether the connection has
    /// ended since, if it was a WebSocket: what was said before a goodbye
    /// may arrive after it. `leads`: this node does, and has handled itself whatever was new.
    pub fn heard(
        &mut self,
        gateway: &str,
        batch: &[Presence],
        leads: bool,
        now_ms: u64,
    ) -> Vec<(Uid, bool)> {
        let gateway = self.gateway(gateway);
        let mut uids = Vec::with_capacity(batch.len());
        for presence in batch {
            let Ok(uid) = Uid::from_wire(&presence.instance_uid) else {
                continue;
            };
            let digest = presence.digest.as_ref().try_into().unwrap_or_default();
            let seen_ms = now_ms.saturating_sub(presence.age_ms.into());
            // What a gateway says of an agent that another one serves by now is news only if it goes further. How long ago
            // it was cannot be told exactly enough, as it has been under way. Much later it is a client that began anew.
            let elsewhere = |live: &&Live| {
                live.gateway != gateway
                    && live.number >= presence.number
                    && (leads || seen_ms < live.seen_ms + UNDER_WAY_MS)
            };
            if self.live.get(&uid).filter(elsewhere).is_some() {
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
            gateway: self.gateway(by.0),
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
        let latest = seen_ms >= live.seen_ms;
        if latest {
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
        let gateway = self.gateway(gateway);
        if let Some(gateway) = self.gateways.get_mut(gateway as usize) {
            (gateway.away, gateway.silent_until_ms) = (false, now_ms);
        }
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
        let gateway = live.and_then(|live| self.gateways.get(live.gateway as usize));
        let seen_ms = live.map_or(0, |live| live.seen_ms);
        let silent_until_ms = gateway.map_or(0, |gateway| gateway.silent_until_ms);
        let since_ms = seen_ms.max(silent_until_ms).max(self.listens_from_ms);
        let away = gateway.is_some_and(|gateway| gateway.away);
        !away && now_ms.saturating_sub(since_ms) >= self.timing.lost_after_ms
    }

    /// May a change that can wait be written? It can if the agent's state is asked for in full later.
    pub fn may_write(&mut self, uid: Uid, now_ms: u64) -> bool {
        let budget = self.budgets.entry(uid).or_insert(Budget {
            left: WRITES,
            since_ms: now_ms,
            skipped: 0,
        });
        budget.refill(now_ms);
        if budget.left == 0 {
            budget.skipped += 1;
            return false;
        }
        budget.left -= 1;
        true
    }

    /// How many changes were skipped of an agent that may write again: once, for they are told and asked for now.
    pub fn owed(&mut self, uid: Uid, now_ms: u64) -> Option<u64> {
        let budget = self.budgets.get_mut(&uid)?;
        budget.refill(now_ms);
        // Not at the first write that is free: an agent that goes on would be asked at every other message.
        let rested = budget.left >= RESTED && budget.skipped > 0;
        rested.then(|| std::mem::take(&mut budget.skipped))
    }

    /// Is there something that this agent has not been asked for: skipped changes, or its full state? Its next message
    /// must come here.
    pub fn is_owed(&self, uid: Uid) -> bool {
        let budget = self.budgets.get(&uid);
        budget.is_some_and(|budget| budget.skipped > 0) || self.has_lost(uid)
    }

    /// Has a loss been seen of it, for which it is still to be asked?
    pub fn has_lost(&self, uid: Uid) -> bool {
        self.full_asks.postponed.contains(&uid)
    }

    /// May an agent be asked for full state now? It uses up what there is.
    pub fn may_ask_full(&mut self, now_ms: u64) -> bool {
        let asks = &mut self.full_asks;
        let earned = now_ms
            .saturating_sub(asks.since_ms)
            .saturating_mul(FULL_ASKS_PER_S);
        asks.used = asks.used.saturating_sub(earned);
        asks.since_ms = now_ms;
        let free = asks.used + 1_000 <= FULL_ASKS_PER_S * 1_000;
        asks.used += u64::from(free) * 1_000;
        free
    }

    /// Its loss was seen, and it is asked later; or it was asked, or has told everything.
    pub fn postpone_full(&mut self, uid: Uid, postponed: bool) {
        if postponed {
            self.full_asks.postponed.insert(uid);
        } else {
            self.full_asks.postponed.remove(&uid);
        }
    }

    /// It has told everything: a loss from now on is a new one.
    pub fn told_full(&mut self, uid: Uid) {
        if let Some(live) = self.live.get_mut(&uid) {
            live.full_asked_ms = None;
        }
    }

    /// Agents that are still to be asked for full state.
    pub fn full_asks_postponed(&self) -> usize {
        self.full_asks.postponed.len()
    }

    /// Forgets budgets that are whole again.
    pub fn rest(&mut self, now_ms: u64) {
        self.budgets.retain(|_, budget| {
            budget.refill(now_ms);
            budget.left < WRITES || budget.skipped > 0
        });
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
        self.budgets.remove(&uid);
        self.full_asks.postponed.remove(&uid);
    }
}

impl Budget {
    fn refill(&mut self, now_ms: u64) {
        let earned = now_ms.saturating_sub(self.since_ms) / WRITE_EVERY_MS;
        self.since_ms += earned * WRITE_EVERY_MS;
        let earned = u32::try_from(earned).unwrap_or(WRITES);
        self.left = self.left.saturating_add(earned).min(WRITES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        interval_ms: 30_000,
        lost_after_ms: 90_000,
    };

    fn uid(n: u8) -> Uid {
        Uid::from_wire(&[n; 16]).unwrap()
    }

    #[test]
    fn an_agent_that_never_rests_writes_no_more_than_its_budget_and_owes_the_rest() {
        let mut core = Core::new(TIMING, 0);
        let written = (0..600).filter(|i| core.may_write(uid(1), i * 100)).count();
        assert_eq!(written as u64, u64::from(WRITES) + 59_900 / WRITE_EVERY_MS);
        assert!(core.may_write(uid(2), 60_000), "others are not disturbed");
        assert_eq!(core.owed(uid(1), 60_000), None, "it has not rested");
        let rested = 60_000 + u64::from(WRITES) * WRITE_EVERY_MS;
        assert_eq!(core.owed(uid(1), rested), Some(600 - written as u64));
        assert_eq!(core.owed(uid(1), rested), None, "it is told once");
        core.rest(rested);
        assert!(core.budgets.is_empty(), "nothing is kept of those who rest");
    }

    #[test]
    fn no_more_agents_are_asked_for_full_state_in_a_second_than_can_be_stored() {
        let mut core = Core::new(TIMING, 0);
        let asked =
            |core: &mut Core, now_ms| (0..2_000).filter(|_| core.may_ask_full(now_ms)).count();
        assert_eq!(asked(&mut core, 10_000), FULL_ASKS_PER_S as usize);
        assert_eq!(asked(&mut core, 10_000), 0);
        assert_eq!(asked(&mut core, 10_100), FULL_ASKS_PER_S as usize / 10);
        core.postpone_full(uid(1), true);
        assert!(core.is_owed(uid(1)) && core.has_lost(uid(1)));
        core.postpone_full(uid(1), false);
        assert!(!core.is_owed(uid(1)));
        core.postpone_full(uid(2), true);
        core.begin(20_000);
        assert!(
            !core.has_lost(uid(2)),
            "another leader has heard it meanwhile"
        );
    }

    #[test]
    fn nobody_is_lost_before_the_grace_period_ends() {
        let core = Core::new(TIMING, 1_000);
        assert!(!core.is_lost(uid(1), 90_999));
        assert!(core.is_lost(uid(1), 91_000));
    }

    #[test]
    fn nobody_is_lost_for_a_silence_in_which_nobody_could_be_heard() {
        let mut core = Core::new(TIMING, 0);
        core.handled(uid(1), 1, [0; 16], ("a", 1), false, 1_000);
        core.handled(uid(2), 1, [0; 16], ("b", 1), false, 1_000);
        assert!(core.is_lost(uid(1), 91_000));
        // The stream of one gateway ends again and again, and is made again.
        for at in [5_000, 60_000, 120_000] {
            core.gateway_is_here("a", false, at);
            assert!(!core.is_lost(uid(1), at + 5_000));
            core.gateway_is_here("a", true, at + 5_000);
            assert!(!core.is_lost(uid(1), at + 5_000 + INTRODUCED_MS - 1));
        }
        assert!(core.is_lost(uid(1), 125_000 + INTRODUCED_MS));
        assert!(core.is_lost(uid(2), 91_000), "it was heard all the time");
        core.gateway_is_here("a", false, 140_000);
        core.gateway_gone("a", 150_000);
        assert!(!core.is_lost(uid(1), 239_999), "it may come elsewhere");
        assert!(core.is_lost(uid(1), 240_000));
        // This node looked every second, and then stood still.
        core.looks(89_000, 90_000);
        assert!(core.is_lost(uid(2), 91_000));
        core.looks(90_000, 200_000);
        assert!(!core.is_lost(uid(2), 289_999));
        assert!(core.is_lost(uid(2), 290_000));
        // It leads again, after others have led who heard more.
        core.begin(300_000);
        assert!(!core.is_lost(uid(2), 389_999));
        assert!(core.is_lost(uid(2), 390_000));
        assert_eq!(core.age_ms(uid(2), 390_000), 389_000, "that is as it was");
    }

    #[test]
    fn a_connection_that_has_ended_is_not_open_for_being_told_of() {
        let mut core = Core::new(TIMING, 0);
        let told = |agent: u8, closed| Presence {
            instance_uid: vec![agent; 16].into(),
            number: 3,
            digest: vec![3; 16].into(),
            age_ms: 0,
            connection: 1,
            closed,
        };
        core.heard("a", &[told(1, false), told(2, true)], true, 1_000);
        assert!(core.is_open(uid(1)));
        assert!(!core.is_open(uid(2)));
        assert_eq!(core.last(uid(2)), Some((3, [3; 16])));
    }

    #[test]
    fn what_a_gateway_says_late_of_an_agent_that_has_moved_on_is_no_news() {
        let mut core = Core::new(TIMING, 0);
        core.handled(uid(1), 5, [5; 16], ("b", 2), false, 1_000);
        let said = |number: u8, age_ms| Presence {
            instance_uid: vec![1; 16].into(),
            number: number.into(),
            digest: vec![number; 16].into(),
            age_ms,
            connection: 1,
            closed: false,
        };
        // Said before, and so long under way that it looks later.
        core.heard("a", &[said(4, 0)], true, 1_200);
        assert_eq!(core.last(uid(1)), Some((5, [5; 16])));
        assert_eq!(core.holder(uid(1), "b"), None);
        core.heard("a", &[said(6, 0)], true, 1_300);
        assert_eq!(core.last(uid(1)), Some((6, [6; 16])), "it has come back");
        assert_eq!(core.holder(uid(1), "b").as_deref(), Some("a"));
    }

    #[test]
    fn a_client_that_began_anew_at_another_gateway_is_heard_by_replicas_that_do_not_lead() {
        let mut core = Core::new(TIMING, 0);
        let said = |number| Presence {
            instance_uid: vec![1; 16].into(),
            number,
            digest: vec![1; 16].into(),
            age_ms: 0,
            connection: 1,
            closed: false,
        };
        core.heard("a", &[said(400)], false, 1_000);
        // Only the leader has handled its first message.
        core.heard("b", &[said(2)], false, 1_000 + UNDER_WAY_MS);
        assert_eq!(core.last(uid(1)).map(|(number, _)| number), Some(2));
        assert_eq!(core.age_ms(uid(1), 7_000), 1_000);
    }

    #[test]
    fn connections_of_a_gateway_that_is_gone_are_closed_and_those_of_others_are_not() {
        let mut core = Core::new(TIMING, 0);
        core.handled(uid(1), 1, [0; 16], ("a", 1), false, 0);
        core.handled(uid(2), 1, [0; 16], ("b", 1), false, 0);
        assert_eq!(core.holder(uid(1), "b").as_deref(), Some("a"));
        assert_eq!(core.holder(uid(1), "a"), None);
        core.gateway_gone("a", 0);
        assert!(!core.is_open(uid(1)));
        assert!(core.is_open(uid(2)));
        core.handled(uid(1), 2, [0; 16], ("b", 2), false, 1_000);
        assert!(core.is_open(uid(1)), "it has come elsewhere");
        assert_eq!(core.holder(uid(1), "b"), None);
    }

    #[test]
    fn late_news_do_not_undo_newer_ones() {
        let mut core = Core::new(TIMING, 0);
        core.handled(uid(1), 8, [8; 16], ("g", 1), false, 5_000);
        let old = Presence {
            instance_uid: vec![1; 16].into(),
            number: 7,
            digest: vec![7; 16].into(),
            age_ms: 3_000,
            connection: 1,
            closed: false,
        };
        assert_eq!(
            core.heard("g", &[old], true, 6_000),
            [],
            "an agent that has left since is not back"
        );
        let goodbye = Presence {
            instance_uid: vec![1; 16].into(),
            number: 8,
            digest: vec![8; 16].into(),
            age_ms: 0,
            connection: 1,
            closed: false,
        };
        assert_eq!(
            core.heard("g", &[goodbye], true, 6_000),
            [],
            "nor by its goodbye"
        );
        assert_eq!(core.last(uid(1)), Some((8, [8; 16])));
    }

    #[test]
    fn two_streams_with_one_uid_are_seen_at_their_second_step_back() {
        let mut core = Core::new(TIMING, 0);
        core.handled(uid(1), 50, [0; 16], ("g", 1), false, 0);
        assert!(!core.sees_double(uid(1), 3, 2, false, 1_000));
        core.handled(uid(1), 3, [1; 16], ("g", 2), false, 1_000);
        assert!(!core.sees_double(uid(1), 51, 1, false, 2_000));
        core.handled(uid(1), 51, [2; 16], ("g", 1), false, 2_000);
        assert!(core.sees_double(uid(1), 4, 2, false, 3_000));
    }

    #[test]
    fn one_agent_that_starts_anew_is_not_double() {
        let mut core = Core::new(TIMING, 0);
        core.handled(uid(1), 50, [0; 16], ("g", 1), false, 0);
        for at in 1..5 {
            assert!(!core.sees_double(uid(1), 0, 2 + at, true, at * 1_000));
            core.handled(uid(1), 0, [1; 16], ("g", 2 + at), false, at * 1_000);
            core.handled(uid(1), 40, [1; 16], ("g", 2 + at), false, at * 1_000);
        }
    }
}
