//! What a message changes in an agent's record. Absent means unchanged; timestamps and order are no change.

use fleet::digest::Digest;
use fleet::redact::redact_text;
use prost::Message;
use proto::opamp::{self, AgentToServer, any_value};
use proto::store::{self, Attribute, ConfigState, Link, Transition, Write};
use proto::uid::Uid;

use super::body::{self, Redacted, Remembered};

/// Limits of what is kept of a description.
const ATTRIBUTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 1024;

/// Compressed bodies of one report.
const BODIES_BYTES_MAX: usize = 2 << 20;

/// Kept of an error text; supervisors put log tails of up to 1 MiB there.
pub const ERROR_BYTES_MAX: usize = 8 * 1024;

/// What merging one message brought.
#[derive(Default)]
pub struct Merged {
    /// Bodies to keep.
    pub bodies: Vec<Write>,
    /// To be remembered once they are.
    pub learned: Vec<(Digest, Redacted)>,
    /// For the history.
    pub transitions: Vec<Transition>,
    /// The message carried a config status.
    pub status: bool,
    /// The message carried an effective config; its merged document, unredacted, for comparison only.
    pub effective: Option<fleet::value::Value>,
    /// The agent said goodbye.
    pub goodbye: bool,
    /// The collector process started anew.
    pub restarted: bool,
}

/// Merges a message into the record.
pub fn merge(
    agent: &mut store::Agent,
    uid: Uid,
    message: &AgentToServer,
    remembered: &Remembered,
    now_ms: u64,
) -> Merged {
    let mut merged = Merged::default();
    if message.capabilities != 0 {
        agent.capabilities = message.capabilities;
    }
    if let Some(description) = &message.agent_description {
        describe(agent, description, now_ms, &mut merged);
    }
    if let Some(health) = &message.health {
        feel(agent, health, remembered, now_ms, &mut merged);
    }
    if let Some(status) = &message.remote_config_status {
        status_of(agent, status, now_ms, &mut merged);
    }
    if let Some(effective) = message
        .effective_config
        .as_ref()
        .and_then(|e| e.config_map.as_ref())
    {
        run(agent, uid, effective, remembered, now_ms, &mut merged);
    }
    if let Some(components) = &message.available_components {
        list(agent, components, remembered, &mut merged);
    }
    if let Some(custom) = &message.custom_capabilities {
        agent.custom_capabilities = custom
            .capabilities
            .iter()
            .take(ATTRIBUTES_MAX)
            .map(|c| cut(c, TEXT_BYTES_MAX))
            .collect();
    }
    merged.goodbye = message.agent_disconnect.is_some();
    shed(agent, &mut merged);
    merged
}

/// Keeps one report's bodies well below what an entry may hold; the status that came with them still counts.
fn shed(agent: &mut store::Agent, merged: &mut Merged) {
    if merged
        .bodies
        .iter()
        .map(|write| write.value.len())
        .sum::<usize>()
        <= BODIES_BYTES_MAX
    {
        return;
    }
    merged.bodies.clear();
    merged.learned.clear();
    for file in agent
        .effective
        .iter_mut()
        .flat_map(|effective| &mut effective.files)
    {
        file.body.clear();
        file.dropped = "too large to keep".to_owned();
    }
    if let Some(health) = &mut agent.health {
        health.tree.clear();
    }
    if let Some(components) = &mut agent.components {
        components.body.clear();
    }
}

/// A transition for the history.
pub fn transition(at_ms: u64, kind: &str, from: &str, to: &str, detail: &str) -> Transition {
    let detail = cut(detail, 512);
    Transition {
        at_ms,
        kind: kind.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        detail,
    }
}

/// Liveness as transitions have it; empty: never heard.
pub fn link_word(link: Link) -> &'static str {
    match link {
        Link::Unspecified => "",
        Link::Connected => "connected",
        Link::Lost => "lost",
        Link::Left => "left",
    }
}

/// Value of an attribute; empty if there is none.
pub fn attribute<'a>(agent: &'a store::Agent, key: &str) -> &'a str {
    agent
        .attributes
        .iter()
        .find(|a| a.key == key)
        .map_or("", |a| &a.value)
}

