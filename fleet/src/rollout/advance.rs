//! How a running rollout goes on: role by role in their order, wave by wave behind its gate, then the rest.

use crate::bucket::Bucket;
use crate::duration::duration_text;

use super::complete::Outstanding;
use super::gate::{Inconclusive, Verdict};
use super::plan::{Plan, Step};
use super::{Clock, INCONCLUSIVE_MS_MAX, Observed, Role, Rollout, Waiting};

/// So many members that have had an outcome may be without one for a while.
const COME_AND_GO: u64 = 10;

/// One look at a running rollout.
struct Look<'a> {
    rollout: &'a Rollout,
    observed: &'a Observed,
    elapsed_ms: u64,
    plan: Plan,
    /// Roles whose last wave has passed, also in this look.
    done: Vec<&'a str>,
    /// Why the gates cannot decide, if that counts towards the pause.
    undecided: Option<String>,
    /// A gate passes, and has not done so for long: what it could not decide before still counts.
    passes_again: bool,
    /// A wave that is over its deadline.
    overdue: Option<String>,
}

pub(super) fn advance(rollout: &Rollout, observed: &Observed, elapsed_ms: u64) -> Plan {
    let done = rollout.roles.iter().filter(|role| role.done);
    let mut look = Look {
        rollout,
        observed,
        elapsed_ms,
        plan: Plan::default(),
        done: done.map(|role| role.name.as_str()).collect(),
        undecided: None,
        passes_again: false,
        overdue: None,
    };
    // Earlier waves and roles that are done are watched, too: what breaks after its wave has passed still stops it.
    if let Some(stop) = rollout.roles.iter().find_map(|role| look.stop(role)) {
        if let Step::Stop { cause, .. } = &stop {
            let cause = cause.clone();
            look.plan.verdicts.push(Verdict::Fail { cause });
        }
        look.plan.steps.push(stop);
        return look.plan;
    }
    if observed.is_fresh() {
        look.plan.forgiven = rollout.still_forgiven(observed);
    }
    for role in rollout.in_order() {
        let clock = look.clock(role);
        // Nothing is counted of who has not begun. Who is done may still have members that are on their way.
        if role.open_waves > 0 {
            look.plan.clocks.insert(role.name.clone(), clock);
        }
        if !role.done {
            look.role(role, clock);
        }
        if look
            .plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::Stop { .. }))
        {
            return look.plan;
        }
    }
    if look.done.len() == rollout.roles.len() {
        look.rest();
    }
    look.finish()
}

impl<'a> Look<'a> {
    fn role(&mut self, role: &'a Role, clock: Clock) {
        if role.wave_ends.is_empty() {
            self.finish_role(role);
            return;
        }
        let Some(wave) = role.open_waves.checked_sub(1) else {
            self.open(role, role.continue_at.saturating_sub(1));
            return;
        };
        // The gate judges by the time that has passed until now.
        let aged = Role {
            clock,
            ..role.clone()
        };
        let judged = role.judged();
        let verdicts = judged.map(|wave| self.rollout.judge(&aged, wave, self.observed));
        let verdicts: Vec<_> = verdicts.collect();
        let mut undecided = verdicts.iter().filter(|verdict| **verdict != Verdict::Pass);
        let decides = undecided.next().cloned().unwrap_or(Verdict::Pass);
        self.plan.verdicts.extend(verdicts);
        match decides {
            Verdict::Fail { cause } => {
                let on_stop = self.rollout.plan.on_stop;
                let roll_back = on_stop.scope(&role.name, wave, role.open_waves, &cause);
                self.plan.steps = vec![Step::Stop {
                    role: role.name.clone(),
                    wave,
                    cause,
                    roll_back,
                }];
            }
            Verdict::Inconclusive { why } => self.inconclusive(role, wave, clock, why),
            Verdict::Pass => self.pass(role, wave, clock),
        }
    }

