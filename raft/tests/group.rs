//! One voter: what a group promises to its users.

#![allow(clippy::unwrap_used)] // helpers of tests are not marked as tests

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use raft::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_proposal_is_seen_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, published) = start(&store, 1).await;
    assert_eq!(group.propose(entry("a", 1)).await.unwrap(), b"");
    assert_eq!(group.propose(entry("a", 2)).await.unwrap(), b"1");
    assert_eq!(published.lock().unwrap()["a"], "2");
    assert_eq!(read(&group, "a").as_deref(), Some("2"));
    close(store, vec![group]).await;

    let store = reopen(dir.path(), StoreConfig::default()).await.unwrap();
    let started = Instant::now();
    let (group, published) = start(&store, 1).await;
    assert!(
        started.elapsed() < Duration::from_millis(1000),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(published.lock().unwrap()["a"], "2");
    assert_eq!(group.propose(entry("a", 3)).await.unwrap(), b"2");
    assert_eq!(group.status().leadership.role, Role::Leader);
    assert!(
        group.status().leadership.term > 1,
        "a restart asks for votes again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_many_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    let mut entries: Vec<Bytes> = (0..3000).map(|n| entry("k", n)).collect();
    entries.insert(10, vec![b'x'; ENTRY_BYTES_MAX + 1].into());
    let answers = group.propose_many(entries).await;
    assert!(matches!(answers[10], Err(ProposeError::TooLarge { .. })));
    let answers: Vec<String> = answers
        .into_iter()
        .flatten()
        .map(|answer| text(&answer))
        .collect();
    let expected: Vec<String> = std::iter::once(String::new())
        .chain((0..2999).map(|n| n.to_string()))
        .collect();
    assert_eq!(answers, expected);
    assert!(group.linearize().await.unwrap() >= 3000);
    assert!(group.propose_many(Vec::new()).await.is_empty());
    assert_eq!(group.counts().proposals, 0, "all were answered");
    let disk = store.disk_use();
    assert!(
        disk.syncs > 0 && disk.queued_bytes <= disk.queue_bytes_max,
        "{disk:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    assert_eq!(group.propose("!".into()).await.unwrap(), b"refused");
    let too_large = group.propose(vec![0; ENTRY_BYTES_MAX + 1].into()).await;
    assert!(
        matches!(too_large, Err(ProposeError::TooLarge { bytes }) if bytes == ENTRY_BYTES_MAX + 1)
    );
    let largest = [b"a=".as_slice(), &vec![b'v'; ENTRY_BYTES_MAX - 2]].concat();
    group.propose(largest.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_with_the_same_keys_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, _) = start(&store, 1).await;
    let (two, _) = start(&store, 2).await;
    for n in 0..50 {
        let (a, b) = tokio::join!(one.propose(entry("k", n)), two.propose(entry("k", -n)));
        a.unwrap();
        b.unwrap();
    }
    one.snapshot_now().await.unwrap();
    assert_eq!(read(&one, "k").as_deref(), Some("49"));
    assert_eq!(read(&two, "k").as_deref(), Some("-49"));
    close(store, vec![one, two]).await;

    let store = reopen(dir.path(), StoreConfig::default()).await.unwrap();
    let (two, published) = start(&store, 2).await;
    assert_eq!(
        *published.lock().unwrap(),
        [("k".to_owned(), "-49".to_owned())].into()
    );
    assert_eq!(two.status().snapshot, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_starts_once_and_on_its_own_node() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    let again = Group::start(
        &store,
        GroupId(1),
        NodeId(1),
        Kv::default(),
        GroupConfig::default(),
    )
    .await;
    assert!(matches!(again, Err(StartError::Running(GroupId(1)))));
    let other = Group::start(
        &store,
        GroupId(2),
        NodeId(9),
        Kv::default(),
        GroupConfig::default(),
    )
    .await;
    assert!(matches!(
        other,
        Err(StartError::OtherNode {
            owner: NodeId(1),
            asked: NodeId(9)
        })
    ));
    group.shutdown().await;
    assert!(matches!(
        group.propose(entry("a", 1)).await,
        Err(ProposeError::Fatal(_))
    ));
    let mut leadership = group.leadership();
    leadership
        .wait_for(|now| now.role == Role::Stopped)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn views_stay_as_they_were_while_entries_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    let writer = tokio::spawn({
        let group = group.clone();
        async move {
            for n in 0..300 {
                // Both keys change in one entry each; a view never shows the second ahead.
                let answers = group.propose_many(vec![entry("a", n), entry("b", n)]).await;
                assert!(answers.iter().all(Result::is_ok));
            }
        }
    });
    let readers = (0..4).map(|_| {
        let group = group.clone();
        tokio::task::spawn_blocking(move || {
            for _ in 0..200 {
                let view = group.view().unwrap();
                let value = |key: &str| {
                    view.get(TABLE, key.as_bytes())
                        .unwrap()
                        .map_or(-1, |v| text(&v).parse().unwrap())
                };
                let (b, a): (i64, i64) = (value("b"), value("a"));
                assert!(a == b || a == b + 1, "{a} {b}");
                assert_eq!(value("a"), a);
                let rows: Vec<Row> = view.scan_prefix(TABLE, b"a").map(Result::unwrap).collect();
                assert_eq!(rows.len(), usize::from(a >= 0));
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_lets_the_log_go_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let config = GroupConfig {
        snapshot_entries: 500,
        log_keep_entries: 10,
        purge_entries_min: 1,
        ..Default::default()
    };
    let (group, _) = start_with(&store, 1, config.clone()).await;
    for round in 0..4 {
        let answers = group
            .propose_many((0..400).map(|n| entry(n, round)).collect())
            .await;
        assert!(answers.iter().all(Result::is_ok));
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    eventually("log purged", || {
        group.status().purged.is_some_and(|index| index > 400)
    })
    .await;
    let covered = group.snapshot_now().await.unwrap();
    assert!(covered >= 1600, "{covered}");
    let files = std::fs::read_dir(dir.path().join("snapshots"))
        .unwrap()
        .map(|file| file.unwrap().file_name());
    // One that is being built has another name.
    let files: Vec<_> = files
        .filter(|name| name.to_string_lossy().ends_with(".snapshot"))
        .collect();
    assert_eq!(files.len(), 1, "older snapshots are removed: {files:?}");
    close(store, vec![group]).await;

    let store = reopen(dir.path(), StoreConfig::default()).await.unwrap();
    let (group, published) = start_with(&store, 1, config).await;
    assert_eq!(group.status().snapshot, Some(covered));
    assert_eq!(published.lock().unwrap().len(), 400);
    assert!(published.lock().unwrap().values().all(|value| value == "3"));
}

/// As [`Kv`], one version older.
#[derive(Default)]
struct OldKv(Kv);

impl StateMachine for OldKv {
    const FORMAT: u32 = Kv::FORMAT - 1;

    fn apply(&mut self, index: u64, entry: &[u8], batch: &mut Batch<'_>) -> Result<Vec<u8>, Fatal> {
        self.0.apply(index, entry, batch)
    }

    fn published(&mut self) {
        self.0.published();
    }

    fn restore(&mut self, view: &View) -> Result<(), Fatal> {
        self.0.restore(view)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_a_newer_machine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    group.shutdown().await;
    let old = Group::start(
        &store,
        GroupId(1),
        NodeId(1),
        OldKv::default(),
        GroupConfig::default(),
    )
    .await;
    assert!(matches!(
        old,
        Err(StartError::NewerFormat {
            found: 7,
            known: 6,
            ..
        })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_scan_crosses_pages() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    let answers = group
        .propose_many((0..9000).map(|n| entry(format!("{n:05}"), n)).collect())
        .await;
    assert!(answers.iter().all(Result::is_ok));
    let view = group.view().unwrap();
    let keys: Vec<Vec<u8>> = view
        .scan_prefix(TABLE, b"")
        .map(|row| row.unwrap().0)
        .collect();
    assert_eq!(keys.len(), 9000);
    assert!(keys.is_sorted());
    assert_eq!(view.scan_from(TABLE, b"08990").count(), 10);
    assert_eq!(view.scan_prefix(TABLE, b"0899").count(), 10);
    assert_eq!(view.scan_prefix(TABLE + 1, b"").count(), 0);
    assert_eq!(view.applied_index(), group.status().applied);
}
