//! A plan as written: waves, gates, and what follows a stop.

use super::checks::Check;
use super::gate::{Cause, Gate};
use crate::digest::Digest;
use crate::offer::Failure;
use crate::program::Scope;
use crate::selector::Selector;
use crate::waves::{self, Size, WHOLE};

/// Most waves of a plan: what a person still follows.
pub const WAVES_MAX: usize = 32;

/// Waves and what follows a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSpec {
    /// At least one; the last may be implicit.
    pub waves: Vec<WaveSpec>,
    /// What follows a stop.
    pub on_stop: OnStop,
    /// Order roles within each wave instead of over the whole rollout: for roles that share no gateways.
    pub interleave: bool,
    /// Passes freezes and has a raised budget. Its gates are shortened, never skipped.
    pub urgent: bool,
}

/// One wave as written in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaveSpec {
    /// Cumulative.
    pub size: Size,
    /// Only these members.
    pub selector: Option<Selector>,
    /// Only members in this zone.
    pub zone: Option<String>,
    /// How long its members have to stay converged.
    pub soak_ms: u64,
    /// Offers without an outcome at any time; 0 = no limit.
    pub max_in_flight: u32,
    /// Unreachable and unverifiable members that a pass tolerates; none: no limit, as long as
    /// somebody can be judged, or those before the last wave could.
    pub max_unreachable: Option<Size>,
    /// How long it waits for unreachable members before it goes on without them, or counts the 15 minutes where there are too
    /// many.
    pub unreachable_ms: u64,
    /// Not passed after so long: the rollout pauses.
    pub deadline_ms: Option<u64>,
    /// When it passes and when it stops.
    pub gate: Gate,
}

/// What happens when a wave's gate fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// The first wave rolls back by itself; later ones hold, unless collectors crash or data stops flowing: then all
    /// roll back.
    Default,
    /// Stand still; a person decides.
    Hold,
    /// The wave that failed goes back.
    RollBackWave,
    /// Every wave goes back.
    RollBackAll,
}

/// What is wrong with a plan as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// None, or too many.
    #[error("the plan has {0} waves: give it 1 to {WAVES_MAX}")]
    Waves(usize),
    /// A size that is none.
    #[error(transparent)]
    Size(#[from] waves::Error),
    /// A gate that everything passes.
    #[error(
        "wave {wave}: success is {} %: use more than 0 % and at most 100 %; to gate on other signs, let `converged` only observe",
        f64::from(*percent) / 1000.0
    )]
    Success {
        /// Number from 1.
        wave: usize,
        /// As given.
        percent: u32,
    },
    /// A failure limit that nothing can keep.
    #[error(
        "wave {wave}: maxFailures is 0, which the rollout would stop at before it begins: use at least 1"
    )]
    NoFailures {
        /// Number from 1.
        wave: usize,
    },
    /// A check that asks nothing.
    #[error("wave {wave}: check `{check}` has no {what}: write it behind the check's name")]
    EmptyCheck {
        /// Number from 1.
        wave: usize,
        /// Name.
        check: &'static str,
        /// What it lacks.
        what: &'static str,
    },
    /// A gate without a check that counts.
    #[error(
        "wave {wave}: every check only observes, so that anything would pass: let one of them gate"
    )]
    OnlyObserves {
        /// Number from 1.
        wave: usize,
    },
    /// A wave cannot soak longer than it may take.
    #[error(
        "wave {wave}: its deadline of {deadline_s} s is over before its soak of {soak_s} s: raise the deadline"
    )]
    Deadline {
        /// Number from 1.
        wave: usize,
        /// Seconds.
        deadline_s: u64,
        /// Seconds.
        soak_s: u64,
    },
    /// An urgent plan without a canary.
    #[error("an urgent plan has {0} waves: give it a canary wave and one for everything else")]
    Urgent(usize),
    /// An urgent plan whose first wave is none.
    #[error(
        "an urgent plan begins with a canary: give its first wave a number of agents or at most 10 %, and a soak, however short"
    )]
    UrgentCanary,
}

/// The canary of an urgent plan is no more of the fleet, in thousandths of a percent. How many agents a number is, is seen
/// when it is drawn: a canary is never everybody.
const CANARY_MAX: u32 = 10_000;

