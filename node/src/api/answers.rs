//! Answers of persons to checks that ask them.

use fleet::rollout::{Check, Rollout};
use proto::api;
use proto::store;
use tonic::Status;

use super::rollouts::unknown;
use super::{Api, broken, not_stored, short};
use crate::control::rollout_state;
use crate::ledger::{ProposeError, act, entry, now_ms, once, put, table};

/// Tries against the controller, which writes an open rollout every few seconds.
const TRIES: usize = 10;

/// A wave that asks somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    role: String,
    wave: u32,
    who: String,
}

impl Api {
    /// Stores the answer and says of which rollout. The last answer counts.
    pub(super) async fn answer(
        &self,
        actor: &str,
        request: &api::AnswerCheckRequest,
    ) -> Result<String, Status> {
        short("reason", &request.reason)?;
        let ledger = &self.node.control_ledger;
        let mut tries = 0;
        loop {
            tries += 1;
            let (version, mut stored, rollout) = {
                let documents = self.node.control.read();
                let found = documents.find_rollout(&request.id);
                let found = found.ok_or_else(|| unknown(&request.id))?;
                let stored = store::Rollout::clone(&found.value);
                (found.version, stored, documents.domain(&found.value))
            };
            let key = once("check.answer", &stored.id, &request.idempotency_key);
            if ledger.has_done(&key).map_err(|error| broken(&error))? {
                return Ok(stored.id);
            }
            let asked = chosen(&stored, &rollout, &request.check)?;
            if stored.actor == actor && !request.fail {
                return Err(Status::failed_precondition(format!(
                    "{actor} has started rollout {}: somebody else passes what a person is asked",
                    stored.id
                )));
            }
            let detail = said(&asked[0], request);
            answer(&mut stored, &asked, actor, request);
            let object = format!("rollout/{}", stored.id);
            let change = store::Entry {
                idempotency_key: key,
                ..entry(
                    vec![put(table::ROLLOUT, stored.id.as_str(), version, &stored)],
                    vec![act(actor, "check.answer", object, detail)],
                )
            };
            match ledger.propose(change).await {
                Ok(_) => return Ok(stored.id),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(error) => return Err(not_stored(&error)),
            }
        }
    }
}

/// The waves that an answer is for: those of one role that ask the same person.
fn chosen(stored: &store::Rollout, rollout: &Rollout, check: &str) -> Result<Vec<Asked>, Status> {
    let id = &stored.id;
    if !rollout.state.takes_answers() {
        return Err(Status::failed_precondition(format!(
            "rollout {id} is {} and asks nobody: resume it with `muster rollout resume {id}`, if it can be",
            rollout_state(stored.state()).name()
        )));
    }
    let all = asked(rollout);
    if all.is_empty() {
        return Err(Status::failed_precondition(format!(
            "rollout {id} asks nobody now: `muster rollout get {id}` shows what it waits for"
        )));
    }
    let means = |asked: &&Asked| {
        check.is_empty() || check == asked.who || check == format!("{}/{}", asked.role, asked.who)
    };
    let found: Vec<Asked> = all.iter().filter(means).cloned().collect();
    let Some(first) = found.first() else {
        return Err(Status::not_found(format!(
            "rollout {id} does not ask `{check}` now: it asks {}",
            names(&all)
        )));
    };
    let same = |asked: &Asked| asked.role == first.role && asked.who == first.who;
    match found.iter().all(same) {
        true => Ok(found),
        false => Err(Status::failed_precondition(format!(
            "rollout {id} asks several now: say for whom this is the answer, one of {}",
            names(&found)
        ))),
    }
}

/// Everybody whose answer a gate needs now.
fn asked(rollout: &Rollout) -> Vec<Asked> {
    let waves = rollout
        .roles
        .iter()
        .flat_map(|role| role.judged().map(move |wave| (role, wave)));
    let of_wave = waves.flat_map(|(role, wave)| {
        let checks = rollout.wave(role, wave).gate.checks.into_iter();
        checks.filter_map(move |spec| match spec.check {
            Check::Person(who) => Some(Asked {
                role: role.name.clone(),
                wave,
                who,
            }),
            _ => None,
        })
    });
    of_wave.collect()
}

/// `agent/platform, gateway/platform`.
fn names(asked: &[Asked]) -> String {
    let mut names: Vec<String> = asked
        .iter()
        .map(|asked| format!("{}/{}", asked.role, asked.who))
        .collect();
    names.dedup();
    names.join(", ")
}

/// One line for the audit chain.
fn said(asked: &Asked, request: &api::AnswerCheckRequest) -> String {
    let Asked { role, wave, who } = asked;
    let word = if request.fail { "fail" } else { "pass" };
    let why = match request.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("{role} wave {}, for {who}: {word}{why}", wave + 1)
}

