//! Whose agents are: that they stay with their owner, go to who claims them, or that neither is said any more.

use fleet::program::Program;
use fleet::program::word::{self, Unsaid};
use proto::api::{self, ChangedAgents};
use proto::store;
use proto::uid::Uid;
use tonic::Status;

use super::{Api, Change, Order};
use crate::inventory::{Columns, Interner, Row};
use crate::ledger::now_ms;
use crate::partition::{chain, merge, places_of};

impl Api {
    /// Decides for each agent by itself, on the record that the word is stored in.
    pub(super) async fn resolve(
        &self,
        request: &api::ResolveOwnerRequest,
        actor: &str,
    ) -> Result<ChangedAgents, Status> {
        let unread = self.look_at_lists().await?;
        let uids = self.chosen(&request.uids, &request.selector)?;
        let order = Order {
            actor,
            action: "agent.owner",
            detail: "",
            key: &request.idempotency_key,
        };
        let decide = |uid: Uid, agent: &mut store::Agent| {
            let partition = self.node.partition(uid);
            let name = partition.ledger.name();
            if unread.iter().any(|unread| unread == name) {
                return Err(format!(
                    "what {name} has of it cannot be read now: repeat it in a moment"
                ));
            }
            let program = partition.program();
            let columns = partition.index().read();
            let said = said(uid, agent, request.keep, &program, &columns);
            drop(columns);
            let (granted, words) = said.map_err(|unsaid| unsaid.to_string())?;
            if !write(agent, granted, program.epoch.0) {
                return Ok(None);
            }
            let detail = match request.reason.as_str() {
                "" => words.clone(),
                reason => format!("{words}: {reason}"),
            };
            Ok(Some(Change {
                transition: merge::transition(now_ms(), "owner resolved", "", "", &detail),
                detail,
                words,
            }))
        };
        Ok(self.decide_each(&uids, order, decide).await)
    }

    /// Has the newest program and lists here, so that a word is said of what its speaker has seen and goes before it.
    /// Answers the names of partitions that cannot be read.
    async fn look_at_lists(&self) -> Result<Vec<String>, Status> {
        self.node.control_ledger.sync().await.map_err(|error| {
            Status::unavailable(format!(
                "who claims the agents, and which rollouts list them, cannot be read now: {}; nothing was changed, repeat it in a moment",
                chain(&error)
            ))
        })?;
        for partition in self.node.partitions.iter() {
            partition.take_program();
        }
        Ok(self.node.look().await)
    }
}

/// What a person's word of this agent comes to: whom it is granted to, and the words for that.
fn said(
    uid: Uid,
    agent: &store::Agent,
    keep: bool,
    program: &Program,
    columns: &Columns,
) -> Result<(Option<store::Owner>, String), Unsaid> {
    let row = Row::new(uid, 0, agent, &mut Interner::default());
    let places = places_of(columns, program, uid);
    let word = word::say(keep, row.whose(), &program.claims(&row), &places, program)?;
    let granted = word.granted().map(|(family, role)| store::Owner {
        family: family.to_owned(),
        role: role.to_owned(),
    });
    Ok((granted, word.to_string()))
}

