//! A rollout's life cycle, its plan and its gate: `plan(rollout, observed, elapsed) → Plan`.
//!
//! Pure: the controller observes, calls [`plan`], and proposes what it says. A step that cannot go on says what it
//! waits for. Nothing passes without fresh evidence.

use std::collections::BTreeMap;
use std::fmt;

use crate::bucket::{Bucket, Counts};
use crate::offer::Failure;
use crate::waves::{Size, WHOLE};

/// After so long without a decision a gate pauses its rollout.
pub const INCONCLUSIVE_MS_MAX: u64 = 15 * 60_000;

/// Evidence older than this decides nothing. The controller looks every half second, so that ten looks may fail.
pub const EVIDENCE_AGE_MS_MAX: u64 = 5_000;

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its lists are being made.
    Planned,
    /// Needs approvals.
    AwaitingApproval,
    /// Moves.
    Running,
    /// Stands still until a person resumes it.
    Paused,
    /// Stopped by a gate or a person.
    Halted,
    /// Gives members back what they had.
    RollingBack,
    /// Has given everything back.
    RolledBack,
    /// Everyone has converged or is a named exception.
    Completed,
    /// Given up before anything was offered.
    Aborted,
    /// Replaced by a newer revision's rollout.
    Superseded,
}

impl State {
    /// Every state.
    pub const ALL: [State; 10] = [
        State::Planned,
        State::AwaitingApproval,
        State::Running,
        State::Paused,
        State::Halted,
        State::RollingBack,
        State::RolledBack,
        State::Completed,
        State::Aborted,
        State::Superseded,
    ];

    /// The whole life cycle.
    pub fn can_move_to(self, next: State) -> bool {
        use State::{
            Aborted, AwaitingApproval, Completed, Halted, Paused, Planned, RolledBack, RollingBack,
            Running, Superseded,
        };
        match self {
            Planned => matches!(next, AwaitingApproval | Running | Aborted),
            AwaitingApproval => matches!(next, Running | Aborted),
            Running => matches!(next, Paused | Halted | RollingBack | Completed | Superseded),
            Paused => matches!(next, Running | Halted | RollingBack | Superseded),
            Halted => matches!(next, Running | RollingBack | Superseded),
            RollingBack => matches!(next, RolledBack | Halted),
            RolledBack | Completed | Aborted | Superseded => false,
        }
    }

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        State::ALL.iter().all(|next| !self.can_move_to(*next))
    }

    /// The word people see.
    pub fn name(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::AwaitingApproval => "awaiting approval",
            State::Running => "running",
            State::Paused => "paused",
            State::Halted => "halted",
            State::RollingBack => "rolling back",
            State::RolledBack => "rolled back",
            State::Completed => "completed",
            State::Aborted => "aborted",
            State::Superseded => "superseded",
        }
    }
}

/// What happens when a wave's gate fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// The first wave rolls back by itself; later ones hold, unless collectors crash: then all roll back.
    Default,
    /// Stand still; a person decides.
    Hold,
    /// The wave that failed goes back.
    RollBackWave,
    /// Every wave goes back.
    RollBackAll,
}

/// Waves and what follows a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSpec {
    /// At least one; the last may be implicit.
    pub waves: Vec<WaveSpec>,
    /// What follows a stop.
    pub on_stop: OnStop,
}

/// One wave as written in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveSpec {
    /// Cumulative.
    pub size: Size,
    /// How long its members have to stay converged.
    pub soak_ms: u64,
    /// Offers without an outcome at any time; 0 = no limit.
    pub max_in_flight: u32,
    /// When it passes and when it stops.
    pub gate: Gate,
}

/// When a wave passes and when it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Thousandths of a percent of the reachable members that must have converged.
    pub success: u32,
    /// Failures that stop it; none: 1 in the first wave, 1 % later.
    pub max_failures: Option<Size>,
    /// A percentage of failures counts once so many outcomes are known, or all of a smaller wave.
    pub min_sample: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            success: 99_000,
            max_failures: None,
            min_sample: 20,
        }
    }
}

/// 1 → 1 % → 10 % → 50 % → rest, each soaking: long enough for a crash after the supervisor's apply timer to show.
pub fn default_plan() -> PlanSpec {
    let wave = |size, soak_ms| WaveSpec {
        size,
        soak_ms,
        max_in_flight: 0,
        gate: Gate::default(),
    };
    PlanSpec {
        waves: vec![
            wave(Size::Count(1), 60_000),
            wave(Size::Percent(1_000), 120_000),
            wave(Size::Percent(10_000), 300_000),
            wave(Size::Percent(50_000), 300_000),
            wave(Size::Percent(WHOLE), 60_000),
        ],
        on_stop: OnStop::Default,
    }
}

