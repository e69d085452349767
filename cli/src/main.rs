//! The `muster` binary: the control plane (`serve`) and the commands of its operators.
//!
//! Here: parse, dispatch, and the exit code. What a command does is in `operator`, how an answer looks in `render`.

mod args;
mod exit;
mod observe;
mod operator;
mod render;
mod server;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::{Code, Failure};
use server::{gateway, local_cluster, node, restore, serve};

/// Gives memory back to the system, which glibc's does not after a storm of registrations.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli {
        connection,
        command,
    } = Cli::parse();
    let ended = match command {
        Command::Serve(args) => run_server(serve::run(*args)),
        Command::Node(args) => run_server(node::run(*args)),
        Command::Gateway(args) => run_server(gateway::run(*args)),
        Command::LocalCluster(args) => run_server(local_cluster::run(*args)),
        Command::Restore(args) => run_server(restore::run(*args)),
        Command::Operator(command) => {
            runtime(false).and_then(|runtime| runtime.block_on(operator::run(command, &connection)))
        }
    };
    match ended {
        Ok(()) => Code::Ok.into(),
        Err(failure) => failure.report().into(),
    }
}

fn run_server(server: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failure> {
    runtime(true).and_then(|runtime| runtime.block_on(server).map_err(Failure::from))
}

/// Many threads for the server; one is enough for a command.
fn runtime(server: bool) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = if server {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Failed, format!("cannot start the async runtime: {e}")))
}
