//! One agent's reports, one after the other: when it converges, and what follows when it drifts.

use fleet::components::{Available, Used};
use fleet::family::{ConfigFile, delivery_hash};
use fleet::program::{OwnerChange, ProgramFamily, ProgramRole, RevisionNumber};
use fleet::selector::Selector;
use prost::Message;
use proto::opamp::{self, RemoteConfigStatuses, any_value};

use super::delivery::{EARLIER_MAX, earlier};
use super::*;
use crate::ledger::table;

const DELIVERED: &str = "exporters:\n  otlp:\n    endpoint: a\n";
const EDITED: &str = "exporters:\n  otlp:\n    endpoint: edited\n";

fn config() -> ConfigMap {
    let file = ConfigFile {
        body: DELIVERED.into(),
        content_type: "text/yaml".into(),
    };
    ConfigMap::from([(String::new(), file)])
}

fn program(incarnation: u16, needs: &Arc<Used>) -> Program {
    let role = ProgramRole {
        name: "agent".into(),
        selector: Selector::parse("service.name = web").unwrap(),
        delivery: delivery_hash(&config()),
        baseline: Digest::of("test", &[b"baseline"]),
        needs: Arc::clone(needs),
    };
    let family = ProgramFamily {
        name: "web".into(),
        precedence: 1,
        stable: Some(RevisionNumber(1)),
        revisions: BTreeMap::from([(RevisionNumber(1), vec![role])]),
        owner_change: OwnerChange::Ask,
        rollout: None,
    };
    Program {
        epoch: Epoch::new(incarnation, 1),
        families: vec![family],
        pins: vec![],
    }
}

/// An agent, and the leader that keeps its record.
struct World {
    re_offers: bool,
    lease: bool,
    has_room: bool,
    now_ms: u64,
    number: u64,
    incarnation: u16,
    /// Of the program since.
    changes: u64,
    /// By the answer before.
    full_asked: bool,
    /// If it was asked.
    asked_ms_ago: u64,
    has_lost: bool,
    may_ask_full: bool,
    stored: Option<(u64, store::Agent)>,
    remembered: Remembered,
    /// Of the config.
    needs: Arc<Used>,
    /// The component list that is kept.
    build: Option<Arc<Build>>,
}

impl World {
    /// Registered, and offered revision 1.
    fn offered(re_offers: bool) -> Self {
        let mut world = World {
            re_offers,
            ..World::new()
        };
        assert!(world.registers().offers);
        world
    }

    /// Nobody has spoken yet.
    fn new() -> Self {
        World {
            re_offers: false,
            lease: true,
            has_room: true,
            now_ms: 1000,
            number: 0,
            incarnation: 0,
            changes: 0,
            full_asked: false,
            asked_ms_ago: 60_000,
            has_lost: false,
            may_ask_full: true,
            stored: None,
            remembered: Remembered::default(),
            needs: Arc::default(),
            build: None,
        }
    }

    fn registers(&mut self) -> Evaluation {
        self.says(full())
    }

    fn says(&mut self, message: AgentToServer) -> Evaluation {
        self.number += 1;
        let report = Report {
            message: Some(AgentToServer {
                sequence_num: self.number,
                ..message
            }),
            digest: said(self.number).1.to_vec().into(),
            ..Report::default()
        };
        self.hears(&report)
    }

    /// Its gateway asks for it: what there is for the agent, which has said nothing.
    fn is_asked(&mut self, asking: u8) -> Evaluation {
        let report = Report {
            digest: vec![asking; 16].into(),
            ..Report::default()
        };
        self.hears(&report)
    }