/// What a rollout has become so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Where it is.
    pub state: State,
    /// Waves and what follows a stop.
    pub plan: PlanSpec,
    /// In the order in which they go.
    pub roles: Vec<Role>,
    /// What goes back, once that was decided.
    pub roll_back: Option<crate::program::RollBack>,
    /// Milliseconds for which the gate could not decide.
    pub inconclusive_ms: u64,
}

/// One role's way through the waves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Name.
    pub name: String,
    /// Roles that have to be done first.
    pub after: Vec<String>,
    /// Where each wave ends; empty when the role has no members.
    pub wave_ends: Vec<u64>,
    /// Waves that are open; 0 = not begun.
    pub open_waves: u32,
    /// How long the newest open wave has met its gate.
    pub soaked_ms: u64,
    /// Its last wave has passed.
    pub done: bool,
    /// By wave: failures that a person has seen and resumed in spite of. They count neither way.
    pub forgiven: Vec<u64>,
}

/// What was seen of the members: by role, by wave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Counts of each wave of each role.
    pub roles: BTreeMap<String, Vec<Counts>>,
    /// Age of the oldest partition's evidence; none: a partition could not be read.
    pub evidence_age_ms: Option<u64>,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Soak of the newest open wave by role, to be kept.
    pub soaked_ms: BTreeMap<String, u64>,
    /// How long the gate could not decide, to be kept.
    pub inconclusive_ms: u64,
    /// What keeps it from going on.
    pub waiting: Vec<Waiting>,
}

/// One change of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next wave of this role begins.
    OpenWave {
        /// Role.
        role: String,
        /// Index from 0.
        wave: u32,
    },
    /// The role's last wave has passed.
    FinishRole {
        /// Role.
        role: String,
    },
    /// Every role is done.
    Complete,
    /// A gate failed.
    Stop {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// The kind most members failed with.
        failure: Failure,
        /// Failed members.
        failures: u64,
        /// What to take back; none: hold.
        roll_back: Option<crate::program::Scope>,
    },
    /// The gate could not decide for too long.
    Pause,
    /// The next role's turn to go back.
    OpenRollBack {
        /// Role.
        role: String,
    },
    /// Everything went back.
    FinishRollBack,
}

/// What a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A role that goes first.
    Role {
        /// Who waits.
        role: String,
        /// For whom.
        after: String,
    },
    /// Members of the open wave that have no outcome yet.
    Members {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// Converged so far.
        converged: u64,
        /// Needed for the gate.
        needed: u64,
        /// Not picked up, applying, soaking.
        in_flight: u64,
    },
    /// The soak.
    Soak {
        /// Role.
        role: String,
        /// Wave index from 0.
        wave: u32,
        /// Still to go.
        left_ms: u64,
    },
    /// Evidence.
    Evidence {
        /// Why there is none.
        why: String,
    },
    /// Members that have not gone back yet.
    Returning {
        /// Role.
        role: String,
        /// So many.
        members: u64,
    },
    /// A person.
    Person {
        /// To do what.
        what: String,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Role { role, after } => write!(f, "{after}, which goes before {role}"),
            Waiting::Members {
                role,
                wave,
                converged,
                needed,
                in_flight,
            } => {
                write!(
                    f,
                    "{role} wave {}: {converged} of {needed} needed have converged, {in_flight} on their way",
                    wave + 1
                )
            }
            Waiting::Soak {
                role,
                wave,
                left_ms,
            } => {
                write!(
                    f,
                    "{role} wave {}: soaking for another {} s",
                    wave + 1,
                    left_ms.div_ceil(1000)
                )
            }
            Waiting::Evidence { why } => write!(f, "evidence: {why}"),
            Waiting::Returning { role, members } => {
                write!(f, "{role}: {members} agents have not gone back yet")
            }
            Waiting::Person { what } => write!(f, "a person: {what}"),
        }
    }
}

/// A gate's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough converged.
    Pass,
    /// Too many failed.
    Fail {
        /// The kind most members failed with.
        failure: Failure,
        /// Failed members.
        failures: u64,
    },
    /// Neither can be said; never passes.
    Inconclusive {
        /// Why.
        why: Inconclusive,
    },
}

