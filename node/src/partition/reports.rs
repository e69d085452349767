//! Reports of agents: judged one at a time for each agent, stored before they are answered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use fleet::program::Desired;
use fleet::selector::Facts;
use proto::edge::{Answer, Notice, Report, Unsent, notice};
use proto::sequence::is_fresh;
use proto::store;
use proto::uid::Uid;
use state::inventory::whose;
use state::partition::conversation::{Known, answer, follows, handled};
use state::partition::evaluate::{self, Evaluation};
use state::partition::place::OwnedPlace;
use state::partition::presence::Core;
use state::partition::room::Outcome;
use state::partition::timing::{HOLD, RECALL};
use state::partition::withdraw::{withdraw, withdrawn, without_offer};
use state::partition::{body, delivered_config, desired_config, merge, millis, place_of, room};

use super::{Error, Partition, TRIES};
use crate::ledger::{ProposeError, now_ms, table};

impl Partition {
    /// Answers a report, after what it changed is stored.
    #[tracing::instrument(name = "report", skip_all, fields(uid = %hex::encode(&report.instance_uid), partition = self.ledger.name()))]
    pub async fn report(&self, mut report: Report) -> Result<Answer, Error> {
        let uid = Uid::from_wire(&report.instance_uid)?;
        let _turn = self.turn(uid).lock().await;
        if !self.leads() {
            return Err(Error::NotLeader { uid });
        }
        // Known to its gateway, as the leader before may have seen it.
        let has_lost = report.session.as_ref().is_some_and(|session| session.lost);
        self.take_over(uid, &mut report).await;
        if let Some(unsent) = &report.unsent {
            self.take_back(uid, unsent).await?;
            return Ok(Answer::default());
        }
        let now = self.monotonic_ms();
        let known = Known::of(&mut self.core(), uid, &report, has_lost, now);
        let last = known.heard.map(|(number, _)| number);
        let mut evaluation = self.evaluate(uid, &report, known, true).await?;
        // What the leader before has granted, and its gateway has not seen, must not get lost in the first moments of this
        // one, which has no lease yet. Later the agent's liveness counts more.
        if evaluation.unsure && self.core().led_for_ms(now) < millis(HOLD) {
            return Err(Error::NotLeader { uid });
        }
        if let (Some(message), true) = (&report.message, evaluation.asks_full) {
            let here = report.session.as_ref().map(|session| session.number);
            tracing::debug!(%uid, number = message.sequence_num, last, here, report.gateway, "asked for full state");
        }
        handled(&mut self.core(), uid, &report, &evaluation, now);
        evaluation.pending |= self.core().is_owed(uid);
        let changed_meanwhile = evaluation.epoch != self.program().epoch;
        let mut answer = answer(&report, evaluation);
        if changed_meanwhile && let Some(session) = &mut answer.session {
            session.pending = true;
        }
        Ok(answer)
    }

