//! What scripts rely on, held against the real binary and a server that answers as told.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use proto::api::rollout_service_server::{RolloutService, RolloutServiceServer};
use proto::api::{
    AnswerCheckRequest, Counts, GetRolloutRequest, ListRolloutsRequest, ListRolloutsResponse,
    ReviewRolloutRequest, Rollout, RolloutVerb, StartRolloutRequest, WatchRolloutRequest,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The id of a rollout says how it ends.
#[derive(Default)]
struct Scripted {
    watches: AtomicUsize,
}

fn rollout(id: &str, state: &str) -> Rollout {
    let total = Some(Counts {
        members: 1,
        converged: 1,
        ..Default::default()
    });
    Rollout {
        id: id.into(),
        family: "pii".into(),
        to: 4,
        state: state.into(),
        total,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl RolloutService for Scripted {
    async fn start_rollout(&self, request: Request<StartRolloutRequest>) -> Answer<Rollout> {
        match request.get_ref().preview.as_str() {
            "stale" => Err(Status::failed_precondition("a diff group is new")),
            _ => Ok(Response::new(rollout("completed", "running"))),
        }
    }

    async fn list_rollouts(
        &self,
        request: Request<ListRolloutsRequest>,
    ) -> Answer<ListRolloutsResponse> {
        match request
            .metadata()
            .get("authorization")
            .map(|token| token.as_bytes())
        {
            Some(b"Bearer good") => Ok(Response::new(ListRolloutsResponse {
                rollouts: vec![rollout("r1", "running"); 20_000],
            })),
            _ => Err(Status::unauthenticated("a token is needed")),
        }
    }

    async fn get_rollout(&self, request: Request<GetRolloutRequest>) -> Answer<Rollout> {
        match request.get_ref().id.as_str() {
            "none" => Err(Status::not_found("no rollout or family `none`")),
            id => Ok(Response::new(rollout(id, "running"))),
        }
    }

    type WatchRolloutStream = tokio_stream::Iter<std::vec::IntoIter<Result<Rollout, Status>>>;

    async fn watch_rollout(
        &self,
        request: Request<WatchRolloutRequest>,
    ) -> Answer<Self::WatchRolloutStream> {
        let id = request.get_ref().id.as_str();
        let first = self.watches.fetch_add(1, Ordering::SeqCst) == 0;
        let next = if first {
            Err(Status::unavailable("leader lost"))
        } else {
            Ok(rollout(id, id))
        };
        Ok(Response::new(tokio_stream::iter(vec![
            Ok(rollout(id, "running")),
            next,
        ])))
    }

    async fn pause_rollout(&self, _: Request<RolloutVerb>) -> Answer<Rollout> {
        Err(Status::permission_denied("viewers may not pause"))
    }

    async fn resume_rollout(&self, _: Request<RolloutVerb>) -> Answer<Rollout> {
        Err(Status::invalid_argument("no"))
    }

    async fn halt_rollout(&self, request: Request<RolloutVerb>) -> Answer<Rollout> {
        Ok(Response::new(rollout(&request.get_ref().id, "halted")))
    }

    async fn rollback_rollout(&self, _: Request<RolloutVerb>) -> Answer<Rollout> {
        Err(Status::internal("no"))
    }

    async fn answer_check(&self, _: Request<AnswerCheckRequest>) -> Answer<Rollout> {
        Err(Status::failed_precondition("no check asks a person now"))
    }

    async fn review_rollout(&self, _: Request<ReviewRolloutRequest>) -> Answer<Rollout> {
        Err(Status::failed_precondition(
            "alice started it: ask somebody else",
        ))
    }
}

/// A server on a port of its own, for as long as the test runs.
fn server() -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let service = RolloutServiceServer::new(Scripted::default());
            let router = tonic::transport::Server::builder().add_service(service);
            router
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
    });
    address.recv().unwrap()
}

fn command(server: SocketAddr, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
        .env("MUSTER_SERVER", format!("http://{server}"))
        .env_remove("MUSTER_TOKEN")
        .env_remove("MUSTER_TOKEN_FILE");
    command
}

fn muster(server: SocketAddr, line: &str) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(server, line).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn each_refusal_has_its_exit_code_and_says_what_to_do() {
    let server = server();
    for (line, code, words) in [
        (
            "rollout get none",
            3,
            "cannot read rollout none: no rollout or family `none`",
        ),
        (
            "rollout start pii --preview stale",
            4,
            "cannot start a rollout of family pii: a diff group is new",
        ),
        (
            "rollout pause r1",
            6,
            "cannot pause rollout r1: viewers may not pause",
        ),
        ("rollout list", 6, "--token-file FILE"),
        ("rollout resume r1", 1, "cannot resume rollout r1"),
        (
            "rollout back pii 3",
            2,
            "give --preview ID of a preview that was read, or --yes",
        ),
        (
            "rollout pass r1",
            4,
            "cannot answer a check of rollout r1: no check asks a person now",
        ),
        (
            "rollout review r1 --note fine",
            4,
            "cannot review rollout r1: alice started it: ask somebody else",
        ),
        (
            "rollout start pii",
            2,
            "give --preview ID of a preview that was read, or --yes",
        ),
        (
            "rollout get r1 --server http://127.0.0.1:1",
            5,
            "cannot reach the server at http://127.0.0.1:1",
        ),
        ("rollout frobnicate", 2, "frobnicate"),
    ] {
        let (got, stdout, stderr) = muster(server, line);
        assert_eq!((got, stdout.as_str()), (code, ""), "{line}: {stderr}");
        assert!(stderr.contains(words), "{line}: {stderr}");
    }
}

#[test]
fn what_needs_no_server_says_so_without_one() {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    std::fs::write(&file, "").unwrap();
    let (code, stdout, stderr) = muster(nowhere, &format!("audit check {}", file.display()));
    assert_eq!((code, stdout.as_str()), (8, ""), "{stderr}");
    std::fs::write(&file, "{}\n").unwrap();
    let (code, _, stderr) = muster(nowhere, &format!("audit check {}", file.display()));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("audit.jsonl line 1"), "{stderr}");
    let (code, _, stderr) = muster(nowhere, "apply -f none.yaml --activate");
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--source NAME"), "{stderr}");
}

#[test]
fn watch_outlives_a_lost_server_and_ends_with_the_rollout() {
    let server = server();
    let (code, stdout, stderr) = muster(server, "rollout watch completed");
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("lost the server"), "{stderr}");
    assert!(
        stdout.lines().last().unwrap().ends_with("pii r4 completed"),
        "{stdout}"
    );
    let (code, stdout, stderr) = muster(server, "rollout watch halted -o json");
    assert_eq!(code, 7, "{stderr}");
    assert_eq!(
        stdout
            .lines()
            .last()
            .map(|line| line.contains(r#""state":"halted""#)),
        Some(true),
        "{stdout}"
    );
    assert!(
        stderr.contains("muster rollout rollback halted"),
        "{stderr}"
    );
}

#[test]
fn start_and_wait_is_success_when_it_completed() {
    let (code, _, stderr) = muster(server(), "rollout start pii --preview fresh --wait");
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn wait_has_an_end_that_leaves_the_rollout_alone() {
    let (code, _, stderr) = muster(server(), "rollout watch running --timeout 300ms");
    assert_eq!(code, 7);
    assert!(stderr.contains("it goes on"), "{stderr}");
}

#[test]
fn reader_that_leaves_early_is_no_failure() {
    let mut child = command(server(), "rollout list --token good")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(
        (status.code(), String::from_utf8(stderr).unwrap().as_str()),
        (Some(0), "")
    );
}