/// Why a gate cannot decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inconclusive {
    /// Members are on their way: the normal case, which does not count towards the pause.
    OnTheirWay {
        /// Needed for the gate.
        needed: u64,
    },
    /// Old evidence, or none.
    NoEvidence(String),
}

impl Gate {
    /// Judges one wave. `forgiven` failures count neither as members nor as failures.
    pub fn judge(
        &self,
        counts: &Counts,
        first: bool,
        forgiven: u64,
        evidence_age_ms: Option<u64>,
    ) -> Verdict {
        let no_evidence = |why: &str| Verdict::Inconclusive {
            why: Inconclusive::NoEvidence(why.to_owned()),
        };
        match evidence_age_ms {
            None => return no_evidence("a partition cannot be read"),
            Some(age) if age > EVIDENCE_AGE_MS_MAX => {
                return no_evidence("what is known of the members is too old");
            }
            Some(_) => {}
        }
        let forgiven = forgiven.min(counts.failures());
        let reachable = counts.reachable() - forgiven;
        let failures = counts.failures() - forgiven;
        if let Some(failure) = counts.main_failure()
            && self.stops(
                failures,
                counts.of(Bucket::Converged) + failures,
                reachable,
                first,
            )
        {
            return Verdict::Fail { failure, failures };
        }
        if reachable == 0 {
            let nothing_to_judge = counts.members() == counts.of(Bucket::Unchanged);
            return if nothing_to_judge {
                Verdict::Pass
            } else {
                no_evidence("no member of the wave can be judged")
            };
        }
        let needed = needed(reachable, self.success);
        let converged = counts.of(Bucket::Converged);
        if converged >= needed {
            Verdict::Pass
        } else if converged + failures == reachable {
            no_evidence("too few converged, and no member is on its way")
        } else {
            Verdict::Inconclusive {
                why: Inconclusive::OnTheirWay { needed },
            }
        }
    }

    fn stops(&self, failures: u64, outcomes: u64, reachable: u64, first: bool) -> bool {
        let limit = self.max_failures.unwrap_or(if first {
            Size::Count(1)
        } else {
            Size::Percent(1_000)
        });
        match limit {
            Size::Count(count) => failures >= count.max(1),
            Size::Percent(percent) => {
                let sampled = outcomes >= self.min_sample.min(reachable);
                sampled && failures >= needed(reachable, percent).max(1)
            }
        }
    }
}

/// Members that make up so much of `members`, rounded up.
fn needed(members: u64, percent_milli: u32) -> u64 {
    (members * u64::from(percent_milli)).div_ceil(u64::from(WHOLE))
}

/// The next steps, what to keep, and what is waited for. `elapsed_ms` since the last call, by a monotonic clock.
pub fn plan(rollout: &Rollout, observed: &Observed, elapsed_ms: u64) -> Plan {
    match rollout.state {
        State::Running => advance(rollout, observed, elapsed_ms),
        State::RollingBack => go_back(rollout, observed),
        state => Plan {
            waiting: standing(state),
            inconclusive_ms: rollout.inconclusive_ms,
            ..Plan::default()
        },
    }
}

fn standing(state: State) -> Vec<Waiting> {
    let what = match state {
        State::Paused => "resume, halt or roll back",
        State::Halted => "resume or roll back",
        State::AwaitingApproval => "approve",
        _ => return vec![],
    };
    vec![Waiting::Person {
        what: what.to_owned(),
    }]
}

fn advance(rollout: &Rollout, observed: &Observed, elapsed_ms: u64) -> Plan {
    let mut plan = Plan::default();
    let mut stuck = false;
    let mut done: Vec<&str> = rollout
        .roles
        .iter()
        .filter(|r| r.done)
        .map(|r| r.name.as_str())
        .collect();
    for role in &rollout.roles {
        if role.done {
            if let Some(stop) = failing(rollout, role, observed) {
                plan.steps = vec![stop];
                return plan;
            }
            continue;
        }
        if let Some(after) = role
            .after
            .iter()
            .find(|after| !done.contains(&after.as_str()) && rollout.has_role(after))
        {
            plan.waiting.push(Waiting::Role {
                role: role.name.clone(),
                after: after.clone(),
            });
            continue;
        }
        if role.wave_ends.is_empty() {
            plan.steps.push(Step::FinishRole {
                role: role.name.clone(),
            });
            done.push(&role.name);
            continue;
        }
        if role.open_waves == 0 {
            plan.steps.push(Step::OpenWave {
                role: role.name.clone(),
                wave: 0,
            });
            continue;
        }
        match judge_role(rollout, role, observed, elapsed_ms, &mut plan) {
            RoleMove::Stopped => return plan,
            RoleMove::Finished => done.push(&role.name),
            RoleMove::Stuck => stuck = true,
            RoleMove::OnItsWay => {}
        }
    }
    if done.len() == rollout.roles.len() {
        plan.steps.push(Step::Complete);
    }
    plan.inconclusive_ms = if stuck {
        rollout.inconclusive_ms + elapsed_ms
    } else {
        0
    };
    if plan.inconclusive_ms >= INCONCLUSIVE_MS_MAX {
        plan.steps = vec![Step::Pause];
    }
    plan
}

