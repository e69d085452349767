//! What an agent says: a message of OpAMP, and beside it what only the checker needs to know.

use fleet::digest::Digest;
use fleet::offer::Reported;
use prost::Message as _;
use proto::opamp::{
    AgentCapabilities, AgentDescription, AgentToServer, AnyValue, ComponentHealth, KeyValue,
    RemoteConfigStatus, RemoteConfigStatuses, any_value,
};
use proto::sequence::Digest as MessageDigest;

use crate::agent::zone_of;
use crate::invariants::Number;
use crate::program::uid;

/// What the simulated agents can.
pub const CAPABILITIES: u64 = AgentCapabilities::ReportsStatus as u64
    | AgentCapabilities::AcceptsRemoteConfig as u64
    | AgentCapabilities::ReportsRemoteConfig as u64
    | AgentCapabilities::ReportsHealth as u64
    | AgentCapabilities::ReportsHeartbeat as u64;

/// One message on its way.
#[derive(Clone, Debug)]
pub struct Message {
    pub agent: u32,
    /// Which life of the agent, and which message in it.
    pub number: Number,
    pub said: AgentToServer,
}

/// What there is to say.
#[derive(Clone, Debug)]
pub struct Facts {
    pub agent: u32,
    pub number: Number,
    pub family: &'static str,
    /// An attribute that changes now and then.
    pub build: u64,
    /// Hash, status and error of what it was sent last.
    pub status: Option<(Digest, Reported, String)>,
    pub started_ms: u64,
}

// === impl Message ===

impl Message {
    /// Of these facts, those that are new.
    pub fn of(facts: &Facts, described: bool, felt: bool, status: bool) -> Self {
        let said = AgentToServer {
            instance_uid: uid(facts.agent).as_bytes().to_vec().into(),
            sequence_num: facts.number.1,
            capabilities: CAPABILITIES,
            agent_description: described.then(|| facts.description()),
            health: felt.then(|| facts.health()),
            remote_config_status: status.then(|| facts.status()),
            ..AgentToServer::default()
        };
        Message {
            agent: facts.agent,
            number: facts.number,
            said,
        }
    }

    pub fn digest(&self) -> MessageDigest {
        let bytes = Digest::of("sim.message", &[&self.said.encode_to_vec()]);
        let mut digest = MessageDigest::default();
        digest.copy_from_slice(&bytes.as_bytes()[..16]);
        digest
    }
}

// === impl Facts ===

impl Facts {
    fn description(&self) -> AgentDescription {
        let text = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(value.to_owned())),
            }),
        };
        AgentDescription {
            identifying_attributes: vec![text("service.name", "sim")],
            non_identifying_attributes: vec![
                text("family", self.family),
                text("zone", zone_of(self.agent)),
                text("build", &self.build.to_string()),
            ],
        }
    }

    fn health(&self) -> ComponentHealth {
        ComponentHealth {
            healthy: true,
            start_time_unix_nano: self.started_ms * 1_000_000,
            ..ComponentHealth::default()
        }
    }

    /// Who was never sent anything says so, as supervisors do.
    fn status(&self) -> RemoteConfigStatus {
        let Some((hash, reported, error)) = &self.status else {
            return RemoteConfigStatus::default();
        };
        let status = match reported {
            Reported::Unset => RemoteConfigStatuses::Unset,
            Reported::Applied => RemoteConfigStatuses::Applied,
            Reported::Applying => RemoteConfigStatuses::Applying,
            Reported::Failed => RemoteConfigStatuses::Failed,
        };
        RemoteConfigStatus {
            last_remote_config_hash: hash.as_bytes().to_vec(),
            status: status.into(),
            error_message: error.clone(),
        }
    }
}
