//! Making a new cluster of a backup, in an empty data directory, while nothing runs there.
//!
//! The groups get their state as it was. Then the control group is started alone and stores one entry, by the same path as
//! any other: what the cluster is now, its rollouts halted, its old nodes forgotten. Invariant: a directory in which that
//! has not happened is never started.

use std::fs::File;
use std::path::Path;

use fleet::rollout::Transition;
use proto::api::BackupHeader;
use proto::store::{self, Entry};
use raft::{GroupConfig, GroupId, NodeId, Store};

use super::{Error, Key, Summary, each_group, verify};
use crate::control::{Control, Documents, IDENTITY_KEY, stored_rollout_state};
use crate::inventory::Index;
use crate::ledger::{Ledger, Mirror, act, delete, entry, now_ms, put, table};
use crate::local::{PARTITIONS, Place, open_any, start_group};

/// Stands in the directory until the restore is finished.
pub(crate) const UNFINISHED: &str = "restore.unfinished";

/// Who acts, in the audit log.
const ACTOR: &str = "restore";

/// What a restore has made.
#[derive(Debug)]
pub struct Restored {
    /// What it was made of.
    pub summary: Summary,
    /// The new cluster.
    pub identity: store::Identity,
    /// Rollouts that stand still now.
    pub halted: Vec<String>,
    /// Agents in it.
    pub agents: u64,
}

/// Restores a backup into an empty directory, as the data of this node alone.
///
/// # Errors
/// The backup is not whole, the directory is not empty, or something in it does not verify. The directory is refused by
/// every start until it was emptied then.
pub async fn restore(
    path: &Path,
    dir: &Path,
    key: Option<Key>,
    node: NodeId,
) -> Result<Restored, Error> {
    check_empty(dir)?;
    let (file, with) = (path.to_owned(), key.clone());
    let summary = aside(move || verify(&file, with.as_ref())).await?;
    let incarnation = summary.header.incarnation + 1;
    if incarnation > u32::from(u16::MAX) {
        return Err(Error::TooOften);
    }
    let unfinished = dir.join(UNFINISHED);
    let wrong = |source| Error::Directory {
        dir: dir.to_owned(),
        source,
    };
    let marked = File::create(&unfinished).and_then(|file| file.sync_all());
    marked.and_then(|()| sync(dir)).map_err(wrong)?;
    let store = open_any(dir.to_owned()).await.map_err(Error::Start)?;
    let (file, seeded) = (path.to_owned(), store.clone());
    aside(move || {
        each_group(&file, key.as_ref(), |group, stream| {
            seeded.seed(GroupId(group.group), node, stream)
        })
    })
    .await?;
    let begun = begin(&store, node, &summary.header, incarnation).await;
    aside(move || store.close()).await;
    let (identity, halted, agents) = begun?;
    std::fs::remove_file(&unfinished).map_err(wrong)?;
    sync(dir).map_err(wrong)?;
    Ok(Restored {
        summary,
        identity,
        halted,
        agents,
    })
}

/// An empty directory, or none: then it is for the caller to make.
fn check_empty(dir: &Path) -> Result<(), Error> {
    let wrong = |source| Error::Directory {
        dir: dir.to_owned(),
        source,
    };
    let mut found = std::fs::read_dir(dir).map_err(wrong)?;
    // A file system of its own has this.
    let is_other = |entry: &std::io::Result<std::fs::DirEntry>| {
        entry
            .as_ref()
            .map_or(true, |entry| entry.file_name() != "lost+found")
    };
    match found.find(is_other) {
        None => Ok(()),
        Some(_) => Err(Error::NotEmpty {
            dir: dir.to_owned(),
        }),
    }
}

fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

async fn aside<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(run).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What the first entry says: the new cluster, the rollouts that it halts, and the number of agents.
type Begun = (store::Identity, Vec<String>, u64);

/// Starts every group alone, verifies its audit log, and stores the first entry of the new cluster.
async fn begin(
    store: &Store,
    node: NodeId,
    of: &BackupHeader,
    incarnation: u32,
) -> Result<Begun, Error> {
    let place = Place {
        node,
        group: GroupConfig::default(),
        leaders: None,
    };
    let mut agents = 0;
    for i in 0..PARTITIONS {
        let (name, index) = (format!("inventory-{i}"), Index::default());
        let started = start_group(store, i + 1, &name, index.mirror(), &place).await;
        let ledger = started.map_err(Error::Start)?;
        let checked = check_audit(&ledger).await;
        agents += index.read().rows.len() as u64;
        ledger.group().shutdown().await;
        checked?;
    }
    let control = Control::default();
    let started = start_group(store, 0, "control", control.mirror(), &place).await;
    let ledger = started.map_err(Error::Start)?;
    let begun = async {
        check_audit(&ledger).await?;
        let identity = store::Identity {
            id: uuid::Uuid::new_v4().as_bytes().to_vec(),
            incarnation,
            restored_from: of.cluster.clone(),
            backup_ms: of.at_ms,
            restored_ms: now_ms(),
        };
        let (first, halted) = first_entry(&control.read(), &identity);
        ledger.propose(first).await.map_err(Error::Store)?;
        // Whoever joins gets a snapshot. That of the backup would make it a node of the old cluster, which refuses this one.
        let written = ledger.group().snapshot_now().await;
        written.map_err(Error::Snapshot)?;
        Ok((identity, halted, agents))
    };
    let begun = begun.await;
    ledger.group().shutdown().await;
    begun
}

async fn check_audit<M: Mirror>(ledger: &Ledger<M>) -> Result<(), Error> {
    let (name, verified) = (ledger.name().to_owned(), ledger.clone());
    let broken = |why| Error::Audit { group: name, why };
    match aside(move || verified.verify()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(why)) => Err(broken(why.to_string())),
        Err(error) => Err(broken(crate::partition::chain(&error))),
    }
}

