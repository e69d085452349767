//! The `muster` binary: the control plane (`serve`) and the commands of its operators.
//!
//! Here: parse, dispatch, and the exit code. What a command does is in `operator`, how an answer looks in `render`.

mod args;
mod exit;
mod observe;
mod operator;
mod render;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::{Code, Failure};

/// Gives memory back to the system, which glibc's does not after a storm of registrations.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli {
        connection,
        command,
    } = Cli::parse();
    let ended = match command {
        Command::Serve(args) => runtime(true)
            .and_then(|runtime| runtime.block_on(serve::run(*args)).map_err(Failure::from)),
        Command::Operator(command) => {
            runtime(false).and_then(|runtime| runtime.block_on(operator::run(command, &connection)))
        }
    };
    match ended {
        Ok(()) => Code::Ok.into(),
        Err(failure) => failure.report().into(),
    }
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