fn answer(
    stored: &mut store::Rollout,
    asked: &[Asked],
    actor: &str,
    request: &api::AnswerCheckRequest,
) {
    for Asked { role, wave, who } in asked {
        stored
            .answers
            .retain(|said| (&said.role, said.wave, &said.who) != (role, *wave, who));
        stored.answers.push(store::PersonAnswer {
            role: role.clone(),
            wave: *wave,
            who: who.clone(),
            by: actor.to_owned(),
            pass: !request.fail,
            at_ms: now_ms(),
            reason: request.reason.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use fleet::rollout::{
        CheckSpec, Direction, Gate, PlanSpec, Role, State, WaveSpec, default_plan,
    };

    use super::*;
    use crate::control::stored_rollout_state;

    /// Two waves that ask these persons, in each of these roles, with so many waves open.
    fn rollout(state: State, roles: &[(&str, u32)], persons: &[&str]) -> Rollout {
        let person = |who: &&str| CheckSpec::gate(Check::Person((*who).to_owned()));
        let gate = Gate {
            checks: persons.iter().map(person).collect(),
            ..Gate::default()
        };
        let wave = WaveSpec {
            gate,
            ..WaveSpec::default()
        };
        let role = |(name, open_waves): &(&str, u32)| Role {
            name: (*name).to_owned(),
            wave_ends: vec![1, 9],
            open_waves: *open_waves,
            ..Role::default()
        };
        Rollout {
            state,
            direction: Direction::Forward,
            plan: PlanSpec {
                waves: vec![wave.clone(), wave],
                ..default_plan()
            },
            roles: roles.iter().map(role).collect(),
            roll_back: None,
            inconclusive_ms: 0,
        }
    }

    fn stored(state: State) -> store::Rollout {
        store::Rollout {
            id: "ro-1".into(),
            state: stored_rollout_state(state).into(),
            ..store::Rollout::default()
        }
    }

    fn refusal(rollout: &Rollout, check: &str) -> String {
        let refused = chosen(&stored(rollout.state), rollout, check).unwrap_err();
        refused.message().to_owned()
    }

    #[test]
    fn the_only_one_who_is_asked_needs_no_name() {
        let rollout = rollout(State::Running, &[("agent", 2)], &["platform"]);
        let only = Asked {
            role: "agent".into(),
            wave: 1,
            who: "platform".into(),
        };
        for check in ["", "platform", "agent/platform"] {
            assert_eq!(
                chosen(&stored(State::Running), &rollout, check).unwrap(),
                std::slice::from_ref(&only)
            );
        }
    }

    #[test]
    fn who_is_not_asked_is_told_who_is() {
        let running = rollout(State::Running, &[("agent", 1)], &["platform"]);
        assert_eq!(
            refusal(&running, "sec"),
            "rollout ro-1 does not ask `sec` now: it asks agent/platform"
        );
        let nobody = rollout(State::Running, &[("agent", 0)], &["platform"]);
        assert!(refusal(&nobody, "").contains("asks nobody now"));
        let halted = rollout(State::Halted, &[("agent", 1)], &["platform"]);
        assert!(refusal(&halted, "").contains("is halted and asks nobody"));
    }

    #[test]
    fn who_is_asked_may_answer_while_the_rollout_is_paused_for_want_of_it() {
        let paused = rollout(State::Paused, &[("agent", 1)], &["platform"]);
        for check in ["", "platform"] {
            let found = chosen(&stored(State::Paused), &paused, check).unwrap();
            assert_eq!(found[0].who, "platform");
        }
    }

    #[test]
    fn several_who_are_asked_are_named() {
        let two = rollout(State::Running, &[("agent", 1)], &["platform", "security"]);
        assert_eq!(
            refusal(&two, ""),
            "rollout ro-1 asks several now: say for whom this is the answer, one of agent/platform, agent/security"
        );
        let roles = [("gateway", 1), ("agent", 1)];
        let twice = rollout(State::Running, &roles, &["platform"]);
        assert!(refusal(&twice, "platform").contains("gateway/platform, agent/platform"));
        let found = chosen(&stored(State::Running), &twice, "agent/platform").unwrap();
        assert_eq!(found[0].role, "agent");
    }

    #[test]
    fn waves_that_continue_another_rollout_are_answered_together() {
        let mut continued = rollout(State::Running, &[("agent", 2)], &["platform"]);
        continued.roles[0].continue_at = 2;
        let found = chosen(&stored(State::Running), &continued, "").unwrap();
        let waves: Vec<u32> = found.iter().map(|asked| asked.wave).collect();
        assert_eq!(waves, [0, 1]);
    }

    #[test]
    fn the_last_answer_counts_and_stands_in_words_in_the_audit_log() {
        let asked = [Asked {
            role: "agent".into(),
            wave: 1,
            who: "platform".into(),
        }];
        let no = api::AnswerCheckRequest {
            fail: true,
            reason: "latency doubled".into(),
            ..api::AnswerCheckRequest::default()
        };
        let mut stored = stored(State::Running);
        answer(&mut stored, &asked, "ana", &no);
        assert_eq!(
            said(&asked[0], &no),
            "agent wave 2, for platform: fail: latency doubled"
        );
        answer(
            &mut stored,
            &asked,
            "ben",
            &api::AnswerCheckRequest::default(),
        );
        assert_eq!(stored.answers.len(), 1);
        assert!(stored.answers[0].pass && stored.answers[0].by == "ben");
    }
}
