//! Remote configs: applied, refused, timed out, crashed, rolled back, delivered again.

use std::time::Duration;

use proto::opamp::RemoteConfigStatuses::{Applied, Applying, Failed, Unset};
use proto::opamp::{AgentRemoteConfig, ServerToAgent};

use super::rig::{BAD, GOOD, Rig};
use crate::agent::{Event, Order};
use crate::script::{Behaviour, Script};

const CRASH_AFTER: Duration = Duration::from_secs(2);

fn crashing() -> Script {
    Script::crashing("broken", CRASH_AFTER)
}

#[test]
fn a_changed_config_is_applying_then_applied_when_the_timer_ends() {
    let mut rig = Rig::idle(Script::default());
    rig.offer("a", GOOD);
    let messages = rig.new_messages();
    let first = &messages[0];
    assert_eq!(
        first.remote_config_status.as_ref().unwrap().status(),
        Applying
    );
    let effective = first
        .effective_config
        .as_ref()
        .unwrap()
        .config_map
        .as_ref()
        .unwrap();
    assert!(String::from_utf8_lossy(&effective.config_map[""].body).contains("debug"));
    rig.advance(Duration::from_millis(4900));
    assert_eq!(rig.new_statuses(), []);
    rig.advance(Duration::from_millis(200));
    assert_eq!(rig.new_statuses(), [(Applied, "a".to_owned())]);
}

#[test]
fn redelivery_of_the_running_config_is_applied_at_once() {
    let mut rig = Rig::idle(crashing());
    rig.offer("b", BAD);
    rig.advance_secs(3);
    assert_eq!(
        rig.new_statuses(),
        [(Applying, "b".to_owned()), (Failed, "b".to_owned())]
    );
    assert!(!rig.agent.healthy());
    rig.offer("b", BAD);
    assert_eq!(rig.new_statuses(), [(Applied, "b".to_owned())]);
    assert!(!rig.agent.healthy());
}

#[test]
fn a_config_that_differs_only_in_spelling_is_applied_at_once() {
    let mut rig = Rig::idle(Script::default());
    rig.offer("a", GOOD);
    rig.advance_secs(6);
    rig.new_messages();
    rig.offer("a2", &format!("# comment\n{GOOD}"));
    assert_eq!(rig.new_statuses(), [(Applied, "a2".to_owned())]);
}

#[test]
fn invalid_yaml_fails_at_once_and_the_old_config_keeps_running() {
    let mut rig = Rig::idle(Script::default());
    let before = rig.agent.effective_config();
    rig.offer("x", "receivers: [");
    let message = rig.last();
    let status = message.remote_config_status.unwrap();
    assert_eq!(status.status(), Failed);
    assert!(!status.error_message.is_empty());
    assert_eq!(rig.agent.effective_config(), before);
    assert!(rig.agent.healthy());
}

#[test]
fn validation_refuses_only_the_configs_the_script_is_about() {
    let mut rig = Rig::idle(Script::rejecting("broken", "unknown exporter"));
    rig.offer("b", BAD);
    assert_eq!(rig.new_statuses(), [(Failed, "b".to_owned())]);
    rig.offer("a", GOOD);
    rig.advance_secs(6);
    assert_eq!(
        rig.new_statuses(),
        [(Applying, "a".to_owned()), (Applied, "a".to_owned())]
    );
}

#[test]
fn an_empty_map_stops_the_collector_and_is_called_applied_and_healthy() {
    let mut rig = Rig::idle(Script::default());
    rig.event(Event::Order(Order::Fail("disk full".into())));
    rig.settle();
    rig.new_messages();
    let offer = AgentRemoteConfig {
        config: None,
        config_hash: b"empty".to_vec(),
    };
    rig.reply(ServerToAgent {
        remote_config: Some(offer),
        ..ServerToAgent::default()
    });
    let message = rig.last();
    assert_eq!(message.remote_config_status.unwrap().status(), Applied);
    let health = message.health.unwrap();
    assert!(health.healthy && health.start_time_unix_nano == 0);
    assert_eq!(rig.agent.effective_config(), "");
}

