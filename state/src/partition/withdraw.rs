//! An offer that is known not to have reached its agent.

use proto::store::{self, DeliveryState};
use proto::uid::Uid;

use super::evaluate::Evaluation;
use super::merge::transition;
use crate::ledger::act;

/// That it is taken back, for the audit chain.
pub fn withdrawn(uid: Uid, why: &str, now_ms: u64) -> store::Act {
    let object = format!("agent/{uid}");
    act(
        "partition",
        "offer.withdraw",
        object,
        why.to_owned(),
        now_ms,
    )
}

/// Takes an offer back that is known not to have reached the agent. None: there is none like it.
pub fn withdraw(
    agent: &mut store::Agent,
    is_it: impl Fn(&[u8]) -> bool,
    why: &str,
    now_ms: u64,
) -> Option<store::Transition> {
    let delivery = agent
        .delivery
        .as_mut()
        .filter(|d| d.state() == DeliveryState::Offered && is_it(&d.hash))?;
    delivery.state = DeliveryState::Withdrawn.into();
    delivery.offers = delivery.offers.saturating_sub(1);
    delivery.reoffered = false;
    Some(transition(now_ms, "withdrawn", "offered", "withdrawn", why))
}

/// What was to be answered, without the offer that may not be given now.
pub fn without_offer(mut evaluation: Evaluation) -> Evaluation {
    for reply in &mut evaluation.replies {
        reply.remote_config = None;
    }
    evaluation.offers = false;
    evaluation.pending = true;
    evaluation
}
