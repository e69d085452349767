//! Git sources: what `apply -f DIR --source NAME` does to each object, all or nothing, and who may edit what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::digest::Digest;

/// Kind and name, e.g. `family web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// `family`, `plan` and so on.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// An object as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Source that owns it; none: API and console.
    pub source: Option<String>,
    /// Of its latest content.
    pub content: Digest,
    /// A rollout of it is open, or agents run it: it is not pruned away under them.
    pub in_use: Option<String>,
}

/// What happens to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Create,
    /// Its content differs: a new draft.
    Update,
    /// Nothing to do.
    Keep,
    /// The source no longer has it. Its agents keep what they run.
    Prune,
}

/// Why a sync, or an edit, is refused. One of them refuses the whole sync.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// Another source has it.
    #[error("{object} is owned by source {owner}: change it there, or remove it there first")]
    OtherSource {
        /// Which.
        object: Object,
        /// Whose.
        owner: String,
    },
    /// The API or console has it.
    #[error("{object} is owned by the API and console: hand it over with `muster adopt {} --source {source_name}`", object.as_written())]
    NotFromGit {
        /// Which.
        object: Object,
        /// Who asked.
        source_name: String,
    },
    /// It is pruned while it is used.
    #[error(
        "{object} is gone from source {source_name} but {why}: end that first, or apply with --keep-gone"
    )]
    InUse {
        /// Which.
        object: Object,
        /// Who asked.
        source_name: String,
        /// What uses it.
        why: String,
    },
    /// A person edits what Git has.
    #[error("{object} is owned by source {owner}: commit the change there")]
    OwnedByGit {
        /// Which.
        object: Object,
        /// Whose.
        owner: String,
    },
    /// The source goes while it owns something.
    #[error(
        "source {source_name} is not deleted while it owns {}: hand that over with `muster adopt`, or give it to API and console with --orphan", owned.join(", ")
    )]
    OwnsObjects {
        /// Which.
        source_name: String,
        /// What it owns, as commands take it.
        owned: Vec<String>,
    },
    /// The source may only write drafts.
    #[error(
        "source {source_name} may write drafts and not activate: start {object} with `muster rollout start`, or let the source activate with a plan"
    )]
    DraftsOnly {
        /// Which.
        object: Object,
        /// Who asked.
        source_name: String,
    },
}

/// What a sync of `source` does to every object that it has or had, in order; or everything that is against it.
pub fn sync(
    source: &str,
    stored: &BTreeMap<Object, Stored>,
    written: &BTreeMap<Object, Digest>,
    prune: bool,
) -> Result<BTreeMap<Object, Change>, Vec<Refused>> {
    let (mut changes, mut refused) = (BTreeMap::new(), BTreeSet::new());
    for (object, content) in written {
        let object = object.clone();
        match stored.get(&object) {
            None => {
                changes.insert(object, Change::Create);
            }
            Some(found) if found.source.as_deref() == Some(source) => {
                let change = match found.content == *content {
                    true => Change::Keep,
                    false => Change::Update,
                };
                changes.insert(object, change);
            }
            Some(Stored {
                source: Some(owner),
                ..
            }) => {
                let owner = owner.clone();
                refused.insert(Refused::OtherSource { object, owner });
            }
            Some(_) => {
                let source_name = source.to_owned();
                refused.insert(Refused::NotFromGit {
                    object,
                    source_name,
                });
            }
        }
    }
    let gone = stored.iter().filter(|(object, found)| {
        prune && found.source.as_deref() == Some(source) && !written.contains_key(object)
    });
    for (object, found) in gone {
        let object = object.clone();
        match &found.in_use {
            None => {
                changes.insert(object, Change::Prune);
            }
            Some(why) => {
                let (source_name, why) = (source.to_owned(), why.clone());
                refused.insert(Refused::InUse {
                    object,
                    source_name,
                    why,
                });
            }
        }
    }
    match refused.is_empty() {
        true => Ok(changes),
        false => Err(refused.into_iter().collect()),
    }
}

/// May a person edit this object through API or console?
pub fn check_edit(object: &Object, owner: Option<&str>) -> Result<(), Refused> {
    match owner {
        None => Ok(()),
        Some(owner) => Err(Refused::OwnedByGit {
            object: object.clone(),
            owner: owner.to_owned(),
        }),
    }
}

/// What goes to API and console when a source is deleted; refused while it owns something, unless that is meant.
pub fn orphaned<'o>(
    source: &str,
    stored: &'o BTreeMap<Object, Stored>,
    orphan: bool,
) -> Result<Vec<&'o Object>, Refused> {
    let owned = stored
        .iter()
        .filter(|(_, found)| found.source.as_deref() == Some(source));
    let owned: Vec<&Object> = owned.map(|(object, _)| object).collect();
    match orphan || owned.is_empty() {
        true => Ok(owned),
        false => Err(Refused::OwnsObjects {
            source_name: source.to_owned(),
            owned: owned.into_iter().map(Object::as_written).collect(),
        }),
    }
}

