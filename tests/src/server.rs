//! A `muster serve` process of its own: free loopback ports, a data directory that goes with it, logs that stay when a
//! test fails.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::cli::Cli;
use crate::process::{Signal, signal};
use crate::wait::{eventually_blocking, holds};

/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// How long a clean stop may take; service managers kill after that.
pub const STOP: Duration = Duration::from_secs(10);

/// The `muster` binary: $MUSTER_BIN, else the one built beside the running test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MUSTER_BIN") {
        return path.into();
    }
    // <target>/<profile>/deps/<test> → <target>/<profile>/muster
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("muster");
    assert!(
        path.exists(),
        "{} is not there: `cargo build -p muster` first, or set MUSTER_BIN",
        path.display()
    );
    path
}

/// A loopback address that nobody uses, below the ports that outgoing connections take.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(COUNT / 50)) as u16 * 50;
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + offset));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port on loopback");
}

/// How a process that was expected to end has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub log: String,
}

/// Runs `muster serve` with exactly these arguments until it ends by itself, which it must within `START`.
pub fn serve_that_refuses(args: &[&str]) -> Ended {
    let child = Command::new(binary())
        .arg("serve")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut guard = Guard(Some(child));
    let status = guard.wait(START, "muster serve to refuse to start");
    let mut log = String::new();
    guard
        .0
        .take()
        .unwrap()
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    Ended {
        code: status.code(),
        log: plain(&log),
    }
}

/// A server under test. Dropping it kills the process; when the test is failing, data and logs stay.
pub struct Server {
    pub opamp: SocketAddr,
    pub api: SocketAddr,
    /// What `--data-dir` names.
    pub data: PathBuf,
    directory: Option<tempfile::TempDir>,
    options: Vec<String>,
    program: PathBuf,
    process: Guard,
}

// === impl Server ===

impl Server {
    /// Starts with these options besides the addresses and the data directory, and waits until it is ready.
    pub fn start(options: &[&str]) -> Self {
        Server::start_as(&binary(), options)
    }

    /// As [`Server::start`], with another program than the one under test.
    pub fn start_as(program: &Path, options: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("muster-test-")
            .tempdir()
            .unwrap();
        let mut server = Server {
            opamp: free_address(),
            api: free_address(),
            data: directory.path().join("data"),
            directory: Some(directory),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            program: program.to_owned(),
            process: Guard(None),
        };
        server.again();
        server
    }

    /// Starts once more with the same data, addresses and options, as this program.
    pub fn again_as(&mut self, program: &Path) {
        self.program = program.to_owned();
        self.again();
    }

    /// Starts once more with the same data, addresses and options.
    pub fn again(&mut self) {
        assert!(self.process.0.is_none(), "the server is running");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let child = Command::new(&self.program)
            .arg("serve")
            .arg("--data-dir")
            .arg(&self.data)
            .args([
                "--opamp-listen",
                &self.opamp.to_string(),
                "--api-listen",
                &self.api.to_string(),
            ])
            .args(&self.options)
            .env_remove("MUSTER_TOKEN")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Guard(Some(child));
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.process.0.as_mut().unwrap().try_wait().unwrap() {
                panic!("muster serve ended at start: {status}\n{}", self.log());
            }
            match self.ready() {
                Ok((200, _)) => return,
                answer => assert!(
                    Instant::now() < deadline,
                    "not ready within {START:?}: {answer:?}\n{}",
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Over TLS, which nobody here speaks, an open port has to do: it opens when everything else has started.
    fn ready(&self) -> std::io::Result<(u16, String)> {
        if self.options.iter().any(|option| option == "--tls-cert") {
            return TcpStream::connect(self.api).map(|_| (200, String::new()));
        }
        get(self.api, "/readyz")
    }

    /// SIGTERM; the process must end with exit code 0 within [`STOP`].
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.process.wait(STOP, "a clean stop");
        self.process.0 = None;
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        let server = self.process.0.as_ref().unwrap().id();
        assert!(signal(server, Signal::TERM), "the server is gone");
    }

    /// SIGKILL, as a power cut for this process.
    pub fn kill(&mut self) {
        self.process = Guard(None);
    }

    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.again();
    }

    /// Where supervisors poll.
    pub fn http_url(&self) -> String {
        format!("http://{}/v1/opamp", self.opamp)
    }

    /// Where supervisors connect.
    pub fn ws_url(&self) -> String {
        format!("ws://{}/v1/opamp", self.opamp)
    }

    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// The command line of an operator of this server.
    pub fn cli(&self) -> Cli {
        Cli::new(self.api_url())
    }

    /// What it has logged since the first start, without colours.
    pub fn log(&self) -> String {
        plain(&std::fs::read_to_string(self.log_file()).unwrap_or_default())
    }

    /// A file of this name beside the data, for manifests.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn log_file(&self) -> PathBuf {
        self.directory().join("serve.log")
    }

    fn directory(&self) -> &Path {
        self.data.parent().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process = Guard(None);
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!(
                "data and logs of the server are kept in {}",
                directory.keep().display()
            );
        }
    }
}

/// GET over HTTP/1.1: status and body.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default();
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Ok((status, body))
}

/// A process that does not outlive its test.
struct Guard(Option<Child>);

impl Guard {
    fn wait(&mut self, within: Duration, what: &str) -> ExitStatus {
        eventually_blocking(within, what, || {
            let ended = self.0.as_mut().unwrap().try_wait().unwrap();
            holds(ended.is_some(), "still running").map(|()| ended.unwrap())
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Without the sequences that colour a terminal.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('\u{1b}');
    out.extend(parts.next());
    for part in parts {
        out.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    out
}
