//! What a person does to a rollout: pause, resume, halt, roll back. Answered when nothing contrary can be sent any more.

use std::sync::Arc;

use fleet::rollout::{Observed, State};
use proto::store::{self, Entry};

use super::{aside, observe, set_state};
use crate::api::governance::still_missing;
use crate::control::{Documents, rollout_state};
use crate::ledger::{ProposeError, act, entry, once, put, table};
use crate::local::Node;

/// A person's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Stand still.
    Pause,
    /// Go on, in spite of the failures seen so far.
    Resume,
    /// Stop.
    Halt,
    /// Give every touched member back what it had.
    RollBack,
}

/// Why an order was refused.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// No such rollout.
    #[error("there is no rollout `{0}`: list them with `muster rollout list`")]
    Unknown(String),
    /// Not in this state.
    #[error("rollout {id} is {state}: it cannot be {verb}")]
    State {
        /// Which.
        id: String,
        /// Where it is.
        state: &'static str,
        /// What was asked.
        verb: &'static str,
    },
    /// Not stored.
    #[error("rollout {id}: the order was not stored")]
    Store {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: ProposeError,
    },
}

impl Verb {
    /// Where it leads from here.
    fn next(self, documents: &Documents, stored: &store::Rollout) -> State {
        match self {
            Verb::Pause => State::Paused,
            Verb::Resume => {
                let needs_approval = || still_missing(documents, stored).is_some();
                State::resumed(stored.prepared, !stored.prepared && needs_approval())
            }
            Verb::Halt => State::Halted,
            Verb::RollBack => State::RollingBack,
        }
    }

    fn past(self) -> &'static str {
        match self {
            Verb::Pause => "paused",
            Verb::Resume => "resumed",
            Verb::Halt => "halted",
            Verb::RollBack => "rolled back",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Verb::Pause => "rollout.pause",
            Verb::Resume => "rollout.resume",
            Verb::Halt => "rollout.halt",
            Verb::RollBack => "rollout.rollback",
        }
    }
}

/// Performs the order. `id` is a rollout's, or a family's name for its newest.
pub async fn order(
    node: &Arc<Node>,
    id: &str,
    verb: Verb,
    actor: &str,
    reason: &str,
    key: &str,
) -> Result<String, VerbError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (version, mut stored, next) = {
            let documents = node.control.read();
            let found = documents
                .find_rollout(id)
                .ok_or_else(|| VerbError::Unknown(id.to_owned()))?;
            let next = verb.next(&documents, &found.value);
            (found.version, store::Rollout::clone(&found.value), next)
        };
        let state = rollout_state(stored.state());
        let nothing_offered = !stored.prepared && !state.is_final();
        if nothing_offered && matches!(verb, Verb::Halt | Verb::RollBack) {
            let id = stored.id.clone();
            let aborted = abort(node, version, stored, actor, reason, key).await;
            return match aborted {
                Ok(()) => Ok(id),
                // It has begun meanwhile.
                Err(ProposeError::Conflict(_)) if tries < 10 => continue,
                Err(source) => Err(VerbError::Store { id, source }),
            };
        }
        // What is about to begin goes on by itself, as soon as it may.
        let goes_on = nothing_offered && verb == Verb::Resume && state != State::Halted;
        if state == next || goes_on {
            break fence(node, stored.id).await; // said twice, meant once; the first may have failed to fence
        }
        if !state.can_move_to(next) || (verb == Verb::RollBack && !stored.prepared) {
            return Err(VerbError::State {
                id: stored.id,
                state: state.name(),
                verb: verb.past(),
            });
        }
        let observed = match verb {
            Verb::Resume => {
                // What has failed until now, by this program, is accepted: who would have to be offered it once more refuses
                // it. Before the look, so that nobody is forgiven who does not count any more.
                stored.failures_since = node.control.read().epoch().next().0;
                let (node, stored) = (node.clone(), stored.clone());
                let seen = aside(move || observe(&node, &stored)).await;
                seen.unwrap_or_default() // the node stops: nothing will be stored
            }
            _ => Observed::default(),
        };
        change(node, &mut stored, (verb, next), &observed, actor, reason);
        let detail = if reason.is_empty() {
            stored.cause.clone()
        } else {
            reason.to_owned()
        };
        let act = act(
            actor,
            verb.action(),
            format!("rollout/{}", stored.id),
            detail,
        );
        let change = Entry {
            idempotency_key: once(verb.action(), &stored.id, key),
            ..entry(
                vec![put(table::ROLLOUT, stored.id.as_str(), version, &stored)],
                vec![act],
            )
        };
        match node.control_ledger.propose(change).await {
            Ok(_) => break fence(node, stored.id).await,
            // The controller moved it meanwhile.
            Err(ProposeError::Conflict(_)) if tries < 10 => {}
            Err(source) => {
                return Err(VerbError::Store {
                    id: stored.id,
                    source,
                });
            }
        }
    }
}