#[test]
fn a_crash_while_the_timer_runs_fails_the_config_with_the_exit_code() {
    let mut rig = Rig::idle(crashing());
    rig.offer("b", BAD);
    rig.new_messages();
    rig.advance(CRASH_AFTER);
    let message = rig.last();
    let status = message.remote_config_status.unwrap();
    assert_eq!(status.status(), Failed);
    assert!(
        status
            .error_message
            .contains("exited unexpectedly, exit code=1"),
        "{}",
        status.error_message
    );
    assert!(!message.health.unwrap().healthy);
    rig.advance_secs(20);
    assert_eq!(
        rig.new_statuses(),
        [],
        "without rollback it crashes on and says no more about the config"
    );
}

#[test]
fn an_unhealthy_collector_fails_when_the_timer_ends() {
    let script = Script::new([Behaviour::UnhealthyAfter {
        after: Duration::from_secs(1),
    }])
    .bad_when("broken");
    let mut rig = Rig::idle(script);
    rig.offer("b", BAD);
    rig.advance_secs(6);
    assert_eq!(
        rig.new_statuses(),
        [(Applying, "b".to_owned()), (Failed, "b".to_owned())]
    );
    assert_eq!(
        rig.agent.status().unwrap().error,
        "Config apply timeout exceeded"
    );
}

#[test]
fn rollback_reports_applied_a_after_failed_b() {
    let mut rig = Rig::idle(crashing().and(Behaviour::Rollback));
    rig.offer("a", GOOD);
    rig.advance_secs(6);
    rig.offer("b", BAD);
    rig.advance_secs(12);
    let said = [
        (Applying, "a"),
        (Applied, "a"),
        (Applying, "b"),
        (Failed, "b"),
        (Applied, "a"),
    ];
    assert_eq!(
        rig.new_statuses(),
        said.map(|(status, hash)| (status, hash.to_owned()))
    );
    assert!(rig.agent.healthy() && rig.agent.effective_config().contains("debug"));
}

#[test]
fn redelivery_during_the_apply_makes_the_bad_config_the_one_to_go_back_to() {
    let mut rig = Rig::idle(crashing().and(Behaviour::Rollback));
    rig.offer("a", GOOD);
    rig.advance_secs(6);
    rig.new_messages();
    rig.offer("b", BAD);
    rig.offer("b", BAD);
    rig.advance_secs(60);
    let said: Vec<_> = rig
        .new_statuses()
        .into_iter()
        .map(|(status, hash)| (status, hash == "b"))
        .collect();
    let expected = [Applying, Applied, Failed, Failed].map(|status| (status, true));
    assert_eq!(
        said, expected,
        "the way back fails as well, and there is none from there"
    );
    assert!(rig.agent.effective_config().contains("broken"));
}

#[test]
fn status_and_config_survive_a_restart() {
    let mut rig = Rig::idle(Script::default());
    rig.offer("a", GOOD);
    rig.advance_secs(6);
    rig.new_messages();
    rig.event(Event::Order(Order::Restart));
    let first = rig.last();
    assert_eq!(first.sequence_num, 0);
    assert_eq!(first.remote_config_status.unwrap().status(), Applied);
    assert!(rig.agent.effective_config().contains("debug"));
}

#[test]
fn who_never_answers_runs_the_config_and_reports_no_status() {
    let mut rig = Rig::idle(Script::new([Behaviour::NeverAnswers]));
    rig.offer("a", GOOD);
    rig.advance_secs(60);
    assert_eq!(rig.new_statuses(), []);
    assert!(rig.agent.effective_config().contains("debug"));
}

#[test]
fn an_offer_without_a_hash_is_run_without_a_status() {
    let mut rig = Rig::idle(Script::default());
    rig.offer("", GOOD);
    rig.advance_secs(10);
    assert_eq!(rig.new_statuses(), []);
}

#[test]
fn before_any_config_the_status_is_unset_with_an_empty_hash() {
    let mut rig = Rig::with(
        crate::agent::Wire::Http,
        Default::default(),
        Script::default(),
    );
    rig.event(Event::Start);
    let status = rig.last().remote_config_status.unwrap();
    assert_eq!(
        (status.status(), status.last_remote_config_hash.len()),
        (Unset, 0)
    );
}
