//! The sessions of one shard: what the last message of each agent was and how it was answered.
//!
//! No clock and no I/O: a step takes what happened and the time, and returns what is to be done. The order of one
//! agent's messages is kept outside (`turns`).
//!
//! Invariants: a number advances only with an answer; an answer that carried an offer is never repeated from here;
//! another token, or another WebSocket connection, is never answered from here.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use proto::edge;
use proto::sequence::Digest;
use proto::uid::Uid;

use crate::opamp::reply::Reply;

/// Milliseconds since the gateway started, on its monotonic clock.
pub type Millis = u64;

/// One agent's message, as far as a session cares.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    pub uid: Uid,
    pub number: u64,
    pub digest: Digest,
    /// Zero when not stated.
    pub capabilities: u64,
    /// Nothing in it but "still here".
    pub bare: bool,
    /// Who says so: a number for the token's name.
    pub speaker: u64,
    pub connection: u64,
    pub websocket: bool,
    /// The leader of the agent's partition was heard lately.
    pub in_contact: bool,
}

/// How a message is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// With the plain reply; the session has moved on.
    Plain,
    /// A retry: with what was answered before.
    Repeat(Arc<Vec<Reply>>),
    /// The leader must see it, with what the session knows.
    Report(Option<edge::Session>),
}

/// What a leader's answer leaves behind.
#[derive(Debug)]
pub struct Settled {
    pub session: edge::Session,
    pub speaker: u64,
    pub connection: u64,
    /// What the message was answered; none: what was answered before stays (a push).
    pub sent: Option<Vec<Reply>>,
    /// Said while the report was under way.
    pub noticed: Noticed,
}

/// Notices that came while a report was under way. They may be newer than its answer, so they win.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    pub pending: bool,
    pub dropped: bool,
    pub recalled: bool,
}

/// How the last message may be answered if it comes again.
#[derive(Clone, Debug)]
enum Last {
    Plain,
    Stored(Arc<Vec<Reply>>),
    /// It carried an offer, or is not known: the leader decides.
    Ask,
}

#[derive(Debug)]
struct Session {
    number: u64,
    digest: Digest,
    capabilities: u64,
    connection: u64,
    speaker: u64,
    seen: Millis,
    last: Last,
    pending: bool,
    /// As in [`edge::Session`].
    lost: bool,
    /// Spoke since the last presence batch.
    spoke: bool,
}

/// The sessions of one shard.
#[derive(Debug)]
pub struct Table {
    sessions: HashMap<Uid, Session, RandomState>,
    spoken: Vec<Uid>,
    sessions_max: usize,
    evicted: u64,
}

// === impl Table ===

impl Table {
    /// Holds up to `sessions_max` sessions, at least one.
    pub fn new(sessions_max: usize) -> Self {
        Table {
            sessions: HashMap::default(),
            spoken: Vec::new(),
            sessions_max: sessions_max.max(1),
            evicted: 0,
        }
    }

    /// A message came.
    pub fn hear(&mut self, heard: &Heard, now: Millis) -> Decision {
        let Some(session) = self.sessions.get_mut(&heard.uid) else {
            return Decision::Report(None);
        };
        let mine = heard.in_contact
            && heard.speaker == session.speaker
            && (!heard.websocket || heard.connection == session.connection);
        if !mine {
            return Decision::Report(Some(session.known()));
        }
        if heard.number == session.number && heard.digest == session.digest {
            // It is there, and nobody else is told.
            session.spoken(heard.uid, now, &mut self.spoken);
            return match &session.last {
                Last::Plain => Decision::Plain,
                Last::Stored(replies) => Decision::Repeat(replies.clone()),
                Last::Ask => Decision::Report(Some(session.known())),
            };
        }
        let quiet =
            heard.bare && (heard.capabilities == 0 || heard.capabilities == session.capabilities);
        if !quiet || session.pending || heard.number != session.number.wrapping_add(1) {
            return Decision::Report(Some(session.known()));
        }
        session.number = heard.number;
        session.digest = heard.digest;
        session.connection = heard.connection;
        session.last = Last::Plain;
        session.spoken(heard.uid, now, &mut self.spoken);
        Decision::Plain
    }

    /// What is known of an agent, for a report without a message.
    pub fn known(&self, uid: &Uid) -> Option<edge::Session> {
        self.sessions.get(uid).map(Session::known)
    }