enum RoleMove {
    OnItsWay,
    Finished,
    Stuck,
    Stopped,
}

fn judge_role(
    rollout: &Rollout,
    role: &Role,
    observed: &Observed,
    elapsed_ms: u64,
    plan: &mut Plan,
) -> RoleMove {
    let name = || role.name.clone();
    let none = Counts::default();
    let counts = observed
        .roles
        .get(&role.name)
        .map_or(&[][..], Vec::as_slice);
    let at = |wave: u32| counts.get(wave as usize).unwrap_or(&none);
    if let Some(stop) = failing(rollout, role, observed) {
        plan.steps = vec![stop];
        return RoleMove::Stopped;
    }
    let wave = role.open_waves - 1;
    let spec = rollout.wave(role, wave);
    match spec.gate.judge(
        at(wave),
        wave == 0,
        role.forgiven(wave),
        observed.evidence_age_ms,
    ) {
        Verdict::Fail { .. } => RoleMove::Stopped,
        Verdict::Inconclusive {
            why: Inconclusive::NoEvidence(why),
        } => {
            plan.soaked_ms.insert(name(), role.soaked_ms);
            plan.waiting.push(Waiting::Evidence {
                why: format!("{} wave {}: {why}", role.name, wave + 1),
            });
            RoleMove::Stuck
        }
        Verdict::Inconclusive {
            why: Inconclusive::OnTheirWay { needed },
        } => {
            let counts = at(wave);
            let converged = counts.of(Bucket::Converged);
            let in_flight = counts
                .reachable()
                .saturating_sub(converged + counts.failures());
            plan.soaked_ms.insert(name(), 0);
            plan.waiting.push(Waiting::Members {
                role: name(),
                wave,
                converged,
                needed,
                in_flight,
            });
            RoleMove::OnItsWay
        }
        Verdict::Pass => {
            let soaked = role.soaked_ms + elapsed_ms;
            if soaked < spec.soak_ms && at(wave).reachable() > 0 {
                plan.soaked_ms.insert(name(), soaked);
                plan.waiting.push(Waiting::Soak {
                    role: name(),
                    wave,
                    left_ms: spec.soak_ms - soaked,
                });
                return RoleMove::OnItsWay;
            }
            if role.open_waves as usize == role.wave_ends.len() {
                plan.steps.push(Step::FinishRole { role: name() });
                return RoleMove::Finished;
            }
            plan.steps.push(Step::OpenWave {
                role: name(),
                wave: role.open_waves,
            });
            RoleMove::OnItsWay
        }
    }
}

/// Earlier waves and roles that are done are watched, too: what breaks after its wave has passed still stops the rollout.
fn failing(rollout: &Rollout, role: &Role, observed: &Observed) -> Option<Step> {
    let waves = observed.roles.get(&role.name)?;
    (0..role.open_waves).find_map(|wave| {
        let counts = waves.get(wave as usize)?;
        let gate = rollout.wave(role, wave).gate;
        let verdict = gate.judge(
            counts,
            wave == 0,
            role.forgiven(wave),
            observed.evidence_age_ms,
        );
        let Verdict::Fail { failure, failures } = verdict else {
            return None;
        };
        let roll_back = rollout
            .plan
            .on_stop
            .scope(&role.name, wave, role.open_waves, failure);
        Some(Step::Stop {
            role: role.name.clone(),
            wave,
            failure,
            failures,
            roll_back,
        })
    })
}

