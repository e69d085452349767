//! What survives, and what stops the node.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

mod common;

use std::io;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::*;
use raft::*;

/// A disk whose fsyncs wait while it is held, and fail once it is broken.
#[derive(Default)]
struct Faulty {
    held: Mutex<bool>,
    changed: Condvar,
    broken: AtomicBool,
    full: AtomicBool,
}

impl Faulty {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.changed.notify_all();
    }
}

impl Disk for Faulty {
    fn write(&self, real: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => real(),
        }
    }

    fn sync(&self, real: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let held = self.held.lock().unwrap();
        drop(self.changed.wait_while(held, |held| *held).unwrap());
        match self.broken.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the disk is broken")),
            false => real(),
        }
    }
}

fn faulty() -> (Arc<Faulty>, Arc<AtomicUsize>, StoreConfig) {
    let disk = Arc::new(Faulty::default());
    let aborts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&aborts);
    let abort = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let config = StoreConfig {
        disk: Arc::<Faulty>::clone(&disk),
        abort,
        ..StoreConfig::default()
    };
    (disk, aborts, config)
}

/// Whoever waits is told first, so the abort may come a moment after the answer.
async fn told_to_stop(aborts: &AtomicUsize) {
    eventually("the process is told to stop", || {
        aborts.load(Ordering::SeqCst) > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_the_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, aborts, config) = faulty();
    let store = Store::open(dir.path(), config).unwrap();
    let (group, _) = start(&store, 1).await;
    disk.hold(true);
    let mut proposal = Box::pin(group.propose(entry("a", 1)));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut proposal).await;
    assert!(early.is_err(), "answered while the fsync had not returned");
    assert_eq!(read(&group, "a"), None);
    disk.hold(false);
    proposal.await.unwrap();
    assert_eq!(read(&group, "a").as_deref(), Some("1"));
    assert_eq!(aborts.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fsync_stops_the_node_and_answers_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, aborts, config) = faulty();
    let store = Store::open(dir.path(), config).unwrap();
    let (group, _) = start(&store, 1).await;
    let (other, _) = start(&store, 2).await;
    disk.broken.store(true, Ordering::SeqCst);
    assert!(group.propose(entry("a", 1)).await.is_err());
    told_to_stop(&aborts).await;
    disk.broken.store(false, Ordering::SeqCst);
    assert!(
        group.propose(entry("a", 2)).await.is_err(),
        "a healed disk changes nothing"
    );
    assert!(
        other.propose(entry("a", 3)).await.is_err(),
        "nor for another group"
    );
    assert_eq!(read(&group, "a"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, aborts, config) = faulty();
    let store = Store::open(dir.path(), config).unwrap();
    let (group, _) = start(&store, 1).await;
    disk.full.store(true, Ordering::SeqCst);
    assert!(group.propose(entry("a", 1)).await.is_err());
    told_to_stop(&aborts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_go_on_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let (_, aborts, config) = faulty();
    let store = Store::open(dir.path(), config).unwrap();
    let (group, _) = start(&store, 1).await;
    assert!(group.propose("?".into()).await.is_err());
    told_to_stop(&aborts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_written_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let (_, aborts, config) = faulty();
    let store = Store::open(dir.path(), config).unwrap();
    let (group, _) = start(&store, 1).await;
    group.propose(entry("a", 1)).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    assert!(group.snapshot_now().await.is_err());
    told_to_stop(&aborts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    assert!(matches!(
        Store::open(dir.path(), StoreConfig::default()),
        Err(OpenError::Locked { .. })
    ));
}

// === kill ===

const CHILD: &str = "RAFT_DURABILITY_CHILD";

/// Not a test by itself: proposes for ever and prints what was answered.
#[tokio::test(flavor = "multi_thread")]
async fn child_proposes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let store = open(Path::new(&dir));
    let (group, _) = start(&store, 1).await;
    for n in 0.. {
        group.propose(entry(n, "x")).await.unwrap();
        println!("\nanswered {n}");
    }
}

/// Runs the child until it answered `count` proposals, kills it, and returns the last it answered.
fn run_and_kill(dir: &Path, count: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_proposes_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let answered = |line: &str| line.strip_prefix("answered ")?.parse::<u64>().ok();
    for n in lines
        .by_ref()
        .map_while(Result::ok)
        .filter_map(|line| answered(&line))
    {
        last = n;
        if n == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(last >= count, "the child died early, at {last}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_proposals_survive_kill_9_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..4 {
        let last = run_and_kill(dir.path(), round * 100);
        let store = open(dir.path());
        let (group, published) = start(&store, 1).await;
        for n in 0..=last {
            assert!(
                published.lock().unwrap().contains_key(&n.to_string()),
                "{n} of {last} is lost"
            );
        }
        drop(published);
        close(store, vec![group]).await;
    }
}

/// The newest write-ahead log file that is not empty.
fn newest_wal(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.filter(|path| path.metadata().unwrap().len() > 0)
        .max()
        .unwrap()
}

fn cut(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(bytes)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_record_loses_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let last = run_and_kill(dir.path(), 100);
    // No promise is on file, so a shorter log is a legal one.
    let _ = std::fs::remove_file(dir.path().join("durable.mark"));
    cut(&newest_wal(dir.path()), 3);
    let store = open(dir.path());
    let (group, published) = start(&store, 1).await;
    let found = published.lock().unwrap().len() as u64;
    assert!(
        found >= last,
        "{found} of {last}: the cut record held one entry or one applied position"
    );
    group.propose(entry("goes", "on")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_behind_its_mark_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(
        dir.path(),
        StoreConfig {
            mark_interval: Duration::from_millis(50),
            ..Default::default()
        },
    );
    let store = store.unwrap();
    let (group, _) = start(&store, 5).await;
    for n in 0..100 {
        group.propose(entry(n, n)).await.unwrap();
    }
    close(store, vec![group]).await;
    reopen(dir.path(), StoreConfig::default())
        .await
        .unwrap()
        .close();
    // The database is gone, the promise is not.
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = Store::open(dir.path(), StoreConfig::default())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            OpenError::BehindMark {
                group: GroupId(5),
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    for part in [
        "g5 is behind",
        "mark log T1-N1",
        "data log nothing",
        "new id",
        "restore a backup",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_cut_behind_the_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run_and_kill(dir.path(), 300);
    // The child ran for less than a second or for more: make the promise certain.
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    group.propose(entry("promised", 1)).await.unwrap();
    close(store, vec![group]).await;
    let mark = dir.path().join("durable.mark");
    eventually("mark written", || mark.exists()).await;
    let wal = newest_wal(dir.path());
    let length = wal.metadata().unwrap().len();
    cut(&wal, length / 2);
    let error = Store::open(dir.path(), StoreConfig::default())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            OpenError::BehindMark { .. } | OpenError::Database { .. }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (group, _) = start(&store, 1).await;
    group.propose(entry("a", 1)).await.unwrap();
    close(store, vec![group]).await;
    let mark = dir.path().join("durable.mark");
    let mut bytes = std::fs::read(&mark).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&mark, bytes).unwrap();
    let error = reopen(dir.path(), StoreConfig::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, OpenError::Mark { .. }), "{error}");
}

// === rot ===

/// Proposals of a directory that is to rot.
const ENTRIES: u64 = 200;

/// No two are alike, so that no block of them shrinks to nothing.
fn value(n: u64) -> String {
    let words = (0..16).map(|word| (n * 16 + word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.map(|word| format!("{word:016x}")).collect()
}

/// Proposes all of them and closes: everything is committed, synced and in the mark.
async fn write_all(dir: &Path) {
    let store = open(dir);
    let (group, _) = start(&store, 1).await;
    for n in 0..ENTRIES {
        group.propose(entry(n, value(n))).await.unwrap();
    }
    close(store, vec![group]).await;
}

/// What a node says of this directory. All that was proposed is there, or it says that something is wrong; anything else
/// fails the test.
async fn opens_whole(dir: &Path) -> Result<(), String> {
    let (_, aborts, config) = faulty();
    let store = Store::open(dir, config).map_err(|error| format!("open: {error}"))?;
    let config = GroupConfig {
        start_timeout: Duration::from_secs(5),
        ..GroupConfig::default()
    };
    let group = Group::start(&store, GroupId(1), NodeId(1), Kv::default(), config).await;
    let group = group.map_err(|error| format!("start: {error}"))?;
    let read = read_all(&group);
    let stopped = aborts.load(Ordering::SeqCst) > 0;
    // A group that has failed need not stop well.
    let _ = tokio::time::timeout(Duration::from_secs(10), close(store, vec![group])).await;
    if stopped {
        return Err("it was told to stop".to_owned());
    }
    read
}

fn read_all(group: &Group<Kv>) -> Result<(), String> {
    let view = group.view().map_err(|error| format!("view: {error}"))?;
    for n in 0..ENTRIES {
        let key = n.to_string();
        let found = view.get(TABLE, key.as_bytes());
        let found = found.map_err(|error| format!("read: {error}"))?;
        let found = found.map(|value| text(&value));
        assert_eq!(
            found,
            Some(value(n)),
            "{n} is another one, and nobody says so"
        );
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Opens copies of the directory; in each a bit of `file` has flipped, at places that cut it into so many parts. What was
/// said of them.
async fn with_a_flipped_bit(sound: &Path, file: &Path, parts: usize) -> Vec<String> {
    let name = file.strip_prefix(sound).unwrap();
    let bytes = std::fs::read(file).unwrap();
    let mut said = Vec::new();
    for place in 1..parts {
        let dir = tempfile::tempdir().unwrap();
        copy(sound, dir.path());
        let mut rotten = bytes.clone();
        rotten[bytes.len() * place / parts] ^= 0x10;
        std::fs::write(dir.path().join(name), rotten).unwrap();
        said.extend(opens_whole(dir.path()).await.err());
    }
    said
}

/// Recovery ends where the log does not make sense, and does not complain: it is the mark that knows of more.
#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_within_the_wal_is_refused_at_open() {
    let sound = tempfile::tempdir().unwrap();
    write_all(sound.path()).await;
    let said = with_a_flipped_bit(sound.path(), &newest_wal(sound.path()), 8).await;
    // One that hits what fills up a block of the log harms nothing.
    assert!(said.len() > 1, "{said:?}");
    assert!(
        said.iter().all(|what| what.starts_with("open: ")),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_a_table_is_said_and_never_read_as_something_else() {
    let sound = tempfile::tempdir().unwrap();
    write_all(sound.path()).await;
    // Recovery makes tables of the log.
    reopen(sound.path(), StoreConfig::default())
        .await
        .unwrap()
        .close();
    let files = std::fs::read_dir(sound.path().join("db")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let tables: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "sst"))
        .collect();
    assert!(!tables.is_empty());
    let mut said = Vec::new();
    for table in &tables {
        said.extend(with_a_flipped_bit(sound.path(), table, 5).await);
    }
    // What nobody reads need not be noticed; the state is read by everybody.
    assert!(said.len() > 3, "{said:?}");
}
