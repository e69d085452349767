//! One message in, its replies out: from memory if the session allows it, through the partition leader if not.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::edge;
use proto::opamp::AgentToServer;
use proto::sequence::Digest;
use proto::uid::Uid;
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::limits::Limits;
use crate::link::{Link, LinkError};
use crate::metrics::Metrics;
use crate::opamp::reply::Reply;
use crate::opamp::wire;
use crate::session::table::{Decision, Heard, Settled};
use crate::session::{Holder, Sessions, TurnGuard};

/// How often an agent's leader is asked for what it has for it, while there is none; each time for some seconds.
const PULLS_MAX: usize = 10;

/// Where a message came from; one per connection (WebSocket) or request (HTTP).
#[derive(Clone, Debug)]
pub struct Source {
    pub connection: u64,
    pub peer: SocketAddr,
    /// Name of the token.
    pub token: String,
    /// The connection to push over; none: HTTP.
    pub holder: Option<Holder>,
}

/// What is written to the agent.
#[derive(Debug, Default)]
pub struct Outcome {
    /// None for a message without a usable uid.
    pub uid: Option<Uid>,
    pub replies: Vec<Reply>,
    /// Replies with an offer may be written until then.
    pub grant: Option<Instant>,
    /// The agent goes by this uid from now on.
    pub moved: Option<Uid>,
    /// The agent said that it leaves.
    pub left: bool,
    /// Close the connection after the replies.
    pub disconnect: bool,
}

/// A message that was looked at.
pub enum First {
    /// Answered from memory.
    Done { uid: Uid, reply: Reply },
    /// A retry with several replies, answered from memory.
    Again { uid: Uid, replies: Arc<Vec<Reply>> },
    /// Not understood; the reply says why.
    Malformed(Reply),
    /// To be reported, now or when its turn comes.
    Later(Later),
    /// Too many messages of this agent wait.
    Queue { uid: Uid },
}

/// A message on its way to the leader.
pub struct Later {
    heard: Heard,
    left: bool,
    bytes: Bytes,
    stage: Stage,
}

enum Stage {
    Turn(TurnGuard, Option<edge::Session>),
    Wait(oneshot::Receiver<TurnGuard>),
}

/// Why a message has no answer. The number does not advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No leader.
    Unavailable(Duration),
    /// The leader sheds load, or this gateway does.
    Overloaded,
    /// The leader found it malformed.
    Rejected(String),
}

/// What all connections share.
pub struct Exchange<L> {
    pub link: Arc<L>,
    pub sessions: Arc<Sessions>,
    pub limits: Arc<Limits>,
    pub metrics: Metrics,
    pub reports: Semaphore,
    pub gateway: String,
}

// === impl Exchange ===

impl<L: Link> Exchange<L> {
    /// Reports that are under way.
    pub fn in_flight(&self) -> i64 {
        let limit = self.limits.in_flight_reports.min(Semaphore::MAX_PERMITS);
        let free = self.reports.available_permits();
        i64::try_from(limit.saturating_sub(free)).unwrap_or(i64::MAX)
    }

