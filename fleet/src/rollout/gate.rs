//! A wave's gate: pass, fail or inconclusive. Without fresh evidence it never passes.

use std::fmt;

use super::EVIDENCE_AGE_MS_MAX;
use super::checks::{Answer, Check, CheckSpec, Finding, Signs};
use super::spec::WaveSpec;
use crate::bucket::{Bucket, Counts};
use crate::offer::Failure;
use crate::waves::{Size, WHOLE};

/// When a wave passes and when it stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Thousandths of a percent of the reachable members that must have converged.
    pub success: u32,
    /// Failures that stop it; none: 1 in the first wave, 1 % later.
    pub max_failures: Option<Size>,
    /// A percentage of failures counts once so many outcomes are known, or all of a smaller wave.
    pub min_sample: u64,
    /// All that do not only observe have to pass.
    pub checks: Vec<CheckSpec>,
}

/// A wave as its gate sees it.
#[derive(Clone, Copy, Debug)]
pub struct WaveView<'a> {
    /// Where its members stand.
    pub counts: Counts,
    /// Signs that are no outcome; none: not looked at.
    pub signs: Option<Signs>,
    /// What external checks have found.
    pub findings: &'a [Finding],
    /// It is the role's first.
    pub first: bool,
    /// It is the role's last, and members of its earlier waves run the config: they prove it, and are watched on.
    pub proven: bool,
    /// Failures that a person has seen and resumed in spite of: they count neither as members nor as failures.
    pub forgiven: u64,
    /// Age of the oldest evidence; none: a partition could not be read.
    pub evidence_age_ms: Option<u64>,
    /// How long it has been open.
    pub open_ms: u64,
}

/// A gate's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough converged, and every check passes.
    Pass,
    /// Too many failed, or a check failed.
    Fail {
        /// Why.
        cause: Cause,
    },
    /// Neither can be said; never passes.
    Inconclusive {
        /// Why.
        why: Inconclusive,
    },
}

/// Why a rollout stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// As many members failed as may not fail.
    Failures {
        /// The kind most members failed with.
        failure: Failure,
        /// Failed members.
        failures: u64,
    },
    /// A check failed.
    Check {
        /// Which.
        check: Check,
        /// Its words.
        why: String,
    },
}

/// Why a gate cannot decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inconclusive {
    /// Members are on their way: the normal case. It counts towards the pause only when outcomes stop coming.
    OnTheirWay {
        /// Needed for the gate.
        needed: u64,
    },
    /// Too few have converged, and nobody is on its way any more.
    TooFew {
        /// Needed for the gate.
        needed: u64,
    },
    /// Unreachable members are given the time that their wave has for them. Does not count towards the pause: that time has
    /// its own end.
    Unreachable {
        /// So many.
        members: u64,
        /// Still to go.
        left_ms: u64,
    },
    /// A person has to answer.
    Person(String),
    /// Old evidence or none, or a check that has no answer.
    NoEvidence(String),
}

/// Members that make up so much of `members`, rounded up.
fn needed(members: u64, percent_milli: u32) -> u64 {
    (members * u64::from(percent_milli)).div_ceil(u64::from(WHOLE))
}

fn no_evidence(why: impl Into<String>) -> Verdict {
    Verdict::Inconclusive {
        why: Inconclusive::NoEvidence(why.into()),
    }
}

// === impl Gate ===

impl Default for Gate {
    fn default() -> Self {
        let checks = [Check::Converged, Check::Healthy, Check::NoRestartLoop];
        Gate {
            success: 99_000,
            max_failures: None,
            min_sample: 20,
            checks: checks.into_iter().map(CheckSpec::gate).collect(),
        }
    }
}

impl Gate {
    /// What stops a wave, now or after it has passed: failures, and collectors that restart again and again.
    pub fn stop(&self, wave: &WaveView<'_>) -> Option<Cause> {
        if !wave.is_fresh() {
            return None;
        }
        let failures = wave.failures();
        let outcomes = wave.counts.of(Bucket::Converged) + failures;
        if let Some(failure) = wave.counts.main_failure()
            && self.is_too_many(failures, outcomes, wave)
        {
            return Some(Cause::Failures { failure, failures });
        }
        let loops = wave.signs.map_or(0, |signs| signs.restart_loops);
        if self.gates(&Check::NoRestartLoop) && self.is_too_many(loops, outcomes, wave) {
            let why = format!("{loops} collectors restart again and again");
            return Some(Cause::Check {
                check: Check::NoRestartLoop,
                why,
            });
        }
        None
    }