    fn hears(&mut self, report: &Report) -> Evaluation {
        self.now_ms += 1000;
        let number = self.number;
        let uid = Uid::from_wire(&[7; 16]).unwrap();
        let mut program = program(self.incarnation, &self.needs);
        program.epoch.0 += self.changes;
        let ctx = Context {
            program: &program,
            place: None,
            lease: self.lease,
            replies: true,
            token_labels: &BTreeMap::new(),
            heard: number.checked_sub(1).map(said).filter(|_| number > 1),
            skipped: None,
            full_asked_ms_ago: self.full_asked.then_some(self.asked_ms_ago),
            has_lost: self.has_lost,
            may_ask_full: &|| self.may_ask_full,
            config: &|_| Some(config()),
            desired_config: &|_| Some(config()),
            re_offers: &|family| family == "web" && self.re_offers,
            has_room: &|_, _| self.has_room,
            remembered: &self.remembered,
            knows_components: &|_| true,
            build: &|hash| self.build.clone().filter(|build| build.hash() == hash),
            offer_timeout_ms: 180_000,
            now_ms: self.now_ms,
            new_uid: uid,
            duplicate: false,
        };
        let stored = self.stored.as_ref().map(|(v, agent)| (*v, agent));
        let evaluation = evaluate(uid, report, stored, None, &ctx);
        self.full_asked = evaluation.asks_full;
        self.has_lost = evaluation.asks_full_later;
        let mut writes = evaluation.entry.iter().flat_map(|entry| &entry.writes);
        let record = writes.rfind(|write| write.table == u32::from(table::AGENT));
        if let Some(record) = record {
            let agent = store::Agent::decode(record.value.as_slice()).unwrap();
            self.stored = Some((self.now_ms, agent));
        }
        evaluation
    }

    fn delivery(&self) -> store::Delivery {
        let (_, agent) = self.stored.as_ref().unwrap();
        agent.delivery.clone().unwrap()
    }
}

/// Number and digest of an agent's message.
fn said(number: u64) -> (u64, [u8; 16]) {
    (number, [u8::try_from(number).unwrap(); 16])
}

/// Everything there is to say, but for a status.
fn full() -> AgentToServer {
    let name = opamp::KeyValue {
        key: "service.name".into(),
        value: Some(opamp::AnyValue {
            value: Some(any_value::Value::StringValue("web".into())),
        }),
    };
    AgentToServer {
        agent_description: Some(opamp::AgentDescription {
            identifying_attributes: vec![name],
            ..Default::default()
        }),
        capabilities: AgentCapabilities::ReportsStatus as u64
            | AgentCapabilities::AcceptsRemoteConfig as u64
            | AgentCapabilities::ReportsEffectiveConfig as u64
            | AgentCapabilities::ReportsHealth as u64
            | AgentCapabilities::ReportsRemoteConfig as u64,
        ..AgentToServer::default()
    }
}

fn reports(hash: &[u8], status: RemoteConfigStatuses) -> AgentToServer {
    AgentToServer {
        remote_config_status: Some(opamp::RemoteConfigStatus {
            last_remote_config_hash: hash.to_vec(),
            status: status.into(),
            ..Default::default()
        }),
        ..AgentToServer::default()
    }
}

fn applied() -> AgentToServer {
    let hash = delivery_hash(&config());
    reports(hash.as_bytes(), RemoteConfigStatuses::Applied)
}

fn healthy(healthy: bool) -> AgentToServer {
    AgentToServer {
        health: Some(opamp::ComponentHealth {
            healthy,
            ..Default::default()
        }),
        ..AgentToServer::default()
    }
}

fn runs(body: &str) -> AgentToServer {
    let object = opamp::AgentConfigObject {
        body: body.as_bytes().to_vec(),
        ..Default::default()
    };
    AgentToServer {
        effective_config: Some(opamp::EffectiveConfig {
            config_map: Some(opamp::AgentConfigMap {
                config_map: [(String::new(), object)].into_iter().collect(),
            }),
        }),
        ..AgentToServer::default()
    }
}

/// The list of a build that has these processors, or its hash alone.
fn names(processors: &[&str], whole: bool) -> AgentToServer {
    let details = |name: &&str| ((*name).to_owned(), opamp::ComponentDetails::default());
    let list = opamp::ComponentDetails {
        sub_component_map: processors.iter().map(details).collect(),
        ..Default::default()
    };
    let list = whole.then(|| ("processors".to_owned(), list));
    AgentToServer {
        available_components: Some(opamp::AvailableComponents {
            hash: processors.concat().into_bytes(),
            components: list.into_iter().collect(),
        }),
        ..full()
    }
}

