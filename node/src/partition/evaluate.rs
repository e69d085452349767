//! What one report means: the new record, what to write, what to answer. A function of its arguments.

use std::collections::BTreeMap;

use fleet::consistency::{Consistency, compare};
use fleet::digest::Digest;
use fleet::family::ConfigMap;
use fleet::offer::{self, Decision, Reported, Situation, State, Why};
use fleet::program::{Desired, Epoch, Place, Program, Reason, Subject, Whose, desired};
use fleet::restored::{Doubt, is_conflict};
use fleet::selector::Facts;
use proto::edge::{Report, Transport};
use proto::opamp::{AgentCapabilities, AgentToServer, ServerToAgent, ServerToAgentFlags};
use proto::sequence::{Digest as MessageDigest, Verdict, is_fresh, judge};
use proto::store::{self, Act, DeliveryState, Link, Match, Write};
use proto::uid::Uid;

use super::body::{Redacted, Remembered};
use super::merge::{Merged, attribute, cut, link_word, merge, transition};
use crate::drift::{self, Last, Seen};
use crate::inventory::{
    BRIDGE, is_healthy, reported, resolved, reverted, state, stored_state, word,
};
use crate::ledger::{act, put, put_any, table};

/// AcceptsStatus, OffersRemoteConfig, AcceptsEffectiveConfig: what is really served.
pub const SERVER_CAPABILITIES: u64 = 0x7;

/// A restart within so long after an order to restart is that order's.
const ORDERED_RESTART_MS: u64 = 120_000;

/// Deliveries that an agent has applied before its last one and that are remembered: a snapshot is seldom older.
const EARLIER_MAX: usize = 8;