/// A rollback goes against the order: a role goes back when every role after it is back.
fn go_back(rollout: &Rollout, observed: &Observed) -> Plan {
    let mut plan = Plan {
        inconclusive_ms: rollout.inconclusive_ms,
        ..Plan::default()
    };
    let Some(back) = &rollout.roll_back else {
        return plan;
    };
    let fresh = observed
        .evidence_age_ms
        .is_some_and(|age| age <= EVIDENCE_AGE_MS_MAX);
    if !fresh {
        plan.waiting.push(Waiting::Evidence {
            why: "a partition cannot be read".to_owned(),
        });
        return plan;
    }
    let left = |role: &Role| -> u64 {
        let counts = observed
            .roles
            .get(&role.name)
            .map_or(&[][..], Vec::as_slice);
        counts
            .iter()
            .enumerate()
            .filter(|(wave, _)| back.scope.has(&role.name, *wave))
            .map(|(_, c)| still_out(c))
            .sum()
    };
    let mut all_back = true;
    for role in rollout.roles.iter().rev() {
        let members = left(role);
        if members > 0 {
            all_back = false;
        }
        if back.open_roles.contains(&role.name) {
            if members > 0 {
                plan.waiting.push(Waiting::Returning {
                    role: role.name.clone(),
                    members,
                });
            }
            continue;
        }
        let blocked = rollout
            .roles
            .iter()
            .find(|other| other.after.contains(&role.name) && left(other) > 0);
        match blocked {
            Some(other) => plan.waiting.push(Waiting::Role {
                role: role.name.clone(),
                after: other.name.clone(),
            }),
            None => plan.steps.push(Step::OpenRollBack {
                role: role.name.clone(),
            }),
        }
    }
    if all_back && plan.steps.is_empty() {
        plan.steps.push(Step::FinishRollBack);
    }
    plan
}

/// Members that have it still and can give it back.
fn still_out(counts: &Counts) -> u64 {
    let on_their_way = [
        Bucket::PendingPickup,
        Bucket::Applying,
        Bucket::Soaking,
        Bucket::Converged,
    ];
    on_their_way.iter().map(|bucket| counts.of(*bucket)).sum()
}

// === impl Rollout ===

impl Rollout {
    /// The spec of a wave; the implicit last one takes the gate of the one before.
    pub fn wave(&self, role: &Role, wave: u32) -> WaveSpec {
        let last = self.plan.waves.last().copied().unwrap_or(WaveSpec {
            size: Size::Percent(WHOLE),
            soak_ms: 0,
            max_in_flight: 0,
            gate: Gate::default(),
        });
        let is_last = wave as usize + 1 >= role.wave_ends.len();
        if is_last {
            last
        } else {
            self.plan.waves.get(wave as usize).copied().unwrap_or(last)
        }
    }

    fn has_role(&self, name: &str) -> bool {
        self.roles.iter().any(|role| role.name == name)
    }
}

// === impl Role ===

impl Role {
    /// Failures of this wave that a person has forgiven.
    pub fn forgiven(&self, wave: u32) -> u64 {
        self.forgiven.get(wave as usize).copied().unwrap_or(0)
    }
}

// === impl OnStop ===

impl OnStop {
    fn scope(
        self,
        role: &str,
        wave: u32,
        open_waves: u32,
        failure: Failure,
    ) -> Option<crate::program::Scope> {
        use crate::program::Scope;
        let this = Scope::Wave {
            role: role.to_owned(),
            wave,
        };
        match self {
            OnStop::Hold => None,
            OnStop::RollBackWave => Some(this),
            OnStop::RollBackAll => Some(Scope::All),
            OnStop::Default if failure == Failure::Crashed => Some(Scope::All),
            OnStop::Default if open_waves == 1 => Some(Scope::Wave {
                role: role.to_owned(),
                wave: 0,
            }),
            OnStop::Default => None,
        }
    }
}

