//! A cluster whose processes the test starts and ends itself, one by one, each with the program that it likes. Nobody starts
//! one again but the test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cli::Cli;
use crate::crowd::{NODE, PATIENCE};
use crate::process::{Signal, signal};
use crate::server::{STOP, free_address, get};
use crate::wait::{eventually_blocking, holds};

/// Dropping it kills its processes; when the test is failing, data and logs stay.
pub struct ByHand {
    directory: Option<tempfile::TempDir>,
    /// What `--cluster` says.
    name: String,
    /// Where everybody finds the founders, in the order of their numbers.
    founders: Vec<SocketAddr>,
    /// Where gateways listen for agents and for operators.
    gateways: Vec<(SocketAddr, SocketAddr)>,
    processes: BTreeMap<String, Process>,
    /// What processes are started with, by their names.
    variables: BTreeMap<String, Vec<(OsString, OsString)>>,
}

struct Process {
    args: Vec<String>,
    /// Answers `/readyz`.
    ready: SocketAddr,
    /// None: it was ended.
    child: Option<Child>,
}

/// A founder by its number.
pub fn node(id: u64) -> String {
    format!("node-{id}")
}

/// Has everything moved to where it should be. A step that an election gets between ends `apply`, and it is called again,
/// as the manual says.
pub fn arrange(cli: &Cli) {
    eventually_blocking(PATIENCE, "every replica to be where it should be", || {
        let applied = cli.run(&["cluster", "apply", "--yes"]);
        let planned = cli.run(&["cluster", "plan"]);
        holds(
            planned.stdout.contains("nothing to move"),
            (applied, planned),
        )
    });
}

// === impl ByHand ===

impl ByHand {
    /// Nothing runs yet.
    pub fn new(cluster: &str) -> Self {
        let mut directory = tempfile::Builder::new();
        ByHand {
            directory: Some(directory.prefix("muster-by-hand-").tempdir().unwrap()),
            name: cluster.to_owned(),
            founders: vec![],
            gateways: vec![],
            processes: BTreeMap::new(),
            variables: BTreeMap::new(),
        }
    }

    /// A process of this name is started with these variables.
    pub fn with(&mut self, name: &str, variables: &[(&str, &OsStr)]) {
        let owned = variables.iter();
        let owned = owned.map(|(key, value)| (key.into(), value.into()));
        self.variables.insert(name.to_owned(), owned.collect());
    }

    /// Starts the founders, `node-1` and so on.
    pub fn found(&mut self, program: &Path, nodes: u64) {
        let listen: Vec<SocketAddr> = (0..nodes).map(|_| free_address()).collect();
        self.found_behind(program, &listen, &listen, &[]);
    }

    /// Starts founders with these options, which listen at `listen`; everybody else is told that they are at `known`.
    pub fn found_behind(
        &mut self,
        program: &Path,
        listen: &[SocketAddr],
        known: &[SocketAddr],
        options: &[&str],
    ) {
        self.founders = known.to_vec();
        let founders = (1..).zip(known);
        let founders: Vec<String> = founders.map(|(id, at)| format!("{id}={at}")).collect();
        for (id, listen) in (1..).zip(listen) {
            let mut own = vec![
                format!("--id={id}"),
                format!("--founders={}", founders.join(",")),
            ];
            own.extend(options.iter().map(|option| (*option).to_owned()));
            self.start_node(&node(id), program, *listen, &own);
        }
    }

    /// Starts a node that joins at the first founder.
    pub fn join(&mut self, name: &str, program: &Path) {
        let at = format!("--join={}", self.founders[0]);
        self.start_node(name, program, free_address(), &[at]);
    }

    /// Starts a node with these options of its own.
    pub fn start_node(&mut self, name: &str, program: &Path, listen: SocketAddr, own: &[String]) {
        let mut args = vec![
            "node".to_owned(),
            format!("--cluster={}", self.name),
            format!("--listen={listen}"),
            format!("--data-dir={}", self.path(name).display()),
        ];
        args.extend(own.iter().cloned());
        args.extend(NODE.map(str::to_owned));
        self.start(name, program, args, listen);
    }

    /// Starts gateways, `gateway-1` and so on.
    pub fn start_gateways(&mut self, program: &Path, gateways: usize) {
        let nodes: Vec<String> = self.founders.iter().map(ToString::to_string).collect();
        for number in 1..=gateways {
            let (opamp, api) = (free_address(), free_address());
            let args = vec![
                "gateway".to_owned(),
                format!("--cluster={}", self.name),
                format!("--nodes={}", nodes.join(",")),
                format!("--opamp-listen={opamp}"),
                format!("--api-listen={api}"),
            ];
            self.gateways.push((opamp, api));
            self.start(&format!("gateway-{number}"), program, args, api);
        }
    }