    /// Looks at a message and answers it from memory if it may be. `bytes` is bare protobuf.
    pub fn hear(&self, source: &Source, bytes: Bytes) -> First {
        let outline = match wire::scan(&bytes, &self.limits) {
            Ok(outline) => outline,
            Err(error) => {
                self.metrics.refused.malformed.inc();
                return First::Malformed(Reply::bad_request(&[], error.to_string()));
            }
        };
        let uid = match Uid::from_wire(outline.instance_uid) {
            Ok(uid) => uid,
            Err(error) => {
                self.metrics.refused.malformed.inc();
                return First::Malformed(Reply::bad_request(
                    outline.instance_uid,
                    error.to_string(),
                ));
            }
        };
        let heard = Heard {
            uid,
            number: outline.sequence_num,
            digest: digest(&bytes),
            capabilities: outline.capabilities,
            bare: outline.bare,
            speaker: speaker(&source.token),
            connection: source.connection,
            websocket: source.holder.is_some(),
            in_contact: self.link.in_contact(uid),
        };
        let left = outline.disconnect;
        let mut shard = self.sessions.shard(&uid);
        if shard.turns.is_taken(&uid) {
            let (waiter, turn) = oneshot::channel();
            return match shard.turns.wait(&uid, waiter) {
                Ok(()) => First::Later(Later {
                    heard,
                    left,
                    bytes,
                    stage: Stage::Wait(turn),
                }),
                Err(_) => {
                    self.metrics.refused.queue.inc();
                    First::Queue { uid }
                }
            };
        }
        match shard.table.hear(&heard, self.sessions.now()) {
            Decision::Plain => {
                self.metrics.memory.inc();
                First::Done {
                    uid,
                    reply: Reply::plain(&uid),
                }
            }
            Decision::Repeat(replies) => {
                self.metrics.retried.inc();
                First::Again { uid, replies }
            }
            Decision::Report(session) => {
                shard.turns.take(uid);
                drop(shard);
                let turn = TurnGuard::new(&self.sessions, uid);
                First::Later(Later {
                    heard,
                    left,
                    bytes,
                    stage: Stage::Turn(turn, session),
                })
            }
        }
    }

    /// Goes on with a message that could not be answered at once.
    #[tracing::instrument(name = "check-in", skip_all, fields(uid = %later.heard.uid))]
    pub async fn finish(&self, source: &Source, later: Later) -> Result<Outcome, Refusal> {
        let Later {
            heard,
            left,
            bytes,
            stage,
        } = later;
        let (turn, session) = match stage {
            Stage::Turn(turn, session) => (turn, session),
            Stage::Wait(turn) => {
                let turn = turn.await.map_err(|_| Refusal::Overloaded)?;
                let decision = self
                    .sessions
                    .shard(&heard.uid)
                    .table
                    .hear(&heard, self.sessions.now());
                match decision {
                    Decision::Report(session) => (turn, session),
                    Decision::Plain => {
                        self.metrics.memory.inc();
                        return Ok(Outcome::of(heard.uid, vec![Reply::plain(&heard.uid)]));
                    }
                    Decision::Repeat(replies) => {
                        self.metrics.retried.inc();
                        return Ok(Outcome::of(heard.uid, replies.to_vec()));
                    }
                }
            }
        };
        let Ok(_permit) = self.reports.try_acquire() else {
            self.metrics.refused.reports.inc();
            return Err(Refusal::Overloaded);
        };
        let message =
            AgentToServer::decode(bytes).map_err(|error| Refusal::Rejected(error.to_string()))?;
        self.metrics.reported.inc();
        let report = edge::Report {
            message: Some(message),
            digest: heard.digest.to_vec().into(),
            ..self.blank(source, &heard.uid, session)
        };
        let answer = self.report(report).await?;
        let mut outcome = self.settle(source, heard.uid, answer, true);
        outcome.left = left;
        drop(turn);
        Ok(outcome)
    }

    /// Asks the leader what it has for an agent that said nothing. None: there is nothing to write.
    ///
    /// Until there is an answer it is the same asking, also to another leader: what the first one has granted is answered
    /// again, and does not get lost.
    pub async fn pull(&self, source: &Source, uid: Uid) -> Option<Outcome> {
        let asking = Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
        for attempt in 0..PULLS_MAX {
            let pause = match self
                .pull_once(source, uid, asking.clone(), attempt > 0)
                .await
            {
                Err(refusal @ (Refusal::Unavailable(_) | Refusal::Overloaded)) => {
                    refusal.retry_after()
                }
                answered => return answered.ok().flatten(),
            };
            tokio::time::sleep(pause).await;
        }
        None
    }

    async fn pull_once(
        &self,
        source: &Source,
        uid: Uid,
        asking: Bytes,
        again: bool,
    ) -> Result<Option<Outcome>, Refusal> {
        let permit = self.reports.acquire().await;
        let (Ok(_permit), Some(_turn)) = (permit, self.turn(uid).await) else {
            return Ok(None);
        };
        let session = self.sessions.shard(&uid).table.known(&uid);
        // Who asks again has to know: what the agent said meanwhile was not an answer to what was granted before.
        if !again && session.as_ref().is_some_and(|session| !session.pending) {
            return Ok(None);
        }
        self.metrics.pushes.inc();
        let report = edge::Report {
            digest: asking,
            ..self.blank(source, &uid, session)
        };
        let answer = self.report(report).await?;
        Ok(Some(self.settle(source, uid, answer, false)))
    }