/// Behind what is said of an offer that repeats what the agent had applied.
const ONCE_MORE: &str = ", once more, since it drifted";

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
    // The answer to a stored message may have been lost before the gateway's session learned of it.
    let last = recorded
        .filter(|r| *r == (message.sequence_num, digest))
        .or(last);
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
    full: bool,
    /// It has said all that there is to say of what it runs.
    says_all: bool,
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
            says_all: false,
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
        self.asks_full = self.agent.full_asked && self.ctx.full_asked_ms_ago.is_some();
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
                    .map(|config| (super::digest(&delivery.hash), config));
            } else if !wanted || !desired.offerable {
                self.set_delivery_state(State::Withdrawn, "");
            }
        }
        let outstanding = self.agent.delivery.as_ref().map(store::Delivery::state);
        let outstanding = offered && outstanding == Some(DeliveryState::Offered);
        let mut evaluation = self.finish();
        evaluation.pending |= offered && !evaluation.offers;
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
        self.full = message.agent_description.is_some();
        let known = !self.agent.attributes.is_empty();
        let lost = verdict == Verdict::Lost || !known || ctx.has_lost;
        self.says_all = self.says_all(message);
        let unheard = self.doubt() == Doubt::Unheard && !self.says_all;
        let asked_ms_ago = ctx.full_asked_ms_ago;
        let needed = (lost && !self.full || unheard)
            && asked_ms_ago.is_none_or(|ago| ago >= FULL_STATE_PAUSE_MS);
        // Whose next message may be days away is asked now.
        let heartbeats = AgentCapabilities::ReportsHeartbeat as u64;
        let quiet = self.report.transport() == Transport::Websocket
            && self.agent.capabilities & heartbeats == 0;
        self.asks_full = needed && (quiet || (ctx.may_ask_full)());
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
            self.acts.push(act(
                "partition",
                "agent.duplicate",
                format!("agent/{}", self.uid),
                format!(
                    "two agents speak with this uid; the later one from {}",
                    self.report.peer
                ),
            ));
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

    /// What a restore has left open about this agent.
    fn doubt(&self) -> Doubt {
        word(&self.agent).doubt(self.ctx.program.epoch.incarnation())
    }

    /// Does this message say what the agent runs, if only by silence? A description may also come alone, since only that
    /// has changed.
    fn says_all(&self, message: &AgentToServer) -> bool {
        let capabilities = match message.capabilities {
            0 => self.agent.capabilities,
            stated => stated,
        };
        let reports = capabilities & AgentCapabilities::ReportsRemoteConfig as u64 != 0;
        let asked = self.agent.full_asked && self.ctx.full_asked_ms_ago.is_some();
        let whole = asked || is_fresh(message) || !reports;
        message.agent_description.is_some() && (whole || message.remote_config_status.is_some())
    }

    fn reported_hash(&self) -> Option<Digest> {
        let reported = self.agent.status.as_ref().and_then(reported);
        reported.map(|(hash, _)| hash)
    }

    /// Is its record older than what it runs? Asked when it is first heard in full after a restore, and of a conflict each
    /// time that it says what it runs.
    fn judge_record(&mut self, reported_before: Option<Digest>) {
        let doubt = self.doubt();
        let recorded = match doubt {
            // What was found to be a conflict is not known because it was said twice.
            Doubt::Unheard if self.says_all || self.merged.status => {
                reported_before.filter(|hash| self.agent.conflict != hash.as_bytes())
            }
            Doubt::Conflict(_) if self.merged.status => None,
            Doubt::None | Doubt::Unheard | Doubt::Conflict(_) => return,
        };
        let (reported, desired) = (self.reported_hash(), self.desired().delivery);
        let recorded = recorded.into_iter().chain(recorded_hashes(&self.agent));
        let conflict = reported.filter(|_| is_conflict(reported, recorded, desired));
        if self.says_all || doubt != Doubt::Unheard {
            self.agent.heard_in = self.ctx.program.epoch.incarnation().into();
        }
        self.set_conflict(conflict);
    }

    fn set_conflict(&mut self, conflict: Option<Digest>) {
        let next = conflict.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
        let before = std::mem::replace(&mut self.agent.conflict, next);
        if before == self.agent.conflict {
            return;
        }
        let (action, word, detail) = match conflict {
            Some(hash) => (
                "agent.conflict",
                "conflict",
                format!("it runs {hash}, which this server never offered to it"),
            ),
            None => (
                "agent.conflict-over",
                "conflict over",
                "it runs what this server knows of it again".to_owned(),
            ),
        };
        self.acts.push(act(
            "partition",
            action,
            format!("agent/{}", self.uid),
            detail.clone(),
        ));
        self.merged
            .transitions
            .push(transition(self.ctx.now_ms, word, "", "", &detail));
    }

    fn reassigned(&mut self, new_uid: Uid) {
        self.acts.push(act(
            "partition",
            "agent.reassign",
            format!("agent/{}", self.uid),
            format!("is told to go by {new_uid}"),
        ));
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

    /// Moves the last offer by what the agent said.
    fn judge_delivery(&mut self) {
        let Some(mut delivery) = self.agent.delivery.clone() else {
            return;
        };
        if self.merged.restarted && delivery.state() == DeliveryState::Applied {
            // One that a person ordered says nothing about the config.
            let ordered = std::mem::take(&mut self.agent.restart_sent_ms);
            let is_ordered = ordered != 0 && self.ctx.now_ms < ordered + ORDERED_RESTART_MS;
            delivery.restarts += u32::from(!is_ordered);
        }
        if let Some(effective) = &self.merged.effective {
            delivery.effective = self.match_of(&delivery, effective).into();
        }
        self.agent.delivery = Some(delivery);
        if !self.merged.status {
            return;
        }
        let Some((hash, status)) = self.agent.status.as_ref().and_then(reported) else {
            return;
        };
        let Some(last) = self.last_offer() else {
            return;
        };
        if let Some(next) = offer::on_report(&last, hash, status) {
            let error = self
                .agent
                .status
                .as_ref()
                .map(|s| s.error.clone())
                .unwrap_or_default();
            self.set_delivery_state(next, &error);
        }
    }

    fn match_of(&self, delivery: &store::Delivery, effective: &fleet::value::Value) -> Match {
        let Some(config) = (self.ctx.config)(delivery) else {
            return Match::Unknown;
        };
        match merged_config(&config).map(|sent| compare(&sent, effective)) {
            Some(Consistency::Agrees) => Match::Yes,
            Some(Consistency::Contradicts) => Match::No,
            Some(Consistency::Unknown) | None => Match::Unknown,
        }
    }

    fn last_offer(&self) -> Option<offer::Offer> {
        let d = self.agent.delivery.as_ref()?;
        let age_ms = self.ctx.now_ms.saturating_sub(d.offered_ms);
        Some(offer::Offer {
            hash: Digest::from_slice(&d.hash)?,
            state: state(d.state())?,
            grants: d.offers,
            age_ms,
        })
    }

    /// Moves the offer, remembers a refusal, and writes both down.
    fn set_delivery_state(&mut self, next: State, error: &str) {
        let now = self.ctx.now_ms;
        let Some(delivery) = self.agent.delivery.as_mut() else {
            return;
        };
        let before = delivery.state();
        let next_stored = stored_state(next);
        if before == next_stored {
            return;
        }
        delivery.state = next_stored.into();
        if matches!(
            next,
            State::Applied | State::Failed | State::RolledBackByAgent
        ) {
            delivery.answered_ms = now;
        }
        if next == State::Failed {
            delivery.error = cut(error, 1024);
        }
        let (hash, epoch) = (delivery.hash.clone(), delivery.epoch);
        let short = super::digest(&hash).to_string();
        if next == State::Failed && !self.agent.refused.iter().any(|r| r.hash == hash) {
            self.agent.refused.push(store::Refusal {
                hash,
                why: cut(error, 512),
                at_ms: now,
                epoch,
            });
        }
        let word = state_word(next);
        self.merged.transitions.push(transition(
            now,
            word,
            state_word_stored(before),
            word,
            &format!("{short} {error}"),
        ));
        let detail = if error.is_empty() {
            short
        } else {
            format!("{short}: {}", cut(error, 300))
        };
        self.acts.push(act(
            "agent",
            &format!("config.{}", word.replace(' ', "-")),
            format!("agent/{}", self.uid),
            detail,
        ));
    }

    fn desired(&self) -> Desired {
        let facts = RecordFacts(&self.agent);
        let delivery = self.agent.delivery.as_ref();
        let whose = whose(&self.agent);
        let subject = Subject {
            uid: *self.uid.as_bytes(),
            owned_since: delivery.map(|d| Epoch(d.owned_since)),
            granted: whose.granted,
            resolved: whose.resolved,
            stopped: self.agent.stopped,
            facts: &facts,
            owner: whose.owner,
            delivery: delivery.and_then(|d| Digest::from_slice(&d.hash)),
            delivered_in: delivery.map_or("", |d| d.rollout.as_str()),
            place: self.ctx.place,
        };
        desired(&subject, self.ctx.program)
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
            self.acts.push(act(
                "partition",
                "restart.send",
                format!("agent/{}", self.uid),
                String::new(),
            ));
        }
        let mut evaluation = self.finish();
        evaluation.pending |= pending;
        evaluation
    }

    /// Offers, adopts, or leaves it. True: something is due that may not be sent yet.
    fn decide(&mut self) -> bool {
        let desired = self.desired();
        let refused: Vec<Digest> = self
            .agent
            .refused
            .iter()
            .filter_map(|r| Digest::from_slice(&r.hash))
            .collect();
        let last = self.last_offer();
        let reported_now = self.agent.status.as_ref().and_then(reported);
        let offered_ms = self.agent.delivery.as_ref().map_or(0, |d| d.offered_ms);
        let names_another = reported_now.is_none_or(|(hash, _)| Some(hash) != last.map(|l| l.hash));
        let owner = owner(&self.agent);
        let situation = Situation {
            desired: desired.delivery,
            offerable: desired.offerable,
            last,
            reported: reported_now,
            refused: &refused,
            accepts: self.agent.capabilities & AgentCapabilities::AcceptsRemoteConfig as u64 != 0,
            many_collectors: attribute(&self.agent, "service.name") == BRIDGE,
            duplicate: self.agent.duplicate,
            doubt: self.doubt(),
            changes_owner: changes_owner(owner, &desired),
            has_room: true,
            proves_not_received: self.full
                && names_another
                && reported_now.is_some()
                && self.agent.started_ms != 0
                && self.agent.started_ms < offered_ms,
        };
        let decision = match offer::decide(&situation) {
            Decision::Nothing(Why::Settled) => self.once_more(&desired, &situation),
            decided => decided,
        };
        match decision {
            Decision::Nothing(_) => false,
            Decision::Adopt(hash) => {
                self.deliver(&desired, hash, State::Applied);
                false
            }
            // A command travels alone over HTTP; what is offered now would not be sent.
            Decision::Offer(_) if !self.ctx.lease || self.restarts_first() || self.is_silent() => {
                true
            }
            Decision::Offer(hash) => {
                if !(self.ctx.has_room)(&desired, &RecordFacts(&self.agent)) {
                    return true;
                }
                // Never an empty map: that is an order to stop the collector, and only a person gives it.
                let config = (self.ctx.desired_config)(&desired)
                    .filter(|c| says_something(c) || desired.reason == Reason::Stopped);
                let Some(config) = config else { return false };
                self.deliver(&desired, hash, State::Offered);
                self.offer = Some((hash, config));
                false
            }
        }
    }

    /// What it settled on is sent once more, where it has drifted from it and its family says so.
    fn once_more(&mut self, desired: &Desired, situation: &Situation<'_>) -> Decision {
        let seen = Seen {
            identity: drift::identity(situation.duplicate, || reverted(&self.agent)),
            healthy: is_healthy(&self.agent),
            reported: situation.reported,
            last: self.agent.delivery.as_ref().and_then(Last::stored),
            refused: situation.refused,
        };
        let policy = desired.owner.as_ref();
        let policy = policy.is_some_and(|(family, _)| (self.ctx.re_offers)(family));
        let hash = desired.delivery.filter(|_| policy && situation.offerable);
        let hash = hash.filter(|_| drift::heals(&seen, desired));
        self.again = hash.is_some();
        hash.map_or(Decision::Nothing(Why::Settled), Decision::Offer)
    }

    /// Writes down when the delivery was first applied by a healthy agent. What comes later does not unsay it.
    fn converge(&mut self) {
        let reported_now = self.agent.status.as_ref().and_then(reported);
        let sound = is_healthy(&self.agent) && !self.agent.duplicate;
        let Some(delivery) = &mut self.agent.delivery else {
            return;
        };
        let names_it = reported_now == Some((super::digest(&delivery.hash), Reported::Applied));
        let applied = delivery.state() == DeliveryState::Applied && names_it;
        if delivery.converged_ms == 0 && sound && applied && delivery.effective() != Match::No {
            delivery.converged_ms = self.ctx.now_ms;
        }
    }

    fn restarts_first(&self) -> bool {
        self.agent.restart_pending
            && self.accepts_restart()
            && self.report.transport() != Transport::Websocket
    }

    /// Nothing was heard of it for long: what is pushed now it may never read, and it would count as vanished.
    fn is_silent(&self) -> bool {
        self.report.message.is_none() && self.agent.link() != Link::Connected
    }

    fn accepts_restart(&self) -> bool {
        self.agent.capabilities & AgentCapabilities::AcceptsRestartCommand as u64 != 0
    }

    fn deliver(&mut self, desired: &Desired, hash: Digest, state: State) {
        let Some((family, role)) = desired.owner.clone() else {
            return;
        };
        self.set_conflict(None);
        let before = self.agent.delivery.take();
        let same = before.clone().filter(|b| b.hash == hash.as_bytes());
        let rollout = rollout_of(&desired.reason);
        let revision = desired.revision.map_or(0, |r| r.0);
        let verb = if state == State::Offered {
            "offer.grant"
        } else {
            "offer.adopt"
        };
        let detail = format!(
            "{family}/{role} revision {revision} ({hash}) in rollout {}{}",
            if rollout.is_empty() { "none" } else { &rollout },
            if self.again { ONCE_MORE } else { "" }
        );
        self.acts.push(act(
            "partition",
            verb,
            format!("agent/{}", self.uid),
            detail,
        ));
        let word = if state == State::Offered {
            "offered"
        } else {
            "adopted"
        };
        self.merged.transitions.push(transition(
            self.ctx.now_ms,
            word,
            "",
            word,
            &format!(
                "{hash} {family}/{role} r{revision}{}",
                if self.again { ONCE_MORE } else { "" }
            ),
        ));
        let effective = same
            .as_ref()
            .map_or(Match::Unknown, store::Delivery::effective);
        let earlier = before.as_ref().map_or_else(Vec::new, |b| earlier(b, hash));
        // What a person has resolved is done.
        if before
            .as_ref()
            .is_none_or(|b| (&b.family, &b.role) != (&family, &role))
        {
            self.agent.granted = None;
        }
        self.agent.delivery = Some(store::Delivery {
            hash: hash.as_bytes().to_vec(),
            state: stored_state(state).into(),
            family,
            role,
            revision,
            rollout,
            epoch: self.ctx.program.epoch.0,
            owned_since: before
                .as_ref()
                .filter(|b| b.family == desired.owner.as_ref().map_or("", |(family, _)| family))
                .map_or(self.ctx.program.epoch.0, |b| b.owned_since),
            offered_ms: self.ctx.now_ms,
            answered_ms: if state == State::Offered {
                0
            } else {
                self.ctx.now_ms
            },
            offers: same.as_ref().map_or(0, |b| b.offers) + 1,
            was_healthy: is_healthy(&self.agent),
            error: String::new(),
            effective: effective.into(),
            converged_ms: same.as_ref().map_or(0, |b| b.converged_ms),
            previous: match same.as_ref().filter(|_| self.again) {
                Some(again) => again.previous.clone(),
                None => before.map(|b| b.hash).unwrap_or_default(),
            },
            earlier,
            number: self.agent.number,
            asking: match self.report.message {
                Some(_) => vec![],
                None => self.report.digest.to_vec(),
            },
            restarts: 0,
            reoffered: self.again || same.is_some_and(|b| b.reoffered),
        });
    }

    fn finish(mut self) -> Evaluation {
        let mut flags = 0;
        if self.asks_full {
            self.agent.full_asked = true;
            flags |= ServerToAgentFlags::ReportFullState as u64;
        }
        let reports_components =
            self.agent.capabilities & AgentCapabilities::ReportsAvailableComponents as u64 != 0;
        let hash = self
            .agent
            .components
            .as_ref()
            .map(|c| c.hash.clone())
            .unwrap_or_default();
        let told = self
            .report
            .message
            .as_ref()
            .is_some_and(|m| m.available_components.is_some());
        if reports_components && told && !hash.is_empty() && !(self.ctx.knows_components)(&hash) {
            let has_body = self
                .agent
                .components
                .as_ref()
                .is_some_and(|c| !c.body.is_empty());
            flags |= if has_body {
                0
            } else {
                ServerToAgentFlags::ReportAvailableComponents as u64
            };
        }
        let base = ServerToAgent {
            instance_uid: self.uid.as_bytes().to_vec(),
            capabilities: SERVER_CAPABILITIES,
            ..ServerToAgent::default()
        };
        let mut replies = Vec::new();
        if self.restart {
            let command = proto::opamp::ServerToAgentCommand {
                r#type: proto::opamp::CommandType::Restart.into(),
            };
            replies.push(ServerToAgent {
                command: Some(command),
                ..base.clone()
            });
        }
        let identification = self.new_uid.map(|uid| proto::opamp::AgentIdentification {
            new_instance_uid: uid.as_bytes().to_vec(),
        });
        let offers = self.offer.is_some();
        let remote_config = self
            .offer
            .take()
            .map(|(hash, config)| remote_config(hash, &config));
        let says_something = flags != 0 || identification.is_some() || remote_config.is_some();
        if !self.restart || says_something {
            replies.push(ServerToAgent {
                flags,
                agent_identification: identification,
                remote_config,
                ..base
            });
        }
        let same_delivery = self.before.is_some_and(|before| {
            before.delivery == self.agent.delivery
                && before.restart_pending == self.agent.restart_pending
        });
        let can_wait = same_delivery
            && !offers
            && !self.asks_full
            && !self.full
            && !self.merged.status
            && !self.merged.goodbye
            && self.new_uid.is_none()
            && self.acts.is_empty();
        Evaluation {
            can_wait,
            entry: self.entry(offers),
            learned: std::mem::take(&mut self.merged.learned),
            replies,
            offers,
            pending: false,
            unsure: false,
            asks_full: self.asks_full,
            asks_full_later: self.asks_full_later,
            new_uid: self.new_uid,
            goodbye: self.merged.goodbye,
            capabilities: self.agent.capabilities,
            epoch: self.ctx.program.epoch,
        }
    }

    fn entry(&mut self, offers: bool) -> Option<store::Entry> {
        if self.report.message.is_none() && self.before.is_none() {
            return None;
        }
        if let Some(new_uid) = self.new_uid
            && !self.agent.duplicate
        {
            self.agent.alias_of = new_uid.as_bytes().to_vec();
            if self.agent.link() != Link::Left {
                self.merged.transitions.push(transition(
                    self.ctx.now_ms,
                    "left",
                    link_word(self.agent.link()),
                    "left",
                    &format!("goes by {new_uid}"),
                ));
            }
            self.agent.link = Link::Left.into();
        }
        let changed = self.before.is_none_or(|before| !same(before, &self.agent));
        if !changed && self.merged.transitions.is_empty() && self.acts.is_empty() {
            return None;
        }
        let mut writes = std::mem::take(&mut self.writes);
        writes.push(put(
            table::AGENT,
            *self.uid.as_bytes(),
            self.version,
            &self.agent,
        ));
        writes.append(&mut self.merged.bodies);
        if self.before.is_none() {
            let by = match self.report.token.as_str() {
                "" => String::new(),
                token => format!(", token `{token}`"),
            };
            let detail = format!("{} from {}{by}", self.agent.transport, self.report.peer);
            self.acts.push(act(
                "agent",
                "agent.register",
                format!("agent/{}", self.uid),
                detail,
            ));
        }
        for (i, transition) in self.merged.transitions.iter().enumerate() {
            writes.push(put_any(
                table::HISTORY,
                history_key(self.uid, transition.at_ms, self.version, i),
                transition,
            ));
        }
        let epoch = if offers { self.ctx.program.epoch.0 } else { 0 };
        Some(store::Entry {
            epoch,
            ..crate::ledger::entry(writes, std::mem::take(&mut self.acts))
        })
    }
}