    fn start(&mut self, name: &str, program: &Path, args: Vec<String>, ready: SocketAddr) {
        let process = Process {
            args,
            ready,
            child: None,
        };
        self.processes.insert(name.to_owned(), process);
        self.again(name, program);
    }

    /// Starts a process that has ended, with its options of before.
    pub fn again(&mut self, name: &str, program: &Path) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let process = self.processes.get_mut(name).unwrap();
        assert!(process.child.is_none(), "{name} runs");
        let variables = self.variables.get(name).into_iter().flatten();
        let child = Command::new(program)
            .args(&process.args)
            .env_remove("MUSTER_TOKEN")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(variables.map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        process.child = Some(child.unwrap());
    }

    /// Waits until a process says that it is ready.
    pub fn is_ready(&self, name: &str) {
        let address = self.processes[name].ready;
        eventually_blocking(PATIENCE, &format!("{name} to be ready"), || {
            let ready = get(address, "/readyz");
            holds(
                matches!(ready, Ok((200, _))),
                (ready, self.log(name).lines().next_back()),
            )
        });
    }

    /// The same of all that run.
    pub fn is_ready_as_a_whole(&self) {
        let running = self.processes.iter().filter(|(_, p)| p.child.is_some());
        running.for_each(|(name, _)| self.is_ready(name));
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.take(name);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; it must end with exit code 0 within the time of a clean stop.
    pub fn stop(&mut self, name: &str) {
        self.terminate(name);
        self.ends(name);
    }

    /// SIGTERM, without waiting; [`ByHand::ends`] waits.
    pub fn terminate(&self, name: &str) {
        let child = self.processes[name].child.as_ref().expect("it runs");
        assert!(signal(child.id(), Signal::TERM), "{name} is gone");
    }

    /// Waits until a process that was told to has ended, with exit code 0 within the time of a clean stop.
    pub fn ends(&mut self, name: &str) {
        let mut child = self.take(name);
        let status = eventually_blocking(STOP, &format!("{name} to stop"), || {
            let ended = child.try_wait().unwrap();
            holds(ended.is_some(), "still running").map(|()| ended.unwrap())
        });
        assert_eq!(status.code(), Some(0), "{}", self.log(name));
    }

    /// Waits until a process has ended by itself, and not as after a clean stop.
    pub fn fails(&mut self, name: &str) {
        let child = self.processes.get_mut(name).unwrap().child.as_mut();
        let child = child.expect("it was started");
        eventually_blocking(PATIENCE, &format!("{name} to end"), || {
            holds(child.try_wait().unwrap().is_some(), "it runs")
        });
        let status = self.take(name).wait().unwrap();
        assert_ne!(status.code(), Some(0), "{}", self.log(name));
    }

    fn take(&mut self, name: &str) -> Child {
        let process = self.processes.get_mut(name).unwrap();
        process.child.take().expect("it runs")
    }

    /// Waits until a process has logged this.
    pub fn has_logged(&self, name: &str, within: Duration, parts: &[&str]) {
        eventually_blocking(within, &format!("{name} to log {parts:?}"), || {
            let log = self.log(name);
            let mut lines = log.lines();
            let line = lines.find(|line| parts.iter().all(|part| line.contains(part)));
            holds(line.is_some(), &log)
        });
    }

    /// What a process has logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// The data directory of a node, or a file beside them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(name)
    }

    /// Where a process says how it is: a node to everybody, a gateway to operators.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.processes[name].ready
    }

    /// Where the first founder is found.
    pub fn first(&self) -> SocketAddr {
        self.founders[0]
    }

    /// Where operators are heard, at the first gateway.
    pub fn api(&self) -> SocketAddr {
        self.gateways[0].1
    }

    /// Where agents are heard, at the first gateway.
    pub fn opamp(&self) -> SocketAddr {
        self.gateways[0].0
    }

    /// Where supervisors poll, one URL for each gateway.
    pub fn urls(&self) -> Vec<String> {
        let url = |(opamp, _): &(SocketAddr, SocketAddr)| format!("http://{opamp}/v1/opamp");
        self.gateways.iter().map(url).collect()
    }

    /// The command line of an operator.
    pub fn cli(&self) -> Cli {
        Cli::new(format!("http://{}", self.api()))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            if let Some(mut child) = process.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            let kept = directory.keep();
            eprintln!(
                "data and logs of the cluster are kept in {}",
                kept.display()
            );
        }
    }
}