/// A world whose config needs `redaction`.
fn redacting() -> World {
    let needs = Used {
        processors: ["redaction".to_owned()].into(),
        ..Used::default()
    };
    World {
        needs: Arc::new(needs),
        ..World::new()
    }
}

#[test]
fn who_tells_that_it_lacks_a_component_is_not_offered_what_needs_it() {
    for (processors, offers) in [(&["batch"][..], false), (&["batch", "redaction"], true)] {
        let told = redacting().says(names(processors, true));
        assert_eq!(told.offers, offers, "{processors:?}");
    }
    // Whose list nobody knows is unknown, as is who reports none.
    assert!(redacting().says(names(&["batch"], false)).offers);
    assert!(redacting().registers().offers);
}

#[test]
fn who_names_a_list_that_another_agent_has_told_is_held_to_it() {
    let index = crate::inventory::Index::default();
    let mut mirror = index.mirror();
    let agent = store::Agent {
        components: Some(store::ComponentList {
            hash: b"batch".to_vec(),
            body: vec![1; 32],
        }),
        ..store::Agent::default()
    };
    crate::ledger::Mirror::put(
        &mut mirror,
        table::AGENT,
        &[9; 16],
        1,
        &agent.encode_to_vec(),
    );
    crate::ledger::Mirror::publish(&mut mirror, 0);
    index.tell(b"batch", Available::from_report([("processors", "batch")]));
    let build = index.read().components[&b"batch"[..]].build.clone();
    let world = || World {
        build: Some(build.clone()),
        ..redacting()
    };
    assert!(!world().says(names(&["batch"], false)).offers);
    assert!(world().says(names(&["redaction"], false)).offers);
}

fn acts(evaluation: &Evaluation) -> Vec<&Act> {
    let entries = evaluation.entry.iter();
    entries.flat_map(|entry| &entry.acts).collect()
}

#[test]
fn an_agent_converges_once_it_is_healthy_with_what_it_applied() {
    let mut world = World::offered(false);
    world.says(healthy(false));
    world.says(applied());
    assert_eq!(world.delivery().converged_ms, 0);
    world.says(healthy(true));
    assert_eq!(world.delivery().converged_ms, world.now_ms);
}

#[test]
fn a_config_that_contradicts_what_was_sent_has_not_converged() {
    let mut world = World::offered(false);
    world.says(healthy(true));
    world.says(runs(EDITED));
    world.says(applied());
    assert_eq!(world.delivery().converged_ms, 0);
    world.says(runs(DELIVERED));
    assert_eq!(world.delivery().converged_ms, world.now_ms);
}

#[test]
fn what_comes_later_does_not_unsay_when_it_converged() {
    let mut world = World::offered(false);
    world.says(healthy(true));
    world.says(applied());
    let first = world.now_ms;
    world.says(healthy(false));
    world.says(runs(EDITED));
    world.says(healthy(true));
    assert_eq!(world.delivery().converged_ms, first);
}

#[test]
fn converging_is_not_written_by_itself() {
    let mut world = World::offered(false);
    world.says(healthy(true));
    world.says(applied());
    // As a record that was written before it was noted.
    let (_, agent) = world.stored.as_mut().unwrap();
    agent.delivery.as_mut().unwrap().converged_ms = 0;
    assert!(world.says(AgentToServer::default()).entry.is_none());
}

#[test]
fn drift_is_only_reported_where_the_family_does_not_re_offer() {
    let mut world = World::offered(false);
    world.says(healthy(true));
    world.says(applied());
    assert!(!world.says(runs(EDITED)).offers);
    assert_eq!(world.delivery().state(), DeliveryState::Applied);
}