async fn fence(node: &Arc<Node>, id: String) -> Result<String, VerbError> {
    match node.fence().await {
        Ok(()) => Ok(id),
        Err(source) => Err(VerbError::Store { id, source }),
    }
}

/// Nothing has been offered: there is nothing to stop or to give back.
pub(super) async fn abort(
    node: &Arc<Node>,
    version: u64,
    mut stored: store::Rollout,
    actor: &str,
    reason: &str,
    key: &str,
) -> Result<(), ProposeError> {
    let cause = match reason {
        "" => format!("given up by {actor}"),
        reason => format!("given up by {actor}: {reason}"),
    };
    set_state(&mut stored, State::Aborted, &cause);
    stored.ended_ms = crate::ledger::now_ms();
    let act = act(
        actor,
        "rollout.abort",
        format!("rollout/{}", stored.id),
        reason.to_owned(),
    );
    let mut writes = vec![put(table::ROLLOUT, stored.id.as_str(), version, &stored)];
    {
        let documents = node.control.read();
        let family = documents.families.get(&stored.family);
        writes.extend(family.map(|family| {
            let next = store::Family {
                target: documents.target(&family.value, &stored.id),
                ..store::Family::clone(&family.value)
            };
            let name = stored.family.as_str();
            put(table::FAMILY, name, family.version, &next)
        }));
    }
    let change = Entry {
        idempotency_key: once("rollout.abort", &stored.id, key),
        ..entry(writes, vec![act])
    };
    node.control_ledger.propose(change).await.map(|_| ())
}

/// What the order makes of the rollout. Observed is for a resumption, which forgives the failures seen so far.
fn change(
    node: &Node,
    stored: &mut store::Rollout,
    (verb, next): (Verb, State),
    observed: &Observed,
    actor: &str,
    reason: &str,
) {
    let mut cause = format!("{} by {actor}", verb.past());
    if !reason.is_empty() {
        cause = format!("{cause}: {reason}");
    }
    match verb {
        Verb::Pause | Verb::Halt => {}
        Verb::Resume => {
            node.asker.forget(&stored.id);
            for role in &mut stored.roles {
                let waves = observed
                    .roles
                    .get(&role.role)
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                role.forgiven = waves.iter().map(fleet::bucket::Counts::failures).collect();
                role.soaked_ms = 0;
                (role.open_ms, role.quiet_ms, role.outcomes) = (0, 0, 0);
            }
            // A no that was resumed in spite of is asked again; one that was said meanwhile counts now.
            if !rollout_state(stored.state()).keeps_a_no() {
                stored.answers.retain(|said| said.pass);
            }
            stored.inconclusive_ms = 0;
            stored.stopped_by.clear();
            stored.roll_back = None;
        }
        Verb::RollBack => {
            stored.roll_back = Some(store::RollBack {
                all: true,
                ..store::RollBack::default()
            })
        }
    }
    set_state(stored, next, &cause);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::control::{Control, plan_to_store, revision_key};
    use crate::ledger::Mirror;

    #[test]
    fn what_has_not_begun_is_resumed_to_where_it_waits_for_what_it_still_needs() {
        let control = Control::default();
        let mut mirror = control.mirror();
        let revision = |number, approvals| store::Revision {
            family: "web".into(),
            number,
            approvals,
            ..store::Revision::default()
        };
        for revision in [revision(1, 0), revision(2, 1)] {
            let key = revision_key("web", revision.number);
            mirror.put(table::REVISION, &key, 1, &revision.encode_to_vec());
        }
        mirror.publish(0);
        let halted = |to| store::Rollout {
            family: "web".into(),
            to,
            plan: Some(plan_to_store("default", &fleet::rollout::default_plan())),
            state: store::RolloutState::Halted.into(),
            ..store::Rollout::default()
        };
        let next = |stored: &store::Rollout| Verb::Resume.next(&control.read(), stored);
        assert_eq!(next(&halted(1)), State::Planned);
        assert_eq!(next(&halted(2)), State::AwaitingApproval);
        let glass_broken = store::Rollout {
            debt: Some(store::Debt::default()),
            ..halted(2)
        };
        assert_eq!(next(&glass_broken), State::Planned);
        let back = store::Rollout {
            back: true,
            ..halted(2)
        };
        assert_eq!(next(&back), State::Planned);
        let begun = store::Rollout {
            prepared: true,
            ..halted(2)
        };
        assert_eq!(next(&begun), State::Running);
    }
}