    /// Each check with its answer, also of those that only observe.
    pub fn answers(&self, wave: &WaveView<'_>) -> Vec<(CheckSpec, Answer)> {
        let answer = |spec: &CheckSpec| (spec.clone(), self.answer(&spec.check, wave));
        self.checks.iter().map(answer).collect()
    }

    fn answer(&self, check: &Check, wave: &WaveView<'_>) -> Answer {
        if check.is_external() {
            return check.answer(wave.findings);
        }
        if !wave.is_fresh() {
            return Answer::Inconclusive("what is known of the members is too old".to_owned());
        }
        let needed = needed(wave.reachable(), self.success);
        match (check, wave.signs) {
            (Check::Converged, _) => {
                at_least(wave.counts.of(Bucket::Converged), needed, "converged")
            }
            (_, None) => Answer::Inconclusive("no evidence source".to_owned()),
            (Check::Healthy, Some(signs)) => at_least(
                wave.reachable()
                    .saturating_sub(wave.failures() + signs.unhealthy),
                needed,
                "healthy",
            ),
            (_, Some(signs)) if signs.restart_loops == 0 => Answer::Pass,
            (_, Some(signs)) => {
                let outcomes = wave.counts.of(Bucket::Converged) + wave.failures();
                let why = format!("{} collectors restart again and again", signs.restart_loops);
                match self.is_too_many(signs.restart_loops, outcomes, wave) {
                    true => Answer::Fail(why),
                    false => Answer::Pass,
                }
            }
        }
    }

    fn gates(&self, check: &Check) -> bool {
        self.checks
            .iter()
            .any(|spec| spec.check == *check && !spec.observe)
    }

    fn is_too_many(&self, failures: u64, outcomes: u64, wave: &WaveView<'_>) -> bool {
        let limit = self.max_failures.unwrap_or(match wave.first {
            true => Size::Count(1),
            false => Size::Percent(1_000),
        });
        let reachable = wave.reachable();
        match limit {
            Size::Count(count) => failures >= count.max(1),
            Size::Percent(percent) => {
                let sampled = outcomes >= self.min_sample.min(reachable);
                sampled && failures >= needed(reachable, percent).max(1)
            }
        }
    }
}

fn at_least(found: u64, needed: u64, what: &str) -> Answer {
    match found >= needed {
        true => Answer::Pass,
        false => Answer::Inconclusive(format!("{found} of {needed} needed are {what}")),
    }
}

// === impl WaveSpec ===

impl WaveSpec {
    /// Judges a wave by this spec.
    pub fn judge(&self, wave: &WaveView<'_>) -> Verdict {
        match wave.evidence_age_ms {
            None => return no_evidence("a partition cannot be read"),
            Some(age) if age > EVIDENCE_AGE_MS_MAX => {
                return no_evidence("what is known of the members is too old");
            }
            Some(_) => {}
        }
        if let Some(cause) = self.gate.stop(wave) {
            return Verdict::Fail { cause };
        }
        let answers: Vec<(Check, Answer)> = self
            .gate
            .answers(wave)
            .into_iter()
            .filter(|(spec, _)| !spec.observe)
            .map(|(spec, answer)| (spec.check, answer))
            .collect();
        for (check, answer) in &answers {
            if let Answer::Fail(why) = answer {
                let (check, why) = (check.clone(), why.clone());
                return Verdict::Fail {
                    cause: Cause::Check { check, why },
                };
            }
        }
        self.judge_members(wave, &answers)
            .or_else(|| judge_external(&answers))
            .unwrap_or(Verdict::Pass)
    }