    fn pass(&mut self, role: &'a Role, wave: u32, clock: Clock) {
        let spec = self.rollout.wave(role, wave);
        let soaked = role.soaked_ms + self.elapsed_ms;
        let counts = self.observed.waves(&role.name).get(wave as usize);
        // Also where nobody can be judged: a last wave that sleeps has as long to come back.
        let somebody = counts.is_some_and(|counts| counts.members() > counts.of(Bucket::Unchanged));
        if soaked < spec.soak_ms && somebody {
            self.plan.soaked_ms.insert(role.name.clone(), soaked);
            self.plan.waiting.push(Waiting::Soak {
                role: role.name.clone(),
                wave,
                left_ms: spec.soak_ms - soaked,
            });
            // A member that comes and goes makes it begin again and again.
            self.passes_again |= soaked < INCONCLUSIVE_MS_MAX;
            self.check_deadline(role, wave, clock);
            return;
        }
        // Kept, so that a freeze or another role that it waits for does not make it soak again.
        let soaked = soaked.min(spec.soak_ms);
        self.plan.soaked_ms.insert(role.name.clone(), soaked);
        match role.open_waves as usize == role.wave_ends.len() {
            true => self.finish_role(role),
            false => self.open(role, role.open_waves),
        }
    }

    fn inconclusive(&mut self, role: &Role, wave: u32, clock: Clock, why: Inconclusive) {
        let name = || role.name.clone();
        let counts = self.observed.waves(&role.name).get(wave as usize);
        let counts = counts.copied().unwrap_or_default();
        let mut undecided = None;
        let (soaked_ms, waiting) = match why {
            Inconclusive::NoEvidence(why) => {
                let why = format!("{} wave {}: {why}", role.name, wave + 1);
                undecided = Some(why.clone());
                (role.soaked_ms, Waiting::Evidence { why })
            }
            // Who had converged has fallen out: those that stay have to stay so for the whole soak.
            Inconclusive::TooFew { needed } => {
                let converged = counts.of(Bucket::Converged);
                let why = format!(
                    "{} wave {}: {converged} of {needed} needed have converged, and no member is on its way",
                    role.name,
                    wave + 1
                );
                undecided = Some(why.clone());
                (0, Waiting::Evidence { why })
            }
            Inconclusive::Person(who) => {
                let what = format!("{who} has to pass {} wave {}", role.name, wave + 1);
                undecided = Some(format!(
                    "{what}: say `muster rollout pass` or `fail`, while it stands still, too"
                ));
                (role.soaked_ms, Waiting::Person { what })
            }
            Inconclusive::Unreachable { members, left_ms } => {
                let waiting = Waiting::Unreachable {
                    role: name(),
                    wave,
                    members,
                    left_ms,
                };
                (role.soaked_ms, waiting)
            }
            Inconclusive::OnTheirWay { needed } => {
                let converged = counts.of(Bucket::Converged);
                let in_flight = counts
                    .reachable()
                    .saturating_sub(converged + counts.failures());
                if clock.quiet_ms > self.observed.offer_timeout_ms {
                    undecided = Some(format!(
                        "{} wave {}: {in_flight} members are on their way, and none of them gets anywhere: look for what \
                         holds them up, e.g. a budget that others use up",
                        role.name,
                        wave + 1
                    ));
                }
                let role = name();
                let waiting = Waiting::Members {
                    role,
                    wave,
                    converged,
                    needed,
                    in_flight,
                };
                (0, waiting)
            }
        };
        self.plan.soaked_ms.insert(name(), soaked_ms);
        self.plan.waiting.push(waiting);
        self.undecided = self.undecided.take().or(undecided);
        self.check_deadline(role, wave, clock);
    }

    /// A wave that has not passed by then, soak included, pauses its rollout.
    fn check_deadline(&mut self, role: &Role, wave: u32, clock: Clock) {
        let deadline = self.rollout.wave(role, wave).deadline_ms;
        if deadline.is_some_and(|deadline| clock.open_ms >= deadline) {
            let late = format!(
                "{} wave {} has not passed within its {}",
                role.name,
                wave + 1,
                duration_text(deadline.unwrap_or(0))
            );
            self.overdue = self.overdue.take().or(Some(late));
        }
    }

