//! `muster plans`: how rollouts may go.

use clap::Subcommand;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::Client;
use crate::operator::output::Output;
use crate::render::plans as render;

#[derive(Subcommand)]
pub enum Command {
    /// List plans: waves, and what happens when one is stopped
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  muster plans list\n  muster plans list -o wide"
    )]
    List,
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    let Command::List = command;
    let answer = client
        .call("list plans", async || {
            client.families().list_plans(api::ListPlansRequest {}).await
        })
        .await?;
    out.show(&answer, render::plans)
}