fn describe(
    agent: &mut store::Agent,
    description: &opamp::AgentDescription,
    now_ms: u64,
    merged: &mut Merged,
) {
    let of = |pairs: &[opamp::KeyValue], identifying: bool| -> Vec<Attribute> {
        let attribute = |kv: &opamp::KeyValue| Attribute {
            key: cut(&kv.key, 256),
            value: cut(&said(&kv.key, text(kv.value.as_ref())), TEXT_BYTES_MAX),
            identifying,
        };
        pairs
            .iter()
            .filter(|kv| !kv.key.is_empty())
            .map(attribute)
            .collect()
    };
    let mut attributes = of(&description.identifying_attributes, true);
    attributes.extend(of(&description.non_identifying_attributes, false));
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    attributes.dedup_by(|later, first| later.key == first.key);
    attributes.truncate(ATTRIBUTES_MAX);
    let before = attribute(agent, "service.version").to_owned();
    agent.attributes = attributes;
    let after = attribute(agent, "service.version");
    if !before.is_empty() && before != after {
        merged
            .transitions
            .push(transition(now_ms, "version changed", &before, after, ""));
    }
}

fn feel(
    agent: &mut store::Agent,
    health: &opamp::ComponentHealth,
    remembered: &Remembered,
    now_ms: u64,
    merged: &mut Merged,
) {
    let before = agent.health.take();
    let error = redact_text(&cut(&health.last_error, ERROR_BYTES_MAX));
    let was = before.as_ref().map(|b| b.healthy);
    if was != Some(health.healthy) {
        let word = |healthy: bool| if healthy { "healthy" } else { "unhealthy" };
        let from = was.map_or("", word);
        merged.transitions.push(transition(
            now_ms,
            word(health.healthy),
            from,
            word(health.healthy),
            &error,
        ));
    }
    let started = before.as_ref().map_or(0, |b| b.started_unix_nano);
    if started != 0 && health.start_time_unix_nano != 0 && started != health.start_time_unix_nano {
        merged.restarted = true;
        merged
            .transitions
            .push(transition(now_ms, "collector restarted", "", "", ""));
    }
    // A message without a start time does not unsay the last one: it is what the next start is compared with.
    let started_unix_nano = if health.start_time_unix_nano == 0 {
        started
    } else {
        health.start_time_unix_nano
    };
    agent.started_ms = started_unix_nano / 1_000_000;
    let tree = if health.component_health_map.is_empty() {
        Vec::new()
    } else {
        timeless(health).encode_to_vec()
    };
    let kept = !tree.is_empty() && tree.len() <= body::KEPT_BYTES_MAX;
    if kept {
        merged.bodies.extend(remembered.write(&tree));
    }
    agent.health = Some(store::HealthState {
        healthy: health.healthy,
        status: redact_text(&cut(&health.status, TEXT_BYTES_MAX)),
        last_error: error,
        started_unix_nano,
        tree: if kept {
            body::address(&tree).as_bytes().to_vec()
        } else {
            Vec::new()
        },
        since_ms: if was == Some(health.healthy) {
            before.map_or(now_ms, |b| b.since_ms)
        } else {
            now_ms
        },
    });
}

/// The tree without times, so that repeating it changes nothing and equal agents share it. Errors are redacted.
fn timeless(health: &opamp::ComponentHealth) -> opamp::ComponentHealth {
    opamp::ComponentHealth {
        start_time_unix_nano: 0,
        status_time_unix_nano: 0,
        last_error: redact_text(&cut(&health.last_error, ERROR_BYTES_MAX)),
        component_health_map: health
            .component_health_map
            .iter()
            .map(|(k, v)| (k.clone(), timeless(v)))
            .collect(),
        attributes: Vec::new(),
        ..health.clone()
    }
}

fn status_of(
    agent: &mut store::Agent,
    status: &opamp::RemoteConfigStatus,
    now_ms: u64,
    merged: &mut Merged,
) {
    merged.status = true;
    let state = match status.status() {
        opamp::RemoteConfigStatuses::Unset => ConfigState::Unset,
        opamp::RemoteConfigStatuses::Applied => ConfigState::Applied,
        opamp::RemoteConfigStatuses::Applying => ConfigState::Applying,
        opamp::RemoteConfigStatuses::Failed => ConfigState::Failed,
    };
    let error = redact_text(&cut(&status.error_message, ERROR_BYTES_MAX));
    let same = agent
        .status
        .as_ref()
        .filter(|s| s.hash == status.last_remote_config_hash && s.state() == state);
    let since_ms = same.map_or(now_ms, |s| s.since_ms);
    agent.status = Some(store::ConfigStatus {
        hash: cut_bytes(&status.last_remote_config_hash),
        state: state.into(),
        error,
        since_ms,
    });
}

