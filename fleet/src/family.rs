//! Families, roles and revisions: what people review, activate and roll back.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::selector::Selector;

/// Limits of a family: what a person still reads, and what a program may weigh.
pub const ROLES_MAX: usize = 32;

/// A config map by key; supervisors merge its entries, "" last.
pub type ConfigMap = BTreeMap<String, ConfigFile>;

/// One entry of a config map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigFile {
    /// Text, as the author wrote it.
    pub body: String,
    /// Media type; `text/yaml` for collectors.
    pub content_type: String,
}

/// Part of a family: who, what, and after whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `gateway`, `cluster`, `agent` or any name.
    pub name: String,
    /// Whom it claims.
    pub selector: Selector,
    /// Roles that have to finish first.
    pub after: Vec<String>,
    /// What its agents get.
    pub config: ConfigMap,
    /// What a rollback delivers where there is nothing to go back to; empty: [`default_baseline`].
    pub baseline: ConfigMap,
}

/// What is wrong with a family as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Names are used in paths, metrics and commands.
    #[error(
        "{what} `{name}` is not a name: use 1 to 63 lower-case letters, digits and hyphens, beginning with a letter"
    )]
    Name {
        /// Of what.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// Nothing to deliver to anyone.
    #[error("family `{0}` has no roles: give it at least one, with a selector and a config")]
    NoRoles(String),
    /// Too many.
    #[error("family `{family}` has {found} roles, {ROLES_MAX} are the most: split the family")]
    TooManyRoles {
        /// Family.
        family: String,
        /// As given.
        found: usize,
    },
    /// Twice the same name.
    #[error("role `{role}` stands twice in family `{family}`: rename one")]
    Twice {
        /// Family.
        family: String,
        /// Role.
        role: String,
    },
    /// An order that names nobody.
    #[error(
        "role `{role}` goes after `{after}`, which is no role of family `{family}`: define it or remove it from `after`"
    )]
    UnknownAfter {
        /// Family.
        family: String,
        /// Role.
        role: String,
        /// As given.
        after: String,
    },
    /// An order that bites its tail.
    #[error("the `after` order of family `{family}` goes in a circle through {}: remove one of them from `after`", roles.join(", "))]
    Circle {
        /// Family.
        family: String,
        /// Roles on it.
        roles: Vec<String>,
    },
    /// Precedence decides between families: two with the same could not be told apart.
    #[error(
        "family `{family}` has precedence {precedence}, which family `{other}` has already: choose another number"
    )]
    SamePrecedence {
        /// Family.
        family: String,
        /// As given.
        precedence: i64,
        /// Who has it.
        other: String,
    },
    /// Agents that would not know what to run.
    #[error("roles {} of family `{family}` match the same {}: make their selectors exclude each other", roles.join(" and "), named(*agents, examples))]
    Overlap {
        /// Family.
        family: String,
        /// Roles.
        roles: Vec<String>,
        /// So many.
        agents: usize,
        /// Names of some.
        examples: Vec<String>,
    },
    /// A config without a body would stop collectors.
    #[error(
        "role `{role}` of family `{family}` has an empty config, which would stop its collectors: give it a body"
    )]
    EmptyConfig {
        /// Family.
        family: String,
        /// Role.
        role: String,
    },
}

/// So many agents, and the names of some.
fn named(agents: usize, examples: &[String]) -> String {
    let names = examples.join(", ");
    match agents {
        1 => format!("agent {names}"),
        agents if agents == examples.len() => format!("agents {names}"),
        agents => format!("{agents} agents, e.g. {names}"),
    }
}

/// Is this a name of a family, role, plan or token?
pub fn check_name(what: &'static str, name: &str) -> Result<(), Error> {
    let good = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-');
    if good {
        Ok(())
    } else {
        Err(Error::Name {
            what,
            name: name.to_owned(),
        })
    }
}

/// Checks everything about a family that needs neither its configs nor a fleet. All mistakes, not only the first.
pub fn check(family: &str, roles: &[Role]) -> Vec<Error> {
    let mut errors: Vec<Error> = check_name("family", family).err().into_iter().collect();
    if roles.is_empty() {
        errors.push(Error::NoRoles(family.to_owned()));
    }
    if roles.len() > ROLES_MAX {
        errors.push(Error::TooManyRoles {
            family: family.to_owned(),
            found: roles.len(),
        });
    }
    let mut names = BTreeSet::new();
    for role in roles {
        errors.extend(check_name("role", &role.name).err());
        if !names.insert(&role.name) {
            errors.push(Error::Twice {
                family: family.to_owned(),
                role: role.name.clone(),
            });
        }
        if role.config.values().all(|file| file.body.trim().is_empty()) {
            errors.push(Error::EmptyConfig {
                family: family.to_owned(),
                role: role.name.clone(),
            });
        }
    }
    for role in roles {
        for after in role.after.iter().filter(|after| !names.contains(after)) {
            errors.push(Error::UnknownAfter {
                family: family.to_owned(),
                role: role.name.clone(),
                after: after.clone(),
            });
        }
    }
    errors.extend(order(family, roles).err());
    errors
}

