//! What one report means: the new record, what to write, what to answer. A function of its arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::digest::Digest;
use fleet::family::ConfigMap;
use fleet::offer::{self, State};
use fleet::program::{Desired, Epoch, Place, Program};
use fleet::restored::Doubt;
use fleet::selector::Facts;
use proto::edge::{Report, Transport};
use proto::opamp::{AgentCapabilities, AgentToServer, ServerToAgent};
use proto::sequence::{Digest as MessageDigest, Verdict, is_fresh, judge};
use proto::store::{self, Act, DeliveryState, Link, Write};
use proto::uid::Uid;

mod decide;
mod delivery;
mod doubt;
mod said;

pub(super) use decide::changes_owner;
pub use said::history_key;

use super::body::{Redacted, Remembered};
use super::merge::{Merged, link_word, merge, transition};
use crate::control::digest;
use crate::inventory::{Build, reported};
use crate::ledger::act;

/// AcceptsStatus, OffersRemoteConfig, AcceptsEffectiveConfig: what is really served.
pub const SERVER_CAPABILITIES: u64 = 0x7;

/// Full state is asked for at most so often by one agent's losses.
pub const FULL_STATE_PAUSE_MS: u64 = 30_000;

/// What is known around the report.
pub struct Context<'a> {
    /// By which everything is decided.
    pub program: &'a Program,
    /// The agent's place in an open rollout.
    pub place: Option<Place<'a>>,
    /// May offers be authorised now: is the program lease valid?
    pub lease: bool,
    /// Can what is answered reach the agent? Not when only time has passed.
    pub replies: bool,
    /// Labels that the token binds to an agent that enrols now.
    pub token_labels: &'a BTreeMap<String, String>,
    /// Last number and digest heard through presence.
    pub heard: Option<(u64, MessageDigest)>,
    /// So many changes were not written, for its write budget was spent: its whole state is asked for now.
    pub skipped: Option<u64>,
    /// Full state was asked for so long ago.
    pub full_asked_ms_ago: Option<u64>,
    /// A loss was seen before, and full state was not asked for.
    pub has_lost: bool,
    /// May full state be asked for now, as far as the whole partition goes?
    pub may_ask_full: &'a dyn Fn() -> bool,
    /// Config map by delivery hash, if it is one of the program's.
    pub config: &'a dyn Fn(&store::Delivery) -> Option<ConfigMap>,
    /// Config map of what is desired.
    pub desired_config: &'a dyn Fn(&Desired) -> Option<ConfigMap>,
    /// Does this family send once more what an agent has drifted from?
    pub re_offers: &'a dyn Fn(&str) -> bool,
    /// Is there room for this offer? It is taken, if there is.
    pub has_room: &'a dyn Fn(&Desired, &dyn Facts) -> bool,
    /// Bodies that are kept already.
    pub remembered: &'a Remembered,
    /// Is the component list with this hash kept?
    pub knows_components: &'a dyn Fn(&[u8]) -> bool,
    /// The component list with this hash, if it is kept.
    pub build: &'a dyn Fn(&[u8]) -> Option<Arc<Build>>,
    /// Unanswered offers of this age are closed.
    pub offer_timeout_ms: u64,
    /// Wall clock.
    pub now_ms: u64,
    /// A uid for an agent that asks for one; in the same slot.
    pub new_uid: Uid,
    /// This report comes from another stream than the one before: two agents with one uid, seen twice.
    pub duplicate: bool,
}

/// What follows from a report.
pub struct Evaluation {
    /// Stored before anything is answered; none: nothing changed.
    pub entry: Option<store::Entry>,
    /// Only health, attributes or the effective config changed: it may be skipped, and asked for later.
    pub can_wait: bool,
    /// To be remembered of its bodies once it is stored.
    pub learned: Vec<(Digest, Redacted)>,
    /// The answers, in order.
    pub replies: Vec<ServerToAgent>,
    /// An offer is among them.
    pub offers: bool,
    /// Something more is waiting for the agent.
    pub pending: bool,
    /// It was answered with an offer before, which may not be repeated now: the same is to be asked again.
    pub unsure: bool,
    /// The agent has said everything: a loss from now on is a new one.
    pub told_all: bool,
    /// Full state is asked for in the answer.
    pub asks_full: bool,
    /// Full state is needed, and it is not this agent's turn to be asked.
    pub asks_full_later: bool,
    /// The agent gets this uid.
    pub new_uid: Option<Uid>,
    /// Said goodbye: close when answered.
    pub goodbye: bool,
    /// Last stated capabilities.
    pub capabilities: u64,
    /// The program it was decided by.
    pub epoch: Epoch,
}

