use fleet::rollout::{CheckSpec, Gate, PlanSpec, Role, WaveSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers every request with these bytes; its address.
async fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

const HOLDS: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 68\r\n\r\n\
                     {\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"1\"]}}";
const SAYS_NO: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 34\r\n\r\n\
                       {\"answer\":\"fail\",\"reason\":\"no no\"}";
const TOO_LONG: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 70000\r\n\r\n{";

fn stored() -> store::Rollout {
    store::Rollout {
        id: "ro-1".into(),
        family: "pii".into(),
        to: 7,
        ..store::Rollout::default()
    }
}

/// A rollout whose one role has these many open waves, each with these checks.
fn rollout(state: State, open_waves: u32, checks: &[Check]) -> Rollout {
    let gate = Gate {
        checks: checks.iter().cloned().map(CheckSpec::gate).collect(),
        ..Gate::default()
    };
    let wave = WaveSpec {
        gate,
        ..WaveSpec::default()
    };
    Rollout {
        state,
        direction: fleet::rollout::Direction::Forward,
        plan: PlanSpec {
            waves: vec![wave.clone(), wave],
            ..fleet::rollout::default_plan()
        },
        roles: vec![Role {
            name: "agent".into(),
            wave_ends: vec![1, 5],
            open_waves,
            ..Role::default()
        }],
        roll_back: None,
        inconclusive_ms: 0,
    }
}

/// Looks once and waits for the answers, by check, of this wave.
async fn told(asker: &Asker, rollout: &Rollout, wave: u32, checks: usize) -> Vec<Finding> {
    asker.look(&stored(), rollout, &Observed::default());
    for _ in 0..500 {
        let mut findings = asker.findings(&stored());
        let found = findings.remove(&("agent".to_owned(), wave));
        if let Some(found) = found.filter(|found| found.len() == checks) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no answers within 5 s");
}

fn query() -> Check {
    Check::PromQl("vector(1)".into())
}

#[tokio::test]
async fn without_a_prometheus_and_without_allowed_hosts_nobody_is_asked_and_the_flag_is_named() {
    let asker = Asker::new(Config::default());
    let checks = [query(), Check::Webhook("http://10.0.0.1/x".into())];
    let found = told(&asker, &rollout(State::Running, 1, &checks), 0, 2).await;
    let said: Vec<String> = found.iter().map(|f| f.answer.to_string()).collect();
    assert_eq!(
        said,
        [
            "inconclusive: no Prometheus is configured: start the server with --prometheus URL",
            "inconclusive: webhooks to 10.0.0.1 are not allowed: start the server with --webhook-hosts 10.0.0.1",
        ]
    );
}

#[tokio::test]
async fn answers_of_a_prometheus_and_of_a_webhook_become_findings() {
    let webhook = server(SAYS_NO).await;
    let long = server(TOO_LONG).await;
    let asker = Asker::new(Config {
        prometheus: Some(server(HOLDS).await.parse().unwrap()),
        webhook_hosts: vec!["127.0.0.1".parse().unwrap()],
    });
    let checks = [
        query(),
        Check::Webhook(webhook.clone()),
        Check::Webhook(long.clone()),
    ];
    let found = told(&asker, &rollout(State::Running, 2, &checks), 1, 3).await;
    let of = |check: &Check| {
        let finding = found.iter().find(|f| f.check == *check).unwrap();
        assert!(finding.age_ms < 60_000);
        finding.answer.to_string()
    };
    assert_eq!(of(&checks[0]), "pass");
    assert_eq!(of(&checks[1]), "fail: no no");
    assert!(of(&checks[2]).starts_with("inconclusive: "));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_answer() {
    let asker = Asker::new(Config {
        prometheus: Some("http://127.0.0.1:1".parse().unwrap()),
        webhook_hosts: vec![],
    });
    let found = told(&asker, &rollout(State::Running, 1, &[query()]), 0, 1).await;
    assert!(
        found[0]
            .answer
            .to_string()
            .starts_with("inconclusive: Prometheus: ")
    );
}

#[tokio::test]
async fn a_check_is_asked_once_within_its_pause_and_only_of_the_wave_that_is_judged() {
    let asker = Asker::new(Config::default());
    let running = rollout(State::Running, 2, &[query(), Check::Converged]);
    told(&asker, &running, 1, 1).await;
    let asked = |asker: &Asker| {
        let told = asker.told();
        told.iter()
            .map(|(key, told)| (key.wave, told.asked))
            .collect::<Vec<_>>()
    };
    let before = asked(&asker);
    asker.look(&stored(), &running, &Observed::default());
    assert_eq!(asked(&asker), before);
    assert!(matches!(before[..], [(1, Some(_))]));
}

#[tokio::test]
async fn a_rollout_that_stands_still_or_has_ended_forgets_what_it_was_told() {
    let asker = Asker::new(Config::default());
    told(&asker, &rollout(State::Running, 1, &[query()]), 0, 1).await;
    asker.look(
        &stored(),
        &rollout(State::Paused, 1, &[query()]),
        &Observed::default(),
    );
    assert!(asker.findings(&stored()).is_empty());
    told(&asker, &rollout(State::Running, 1, &[query()]), 0, 1).await;
    asker.keep(&["ro-1".to_owned()]);
    assert!(!asker.findings(&stored()).is_empty());
    asker.keep(&[]);
    assert!(asker.findings(&stored()).is_empty());
}

#[tokio::test]
async fn an_answer_to_a_question_that_was_forgotten_is_dropped() {
    let asker = Asker::new(Config::default());
    let key = Key {
        rollout: "ro-1".into(),
        role: "agent".into(),
        wave: 0,
        check: query(),
    };
    let question = || Question::Expression("vector(1)".into());
    let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
    asker.clone().ask(key.clone(), question(), first).await;
    assert!(asker.findings(&stored()).is_empty());
    asker.told().entry(key.clone()).or_default().asked = Some(second);
    asker.clone().ask(key.clone(), question(), first).await;
    assert!(asker.findings(&stored()).is_empty());
    asker.clone().ask(key, question(), second).await;
    assert_eq!(asker.findings(&stored()).len(), 1);
}

#[test]
fn what_persons_have_said_is_a_finding_that_is_never_old() {
    let said = |who: &str, pass: bool, reason: &str| store::PersonAnswer {
        role: "agent".into(),
        wave: 1,
        who: who.into(),
        by: "ana".into(),
        pass,
        at_ms: 1,
        reason: reason.into(),
    };
    let stored = store::Rollout {
        answers: vec![
            said("platform", true, ""),
            said("security", false, "not on a Friday"),
        ],
        ..stored()
    };
    let findings = Asker::new(Config::default()).findings(&stored);
    let found = &findings[&("agent".to_owned(), 1)];
    assert_eq!(found[0].check, Check::Person("platform".into()));
    assert_eq!(found[0].answer, Answer::Pass);
    assert_eq!(
        found[1].answer.to_string(),
        "fail: ana says no: not on a Friday"
    );
    assert!(found.iter().all(|finding| finding.age_ms == 0));
}

#[test]
fn a_reason_from_outside_is_kept_short() {
    let Answer::Fail(why) = shortened(Answer::Fail("ä".repeat(400))) else {
        panic!("it is a failure");
    };
    assert!(why.len() <= REASON_BYTES_MAX + '…'.len_utf8());
    assert!(why.ends_with('…'));
}
