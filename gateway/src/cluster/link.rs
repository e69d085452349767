//! The way to the partition leaders, wherever they are.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use proto::edge::{self, Closed, Presences, answered, refused, upward};
use proto::uid::Uid;

use super::Cluster;
use super::line::Line;
use super::table::Table;
use crate::link::{Link, LinkError};

/// A report without a leader is held for so long.
const HOLD: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(25);

/// Soon enough for a leader to be there again.
const RETRY: Duration = Duration::from_secs(2);

/// Without a word of the leader's node for so long, nothing is answered from a session of its partition.
const CONTACT_MS: u64 = 10_000;

/// Agents in one message: 300 KiB.
const PRESENCES: usize = 4096;

impl Link for Cluster {
    async fn report(&self, report: edge::Report) -> Result<edge::Answer, LinkError> {
        let uid = Uid::from_wire(&report.instance_uid)
            .map_err(|error| LinkError::Rejected(error.to_string()))?;
        let begun = Instant::now();
        let mut changed = self.changed.subscribe();
        let (mut asked, mut held) = (false, false);
        loop {
            changed.mark_unchanged();
            let group = self.table.load().group(&uid);
            if let Some(line) = self.line_to_leader(group) {
                if std::mem::replace(&mut asked, true) {
                    self.asked_again.fetch_add(1, Ordering::Relaxed);
                }
                let attempt = Instant::now();
                let leads = || {
                    self.line_to_leader(group)
                        .is_some_and(|now| now.node() == line.node())
                };
                // A leader that has been replaced may never answer: whoever leads now is asked the same.
                let replaced = async {
                    while changed.changed().await.is_ok() {
                        if !leads() {
                            return;
                        }
                    }
                };
                let answer = tokio::select! {
                    answer = line.ask(report.clone()) => answer,
                    () = replaced => None,
                };
                match answer {
                    Some(answered::Result::Answer(mut answer)) => {
                        // The gateway counts a grant from its call; what was held back here is added.
                        if answer.grant_ms > 0 {
                            let held = (attempt - begun).as_millis();
                            answer.grant_ms += u32::try_from(held).unwrap_or(0);
                        }
                        return Ok(answer);
                    }
                    Some(answered::Result::Refused(refused)) => match refused.kind() {
                        refused::Kind::Overloaded => return Err(LinkError::Overloaded),
                        refused::Kind::Rejected => return Err(LinkError::Rejected(refused.why)),
                        // It led when it was asked. Not known: the same report again is answered the same.
                        refused::Kind::NotLeader
                        | refused::Kind::Unknown
                        | refused::Kind::Unspecified => {}
                    },
                    None => {}
                }
            } else if !std::mem::replace(&mut held, true) {
                self.held.fetch_add(1, Ordering::Relaxed);
            }
            if begun.elapsed() >= HOLD {
                return Err(LinkError::Unavailable { retry_after: RETRY });
            }
            // Woken by news of a leader; by time where none comes.
            let _news = tokio::time::timeout(PAUSE, changed.changed()).await;
        }
    }

    async fn presence(&self, batch: Vec<edge::Presence>) {
        if batch.is_empty() {
            return;
        }
        let table = self.table.load_full();
        let batch = grouped(&table, batch);
        for line in self.standing() {
            let Some(node) = line.node() else { continue };
            let agents = of_groups(&batch, |group| table.has(node, group));
            self.tell_presences(&line, agents, false).await;
        }
    }

    async fn introduce(&self, all: impl Fn() -> Vec<edge::Presence> + Send) {
        let table = self.table.load_full();
        let mut conversations = None;
        for line in self.standing() {
            let Some(node) = line.node() else { continue };
            let unheard = line.introduce(table.groups_of(node));
            if unheard.is_empty() {
                continue;
            }
            let batch = conversations.get_or_insert_with(|| grouped(&table, all()));
            let agents = of_groups(batch, |group| unheard.contains(&group));
            self.tell_presences(&line, agents, true).await;
        }
    }

    async fn closed(&self, uid: Uid, connection: u64, clean: bool) {
        // A line that takes nothing at the moment keeps none of the others waiting.
        let lines = self.standing();
        let telling = lines.iter().map(|line| {
            line.close(Closed {
                instance_uid: uid.as_bytes().to_vec().into(),
                connection,
                clean,
            })
        });
        futures::future::join_all(telling).await;
    }

    fn notices(&self) -> impl Stream<Item = Vec<edge::Notice>> + Send {
        let heard = self
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let stream: BoxStream<'static, _> = match heard {
            Some(heard) => tokio_stream::wrappers::ReceiverStream::new(heard).boxed(),
            None => futures::stream::pending().boxed(),
        };
        stream
    }

    fn in_contact(&self, uid: Uid) -> bool {
        let group = self.table.load().group(&uid);
        let line = self.line_to_leader(group);
        line.is_some_and(|line| self.now_ms().saturating_sub(line.heard_ms()) < CONTACT_MS)
    }
}

/// An agent, behind the group that keeps it.
type Grouped = (u32, edge::Presence);

fn grouped(table: &Table, batch: Vec<edge::Presence>) -> Vec<Grouped> {
    let group = |presence: &edge::Presence| {
        Uid::from_wire(&presence.instance_uid).map_or(0, |uid| table.group(&uid))
    };
    let grouped = batch.into_iter();
    grouped.map(|agent| (group(&agent), agent)).collect()
}

/// Those that are kept by these groups.
fn of_groups(batch: &[Grouped], kept: impl Fn(u32) -> bool) -> Vec<edge::Presence> {
    let of_groups = batch.iter().filter(|(group, _)| kept(*group));
    of_groups.map(|(_, agent)| agent.clone()).collect()
}

impl Cluster {
    async fn tell_presences(&self, line: &Line, agents: Vec<edge::Presence>, introduction: bool) {
        let mut agents = agents.into_iter();
        loop {
            let presences = Presences {
                gateway: self.config.name.clone(),
                agents: agents.by_ref().take(PRESENCES).collect(),
                introduction,
            };
            if presences.agents.is_empty() {
                return;
            }
            line.tell(upward::What::Presences(presences)).await;
        }
    }

    fn standing(&self) -> Vec<std::sync::Arc<super::Line>> {
        self.lines()
            .values()
            .filter(|line| line.node().is_some())
            .cloned()
            .collect()
    }
}