/// Evaluates one report against the stored record and its version (0 = none).
pub fn evaluate(
    uid: Uid,
    report: &Report,
    stored: Option<(u64, &store::Agent)>,
    tombstone: Option<&store::Agent>,
    ctx: &Context<'_>,
) -> Evaluation {
    let message = report.message.as_ref();
    let verdict = message.map(|m| verdict(report, m, stored, ctx));
    let mut turn = Turn::begin(uid, report, stored, tombstone, ctx);
    match message {
        // After a restore the message that this seems to repeat is one of yesterday.
        Some(message) if verdict == Some(Verdict::Retry) && turn.doubt() != Doubt::Unheard => {
            // Where it is still asked, this message was no answer to that.
            turn.full = !turn.agent.full_asked && turn.says_all(message);
            return turn.again(|offer| offer.number == message.sequence_num);
        }
        Some(message) => turn.hear(message, verdict.unwrap_or(Verdict::Next)),
        None if turn.was_asked() => return turn.again(|_| true),
        None => {}
    }
    turn.answer()
}

fn verdict(
    report: &Report,
    message: &AgentToServer,
    stored: Option<(u64, &store::Agent)>,
    ctx: &Context<'_>,
) -> Verdict {
    let digest: MessageDigest = report.digest.as_ref().try_into().unwrap_or_default();
    let session = report
        .session
        .as_ref()
        .and_then(|s| Some((s.number, s.digest.as_ref().try_into().ok()?)));
    let recorded = stored
        .and_then(|(_, agent)| Some((agent.number, agent.digest.as_slice().try_into().ok()?)));
    let last = session.or(ctx.heard).or(recorded);
    // The answer to a message that was handled may have been lost before the gateway's session learned of it. Not all of
    // them are in the record: it is not written for one that changes nothing.
    let mut handled = recorded.into_iter().chain(ctx.heard);
    let repeated = handled.find(|one| *one == (message.sequence_num, digest));
    let last = repeated.or(last);
    judge(
        last.as_ref().map(|(number, digest)| (*number, digest)),
        message.sequence_num,
        &digest,
        is_fresh(message),
    )
}

struct Turn<'a> {
    uid: Uid,
    version: u64,
    before: Option<&'a store::Agent>,
    agent: store::Agent,
    report: &'a Report,
    ctx: &'a Context<'a>,
    merged: Merged,
    writes: Vec<Write>,
    acts: Vec<Act>,
    /// It has said all that there is to say of what it runs.
    full: bool,
    asks_full: bool,
    asks_full_later: bool,
    offer: Option<(Digest, ConfigMap)>,
    /// The offer goes once more, since the agent has drifted from it.
    again: bool,
    restart: bool,
    new_uid: Option<Uid>,
}

