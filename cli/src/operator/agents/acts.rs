//! What one does to agents: label, restart, forget, retry.
//!
//! The API wants uids where it changes something, so names are resolved first. A selector that moves collectors is
//! asked about, with the number of agents it matches.

use std::collections::BTreeMap;

use proto::api;

use super::args::Chosen;
use super::uid;
use crate::exit::{Code, Failure};
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, confirm, talk};
use crate::render::text::{clean, plural};

pub async fn label(
    items: Vec<String>,
    selector: Option<String>,
    client: &Client,
    out: Output,
) -> Result<(), Failure> {
    let (agents, set, remove) = labels(items);
    if set.is_empty() && remove.is_empty() {
        return Err(Failure::usage("no label to set or remove").hint("give KEY=VALUE or KEY-"));
    }
    if agents.is_empty() == selector.is_none() {
        return Err(Failure::usage(
            "either agents by name or --selector is needed, and not both",
        ));
    }
    let request = api::LabelAgentsRequest {
        uids: uids(client, &agents).await?,
        selector: selector.unwrap_or_default(),
        set,
        remove,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call("label agents", async || {
            client.agents().label_agents(request.clone()).await
        })
        .await?;
    changed(&answer, "labelled", out)
}

pub async fn restart(chosen: Chosen, client: &Client, out: Output) -> Result<(), Failure> {
    let (uids, selector) = choose(chosen, "Restart the collectors of", client).await?;
    let request = api::RestartAgentsRequest {
        uids,
        selector,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call("restart agents", async || {
            client.agents().restart_agents(request.clone()).await
        })
        .await?;
    changed(&answer, "ordered to restart:", out)
}

pub async fn retry(chosen: Chosen, client: &Client, out: Output) -> Result<(), Failure> {
    let (uids, selector) = choose(
        chosen,
        "Offer again what was refused or not answered to, and end conflicts",
        client,
    )
    .await?;
    let request = api::RetryAgentsRequest {
        uids,
        selector,
        idempotency_key: idempotency_key(),
    };
    let answer = client
        .call("retry agents", async || {
            client.agents().retry_agents(request.clone()).await
        })
        .await?;
    changed(&answer, "to be offered again:", out)?;
    if answer.changed == 0 && !out.for_programs() {
        talk(
            "none of them refused a config, left one unanswered, is marked duplicate or is a conflict",
        );
    }
    Ok(())
}

pub async fn forget(agents: &[String], client: &Client, out: Output) -> Result<(), Failure> {
    let mut sum = api::ChangedAgents::default();
    for uid in uids(client, agents).await? {
        let request = api::ForgetAgentRequest {
            uid,
            idempotency_key: idempotency_key(),
        };
        let doing = format!("forget agent {}", request.uid);
        let answer = client
            .call(&doing, async || {
                client.agents().forget_agent(request.clone()).await
            })
            .await?;
        sum.changed += answer.changed;
        sum.refused.extend(answer.refused);
    }
    changed(&sum, "forgotten:", out)
}

/// The agents that were chosen: by uid, or by a selector that was agreed to.
pub async fn choose(
    chosen: Chosen,
    act: &str,
    client: &Client,
) -> Result<(Vec<String>, String), Failure> {
    let asks = chosen.selector.is_some() && !chosen.yes;
    let (uids, selector) = resolve(&chosen, client).await?;
    if asks {
        let agents = how_many(&uids, &selector, client).await?;
        confirm(false, &format!("{act} {agents}?"))?;
    }
    Ok((uids, selector))
}

/// The same, where nothing is asked here.
pub async fn resolve(chosen: &Chosen, client: &Client) -> Result<(Vec<String>, String), Failure> {
    let Some(selector) = &chosen.selector else {
        return Ok((uids(client, &chosen.agents).await?, String::new()));
    };
    if selector.trim().is_empty() {
        return Err(Failure::usage("an empty selector matches every agent")
            .hint("name a key, for example -l service.name"));
    }
    Ok((Vec::new(), selector.clone()))
}

/// `12 agents in `env = lab``, for a question.
pub async fn how_many(uids: &[String], selector: &str, client: &Client) -> Result<String, Failure> {
    if selector.is_empty() {
        return Ok(plural(uids.len() as u64, "agent"));
    }
    let request = api::ListAgentsRequest {
        selector: selector.to_owned(),
        page_size: 1,
        ..Default::default()
    };
    let answer = client
        .call("count agents", async || {
            client.agents().list_agents(request.clone()).await
        })
        .await?;
    let agents = plural(answer.total, "agent");
    Ok(format!("{agents} in `{}`", clean(selector)))
}

/// Prints how many were changed; those that were left as they are fail the command.
pub fn changed(answer: &api::ChangedAgents, done: &str, out: Output) -> Result<(), Failure> {
    out.show(answer, |answer, _| told(answer, done))?;
    if answer.refused.is_empty() {
        return Ok(());
    }
    let why: Vec<String> = answer.refused.iter().map(|line| clean(line)).collect();
    Err(Failure::new(
        Code::Failed,
        format!("left as they are: {}", plural(why.len() as u64, "agent")),
    )
    .hint(why.join("\n")))
}

/// How many were changed, and what was decided of them.
fn told(answer: &api::ChangedAgents, done: &str) -> String {
    let mut lines = vec![format!("{done} {}", plural(answer.changed, "agent"))];
    let decided = answer.decided.iter();
    lines.extend(decided.map(|d| format!("  {}: {}", plural(d.agents, "agent"), clean(&d.what))));
    lines.join("\n")
}

/// The uids of agents that are named by a prefix or a name.
pub async fn uids(client: &Client, agents: &[String]) -> Result<Vec<String>, Failure> {
    let mut uids = Vec::with_capacity(agents.len());
    for agent in agents {
        uids.push(uid(client, agent).await?);
    }
    Ok(uids)
}

type Labels = (Vec<String>, BTreeMap<String, String>, Vec<String>);

fn labels(items: Vec<String>) -> Labels {
    let (mut agents, mut set, mut remove) = Labels::default();
    for item in items {
        match (item.split_once('='), item.strip_suffix('-')) {
            (Some((key, value)), _) => drop(set.insert(key.to_owned(), value.to_owned())),
            (None, Some(key)) => remove.push(key.to_owned()),
            (None, None) => agents.push(item),
        }
    }
    (agents, set, remove)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_sets_a_trailing_dash_removes_and_the_rest_are_agents() {
        let (agents, set, remove) = labels(
            ["web-1", "env=prod", "note=a=b", "old-"]
                .map(str::to_owned)
                .to_vec(),
        );
        assert_eq!(agents, ["web-1"]);
        assert_eq!(
            set,
            BTreeMap::from([("env".into(), "prod".into()), ("note".into(), "a=b".into())])
        );
        assert_eq!(remove, ["old"]);
    }

    #[test]
    fn what_was_decided_of_them_is_told_with_how_many() {
        let decided = |what: &str, agents| api::Decided {
            what: what.into(),
            agents,
        };
        let answer = api::ChangedAgents {
            changed: 3,
            decided: vec![
                decided("goes to edge/agent", 1),
                decided(
                    "what was said of base/agent is taken back; rollout ro-2 takes it over to edge/agent with its wave",
                    2,
                ),
            ],
            ..Default::default()
        };
        assert_eq!(
            told(&answer, "to be let go:"),
            "to be let go: 3 agents\n  1 agent: goes to edge/agent\n  2 agents: what was said of base/agent is taken back; rollout ro-2 takes it over to edge/agent with its wave"
        );
        let none = api::ChangedAgents {
            changed: 1,
            ..Default::default()
        };
        assert_eq!(told(&none, "labelled"), "labelled 1 agent");
    }

    #[test]
    fn agents_left_as_they_are_fail_the_command_with_their_reasons() {
        let answer = api::ChangedAgents {
            changed: 1,
            refused: vec!["u2: not connected".into()],
            ..Default::default()
        };
        let failure = changed(
            &answer,
            "restarted",
            Output::new(crate::operator::output::Format::Json),
        )
        .unwrap_err();
        assert_eq!(failure.code(), Code::Failed);
        assert!(failure.to_string().contains("u2: not connected"));
    }
}
