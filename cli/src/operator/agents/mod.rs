//! `muster agents`: the fleet as it is, and the few things one does to single agents.

mod acts;
mod args;
mod orders;

use indicatif::{ProgressBar, ProgressStyle};
use proto::api;

use crate::exit::Failure;
use crate::operator::client::Client;
use crate::operator::names;
use crate::operator::output::{Output, now_ms, talk};
use crate::render::agent::{Part, detail, history, why};
use crate::render::agents as render;
use crate::render::at as render_at;
use crate::render::groups;
use crate::render::names::Names;
use crate::render::text::{clean, timestamp};
pub use args::Command;
use args::{AtArgs, CountArgs, GetArgs, ListArgs};

/// Agents of one page; the most the API gives.
const PAGE: u32 = 1000;
/// Agents a person is shown unless `--limit` says otherwise. Programs get all.
const SHOWN: u64 = 500;

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args, client, out).await,
        Command::Get(args) => get(args, client, out).await,
        Command::History { agent, limit } => {
            let request = api::AgentHistoryRequest {
                uid: uid(client, &agent).await?,
                limit,
            };
            let doing = format!("read the history of agent {agent}");
            let answer = client
                .call(&doing, async || {
                    client.agents().agent_history(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, look| history(&answer.transitions, look))
        }
        Command::Label { items, selector } => acts::label(items, selector, client, out).await,
        Command::Restart(chosen) => acts::restart(chosen, client, out).await,
        Command::Forget { agents } => acts::forget(&agents, client, out).await,
        Command::Retry(chosen) => acts::retry(chosen, client, out).await,
        Command::Owner(args) => orders::owner(args, client, out).await,
        Command::Stop(args) => orders::stop(args, client, out).await,
        Command::Start(args) => orders::start(args, client, out).await,
        Command::At(args) => at(args, client, out).await,
        Command::Errors { selector } => {
            let request = api::ListErrorsRequest { selector };
            let answer = client
                .call("list errors", async || {
                    client.agents().list_errors(request.clone()).await
                })
                .await?;
            let mut known = Names::default();
            if !out.for_programs() {
                names::learn(&mut known, groups::examples(&answer), client).await;
            }
            out.show_named(&answer, known, groups::errors)
        }
        Command::Count(CountArgs {
            by,
            selector,
            text,
            state,
        }) => {
            let request = api::GroupAgentsRequest {
                selector,
                text,
                by,
                state,
            };
            let answer = client
                .call("count agents", async || {
                    client.agents().group_agents(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, _| groups::counts(answer, &request.by))?;
            if !out.for_programs() && groups::without_values(&answer) {
                let key = clean(&request.by);
                talk(format_args!(
                    "no agent has `{key}`; `muster agents get AGENT` shows the keys it has"
                ));
            }
            Ok(())
        }
    }
}

async fn list(args: ListArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let limit = match args
        .limit
        .unwrap_or(if out.for_programs() { 0 } else { SHOWN })
    {
        0 => u64::MAX,
        limit => limit,
    };
    let ListArgs {
        selector,
        text,
        sort,
        state,
        rollout,
        bucket,
        limit: _,
    } = args;
    let narrowed = [&selector, &text, &state, &rollout]
        .iter()
        .any(|by| !by.is_empty());
    let page_size = u32::try_from(limit.min(PAGE.into())).unwrap_or(PAGE);
    let mut request = api::ListAgentsRequest {
        selector,
        text,
        sort,
        page_size,
        page_token: String::new(),
        state,
        rollout,
        bucket,
    };
    let mut all = api::ListAgentsResponse::default();
    let bar = pages();
    loop {
        let page = client
            .call("list agents", async || {
                client.agents().list_agents(request.clone()).await
            })
            .await?;
        all.total = page.total;
        all.unreadable_partitions = all.unreadable_partitions.max(page.unreadable_partitions);
        all.agents.extend(page.agents);
        let read = u64::try_from(all.agents.len()).unwrap_or(u64::MAX);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || read >= limit {
            break;
        }
        bar.set_length(all.total.min(limit));
        bar.set_position(read);
    }
    bar.finish_and_clear();
    all.agents
        .truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    all.next_page_token.clear();
    out.show(&all, |all, look| {
        if all.agents.is_empty() {
            render::none(narrowed).to_owned()
        } else {
            render::list(all, look)
        }
    })?;
    if let Some(note) = render::list_note(&all) {
        talk(note);
    }
    Ok(())
}

/// Shown from the second page on; one page takes no time.
fn pages() -> ProgressBar {
    let style = ProgressStyle::with_template("reading agents {bar:30} {pos}/{len}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

async fn get(args: GetArgs, client: &Client, out: Output) -> Result<(), Failure> {
    if let Some(family) = &args.why {
        let answer = read_why(client, &args.agent, family).await?;
        return out.show(&answer, |answer, _| why(answer));
    }
    let answer = read(client, &args.agent).await?;
    let part = match (args.effective, args.config) {
        (true, _) => Part::Effective,
        (_, true) => Part::Delivered,
        _ => Part::All,
    };
    out.show(&answer, |answer, look| detail(answer, part, look))
}

async fn at(args: AtArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let now_ms = now_ms();
    let at_ms = args.time.at_ms(now_ms);
    if at_ms > now_ms {
        return Err(
            Failure::usage(format!("{} has not come yet", timestamp(at_ms)))
                .hint("times are UTC; name a date for another day: 2026-09-01T14:02:00Z"),
        );
    }
    let request = api::AgentsAtRequest {
        uids: acts::uids(client, &args.agents).await?,
        selector: args.selector,
        at_ms,
    };
    let answer = client
        .call("read what ran on agents", async || {
            client.agents().agents_at(request.clone()).await
        })
        .await?;
    out.show(&answer, render_at::at)?;
    if let Some(note) = render_at::note(&answer) {
        talk(note);
    }
    Ok(())
}

/// The uid of an agent that is named by a prefix or a name; a whole uid is taken as it is.
async fn uid(client: &Client, agent: &str) -> Result<String, Failure> {
    match uuid::Uuid::try_parse(agent) {
        Ok(uid) => Ok(uid.hyphenated().to_string()),
        Err(_) => Ok(read(client, agent).await?.agent.unwrap_or_default().uid),
    }
}

async fn read(client: &Client, agent: &str) -> Result<api::AgentDetail, Failure> {
    read_why(client, agent, "").await
}

async fn read_why(client: &Client, agent: &str, family: &str) -> Result<api::AgentDetail, Failure> {
    let request = api::GetAgentRequest {
        uid: agent.to_owned(),
        why: family.to_owned(),
    };
    client
        .call(&format!("read agent {agent}"), async || {
            client.agents().get_agent(request.clone()).await
        })
        .await
}