/// Key of a transition: newest last. The record's version before it tells two of one millisecond apart.
pub fn history_key(uid: Uid, at_ms: u64, version: u64, i: usize) -> Vec<u8> {
    let mut key = uid.as_bytes().to_vec();
    key.extend_from_slice(&at_ms.to_be_bytes());
    key.extend_from_slice(&version.to_be_bytes());
    key.push(u8::try_from(i).unwrap_or(u8::MAX));
    key
}

/// Equal but for what changes with every message.
fn same(a: &store::Agent, b: &store::Agent) -> bool {
    let neutral = |agent: &store::Agent| {
        let mut agent = agent.clone();
        agent.number = 0;
        agent.digest.clear();
        agent.last_seen_ms = 0;
        agent.peer.clear();
        // Written with what makes it so, never by itself.
        if let Some(delivery) = &mut agent.delivery {
            delivery.converged_ms = 0;
        }
        agent
    };
    neutral(a) == neutral(b)
}

/// The rollout by which this reason delivers; empty: none.
fn rollout_of(reason: &Reason) -> String {
    match reason {
        Reason::Wave { rollout } | Reason::RolledBack { rollout } => rollout.clone(),
        // A rollout has not touched who waits for it.
        Reason::Waiting { .. }
        | Reason::Unassigned
        | Reason::Stable
        | Reason::Kept
        | Reason::Pinned
        | Reason::Stopped => String::new(),
    }
}

