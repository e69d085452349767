//! One offer's life, and whether an agent may be sent something now.
//!
//! `idle → offered → applying → applied | failed | rolled back by the agent | no answer | withdrawn`. Only a report
//! that names the offered hash moves it. Any other hash proves nothing, with one exception: who was applying it, or had
//! failed with it, and says in the same conversation that it has applied another one has gone back. An offer is never
//! derived from "reported ≠ desired" alone: real supervisors answer a second delivery of the same config with APPLIED
//! whatever their health.

use crate::digest::Digest;
use crate::restored::Doubt;

/// Where an offer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Written, or about to be; not answered.
    Offered,
    /// The agent said that it is applying it.
    Applying,
    /// The agent said that it applied it.
    Applied,
    /// The agent said that it failed.
    Failed,
    /// It failed, and the agent went back to an older config by itself.
    RolledBackByAgent,
    /// The time for an answer has passed.
    NoAnswer,
    /// Taken back by a halt before the agent answered.
    Withdrawn,
}

/// What an agent says about a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Nothing yet.
    Unset,
    /// In work.
    Applying,
    /// Done.
    Applied,
    /// Not done.
    Failed,
}

/// Last authorised offer of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Delivery hash.
    pub hash: Digest,
    /// Where it stands.
    pub state: State,
    /// How often this hash was granted since a person last asked for it.
    pub grants: u32,
    /// Milliseconds since it was granted.
    pub age_ms: u64,
}

/// What matters for the question "may something be sent now?".
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// What the agent should run; none: leave it.
    pub desired: Option<Digest>,
    /// May it be sent now? See [`crate::program::Desired::offerable`].
    pub offerable: bool,
    /// Is there room in the quota of its failure domain? True for what needs none: see [`crate::budget::needs_room`].
    pub has_room: bool,
    /// Last authorised offer.
    pub last: Option<Offer>,
    /// Last reported hash and status.
    pub reported: Option<(Digest, Reported)>,
    /// Hashes it failed or rolled back from, until a person says otherwise.
    pub refused: &'a [Digest],
    /// It declares AcceptsRemoteConfig.
    pub accepts: bool,
    /// It stands for many collectors: a map key that is missing deletes one, so it is shown and never configured.
    pub many_collectors: bool,
    /// Two agents speak with its uid.
    pub duplicate: bool,
    /// What a restore has left open about it.
    pub doubt: Doubt,
    /// What it runs is to be somebody else's: another family's or role's, with the same config.
    pub changes_owner: bool,
    /// The report at hand is a full one that names another hash and whose collector started before the offer.
    pub proves_not_received: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send this hash.
    Offer(Digest),
    /// The agent runs it already, by its own word: write that down, send nothing.
    Adopt(Digest),
    /// Send nothing.
    Nothing(Why),
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It should keep what it has.
    NothingDesired,
    /// Its rollout stands still.
    StandsStill,
    /// As many agents of its failure domain are in flight or unhealthy as may be.
    NoRoom,
    /// It does not take remote configuration.
    DoesNotAccept,
    /// It stands for many collectors.
    ManyCollectors,
    /// Two agents speak with its uid.
    Duplicate,
    /// It has not said since a restore what it runs.
    Unheard,
    /// It runs what the restored database never offered to it.
    Conflict,
    /// It failed with this config before.
    Refused,
    /// It has been offered and has not answered yet.
    Outstanding,
    /// It has it, or had its chance.
    Settled,
}

/// May something be sent now?
pub fn decide(s: &Situation<'_>) -> Decision {
    let Some(desired) = s.desired else {
        return Decision::Nothing(Why::NothingDesired);
    };
    if !s.accepts {
        return Decision::Nothing(Why::DoesNotAccept);
    }
    if s.many_collectors {
        return Decision::Nothing(Why::ManyCollectors);
    }
    if s.duplicate {
        return Decision::Nothing(Why::Duplicate);
    }
    let runs_it = s.reported == Some((desired, Reported::Applied));
    match s.doubt {
        Doubt::None => {}
        Doubt::Unheard => return Decision::Nothing(Why::Unheard),
        // It says itself that it runs what it should: there is nothing left to be resolved.
        Doubt::Conflict(_) if runs_it => return Decision::Adopt(desired),
        Doubt::Conflict(_) => return Decision::Nothing(Why::Conflict),
    }
    if s.refused.contains(&desired) {
        return Decision::Nothing(Why::Refused);
    }
    match s.last {
        Some(last) if last.hash == desired => match last.state {
            State::Offered | State::Applying => Decision::Nothing(Why::Outstanding),
            State::Applied if s.changes_owner && s.offerable => Decision::Adopt(desired),
            State::Applied | State::Failed | State::RolledBackByAgent => {
                Decision::Nothing(Why::Settled)
            }
            State::NoAnswer | State::Withdrawn if runs_it => Decision::Adopt(desired),
            State::NoAnswer if last.grants < 2 && s.proves_not_received => s.offer(desired),
            State::NoAnswer if s.offerable => Decision::Nothing(Why::Settled),
            State::NoAnswer | State::Withdrawn => s.offer(desired),
        },
        // What it says it runs is from before an offer that may still reach it: only a new offer settles that.
        Some(last) if is_unsettled(last.state) => s.offer(desired),
        _ if runs_it => Decision::Adopt(desired),
        _ => s.offer(desired),
    }
}

