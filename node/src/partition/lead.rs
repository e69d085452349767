//! Leading a partition: what it rests on, the program that is decided by, and how far it may grant.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fleet::program::Program;
use proto::edge::{Notice, notice};
use proto::store;
use state::partition::{is_due, millis, room};

use super::{GRANT_LIFE, LEASE, LEASE_OVER, Partition, chain};
use crate::ledger::{ProposeError, entry};

/// Agents that are named in one message: a quarter of a MiB.
const NAMED_AT_ONCE: usize = 10_000;

impl Partition {
    /// Does this node lead the partition, and is it ready to?
    pub fn leads(&self) -> bool {
        let leadership = *self.ledger.group().leadership().borrow();
        let term = self.leads_in.load(Ordering::SeqCst);
        leadership.role == raft::Role::Leader && leadership.term == term
    }

    /// Begins to lead in this term: what was committed before is applied, agents have a right to be heard again, and
    /// what an earlier leader has granted is waited for like grants of its own.
    ///
    /// # Errors
    /// The lead was lost again, or is not sure yet.
    pub async fn take_lead(&self, term: u64) -> Result<(), raft::ReadError> {
        self.ledger.group().linearize().await?;
        let now = self.monotonic_ms();
        self.core().begin(now);
        // It may still have its lease, and then repeats what it has granted.
        let earlier = if self.others {
            now + millis(LEASE_OVER)
        } else {
            0
        };
        self.last_grant_ms.fetch_max(earlier, Ordering::SeqCst);
        self.rooms.begin();
        *self.waiting() = None;
        self.try_read_components();
        self.take_program();
        self.leads_in.store(term, Ordering::SeqCst);
        if let Err(error) = self.read_numbers().await {
            tracing::warn!(partition = self.ledger.name(), error = %chain(&error), "written-down conversations cannot be read: agents will be asked for full state");
        }
        self.name_pending(&self.program());
        Ok(())
    }

    /// Takes the control group's newest program; agents that it has something for are named to their gateways.
    pub fn take_program(&self) {
        let (before, program, same_policy) = {
            let _one = self
                .taking
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let before = self.program();
            // Before the program that may need it, so that nothing of it is offered without limit.
            let limits = room::Limits::of(&self.control.read());
            {
                // Quotas on their way may be for a wave that is over.
                let mut counted = self.waiting();
                if self.rooms.follow(limits) {
                    *counted = None;
                }
            }
            let newest = self.control.read().epoch();
            if newest <= before.epoch {
                return;
            }
            let (program, re_offering) = {
                let documents = self.control.read();
                let program = Arc::new(crate::control::build_program(&documents));
                (program, Arc::new(state::drift::re_offering(&documents)))
            };
            let policy = self.re_offering.swap(re_offering.clone());
            self.program.store(program.clone());
            (before, program, policy == re_offering)
        };
        let same = (&before.families, &before.pins) == (&program.families, &program.pins);
        if !(same && same_policy) && self.leads() {
            self.name_pending(&program);
        }
    }

    /// Tells the gateways which agents have something pending.
    pub fn name_pending(&self, program: &Program) {
        let kind = notice::Kind::Pending.into();
        let re_offering = self.re_offering.load_full();
        let notices: Vec<Notice> = {
            let columns = self.index.read();
            let due = columns
                .rows
                .values()
                .filter(|row| is_due(&columns, program, &re_offering, row));
            due.map(|row| Notice {
                instance_uid: row.uid.as_bytes().to_vec().into(),
                kind,
                ..Notice::default()
            })
            .collect()
        };
        for some in notices.chunks(NAMED_AT_ONCE) {
            self.notify(some.to_vec());
        }
    }

    /// The program was confirmed with the control group by a read sent at `sent`.
    pub fn confirm(&self, sent: Instant) {
        let at = millis(sent.saturating_duration_since(self.started)).max(1);
        self.confirmed_ms.fetch_max(at, Ordering::SeqCst);
    }

    /// May this node's leader authorise offers now?
    pub fn has_lease(&self) -> bool {
        let confirmed = self.confirmed_ms.load(Ordering::SeqCst);
        confirmed != 0 && self.monotonic_ms().saturating_sub(confirmed) < millis(LEASE)
    }

    /// Answers when no offer of an older program can be written any more: new ones are refused by the group, and the
    /// grants that are out have run out.
    pub async fn raise_floor(&self, epoch: u64) -> Result<(), ProposeError> {
        self.take_program();
        let entry = store::Entry {
            raise_floor: epoch,
            ..entry(vec![], vec![])
        };
        self.ledger.propose_here(entry).await?;
        let last = self.last_grant_ms.load(Ordering::SeqCst);
        let over = last + millis(GRANT_LIFE);
        let now = self.monotonic_ms();
        if last != 0 && over > now {
            tokio::time::sleep(Duration::from_millis(over - now)).await;
        }
        Ok(())
    }
}