/// Family and role of an agent's last authorised offer.
pub(super) fn owner(agent: &store::Agent) -> Option<(&str, &str)> {
    let delivery = agent.delivery.as_ref()?;
    Some((&delivery.family, &delivery.role))
}

/// Whose it is, and what a person has said last about that.
pub(super) fn whose(agent: &store::Agent) -> Whose<'_> {
    let granted = agent.granted.as_ref();
    Whose {
        owner: owner(agent),
        granted: granted.map(|to| (to.family.as_str(), to.role.as_str())),
        resolved: resolved(agent.resolved_epoch),
    }
}

/// Is what the agent has to be another owner's?
pub(super) fn changes_owner<S: AsRef<str>>(
    owner: Option<(&str, &str)>,
    desired: &Desired<S>,
) -> bool {
    let next = desired.owner.as_ref();
    next.is_some_and(|(family, role)| owner != Some((family.as_ref(), role.as_ref())))
}

/// An empty map, or one of empty bodies, is an order to stop the collector.
fn says_something(config: &ConfigMap) -> bool {
    config.values().any(|file| !file.body.trim().is_empty())
}

/// The config map as one document, as a supervisor merges it.
pub fn merged_config(config: &ConfigMap) -> Option<fleet::value::Value> {
    let parsed: Result<BTreeMap<_, _>, _> = config
        .iter()
        .map(|(name, file)| proto::yaml::parse(&file.body).map(|value| (name.clone(), value)))
        .collect();
    fleet::merge::merge(&parsed.ok()?).ok()
}