/// Writes a word down. Said once more it counts for lists that were made since it was said before. False: it stands there.
fn write(agent: &mut store::Agent, granted: Option<store::Owner>, epoch: u64) -> bool {
    let resolved = if granted.is_some() { epoch } else { 0 };
    if (&agent.granted, agent.resolved_epoch) == (&granted, resolved) {
        return false;
    }
    (agent.granted, agent.resolved_epoch) = (granted, resolved);
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fleet::digest::Digest;
    use fleet::program::{
        Epoch, OwnerChange, ProgramFamily, ProgramRole, ProgramRollout, RevisionNumber,
    };
    use fleet::selector::Selector;
    use prost::Message;

    use super::*;
    use crate::controller::ask;
    use crate::inventory::{Index, chunk};
    use crate::ledger::{Mirror, entry, put, table};
    use crate::local::{self, Node};
    use crate::partition::{Config, Decided, Error};

    fn uid() -> Uid {
        Uid::from_wire(&[7; 16]).unwrap()
    }

    fn family(name: &str, precedence: i64, stable: Option<u64>) -> ProgramFamily {
        let role = ProgramRole {
            name: "agent".into(),
            selector: Selector::parse("*").unwrap(),
            delivery: Digest::of("test", &[name.as_bytes()]),
            baseline: Digest::of("test", &[b"baseline"]),
            needs: std::sync::Arc::default(),
        };
        ProgramFamily {
            name: name.into(),
            precedence,
            stable: stable.map(RevisionNumber),
            revisions: BTreeMap::from([(RevisionNumber(1), vec![role])]),
            owner_change: OwnerChange::Ask,
            rollout: None,
        }
    }

    /// Family db has everybody; a rollout of web, none of whose waves is open, is to take the agent over.
    fn program() -> Program {
        let web = ProgramFamily {
            rollout: Some(ProgramRollout {
                id: "ro-1".into(),
                from: None,
                to: RevisionNumber(1),
                running: true,
                open_waves: BTreeMap::new(),
                roll_back: None,
                passed: false,
                opened: Epoch(5),
                returning: false,
            }),
            ..family("web", 2, None)
        };
        Program {
            epoch: Epoch(9),
            families: vec![web, family("db", 1, Some(1))],
            pins: vec![],
        }
    }

    fn listed() -> Index {
        let index = Index::default();
        let mut mirror = index.mirror();
        let member = store::Member {
            uid: uid().as_bytes().to_vec(),
            taken_from: Some(owner("db")),
            ..store::Member::default()
        };
        let list = store::MemberChunk {
            members: vec![member],
        };
        mirror.put(table::MEMBERS, &chunk("ro-1", 0), 1, &list.encode_to_vec());
        mirror.publish(0);
        index
    }

    fn owner(family: &str) -> store::Owner {
        store::Owner {
            family: family.into(),
            role: "agent".into(),
        }
    }

    fn owned_by(family: &str) -> store::Agent {
        store::Agent {
            uid: uid().as_bytes().to_vec(),
            delivery: Some(store::Delivery {
                hash: Digest::of("test", &[family.as_bytes()]).as_bytes().to_vec(),
                family: family.into(),
                role: "agent".into(),
                state: store::DeliveryState::Applied.into(),
                ..store::Delivery::default()
            }),
            ..store::Agent::default()
        }
    }

    #[test]
    fn a_word_is_decided_on_the_record_that_it_is_stored_in() {
        let (program, index) = (program(), listed());
        let kept = |agent: &store::Agent| {
            let columns = index.read();
            said(uid(), agent, true, &program, &columns)
        };
        let (granted, words) = kept(&owned_by("db")).unwrap();
        assert_eq!(granted, Some(owner("db")));
        assert_eq!(
            words,
            "stays with db/agent; rollout ro-1 does not take it over to web/agent"
        );
        // Taken over in the meantime: it stays where it is now.
        let (granted, words) = kept(&owned_by("web")).unwrap();
        assert_eq!(granted, Some(owner("web")));
        assert!(
            words.starts_with("stays with web/agent; a rollback of ro-1"),
            "{words}"
        );
        assert_eq!(kept(&store::Agent::default()), Err(Unsaid::Unowned));
    }

    #[test]
    fn a_word_is_younger_than_the_lists_it_was_said_of_and_leaves_no_trace_when_it_is_taken_back() {
        let (program, index) = (program(), listed());
        let mut agent = owned_by("db");
        let mut say = |keep| {
            let columns = index.read();
            let (granted, _) = said(uid(), &agent, keep, &program, &columns).unwrap();
            let changed = write(&mut agent, granted, program.epoch.0);
            (changed, agent.granted.clone(), agent.resolved_epoch)
        };
        assert_eq!(say(true), (true, Some(owner("db")), 9));
        assert_eq!(say(true), (false, Some(owner("db")), 9));
        assert_eq!(say(false), (true, None, 0));
    }

    /// A node by itself, with one agent, which db owns.
    async fn node(dir: &std::path::Path) -> std::sync::Arc<Node> {
        let config = local::Config {
            store: local::open(dir).await.unwrap(),
            cluster: None,
            partition: Config::default(),
            group: raft::GroupConfig::default(),
            ask: ask::Config::default(),
            otelcol: vec![],
        };
        let node = Node::start(config).await.unwrap();
        let write = put(table::AGENT, *uid().as_bytes(), 0, &owned_by("db"));
        let ledger = &node.partition(uid()).ledger;
        ledger.propose(entry(vec![write], vec![])).await.unwrap();
        node
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_that_changes_while_it_is_decided_on_is_decided_on_anew() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let partition = node.partition(uid());
        let transition = || merge::transition(now_ms(), "owner resolved", "", "", "");
        let seen = std::sync::Mutex::new(Vec::new());
        let decide = |agent: &mut store::Agent| -> Result<Option<Decided<String>>, Error> {
            let family = agent.delivery.as_ref().unwrap().family.clone();
            let mut seen = seen.lock().unwrap();
            seen.push(family.clone());
            if seen.len() == 1 {
                // Somebody else is quicker.
                let taken_over = partition.change(uid(), |agent| {
                    agent.delivery = owned_by("web").delivery;
                    Some(transition())
                });
                let runtime = tokio::runtime::Handle::current();
                let taken_over = tokio::task::block_in_place(|| runtime.block_on(taken_over));
                assert!(taken_over.unwrap());
            }
            agent.granted = Some(owner(&family));
            Ok(Some(Decided {
                transition: transition(),
                acts: vec![],
                said: family,
            }))
        };
        let said = partition.decide(uid(), String::new(), decide).await;
        assert_eq!(said.unwrap().as_deref(), Some("web"));
        assert_eq!(*seen.lock().unwrap(), ["db", "web"]);
        let (_, stored) = partition.agent(uid()).unwrap().unwrap();
        assert_eq!(stored.granted, Some(owner("web")));
        node.stop().await;
    }
}
