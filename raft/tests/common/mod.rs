//! A key-value machine, and stores and groups of it.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod cluster;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::*;

/// The only table.
pub const TABLE: u8 = 1;

/// What readers of a machine see.
pub type Published = Arc<Mutex<BTreeMap<String, String>>>;

/// Applies `key=value`, answers the value before. `!` is refused by an answer, `?` stops the node, and `~` is applied by
/// each replica in another way, as no machine may.
#[derive(Default)]
pub struct Kv {
    pub published: Published,
    pending: Vec<(String, String)>,
}

impl StateMachine for Kv {
    const FORMAT: u32 = 7;

    fn apply(&mut self, _: u64, entry: &[u8], batch: &mut Batch<'_>) -> Result<Vec<u8>, Fatal> {
        let entry =
            std::str::from_utf8(entry).map_err(|error| Fatal::because("read entry", error))?;
        let Some((key, value)) = entry.split_once('=') else {
            return match entry {
                "?" => Err(Fatal::new("told to stop")),
                "~" => {
                    static APPLIED: AtomicU64 = AtomicU64::new(0);
                    let nth = APPLIED.fetch_add(1, Ordering::Relaxed);
                    batch.put(TABLE, b"~", nth.to_string());
                    Ok(vec![])
                }
                _ => Ok(b"refused".to_vec()),
            };
        };
        let before = batch.get(TABLE, key.as_bytes())?.unwrap_or_default();
        batch.put(TABLE, key.as_bytes(), value);
        self.pending.push((key.to_owned(), value.to_owned()));
        Ok(before)
    }

    fn published(&mut self) {
        self.published
            .lock()
            .unwrap()
            .extend(self.pending.drain(..));
    }

    fn restore(&mut self, view: &View) -> Result<(), Fatal> {
        let mut published = self.published.lock().unwrap();
        published.clear();
        for row in view.scan_prefix(TABLE, b"") {
            let (key, value) = row?;
            published.insert(text(&key), text(&value));
        }
        Ok(())
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn open(dir: &Path) -> Store {
    Store::open(dir, StoreConfig::default()).unwrap()
}

pub async fn start(store: &Store, id: u32) -> (Group<Kv>, Published) {
    start_with(store, id, GroupConfig::default()).await
}

pub async fn start_with(store: &Store, id: u32, config: GroupConfig) -> (Group<Kv>, Published) {
    let machine = Kv::default();
    let published = Arc::clone(&machine.published);
    let group = Group::start(store, GroupId(id), NodeId(1), machine, config)
        .await
        .unwrap();
    (group, published)
}

pub fn entry(key: impl std::fmt::Display, value: impl std::fmt::Display) -> Bytes {
    format!("{key}={value}").into()
}

pub fn read(group: &Group<Kv>, key: &str) -> Option<String> {
    group
        .view()
        .unwrap()
        .get(TABLE, key.as_bytes())
        .unwrap()
        .map(|value| text(&value))
}

/// Waits until `done`, or fails after ten seconds.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Stops groups and store so that the directory can be opened again.
pub async fn close(store: Store, groups: Vec<Group<Kv>>) {
    for group in groups {
        group.shutdown().await;
    }
    store.close();
}

/// Opens again once the tasks of stopped groups have let go of the database.
pub async fn reopen(dir: &Path, config: StoreConfig) -> Result<Store, OpenError> {
    let started = Instant::now();
    loop {
        match Store::open(dir, config.clone()) {
            Err(OpenError::Locked { .. }) if started.elapsed() < Duration::from_secs(5) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}
