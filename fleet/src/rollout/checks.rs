//! What a gate looks at. Each check answers pass, fail or inconclusive; any of them may only observe.

use std::fmt;

use crate::bucket::Bucket;

/// Restarts of a collector within [`RESTART_LOOP`]'s window that make a loop.
pub const RESTART_LOOP: (u32, u64) = (3, 10 * 60_000);

/// An answer from outside of the fleet that is older than this decides nothing; two looks of a slow query may fail.
pub(super) const ANSWER_AGE_MS_MAX: u64 = 120_000;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Enough reachable members run what they were sent, by all signs.
    Converged,
    /// As many report health.
    Healthy,
    /// No more members than may fail restart again and again.
    NoRestartLoop,
    /// Own telemetry still leaves, where it left before the offer.
    Flow,
    /// Memory and CPU compared with the agent's own baseline.
    Resources,
    /// A PromQL expression that has to hold.
    PromQl(String),
    /// A URL that is asked.
    Webhook(String),
    /// Somebody who says yes.
    Person(String),
}

/// A check as a gate uses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckSpec {
    /// What is looked at.
    pub check: Check,
    /// Its answer is shown and decides nothing.
    pub observe: bool,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Fine.
    Pass,
    /// Not fine.
    Fail(String),
    /// Neither can be said; never passes.
    Inconclusive(String),
}

/// What a check outside of the fleet's own state has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub check: Check,
    /// What it says.
    pub answer: Answer,
    /// How long ago it was asked.
    pub age_ms: u64,
}

/// Signs of one wave's members that are no outcome by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Reachable members without a failure that have not applied the config yet, or are not healthy with it.
    pub unhealthy: u64,
    /// Members in a restart loop: see [`is_restart_loop`].
    pub restart_loops: u64,
}

impl Signs {
    /// Counts one member, which reports that it is healthy, or does not; `loops`: it is in a restart loop.
    pub fn add(&mut self, bucket: Bucket, healthy: bool, loops: bool) {
        let is_not = match bucket {
            Bucket::Waiting | Bucket::PendingPickup | Bucket::Applying => true,
            Bucket::Soaking | Bucket::Converged => !healthy,
            _ => false,
        };
        self.unhealthy += u64::from(is_not);
        self.restart_loops += u64::from(loops);
    }
}

/// Does a collector that restarted so often since its offer, which is so old, restart again and again?
///
/// The restart that applies an offer is none of them. Three restarts within ten minutes are a loop; a collector that
/// restarts once a day is somebody's cron job.
pub fn is_restart_loop(restarts: u32, offer_age_ms: u64) -> bool {
    let (loops, window_ms) = RESTART_LOOP;
    let windows = offer_age_ms.div_ceil(window_ms).max(1);
    u64::from(restarts) >= u64::from(loops) * windows
}

// === impl Check ===

impl Check {
    /// The word people write.
    pub fn name(&self) -> &'static str {
        match self {
            Check::Converged => "converged",
            Check::Healthy => "healthy",
            Check::NoRestartLoop => "no restart loop",
            Check::Flow => "flow",
            Check::Resources => "resource regression",
            Check::PromQl(_) => "promql",
            Check::Webhook(_) => "webhook",
            Check::Person(_) => "person",
        }
    }

    /// Is it answered from outside, and not by the members' own state?
    pub fn is_external(&self) -> bool {
        !matches!(
            self,
            Check::Converged | Check::Healthy | Check::NoRestartLoop
        )
    }

    /// The answer of an external check.
    pub(super) fn answer(&self, findings: &[Finding]) -> Answer {
        let Some(finding) = findings.iter().find(|finding| finding.check == *self) else {
            let why = match self {
                Check::Flow | Check::Resources => "no evidence source".to_owned(),
                Check::Person(who) => format!("{who} has not answered"),
                _ => "not asked yet".to_owned(),
            };
            return Answer::Inconclusive(why);
        };
        let ages = !matches!(self, Check::Person(_)); // what a person said stays said
        if ages && finding.age_ms > ANSWER_AGE_MS_MAX {
            let minutes = finding.age_ms / 60_000;
            return Answer::Inconclusive(format!("its last answer is {minutes} minutes old"));
        }
        finding.answer.clone()
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Check::PromQl(text) | Check::Webhook(text) | Check::Person(text) => {
                write!(f, " `{text}`")
            }
            _ => Ok(()),
        }
    }
}

// === impl CheckSpec ===

impl CheckSpec {
    /// One that counts.
    pub fn gate(check: Check) -> Self {
        CheckSpec {
            check,
            observe: false,
        }
    }

    /// One that is only shown.
    pub fn observe(check: Check) -> Self {
        CheckSpec {
            check,
            observe: true,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Pass => f.write_str("pass"),
            Answer::Fail(why) => write!(f, "fail: {why}"),
            Answer::Inconclusive(why) => write!(f, "inconclusive: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_without_a_source_are_inconclusive_and_say_so() {
        for check in [Check::Flow, Check::Resources] {
            assert_eq!(
                check.answer(&[]).to_string(),
                "inconclusive: no evidence source"
            );
        }
        let person = Check::Person("platform".into());
        assert_eq!(
            person.answer(&[]).to_string(),
            "inconclusive: platform has not answered"
        );
        assert_eq!(
            Check::PromQl("up".into()).answer(&[]).to_string(),
            "inconclusive: not asked yet"
        );
    }

    #[test]
    fn an_old_answer_is_none_unless_a_person_gave_it() {
        let finding = |check: Check| Finding {
            check,
            answer: Answer::Pass,
            age_ms: 10 * 60_000,
        };
        let query = Check::PromQl("up == 1".into());
        assert_eq!(
            query.answer(&[finding(query.clone())]).to_string(),
            "inconclusive: its last answer is 10 minutes old"
        );
        let person = Check::Person("anna".into());
        assert_eq!(person.answer(&[finding(person.clone())]), Answer::Pass);
    }

    #[test]
    fn three_restarts_in_ten_minutes_are_a_loop_and_one_a_day_is_none() {
        assert!(is_restart_loop(3, 60_000));
        assert!(!is_restart_loop(2, 60_000));
        assert!(!is_restart_loop(3, 60 * 60_000));
    }

    #[test]
    fn a_check_reads_as_people_write_it() {
        assert_eq!(Check::PromQl("up".into()).to_string(), "promql `up`");
        assert_eq!(Check::NoRestartLoop.to_string(), "no restart loop");
        assert!(Check::Webhook(String::new()).is_external() && !Check::Healthy.is_external());
        assert_eq!(Answer::Pass.to_string(), "pass");
        assert_eq!(Answer::Fail("x".into()).to_string(), "fail: x");
        assert!(CheckSpec::observe(Check::Flow).observe);
    }
}