    /// Opens a wave, unless another role or a freeze comes first.
    fn open(&mut self, role: &Role, wave: u32) {
        let name = || role.name.clone();
        let first = self.rollout.before(role).into_iter();
        let mut first = first.filter(|before| !self.done.contains(&before.name.as_str()));
        let waiting = if self.rollout.plan.interleave {
            // In step: this wave follows those of who goes before that are no later in the plan.
            let waves = |before: &Role| self.rollout.waves_before(role, wave, before);
            let blocker = first
                .find(|before| waves(before) > 0 && before.open_waves as usize <= waves(before));
            blocker.map(|before| Waiting::Wave {
                role: name(),
                after: before.name.clone(),
                wave: u32::try_from(waves(before) - 1).unwrap_or(u32::MAX),
            })
        } else {
            first.next().map(|before| Waiting::Role {
                role: name(),
                after: before.name.clone(),
            })
        };
        let freeze = self.observed.freeze.as_ref().map(|freeze| Waiting::Freeze {
            role: name(),
            freeze: freeze.clone(),
        });
        match waiting.or(freeze) {
            Some(waiting) => self.plan.waiting.push(waiting),
            None => {
                self.plan.soaked_ms.remove(&role.name);
                self.plan.steps.push(Step::OpenWave { role: name(), wave });
            }
        }
    }

    fn finish_role(&mut self, role: &'a Role) {
        self.plan.steps.push(Step::FinishRole {
            role: role.name.clone(),
        });
        self.done.push(&role.name);
    }

    /// Every wave has passed: is every member converged, unchanged, or a named exception?
    fn rest(&mut self) {
        let rest = Outstanding::of(self.rollout, self.observed);
        match rest {
            _ if !self.observed.is_fresh() => {
                let why = "what is known of the members is too old".to_owned();
                self.undecided = Some(why.clone());
                self.plan.waiting.push(Waiting::Evidence { why });
            }
            Outstanding {
                in_flight: 0,
                failed: 0,
            } => self.plan.steps.push(Step::Complete),
            Outstanding { in_flight, failed } => {
                let quiet = self.plan.clocks.values().map(|clock| clock.quiet_ms).min();
                let nothing_moves = quiet.is_none_or(|ms| ms > self.observed.offer_timeout_ms);
                let waiting = Waiting::Rest { in_flight, failed };
                if in_flight == 0 || nothing_moves {
                    self.undecided = Some(format!(
                        "every wave has passed, {failed} members failed and {in_flight} get nowhere: retry them, or \
                         accept those that failed by resuming"
                    ));
                }
                self.plan.waiting.push(waiting);
            }
        }
    }

    fn finish(mut self) -> Plan {
        let goes_on = !self.plan.steps.is_empty();
        self.plan.inconclusive_ms = match self.undecided {
            Some(_) => self.rollout.inconclusive_ms + self.elapsed_ms,
            None if self.passes_again && !goes_on => self.rollout.inconclusive_ms,
            None => 0,
        };
        let undecided = self
            .undecided
            .filter(|_| self.plan.inconclusive_ms >= INCONCLUSIVE_MS_MAX)
            .map(|why| {
                format!("the gate could not decide for 15 minutes: {why}; resume when that is settled, or roll back")
            });
        if let Some(why) = undecided.or(self.overdue) {
            self.plan.steps = vec![Step::Pause { why }];
        }
        self.plan
    }

    fn stop(&self, role: &Role) -> Option<Step> {
        (0..role.open_waves).find_map(|wave| {
            let gate = self.rollout.wave(role, wave).gate;
            let cause = gate.stop(&self.observed.view(role, wave))?;
            let on_stop = self.rollout.plan.on_stop;
            let roll_back = on_stop.scope(&role.name, wave, role.open_waves, &cause);
            Some(Step::Stop {
                role: role.name.clone(),
                wave,
                cause,
                roll_back,
            })
        })
    }

    fn clock(&self, role: &Role) -> Clock {
        let before = role.clock;
        let counts = self.observed.waves(&role.name).iter();
        let outcomes: u64 = counts.map(|counts| counts.outcomes()).sum();
        // More than ever before: members that come and go get nowhere. But where many have none any more, as after a retry, it
        // begins again from there.
        let most = match outcomes + COME_AND_GO < before.outcomes {
            true => outcomes,
            false => before.outcomes,
        };
        let quiet_ms = match outcomes > most {
            true => 0,
            false => before.quiet_ms + self.elapsed_ms,
        };
        Clock {
            open_ms: before.open_ms + self.elapsed_ms,
            quiet_ms,
            outcomes: outcomes.max(most),
        }
    }
}
