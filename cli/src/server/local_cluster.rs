//! `muster local-cluster`: nodes and gateways as processes of their own on loopback, for trying a cluster and for tests.
//!
//! A process that dies is started again with the same data and the same addresses. `DIR/cluster.json` says where
//! everything is; it is written when the cluster is ready, and again after each restart.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tls::{Authority, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::options::{Log, private_dir};
use super::{ENDS_WITH_PARENT, with_telemetry};

/// A process that ends is started again after this, and after as much more each time it ended soon.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// A process that ran for so long did not end soon.
const SOON: Duration = Duration::from_secs(10);

/// The cluster is ready within this, or something is wrong with it.
const READY: Duration = Duration::from_secs(60);

/// Processes that do not stop within this are killed.
const STOP: Duration = Duration::from_secs(9);

const CLUSTER: &str = "local";

/// Of certificates: nobody tries a cluster for longer.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

const EXAMPLES: &str = "\
Example:
  muster local-cluster --nodes 3 --gateways 2 --data-dir ./cluster
  cat ./cluster/cluster.json                  where everything is, and the process ids: kill one
  muster --server http://ADDRESS agents list  any gateway's `api`

Options of `muster node` and `muster gateway` go behind --node-arg and --gateway-arg, as --node-arg=--offer-timeout=10s.";

/// Options of `muster local-cluster`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct LocalClusterArgs {
    /// Nodes; an odd number
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,

    /// Gateways
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    gateways: u16,

    /// Where data, logs and cluster.json are kept. Created if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Have its processes show each other certificates, made in DIR/certificates
    #[arg(long)]
    certificates: bool,

    /// An option for each node. Can be given several times
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    node_arg: Vec<String>,

    /// An option for each gateway. Can be given several times
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    gateway_arg: Vec<String>,

    #[command(flatten)]
    log: Log,
}

/// What `cluster.json` says.
#[derive(Clone, Debug, Default, Serialize)]
struct Described {
    nodes: Vec<DescribedNode>,
    gateways: Vec<DescribedGateway>,
}

#[derive(Clone, Debug, Serialize)]
struct DescribedNode {
    id: u64,
    pid: u32,
    addr: String,
}

#[derive(Clone, Debug, Serialize)]
struct DescribedGateway {
    pid: u32,
    opamp: String,
    api: String,
}

/// One process of the cluster, and how it is started again.
struct Program {
    name: String,
    args: Vec<String>,
    log: PathBuf,
    /// Asked for `/readyz`; none: it answers nobody without a certificate.
    ready: Option<SocketAddr>,
    child: Child,
    started: tokio::time::Instant,
    pause: Duration,
}

/// Runs until SIGTERM or SIGINT, then stops every process.
pub async fn run(args: LocalClusterArgs) -> anyhow::Result<()> {
    let log = args.log.clone();
    with_telemetry(&log, |stop| keep(args, stop)).await
}

async fn keep(args: LocalClusterArgs, stop: CancellationToken) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.nodes % 2 == 1,
        "--nodes {}: an odd number survives the loss of a minority",
        args.nodes
    );
    private_dir(&args.data_dir)?;
    let addresses = Addresses::of(&args)?;
    let mut programs = addresses.programs(&args)?;
    let kept = supervise(&args, &addresses, &mut programs, &stop).await;
    for program in &programs {
        program.terminate();
    }
    let ending = async {
        for program in &mut programs {
            let _ended = program.child.wait().await;
        }
    };
    if tokio::time::timeout(STOP, ending).await.is_err() {
        // Dropping a child kills it.
        tracing::warn!("not every process has stopped in time: the rest is killed");
    }
    // Who finds it believes that the cluster runs.
    let _gone = std::fs::remove_file(args.data_dir.join("cluster.json"));
    kept
}