    /// A uid seen for the first time on a WebSocket connection can be pushed to from now on.
    pub fn hold(&self, source: &Source, uid: Uid) {
        if let Some(holder) = &source.holder {
            self.sessions.hold(uid, holder.clone());
        }
    }

    async fn turn(&self, uid: Uid) -> Option<TurnGuard> {
        let turn = {
            let mut shard = self.sessions.shard(&uid);
            if !shard.turns.is_taken(&uid) {
                shard.turns.take(uid);
                drop(shard);
                return Some(TurnGuard::new(&self.sessions, uid));
            }
            let (waiter, turn) = oneshot::channel();
            shard.turns.wait(&uid, waiter).ok()?;
            turn
        };
        turn.await.ok()
    }

    async fn report(&self, report: edge::Report) -> Result<(Instant, edge::Answer), Refusal> {
        let asked = Instant::now();
        let answer = timeout(self.limits.report_timeout, self.link.report(report)).await;
        match answer {
            Ok(answer) => Ok((asked, answer)),
            Err(LinkError::Unavailable { retry_after }) => {
                self.metrics.refused.unavailable.inc();
                Err(Refusal::Unavailable(retry_after))
            }
            Err(LinkError::Overloaded) => {
                self.metrics.refused.overloaded.inc();
                Err(Refusal::Overloaded)
            }
            Err(LinkError::Rejected(why)) => {
                self.metrics.refused.malformed.inc();
                Err(Refusal::Rejected(why))
            }
        }
    }

    /// Makes the replies of an answer and stores its session. `spoke`: the agent had sent a message.
    fn settle(
        &self,
        source: &Source,
        uid: Uid,
        answer: (Instant, edge::Answer),
        spoke: bool,
    ) -> Outcome {
        let (asked, answer) = answer;
        let edge::Answer {
            replies,
            session,
            grant_ms,
            new_instance_uid,
            disconnect,
        } = answer;
        let mut replies: Vec<Reply> = replies
            .into_iter()
            .map(|reply| self.within_limit(&uid, reply))
            .collect();
        if spoke && replies.is_empty() {
            replies.push(Reply::plain(&uid));
        }
        if source.holder.is_none() {
            replies.truncate(1);
        }
        let moved = Uid::from_wire(&new_instance_uid).ok();
        let settled = session.map(|session| Settled {
            session,
            speaker: speaker(&source.token),
            connection: source.connection,
            sent: spoke.then(|| replies.clone()),
            noticed: Default::default(),
        });
        self.sessions.settle(&uid, moved, settled);
        let grant = (grant_ms > 0).then(|| asked + Duration::from_millis(grant_ms.into()));
        Outcome {
            uid: Some(uid),
            replies,
            grant,
            moved,
            left: false,
            disconnect,
        }
    }

    /// An answer that the agent would refuse for its size is not sent; that its message counted, is.
    fn within_limit(&self, uid: &Uid, reply: proto::opamp::ServerToAgent) -> Reply {
        let reply = Reply::of(uid, reply);
        if reply.size() <= self.limits.send_bytes {
            return reply;
        }
        self.metrics.oversized_answers.inc();
        tracing::error!(%uid, bytes = reply.size(), limit = self.limits.send_bytes, "answer over the limit is not sent");
        Reply::plain(uid)
    }

    fn blank(&self, source: &Source, uid: &Uid, session: Option<edge::Session>) -> edge::Report {
        let transport = match source.holder {
            Some(_) => edge::Transport::Websocket,
            None => edge::Transport::Http,
        };
        edge::Report {
            instance_uid: uid.as_bytes().to_vec().into(),
            message: None,
            digest: Bytes::new(),
            session,
            transport: transport.into(),
            peer: source.peer.to_string(),
            token: source.token.clone(),
            connection: source.connection,
            gateway: self.gateway.clone(),
            unsent: None,
        }
    }

