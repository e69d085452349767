//! What gates want to know from outside of the fleet: a Prometheus and webhooks are asked, persons have answered
//! through the API. All three become findings.
//!
//! An ask is a task of its own and never holds up a look: who looks takes what is there. Nothing is stored; after a
//! restart everything is asked again. A rollout that does not run is not asked about, and forgets what it was told, so
//! that who resumes it is not stopped by an answer from before.

mod http;
mod prometheus;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fleet::rollout::{Answer, Check, Finding, Observed, Rollout, State};
use proto::store;
use tokio::sync::Semaphore;

pub use prometheus::{NotPrometheus, Prometheus};
pub use webhook::{Host, NotHost};

use crate::partition::millis;

/// Pause between two asks of one check. An answer counts for two minutes, so that a few may fail.
const PAUSE: Duration = Duration::from_secs(15);

/// What takes longer has no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks under way at once; others wait for their turn within [`PATIENCE`].
const ASKS_MAX: usize = 64;

/// Kept of a reason that came from outside.
const REASON_BYTES_MAX: usize = 300;

/// Who may be asked.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Of PromQL checks. Default none: they are inconclusive.
    pub prometheus: Option<Prometheus>,
    /// Of webhooks. Default none: they are inconclusive.
    pub webhook_hosts: Vec<Host>,
}

/// Asks, and keeps what it was told.
#[derive(Clone)]
pub struct Asker(Arc<Inner>);

struct Inner {
    config: Config,
    http: http::Http,
    turns: Semaphore,
    told: Mutex<BTreeMap<Key, Told>>,
}

/// One check of one wave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    rollout: String,
    role: String,
    wave: u32,
    check: Check,
}

#[derive(Default)]
struct Told {
    /// When it was asked last.
    asked: Option<Instant>,
    /// The newest answer, and when that was asked for.
    answer: Option<(Answer, Instant)>,
}

/// The wave that a check is asked about.
struct Wave<'a> {
    rollout: &'a str,
    family: &'a str,
    revision: u64,
    role: &'a str,
    /// From 1, as people count.
    number: u32,
}

/// A question, ready to be sent.
enum Question {
    Expression(String),
    Webhook { url: String, body: Vec<u8> },
}

// === impl Asker ===

impl Asker {
    /// Nobody is asked until the first look.
    pub fn new(config: Config) -> Self {
        Asker(Arc::new(Inner {
            config,
            http: http::Http::default(),
            turns: Semaphore::new(ASKS_MAX),
            told: Mutex::default(),
        }))
    }

    /// Asks what is due, by a rollout as it is seen now. Needs a runtime; answers come later.
    pub fn look(&self, stored: &store::Rollout, rollout: &Rollout, observed: &Observed) {
        let wanted = wanted(&stored.id, rollout);
        let now = Instant::now();
        let mut told = self.told();
        told.retain(|key, _| key.rollout != stored.id || wanted.contains(key));
        for key in wanted {
            let told = told.entry(key.clone()).or_default();
            if told
                .asked
                .is_some_and(|asked| now.duration_since(asked) < PAUSE)
            {
                continue;
            }
            told.asked = Some(now);
            if let Some(question) = Question::new(&key, stored, rollout, observed) {
                tokio::spawn(self.clone().ask(key, question, now));
            }
        }
    }

    /// Whoever resumes a rollout does not mean the answers that stopped it.
    pub fn forget(&self, rollout: &str) {
        self.told().retain(|key, _| key.rollout != rollout);
    }

    /// What is known of each wave's external checks.
    pub fn findings(&self, stored: &store::Rollout) -> BTreeMap<(String, u32), Vec<Finding>> {
        let mut findings: BTreeMap<(String, u32), Vec<Finding>> = BTreeMap::new();
        for (key, told) in self.told().iter() {
            let Some((answer, asked)) = told.answer.as_ref().filter(|_| key.rollout == stored.id)
            else {
                continue;
            };
            let of_wave = findings.entry((key.role.clone(), key.wave)).or_default();
            of_wave.push(Finding {
                check: key.check.clone(),
                answer: answer.clone(),
                age_ms: millis(asked.elapsed()),
            });
        }
        for said in &stored.answers {
            let of_wave = findings.entry((said.role.clone(), said.wave)).or_default();
            of_wave.push(person(said));
        }
        findings
    }

    /// How many asks are under way now. More wait for their turn.
    pub fn under_way(&self) -> usize {
        ASKS_MAX.saturating_sub(self.0.turns.available_permits())
    }