/// What becomes of the documents, all of it, or the directory is no cluster; and the rollouts that it halts.
fn first_entry(documents: &Documents, identity: &store::Identity) -> (Entry, Vec<String>) {
    let known = documents.identity.get(IDENTITY_KEY);
    let version = known.map_or(0, |known| known.version);
    let mut writes = vec![put(table::IDENTITY, IDENTITY_KEY, version, identity)];
    let mut acts = vec![act(
        ACTOR,
        "cluster.restored",
        format!("cluster/{}", hex::encode(&identity.id)),
        format!(
            "from a backup of cluster {} made at {}; incarnation {}",
            hex::encode(&identity.restored_from),
            when(identity.backup_ms),
            identity.incarnation
        ),
    )];
    // Its nodes are not those of the new cluster, whose numbers begin anew.
    for (id, known) in &documents.nodes {
        writes.push(delete(table::NODE, id.to_be_bytes(), known.version));
    }
    let mut halted = Vec::new();
    for (id, doc) in &documents.rollouts {
        if let Some(Transition { to, cause, .. }) = documents.domain(&doc.value).restore() {
            let rollout = store::Rollout {
                state: stored_rollout_state(to).into(),
                cause: cause.clone(),
                ..store::Rollout::clone(&doc.value)
            };
            writes.push(put(table::ROLLOUT, id.as_str(), doc.version, &rollout));
            acts.push(act(ACTOR, "rollout.halt", format!("rollout/{id}"), cause));
            halted.push(id.clone());
        }
    }
    (entry(writes, acts), halted)
}

fn when(ms: u64) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn documents(rollouts: &[(&str, store::RolloutState)]) -> Control {
        let control = Control::default();
        let mut mirror = control.mirror();
        let family = store::Family {
            name: "web".into(),
            stable: 1,
            target: 2,
            ..store::Family::default()
        };
        mirror.put(table::FAMILY, b"web", 3, &family.encode_to_vec());
        let node = store::ClusterNode {
            id: 2,
            ..store::ClusterNode::default()
        };
        mirror.put(table::NODE, &2u64.to_be_bytes(), 4, &node.encode_to_vec());
        for (id, state) in rollouts {
            let rollout = store::Rollout {
                id: (*id).into(),
                family: "web".into(),
                to: 2,
                state: (*state).into(),
                ..store::Rollout::default()
            };
            mirror.put(table::ROLLOUT, id.as_bytes(), 5, &rollout.encode_to_vec());
        }
        mirror.publish(0);
        control
    }

    fn identity() -> store::Identity {
        store::Identity {
            id: vec![2; 16],
            incarnation: 1,
            restored_from: vec![1; 16],
            backup_ms: 1_700_000_000_000,
            restored_ms: 1,
        }
    }

    #[test]
    fn rollouts_that_were_open_come_back_halted_and_those_that_had_ended_as_they_were() {
        use store::RolloutState::{AwaitingApproval, Completed, Halted, Paused, Planned, Running};
        let control = documents(&[
            ("ro-1", Completed),
            ("ro-2", Running),
            ("ro-3", Paused),
            ("ro-4", AwaitingApproval),
            ("ro-5", Planned),
            ("ro-6", Halted),
        ]);
        let (first, halted) = first_entry(&control.read(), &identity());
        assert_eq!(halted, ["ro-2", "ro-3", "ro-4", "ro-5"]);
        let acts: Vec<_> = first
            .acts
            .iter()
            .map(|a| (a.action.as_str(), a.object.as_str()))
            .collect();
        assert_eq!(
            acts[1..],
            [
                ("rollout.halt", "rollout/ro-2"),
                ("rollout.halt", "rollout/ro-3"),
                ("rollout.halt", "rollout/ro-4"),
                ("rollout.halt", "rollout/ro-5"),
            ]
        );
        let tables: Vec<_> = first.writes.iter().map(|w| (w.table, w.delete)).collect();
        let [identity, node, rollout] =
            [table::IDENTITY, table::NODE, table::ROLLOUT].map(u32::from);
        assert_eq!(
            tables,
            [
                (identity, false),
                (node, true),
                (rollout, false),
                (rollout, false),
                (rollout, false),
                (rollout, false),
            ]
        );
    }

    #[test]
    fn the_audit_log_says_of_what_and_of_when_the_backup_was() {
        let (first, _) = first_entry(&documents(&[]).read(), &identity());
        assert_eq!(first.acts[0].action, "cluster.restored");
        assert_eq!(first.acts[0].object, format!("cluster/{}", "02".repeat(16)));
        assert_eq!(
            first.acts[0].detail,
            format!(
                "from a backup of cluster {} made at 2023-11-14T22:13:20Z; incarnation 1",
                "01".repeat(16)
            )
        );
    }

    #[test]
    fn a_restored_cluster_is_ahead_of_its_own_past() {
        let control = documents(&[("ro-1", store::RolloutState::Running)]);
        let before = control.read().epoch();
        let mut mirror = control.mirror();
        mirror.put(
            table::IDENTITY,
            IDENTITY_KEY.as_bytes(),
            6,
            &identity().encode_to_vec(),
        );
        mirror.publish(0);
        let after = control.read().epoch();
        assert_eq!((before.incarnation(), after.incarnation()), (0, 1));
        assert!(after > before);
    }

    #[test]
    fn only_an_empty_directory_is_restored_into() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        assert!(check_empty(dir.path()).is_ok());
        std::fs::write(dir.path().join("node.json"), "{}").unwrap();
        assert!(matches!(
            check_empty(dir.path()),
            Err(Error::NotEmpty { .. })
        ));
    }
}