fn run(
    agent: &mut store::Agent,
    uid: Uid,
    map: &opamp::AgentConfigMap,
    remembered: &Remembered,
    now_ms: u64,
    merged: &mut Merged,
) {
    let uid = uid.to_string();
    let own = [
        uid.as_str(),
        attribute(agent, "service.instance.id"),
        attribute(agent, "host.name"),
    ];
    let mut files = Vec::new();
    for (name, object) in map.config_map.iter().take(ATTRIBUTES_MAX) {
        let effective = body::effective_file(name, &object.body, &own, remembered);
        files.push(effective.file);
        merged.bodies.extend(effective.write);
        merged.learned.extend(effective.learned);
    }
    // Compared with what was delivered, and parsed for nothing else.
    if agent.delivery.is_some() {
        merged.effective = document(map);
    }
    let same = agent
        .effective
        .as_ref()
        .is_some_and(|before| before.files == files);
    if !same {
        merged.transitions.push(transition(
            now_ms,
            "config changed",
            "",
            "",
            "effective config",
        ));
        agent.effective = Some(store::EffectiveConfig {
            files,
            at_ms: now_ms,
        });
    }
}

/// The merged document of a config map.
fn document(map: &opamp::AgentConfigMap) -> Option<fleet::value::Value> {
    let parsed = map.config_map.iter().filter_map(|(name, object)| {
        let text = std::str::from_utf8(&object.body).ok()?;
        Some((name.clone(), proto::yaml::parse(text).ok()?))
    });
    fleet::merge::merge(&parsed.collect()).ok()
}

fn list(
    agent: &mut store::Agent,
    components: &opamp::AvailableComponents,
    remembered: &Remembered,
    merged: &mut Merged,
) {
    let mut list = store::ComponentList {
        hash: cut_bytes(&components.hash),
        body: Vec::new(),
    };
    if components.components.is_empty() {
        if let Some(before) = agent
            .components
            .as_ref()
            .filter(|before| before.hash == list.hash)
        {
            list.body.clone_from(&before.body);
        }
    } else {
        let bytes = components.encode_to_vec();
        if bytes.len() <= body::KEPT_BYTES_MAX {
            list.body = body::address(&bytes).as_bytes().to_vec();
            merged.bodies.extend(remembered.write(&bytes));
        }
    }
    agent.components = Some(list);
}

/// A command line may hold a password. Other attributes are ids more often than secrets, and selectors need them.
fn said(key: &str, value: String) -> String {
    if key.starts_with("process.command") {
        redact_text(&value)
    } else {
        value
    }
}

/// Attribute values as text: what selectors compare.
fn text(value: Option<&opamp::AnyValue>) -> String {
    match value.and_then(|v| v.value.as_ref()) {
        None => String::new(),
        Some(any_value::Value::StringValue(s)) => s.clone(),
        Some(any_value::Value::BoolValue(b)) => b.to_string(),
        Some(any_value::Value::IntValue(i)) => i.to_string(),
        Some(any_value::Value::DoubleValue(d)) => d.to_string(),
        Some(any_value::Value::BytesValue(b)) => hex::encode(b),
        Some(any_value::Value::ArrayValue(a)) => {
            format!(
                "[{}]",
                a.values
                    .iter()
                    .map(|v| text(Some(v)))
                    .collect::<Vec<_>>()
                    .join(",")
            )
        }
        Some(any_value::Value::KvlistValue(l)) => {
            format!(
                "{{{}}}",
                l.values
                    .iter()
                    .map(|kv| format!("{}={}", kv.key, text(kv.value.as_ref())))
                    .collect::<Vec<_>>()
                    .join(",")
            )
        }
    }
}

/// At most so many bytes, on a character boundary.
pub fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

fn cut_bytes(hash: &[u8]) -> Vec<u8> {
    hash[..hash.len().min(64)].to_vec()
}
