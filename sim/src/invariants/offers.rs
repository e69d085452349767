//! Offers: nothing that stands still (2), once (3), never empty (4), and the same answer to the same message (7).

use std::collections::{BTreeMap, BTreeSet};

use fleet::digest::Digest;
use fleet::offer::Reported;

use super::{Fact, Invariant, Number, Said, Verdict, hold};
use crate::program;
use crate::types::GroupId;

/// So long after an agent has got an offer that it does not answer the time for that is not over, whatever clocks and
/// links do: the timeout of 15 s counts from the grant, which is at most so much older.
const STILL_OPEN_MS: u64 = 12_000;

/// What an agent got, and what it has said about it since.
#[derive(Debug)]
struct Got {
    number: Number,
    at_ms: u64,
    answer: Option<Reported>,
    /// Something else was written to it since: whether it got that, nobody knows.
    replaced: bool,
    /// It said everything since, and not a word about this.
    told_all: bool,
}

#[derive(Debug, Default)]
pub struct Offers {
    standing: BTreeSet<Digest>,
    got: BTreeMap<(u32, Digest), Got>,
    /// The last offer that was written to an agent.
    written: BTreeMap<u32, (Number, Digest)>,
    heard: BTreeMap<(GroupId, u32), (u64, Said)>,
    answered_ms: BTreeMap<u32, u64>,
}

impl Offers {
    pub fn heard(&self, group: GroupId) -> BTreeMap<u32, (u64, Said)> {
        let of_group = self.heard.range((group, 0)..=(group, u32::MAX));
        of_group.map(|((_, agent), said)| (*agent, *said)).collect()
    }

    pub fn unanswered(&self, now_ms: u64, ms: u64) -> Vec<u32> {
        let silent = self.answered_ms.iter().filter(|(_, at)| now_ms - **at > ms);
        silent.map(|(agent, _)| *agent).collect()
    }

    pub fn check(&mut self, now_ms: u64, fact: &Fact) -> Verdict {
        match fact {
            Fact::Heard {
                group,
                agent,
                version,
                reported,
            } => {
                let said = self
                    .heard
                    .entry((*group, *agent))
                    .or_insert((*version, *reported));
                if said.0 <= *version {
                    *said = (*version, *reported);
                }
                Ok(())
            }
            Fact::Written {
                agent,
                number,
                hash,
                ..
            } => self.written(*agent, *number, *hash),
            Fact::Received {
                agent,
                number,
                hash,
            } => self.received(now_ms, *agent, *number, *hash),
            Fact::Answered {
                agent,
                full,
                status,
                ..
            } => {
                self.answered_ms.insert(*agent, now_ms);
                if *full {
                    self.told_all(*agent);
                }
                if let Some((hash, reported)) = status
                    && let Some(got) = self.got.get_mut(&(*agent, *hash))
                    && got.answer != Some(Reported::Failed)
                {
                    got.answer = Some(*reported);
                }
                Ok(())
            }
            // It has said nothing since, and may sleep again.
            Fact::Lost { agent } => {
                self.answered_ms.insert(*agent, now_ms);
                Ok(())
            }
            Fact::Stands { hash, .. } => {
                self.standing.insert(*hash);
                Ok(())
            }
            Fact::Resuming { hash } => {
                self.standing.remove(hash);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A full report that names another config proves that this one never came, where its collector runs since before:
    /// it is offered once more.
    fn told_all(&mut self, agent: u32) {
        for ((to, _), got) in &mut self.got {
            got.told_all |= *to == agent && got.answer.is_none();
        }
    }

    fn written(&mut self, agent: u32, number: Number, hash: Digest) -> Verdict {
        hold(
            !self.standing.contains(&hash),
            Invariant::StandsStill,
            || {
                format!(
                    "agent {agent} is offered {hash} in answer to message {number:?}, which was said to stand still"
                )
            },
        )?;
        hold(hash != program::empty(), Invariant::NeverEmpty, || {
            format!("agent {agent} is sent an empty config")
        })?;
        let before = self.written.insert(agent, (number, hash));
        let same = before.is_none_or(|(answered, sent)| answered != number || sent == hash);
        hold(same, Invariant::SameAnswer, || {
            format!(
                "message {number:?} of agent {agent} was answered with {before:?}, and now with {hash}"
            )
        })?;
        for ((to, sent), got) in &mut self.got {
            got.replaced |= *to == agent && *sent != hash;
        }
        Ok(())
    }

    fn received(&mut self, now_ms: u64, agent: u32, number: Number, hash: Digest) -> Verdict {
        let got = Got {
            number,
            at_ms: now_ms,
            answer: None,
            replaced: false,
            told_all: false,
        };
        let Some(before) = self.got.insert((agent, hash), got) else {
            return Ok(());
        };
        let failed = before.answer == Some(Reported::Failed);
        hold(!failed, Invariant::OfferedOnce, || {
            format!("agent {agent} is offered {hash} again, which it had answered with FAILED")
        })?;
        let unanswered = matches!(before.answer, None | Some(Reported::Applying));
        let is_open = unanswered
            && !before.replaced
            && !before.told_all
            && now_ms - before.at_ms < STILL_OPEN_MS;
        hold(!is_open, Invariant::OfferedOnce, || {
            format!(
                "agent {agent} got {hash} in answer to message {:?}, and {} ms later to {number:?}, without a word in between",
                before.number,
                now_ms - before.at_ms
            )
        })
    }
}