    /// An agent that another gateway has served until now: what that one knows counts, and it lets go. It is waited for
    /// only where what is known would make this message look as if one had been lost; then all of them are asked, since
    /// a leader that has just begun may not know who served the agent last.
    async fn take_over(&self, uid: Uid, report: &mut Report) {
        let before = self.core().holder(uid, &report.gateway);
        if before.is_some() {
            report.session = None;
        }
        let here = report.session.as_ref().map(|session| session.number);
        let message = report.message.as_ref().filter(|m| !is_fresh(m));
        let number = message.map(|message| message.sequence_num);
        let follows = |core: &Core| follows(core, uid, here, number);
        if before.is_none() && (!self.others || follows(&self.core())) {
            return;
        }
        self.recalls.fetch_add(1, Ordering::Relaxed);
        self.notify(vec![Notice {
            instance_uid: uid.as_bytes().to_vec().into(),
            kind: notice::Kind::Moved.into(),
            holder: report.gateway.clone(),
        }]);
        let until = tokio::time::Instant::now() + RECALL;
        loop {
            let told = self.told.notified();
            if follows(&self.core()) {
                break;
            }
            if tokio::time::timeout_at(until, told).await.is_err() {
                self.recalls_unanswered.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%uid, "no gateway knows of the messages before this one");
                return;
            }
        }
        let heard = self.core().last(uid).map(|(number, _)| number);
        if heard > here {
            report.session = None;
        }
    }

    pub(super) async fn evaluate(
        &self,
        uid: Uid,
        report: &Report,
        known: Known,
        may_offer: bool,
    ) -> Result<Evaluation, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let program = self.program();
            let re_offering = self.re_offering.load_full();
            let stored = self.stored(uid)?;
            let token_labels = if stored.is_none() {
                self.token_labels(&report.token)
            } else {
                BTreeMap::new()
            };
            if let Some((_, agent)) = &stored {
                check_token(uid, agent, report)?;
            }
            let tombstone = if stored.is_none() {
                self.tombstone(uid)?
            } else {
                None
            };
            let whose = stored
                .as_ref()
                .map(|(_, agent)| whose(agent))
                .unwrap_or_default();
            let place = {
                let columns = self.index.read();
                place_of(&columns, &program, uid, whose).map(OwnedPlace::of)
            };
            let taken = RefCell::new(None);
            self.expire_rooms();
            let mut evaluation = {
                let has_room = |desired: &Desired, facts: &dyn Facts| {
                    match self.rooms.take(desired, facts) {
                        room::Taken::Full => return false,
                        room::Taken::Unlimited => {}
                        room::Taken::In(lane) => {
                            taken.replace(Some(lane));
                        }
                    }
                    true
                };
                let config = |delivery: &store::Delivery| {
                    let reason_rollout = delivery.rollout.as_str();
                    delivered_config(
                        &self.control.read(),
                        &delivery.family,
                        &delivery.role,
                        delivery.revision,
                        reason_rollout,
                    )
                };
                let desired_config =
                    |desired: &Desired| desired_config(&self.control.read(), desired);
                let ctx = evaluate::Context {
                    program: &program,
                    place: place.as_ref().map(OwnedPlace::borrow),
                    lease: may_offer && self.has_lease(),
                    replies: may_offer,
                    token_labels: &token_labels,
                    // Of an agent that was forgotten, what it said before counts no more.
                    heard: known.heard.filter(|_| stored.is_some()),
                    skipped: known.skipped,
                    full_asked_ms_ago: known.asked_ago,
                    has_lost: known.has_lost,
                    may_ask_full: &|| self.core().may_ask_full(self.monotonic_ms()),
                    config: &config,
                    desired_config: &desired_config,
                    re_offers: &|family| re_offering.contains(family),
                    has_room: &has_room,
                    remembered: &self.bodies,
                    knows_components: &|hash| self.index.read().components.contains_key(hash),
                    build: &|hash| {
                        let columns = self.index.read();
                        let told = columns.components.get(hash);
                        told.map(|told| told.build.clone())
                    },
                    offer_timeout_ms: millis(self.config.offer_timeout),
                    now_ms: now_ms(),
                    new_uid: new_uid(uid),
                    duplicate: known.duplicate,
                };
                evaluate::evaluate(
                    uid,
                    report,
                    stored.as_ref().map(|(v, a)| (*v, a)),
                    tombstone.as_ref(),
                    &ctx,
                )
            };
            let mut taken = UnderWay {
                rooms: &self.rooms,
                lane: taken.into_inner(),
                outcome: Outcome::Nothing,
            };
            if evaluation.offers {
                self.last_grant_ms
                    .fetch_max(self.monotonic_ms(), Ordering::SeqCst);
            }
            if evaluation.can_wait
                && evaluation.entry.is_some()
                && !self.core().may_write(uid, self.monotonic_ms())
            {
                evaluation.entry = None;
            }
            let Some(entry) = evaluation.entry.take() else {
                // A retry repeats an offer without an entry that the group could fence: look at the floor here.
                if evaluation.offers && self.index.read().floor > program.epoch.0 && tries < TRIES {
                    self.take_program();
                    continue;
                }
                return Ok(evaluation);
            };
            let bodies: Vec<_> = body::kept_by(&entry.writes).collect();
            // From here on it may be stored, also where nobody waits for the answer any more.
            taken.outcome = Outcome::Unknown;
            let stored = self.ledger.propose_here(entry).await;
            taken.outcome = match &stored {
                Ok(_) => Outcome::Stored,
                Err(error) if error.stored_nothing() => Outcome::Nothing,
                Err(_) => Outcome::Unknown,
            };
            drop(taken);
            if stored.is_ok() {
                self.bodies.stored(bodies, &evaluation.learned);
                self.try_read_components();
                if evaluation.can_wait {
                    self.core().wrote(uid);
                }
            }
            match stored {
                // Checked before proposing and again after commit: a lease that ran out in between authorises nothing.
                Ok(_) if evaluation.offers && !self.has_lease() => {
                    self.withdraw(uid).await?;
                    return Ok(without_offer(evaluation));
                }
                Ok(_) => return Ok(evaluation),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(ProposeError::StaleEpoch(_)) if tries < TRIES => self.take_program(),
                Err(source) => return Err(Error::Store { uid, source }),
            }
        }
    }

    /// Labels that the enrolling token binds.
    fn token_labels(&self, token: &str) -> BTreeMap<String, String> {
        self.control
            .read()
            .tokens
            .get(token)
            .map(|t| t.value.labels.clone())
            .unwrap_or_default()
    }

    /// Writes down that the offer just granted was not sent.
    async fn withdraw(&self, uid: Uid) -> Result<bool, Error> {
        let why = "the program lease ran out";
        self.change_with(
            uid,
            String::new(),
            vec![withdrawn(uid, why, now_ms())],
            |agent| withdraw(agent, |_| true, why, now_ms()),
        )
        .await
    }

    /// A gateway did not write what was granted: it was not offered, and is due again.
    async fn take_back(&self, uid: Uid, unsent: &Unsent) -> Result<bool, Error> {
        let why = "its gateway did not write it in time";
        self.change_with(
            uid,
            String::new(),
            vec![withdrawn(uid, why, now_ms())],
            |agent| {
                let restart = unsent.restart && !agent.restart_pending;
                agent.restart_pending |= unsent.restart;
                let withdrawn = withdraw(agent, |hash| *hash == unsent.config_hash, why, now_ms());
                let again = || merge::transition(now_ms(), "restart not sent", "", "", "");
                withdrawn.or_else(|| restart.then(again))
            },
        )
        .await
    }

    fn tombstone(&self, uid: Uid) -> Result<Option<store::Agent>, Error> {
        Ok(self
            .document(uid, table::TOMBSTONE)?
            .map(|(_, agent)| agent))
    }

    /// Conversations that other gateways were asked for since this node runs, and those of which none knew in time.
    pub fn recalls(&self) -> (u64, u64) {
        let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        (read(&self.recalls), read(&self.recalls_unanswered))
    }
}

fn check_token(uid: Uid, agent: &store::Agent, report: &Report) -> Result<(), Error> {
    let (enrolled, token) = (agent.token.clone(), report.token.clone());
    let same = enrolled == token || enrolled.is_empty() || report.message.is_none();
    if same {
        Ok(())
    } else {
        Err(Error::Token {
            uid,
            enrolled,
            token,
        })
    }
}

/// An offer that is under way in a lane, until it is known whether it was stored. What is not known uses room: see
/// [`Partition::learn_outcomes`].
struct UnderWay<'a> {
    rooms: &'a room::Rooms,
    lane: Option<room::Lane>,
    outcome: Outcome,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(lane) = &self.lane {
            self.rooms.settle(lane, self.outcome);
        }
    }
}

/// A new uid of version 7 in the slot of the old one, so that record, alias and retry answer are one entry.
fn new_uid(old: Uid) -> Uid {
    let mut bytes = *uuid::Uuid::now_v7().as_bytes();
    bytes[14] = (bytes[14] & !0x03) | (old.as_bytes()[14] & 0x03);
    bytes[15] = old.as_bytes()[15];
    Uid::from_wire(&bytes).unwrap_or(old)
}
