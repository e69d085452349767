//! Conversations: a lost message is asked for, and nothing else (5); nobody is declared lost who is not.

use std::collections::BTreeMap;

use super::{Fact, Invariant, Verdict, hold};
use crate::leader::TIMING;

/// What a gateway has answered from memory the nodes know so much later, also where a line to them has to be made anew.
const UNTOLD_MS: u64 = 2_500;

#[derive(Debug)]
struct Answered {
    by: u32,
    asked_ms: u64,
    at_ms: u64,
}

#[derive(Debug, Default)]
pub struct Conversations {
    /// The messages of each agent that were answered last.
    answered: BTreeMap<u32, Vec<Answered>>,
    /// Since when a loss was not asked for.
    lost_ms: BTreeMap<u32, u64>,
    /// Until when an agent may be asked that has lost nothing, since the leader may not know where its conversation stands.
    unsure_ms: BTreeMap<u32, u64>,
    /// When each gateway began anew last.
    forgot_ms: BTreeMap<u32, u64>,
    /// Gateways that not every node hears: until when they were not heard.
    unheard_ms: BTreeMap<u32, u64>,
}

impl Conversations {
    /// Agents that have lost a message so long ago and were not asked.
    pub fn unasked(&self, now_ms: u64, ms: u64) -> Vec<u32> {
        let lost = self.lost_ms.iter().filter(|(_, at)| now_ms - **at > ms);
        lost.map(|(agent, _)| *agent).collect()
    }

    pub fn check(&mut self, now_ms: u64, fact: &Fact) -> Verdict {
        match fact {
            Fact::Ended { .. } | Fact::Opened { .. } | Fact::Leads { .. } => {
                let everybody = self.answered.keys();
                self.unsure_ms = everybody.map(|agent| (*agent, u64::MAX)).collect();
                Ok(())
            }
            Fact::Forgot { gateway } => {
                self.forgot_ms.insert(*gateway, now_ms);
                self.is_untold(*gateway, now_ms);
                for answered in self.answered.values_mut() {
                    answered.retain(|one| one.by != *gateway || now_ms - one.at_ms > UNTOLD_MS);
                }
                Ok(())
            }
            Fact::Unheard { gateway } => {
                self.unheard_ms.insert(*gateway, u64::MAX);
                self.is_untold(*gateway, now_ms);
                Ok(())
            }
            Fact::Broke { gateway } => {
                self.is_untold(*gateway, now_ms);
                Ok(())
            }
            Fact::Mended => {
                for until_ms in self.unheard_ms.values_mut() {
                    *until_ms = now_ms.min(*until_ms);
                }
                Ok(())
            }
            Fact::Answered {
                agent,
                gateway,
                asked_ms,
                full,
                ..
            } => {
                self.answered(*agent, *gateway, *asked_ms, now_ms);
                if *full {
                    self.lost_ms.remove(agent);
                }
                Ok(())
            }
            Fact::Lost { agent } => {
                self.lost_ms.entry(*agent).or_insert(now_ms);
                Ok(())
            }
            Fact::Asked { agent } => {
                let has_lost = self.lost_ms.remove(agent).is_some();
                let unsure = self.unsure_ms.get(agent);
                let excused = unsure.is_some_and(|until_ms| now_ms <= *until_ms);
                hold(has_lost || excused, Invariant::Asked, || {
                    format!("agent {agent} is asked for full state, and has lost nothing")
                })
            }
            Fact::Declared { agent, decided_ms } => {
                let answered = self.answered.get(agent).into_iter().flatten();
                // Who was not answered by then may have waited for a leader, and of what had just been nobody could know.
                let answered = answered.filter(|one| one.at_ms <= *decided_ms);
                let silent = answered.map(|one| decided_ms - one.asked_ms);
                let silent = silent.filter(|ms| *ms > UNTOLD_MS).min();
                let silent = silent.unwrap_or(u64::MAX);
                hold(
                    silent >= TIMING.lost_after_ms,
                    Invariant::NobodyLost,
                    || format!("agent {agent} is declared lost, and was heard {silent} ms before"),
                )
            }
            _ => Ok(()),
        }
    }

    fn answered(&mut self, agent: u32, gateway: u32, asked_ms: u64, now_ms: u64) {
        let forgot_ms = self.forgot_ms.get(&gateway);
        let forgot = forgot_ms.is_some_and(|at| *at >= asked_ms);
        let unheard_ms = self.unheard_ms.get(&gateway);
        let unheard =
            unheard_ms.is_some_and(|until_ms| asked_ms < until_ms.saturating_add(UNTOLD_MS));
        let until_ms = self.unsure_ms.entry(agent).or_default();
        *until_ms = match forgot || unheard {
            true => u64::MAX,
            // It may be asked in this very answer.
            false => now_ms.min(*until_ms),
        };
        let answered = self.answered.entry(agent).or_default();
        answered.retain(|one| now_ms - one.at_ms < 2 * TIMING.lost_after_ms);
        if !forgot {
            answered.push(Answered {
                by: gateway,
                asked_ms,
                at_ms: now_ms,
            });
        }
    }

    /// What this gateway has answered from memory just now no node knows of, whenever it was asked.
    fn is_untold(&mut self, gateway: u32, now_ms: u64) {
        for (agent, answered) in &self.answered {
            let mut untold = answered.iter();
            if untold.any(|one| one.by == gateway && now_ms - one.at_ms <= UNTOLD_MS) {
                self.unsure_ms.insert(*agent, u64::MAX);
            }
        }
    }
}