/// Is this precedence free? `others` are the other families with theirs.
pub fn check_precedence<'a>(
    family: &str,
    precedence: i64,
    others: impl IntoIterator<Item = (&'a str, i64)>,
) -> Result<(), Error> {
    let mut others = others.into_iter();
    match others.find(|(name, theirs)| *theirs == precedence && *name != family) {
        None => Ok(()),
        Some((other, _)) => Err(Error::SamePrecedence {
            family: family.to_owned(),
            precedence,
            other: other.to_owned(),
        }),
    }
}

/// Roles in the order in which they go: each after those it names, otherwise as written.
pub fn order<'r>(family: &str, roles: &'r [Role]) -> Result<Vec<&'r Role>, Error> {
    let known: BTreeSet<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    let mut ordered: Vec<&Role> = Vec::with_capacity(roles.len());
    while ordered.len() < roles.len() {
        let placed: BTreeSet<&str> = ordered.iter().map(|role| role.name.as_str()).collect();
        let ready = |role: &&Role| {
            !placed.contains(role.name.as_str())
                && role
                    .after
                    .iter()
                    .all(|after| placed.contains(after.as_str()) || !known.contains(after.as_str()))
        };
        let next: Vec<&Role> = roles.iter().filter(ready).collect();
        if next.is_empty() {
            let left = roles
                .iter()
                .filter(|role| !placed.contains(role.name.as_str()));
            let mut circle: Vec<String> = left.map(|role| role.name.clone()).collect();
            circle.dedup();
            return Err(Error::Circle {
                family: family.to_owned(),
                roles: circle,
            });
        }
        ordered.extend(next);
    }
    Ok(ordered)
}

/// What is sent under this hash: names, bodies and content types of exactly this map.
pub fn delivery_hash(config: &ConfigMap) -> Digest {
    let parts: Vec<&[u8]> = config
        .iter()
        .flat_map(|(name, file)| {
            [
                name.as_bytes(),
                file.body.as_bytes(),
                file.content_type.as_bytes(),
            ]
        })
        .collect();
    Digest::of("muster.delivery.v1", &parts)
}

/// The delivery that stops a collector: the empty map, sent only when a person ordered it.
pub fn stop_delivery() -> Digest {
    delivery_hash(&ConfigMap::new())
}

/// Hash over everything that decides a revision's outcome: precedence, and all roles with selectors, order and configs.
pub fn revision_hash(precedence: i64, roles: &[Role], policies: &[String]) -> Digest {
    let mut parts: Vec<Vec<u8>> = vec![precedence.to_be_bytes().to_vec()];
    for role in roles {
        parts.push(role.name.as_bytes().to_vec());
        parts.push(role.selector.to_string().into_bytes());
        parts.push(role.after.join("\n").into_bytes());
        parts.push(delivery_hash(&role.config).as_bytes().to_vec());
        parts.push(delivery_hash(&role.baseline).as_bytes().to_vec());
    }
    parts.extend(policies.iter().map(|policy| policy.as_bytes().to_vec()));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Digest::of("muster.revision.v1", &parts)
}

/// A pipeline that does nothing and merges over local files: never an empty map, which would stop the collector.
pub fn default_baseline() -> ConfigMap {
    let body = "receivers:\n  nop: {}\nexporters:\n  nop: {}\nservice:\n  pipelines:\n    metrics/muster-baseline:\n      receivers: [nop]\n      exporters: [nop]\n";
    let file = ConfigFile {
        body: body.to_owned(),
        content_type: "text/yaml".to_owned(),
    };
    ConfigMap::from([("muster-baseline.yaml".to_owned(), file)])
}

// === impl Role ===

impl Role {
    /// What a rollback delivers where there is nothing to go back to.
    pub fn baseline(&self) -> ConfigMap {
        if self.baseline.is_empty() {
            default_baseline()
        } else {
            self.baseline.clone()
        }
    }
}

#[cfg(test)]
mod tests;
