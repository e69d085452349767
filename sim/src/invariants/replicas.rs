//! Replicas: what was acknowledged stays (1), equal positions are equal states, votes are kept, the chain verifies (9).

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::audit;
use state::inventory::reported;

use super::{Fact, Invariant, Known, Verdict, hold};
use crate::ledger::Ledger;
use crate::types::{GroupId, Vote};

/// What the first replica that got so far has become there.
#[derive(Debug)]
struct Point {
    change: u64,
    ledger: Arc<Ledger>,
}

#[derive(Debug, Default)]
struct History {
    points: BTreeMap<u64, Point>,
    /// Entry to change.
    acknowledged: BTreeMap<u64, u64>,
    /// By node.
    promised: BTreeMap<u64, Vote>,
    head: Option<audit::Head>,
}

#[derive(Debug, Default)]
pub struct Replicas(BTreeMap<GroupId, History>);

impl Replicas {
    /// So many entries contain all that was acknowledged so far.
    pub fn acknowledged(&self, group: GroupId) -> u64 {
        let history = self.0.get(&group);
        let last = history.and_then(|history| history.acknowledged.keys().next_back());
        last.copied().unwrap_or(0)
    }

    fn of(&mut self, group: GroupId) -> &mut History {
        self.0.entry(group).or_default()
    }

    pub fn check(&mut self, fact: &Fact) -> Verdict {
        match fact {
            Fact::Opened {
                node,
                group,
                vote,
                applied,
                ledger,
            } => {
                let history = self.of(*group);
                let promised = history.promised.get(node);
                hold(*vote >= promised.copied(), Invariant::Vote, || {
                    format!(
                        "node {node} began with {vote:?} in {group:?}, and had answered {promised:?}"
                    )
                })?;
                history.stands(*node, *applied, ledger)
            }
            Fact::Promised { node, group, vote } => {
                let before = self.of(*group).promised.insert(*node, *vote);
                hold(before <= Some(*vote), Invariant::Vote, || {
                    format!("node {node} answered {vote} in {group:?}, and {before:?} before")
                })
            }
            Fact::Applied {
                node,
                group,
                applied,
                change,
                links,
                ledger,
            } => self
                .of(*group)
                .applied(*node, *applied, *change, links, ledger),
            Fact::Installed {
                node,
                group,
                applied,
                ledger,
            } => self.of(*group).stands(*node, *applied, ledger),
            Fact::Acknowledged { group, at, change } => {
                let history = self.of(*group);
                history.acknowledged.insert(*at, *change);
                history.is_kept(*at)
            }
            Fact::Read {
                group,
                before,
                applied,
                ledger,
            } => {
                hold(*applied >= before.entries, Invariant::Acknowledged, || {
                    let known = before.entries;
                    format!("{group:?} was read at {applied}, {known} had been acknowledged")
                })?;
                statuses_are_kept(before, ledger)
            }
            Fact::Stopped { node, group, why } => hold(false, Invariant::Alive, || {
                format!("node {node} stopped {group:?}: {why}")
            }),
            _ => Ok(()),
        }
    }
}

impl History {
    /// A replica has applied one entry.
    fn applied(
        &mut self,
        node: u64,
        applied: u64,
        change: u64,
        links: &[audit::Entry],
        ledger: &Arc<Ledger>,
    ) -> Verdict {
        if let Some(point) = self.points.get(&applied) {
            hold(point.change == change, Invariant::Acknowledged, || {
                let other = point.change;
                format!(
                    "node {node} applied change {change} at {applied}, where others had applied {other}"
                )
            })?;
            return self.stands(node, applied, ledger);
        }
        // The first replica that gets so far writes the book on.
        self.follows(applied, links, ledger)?;
        let ledger = Arc::clone(ledger);
        self.points.insert(applied, Point { change, ledger });
        self.is_kept(applied)
    }

    /// Is a replica what every other one was after so many entries?
    fn stands(&self, node: u64, applied: u64, ledger: &Arc<Ledger>) -> Verdict {
        let Some(point) = self.points.get(&applied) else {
            return hold(
                applied == 0 && ledger.entries == 0,
                Invariant::SameState,
                || {
                    format!(
                        "node {node} stands at {applied}, with {} entries: nobody was there",
                        ledger.entries
                    )
                },
            );
        };
        hold(*point.ledger == **ledger, Invariant::SameState, || {
            let (other, this) = (&point.ledger, ledger);
            format!(
                "node {node} differs from others at {applied}: {} entries with trail {}, others have {} and {}",
                this.entries, this.trail, other.entries, other.trail
            )
        })
    }

    /// Is what was acknowledged there what was applied there?
    fn is_kept(&self, applied: u64) -> Verdict {
        let (acknowledged, point) = (self.acknowledged.get(&applied), self.points.get(&applied));
        let (Some(change), Some(point)) = (acknowledged, point) else {
            return Ok(());
        };
        hold(*change == point.change, Invariant::Acknowledged, || {
            format!(
                "change {change} was acknowledged at {applied}, where {} was applied",
                point.change
            )
        })
    }

    /// The chain goes on where it ended, and each change of a rollout's state is in it.
    fn follows(&mut self, applied: u64, links: &[audit::Entry], ledger: &Ledger) -> Verdict {
        let mut verifier = audit::Verifier::after(self.head.unwrap_or(audit::Head::genesis("sim")));
        for link in links {
            let follows = verifier.check(link);
            hold(follows.is_ok(), Invariant::Audit, || {
                format!("at {applied}: {follows:?}")
            })?;
        }
        hold(verifier.head() == ledger.head, Invariant::Audit, || {
            format!(
                "at {applied} the chain ends at {:?}, the state says {:?}",
                verifier.head(),
                ledger.head
            )
        })?;
        self.head = Some(verifier.head());
        let before = self.points.get(&(applied - 1));
        for (id, _, doc) in ledger.rollouts() {
            let was = before
                .and_then(|point| point.ledger.rollout(id))
                .map(|(_, doc)| doc.moves.state);
            let written = links.iter().any(|link| link.record.object == id);
            hold(
                was == Some(doc.moves.state) || written,
                Invariant::Audit,
                || {
                    format!(
                        "{id} went from {was:?} to {:?} at {applied} without an entry",
                        doc.moves.state
                    )
                },
            )?;
        }
        Ok(())
    }
}

/// Does a record still say what its agent was told to have been heard?
fn statuses_are_kept(before: &Known, ledger: &Ledger) -> Verdict {
    before.heard.iter().try_for_each(|(agent, (version, said))| {
        let recorded = ledger.agent(*agent).map(|(version, agent)| {
            (version, agent.status.as_ref().and_then(reported))
        });
        let is_newer = recorded.is_some_and(|(newest, _)| newest > *version);
        hold(is_newer || recorded == Some((*version, *said)), Invariant::Acknowledged, || {
            format!("agent {agent} was heard to say {said:?} in version {version} of its record, which is {recorded:?}")
        })
    })
}