#[test]
fn what_an_agent_drifted_from_is_offered_once_more_and_never_again() {
    let mut world = World::offered(true);
    world.says(healthy(true));
    world.says(applied());
    let converged = world.delivery().converged_ms;
    let again = world.says(runs(EDITED));
    assert!(again.offers);
    let said: Vec<_> = acts(&again).iter().map(|act| act.detail.clone()).collect();
    assert!(
        said[0].ends_with(", once more, since it drifted"),
        "{said:?}"
    );
    let delivery = world.delivery();
    assert_eq!(delivery.state(), DeliveryState::Offered);
    assert!(delivery.reoffered);
    assert_eq!(delivery.offers, 2);
    assert_eq!(delivery.converged_ms, converged);
    // It applies it, and somebody edits it again.
    world.says(applied());
    assert_eq!(world.delivery().state(), DeliveryState::Applied);
    assert!(!world.says(runs(DELIVERED)).offers);
    assert!(!world.says(runs(EDITED)).offers);
    assert!(!world.says(applied()).offers);
}

#[test]
fn an_agent_that_answers_applied_and_runs_something_else_is_not_asked_for_ever() {
    let mut world = World::offered(true);
    world.says(healthy(true));
    world.says(applied());
    assert!(world.says(runs(EDITED)).offers);
    for _ in 0..3 {
        assert!(!world.says(applied()).offers);
        assert!(!world.says(runs(EDITED)).offers);
    }
}

#[test]
fn what_an_agent_had_applied_before_is_remembered_newest_first_and_not_without_end() {
    let hash = |n: u8| Digest::of("test", &[&[n]]);
    let bytes = |n: u8| hash(n).as_bytes().to_vec();
    let mut last = store::Delivery {
        hash: bytes(0),
        state: DeliveryState::Applied.into(),
        ..store::Delivery::default()
    };
    for n in 1..12 {
        let earlier = earlier(&last, hash(n));
        last = store::Delivery {
            hash: bytes(n),
            // What it never ran cannot come back.
            state: match n {
                9 => DeliveryState::Failed,
                _ => DeliveryState::Applied,
            }
            .into(),
            earlier,
            ..store::Delivery::default()
        };
    }
    let newest: Vec<_> = [10, 8, 7, 6, 5, 4, 3, 2].map(bytes).to_vec();
    assert_eq!(last.earlier, newest);
    // Back to one of them: it is the last again, and no earlier one.
    assert_eq!(earlier(&last, hash(7)).len(), EARLIER_MAX);
    assert!(!earlier(&last, hash(7)).contains(&bytes(7)));
}

#[test]
fn an_agent_that_was_put_back_is_offered_the_last_once_more_where_its_family_says_so() {
    for re_offers in [false, true] {
        let mut world = World::offered(re_offers);
        world.says(healthy(true));
        world.says(applied());
        let old = Digest::of("test", &[b"an older config"]);
        let (_, agent) = world.stored.as_mut().unwrap();
        agent.delivery.as_mut().unwrap().earlier = vec![old.as_bytes().to_vec()];
        let mut put_back = applied();
        let status = put_back.remote_config_status.as_mut().unwrap();
        status.last_remote_config_hash = old.as_bytes().to_vec();
        assert_eq!(world.says(put_back).offers, re_offers);
        assert_eq!(world.delivery().reoffered, re_offers);
    }
}

#[test]
fn without_a_lease_the_second_offer_waits() {
    let mut world = World::offered(true);
    world.says(healthy(true));
    world.says(applied());
    world.lease = false;
    let waits = world.says(runs(EDITED));
    assert!(!waits.offers && waits.pending);
    assert!(!world.delivery().reoffered);
    world.lease = true;
    assert!(world.says(AgentToServer::default()).offers);
}

#[test]
fn without_room_in_its_domain_the_second_offer_waits() {
    let mut world = World::offered(true);
    world.says(healthy(true));
    world.says(applied());
    world.has_room = false;
    let waits = world.says(runs(EDITED));
    assert!(!waits.offers && waits.pending);
    assert!(!world.delivery().reoffered);
    world.has_room = true;
    assert!(world.says(AgentToServer::default()).offers);
}

#[test]
fn a_config_that_failed_the_second_time_is_not_offered_a_third() {
    let mut world = World::offered(true);
    world.says(healthy(true));
    world.says(applied());
    assert!(world.says(runs(EDITED)).offers);
    let hash = delivery_hash(&config());
    let failed = reports(hash.as_bytes(), RemoteConfigStatuses::Failed);
    assert!(!world.says(failed).offers);
    assert_eq!(world.delivery().state(), DeliveryState::Failed);
    assert!(!world.says(runs(EDITED)).offers);
}