fn remote_config(hash: Digest, config: &ConfigMap) -> proto::opamp::AgentRemoteConfig {
    let object = |file: &fleet::family::ConfigFile| proto::opamp::AgentConfigObject {
        body: file.body.clone().into_bytes(),
        content_type: file.content_type.clone(),
        role: String::new(),
    };
    let config_map = config
        .iter()
        .map(|(name, file)| (name.clone(), object(file)))
        .collect();
    proto::opamp::AgentRemoteConfig {
        config: Some(proto::opamp::AgentConfigMap { config_map }),
        config_hash: hash.as_bytes().to_vec(),
    }
}

/// The word people see.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Offered => "offered",
        State::Applying => "applying",
        State::Applied => "applied",
        State::Failed => "failed",
        State::RolledBackByAgent => "rolled back by the agent",
        State::NoAnswer => "no answer",
        State::Withdrawn => "withdrawn",
    }
}

fn state_word_stored(stored: DeliveryState) -> &'static str {
    state(stored).map_or("", state_word)
}

/// Labels and attributes of a stored record.
struct RecordFacts<'a>(&'a store::Agent);

impl Facts for RecordFacts<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let labels = self
            .0
            .operator_labels
            .get(key)
            .or_else(|| self.0.token_labels.get(key));
        labels.map(String::as_str).or_else(|| {
            self.0
                .attributes
                .iter()
                .find(|a| a.key == key)
                .map(|a| a.value.as_str())
        })
    }
}

/// Every hash that the record says was offered to the agent, as far as it remembers.
fn recorded_hashes(agent: &store::Agent) -> Vec<Digest> {
    let delivery = agent.delivery.iter();
    let offered = delivery.flat_map(|d| [&d.hash, &d.previous].into_iter().chain(&d.earlier));
    let refused = agent.refused.iter().map(|refusal| &refusal.hash);
    let hashes = offered.chain(refused);
    hashes.filter_map(|hash| Digest::from_slice(hash)).collect()
}

/// What the agent has applied before this hash, newest first.
fn earlier(before: &store::Delivery, next: Digest) -> Vec<Vec<u8>> {
    let applied = before.state() == DeliveryState::Applied;
    let last = Some(&before.hash).filter(|_| applied);
    let mut earlier: Vec<Vec<u8>> = Vec::new();
    for hash in last.into_iter().chain(&before.earlier) {
        if hash != next.as_bytes() && !earlier.contains(hash) && earlier.len() < EARLIER_MAX {
            earlier.push(hash.clone());
        }
    }
    earlier
}

#[cfg(test)]
mod tests;
