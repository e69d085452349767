//! The foreign programs as processes: built once, each in a process group of its own, which ends with the test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::process::{Signal, children, signal, signal_group};
use system_tests::server::free_address;
use system_tests::wait::{eventually_blocking, holds};

/// A supervisor that is asked to stop has stopped its collector and itself after this.
const STOP: Duration = Duration::from_secs(15);

/// The folder of this file.
pub fn source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/interop"))
}

/// Where the built programs are: $MUSTER_INTEROP_DIR, else what `build` prints.
pub fn programs() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(directory) = std::env::var_os("MUSTER_INTEROP_DIR") {
            return directory.into();
        }
        let build = Command::new(source().join("build"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(
            build.status.success(),
            "tests/interop/build failed: {}",
            build.status
        );
        String::from_utf8(build.stdout)
            .unwrap()
            .lines()
            .last()
            .unwrap()
            .into()
    })
}

/// A directory that stays when the test fails.
pub struct Home(Option<tempfile::TempDir>);

// === impl Home ===

impl Home {
    pub fn new() -> Self {
        Home(Some(
            tempfile::Builder::new()
                .prefix("muster-interop-")
                .tempdir()
                .unwrap(),
        ))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.0.take()
        {
            eprintln!(
                "logs of supervisors and collectors are kept in {}",
                directory.keep().display()
            );
        }
    }
}

/// A process with all its children.
struct Group(Child);

// === impl Group ===

impl Group {
    fn spawn(command: &mut Command) -> Self {
        Group(command.process_group(0).spawn().unwrap())
    }

    /// Waits for the process itself.
    fn ended(&mut self, what: &str) {
        eventually_blocking(STOP, &format!("the end of {what}"), || {
            holds(self.0.try_wait().unwrap().is_some(), "still running")
        });
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        signal_group(self.0.id(), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// What makes one supervisor different from another.
pub struct Setup<'a> {
    /// Reported as host.name, so that `muster agents get` finds it by this.
    pub name: &'a str,
    pub role: &'a str,
    pub endpoint: &'a str,
    pub token: Option<&'a str>,
    pub authority: Option<&'a Path>,
    /// Variables of the collector, which the configurations refer to.
    pub env: Vec<(&'static str, String)>,
    /// It goes back to the last config that worked when its collector cannot run another.
    pub goes_back: bool,
}

/// An OpAMP supervisor and the collector that it runs.
pub struct Supervisor {
    pub name: String,
    /// Where the collector takes OTLP.
    pub otlp: SocketAddr,
    directory: PathBuf,
    process: Option<Group>,
}

// === impl Supervisor ===

impl Supervisor {
    /// Writes its configuration into `home` and starts it. The collector's OTLP address is given to it under both names
    /// that the configurations use.
    pub fn start(setup: Setup<'_>, home: &Home) -> Self {
        let directory = home.directory(setup.name);
        let otlp = free_address();
        let mut env: serde_json::Map<_, _> = setup
            .env
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        env.insert("AGENT_OTLP_ENDPOINT".to_owned(), otlp.to_string().into());
        env.insert("GATEWAY_OTLP_ENDPOINT".to_owned(), otlp.to_string().into());
        let mut server = json!({"endpoint": setup.endpoint});
        if let Some(token) = setup.token {
            server["headers"] = json!({"Authorization": [format!("Bearer {token}")]});
        }
        if let Some(authority) = setup.authority {
            server["tls"] = json!({"ca_file": authority});
        }
        // The README says why each line is there.
        let config = json!({
            "server": server,
            "capabilities": {
                "accepts_remote_config": true,
                "reports_remote_config": true,
                "accepts_restart_command": true,
                "reports_available_components": true,
            },
            "agent": {
                "executable": programs().join("otelcol-test"),
                "args": ["--set=service.telemetry.metrics.level=none"],
                "config_apply_timeout": "2s",
                "bootstrap_timeout": "20s",
                "validate_config": true,
                "automatic_config_rollback": setup.goes_back,
                "description": {"non_identifying_attributes": {"role": setup.role, "host.name": setup.name}},
                "env": env,
            },
            "storage": {"directory": directory.join("storage")},
            "telemetry": {"logs": {"level": "debug", "output_paths": [directory.join("supervisor.log")]}},
        });
        // JSON is YAML.
        std::fs::write(directory.join("supervisor.yaml"), config.to_string()).unwrap();
        let mut supervisor = Supervisor {
            name: setup.name.to_owned(),
            otlp,
            directory,
            process: None,
        };
        supervisor.again();
        supervisor
    }

    /// Starts once more with the same storage.
    pub fn again(&mut self) {
        assert!(self.process.is_none(), "{} is running", self.name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("output.log"))
            .unwrap();
        // SIGINT may be ignored by whoever runs the tests; supervisor and collector must not inherit that.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT")
            .arg(programs().join("opampsupervisor"))
            .arg("--config")
            .arg(self.directory.join("supervisor.yaml"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        self.process = Some(Group::spawn(&mut command));
    }

    /// Asks the supervisor alone to stop, which stops its collector first, and does not wait.
    pub fn interrupt(&self) {
        if let Some(group) = &self.process {
            // It may have ended by itself.
            let _ = signal(group.0.id(), Signal::INT);
        }
    }

    /// Stops it as a service manager should.
    pub fn stop(&mut self) {
        self.interrupt();
        self.process.as_mut().unwrap().ended(&self.name);
        self.process = None;
    }

    /// SIGKILL for supervisor and collector at once, as a power cut of the host.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The process of its collector, where it runs one.
    pub fn collector(&self) -> Option<u32> {
        let supervisor = self.process.as_ref().unwrap().0.id();
        match children(supervisor)[..] {
            [] => None,
            [collector] => Some(collector),
            ref more => panic!("{} has more than one child: {more:?}", self.name),
        }
    }

    /// SIGKILL for the collector alone.
    pub fn kill_collector(&self) {
        let Some(collector) = self.collector() else {
            panic!("{} runs no collector", self.name);
        };
        assert!(signal(collector, Signal::KILL), "the collector is gone");
    }
}

/// The Python OpAMP client. It stops when its stdin closes.
pub struct Python {
    process: Group,
    events: Arc<Mutex<Vec<Value>>>,
}

// === impl Python ===

impl Python {
    /// Starts the driver with these arguments.
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(programs().join("venv/bin/python"));
        command
            .arg(source().join("opamp_client.py"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Group::spawn(&mut command);
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap());
            }
        });
        Python { process, events }
    }

    /// Everything it has said under this name so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| event["event"] == name)
            .cloned()
            .collect()
    }

    /// The first event of this name.
    pub fn event(&self, name: &str) -> Value {
        eventually_blocking(STOP, &format!("event {name} of the Python client"), || {
            self.events(name)
                .into_iter()
                .next()
                .ok_or_else(|| format!("{:?}", self.events.lock().unwrap()))
        })
    }

    /// Says goodbye to the server and ends.
    pub fn stop(&mut self) {
        self.process.0.stdin = None;
        self.process.ended("the Python client");
    }
}
