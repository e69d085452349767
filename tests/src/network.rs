//! A network of its own: each process in a network namespace, all of them on one bridge, any of them cut off from any other
//! in either direction.
//!
//! Everything lives in a namespace that the test makes for itself, so that nothing outside is touched and nothing is left:
//! a namespace ends with its last process. A word that is not to arrive meets a route that swallows it, so the way from A
//! to B can be cut while the way from B to A is open.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::process::{Signal, signal};
use crate::server::binary;

/// Set in the process that runs in the namespace.
const INSIDE: &str = "MUSTER_TEST_NETWORK";
/// Set by a person whose machine allows no namespaces.
const WITHOUT: &str = "MUSTER_TEST_WITHOUT_NETWORK";

/// Runs the test that this is called from again, in a network namespace of its own, where `inside` is what it does.
///
/// # Panics
///
/// If the test fails, or if this machine allows no network namespaces and nobody has said to go on without.
pub fn in_own_network<F: Future<Output = ()>>(inside: F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(inside);
        return;
    }
    // A block belongs to the function that it is written in: `file::test::{{closure}}`.
    let name = std::any::type_name::<F>().split("::").nth(1).unwrap();
    if std::env::var_os(WITHOUT).is_some() {
        eprintln!("NOT TESTED, since {WITHOUT} is set: {name}");
        return;
    }
    let root = rustix::process::geteuid().is_root();
    let user: &[&str] = if root {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(user).arg("--net");
        command
    };
    let allowed = unshare().arg("true").status().is_ok_and(|s| s.success());
    assert!(
        allowed,
        "this machine allows no network namespaces (`unshare --net true` fails): set {WITHOUT}=1 to go on without"
    );
    let ran = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .env("MUSTER_BIN", binary())
        .output()
        .unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{name} failed in its network: {}\n{said}\n{errors}",
        ran.status
    );
}

/// The bridge, and who is on it. Dropping it kills every process.
pub struct Network {
    hosts: Mutex<BTreeMap<u8, Child>>,
}

// === impl Network ===

impl Network {
    /// Only inside of [`in_own_network`].
    pub fn start() -> Self {
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "bridge", "type", "bridge"]);
        ip(&["addr", "add", "10.77.0.254/24", "dev", "bridge"]);
        ip(&["link", "set", "bridge", "up"]);
        Network {
            hosts: Mutex::new(BTreeMap::new()),
        }
    }

    /// Where this host listens.
    pub fn address(host: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(10, 77, 0, host), port).into()
    }

    /// Runs `muster` with these arguments and variables as this host, its output in `log`.
    pub fn run(&self, host: u8, args: &[String], env: &[(&str, &OsStr)], log: &Path) {
        let log = File::options().create(true).append(true).open(log).unwrap();
        // It waits for its network, and is the program itself from then on.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "read -r _ && exec \"$@\"", "sh"])
            .arg(binary())
            .args(args)
            .env_remove("MUSTER_TOKEN")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let process = child.id();
        crate::wait::eventually_blocking(crate::wait::SOON, "a namespace of its own", || {
            let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
            let (own, ours) = (of(&process.to_string()), of("self"));
            crate::wait::holds(own.is_ok() && own.ok() != ours.ok(), "ours")
        });
        let (outer, inner) = (format!("v{host}"), format!("p{host}"));
        ip(&[
            "link", "add", &outer, "type", "veth", "peer", "name", &inner,
        ]);
        // A host that comes back is the same to its neighbours.
        let hardware = format!("02:00:00:00:00:{host:02x}");
        ip(&["link", "set", &inner, "address", &hardware]);
        ip(&["link", "set", &inner, "netns", &process.to_string()]);
        ip(&["link", "set", &outer, "master", "bridge", "up"]);
        let address = format!("10.77.0.{host}/24");
        within(process, &["addr", "add", &address, "dev", &inner]);
        within(process, &["link", "set", &inner, "up"]);
        within(process, &["link", "set", "lo", "up"]);
        let _ = child.stdin.take().unwrap().write_all(b"\n");
        self.hosts().insert(host, child);
    }

    /// SIGKILL; its address is free again afterwards.
    pub fn kill(&self, host: u8) {
        if let Some(mut child) = self.hosts().remove(&host) {
            let _ = child.kill();
            let _ = child.wait();
            // A dead namespace goes when the kernel comes to it.
            let outer = format!("v{host}");
            let _ = Command::new("ip").args(["link", "del", &outer]).output();
        }
    }

    /// Has this host's process ended by itself?
    pub fn has_ended(&self, host: u8) -> bool {
        let mut hosts = self.hosts();
        let child = hosts.get_mut(&host);
        child.is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Nothing that `from` sends arrives at `to` any more.
    pub fn cut(&self, from: u8, to: u8) {
        let process = self.process(from);
        within(
            process,
            &["route", "add", "blackhole", &format!("10.77.0.{to}/32")],
        );
    }

    /// It does again.
    pub fn heal(&self, from: u8, to: u8) {
        let process = self.process(from);
        within(
            process,
            &["route", "del", "blackhole", &format!("10.77.0.{to}/32")],
        );
    }

    /// Pulls the plug of this host, or puts it back in.
    pub fn plug(&self, host: u8, state: &str) {
        ip(&["link", "set", &format!("v{host}"), state]);
    }

    fn process(&self, host: u8) -> u32 {
        self.hosts()[&host].id()
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<u8, Child>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for child in self.hosts().values_mut() {
            signal(child.id(), Signal::KILL);
            let _ = child.wait();
        }
    }
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn within(process: u32, args: &[&str]) {
    let target = process.to_string();
    run(Command::new("nsenter")
        .args(["--net", "--target", &target, "ip"])
        .args(args));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