    /// How many checks were answered how, of those that are asked now.
    pub fn answers(&self) -> BTreeMap<&'static str, u64> {
        let mut answers = BTreeMap::from(["pass", "fail", "inconclusive", "none"].map(|a| (a, 0)));
        for told in self.told().values() {
            let answer = match &told.answer {
                None => "none",
                Some((Answer::Pass, _)) => "pass",
                Some((Answer::Fail(_), _)) => "fail",
                Some((Answer::Inconclusive(_), _)) => "inconclusive",
            };
            *answers.entry(answer).or_default() += 1;
        }
        answers
    }

    /// Forgets what belongs to rollouts that are not open any more.
    pub fn keep(&self, open: &[String]) {
        self.told().retain(|key, _| open.contains(&key.rollout));
    }

    async fn ask(self, key: Key, question: Question, asked: Instant) {
        let answer = async {
            let _turn = self.0.turns.acquire().await;
            self.0.ask(&question).await
        };
        let late = || Answer::Inconclusive(format!("no answer within {} s", PATIENCE.as_secs()));
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = shortened(answer.unwrap_or_else(|_| late()));
        // Forgotten or asked anew meanwhile: this answer is one to a question that nobody has.
        if let Some(told) = self.told().get_mut(&key)
            && told.asked == Some(asked)
        {
            told.answer = Some((answer, asked));
        }
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<Key, Told>> {
        self.0
            .told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    async fn ask(&self, question: &Question) -> Answer {
        let asked = match question {
            Question::Expression(expression) => {
                let prometheus = self.config.prometheus.as_ref();
                prometheus::ask(&self.http, prometheus, expression).await
            }
            Question::Webhook { url, body } => {
                webhook::ask(&self.http, &self.config.webhook_hosts, url, body).await
            }
        };
        asked.unwrap_or_else(Answer::Inconclusive)
    }
}

impl Question {
    /// None: this check is not asked over the network.
    fn new(
        key: &Key,
        stored: &store::Rollout,
        rollout: &Rollout,
        observed: &Observed,
    ) -> Option<Question> {
        let wave = Wave {
            rollout: &stored.id,
            family: &stored.family,
            revision: stored.to,
            role: &key.role,
            number: key.wave + 1,
        };
        match &key.check {
            Check::PromQl(text) => Some(Question::Expression(prometheus::expand(text, &wave))),
            Check::Webhook(url) => {
                let counts = observed.waves(&key.role).get(key.wave as usize);
                let counts = counts.copied().unwrap_or_default();
                Some(Question::Webhook {
                    url: url.clone(),
                    body: webhook::body(&wave, rollout.state, &counts),
                })
            }
            _ => None,
        }
    }
}

/// What has to be asked about a rollout: the checks of every wave whose gate decides now.
fn wanted(id: &str, rollout: &Rollout) -> Vec<Key> {
    if rollout.state != State::Running {
        return vec![];
    }
    let waves = rollout
        .roles
        .iter()
        .flat_map(|role| role.judged().map(move |wave| (role, wave)));
    let keys = waves.flat_map(|(role, wave)| {
        let checks = rollout.wave(role, wave).gate.checks.into_iter();
        checks.map(move |spec| Key {
            rollout: id.to_owned(),
            role: role.name.clone(),
            wave,
            check: spec.check,
        })
    });
    keys.filter(|key| matches!(key.check, Check::PromQl(_) | Check::Webhook(_)))
        .collect()
}

fn person(said: &store::PersonAnswer) -> Finding {
    let answer = match (said.pass, said.reason.as_str()) {
        (true, _) => Answer::Pass,
        (false, "") => Answer::Fail(format!("{} says no", said.by)),
        (false, reason) => Answer::Fail(format!("{} says no: {reason}", said.by)),
    };
    Finding {
        check: Check::Person(said.who.clone()),
        answer,
        age_ms: 0,
    }
}

fn shortened(answer: Answer) -> Answer {
    let short = |why: String| {
        let at = why.floor_char_boundary(REASON_BYTES_MAX);
        match at < why.len() {
            true => format!("{}…", &why[..at]),
            false => why,
        }
    };
    match answer {
        Answer::Pass => Answer::Pass,
        Answer::Fail(why) => Answer::Fail(short(why)),
        Answer::Inconclusive(why) => Answer::Inconclusive(short(why)),
    }
}

#[cfg(test)]
mod tests;