#[test]
fn an_agent_that_went_back_before_it_could_say_why_is_not_offered_it_again() {
    let mut world = World::offered(false);
    let offered = world.delivery().hash;
    world.says(reports(&offered, RemoteConfigStatuses::Applying));
    world.says(reports(&[7; 32], RemoteConfigStatuses::Applied));
    assert_eq!(world.delivery().state(), DeliveryState::RolledBackByAgent);
    assert!(world.delivery().error.contains("went back"));
    let (_, agent) = world.stored.as_ref().unwrap();
    assert_eq!(agent.refused.len(), 1);
    assert_eq!(agent.refused[0].hash, offered);
    assert!(!world.says(AgentToServer::default()).offers);
}

#[test]
fn a_refusal_is_of_the_program_in_force_when_it_failed_not_of_the_one_that_offered_it() {
    let mut world = World::offered(false);
    let offered = world.delivery();
    world.changes += 1;
    world.says(reports(&offered.hash, RemoteConfigStatuses::Failed));
    let (_, agent) = world.stored.as_ref().unwrap();
    assert_eq!(agent.refused[0].epoch, offered.epoch + 1);
}

#[test]
fn a_clone_that_tells_of_an_older_config_while_the_original_applies_the_new_one_refuses_nothing() {
    let mut world = World::offered(false);
    let offered = world.delivery().hash;
    world.says(reports(&offered, RemoteConfigStatuses::Applying));
    world.number = 0;
    world.says(AgentToServer {
        remote_config_status: reports(&[7; 32], RemoteConfigStatuses::Applied).remote_config_status,
        ..full()
    });
    assert_eq!(world.delivery().state(), DeliveryState::Applying);
    let (_, agent) = world.stored.as_ref().unwrap();
    assert_eq!(agent.refused, []);
}

#[test]
fn what_a_gateway_asks_again_since_no_answer_came_is_answered_with_the_same_offer() {
    let mut world = World::new();
    world.lease = false;
    assert!(!world.registers().offers);
    world.lease = true;
    assert!(world.is_asked(5).offers);
    let offer = world.delivery();
    assert!(world.is_asked(5).offers, "the answer may have been lost");
    assert_eq!(world.delivery(), offer, "it is not another one");
    assert!(!world.is_asked(6).offers, "that one was answered");
    // A new leader without a lease cannot repeat it, and does not say that there is nothing.
    world.lease = false;
    let unsure = world.is_asked(5);
    assert!(unsure.unsure && unsure.pending && !unsure.offers);
    world.lease = true;
    assert!(world.is_asked(5).offers);
}

// === a loss ===

#[test]
fn an_agent_whose_turn_has_not_come_is_asked_for_full_state_at_a_later_message() {
    let mut world = World::offered(false);
    world.says(applied());
    (world.has_lost, world.may_ask_full) = (true, false);
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.asks_full, answer.asks_full_later), (false, true));
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.asks_full, answer.asks_full_later), (false, true));
    world.may_ask_full = true;
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.asks_full, answer.asks_full_later), (true, false));
    let answer = world.says(full());
    assert_eq!((answer.asks_full, answer.asks_full_later), (false, false));
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.asks_full, answer.asks_full_later), (false, false));
}

#[test]
fn a_description_alone_is_no_answer_to_a_loss() {
    let mut world = World::offered(false);
    world.says(applied());
    world.has_lost = true;
    let answer = world.says(full());
    assert_eq!((answer.asks_full, answer.told_all), (true, false));
    // It was asked, and has nothing else to say.
    let answer = world.says(full());
    assert_eq!((answer.asks_full, answer.told_all), (false, true));
}