impl<'a> Turn<'a> {
    fn begin(
        uid: Uid,
        report: &'a Report,
        stored: Option<(u64, &'a store::Agent)>,
        tombstone: Option<&store::Agent>,
        ctx: &'a Context<'a>,
    ) -> Self {
        let fresh = || store::Agent {
            uid: uid.as_bytes().to_vec(),
            first_seen_ms: ctx.now_ms,
            token: report.token.clone(),
            token_labels: ctx.token_labels.clone(),
            refused: tombstone.map(|t| t.refused.clone()).unwrap_or_default(),
            ..store::Agent::default()
        };
        Turn {
            uid,
            version: stored.map_or(0, |(version, _)| version),
            before: stored.map(|(_, agent)| agent),
            agent: stored.map_or_else(fresh, |(_, agent)| agent.clone()),
            report,
            ctx,
            merged: Merged::default(),
            writes: Vec::new(),
            acts: Vec::new(),
            full: false,
            asks_full: false,
            asks_full_later: ctx.has_lost,
            offer: None,
            again: false,
            restart: false,
            new_uid: None,
        }
    }

    /// Has this asking of a gateway, without a message of the agent's, been answered with the last offer?
    fn was_asked(&self) -> bool {
        let offer = self.agent.delivery.as_ref();
        offer.is_some_and(|offer| {
            offer.state() == DeliveryState::Offered
                && !offer.asking.is_empty()
                && *offer.asking == *self.report.digest
        })
    }

    /// The same once more: the same answer, unless what it offered has been withdrawn.
    fn again(mut self, is_answer: impl Fn(&store::Delivery) -> bool) -> Evaluation {
        // Also by the leader before: its answer may have been lost with it.
        self.asks_full = self.agent.full_asked;
        self.asks_full_later = self.ctx.has_lost && !self.full;
        if !self.agent.alias_of.is_empty() {
            self.new_uid = Uid::from_wire(&self.agent.alias_of).ok();
        }
        let desired = self.desired();
        let delivery = self.agent.delivery.clone().unwrap_or_default();
        let offered = delivery.state() == DeliveryState::Offered && is_answer(&delivery);
        if offered {
            let wanted =
                desired.delivery.map(|d| d.as_bytes().to_vec()) == Some(delivery.hash.clone());
            if wanted && desired.offerable && self.ctx.lease {
                self.offer = (self.ctx.desired_config)(&desired)
                    .map(|config| (digest(&delivery.hash), config));
            } else if !wanted || !desired.offerable {
                self.set_delivery_state(State::Withdrawn, "");
            }
        }
        let outstanding = self.agent.delivery.as_ref().map(store::Delivery::state);
        let outstanding = offered && outstanding == Some(DeliveryState::Offered);
        let mut evaluation = self.finish();
        // What else waits was not looked at: its next message has to come here.
        evaluation.pending |= !evaluation.offers;
        evaluation.unsure = outstanding && !evaluation.offers;
        evaluation
    }

    fn hear(&mut self, message: &AgentToServer, verdict: Verdict) {
        let ctx = self.ctx;
        let asks_uid =
            message.flags & proto::opamp::AgentToServerFlags::RequestInstanceUid as u64 != 0;
        if asks_uid {
            // Asking again is no reason for a second identity.
            let asked_before = Uid::from_wire(&self.agent.alias_of);
            if asked_before.is_err() {
                self.reassigned(ctx.new_uid);
            }
            self.new_uid = Some(asked_before.unwrap_or(ctx.new_uid));
        }
        if self.agent.duplicate {
            // Two agents speak with this uid: what either says is not the other's. `muster agents retry` ends it.
            self.asks_full_later = false;
            self.agent.number = message.sequence_num;
            self.agent.digest = self.report.digest.to_vec();
            return;
        }
        // A description alone is no answer to a loss: what was lost may have been something else.
        self.full = self.says_all(message);
        let known = !self.agent.attributes.is_empty();
        let lost = verdict == Verdict::Lost || !known || ctx.has_lost;
        let unheard = self.doubt() == Doubt::Unheard && !self.full;
        let asked_ms_ago = ctx.full_asked_ms_ago;
        let needed = lost && !self.full || unheard;
        let rested = asked_ms_ago.is_none_or(|ago| ago >= FULL_STATE_PAUSE_MS);
        // Whose next message may be days away is asked now.
        let heartbeats = AgentCapabilities::ReportsHeartbeat as u64;
        let quiet = self.report.transport() == Transport::Websocket
            && self.agent.capabilities & heartbeats == 0;
        self.asks_full = needed && rested && (quiet || (ctx.may_ask_full)());
        self.asks_full_later = needed && !self.asks_full;
        if self.full {
            self.agent.full_asked = false;
        }
        self.agent.number = message.sequence_num;
        self.agent.digest = self.report.digest.to_vec();
        self.agent.last_seen_ms = ctx.now_ms;
        self.agent.peer.clone_from(&self.report.peer);
        self.agent.transport = match self.report.transport() {
            Transport::Websocket => "websocket".to_owned(),
            _ => "http".to_owned(),
        };
        let reported_before = self.reported_hash();
        self.merged = merge(
            &mut self.agent,
            self.uid,
            message,
            ctx.remembered,
            ctx.now_ms,
        );
        if let Some(skipped) = ctx.skipped {
            self.asks_full |= !self.full;
            self.merged.transitions.push(transition(
                ctx.now_ms,
                "changes skipped",
                "",
                "",
                &format!("{skipped} changes came faster than they are written down"),
            ));
        }
        self.connect();
        if ctx.duplicate && !self.agent.duplicate {
            self.agent.duplicate = true;
            self.act(
                "partition",
                "agent.duplicate",
                format!(
                    "two agents speak with this uid; the later one from {}",
                    self.report.peer
                ),
            );
            self.merged.transitions.push(transition(
                ctx.now_ms,
                "duplicate uid",
                "",
                "",
                &self.report.peer,
            ));
            if self.agent.reassigned_to.is_empty() {
                self.agent.reassigned_to = ctx.new_uid.as_bytes().to_vec();
                self.new_uid = Some(ctx.new_uid);
                self.reassigned(ctx.new_uid);
            }
        }
        self.judge_record(reported_before);
        self.judge_delivery();
    }

    /// Does this message say what the agent runs, if only by silence? A description may also come alone, since only that
    /// has changed.
    fn says_all(&self, message: &AgentToServer) -> bool {
        let capabilities = match message.capabilities {
            0 => self.agent.capabilities,
            stated => stated,
        };
        let says = |capability: AgentCapabilities, said: bool| {
            said || capabilities & capability as u64 == 0
        };
        let asked = self.agent.full_asked && self.ctx.full_asked_ms_ago.is_some();
        let whole = says(
            AgentCapabilities::ReportsRemoteConfig,
            message.remote_config_status.is_some(),
        ) && says(AgentCapabilities::ReportsHealth, message.health.is_some())
            && says(
                AgentCapabilities::ReportsEffectiveConfig,
                message.effective_config.is_some(),
            );
        message.agent_description.is_some() && (asked || is_fresh(message) || whole)
    }

    fn reported_hash(&self) -> Option<Digest> {
        let reported = self.agent.status.as_ref().and_then(reported);
        reported.map(|(hash, _)| hash)
    }

    fn reassigned(&mut self, new_uid: Uid) {
        self.act(
            "partition",
            "agent.reassign",
            format!("is told to go by {new_uid}"),
        );
    }

    fn connect(&mut self) {
        let before = self.agent.link();
        let now = if self.merged.goodbye {
            Link::Left
        } else {
            Link::Connected
        };
        if before == now {
            return;
        }
        self.merged.transitions.push(transition(
            self.ctx.now_ms,
            link_word(now),
            link_word(before),
            link_word(now),
            &self.report.peer,
        ));
        self.agent.link = now.into();
        self.agent.link_since_ms = self.ctx.now_ms;
    }

    fn answer(mut self) -> Evaluation {
        if let Some(last) = self.last_offer()
            && let Some(next) = offer::on_time(&last, self.ctx.offer_timeout_ms)
        {
            self.set_delivery_state(next, "");
        }
        let mut pending = false;
        if !self.merged.goodbye
            && self.new_uid.is_none()
            && self.agent.alias_of.is_empty()
            && !self.agent.attributes.is_empty()
        {
            pending = self.decide();
        }
        self.converge();
        if self.agent.restart_pending
            && self.accepts_restart()
            && self.ctx.replies
            && !self.merged.goodbye
        {
            self.restart = true;
            self.agent.restart_pending = false;
            self.agent.restart_sent_ms = self.ctx.now_ms;
            self.act("partition", "restart.send", String::new());
        }
        // It has to be asked what it runs, and is only when it says something: then its gateway must not answer for us.
        pending |= self.report.message.is_none() && self.doubt() == Doubt::Unheard;
        let mut evaluation = self.finish();
        evaluation.pending |= pending;
        evaluation
    }

    /// For the audit chain, about this agent.
    fn act(&mut self, actor: &str, action: &str, detail: String) {
        let object = format!("agent/{}", self.uid);
        let act = act(actor, action, object, detail, self.ctx.now_ms);
        self.acts.push(act);
    }
}

#[cfg(test)]
mod tests;
