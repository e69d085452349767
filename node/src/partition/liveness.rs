//! Who is there: what gateways say of agents, who falls silent, and whose offers run out of time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::StreamExt;
use proto::edge::{Presence, Report};
use proto::store::Link;
use proto::uid::Uid;
use state::partition::conversation::Known;
use state::partition::{liveness, millis};

use super::changes::Through;
use super::{Partition, chain};
use crate::ledger::now_ms;

/// Agents whose records are changed at once because time has passed.
const TOGETHER: usize = 256;

/// What the record of an agent should say of it from now on, as its gateway has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It was silent, or had left, and has spoken.
    Back,
    /// It has left, and closed this connection.
    Left {
        /// Of its gateway.
        connection: u64,
    },
}

impl Partition {
    /// Agents spoke without saying anything new. Who is back by that is to be [noted](Partition::note).
    pub fn heard(&self, gateway: &str, batch: &[Presence]) -> Vec<(Uid, Sign)> {
        let leads = self.leads();
        let heard = self
            .core()
            .heard(gateway, batch, leads, self.monotonic_ms());
        self.told.notify_waiters();
        if !leads {
            return Vec::new();
        }
        let back = liveness::back(&self.index.read(), heard);
        back.into_iter().map(|uid| (uid, Sign::Back)).collect()
    }

    /// Where the conversations of a gateway stand that was not heard before. Nobody is back for that: who has gone stays
    /// in its gateway's memory for a while.
    pub fn introduced(&self, gateway: &str, batch: &[Presence]) {
        let leads = self.leads();
        let now = self.monotonic_ms();
        let _known = self.core().heard(gateway, batch, leads, now);
        self.told.notify_waiters();
    }

    /// A gateway can be heard from now on, or cannot be for now: its silence says nothing of its agents.
    pub fn gateway_is_here(&self, gateway: &str, here: bool) {
        let now = self.monotonic_ms();
        self.core().gateway_is_here(gateway, here, now);
    }

    /// A connection ended. Only a clean end says that the agent has left, which is to be [noted](Partition::note).
    pub fn closed(&self, uid: Uid, connection: u64, clean: bool) -> Option<(Uid, Sign)> {
        self.core().closed(uid, connection);
        let left = clean && self.owns(uid, connection) && self.leads();
        left.then_some((uid, Sign::Left { connection }))
    }

    /// A newer connection may own the agent already.
    fn owns(&self, uid: Uid, connection: u64) -> bool {
        let owner = self.core().connection(uid);
        owner.is_none_or(|owner| owner == connection)
    }

    /// Writes down what gateways have told; of each agent the last word counts. Without a quorum it takes until the group
    /// gives up: nobody who listens to a gateway may wait for it.
    pub async fn note(&self, signs: impl IntoIterator<Item = (Uid, Sign)>) {
        let last: BTreeMap<Uid, Sign> = signs.into_iter().collect();
        futures::stream::iter(last)
            .for_each_concurrent(TOGETHER, |(uid, sign)| async move {
                match sign {
                    Sign::Back => self.link(uid, Link::Connected, "heard again").await,
                    Sign::Left { connection } => {
                        let detail = "connection closed by the agent";
                        let came_elsewhere = || !self.owns(uid, connection);
                        self.link_unless(came_elsewhere, uid, Link::Left, detail)
                            .await;
                    }
                }
            })
            .await;
    }

    /// A gateway has been gone for a while: whoever it held is silent from now on if it does not come elsewhere.
    pub fn gateway_gone(&self, gateway: &str) {
        let now = self.monotonic_ms();
        self.core().gateway_gone(gateway, now);
    }

    /// Looks for silent agents and for offers whose time has passed. Call it every second.
    pub async fn tick(&self) {
        let now = self.monotonic_ms();
        let before = self.looked_ms.load(Ordering::SeqCst);
        {
            let mut core = self.core();
            core.rest(now);
            core.looks(before, now);
        }
        let (lost, late) = self.overdue();
        self.link_all(lost, Link::Lost, "silent").await;
        let now = self.monotonic_ms();
        self.looked_ms.store(now, Ordering::SeqCst);
        // Many at a time, so that they share their fsyncs.
        futures::stream::iter(late)
            .for_each_concurrent(TOGETHER, |uid| self.close_late(uid))
            .await;
    }

    fn overdue(&self) -> (Vec<Uid>, Vec<Uid>) {
        let timeout_ms = millis(self.config.offer_timeout);
        let (connected, late) = {
            let columns = self.index.read();
            (
                liveness::connected(&columns),
                liveness::late(&columns, now_ms(), timeout_ms),
            )
        };
        let now = self.monotonic_ms();
        (liveness::lost(&self.core(), connected, now), late)
    }

