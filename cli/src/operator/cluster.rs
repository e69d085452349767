//! `muster cluster`: is it healthy, and what is it waiting for.

use clap::Subcommand;
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, confirm, talk};
use crate::render::Look;
use crate::render::cluster as render;
use crate::render::text::plural;

#[derive(Subcommand)]
pub enum Command {
    /// Is the cluster healthy, and what is it waiting for
    #[command(
        after_help = "Examples:\n  muster cluster status\n  muster cluster status -o wide   with every group's replicas"
    )]
    Status,
    /// Show what would be moved so that every group is where it should be. Nothing happens
    #[command(after_help = "Example:\n  muster cluster plan")]
    Plan,
    /// Move it, one step at a time. Ctrl-C stops after the step under way; calling it again goes on
    #[command(
        after_help = "Examples:\n  muster cluster apply\n  muster cluster apply --plan 0f3a91c2d4e5 --yes"
    )]
    Apply {
        /// Exactly the plan that was shown, by its id
        #[arg(long, value_name = "ID")]
        plan: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// A node leaves for good: the next plan moves everything off it. Its number is never used again
    #[command(
        after_help = "Example:\n  muster cluster remove 2 --reason 'its disk is broken'\n  muster cluster apply"
    )]
    Remove {
        /// Number of the node
        node: u64,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::Status => {
            let answer = client
                .call("look at the cluster", async || {
                    client
                        .cluster()
                        .get_cluster(api::GetClusterRequest {})
                        .await
                })
                .await?;
            out.show(&answer, render::status)
        }
        Command::Plan => out.show(&plan(client).await?, render::plan),
        Command::Apply { plan: id, yes } => apply(id, yes, client, out).await,
        Command::Remove { node, reason, yes } => {
            confirm(
                yes,
                &format!("Remove node {node} from the cluster for good?"),
            )?;
            let request = api::RemoveNodeRequest {
                node,
                reason,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&format!("remove node {node}"), async || {
                    client.cluster().remove_node(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, _| render::removed(node, answer))
        }
    }
}

async fn plan(client: &Client) -> Result<api::ClusterPlan, Failure> {
    client
        .call("plan the cluster", async || {
            client
                .cluster()
                .plan_cluster(api::PlanClusterRequest {})
                .await
        })
        .await
}

async fn apply(id: Option<String>, yes: bool, client: &Client, out: Output) -> Result<(), Failure> {
    let shown = plan(client).await?;
    if shown.steps.is_empty() {
        return out.show(&shown, render::plan);
    }
    if !yes {
        talk(render::plan(&shown, &Look::default()).trim_end());
    }
    confirm(
        yes,
        &format!("Take {}?", plural(shown.steps.len() as u64, "step")),
    )?;
    let request = api::ApplyPlanRequest {
        plan: id.unwrap_or(shown.id),
    };
    let failed = |status: &tonic::Status| client.failure("apply the plan", status);
    let stream = client.cluster().apply_plan(request).await;
    let mut stream = stream.map_err(|status| failed(&status))?.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(progress)) => talk(render::progress(&progress)),
            Ok(None) => return out.text("done\n"),
            Err(status) => return Err(failed(&status)),
        }
    }
}