async fn supervise(
    args: &LocalClusterArgs,
    addresses: &Addresses,
    programs: &mut [Program],
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    let (mut told, mut ready) = (false, false);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let mut changed = false;
        for program in programs.iter_mut() {
            if let Some(status) = program.child.try_wait()? {
                program.restart(status).await?;
                changed = true;
            }
        }
        if !ready {
            ready = all_ready(programs).await;
            if !ready && !told && started.elapsed() > READY {
                told = true;
                tracing::warn!(logs = %args.data_dir.display(), "the cluster is not ready yet: look at the logs");
            }
            changed |= ready;
            if ready {
                tracing::info!(file = %args.data_dir.join("cluster.json").display(), "the cluster is ready");
            }
        }
        if ready && changed {
            addresses
                .describe(programs)
                .write(&args.data_dir.join("cluster.json"))?;
        }
    }
    Ok(())
}

async fn all_ready(programs: &[Program]) -> bool {
    for address in programs.iter().filter_map(|program| program.ready) {
        if !is_ready(address).await {
            return false;
        }
    }
    true
}

/// Asks `/readyz`, in the fewest words of HTTP.
async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer.ends_with(b" 200"))
    };
    let answer = tokio::time::timeout(Duration::from_secs(1), ask).await;
    matches!(answer, Ok(Ok(true)))
}

// === addresses ===

/// Where everything listens, for as long as the cluster runs.
struct Addresses {
    nodes: Vec<SocketAddr>,
    /// OpAMP, API.
    gateways: Vec<(SocketAddr, SocketAddr)>,
}

