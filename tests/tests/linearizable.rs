//! Clients of the control API see one history, whatever happens to nodes: what they did and saw is checked by porcupine
//! (`tests/linearizable`, built here with Go).
//!
//! A family is a register: an apply writes its next revision, and to get it is to read the latest one.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use proto::api::family_service_client::FamilyServiceClient;
use proto::api::{ApplyRequest, GetFamilyRequest, Manifest};
use system_tests::api::Api;
use system_tests::cluster::Cluster;
use system_tests::history::{History, Op, Outcome, Seen};
use system_tests::manifest::{config, family, role};
use system_tests::process::{Signal, signal};
use tonic::transport::Channel;
use tonic::{Code, Status};

const CLIENTS: usize = 8;
const KEYS: usize = 5;
const RUN: Duration = Duration::from_secs(20);

/// Between two calls of a client: some hundred operations a key are enough to see, and quick to check.
const PAUSE: Duration = Duration::from_millis(50);

/// A client goes on when it has no answer within this. Shorter than a node is frozen, so that others go on meanwhile.
const CALL: Duration = Duration::from_secs(2);

/// For an election, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// An operator at one of the gateways.
struct Client {
    number: usize,
    families: FamilyServiceClient<Channel>,
    history: History,
}

// === impl Client ===

impl Client {
    fn new(number: usize, gateway: SocketAddr, history: &History) -> Self {
        Client {
            number,
            families: Api::new(gateway).families,
            history: history.clone(),
        }
    }

    /// Reads and writes until then, every key in turn, never twice the same value.
    async fn run(self, until: Instant) {
        for turn in 0.. {
            if Instant::now() >= until {
                return;
            }
            let key = (turn + self.number / 2) % KEYS;
            // Neighbours write the same key at the same time; in the next round they read it.
            if (turn + turn / KEYS + self.number / 4).is_multiple_of(2) {
                let value = format!("c{}-{turn}", self.number);
                self.record(Op::Write, key, self.write(key, value)).await;
            } else {
                self.record(Op::Read, key, self.read(key)).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn record(&self, op: Op, key: usize, call: impl Future<Output = (Outcome, Seen)>) {
        self.history.record(self.number, op, &name(key), call).await;
    }

    async fn write(&self, key: usize, value: String) -> (Outcome, Seen) {
        let yaml = family(
            &name(key),
            10 + i64::try_from(key).unwrap(),
            &[role(
                "agent",
                &format!("role = {}", name(key)),
                &config(&value),
            )],
        );
        let request = ApplyRequest {
            manifests: vec![Manifest {
                path: "history.yaml".to_owned(),
                yaml,
                ..Manifest::default()
            }],
            note: value.clone(),
            idempotency_key: value.clone(),
            ..ApplyRequest::default()
        };
        let mut families = self.families.clone();
        let answer = tokio::time::timeout(CALL, families.apply(request)).await;
        let (outcome, version) = match answer {
            Err(_) => (Outcome::Unknown, 0),
            Ok(Err(status)) => (not_stored(&status), 0),
            Ok(Ok(answer)) => (Outcome::Ok, answer.into_inner().results[0].revision),
        };
        (outcome, Seen { version, value })
    }

    async fn read(&self, key: usize) -> (Outcome, Seen) {
        let request = GetFamilyRequest {
            name: name(key),
            revision: 0,
        };
        let mut families = self.families.clone();
        let answer = tokio::time::timeout(CALL, families.get_family(request)).await;
        match answer {
            Ok(Ok(answer)) => {
                let latest = answer.into_inner().revision.unwrap();
                let seen = Seen {
                    version: latest.number,
                    value: latest.note,
                };
                (Outcome::Ok, seen)
            }
            Ok(Err(status)) if status.code() == Code::NotFound => (Outcome::Ok, Seen::default()),
            _ => (Outcome::Unknown, Seen::default()),
        }
    }
}

fn name(key: usize) -> String {
    format!("family-{key}")
}

/// What is known of a write that was not answered as stored. Whoever is told that nothing has happened believes it.
fn not_stored(status: &Status) -> Outcome {
    let nothing = ["nothing has happened", "nothing was stored"];
    match status.code() {
        Code::Aborted => Outcome::Refused,
        Code::Unavailable if nothing.iter().any(|n| status.message().contains(n)) => {
            Outcome::Refused
        }
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::DeadlineExceeded => Outcome::Unknown,
        _ => panic!("a write is refused: {status}"),
    }
}

/// Builds the checker; Go keeps what it has built.
fn checker() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("linearizable");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linearizable");
    // The caller's Go settings must not change what is built.
    let built = Command::new("go")
        .args(["build", "-mod=readonly", "-trimpath", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-buildvcs=false")
        .status();
    let built = built.expect("Go builds the checker: `scripts/setup interop` says how to get it");
    assert!(built.success(), "go build in tests/linearizable: {built}");
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_at_all_gateways_see_one_history_while_leaders_are_killed_and_frozen() {
    let checker = checker();
    let cluster = Cluster::start(&[], &[]);
    let gateways = cluster.described().gateways;
    let history = History::default();
    let until = Instant::now() + RUN;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let gateway = gateways[number % gateways.len()].api;
            tokio::spawn(Client::new(number, gateway, &history).run(until))
        })
        .collect();

    tokio::time::sleep(RUN / 6).await; // the run is about time: some of it before, between and after
    let killed = cluster.leader("control", PATIENCE).await;
    assert!(signal(killed, Signal::KILL));
    tokio::time::sleep(RUN / 4).await;
    let frozen = cluster.leader("control", PATIENCE).await;
    assert!(signal(frozen, Signal::STOP));
    // Longer than lease and election: it wakes believing that it leads, while another one does.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(signal(frozen, Signal::CONT));
    for client in clients {
        client.await.unwrap();
    }

    for op in [Op::Read, Op::Write] {
        let done = history.count(op, Outcome::Ok);
        assert!(done > 50, "{done} × {op:?}: too few to show anything");
    }
    let path = cluster.write("history.jsonl", "");
    history.write(&path).unwrap();
    let checked = Command::new(checker).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    println!("{said}");
    cluster.stop();
}
