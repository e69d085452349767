//! What follows from a turn: the answer to the agent, and the entry that is stored before it is given.

use fleet::digest::Digest;
use fleet::family::ConfigMap;
use proto::opamp::{AgentCapabilities, ServerToAgent, ServerToAgentFlags};
use proto::store::{self, Link};
use proto::uid::Uid;

use super::{Evaluation, SERVER_CAPABILITIES, Turn};
use crate::ledger::{entry, put, put_any, table};
use crate::partition::merge::{link_word, transition};

impl Turn<'_> {
    pub(super) fn finish(mut self) -> Evaluation {
        let mut flags = 0;
        if self.asks_full {
            self.agent.full_asked = true;
            flags |= ServerToAgentFlags::ReportFullState as u64;
        }
        let reports_components =
            self.agent.capabilities & AgentCapabilities::ReportsAvailableComponents as u64 != 0;
        let hash = self
            .agent
            .components
            .as_ref()
            .map(|c| c.hash.clone())
            .unwrap_or_default();
        let told = self
            .report
            .message
            .as_ref()
            .is_some_and(|m| m.available_components.is_some());
        if reports_components && told && !hash.is_empty() && !(self.ctx.knows_components)(&hash) {
            let has_body = self
                .agent
                .components
                .as_ref()
                .is_some_and(|c| !c.body.is_empty());
            flags |= if has_body {
                0
            } else {
                ServerToAgentFlags::ReportAvailableComponents as u64
            };
        }
        let base = ServerToAgent {
            instance_uid: self.uid.as_bytes().to_vec(),
            capabilities: SERVER_CAPABILITIES,
            ..ServerToAgent::default()
        };
        let mut replies = Vec::new();
        if self.restart {
            let command = proto::opamp::ServerToAgentCommand {
                r#type: proto::opamp::CommandType::Restart.into(),
            };
            replies.push(ServerToAgent {
                command: Some(command),
                ..base.clone()
            });
        }
        let identification = self.new_uid.map(|uid| proto::opamp::AgentIdentification {
            new_instance_uid: uid.as_bytes().to_vec(),
        });
        let offers = self.offer.is_some();
        let remote_config = self
            .offer
            .take()
            .map(|(hash, config)| remote_config(hash, &config));
        let says_something = flags != 0 || identification.is_some() || remote_config.is_some();
        if !self.restart || says_something {
            replies.push(ServerToAgent {
                flags,
                agent_identification: identification,
                remote_config,
                ..base
            });
        }
        let same_delivery = self.before.is_some_and(|before| {
            before.delivery == self.agent.delivery
                && before.restart_pending == self.agent.restart_pending
        });
        let can_wait = same_delivery
            && !offers
            && !self.asks_full
            && !self.full
            && !self.merged.status
            && !self.merged.goodbye
            && self.new_uid.is_none()
            && self.acts.is_empty();
        Evaluation {
            can_wait,
            entry: self.entry(offers),
            learned: std::mem::take(&mut self.merged.learned),
            replies,
            offers,
            pending: false,
            unsure: false,
            told_all: self.full,
            asks_full: self.asks_full,
            asks_full_later: self.asks_full_later,
            new_uid: self.new_uid,
            goodbye: self.merged.goodbye,
            capabilities: self.agent.capabilities,
            epoch: self.ctx.program.epoch,
        }
    }

    pub(super) fn entry(&mut self, offers: bool) -> Option<store::Entry> {
        if self.report.message.is_none() && self.before.is_none() {
            return None;
        }
        if let Some(new_uid) = self.new_uid
            && !self.agent.duplicate
        {
            self.agent.alias_of = new_uid.as_bytes().to_vec();
            if self.agent.link() != Link::Left {
                self.merged.transitions.push(transition(
                    self.ctx.now_ms,
                    "left",
                    link_word(self.agent.link()),
                    "left",
                    &format!("goes by {new_uid}"),
                ));
            }
            self.agent.link = Link::Left.into();
        }
        let changed = self.before.is_none_or(|before| !same(before, &self.agent));
        if !changed && self.merged.transitions.is_empty() && self.acts.is_empty() {
            return None;
        }
        let mut writes = std::mem::take(&mut self.writes);
        writes.push(put(
            table::AGENT,
            *self.uid.as_bytes(),
            self.version,
            &self.agent,
        ));
        writes.append(&mut self.merged.bodies);
        if self.before.is_none() {
            let by = match self.report.token.as_str() {
                "" => String::new(),
                token => format!(", token `{token}`"),
            };
            let detail = format!("{} from {}{by}", self.agent.transport, self.report.peer);
            self.act("agent", "agent.register", detail);
        }
        for (i, transition) in self.merged.transitions.iter().enumerate() {
            writes.push(put_any(
                table::HISTORY,
                history_key(self.uid, transition.at_ms, self.version, i),
                transition,
            ));
        }
        let epoch = if offers { self.ctx.program.epoch.0 } else { 0 };
        Some(store::Entry {
            epoch,
            ..entry(writes, std::mem::take(&mut self.acts))
        })
    }
}

/// Key of a transition: newest last. The record's version before it tells two of one millisecond apart.
pub fn history_key(uid: Uid, at_ms: u64, version: u64, i: usize) -> Vec<u8> {
    let mut key = uid.as_bytes().to_vec();
    key.extend_from_slice(&at_ms.to_be_bytes());
    key.extend_from_slice(&version.to_be_bytes());
    key.push(u8::try_from(i).unwrap_or(u8::MAX));
    key
}

/// Equal but for what changes with every message.
fn same(a: &store::Agent, b: &store::Agent) -> bool {
    let neutral = |agent: &store::Agent| {
        let mut agent = agent.clone();
        agent.number = 0;
        agent.digest.clear();
        agent.last_seen_ms = 0;
        agent.peer.clear();
        // Written with what makes it so, never by itself.
        if let Some(delivery) = &mut agent.delivery {
            delivery.converged_ms = 0;
        }
        agent
    };
    neutral(a) == neutral(b)
}

fn remote_config(hash: Digest, config: &ConfigMap) -> proto::opamp::AgentRemoteConfig {
    let object = |file: &fleet::family::ConfigFile| proto::opamp::AgentConfigObject {
        body: file.body.clone().into_bytes(),
        content_type: file.content_type.clone(),
        role: String::new(),
    };
    let config_map = config
        .iter()
        .map(|(name, file)| (name.clone(), object(file)))
        .collect();
    proto::opamp::AgentRemoteConfig {
        config: Some(proto::opamp::AgentConfigMap { config_map }),
        config_hash: hash.as_bytes().to_vec(),
    }
}
