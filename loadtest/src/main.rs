//! `muster-loadtest`: simulated supervisors from the command line.

mod cli;
mod run;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use muster_loadtest::bench::{self, Outcome, Plan, bare::BareServer};

use cli::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let outcome = match Cli::parse().command {
        Command::Run(args) => Box::pin(run::run(*args)).await,
        Command::BenchIdle(args) => bench(args.plan(), bench::idle).await,
        Command::BenchRegister(args) => bench(args.plan(), bench::register).await,
        Command::BenchChange(args) => bench(args.plan(), bench::change).await,
        Command::BareServer {
            listen,
            allow_remote,
        } => bare(listen, allow_remote).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench<F>(plan: anyhow::Result<Plan>, measure: impl FnOnce(Plan) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<Outcome, bench::Error>>,
{
    eprintln!("pid {}", std::process::id());
    let outcome = Box::pin(measure(plan?)).await?;
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    Ok(())
}

async fn bare(listen: std::net::SocketAddr, allow_remote: bool) -> anyhow::Result<()> {
    if !listen.ip().is_loopback() && !allow_remote {
        anyhow::bail!(
            "{listen} can be reached from other machines; say --allow-remote if that is meant"
        );
    }
    let server = BareServer::bind(listen)
        .await
        .with_context(|| format!("could not listen on {listen}"))?;
    eprintln!("pid {}", std::process::id());
    println!("listening on {}", server.address);
    tokio::select! {
        () = server.run() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