    /// An offer's time has passed: it has no answer.
    async fn close_late(&self, uid: Uid) {
        let _turn = self.turn(uid).lock().await;
        let report = Report {
            instance_uid: uid.as_bytes().to_vec().into(),
            ..Report::default()
        };
        match self.evaluate(uid, &report, Known::default(), false).await {
            // As with liveness: whoever leads next sees it anew.
            Err(error) if error.is_leaderless() => {
                tracing::debug!(%uid, "that an offer's time has passed was left to the next leader");
            }
            Err(error) => {
                tracing::warn!(%uid, error = %chain(&error), "an offer's time has passed and that was not stored");
            }
            Ok(_) => {}
        }
    }

    /// Many at a time, so that they share their fsyncs.
    async fn link_all(&self, uids: Vec<Uid>, link: Link, detail: &str) {
        futures::stream::iter(uids)
            .for_each_concurrent(TOGETHER, |uid| self.link(uid, link, detail))
            .await;
    }

    async fn link(&self, uid: Uid, link: Link, detail: &str) {
        self.link_unless(
            || link == Link::Lost && !self.core().is_lost(uid, self.monotonic_ms()),
            uid,
            link,
            detail,
        )
        .await;
    }

    /// `is_past`: it is not so any more. Asked each time before it is stored.
    async fn link_unless(&self, is_past: impl Fn() -> bool, uid: Uid, link: Link, detail: &str) {
        let through = match link {
            // It has said so itself.
            Link::Left => Through::Leader,
            _ => Through::ThisNode,
        };
        let changed = self
            .change_through(through, uid, (String::new(), vec![]), |agent| {
                if is_past() {
                    return None;
                }
                liveness::link(agent, link, detail, now_ms())
            })
            .await;
        match changed {
            // Another node leads now, or nobody does: whoever leads next sees it anew.
            Err(error) if error.is_leaderless() => {
                tracing::debug!(%uid, "liveness change was left to the next leader");
            }
            Err(error) => {
                tracing::warn!(%uid, error = %chain(&error), "liveness change was not stored");
            }
            Ok(_) => {}
        }
    }

    /// Those of another node's: its leader looked so long before the question, which was sent at `sent`, was answered.
    pub fn has_looked(&self, sent: Instant, looked_ms: u64) {
        let sent = millis(sent.saturating_duration_since(self.started));
        self.looked_ms
            .fetch_max(sent.saturating_sub(looked_ms), Ordering::SeqCst);
    }

    /// How long ago this partition looked at its agents last: what it says of them is no younger.
    pub fn evidence_age_ms(&self) -> u64 {
        let looked = self.looked_ms.load(Ordering::SeqCst);
        self.monotonic_ms().saturating_sub(looked)
    }

    /// Agents that have lost a message and are still to be asked for full state.
    pub fn full_asks_postponed(&self) -> u64 {
        self.core().full_asks_postponed() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::controller::ask;
    use crate::ledger::{entry, put, table};
    use crate::local::{self, Node};
    use crate::partition::Config;

    fn uid() -> Uid {
        Uid::from_wire(&[7; 16]).unwrap()
    }

    fn speaks(number: u64, connection: u64) -> [Presence; 1] {
        [Presence {
            instance_uid: uid().as_bytes().to_vec().into(),
            number,
            connection,
            ..Presence::default()
        }]
    }

    /// A node by itself that leads, with one agent that is there.
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
        let agent = proto::store::Agent {
            uid: uid().as_bytes().to_vec(),
            link: Link::Connected.into(),
            ..proto::store::Agent::default()
        };
        let write = put(table::AGENT, *uid().as_bytes(), 0, &agent);
        let partition = node.partition(uid());
        partition
            .ledger
            .propose(entry(vec![write], vec![]))
            .await
            .unwrap();
        let leads = async {
            while !partition.leads() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), leads)
            .await
            .unwrap();
        node
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_left_and_has_come_again_before_that_is_written_down_has_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let partition = node.partition(uid());
        let link = || partition.agent(uid()).unwrap().unwrap().1.link();
        assert_eq!(partition.heard("g", &speaks(1, 1)), []);
        let left = partition.closed(uid(), 1, true);
        assert_eq!(left, Some((uid(), Sign::Left { connection: 1 })));
        assert_eq!(partition.heard("g", &speaks(2, 2)), []);
        partition.note(left).await;
        assert_eq!(link(), Link::Connected);
        assert_eq!(partition.closed(uid(), 1, true), None, "it came elsewhere");
        assert_eq!(partition.closed(uid(), 2, false), None, "it only broke");
        partition.note(partition.closed(uid(), 2, true)).await;
        assert_eq!(link(), Link::Left);
        node.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_what_is_written_down_together_the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let partition = node.partition(uid());
        let link = || partition.agent(uid()).unwrap().unwrap().1.link();
        let left = (uid(), Sign::Left { connection: 1 });
        partition.note([(uid(), Sign::Back), left]).await;
        assert_eq!(link(), Link::Left);
        let back = partition.heard("g", &speaks(1, 2));
        assert_eq!(back, [(uid(), Sign::Back)]);
        partition.note([left].into_iter().chain(back)).await;
        assert_eq!(link(), Link::Connected);
        node.stop().await;
    }
}