impl crate::program::Scope {
    /// Is this wave of this role part of it?
    pub fn has(&self, role: &str, wave: usize) -> bool {
        match self {
            crate::program::Scope::All => true,
            crate::program::Scope::Wave { role: r, wave: w } => r == role && *w as usize == wave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{RollBack, Scope};
    use proptest::prelude::*;

    fn counts(of: &[(Bucket, u64)]) -> Counts {
        let mut counts = Counts::default();
        for (bucket, n) in of {
            (0..*n).for_each(|_| counts.add(*bucket));
        }
        counts
    }

    fn role(name: &str, after: &[&str], wave_ends: &[u64], open_waves: u32) -> Role {
        let after = after.iter().map(|s| (*s).to_owned()).collect();
        Role {
            name: name.into(),
            after,
            wave_ends: wave_ends.into(),
            open_waves,
            soaked_ms: 0,
            done: false,
            forgiven: vec![],
        }
    }

    fn rollout(roles: Vec<Role>) -> Rollout {
        Rollout {
            state: State::Running,
            plan: default_plan(),
            roles,
            roll_back: None,
            inconclusive_ms: 0,
        }
    }

    fn seen(role: &str, waves: Vec<Counts>) -> Observed {
        Observed {
            roles: [(role.to_owned(), waves)].into(),
            evidence_age_ms: Some(100),
        }
    }

    #[test]
    fn a_life_has_no_way_back_from_its_end() {
        let ends: Vec<_> = State::ALL.into_iter().filter(|s| s.is_final()).collect();
        assert_eq!(
            ends,
            [
                State::RolledBack,
                State::Completed,
                State::Aborted,
                State::Superseded
            ]
        );
        assert!(!State::Planned.can_move_to(State::Completed));
    }

    #[test]
    fn a_wave_opens_after_the_soak_and_not_before() {
        let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
        let good = seen(
            "agent",
            vec![
                counts(&[(Bucket::Converged, 1)]),
                counts(&[(Bucket::Waiting, 9)]),
            ],
        );
        let soaking = plan(&r, &good, 1_000);
        assert_eq!(soaking.steps, []);
        assert_eq!(soaking.soaked_ms["agent"], 1_000);
        r.roles[0].soaked_ms = 59_500;
        assert_eq!(
            plan(&r, &good, 1_000).steps,
            [Step::OpenWave {
                role: "agent".into(),
                wave: 1
            }]
        );
    }

    #[test]
    fn the_soak_starts_again_when_a_member_falls_out() {
        let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
        r.roles[0].soaked_ms = 50_000;
        let broken = seen("agent", vec![counts(&[(Bucket::Soaking, 1)])]);
        assert_eq!(plan(&r, &broken, 1_000).soaked_ms["agent"], 0);
    }

    #[test]
    fn one_failure_in_the_first_wave_stops_and_takes_it_back() {
        let r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
        let bad = seen(
            "agent",
            vec![counts(&[(Bucket::Failed(Failure::Rejected), 1)])],
        );
        let roll_back = Some(Scope::Wave {
            role: "agent".into(),
            wave: 0,
        });
        let stop = Step::Stop {
            role: "agent".into(),
            wave: 0,
            failure: Failure::Rejected,
            failures: 1,
            roll_back,
        };
        assert_eq!(plan(&r, &bad, 1_000).steps, [stop]);
    }

    #[test]
    fn a_later_wave_holds_unless_collectors_crash() {
        let r = rollout(vec![role("agent", &[], &[1, 100], 2)]);
        let waves = |failure| {
            vec![
                counts(&[(Bucket::Converged, 1)]),
                counts(&[(Bucket::Failed(failure), 5), (Bucket::Converged, 94)]),
            ]
        };
        let scope_of = |failure| match plan(&r, &seen("agent", waves(failure)), 1_000)
            .steps
            .remove(0)
        {
            Step::Stop { roll_back, .. } => roll_back,
            step => panic!("{step:?}"),
        };
        assert_eq!(scope_of(Failure::Rejected), None);
        assert_eq!(scope_of(Failure::Crashed), Some(Scope::All));
    }

    #[test]
    fn a_percentage_of_failures_counts_from_the_sample_on() {
        let gate = Gate::default();
        let few = counts(&[
            (Bucket::Failed(Failure::Rejected), 1),
            (Bucket::Applying, 99),
        ]);
        assert!(matches!(
            gate.judge(&few, false, 0, Some(0)),
            Verdict::Inconclusive { .. }
        ));
        let enough = counts(&[
            (Bucket::Failed(Failure::Rejected), 1),
            (Bucket::Converged, 19),
            (Bucket::Applying, 80),
        ]);
        assert!(matches!(
            gate.judge(&enough, false, 0, Some(0)),
            Verdict::Fail { .. }
        ));
    }

    #[test]
    fn sleeping_members_do_not_hold_a_wave_up_but_a_wave_of_sleepers_does_not_pass() {
        let gate = Gate::default();
        let some = counts(&[(Bucket::Converged, 95), (Bucket::NotReached, 5)]);
        assert_eq!(gate.judge(&some, false, 0, Some(0)), Verdict::Pass);
        let none = counts(&[(Bucket::NotReached, 5)]);
        assert!(matches!(
            gate.judge(&none, true, 0, Some(0)),
            Verdict::Inconclusive { .. }
        ));
    }

    #[test]
    fn forgiven_failures_count_neither_way() {
        let gate = Gate::default();
        let seen = counts(&[
            (Bucket::Failed(Failure::Rejected), 1),
            (Bucket::Converged, 9),
        ]);
        assert!(matches!(
            gate.judge(&seen, true, 0, Some(0)),
            Verdict::Fail { .. }
        ));
        assert_eq!(gate.judge(&seen, true, 1, Some(0)), Verdict::Pass);
    }

    #[test]
    fn a_role_waits_for_those_before_it() {
        let r = rollout(vec![
            role("gateway", &[], &[1, 2], 1),
            role("agent", &["gateway"], &[1, 10], 0),
        ]);
        let observed = seen("gateway", vec![counts(&[(Bucket::Converged, 1)])]);
        let waits = Waiting::Role {
            role: "agent".into(),
            after: "gateway".into(),
        };
        assert!(plan(&r, &observed, 1_000).waiting.contains(&waits));
    }

    #[test]
    fn fifteen_minutes_without_a_decision_pause() {
        let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
        r.inconclusive_ms = INCONCLUSIVE_MS_MAX - 500;
        let blind = Observed {
            evidence_age_ms: None,
            ..seen("agent", vec![counts(&[(Bucket::Converged, 1)])])
        };
        assert_eq!(plan(&r, &blind, 1_000).steps, [Step::Pause]);
    }

    #[test]
    fn a_rollback_goes_against_the_order() {
        let mut r = rollout(vec![
            role("gateway", &[], &[2], 1),
            role("agent", &["gateway"], &[2], 1),
        ]);
        r.state = State::RollingBack;
        r.roll_back = Some(RollBack {
            scope: Scope::All,
            open_roles: vec![],
        });
        let out = counts(&[(Bucket::Converged, 2)]);
        let observed = Observed {
            roles: [
                ("gateway".to_owned(), vec![out]),
                ("agent".to_owned(), vec![out]),
            ]
            .into(),
            evidence_age_ms: Some(0),
        };
        assert_eq!(
            plan(&r, &observed, 500).steps,
            [Step::OpenRollBack {
                role: "agent".into()
            }]
        );
        let back = counts(&[(Bucket::Returned, 2)]);
        let observed = Observed {
            roles: [
                ("gateway".to_owned(), vec![out]),
                ("agent".to_owned(), vec![back]),
            ]
            .into(),
            ..observed
        };
        r.roll_back = Some(RollBack {
            scope: Scope::All,
            open_roles: vec!["agent".into()],
        });
        assert_eq!(
            plan(&r, &observed, 500).steps,
            [Step::OpenRollBack {
                role: "gateway".into()
            }]
        );
    }

    proptest! {
        #[test]
        fn stale_evidence_never_advances(
            age in prop_oneof![Just(None), (EVIDENCE_AGE_MS_MAX + 1..1_000_000).prop_map(Some)],
            numbers in proptest::collection::vec(0u64..50, crate::bucket::ALL.len()),
            soaked_ms in 0u64..1_000_000,
            open in 1u32..3,
            elapsed in 0u64..10_000,
        ) {
            let of: Vec<_> = crate::bucket::ALL.into_iter().zip(numbers).collect();
            let mut r = rollout(vec![role("agent", &[], &[1, 10, 100], open)]);
            r.roles[0].soaked_ms = soaked_ms;
            let observed = Observed { evidence_age_ms: age, ..seen("agent", vec![counts(&of); 3]) };
            let next = plan(&r, &observed, elapsed);
            prop_assert!(next.steps.iter().all(|step| *step == Step::Pause), "{:?}", next.steps);
        }

        #[test]
        fn counts_add_up(numbers in proptest::collection::vec(0u64..50, crate::bucket::ALL.len())) {
            let of: Vec<_> = crate::bucket::ALL.into_iter().zip(numbers.clone()).collect();
            let all = counts(&of);
            prop_assert_eq!(all.members(), numbers.iter().sum::<u64>());
            prop_assert!(all.reachable() >= all.failures() + all.of(Bucket::Converged));
        }
    }
}
