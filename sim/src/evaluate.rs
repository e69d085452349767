//! What one message of an agent means: a function of its arguments, which asks `fleet` what follows.

use fleet::digest::Digest;
use fleet::offer::{self, Decision, Reported, Situation, State};
use fleet::program::{Desired, Program, Reason};
use fleet::restored::Doubt;

use crate::fault::Fault;
use crate::ledger::{AgentDoc, Delivery, Ledger};
use crate::program::wants;

/// Unanswered offers of this age are closed. Longer than poll and apply.
pub const OFFER_TIMEOUT_MS: u64 = 15_000;

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub agent: u32,
    /// Which life of the agent, and which message in it.
    pub number: (u64, u64),
    pub family: &'static str,
    /// An attribute that changes now and then.
    pub build: u64,
    /// Hash, status and error of what it was sent last.
    pub status: Option<(Digest, Reported, String)>,
    pub healthy: bool,
}

/// An offer that may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub hash: Digest,
    pub rollout: String,
}

/// What a decision is made by.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub control: &'a Ledger,
    pub program: &'a Program,
    pub lease: bool,
    pub now_ms: u64,
    pub fault: Option<Fault>,
}

/// What follows.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The record as it is from now on.
    pub agent: AgentDoc,
    pub grant: Option<Grant>,
    /// It was answered with an offer before, which may not be repeated now for want of a lease.
    pub unsure: bool,
}

/// What this message means. None: it is older than what has been stored; nobody waits for its answer.
pub fn evaluate(
    stored: Option<&AgentDoc>,
    message: &Message,
    at: &Context<'_>,
) -> Option<Evaluation> {
    if stored.is_some_and(|stored| message.number < stored.number) {
        return None;
    }
    let mut agent = overdue(stored.cloned().unwrap_or_default(), at.now_ms);
    hear(&mut agent, message, at.now_ms);
    let asked = agent
        .delivery
        .as_ref()
        .filter(|last| last.asking == message.number);
    let evaluation = match asked {
        Some(last) if last.state == State::Offered => {
            let grant = Grant {
                hash: last.hash,
                rollout: last.rollout.clone(),
            };
            again(agent, message, grant, at)
        }
        Some(_) => Evaluation {
            agent,
            grant: None,
            unsure: false,
        },
        None => decide(agent, message, at),
    };
    Some(stamp(stored, evaluation, message))
}

/// The offer whose time has passed is *no answer*.
pub fn overdue(mut agent: AgentDoc, now_ms: u64) -> AgentDoc {
    if let Some(last) = &mut agent.delivery
        && let Some(next) = offer::on_time(&last.offer(now_ms), OFFER_TIMEOUT_MS)
    {
        last.state = next;
    }
    agent
}

fn hear(agent: &mut AgentDoc, message: &Message, now_ms: u64) {
    let labels = [
        ("family", message.family.to_owned()),
        ("build", message.build.to_string()),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value));
    agent.labels = labels.into_iter().collect();
    if agent.healthy != message.healthy {
        (agent.healthy, agent.health_since_ms) = (message.healthy, now_ms);
    }
    let Some((hash, reported, error)) = &message.status else {
        return;
    };
    if agent.reported == Some((*hash, *reported)) {
        return;
    }
    agent.reported = Some((*hash, *reported));
    let Some(last) = &mut agent.delivery else {
        return;
    };
    let Some(next) = offer::on_report(&last.offer(now_ms), *hash, *reported) else {
        return;
    };
    last.state = next;
    last.error.clone_from(error);
    let failed = matches!(next, State::Failed | State::RolledBackByAgent);
    if failed && !agent.refused.contains(&last.hash) {
        agent.refused.push(last.hash);
    }
}

/// The same once more: the same answer, unless what it offered has been withdrawn.
fn again(mut agent: AgentDoc, message: &Message, grant: Grant, at: &Context<'_>) -> Evaluation {
    let wants = wants(at.control, at.program, message.agent, &agent);
    let holds = wants.offerable && wants.delivery == Some(grant.hash);
    if at.lease
        && !holds
        && let Some(last) = &mut agent.delivery
    {
        last.state = State::Withdrawn;
        last.grants = last.grants.saturating_sub(1);
    }
    Evaluation {
        agent,
        grant: (at.lease && holds).then_some(grant),
        unsure: !at.lease,
    }
}

fn decide(mut agent: AgentDoc, message: &Message, at: &Context<'_>) -> Evaluation {
    let wants = wants(at.control, at.program, message.agent, &agent);
    let decision = match at.fault {
        Some(Fault::OfferByMismatch) => by_mismatch(&agent, &wants),
        _ => offer::decide(&situation(&agent, &wants, at.now_ms)),
    };
    let mut grant = None;
    match decision {
        Decision::Offer(hash) if at.lease => {
            let rollout = give(&mut agent, &wants, hash, State::Offered, message, at);
            grant = Some(Grant { hash, rollout });
        }
        Decision::Adopt(hash) => {
            give(&mut agent, &wants, hash, State::Applied, message, at);
        }
        Decision::Offer(_) | Decision::Nothing(_) => {}
    }
    Evaluation {
        agent,
        grant,
        unsure: false,
    }
}

/// A mistake: whether it has been offered that already is not asked.
fn by_mismatch(agent: &AgentDoc, wants: &Desired) -> Decision {
    match wants.delivery {
        Some(hash) if wants.offerable && agent.reported != Some((hash, Reported::Applied)) => {
            Decision::Offer(hash)
        }
        _ => Decision::Nothing(offer::Why::Settled),
    }
}

fn situation<'a>(agent: &'a AgentDoc, wants: &Desired, now_ms: u64) -> Situation<'a> {
    Situation {
        desired: wants.delivery,
        offerable: wants.offerable,
        has_room: true,
        last: agent.delivery.as_ref().map(|last| last.offer(now_ms)),
        reported: agent.reported,
        refused: &agent.refused,
        accepts: true,
        many_collectors: false,
        duplicate: false,
        doubt: Doubt::None,
        changes_owner: wants.owner.is_some() && wants.owner != agent.owner,
        proves_not_received: false,
    }
}

/// Writes down what it was given, and in which rollout.
fn give(
    agent: &mut AgentDoc,
    wants: &Desired,
    hash: Digest,
    state: State,
    message: &Message,
    at: &Context<'_>,
) -> String {
    let rollout = match &wants.reason {
        Reason::Wave { rollout } | Reason::RolledBack { rollout } => rollout.clone(),
        _ => String::new(),
    };
    if agent.owner.as_ref().map(|(family, _)| family)
        != wants.owner.as_ref().map(|(family, _)| family)
    {
        agent.owned_since = Some(at.program.epoch.0);
    }
    agent.owner.clone_from(&wants.owner);
    let before = agent.delivery.as_ref().filter(|last| last.hash == hash);
    agent.delivery = Some(Delivery {
        hash,
        rollout: rollout.clone(),
        state,
        grants: before.map_or(0, |last| last.grants) + 1,
        offered_ms: at.now_ms,
        asking: message.number,
        was_healthy: agent.healthy,
        error: String::new(),
    });
    rollout
}

/// A record names the message that changed it last.
fn stamp(stored: Option<&AgentDoc>, mut evaluation: Evaluation, message: &Message) -> Evaluation {
    if stored != Some(&evaluation.agent) {
        evaluation.agent.number = message.number;
    }
    evaluation
}