#[test]
fn nor_is_a_description_with_a_status_where_health_or_the_effective_config_may_be_what_was_lost() {
    let unasked = |message: AgentToServer| {
        let mut world = World::offered(false);
        world.says(applied());
        world.has_lost = true;
        let answer = world.says(message);
        (answer.asks_full, answer.told_all)
    };
    let all = || full_running(Digest::of("test", &[b"any"]));
    assert_eq!(unasked(all()), (false, true));
    let without_health = AgentToServer {
        health: None,
        ..all()
    };
    assert_eq!(unasked(without_health), (true, false));
    let without_effective = AgentToServer {
        effective_config: None,
        ..all()
    };
    assert_eq!(unasked(without_effective), (true, false));
}

#[test]
fn what_the_leader_before_has_asked_for_is_asked_for_again_where_its_answer_was_lost() {
    let mut world = World::offered(false);
    world.says(applied());
    world.has_lost = true;
    assert!(world.says(AgentToServer::default()).asks_full);
    // Another leader, who has asked nobody, is sent the same message.
    (world.full_asked, world.number) = (false, world.number - 1);
    assert!(world.says(AgentToServer::default()).asks_full);
}

/// Its answer was lost on its way to the gateway, whose session stands where it stood. That the agent had been asked
/// before, and had not told, leaves nothing to be written down for this message.
#[test]
fn a_message_that_changed_nothing_and_comes_again_is_answered_the_same() {
    let mut world = World::offered(false);
    world.says(applied());
    world.has_lost = true;
    assert!(world.says(AgentToServer::default()).asks_full);
    (world.full_asked, world.has_lost) = (false, true);
    let asked = world.says(AgentToServer::default());
    assert!(asked.asks_full && asked.entry.is_none());
    let (number, digest) = said(world.number);
    let report = Report {
        message: Some(AgentToServer {
            sequence_num: number,
            ..AgentToServer::default()
        }),
        digest: digest.to_vec().into(),
        session: Some(proto::edge::Session {
            number: number - 2,
            digest: said(number - 2).1.to_vec().into(),
            ..Default::default()
        }),
        ..Report::default()
    };
    world.number += 1;
    let again = world.hears(&report);
    assert!(
        again.asks_full,
        "the agent does not know yet that it is asked"
    );
    assert!(again.pending, "what else waits was not looked at");
}

/// It was stored, and its leader did not know.
#[test]
fn who_has_told_all_has_told_all_also_where_the_message_comes_again() {
    let all = || full_running(Digest::of("test", &[b"any"]));
    let mut world = World::offered(false);
    assert!(world.says(all()).told_all);
    world.number -= 1;
    (world.full_asked, world.has_lost) = (true, true);
    let again = world.says(all());
    assert!(again.entry.is_none() && again.told_all);
    assert_eq!((again.asks_full, again.asks_full_later), (false, false));
}

#[test]
fn a_description_in_whose_answer_full_state_is_asked_for_is_no_answer_to_that() {
    let mut world = World::offered(false);
    world.says(applied());
    world.has_lost = true;
    assert!(world.says(full()).asks_full);
    world.number -= 1;
    let again = world.says(full());
    assert!(again.asks_full && !again.told_all);
}

#[test]
fn who_loses_another_message_soon_after_it_was_asked_is_asked_when_it_has_rested() {
    let mut world = World::offered(false);
    world.says(applied());
    world.has_lost = true;
    assert!(world.says(AgentToServer::default()).asks_full);
    (world.has_lost, world.asked_ms_ago) = (true, 5_000);
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.asks_full, answer.asks_full_later), (false, true));
    (world.full_asked, world.asked_ms_ago) = (true, 40_000);
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.asks_full, answer.asks_full_later), (true, false));
}

// === after a restore ===

/// All there is to say, and it runs this.
fn full_running(hash: Digest) -> AgentToServer {
    AgentToServer {
        remote_config_status: reports(hash.as_bytes(), RemoteConfigStatuses::Applied)
            .remote_config_status,
        health: Some(opamp::ComponentHealth {
            healthy: true,
            ..Default::default()
        }),
        effective_config: Some(opamp::EffectiveConfig::default()),
        ..full()
    }
}

fn actions(evaluation: &Evaluation) -> Vec<&str> {
    let acts = acts(evaluation).into_iter();
    acts.map(|act| act.action.as_str()).collect()
}

