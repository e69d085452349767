//! What is written down at a clean stop, and what is removed in time.

use std::time::Duration;

use proto::store;
use proto::uid::Uid;
use state::partition::millis;

use super::{Partition, chain};
use crate::ledger::{self, entry, now_ms, put_any, table};

/// The refusals of a forgotten agent are kept for so long.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Removed by one entry: half a MiB.
const PRUNED_AT_ONCE: usize = 10_000;

/// Documents of a table that are removed at a time: in ten minutes a partition writes fewer.
const PRUNED: usize = 200_000;

impl Partition {
    /// Writes down where each conversation stands.
    pub async fn write_numbers(&self) {
        let now = self.monotonic_ms();
        let wall = now_ms();
        let numbers: Vec<store::Number> = self
            .core()
            .conversations(now)
            .map(|(uid, number, digest, age)| store::Number {
                uid: uid.as_bytes().to_vec(),
                number,
                digest: digest.to_vec(),
                seen_ms: wall.saturating_sub(age),
            })
            .collect();
        for (i, chunk) in numbers.chunks(10_000).enumerate() {
            let key = u32::try_from(i).unwrap_or(u32::MAX).to_be_bytes();
            let write = put_any(
                table::NUMBERS,
                key,
                &store::Numbers {
                    numbers: chunk.to_vec(),
                },
            );
            if let Err(error) = self.ledger.propose(entry(vec![write], vec![])).await {
                tracing::warn!(error = %chain(&error), "conversations were not written down: agents will be asked for full state");
                return;
            }
        }
    }

    /// Reads what a clean stop wrote down, and removes it: it is true once.
    pub async fn read_numbers(&self) -> Result<(), raft::Fatal> {
        let found: Vec<(Vec<u8>, u64, store::Numbers)> = self
            .ledger
            .view()?
            .scan(table::NUMBERS, &[])
            .collect::<Result<_, _>>()?;
        let now = self.monotonic_ms();
        for number in found.iter().flat_map(|(_, _, numbers)| &numbers.numbers) {
            if let (Ok(uid), Ok(digest)) = (
                Uid::from_wire(&number.uid),
                number.digest.as_slice().try_into(),
            ) {
                self.core()
                    .handled(uid, number.number, digest, ("", 0), false, now);
            }
        }
        let writes: Vec<_> = found
            .into_iter()
            .map(|(key, ..)| ledger::delete_any(table::NUMBERS, key))
            .collect();
        if !writes.is_empty()
            && let Err(error) = self.ledger.propose(entry(writes, vec![])).await
        {
            tracing::warn!(error = %chain(&error), "written-down conversations were not removed");
        }
        Ok(())
    }

    /// Every transition since then is kept, wall clock.
    pub fn kept_from_ms(&self) -> u64 {
        now_ms().saturating_sub(millis(self.config.history))
    }

    /// Removes what is past its time: transitions, and the refusals of forgotten agents. Call it now and then.
    pub async fn prune(&self) -> Result<(), raft::Fatal> {
        let transitions_before = self.kept_from_ms();
        let tombstones_before = now_ms().saturating_sub(millis(TOMBSTONE_LIFE));
        let ledger = self.ledger.clone();
        // Reads whole tables: not on a thread that answers agents.
        let find = move || -> Result<Vec<store::Write>, raft::Fatal> {
            let view = ledger.view()?;
            let mut writes = past::<store::Transition>(&view, table::HISTORY, |transition| {
                transition.at_ms < transitions_before
            })?;
            writes.extend(past::<store::Agent>(&view, table::TOMBSTONE, |agent| {
                agent.last_seen_ms < tombstones_before
            })?);
            Ok(writes)
        };
        let writes = tokio::task::spawn_blocking(find)
            .await
            .map_err(|error| raft::Fatal::because("look for what is past its time", error))??;
        for part in writes.chunks(PRUNED_AT_ONCE) {
            if let Err(error) = self.ledger.propose(entry(part.to_vec(), vec![])).await {
                tracing::warn!(error = %chain(&error), "what is past its time was not removed");
                break;
            }
        }
        Ok(())
    }
}

/// Deletes of the documents of a table that are past their time; the rest of a large number goes next time.
fn past<T: prost::Message + Default>(
    view: &ledger::View,
    table: u8,
    is_past: impl Fn(&T) -> bool,
) -> Result<Vec<store::Write>, raft::Fatal> {
    let past = view
        .scan::<T>(table, &[])
        .filter_map(|document| match document {
            Ok((key, _, document)) => {
                is_past(&document).then(|| Ok(ledger::delete_any(table, key)))
            }
            Err(error) => Some(Err(error)),
        });
    past.take(PRUNED).collect()
}
