//! The collector beneath a simulated supervisor: which config it runs, what it reports about it.
//!
//! What it is not: a pipeline; no data flows. It knows enough to render the effective config as text, to derive the
//! health tree from it, and to list the components of its distribution.
//!
//! Bodies are composed once per distinct config map and shared by the whole fleet ([`Composer`]): a million agents
//! with one config hold one tree.

mod components;
mod health;
mod merge;

pub use components::Distribution;
pub use health::{Health, tree};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::opamp::AgentConfigMap;
use proto::uid::Uid;
use serde_json::{Value, json};

/// Stands in the composed text where each agent's own uid belongs.
const UID_PLACEHOLDER: &str = "MUSTER-SIM-INSTANCE-UID";

/// Distinct config maps remembered before the memory is emptied; a load test has a handful.
const REMEMBERED: usize = 1024;

/// A merged config, ready to be run by any agent.
#[derive(Debug)]
pub struct Composed {
    /// What the server sent; empty for the config of before any server.
    source: AgentConfigMap,
    /// Remote config over the supervisor's own; the uid is a placeholder.
    value: Value,
    /// `value` as YAML.
    template: String,
    /// The config map was empty: the collector is stopped on purpose.
    pub stopped: bool,
    /// Comes from a server, rather than being the pipeline that runs before any config has arrived.
    pub remote: bool,
}

/// A config, or the text that is reported with FAILED.
type Composition = Result<Arc<Composed>, String>;

/// Merges config maps as a supervisor does, remembering the results.
#[derive(Debug)]
pub struct Composer {
    noop: Arc<Composed>,
    known: Mutex<HashMap<[u8; 32], Composition>>,
}

// === impl Composed ===

impl Composed {
    fn new(value: Value, source: AgentConfigMap, remote: bool) -> Self {
        let template = serde_saphyr::to_string(&value).unwrap_or_default();
        Composed {
            source,
            value,
            template,
            stopped: false,
            remote,
        }
    }

    /// The bodies as the server sent them.
    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.source
            .config_map
            .values()
            .map(|object| object.body.as_slice())
    }

    /// The effective config as the agent with `uid` reports it. Empty while the collector is stopped.
    pub fn text(&self, uid: Uid) -> String {
        self.template.replace(UID_PLACEHOLDER, &uid.to_string())
    }

    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// Whether a supervisor would see no change from this config to `other`.
    pub fn same_as(&self, other: &Composed) -> bool {
        self.stopped == other.stopped && self.value == other.value
    }
}

// === impl Composer ===

impl Default for Composer {
    fn default() -> Self {
        let mut noop = own();
        merge::over(
            &mut noop,
            json!({
                "receivers": { "nop": null },
                "exporters": { "nop": null },
                "service": { "pipelines": { "traces": { "receivers": ["nop"], "exporters": ["nop"] } } },
            }),
        );
        Composer {
            noop: Arc::new(Composed::new(noop, AgentConfigMap::default(), false)),
            known: Mutex::default(),
        }
    }
}

impl Composer {
    /// What runs before any remote config.
    pub fn noop(&self) -> Arc<Composed> {
        self.noop.clone()
    }

    /// The config that a supervisor makes of `map`.
    ///
    /// # Errors
    ///
    /// The text it would report with FAILED: a body that is no YAML map.
    pub fn compose(&self, map: &AgentConfigMap) -> Composition {
        let key = key(map);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known
            .entry(key)
            .or_insert_with(|| composed(map).map(Arc::new))
            .clone()
    }
}

fn composed(map: &AgentConfigMap) -> Result<Composed, String> {
    if map.config_map.is_empty() {
        let (source, template) = (AgentConfigMap::default(), String::new());
        return Ok(Composed {
            source,
            value: json!({}),
            template,
            stopped: true,
            remote: true,
        });
    }
    let mut value = own();
    for (name, body) in merge::in_order(&map.config_map) {
        let remote = merge::parse(&body.body).map_err(|error| {
            format!("could not compose merged config: config body {name:?}: {error}")
        })?;
        merge::over(&mut value, remote);
    }
    Ok(Composed::new(value, map.clone(), true))
}

/// What the supervisor adds to every config, below the remote one.
fn own() -> Value {
    json!({
        "extensions": {
            "opamp": {
                "instance_uid": UID_PLACEHOLDER,
                "capabilities": { "reports_available_components": true },
                "server": { "ws": { "endpoint": "ws://127.0.0.1:43210/v1/opamp", "tls": { "insecure": true } } },
            },
        },
        "service": {
            "extensions": ["opamp"],
            "telemetry": { "resource": { "service.instance.id": UID_PLACEHOLDER } },
        },
    })
}

fn key(map: &AgentConfigMap) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, body) in &map.config_map {
        for part in [name.as_bytes(), &body.body] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    *hasher.finalize().as_bytes()
}

/// A config map with one body under the name "".
pub fn config_map(body: &str) -> AgentConfigMap {
    let object = proto::opamp::AgentConfigObject {
        body: body.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
        role: String::new(),
    };
    AgentConfigMap {
        config_map: [(String::new(), object)].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    const BODY: &str = "receivers: { otlp: null }\nexporters: { debug: null }\n\
        service: { extensions: [health_check], pipelines: { logs: { receivers: [otlp], exporters: [debug] } } }\n";

    #[test]
    fn each_agent_finds_its_own_uid_in_a_shared_config() {
        let composer = Composer::default();
        let config = composer.compose(&config_map(BODY)).unwrap();
        let (a, b) = (
            Identity::drawn(1, 1, "agent").uid,
            Identity::drawn(1, 2, "agent").uid,
        );
        let parsed: Value = serde_saphyr::from_str(&config.text(a)).unwrap();
        assert_eq!(parsed["extensions"]["opamp"]["instance_uid"], a.to_string());
        assert_eq!(
            parsed["service"]["telemetry"]["resource"]["service.instance.id"],
            a.to_string()
        );
        assert_ne!(config.text(a), config.text(b));
        assert!(Arc::ptr_eq(
            &config,
            &composer.compose(&config_map(BODY)).unwrap()
        ));
    }

    #[test]
    fn spelling_is_no_change_and_content_is() {
        let composer = Composer::default();
        let config = composer.compose(&config_map(BODY)).unwrap();
        let spelled = composer
            .compose(&config_map(&format!("# a comment\n{BODY}")))
            .unwrap();
        let other = composer
            .compose(&config_map(&BODY.replace("debug", "nop")))
            .unwrap();
        assert!(config.same_as(&spelled));
        assert!(!config.same_as(&other));
    }

    #[test]
    fn a_body_that_is_no_map_is_an_error_and_an_empty_map_stops_the_collector() {
        let composer = Composer::default();
        assert!(composer.compose(&config_map("- a list")).is_err());
        assert!(composer.compose(&config_map("a: [")).is_err());
        assert!(
            composer
                .compose(&AgentConfigMap::default())
                .unwrap()
                .stopped
        );
    }
}