/// 1 → 1 % → 10 % → 50 % → rest, each soaking: long enough for a crash after the supervisor's apply timer to show.
pub fn default_plan() -> PlanSpec {
    PlanSpec::of(vec![
        WaveSpec::of(Size::Count(1), 60_000),
        WaveSpec::of(Size::Percent(1_000), 120_000),
        WaveSpec::of(Size::Percent(10_000), 300_000),
        WaveSpec::of(Size::Percent(50_000), 300_000),
        WaveSpec::of(Size::Percent(WHOLE), 60_000),
    ])
}

/// One canary with a short soak, then everything. The soak is as short as it may be: a supervisor says APPLIED after
/// 5 s at the earliest, and a crash behind that needs a moment to show.
pub fn urgent_plan() -> PlanSpec {
    let waves = vec![
        WaveSpec::of(Size::Count(1), 30_000),
        WaveSpec::of(Size::Percent(WHOLE), 30_000),
    ];
    PlanSpec {
        urgent: true,
        ..PlanSpec::of(waves)
    }
}

/// For the way back to an earlier revision: quick, since that one has run before, but still behind one canary.
pub fn rollback_plan() -> PlanSpec {
    PlanSpec {
        on_stop: OnStop::Hold,
        urgent: false,
        ..urgent_plan()
    }
}

// === impl PlanSpec ===

impl PlanSpec {
    /// These waves, by the defaults.
    pub fn of(waves: Vec<WaveSpec>) -> Self {
        PlanSpec {
            waves,
            on_stop: OnStop::Default,
            interleave: false,
            urgent: false,
        }
    }

    /// Sizes of its waves.
    pub fn sizes(&self) -> Vec<Size> {
        self.waves.iter().map(|wave| wave.size).collect()
    }

    /// Everything that is wrong with it, without a fleet.
    pub fn check(&self) -> Vec<Error> {
        let mut errors = Vec::new();
        if self.waves.is_empty() || self.waves.len() > WAVES_MAX {
            errors.push(Error::Waves(self.waves.len()));
        }
        let sizes = self.sizes();
        let wrong = waves::check(&sizes).and_then(|()| waves::check_growing(&sizes));
        errors.extend(wrong.err().map(Error::Size));
        let is_canary = |wave: &WaveSpec| {
            let small = !matches!(wave.size, Size::Percent(percent) if percent > CANARY_MAX);
            small && wave.soak_ms > 0
        };
        match &self.waves[..] {
            [canary, _] if self.urgent && !is_canary(canary) => errors.push(Error::UrgentCanary),
            [_, _] => {}
            waves if self.urgent => errors.push(Error::Urgent(waves.len())),
            _ => {}
        }
        for (at, wave) in self.waves.iter().enumerate() {
            wave.check(at + 1, &mut errors);
        }
        errors
    }

    /// What approvals are bound to: everything that decides how the rollout goes, and not the plan's name.
    pub fn hash(&self) -> Digest {
        let mut parts: Vec<String> = vec![format!(
            "{:?} {} {}",
            self.on_stop, self.interleave, self.urgent
        )];
        parts.extend(self.waves.iter().map(WaveSpec::canonical));
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        Digest::of("muster.plan.v1", &parts)
    }
}

// === impl WaveSpec ===

impl Default for WaveSpec {
    fn default() -> Self {
        WaveSpec::of(Size::Percent(WHOLE), 0)
    }
}

impl WaveSpec {
    /// A wave of this size and soak, by the defaults.
    pub fn of(size: Size, soak_ms: u64) -> Self {
        WaveSpec {
            size,
            selector: None,
            zone: None,
            soak_ms,
            max_in_flight: 0,
            max_unreachable: None,
            unreachable_ms: 0,
            deadline_ms: None,
            gate: Gate::default(),
        }
    }

    fn check(&self, wave: usize, errors: &mut Vec<Error>) {
        let gate = &self.gate;
        if gate.success == 0 || gate.success > WHOLE {
            errors.push(Error::Success {
                wave,
                percent: gate.success,
            });
        }
        if matches!(gate.max_failures, Some(Size::Count(0) | Size::Percent(0))) {
            errors.push(Error::NoFailures { wave });
        }
        if gate.checks.iter().all(|spec| spec.observe) {
            errors.push(Error::OnlyObserves { wave });
        }
        for spec in &gate.checks {
            let (text, what) = match &spec.check {
                Check::PromQl(query) => (query, "query"),
                Check::Webhook(url) => (url, "URL"),
                Check::Person(who) => (who, "person or team"),
                _ => continue,
            };
            if text.trim().is_empty() {
                errors.push(Error::EmptyCheck {
                    wave,
                    check: spec.check.name(),
                    what,
                });
            }
        }
        if let Some(deadline) = self.deadline_ms.filter(|d| *d <= self.soak_ms) {
            errors.push(Error::Deadline {
                wave,
                deadline_s: deadline / 1000,
                soak_s: self.soak_ms / 1000,
            });
        }
    }

