//! `muster tokens`: what agents enrol with and operators speak with.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, talk};
use crate::render::admin as render;

const CREATE_EXAMPLES: &str = "\
The secret is printed once, alone, on stdout; the server keeps a hash of it.

Examples:
  muster tokens create prod-edge --label env=prod --label role=agent --expires-in 90d > token
  muster tokens create ci --kind operator --role editor";

#[derive(Subcommand)]
pub enum Command {
    /// Make a token and print its secret, once
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// Name to list and revoke it by
        name: String,
        /// Who will use it
        #[arg(long, value_enum, default_value_t = Kind::Agent)]
        kind: Kind,
        /// KEY=VALUE bound to every agent that enrols with it; may be given several times
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
        labels: Vec<(String, String)>,
        /// How long it is good for: 12h, 90d [default: for ever]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        /// What an operator may do: viewer, editor, approver, admin
        #[arg(long, value_enum, required_if_eq("kind", "operator"))]
        role: Option<Role>,
    },
    /// List tokens, without their secrets
    #[command(visible_alias = "ls", after_help = "Example:\n  muster tokens list")]
    List,
    /// Make a token useless from now on
    #[command(after_help = "Example:\n  muster tokens revoke prod-edge")]
    Revoke {
        /// Name of the token
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Agent,
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Viewer,
    Editor,
    Approver,
    Admin,
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::Create {
            name,
            kind,
            labels,
            expires_in,
            role,
        } => {
            let request = request(name, kind, labels, expires_in, role)?;
            let doing = format!("create token {}", request.name);
            let answer = client
                .call(&doing, async || {
                    client.admin().create_token(request.clone()).await
                })
                .await?;
            talk(format_args!(
                "token {} created; its secret is not shown again",
                request.name
            ));
            out.show(&answer, |answer, _| answer.secret.clone())
        }
        Command::List => {
            let answer = client
                .call("list tokens", async || {
                    client.admin().list_tokens(api::ListTokensRequest {}).await
                })
                .await?;
            out.show(&answer, render::tokens)
        }
        Command::Revoke { name } => {
            let doing = format!("revoke token {name}");
            let request = api::RevokeTokenRequest {
                name,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.admin().revoke_token(request.clone()).await
                })
                .await?;
            out.show(&answer, |token, _| format!("token {} revoked", token.name))
        }
    }
}

fn request(
    name: String,
    kind: Kind,
    labels: Vec<(String, String)>,
    expires_in: Option<Duration>,
    role: Option<Role>,
) -> Result<api::CreateTokenRequest, Failure> {
    if kind == Kind::Operator && !labels.is_empty() {
        return Err(Failure::usage(
            "labels are bound to agents; an operator token has none",
        ));
    }
    if kind == Kind::Agent && role.is_some() {
        return Err(
            Failure::usage("a role is what an operator may do; an agent token has none")
                .hint("give --kind operator"),
        );
    }
    Ok(api::CreateTokenRequest {
        name,
        kind: word(kind),
        labels: BTreeMap::from_iter(labels),
        // Zero means for ever, so the shortest life is a second.
        expires_in_s: expires_in.map_or(0, |expires| expires.as_secs().max(1)),
        idempotency_key: idempotency_key(),
        role: role.map(word).unwrap_or_default(),
    })
}

fn word(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_token_carries_its_labels_and_life() {
        let labels = vec![key_value("env=prod").unwrap()];
        let request = request(
            "t".into(),
            Kind::Agent,
            labels,
            Some(Duration::from_secs(60)),
            None,
        )
        .unwrap();
        assert_eq!(
            (
                request.kind.as_str(),
                request.expires_in_s,
                request.role.as_str()
            ),
            ("agent", 60, "")
        );
        assert_eq!(request.labels["env"], "prod");
    }

    #[test]
    fn labels_of_an_operator_and_role_of_an_agent_are_refused() {
        assert!(
            request(
                "t".into(),
                Kind::Operator,
                vec![("a".into(), "b".into())],
                None,
                Some(Role::Admin)
            )
            .is_err()
        );
        assert!(request("t".into(), Kind::Agent, vec![], None, Some(Role::Admin)).is_err());
    }
}
