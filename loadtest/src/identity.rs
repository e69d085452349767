//! Who a simulated agent is: its uid and its attributes, drawn from (seed, index) alone.
//!
//! The same seed gives the same fleet, so a second run meets its own records again.

use std::collections::BTreeMap;

use proto::opamp::{AgentDescription, AnyValue, KeyValue, any_value};
use proto::uid::Uid;

use crate::collector::Distribution;

const ENVIRONMENTS: [&str; 3] = ["production", "staging", "development"];
const REGIONS: [&str; 4] = ["eu-west-1", "eu-central-1", "us-east-1", "ap-south-1"];
const VERSIONS: [&str; 3] = ["0.159.0", "0.161.0", "0.163.0"];
const SYSTEMS: [(&str, &str); 3] = [
    ("linux", "Ubuntu 24.04.3 LTS"),
    ("linux", "Debian GNU/Linux 13"),
    ("windows", "Windows Server 2025"),
];
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// Uid and attributes of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As generated on first start; a server may assign another.
    pub uid: Uid,
    /// What the agent is for; also the attribute `role`.
    pub role: String,
    pub distribution: Distribution,
    /// Without `service.instance.id`, which follows the uid.
    pub identifying: BTreeMap<String, String>,
    pub non_identifying: BTreeMap<String, String>,
    /// Seed of what this agent draws later (jitter).
    pub seed: u64,
}

/// 32 bytes that depend on `seed`, `index` and what they are for.
fn draw(seed: u64, index: u64, purpose: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.update(&index.to_be_bytes());
    hasher.update(purpose.as_bytes());
    *hasher.finalize().as_bytes()
}

// === impl Identity ===

impl Identity {
    /// The agent number `index` of the fleet `seed`, in `role`.
    pub fn drawn(seed: u64, index: u64, role: &str) -> Self {
        let dice = draw(seed, index, "attributes");
        let pick = |at: usize, of: usize| usize::from(dice[at]) % of;
        let (os, os_description) = SYSTEMS[pick(0, SYSTEMS.len())];
        let distribution = Distribution::Contrib;
        let text = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let host = format!("{role}-{index:06}");
        Identity {
            uid: uid(seed, index),
            role: role.to_owned(),
            distribution,
            identifying: text(&[
                ("service.name", distribution.binary()),
                ("service.version", VERSIONS[pick(1, VERSIONS.len())]),
            ]),
            non_identifying: text(&[
                ("os.type", os),
                ("os.description", os_description),
                ("host.arch", ARCHITECTURES[pick(2, ARCHITECTURES.len())]),
                ("host.name", &host),
                ("role", role),
                ("env", ENVIRONMENTS[pick(3, ENVIRONMENTS.len())]),
                ("region", REGIONS[pick(4, REGIONS.len())]),
            ]),
            seed: u64::from_be_bytes([
                dice[8], dice[9], dice[10], dice[11], dice[12], dice[13], dice[14], dice[15],
            ]),
        }
    }

    /// What the agent tells about itself under `uid`, keys sorted.
    pub fn description(&self, uid: Uid) -> AgentDescription {
        let mut identifying = self.identifying.clone();
        identifying.insert("service.instance.id".to_owned(), uid.to_string());
        AgentDescription {
            identifying_attributes: identifying.iter().map(pair).collect(),
            non_identifying_attributes: self.non_identifying.iter().map(pair).collect(),
        }
    }
}

/// A UUIDv7 in form, with a fixed time so that it depends on nothing but its arguments.
fn uid(seed: u64, index: u64) -> Uid {
    let dice = draw(seed, index, "uid");
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&dice[..16]);
    bytes[..6].copy_from_slice(&[0x01, 0x9a, 0x00, 0x00, 0x00, 0x00]);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    Uid::from_wire(&bytes).expect("the version bits are not zero")
}

fn pair((key, value): (&String, &String)) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.clone())),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_agent_and_another_seed_another() {
        assert_eq!(
            Identity::drawn(7, 3, "gateway"),
            Identity::drawn(7, 3, "gateway")
        );
        assert_ne!(
            Identity::drawn(7, 3, "gateway").uid,
            Identity::drawn(8, 3, "gateway").uid
        );
        assert_ne!(
            Identity::drawn(7, 3, "gateway").uid,
            Identity::drawn(7, 4, "gateway").uid
        );
    }

    #[test]
    fn the_instance_id_attribute_is_the_uid_of_the_moment() {
        let identity = Identity::drawn(1, 1, "agent");
        let other = Identity::drawn(1, 2, "agent").uid;
        let told = identity.description(other);
        let id = told
            .identifying_attributes
            .iter()
            .find(|kv| kv.key == "service.instance.id")
            .unwrap();
        assert_eq!(
            id.value.as_ref().unwrap().value,
            Some(any_value::Value::StringValue(other.to_string()))
        );
    }
}
