//! What clients have done and seen, for the checker of linearizability (`tests/linearizable`).
//!
//! Every operation is written down with when it was called and when it was answered, on one monotonic clock: two
//! operations that did not overlap happened one after the other, and everything that was answered has to fit that.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// It has not happened, and will not.
    Refused,
    /// It may have happened, or happen yet.
    Unknown,
}

/// What stood under the key after the operation: how many writes there had been, and the last one's value. Nothing: 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub version: u64,
    pub value: String,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: usize,
    pub op: Op,
    pub key: String,
    pub call_ns: u64,
    pub return_ns: u64,
    pub seen: Seen,
    pub outcome: Outcome,
}

/// Shared by all clients of a test.
#[derive(Clone, Debug)]
pub struct History {
    began: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

// === impl History ===

impl Default for History {
    fn default() -> Self {
        History {
            began: Instant::now(),
            operations: Arc::default(),
        }
    }
}

impl History {
    /// Does something and writes down what came of it: of a read what it saw, of a write what it made.
    pub async fn record(
        &self,
        client: usize,
        op: Op,
        key: &str,
        call: impl Future<Output = (Outcome, Seen)>,
    ) -> Outcome {
        let call_ns = self.now_ns();
        let (outcome, seen) = call.await;
        let operation = Operation {
            client,
            op,
            key: key.to_owned(),
            call_ns,
            return_ns: self.now_ns(),
            seen,
            outcome,
        };
        self.lock().push(operation);
        outcome
    }

    /// Everything so far, in the order of the answers.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    /// How many operations have ended like this.
    pub fn count(&self, op: Op, outcome: Outcome) -> usize {
        let operations = self.lock();
        let alike = |one: &&Operation| (one.op, one.outcome) == (op, outcome);
        operations.iter().filter(alike).count()
    }

    /// As the checker reads it: one line for each operation.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        for operation in self.lock().iter() {
            writeln!(file, "{}", operation.line())?;
        }
        file.flush()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation {
    fn line(&self) -> Value {
        let op = match self.op {
            Op::Read => "read",
            Op::Write => "write",
        };
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
        };
        json!({
            "client": self.client,
            "call": self.call_ns,
            "return": self.return_ns,
            "op": op,
            "key": self.key,
            "value": self.seen.value,
            "version": self.seen.version,
            "outcome": outcome,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: u64, value: &str) -> Seen {
        Seen {
            version,
            value: value.to_owned(),
        }
    }

    #[tokio::test]
    async fn an_operation_lies_between_its_call_and_its_answer() {
        let history = History::default();
        let read = history.record(1, Op::Read, "a", async { (Outcome::Ok, Seen::default()) });
        let write = history.record(0, Op::Write, "a", async {
            // The write is under way when the read is answered.
            assert_eq!(read.await, Outcome::Ok);
            (Outcome::Unknown, seen(0, "x"))
        });
        assert_eq!(write.await, Outcome::Unknown);
        let operations = history.operations();
        let [read, write] = operations.as_slice() else {
            panic!("{operations:?}");
        };
        assert_eq!((read.client, write.client), (1, 0));
        assert!(write.call_ns <= read.call_ns && read.return_ns <= write.return_ns);
        assert_eq!(history.count(Op::Write, Outcome::Unknown), 1);
        assert_eq!(history.count(Op::Write, Outcome::Ok), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_that_clients_do_at_once_is_lost() {
        let history = History::default();
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let history = history.clone();
                tokio::spawn(async move {
                    for number in 1..=100 {
                        let call = async { (Outcome::Ok, seen(number, "x")) };
                        history.record(client, Op::Write, "a", call).await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let operations = history.operations();
        assert_eq!(operations.len(), 800);
        for client in 0..8 {
            let own: Vec<&Operation> = operations.iter().filter(|o| o.client == client).collect();
            assert!(own.windows(2).all(|two| two[0].return_ns <= two[1].call_ns));
        }
    }

    #[test]
    fn a_line_is_what_the_checker_reads() {
        let operation = Operation {
            client: 3,
            op: Op::Write,
            key: "edge".to_owned(),
            call_ns: 5,
            return_ns: 9,
            seen: seen(2, "x"),
            outcome: Outcome::Refused,
        };
        let expected = json!({"client": 3, "call": 5, "return": 9, "op": "write", "key": "edge", "value": "x",
            "version": 2, "outcome": "refused"});
        assert_eq!(operation.line(), expected);
    }
}
