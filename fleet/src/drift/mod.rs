//! Drift: what an agent runs is not what it should run, in one of five ways. Reported, never healed silently.

mod content;

use std::fmt;

use crate::digest::Digest;
use crate::offer::{Reported, State};
use crate::program::RevisionNumber;
use crate::versions::Violation;

pub use content::{Content, Difference, Layer, Origin, Sort, content};

/// One way in which an agent is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Its effective config is not what was delivered; no difference: which keys differ is not known.
    Content(Vec<Difference>),
    /// It runs an older revision than its family's.
    Assignment {
        /// The one that it runs; none: of no revision that is known.
        runs: Option<RevisionNumber>,
        /// The one that it should run.
        should: RevisionNumber,
    },
    /// Its collector is outside of the family's version policy.
    Version(Violation),
    /// Two agents speak with its uid, or it came back from a snapshot.
    Identity(Identity),
    /// It runs its last good config, since the newer one failed.
    Fallback {
        /// What failed.
        failed: Digest,
        /// What it runs; none: it does not say.
        runs: Option<Digest>,
    },
}

/// What is wrong with who it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Two agents, one uid.
    Duplicate,
    /// It speaks of a past that was over: a snapshot was put back.
    Reverted {
        /// What it says it runs, as it did before.
        runs: Digest,
        /// What it had applied since.
        applied: Digest,
    },
}

/// Was the agent's machine put back to an older snapshot? By its own word it had applied the last delivery, and now
/// it says the same of one that it got before, though nothing was offered in between. `earlier` are those deliveries.
///
/// A sequence number or a start that went back proves nothing by itself: a supervisor that is started again begins
/// anew, too, and reports what it runs.
pub fn reverted(
    last: Option<(Digest, State)>,
    earlier: &[Digest],
    reported: Option<(Digest, Reported)>,
) -> Option<Identity> {
    let ((applied, State::Applied), (runs, Reported::Applied)) = (last?, reported?) else {
        return None;
    };
    (runs != applied && earlier.contains(&runs)).then_some(Identity::Reverted { runs, applied })
}

/// An agent as far as drift goes.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The effective config against the delivered one; none: nothing was delivered or reported, or it was not looked at.
    pub content: Option<&'a Content>,
    /// What it runs contradicted what was delivered when it was reported, before anything was redacted.
    pub contradicts: bool,
    /// The revision that it should run and its delivery; none: it is not owned, or a rollout decides for it.
    pub should: Option<(RevisionNumber, Digest)>,
    /// Last reported hash and status.
    pub reported: Option<(Digest, Reported)>,
    /// The revision of its family that has this delivery.
    pub reported_revision: Option<RevisionNumber>,
    /// Hash that it failed with and went back from by itself, if that was the last thing offered.
    pub went_back_from: Option<Digest>,
    /// Why its version is outside.
    pub version: Option<Violation>,
    /// What is wrong with its identity.
    pub identity: Option<Identity>,
}

/// Every drift of an agent. An agent with an identity that is none is judged by nothing else: what it says is not
/// known to be its own.
pub fn drift(subject: &Subject<'_>) -> Vec<Drift> {
    if let Some(identity) = subject.identity {
        return vec![Drift::Identity(identity)];
    }
    let mut found = Vec::new();
    let differences = subject.content.into_iter().flat_map(Content::differences);
    let differences: Vec<Difference> = differences.cloned().collect();
    if subject.contradicts || !differences.is_empty() {
        found.push(Drift::Content(differences));
    }
    if let Some(failed) = subject.went_back_from {
        let runs = subject.reported.map(|(hash, _)| hash);
        let runs = runs.filter(|hash| *hash != failed);
        found.push(Drift::Fallback { failed, runs });
    } else if let (Some((should, delivery)), Some((hash, Reported::Applied))) =
        (subject.should, subject.reported)
        && hash != delivery
    {
        found.push(Drift::Assignment {
            runs: subject.reported_revision,
            should,
        });
    }
    found.extend(subject.version.clone().map(Drift::Version));
    found
}

/// What a family does about drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Shows it.
    #[default]
    Report,
    /// Sends the same config once more, where that can help.
    ReOffer,
}

/// What follows from a drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is shown.
    Report(Why),
    /// The delivery is offered once more, in the ordinary way.
    ReOffer,
}

/// Why a drift is only shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// By policy.
    Policy,
    /// No config can heal it.
    NotByConfig,
    /// It failed with that config: only a person retries.
    Refused,
    /// It was offered once more already, and drifted again.
    TriedBefore,
    /// The failure domain's budget is used up: later.
    NoRoom,
}

/// May the delivery be offered once more? One time per drift: an agent that answers a second delivery with APPLIED
/// whatever it runs would otherwise look healed, or be restarted for ever.
pub fn answer(drift: &Drift, policy: Policy, refused: bool, tried: bool, has_room: bool) -> Answer {
    let helps = matches!(
        drift,
        Drift::Content(_) | Drift::Assignment { .. } | Drift::Identity(Identity::Reverted { .. })
    );
    match (policy, helps) {
        (Policy::Report, _) => Answer::Report(Why::Policy),
        (_, false) => Answer::Report(Why::NotByConfig),
        _ if refused => Answer::Report(Why::Refused),
        _ if tried => Answer::Report(Why::TriedBefore),
        _ if !has_room => Answer::Report(Why::NoRoom),
        _ => Answer::ReOffer,
    }
}

// === impl Drift ===

impl Drift {
    /// The kind, as people write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Drift::Content(_) => "content",
            Drift::Assignment { .. } => "assignment",
            Drift::Version(_) => "version",
            Drift::Identity(_) => "identity",
            Drift::Fallback { .. } => "fallback",
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind())?;
        match self {
            Drift::Content(differences) if differences.is_empty() => f.write_str(
                "what it runs contradicts what was delivered, in keys that are not known",
            ),
            Drift::Content(differences) => {
                let lines: Vec<String> = differences.iter().map(Difference::to_string).collect();
                f.write_str(&lines.join("; "))
            }
            Drift::Assignment {
                runs: Some(runs),
                should,
            } => write!(f, "runs revision {}, should run {}", runs.0, should.0),
            Drift::Assignment { runs: None, should } => write!(
                f,
                "runs a config of no known revision, should run revision {}",
                should.0
            ),
            Drift::Version(violation) => write!(f, "{violation}"),
            Drift::Identity(Identity::Duplicate) => f.write_str("two agents speak with one uid"),
            Drift::Identity(Identity::Reverted { runs, applied }) => write!(
                f,
                "its machine was put back to an older snapshot: it runs {runs} again, which it got before {applied}"
            ),
            Drift::Fallback { failed, runs } => {
                write!(f, "{failed} failed, it runs its last good config")?;
                runs.map_or(Ok(()), |runs| write!(f, " {runs}"))
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::ReOffer => "offered once more",
            Answer::Report(Why::Policy) => "reported",
            Answer::Report(Why::NotByConfig) => "reported: no config can heal it",
            Answer::Report(Why::Refused) => {
                "reported: it failed with that config, only a person retries"
            }
            Answer::Report(Why::TriedBefore) => {
                "reported: it was offered once more already, and drifted again"
            }
            Answer::Report(Why::NoRoom) => {
                "reported: its failure domain has no room, it is offered once more later"
            }
        })
    }
}

#[cfg(test)]
mod tests;