#[test]
fn after_a_restore_an_agent_is_asked_what_it_runs_before_it_is_offered_anything() {
    let mut world = World::offered(false);
    // The backup was made before the offer.
    world.stored.as_mut().unwrap().1.delivery = None;
    world.incarnation = 1;
    let answer = world.says(AgentToServer::default());
    assert_eq!((answer.offers, answer.asks_full), (false, true));
    let answer = world.says(full());
    assert_eq!((answer.offers, answer.asks_full), (true, false));
    assert_eq!(world.stored.unwrap().1.heard_in, 1);
}

#[test]
fn an_agent_that_runs_what_its_record_lacks_keeps_it_until_a_person_decides() {
    let mut world = World::offered(false);
    world.says(applied());
    world.incarnation = 1;
    let lost = Digest::of("test", &[b"lost"]);
    let answer = world.says(full_running(lost));
    assert!(!answer.offers);
    assert_eq!(actions(&answer), ["agent.conflict"]);
    let record = |world: &World| world.stored.clone().unwrap().1;
    assert_eq!(record(&world).conflict, lost.as_bytes());
    assert!(!world.says(AgentToServer::default()).offers);
    // What `muster agents retry` does.
    let (_, agent) = world.stored.as_mut().unwrap();
    agent.conflict.clear();
    agent.delivery.as_mut().unwrap().state = DeliveryState::Withdrawn.into();
    assert!(world.says(AgentToServer::default()).offers);
    assert!(record(&world).conflict.is_empty());
}

#[test]
fn what_an_agent_says_before_it_has_said_all_makes_no_lost_config_known() {
    let lost = Digest::of("test", &[b"lost"]);
    // It compresses: only its status has changed, then all of it, as it was asked.
    let mut world = World::offered(false);
    world.says(applied());
    world.incarnation = 1;
    let status = AgentToServer {
        agent_description: None,
        ..full_running(lost)
    };
    let answer = world.says(status);
    assert!(answer.asks_full && !answer.offers);
    assert!(!world.says(full_running(lost)).offers);
    assert_eq!(world.stored.clone().unwrap().1.conflict, lost.as_bytes());
    // Only its description has changed: it may run anything.
    let mut other = World::offered(false);
    other.says(applied());
    other.incarnation = 1;
    let answer = other.says(full());
    assert!(answer.asks_full && !answer.offers);
    assert!(!other.says(full_running(lost)).offers);
    // Nobody resolved it before the next restore.
    world.incarnation = 2;
    assert!(world.says(AgentToServer::default()).asks_full);
    assert!(!world.says(full_running(lost)).offers);
    assert_eq!(world.stored.unwrap().1.conflict, lost.as_bytes());
}

#[test]
fn an_agent_that_joined_in_the_lost_past_is_not_offered_the_stable_revision() {
    let mut world = World::offered(false);
    world.stored = None;
    world.incarnation = 1;
    let lost = Digest::of("test", &[b"lost"]);
    assert!(!world.says(full_running(lost)).offers);
    assert!(!world.says(AgentToServer::default()).offers);
}

#[test]
fn a_conflict_is_over_when_the_agent_runs_what_it_should() {
    let mut world = World::offered(false);
    world.says(applied());
    world.incarnation = 1;
    world.says(full_running(Digest::of("test", &[b"lost"])));
    let answer = world.says(applied());
    assert!(!answer.offers);
    assert_eq!(actions(&answer), ["agent.conflict-over"]);
    assert!(world.stored.unwrap().1.conflict.is_empty());
}

#[test]
fn who_has_not_moved_on_and_who_is_new_is_no_conflict() {
    let mut world = World::offered(false);
    world.says(applied());
    world.incarnation = 1;
    let answer = world.says(full_running(delivery_hash(&config())));
    assert_eq!((answer.offers, acts(&answer).len()), (false, 0));
    // A cluster that was never restored adopts and offers as ever.
    let mut world = World::offered(false);
    world.stored = None;
    assert!(
        world
            .says(full_running(Digest::of("test", &[b"foreign"])))
            .offers
    );
}