    /// Destructured, so that a new field cannot be left out of the hash.
    fn canonical(&self) -> String {
        let WaveSpec {
            size,
            selector,
            zone,
            soak_ms,
            max_in_flight,
            max_unreachable,
            unreachable_ms,
            deadline_ms,
            gate,
        } = self;
        let selector = selector.as_ref().map(Selector::to_string);
        let Gate {
            success,
            max_failures,
            min_sample,
            checks,
        } = gate;
        format!(
            "{size:?} {selector:?} {zone:?} {soak_ms} {max_in_flight} {max_unreachable:?} {unreachable_ms} {deadline_ms:?} \
             {success} {max_failures:?} {min_sample} {checks:?}"
        )
    }
}

// === impl OnStop ===

impl OnStop {
    /// What goes back when this wave stops for this cause; none: hold. `open_waves` are those of the role.
    pub fn scope(self, role: &str, wave: u32, open_waves: u32, cause: &Cause) -> Option<Scope> {
        let only = |wave| Scope::Wave {
            role: role.to_owned(),
            wave,
        };
        let spreads = matches!(cause.failure(), Some(Failure::Crashed | Failure::FlowLost));
        match self {
            OnStop::Hold => None,
            OnStop::RollBackWave => Some(only(wave)),
            OnStop::RollBackAll => Some(Scope::All),
            OnStop::Default if spreads => Some(Scope::All),
            OnStop::Default if open_waves == 1 => Some(only(0)),
            OnStop::Default => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckSpec;
    use super::*;

    fn messages(plan: &PlanSpec) -> Vec<String> {
        plan.check().iter().map(Error::to_string).collect()
    }

    #[test]
    fn the_plans_of_the_house_are_sound() {
        for plan in [default_plan(), urgent_plan(), rollback_plan()] {
            assert_eq!(messages(&plan), [""; 0]);
        }
        assert!(urgent_plan().urgent && !rollback_plan().urgent);
    }

    #[test]
    fn an_urgent_plan_begins_with_a_canary_that_soaks() {
        let urgent = |size, soak_ms| PlanSpec {
            urgent: true,
            ..PlanSpec::of(vec![WaveSpec::of(size, soak_ms), WaveSpec::default()])
        };
        assert_eq!(urgent(Size::Count(3), 1_000).check(), []);
        assert_eq!(urgent(Size::Percent(10_000), 1_000).check(), []);
        for (size, soak_ms) in [(Size::Percent(99_000), 1_000), (Size::Count(1), 0)] {
            assert_eq!(
                messages(&urgent(size, soak_ms)),
                [
                    "an urgent plan begins with a canary: give its first wave a number of agents or at most 10 %, and a soak, \
                     however short"
                ]
            );
        }
    }

    #[test]
    fn every_mistake_of_a_plan_is_told_with_its_way_out() {
        assert_eq!(
            messages(&PlanSpec::of(vec![])),
            ["the plan has 0 waves: give it 1 to 32"]
        );
        let observed = |check| CheckSpec {
            check,
            observe: true,
        };
        let gate = Gate {
            success: 0,
            max_failures: Some(Size::Count(0)),
            checks: vec![observed(Check::PromQl(" ".into()))],
            ..Gate::default()
        };
        let wave = WaveSpec {
            gate,
            deadline_ms: Some(5_000),
            ..WaveSpec::of(Size::Percent(0), 60_000)
        };
        let plan = PlanSpec {
            urgent: true,
            ..PlanSpec::of(vec![wave])
        };
        assert_eq!(
            messages(&plan),
            [
                "wave 1: 0 % is no share of a fleet: use more than 0 % and at most 100 %",
                "an urgent plan has 1 waves: give it a canary wave and one for everything else",
                "wave 1: success is 0 %: use more than 0 % and at most 100 %; to gate on other signs, let `converged` only observe",
                "wave 1: maxFailures is 0, which the rollout would stop at before it begins: use at least 1",
                "wave 1: every check only observes, so that anything would pass: let one of them gate",
                "wave 1: check `promql` has no query: write it behind the check's name",
                "wave 1: its deadline of 5 s is over before its soak of 60 s: raise the deadline",
            ]
        );
    }

    #[test]
    fn the_plan_hash_covers_every_wave_and_option() {
        let plan = default_plan();
        assert_eq!(plan.hash(), default_plan().hash());
        let mut other = plan.clone();
        other.interleave = true;
        assert_ne!(plan.hash(), other.hash());
        let mut other = plan.clone();
        other.waves[2].soak_ms += 1;
        assert_ne!(plan.hash(), other.hash());
        let mut other = plan.clone();
        other.waves[0].gate.checks.push(CheckSpec {
            check: Check::Flow,
            observe: true,
        });
        assert_ne!(plan.hash(), other.hash());
    }

    /// Approvals are bound to it: a line is never edited, a change is a new domain beside this one. It hashes what `Debug`
    /// says, so a renamed variant shows here.
    #[test]
    fn the_plan_hash_is_frozen() {
        let checks = [
            Check::Converged,
            Check::Healthy,
            Check::NoRestartLoop,
            Check::Flow,
            Check::Resources,
            Check::PromQl("up == 1".into()),
            Check::Webhook("https://a/b".into()),
            Check::Person("oncall".into()),
        ];
        let checks = checks.map(|check| CheckSpec {
            check,
            observe: false,
        });
        let plain = WaveSpec {
            gate: Gate {
                success: 100_000,
                max_failures: None,
                min_sample: 0,
                checks: vec![],
            },
            ..WaveSpec::of(Size::Count(1), 0)
        };
        let wave = WaveSpec {
            size: Size::Percent(10_000),
            selector: Some(Selector::parse("env = prod").unwrap()),
            zone: Some("a".into()),
            soak_ms: 60_000,
            max_in_flight: 20,
            max_unreachable: Some(Size::Count(3)),
            unreachable_ms: 120_000,
            deadline_ms: Some(3_600_000),
            gate: Gate {
                success: 99_000,
                max_failures: Some(Size::Percent(1_000)),
                min_sample: 5,
                checks: checks.to_vec(),
            },
        };
        for (on_stop, hash) in [
            (
                OnStop::Default,
                "9d029ec4d4a5bdc340e5f17c98fc0e6f70b5ee8480864761611f5599c693d7ed",
            ),
            (
                OnStop::Hold,
                "d479ed84b54f697a6067692091e34e731713a8b08984abfc54b8ffb8e822a7c3",
            ),
            (
                OnStop::RollBackWave,
                "ce60ef644786ed0d5940b4c97f14dda07b7d587e5e58c61c5f96e1b41b7f6e7c",
            ),
            (
                OnStop::RollBackAll,
                "5b51184409f9d43d785290ef89b73d59dcdf1f1a6bae13698f2f7713c5e9ce9c",
            ),
        ] {
            let plan = PlanSpec {
                waves: vec![plain.clone(), wave.clone()],
                on_stop,
                interleave: true,
                urgent: false,
            };
            assert_eq!(plan.hash().to_hex(), hash, "{on_stop:?}");
        }
    }

    #[test]
    fn what_goes_back_follows_the_policy_and_the_cause() {
        let cause = |failure| Cause::Failures {
            failure,
            failures: 1,
        };
        let wave = |wave| {
            Some(Scope::Wave {
                role: "a".into(),
                wave,
            })
        };
        let rejected = cause(Failure::Rejected);
        let flow = Cause::Check {
            check: Check::Flow,
            why: "no spans".into(),
        };
        assert_eq!(OnStop::Default.scope("a", 0, 1, &rejected), wave(0));
        assert_eq!(OnStop::Default.scope("a", 1, 2, &rejected), None);
        assert_eq!(OnStop::Default.scope("a", 1, 2, &flow), Some(Scope::All));
        assert_eq!(OnStop::Hold.scope("a", 0, 1, &flow), None);
        assert_eq!(OnStop::RollBackWave.scope("a", 1, 2, &flow), wave(1));
        assert_eq!(
            OnStop::RollBackAll.scope("a", 1, 2, &rejected),
            Some(Scope::All)
        );
    }
}
