//! How an agent misbehaves: scripts, and the file that deals them out to a fleet.
//!
//! A script is a list; what it does not mention is done as a healthy supervisor does it.

use std::time::Duration;

use serde::Deserialize;

/// One deviation from applying every config and staying healthy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Behaviour {
    /// Takes every config and stays healthy. The default; says nothing beside another behaviour.
    Applies,
    /// Validation refuses the config: FAILED at once with this text, the previous config keeps running.
    Rejects { error: String },
    /// The collector's process exits this long after each start.
    CrashesAfter {
        #[serde(with = "duration")]
        after: Duration,
    },
    /// The collector runs but reports itself unhealthy this long after each start.
    UnhealthyAfter {
        #[serde(with = "duration")]
        after: Duration,
    },
    /// The machine is suspended: nothing is sent, read or timed, counted from the agent's start.
    Sleeps {
        #[serde(with = "duration")]
        from: Duration,
        #[serde(rename = "for", with = "duration")]
        length: Duration,
    },
    /// Shares the uid of the agent with this index, as a cloned disk does.
    ClonesUid { of: usize },
    /// Takes a config and runs it, but never reports a status.
    NeverAnswers,
    /// Automatic config rollback is on.
    Rollback,
    /// Lacks the capability ReportsRemoteConfig.
    NoConfigStatus,
}

/// What one agent does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// In any order.
    pub does: Vec<Behaviour>,
    /// Restricts rejects, crashes_after, unhealthy_after and never_answers to configs with this text in a body.
    pub bad_when: Option<String>,
}

/// A script for a part of the fleet. An agent gets the first rule that names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Only agents of this role; unset means all.
    pub role: Option<String>,
    /// Every n-th agent of those; 1 or unset means each.
    pub every: Option<usize>,
    /// See [`Script::does`].
    pub does: Vec<Behaviour>,
    /// See [`Script::bad_when`].
    pub bad_when: Option<String>,
}

/// What the file given to `--script` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptFile {
    pub agents: Vec<Rule>,
}

// === impl Script ===

impl Script {
    pub fn new(does: impl IntoIterator<Item = Behaviour>) -> Self {
        Script {
            does: does.into_iter().collect(),
            bad_when: None,
        }
    }

    /// Refuses configs that contain `text`, applies all others.
    pub fn rejecting(text: &str, error: &str) -> Self {
        Script::new([Behaviour::Rejects {
            error: error.to_owned(),
        }])
        .bad_when(text)
    }

    /// Crashes `after` each start with a config that contains `text`.
    pub fn crashing(text: &str, after: Duration) -> Self {
        Script::new([Behaviour::CrashesAfter { after }]).bad_when(text)
    }

    pub fn bad_when(mut self, text: &str) -> Self {
        self.bad_when = Some(text.to_owned());
        self
    }

    pub fn and(mut self, behaviour: Behaviour) -> Self {
        self.does.push(behaviour);
        self
    }

    /// Whether a config with these bodies is one this script is about.
    pub fn concerns(&self, mut bodies: impl Iterator<Item = impl AsRef<[u8]>>) -> bool {
        match &self.bad_when {
            None => true,
            Some(text) => bodies.any(|body| contains(body.as_ref(), text.as_bytes())),
        }
    }

    pub fn rejects(&self) -> Option<&str> {
        self.does.iter().find_map(|b| {
            if let Behaviour::Rejects { error } = b {
                Some(error.as_str())
            } else {
                None
            }
        })
    }

    pub fn crashes_after(&self) -> Option<Duration> {
        self.does.iter().find_map(|b| {
            if let Behaviour::CrashesAfter { after } = b {
                Some(*after)
            } else {
                None
            }
        })
    }

    pub fn unhealthy_after(&self) -> Option<Duration> {
        self.does.iter().find_map(|b| {
            if let Behaviour::UnhealthyAfter { after } = b {
                Some(*after)
            } else {
                None
            }
        })
    }

    /// Start and length of the suspension.
    pub fn sleeps(&self) -> Option<(Duration, Duration)> {
        self.does.iter().find_map(|b| {
            if let Behaviour::Sleeps { from, length } = b {
                Some((*from, *length))
            } else {
                None
            }
        })
    }

    /// The index whose uid this agent shares.
    pub fn clone_of(&self) -> Option<usize> {
        self.does.iter().find_map(|b| {
            if let Behaviour::ClonesUid { of } = b {
                Some(*of)
            } else {
                None
            }
        })
    }

    pub fn never_answers(&self) -> bool {
        self.does.contains(&Behaviour::NeverAnswers)
    }

    pub fn rolls_back(&self) -> bool {
        self.does.contains(&Behaviour::Rollback)
    }

    pub fn no_config_status(&self) -> bool {
        self.does.contains(&Behaviour::NoConfigStatus)
    }
}

// === impl ScriptFile ===

impl ScriptFile {
    /// # Errors
    ///
    /// What is wrong in the YAML, with its place.
    pub fn parse(yaml: &str) -> Result<Self, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    /// The script of the agent number `index` in `role`.
    pub fn script(&self, role: &str, index: usize) -> Script {
        self.agents
            .iter()
            .find(|rule| {
                rule.role.as_deref().is_none_or(|wanted| wanted == role)
                    && index.is_multiple_of(rule.every.unwrap_or(1).max(1))
            })
            .map(|rule| Script {
                does: rule.does.clone(),
                bad_when: rule.bad_when.clone(),
            })
            .unwrap_or_default()
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// Durations as people write them: `5s`, `2m 30s`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
agents:
  - role: gateway
    every: 2
    does:
      - rejects: { error: no such receiver }
    bad_when: debug/broken
  - does:
      - rollback
      - sleeps: { from: 10s, for: 1m }
";

    #[test]
    fn the_first_rule_that_names_an_agent_is_its_script() {
        let file = ScriptFile::parse(FILE).unwrap();
        assert_eq!(
            file.script("gateway", 0).rejects(),
            Some("no such receiver")
        );
        assert!(file.script("gateway", 1).rolls_back());
        assert_eq!(
            file.script("agent", 5).sleeps(),
            Some((Duration::from_secs(10), Duration::from_mins(1)))
        );
    }

    #[test]
    fn a_typing_error_in_a_script_is_refused() {
        assert!(ScriptFile::parse("agents: [{ rol: gateway }]").is_err());
        assert!(ScriptFile::parse("agents: [{ does: [explodes] }]").is_err());
    }

    #[test]
    fn bad_when_looks_into_every_body() {
        let script = Script::rejecting("broken", "no");
        assert!(script.concerns(["fine", "is broken"].iter()));
        assert!(!script.concerns(["fine"].iter()));
    }
}