impl Addresses {
    /// Free ones of loopback.
    fn of(args: &LocalClusterArgs) -> anyhow::Result<Self> {
        // All are held until all are found, so that none is found twice.
        let mut held = Vec::new();
        let mut free = || -> anyhow::Result<SocketAddr> {
            let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
            let address = listener.local_addr()?;
            held.push(listener);
            Ok(address)
        };
        Ok(Addresses {
            nodes: (0..args.nodes).map(|_| free()).collect::<Result<_, _>>()?,
            gateways: (0..args.gateways)
                .map(|_| Ok((free()?, free()?)))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    fn programs(&self, args: &LocalClusterArgs) -> anyhow::Result<Vec<Program>> {
        let dir = &args.data_dir;
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        let founders: Vec<String> = (1..)
            .zip(&nodes)
            .map(|(id, address)| format!("{id}={address}"))
            .collect();
        let authority = args
            .certificates
            .then(|| Certificates::make(dir))
            .transpose()?;
        let mut programs = Vec::new();
        for (id, address) in (1..).zip(&self.nodes) {
            let name = format!("node-{id}");
            let mut words = vec![
                "node".to_owned(),
                format!("--cluster={CLUSTER}"),
                format!("--id={id}"),
            ];
            words.push(format!("--listen={address}"));
            words.push(format!("--founders={}", founders.join(",")));
            words.push(format!("--data-dir={}", dir.join(&name).display()));
            let ready = authority.is_none().then_some(*address);
            if let Some(authority) = &authority {
                words.extend(authority.issue(Name::Node(id))?);
            }
            words.extend(args.node_arg.iter().cloned());
            programs.push(Program::start(name, words, dir, ready)?);
        }
        for (n, (opamp, api)) in (1..).zip(&self.gateways) {
            let mut words = vec!["gateway".to_owned(), format!("--cluster={CLUSTER}")];
            words.push(format!("--nodes={}", nodes.join(",")));
            words.push(format!("--opamp-listen={opamp}"));
            words.push(format!("--api-listen={api}"));
            if let Some(authority) = &authority {
                words.extend(authority.issue(Name::Gateway)?);
            }
            words.extend(args.gateway_arg.iter().cloned());
            // Over TLS, for those who ask for it, nobody here speaks.
            let plain = !args
                .gateway_arg
                .iter()
                .any(|option| option.starts_with("--tls-cert"));
            programs.push(Program::start(
                format!("gateway-{n}"),
                words,
                dir,
                plain.then_some(*api),
            )?);
        }
        Ok(programs)
    }

    fn describe(&self, programs: &[Program]) -> Described {
        let (nodes, gateways) = programs.split_at(self.nodes.len());
        let node = |((id, address), program): ((u64, &SocketAddr), &Program)| DescribedNode {
            id,
            pid: program.pid(),
            addr: address.to_string(),
        };
        let gateway =
            |((opamp, api), program): (&(SocketAddr, SocketAddr), &Program)| DescribedGateway {
                pid: program.pid(),
                opamp: opamp.to_string(),
                api: api.to_string(),
            };
        Described {
            nodes: (1..).zip(&self.nodes).zip(nodes).map(node).collect(),
            gateways: self.gateways.iter().zip(gateways).map(gateway).collect(),
        }
    }
}

/// The authority of a local cluster, and where what it has issued lies.
struct Certificates {
    authority: Authority,
    dir: PathBuf,
}

impl Certificates {
    fn make(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.join("certificates");
        private_dir(&dir)?;
        let authority = match Authority::read(&dir, CLUSTER) {
            Ok(authority) => authority,
            Err(_) => {
                let authority = Authority::new(CLUSTER, LIFE)?;
                authority.write(&dir)?;
                authority
            }
        };
        Ok(Certificates { authority, dir })
    }

    /// The options of who has this name.
    fn issue(&self, name: Name) -> anyhow::Result<[String; 3]> {
        let issued = self.authority.issue(name, LIFE)?;
        let dir = self.dir.join(name.to_string());
        private_dir(&dir)?;
        let (certificate, key) = issued.write(&dir, name)?;
        Ok([
            format!("--peer-cert={}", certificate.display()),
            format!("--peer-key={}", key.display()),
            format!("--peer-ca={}", dir.join("ca.pem").display()),
        ])
    }
}

impl Described {
    /// At once: whoever reads it finds the old one or the new one.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, text + "\n")
            .and_then(|()| std::fs::rename(&beside, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

// === impl Program ===

impl Program {
    fn start(
        name: String,
        args: Vec<String>,
        dir: &Path,
        ready: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let child = spawn(&args, &log).with_context(|| format!("cannot start {name}"))?;
        Ok(Program {
            name,
            args,
            log,
            ready,
            child,
            started: tokio::time::Instant::now(),
            pause: AGAIN,
        })
    }

    /// 0 once it has ended.
    fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    async fn restart(&mut self, status: ExitStatus) -> anyhow::Result<()> {
        let soon = self.started.elapsed() < SOON;
        self.pause = if soon {
            (self.pause * 2).min(AGAIN_MAX)
        } else {
            AGAIN
        };
        tracing::warn!(process = self.name, %status, log = %self.log.display(), "it has ended and is started again");
        tokio::time::sleep(self.pause).await;
        self.child =
            spawn(&self.args, &self.log).with_context(|| format!("cannot start {}", self.name))?;
        self.started = tokio::time::Instant::now();
        Ok(())
    }

    fn terminate(&self) {
        let pid = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

fn spawn(args: &[String], log: &Path) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let program = std::env::current_exe().context("the path of this program")?;
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .env(ENDS_WITH_PARENT, "1")
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts read it: nothing of it is ever renamed or removed.
    #[test]
    fn cluster_json_is_frozen() {
        let described = Described {
            nodes: vec![DescribedNode {
                id: 1,
                pid: 100,
                addr: "127.0.0.1:5001".to_owned(),
            }],
            gateways: vec![DescribedGateway {
                pid: 200,
                opamp: "127.0.0.1:4320".to_owned(),
                api: "127.0.0.1:4321".to_owned(),
            }],
        };
        assert_eq!(
            serde_json::to_string(&described).unwrap(),
            r#"{"nodes":[{"id":1,"pid":100,"addr":"127.0.0.1:5001"}],"gateways":[{"pid":200,"opamp":"127.0.0.1:4320","api":"127.0.0.1:4321"}]}"#
        );
    }
}