/// May a source activate what it wrote? Only with a plan that it was given.
pub fn check_activation(
    object: &Object,
    source: &str,
    plan: Option<&str>,
) -> Result<String, Refused> {
    plan.map(str::to_owned).ok_or_else(|| Refused::DraftsOnly {
        object: object.clone(),
        source_name: source.to_owned(),
    })
}

// === impl Object ===

impl Object {
    /// As commands take it: a family by its name, anything else behind its kind.
    fn as_written(&self) -> String {
        match self.kind.as_str() {
            "family" => self.name.clone(),
            kind => format!("{kind}/{}", self.name),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Object {
        Object {
            kind: "family".into(),
            name: name.into(),
        }
    }

    fn hash(text: &str) -> Digest {
        Digest::of("test", &[text.as_bytes()])
    }

    fn stored(source: Option<&str>, in_use: Option<&str>) -> Stored {
        Stored {
            source: source.map(str::to_owned),
            content: hash("old"),
            in_use: in_use.map(str::to_owned),
        }
    }

    #[test]
    fn a_sync_creates_updates_keeps_and_prunes() {
        let git = || stored(Some("git"), None);
        let before = BTreeMap::from([
            (object("same"), git()),
            (object("edited"), git()),
            (object("gone"), git()),
            (object("mine"), stored(None, None)),
        ]);
        let written = BTreeMap::from([
            (object("same"), hash("old")),
            (object("edited"), hash("new")),
            (object("fresh"), hash("new")),
        ]);
        let expected = BTreeMap::from([
            (object("edited"), Change::Update),
            (object("fresh"), Change::Create),
            (object("gone"), Change::Prune),
            (object("same"), Change::Keep),
        ]);
        assert_eq!(sync("git", &before, &written, true), Ok(expected));
        let kept = sync("git", &before, &written, false).unwrap();
        assert!(!kept.contains_key(&object("gone")));
    }

    #[test]
    fn one_refusal_refuses_everything_and_all_are_told() {
        let before = BTreeMap::from([
            (object("a"), stored(Some("other"), None)),
            (object("b"), stored(None, None)),
            (
                Object {
                    kind: "plan".into(),
                    ..object("p")
                },
                stored(None, None),
            ),
            (
                object("c"),
                stored(Some("git"), Some("rollout ro-1 is running")),
            ),
        ]);
        let written = before.keys().filter(|object| object.name != "c");
        let written = written.map(|object| (object.clone(), hash("x"))).collect();
        let refused = sync("git", &before, &written, true).unwrap_err();
        let said: Vec<_> = refused.iter().map(Refused::to_string).collect();
        assert_eq!(
            said,
            [
                "family a is owned by source other: change it there, or remove it there first",
                "family b is owned by the API and console: hand it over with `muster adopt b --source git`",
                "plan p is owned by the API and console: hand it over with `muster adopt plan/p --source git`",
                "family c is gone from source git but rollout ro-1 is running: end that first, or apply with --keep-gone",
            ]
        );
    }

    #[test]
    fn what_git_has_is_edited_in_git() {
        assert_eq!(check_edit(&object("a"), None), Ok(()));
        assert_eq!(
            check_edit(&object("a"), Some("git"))
                .unwrap_err()
                .to_string(),
            "family a is owned by source git: commit the change there"
        );
    }

    #[test]
    fn a_source_that_owns_something_goes_only_when_that_is_handed_over() {
        let plan = Object {
            kind: "plan".into(),
            ..object("careful")
        };
        let stored = BTreeMap::from([
            (object("web"), stored(Some("git"), None)),
            (plan.clone(), stored(Some("git"), None)),
            (object("mine"), stored(None, None)),
        ]);
        assert_eq!(
            orphaned("git", &stored, false).unwrap_err().to_string(),
            "source git is not deleted while it owns web, plan/careful: hand that over with `muster adopt`, or give it to API and console with --orphan"
        );
        let both = [&object("web"), &plan];
        assert_eq!(orphaned("git", &stored, true).unwrap(), both);
        assert_eq!(
            orphaned("other", &stored, false).unwrap(),
            [] as [&Object; 0]
        );
    }

    #[test]
    fn a_source_activates_only_with_a_plan_that_it_was_given() {
        assert_eq!(
            check_activation(&object("a"), "git", Some("careful")),
            Ok("careful".to_owned())
        );
        assert_eq!(
            check_activation(&object("a"), "git", None)
                .unwrap_err()
                .to_string(),
            "source git may write drafts and not activate: start family a with `muster rollout start`, or let the source activate with a plan"
        );
    }
}
