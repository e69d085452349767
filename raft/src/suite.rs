//! The consensus library's own tests of a store, on ours.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::log::{Limits, Log, LogStore};
use crate::types::TypeConfig;
use crate::worker::{self, Worker};
use crate::{Batch, Fatal, GroupId, StateMachine, Store, StoreConfig, View};

struct Nothing;

impl StateMachine for Nothing {
    const FORMAT: u32 = 1;

    fn apply(&mut self, _: u64, _: &[u8], _: &mut Batch<'_>) -> Result<Vec<u8>, Fatal> {
        Ok(Vec::new())
    }

    fn published(&mut self) {}

    fn restore(&mut self, _: &View) -> Result<(), Fatal> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Worker<Nothing>, (Store, TempDir)> for Builder {
    async fn build(
        &self,
    ) -> Result<((Store, TempDir), LogStore, Worker<Nothing>), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let shared = &store.shared;
        let (db, queue, stop) = (
            Arc::clone(&shared.db),
            Arc::clone(&shared.queue),
            Arc::clone(&shared.stop),
        );
        // Small bounds, so that reads cross from the database into memory.
        let limits = Limits {
            tail_bytes: 64,
            read_bytes: 1 << 20,
        };
        let log = Arc::new(Log::open(GroupId(3), db, queue, stop, limits).unwrap());
        let limits = worker::Limits {
            entries: 2,
            bytes: 1 << 20,
        };
        let backlog = Arc::new(AtomicU64::new(0));
        let worker = Worker::open(
            Nothing,
            Arc::clone(shared),
            Arc::clone(&log),
            limits,
            backlog,
            Arc::default(),
        )
        .unwrap();
        Ok(((store, dir), LogStore(log), worker))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_worker_pass_the_suite() {
    Suite::<TypeConfig, _, _, _, _>::test_all(Builder)
        .await
        .unwrap();
}