    /// The last check before the write: an offer whose grant has run out becomes a plain reply. What is answered has
    /// to be given back.
    #[must_use]
    pub fn at_write(&self, outcome: &mut Outcome) -> Option<Unwritten> {
        let (Some(grant), Some(uid)) = (outcome.grant, outcome.uid) else {
            return None;
        };
        if Instant::now() < grant {
            return None;
        }
        let unwritten = outcome.unwritten();
        for reply in outcome.replies.iter_mut().filter(|reply| reply.is_offer()) {
            *reply = Reply::plain(&uid);
            self.metrics.grants_expired.inc();
        }
        unwritten
    }

    /// Tells the leader what was not written, so that it is offered again and nobody waits for its answer.
    pub async fn give_back(&self, source: &Source, unwritten: Unwritten) {
        let Unwritten { uid, unsent } = unwritten;
        self.sessions.shard(&uid).table.set_pending(&uid);
        let report = edge::Report {
            unsent: Some(unsent),
            ..self.blank(source, &uid, None)
        };
        if let Err(refusal) = self.report(report).await {
            tracing::debug!(%uid, ?refusal, "an offer that was not written stays open until its time has passed");
        }
    }
}

/// An offer that a leader authorised and that never reached the wire.
#[derive(Debug)]
pub struct Unwritten {
    /// Whose, as the leader knows it now.
    pub uid: Uid,
    unsent: edge::Unsent,
}

// === impl Outcome ===

impl Outcome {
    /// What the leader has to be told if nothing of this is written.
    pub fn unwritten(&self) -> Option<Unwritten> {
        let uid = self.moved.or(self.uid)?;
        let mut offers = self.replies.iter().filter_map(Reply::to_give_back);
        let first = offers.next()?.clone();
        let unsent = offers.fold(first, |all, one| edge::Unsent {
            config_hash: if all.config_hash.is_empty() {
                one.config_hash.clone()
            } else {
                all.config_hash
            },
            restart: all.restart || one.restart,
        });
        Some(Unwritten { uid, unsent })
    }

    /// Nothing but replies.
    pub fn of(uid: Uid, replies: Vec<Reply>) -> Self {
        Outcome {
            uid: Some(uid),
            replies,
            ..Outcome::default()
        }
    }
}

// === impl Later ===

impl Later {
    /// Whose message it is.
    pub fn uid(&self) -> Uid {
        self.heard.uid
    }
}

// === impl Refusal ===

impl Refusal {
    /// As an OpAMP message.
    pub fn reply(&self, uid: &[u8]) -> Reply {
        match self {
            Refusal::Unavailable(_) => Reply::unavailable(
                uid,
                "no leader at the moment, try again",
                self.retry_after(),
            ),
            Refusal::Overloaded => {
                Reply::unavailable(uid, "overloaded, try again later", self.retry_after())
            }
            Refusal::Rejected(why) => Reply::bad_request(uid, why.clone()),
        }
    }

    /// With jitter: 1 to 5 s without a leader, 30 to 60 s for overload.
    pub fn retry_after(&self) -> Duration {
        match self {
            Refusal::Unavailable(wish) => {
                let jittered = wish.mul_f64(rand::random_range(1.0..1.5));
                jittered.clamp(Duration::from_secs(1), Duration::from_secs(5))
            }
            Refusal::Overloaded | Refusal::Rejected(_) => {
                Duration::from_secs(rand::random_range(30..=60))
            }
        }
    }
}

/// The first 16 bytes of the message's BLAKE3 hash.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    digest
}

/// A number for a token's name; the empty name is 0.
fn speaker(token: &str) -> u64 {
    if token.is_empty() {
        return 0;
    }
    let hash = blake3::hash(token.as_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(number)
}

async fn timeout(
    limit: Duration,
    answer: impl Future<Output = Result<edge::Answer, LinkError>>,
) -> Result<edge::Answer, LinkError> {
    let late = LinkError::Unavailable {
        retry_after: Duration::from_secs(2),
    };
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or(Err(late))
}