    /// What keeps the members from passing; none: nothing.
    fn judge_members(&self, wave: &WaveView<'_>, answers: &[(Check, Answer)]) -> Option<Verdict> {
        let members = wave.counts.members() - wave.counts.of(Bucket::Unchanged);
        // The last wave may pass without, where those before it prove the config: nothing follows that could be harmed, and
        // whoever is silent converges on return. A lone laptop that sleeps holds nobody up.
        if wave.reachable() == 0 && members > wave.forgiven && !wave.proven {
            let unreachable = wave.unreachable();
            return Some(no_evidence(format!(
                "none of its {members} members can be judged, {unreachable} cannot be reached: wait for one of them, or start \
                 anew, where those that are there go first"
            )));
        }
        let missing = |(check, answer): &(Check, Answer)| match answer {
            Answer::Inconclusive(why) if !check.is_external() => Some(why.clone()),
            _ => None,
        };
        if let Some(why) = answers.iter().find_map(missing) {
            let needed = needed(wave.reachable(), self.gate.success);
            return Some(if wave.on_their_way() > 0 {
                Verdict::Inconclusive {
                    why: Inconclusive::OnTheirWay { needed },
                }
            } else if wave.counts.of(Bucket::Converged) < needed {
                Verdict::Inconclusive {
                    why: Inconclusive::TooFew { needed },
                }
            } else {
                no_evidence(format!("every member has an outcome, but {why}"))
            });
        }
        let unreachable = wave.unreachable();
        let limit = self.max_unreachable.map(|limit| match limit {
            Size::Count(count) => count,
            Size::Percent(percent) => needed(members, percent),
        });
        if unreachable > 0 && wave.open_ms < self.unreachable_ms {
            let left_ms = self.unreachable_ms - wave.open_ms;
            let why = Inconclusive::Unreachable {
                members: unreachable,
                left_ms,
            };
            return Some(Verdict::Inconclusive { why });
        }
        let limit = limit.filter(|limit| unreachable > *limit)?;
        Some(no_evidence(format!(
            "{unreachable} members cannot be reached, {limit} may be: wait for them, forget those that are gone for good \
             (`muster agents forget`), or start anew with a larger maxUnreachable"
        )))
    }
}

/// What keeps external checks from passing; none: nothing.
fn judge_external(answers: &[(Check, Answer)]) -> Option<Verdict> {
    let mut person = None;
    for (check, answer) in answers {
        let Answer::Inconclusive(why) = answer else {
            continue;
        };
        match check {
            Check::Person(who) => person = Some(who.clone()),
            check => return Some(no_evidence(format!("check {check} is inconclusive: {why}"))),
        }
    }
    person.map(|who| Verdict::Inconclusive {
        why: Inconclusive::Person(who),
    })
}

// === impl WaveView ===

impl WaveView<'_> {
    fn is_fresh(&self) -> bool {
        self.evidence_age_ms
            .is_some_and(|age| age <= EVIDENCE_AGE_MS_MAX)
    }

    fn forgiven(&self) -> u64 {
        self.forgiven.min(self.counts.failures())
    }

    fn reachable(&self) -> u64 {
        self.counts.reachable() - self.forgiven()
    }

    fn failures(&self) -> u64 {
        self.counts.failures() - self.forgiven()
    }

    fn unreachable(&self) -> u64 {
        self.counts.of(Bucket::NotReached) + self.counts.of(Bucket::Unverifiable)
    }

    /// Neither converged nor failed.
    fn on_their_way(&self) -> u64 {
        self.reachable() - self.counts.of(Bucket::Converged) - self.failures()
    }
}

// === impl Cause ===

impl Cause {
    /// The failure kind that it is, or amounts to.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Cause::Failures { failure, .. } => Some(*failure),
            Cause::Check {
                check: Check::NoRestartLoop,
                ..
            } => Some(Failure::Crashed),
            Cause::Check {
                check: Check::Flow, ..
            } => Some(Failure::FlowLost),
            Cause::Check { .. } => None,
        }
    }

    /// The word people see.
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Failures { failure, .. } => failure.name(),
            Cause::Check { check, .. } => check.name(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Failures { failure, failures } => write!(f, "{failures} {}", failure.name()),
            Cause::Check { check, why } => write!(f, "check {check} failed: {why}"),
        }
    }
}