    /// A leader answered. What it says of the session holds, except where a notice overtook it.
    pub fn settle(&mut self, uid: Uid, settled: Settled, now: Millis) {
        let Settled {
            session,
            speaker,
            connection,
            sent,
            noticed,
        } = settled;
        let before = self.sessions.remove(&uid);
        let Ok(digest) = Digest::try_from(&session.digest[..]) else {
            return;
        };
        if noticed.dropped {
            return;
        }
        let spoke = before.as_ref().is_some_and(|before| before.spoke);
        let last = match (sent, before) {
            _ if noticed.recalled => Last::Ask,
            (Some(sent), _) => Last::of(sent),
            (None, Some(before)) => before.last,
            (None, None) => Last::Ask,
        };
        let kept = Session {
            number: session.number,
            digest,
            capabilities: session.capabilities,
            connection,
            speaker,
            seen: now,
            last,
            pending: session.pending || noticed.pending,
            lost: session.lost,
            spoke: true,
        };
        if !spoke {
            self.spoken.push(uid);
        }
        self.make_room();
        self.sessions.insert(uid, kept);
    }

    /// The leader has something for the agent. Says whether the agent is known here.
    pub fn set_pending(&mut self, uid: &Uid) -> bool {
        self.sessions
            .get_mut(uid)
            .map(|session| session.pending = true)
            .is_some()
    }

    /// Forgets an agent.
    pub fn forget(&mut self, uid: &Uid) {
        self.sessions.remove(uid);
    }

    /// Forgets what an agent was answered last: an offer in it has been withdrawn.
    pub fn recall(&mut self, uid: &Uid) {
        if let Some(session) = self.sessions.get_mut(uid) {
            session.last = Last::Ask;
        }
    }

    /// The agents that spoke since the last call.
    pub fn presence(&mut self, now: Millis, batch: &mut Vec<edge::Presence>) {
        for uid in self.spoken.drain(..) {
            let Some(session) = self.sessions.get_mut(&uid) else {
                continue;
            };
            if std::mem::take(&mut session.spoke) {
                batch.push(session.presence(&uid, now));
            }
        }
    }

    /// Where the conversation with an agent stands.
    pub fn stood(&self, uid: &Uid, now: Millis) -> Option<edge::Presence> {
        self.sessions
            .get(uid)
            .map(|session| session.presence(uid, now))
    }

    /// Where all conversations stand.
    pub fn all(&self, now: Millis) -> impl Iterator<Item = (&Uid, edge::Presence)> {
        self.sessions
            .iter()
            .map(move |(uid, session)| (uid, session.presence(uid, now)))
    }

    /// Drops what was not used since `before`.
    pub fn sweep(&mut self, before: Millis) {
        self.sessions.retain(|_, session| session.seen >= before);
        if self.sessions.capacity() > 64 && self.sessions.capacity() > 4 * self.sessions.len() {
            self.sessions.shrink_to_fit();
        }
    }

    /// Sessions held.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Holds none?
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Sessions given up for others since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Gives up the longest unused of a few, which is near enough to the longest unused of all.
    fn make_room(&mut self) {
        if self.sessions.len() < self.sessions_max {
            return;
        }
        let oldest = self
            .sessions
            .iter()
            .take(16)
            .min_by_key(|(_, session)| session.seen)
            .map(|(uid, _)| *uid);
        if let Some(uid) = oldest {
            self.sessions.remove(&uid);
            self.evicted += 1;
        }
    }
}

// === impl Session ===

impl Session {
    /// It has just been heard, and is in the next presence batch.
    fn spoken(&mut self, uid: Uid, now: Millis, spoken: &mut Vec<Uid>) {
        self.seen = now;
        if !std::mem::replace(&mut self.spoke, true) {
            spoken.push(uid);
        }
    }

    fn presence(&self, uid: &Uid, now: Millis) -> edge::Presence {
        edge::Presence {
            instance_uid: uid.as_bytes().to_vec().into(),
            number: self.number,
            digest: self.digest.to_vec().into(),
            age_ms: u32::try_from(now.saturating_sub(self.seen)).unwrap_or(u32::MAX),
            connection: self.connection,
            closed: false,
        }
    }

    fn known(&self) -> edge::Session {
        edge::Session {
            number: self.number,
            digest: self.digest.to_vec().into(),
            pending: self.pending,
            capabilities: self.capabilities,
            lost: self.lost,
        }
    }
}

// === impl Last ===

impl Last {
    fn of(sent: Vec<Reply>) -> Self {
        match sent.as_slice() {
            _ if sent.iter().any(Reply::is_offer) => Last::Ask,
            [only] if only.is_plain() => Last::Plain,
            _ => Last::Stored(Arc::new(sent)),
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