// === impl Situation ===

impl Situation<'_> {
    fn offer(&self, hash: Digest) -> Decision {
        match (self.offerable, self.has_room) {
            (false, _) => Decision::Nothing(Why::StandsStill),
            (true, false) => Decision::Nothing(Why::NoRoom),
            (true, true) => Decision::Offer(hash),
        }
    }
}

/// May the agent have it, or get it yet, without having said so?
fn is_unsettled(state: State) -> bool {
    matches!(
        state,
        State::Offered | State::Applying | State::NoAnswer | State::Withdrawn
    )
}

/// How a report moves the last offer. `None`: it does not. `begins_anew`: it is the first of a conversation, so that it may
/// be of a clone, or tell of a time before the offer.
pub fn on_report(
    last: &Offer,
    hash: Digest,
    reported: Reported,
    begins_anew: bool,
) -> Option<State> {
    use State::{Applied, Applying, Failed, NoAnswer, Offered, RolledBackByAgent, Withdrawn};
    let next = if hash == last.hash {
        match (last.state, reported) {
            // A late answer is an answer. After a withdrawal it tells that the agent had it all the same.
            (Offered | Applying | NoAnswer | Withdrawn, Reported::Applied) => Applied,
            (Offered | NoAnswer | Withdrawn, Reported::Applying) => Applying,
            // A person has asked for it again, and nothing was sent since: it repeats what it has said before.
            (Withdrawn, Reported::Failed) if last.grants == 0 => return None,
            (Offered | Applying | Applied | NoAnswer | Withdrawn, Reported::Failed) => Failed,
            // Failed stays failed until a person asks again: APPLIED after FAILED is how a supervisor answers a
            // second delivery, not proof of health.
            _ => return None,
        }
    } else {
        match (last.state, reported) {
            // FAILED may never arrive: a client keeps one status to send, and the next one takes its place.
            (Applying | Failed, Reported::Applied) if !begins_anew => RolledBackByAgent,
            _ => return None,
        }
    };
    Some(next)
}

/// An unanswered offer of this age: is it still open?
pub fn on_time(last: &Offer, timeout_ms: u64) -> Option<State> {
    (matches!(last.state, State::Offered | State::Applying) && last.age_ms >= timeout_ms)
        .then_some(State::NoAnswer)
}

/// The failure kinds by which a rollout stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The agent refused the config.
    Rejected,
    /// The collector died of it.
    Crashed,
    /// The agent went back by itself.
    RolledBackByAgent,
    /// Not healthy for 30 s without a break, in an agent that was healthy before its offer.
    Unhealthy,
    /// No word about the offer in time.
    NoAnswer,
    /// Silent after its offer.
    Vanished,
    /// Its own telemetry left before the offer and leaves no more.
    FlowLost,
}

impl Failure {
    /// The word people see.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Rejected => "rejected",
            Failure::Crashed => "crashed",
            Failure::RolledBackByAgent => "rolled back by the agent",
            Failure::Unhealthy => "unhealthy",
            Failure::NoAnswer => "no answer",
            Failure::Vanished => "vanished",
            Failure::FlowLost => "flow lost",
        }
    }
}

/// Did the collector die, or did it refuse? Supervisors say both with FAILED; the text tells.
pub fn failure_of(error: &str) -> Failure {
    let error = error.to_ascii_lowercase();
    let died = [
        "exited unexpectedly",
        "exit code",
        "exited with",
        "signal:",
        "panic:",
    ];
    if died.iter().any(|sign| error.contains(sign)) {
        Failure::Crashed
    } else {
        Failure::Rejected
    }
}

#[cfg(test)]
mod tests;
