//! `muster sources` and `muster adopt`: which repositories own families and plans, and what they may do.

use clap::{Args, Subcommand};
use proto::api;

use crate::exit::Failure;
use crate::operator::client::{Client, idempotency_key};
use crate::operator::output::{Output, confirm};
use crate::render::text::clean;
use crate::render::{applied, sources as render};

const ADOPT_EXAMPLES: &str = "\
What a source owns is changed there, by `muster apply -f DIR --source NAME`, and no longer by hand.
Nothing is delivered by handing over.

Examples:
  muster adopt pii-redaction web --source platform-git
  muster adopt pii-redaction plan/careful --source platform-git
  muster adopt pii-redaction --to-api";

#[derive(Subcommand)]
pub enum Command {
    /// List sources with what they own
    #[command(visible_alias = "ls", after_help = "Example:\n  muster sources list")]
    List,
    /// Say whether a source may activate what it writes
    #[command(
        after_help = "Examples:\n  muster sources set platform-git --plan careful\n  muster sources set platform-git --drafts-only"
    )]
    Set(SetArgs),
    /// Delete a source that owns nothing, or hand what it owns to commands, scripts and console
    #[command(
        after_help = "Families, plans and budget stay as they are, and agents keep what they run.\n\nExamples:\n  muster sources delete platform-git\n  muster sources delete platform-git --orphan --yes"
    )]
    Delete(DeleteArgs),
}

#[derive(Args)]
pub struct DeleteArgs {
    /// Name of the source
    name: String,
    /// What it owns is changed by commands, scripts and console from now on
    #[arg(long)]
    orphan: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Args)]
pub struct SetArgs {
    /// Name of the source
    name: String,
    /// It may start rollouts of what it writes, with this plan
    #[arg(
        long,
        required_unless_present = "drafts_only",
        conflicts_with = "drafts_only",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    plan: Option<String>,
    /// It writes drafts, and people start rollouts
    #[arg(long)]
    drafts_only: bool,
}

#[derive(Args)]
#[command(after_help = ADOPT_EXAMPLES)]
pub struct AdoptArgs {
    /// Families, plans as plan/NAME, and the budget as budget/fleet
    #[arg(required = true, value_name = "FAMILY|plan/PLAN")]
    objects: Vec<String>,
    /// Source that is to own them
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "to_api",
        conflicts_with = "to_api",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    source: Option<String>,
    /// Back to commands, scripts and console
    #[arg(long)]
    to_api: bool,
}

/// Runs one of them.
pub async fn run(command: Command, client: &Client, out: Output) -> Result<(), Failure> {
    match command {
        Command::List => {
            let answer = client
                .call("list sources", async || {
                    client
                        .families()
                        .list_sources(api::ListSourcesRequest {})
                        .await
                })
                .await?;
            out.show(&answer, render::sources)
        }
        Command::Set(SetArgs {
            name,
            plan,
            drafts_only: _,
        }) => {
            let doing = format!("set source {name}");
            let request = api::SetSourceRequest {
                name,
                plan: plan.unwrap_or_default(),
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.families().set_source(request.clone()).await
                })
                .await?;
            out.show(&answer, |answer, _| render::set(answer))
        }
        Command::Delete(DeleteArgs { name, orphan, yes }) => {
            let question = match orphan {
                true => format!("Delete source {} and take over what it owns?", clean(&name)),
                false => format!("Delete source {}?", clean(&name)),
            };
            confirm(yes, &question)?;
            let doing = format!("delete source {name}");
            let request = api::DeleteSourceRequest {
                name,
                orphan,
                idempotency_key: idempotency_key(),
            };
            let answer = client
                .call(&doing, async || {
                    client.families().delete_source(request.clone()).await
                })
                .await?;
            out.show(&answer, applied::applied)
        }
    }
}

/// Hands families and plans over.
pub async fn adopt(args: AdoptArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let request = request(args)?;
    let answer = client
        .call("hand over", async || {
            client.families().adopt(request.clone()).await
        })
        .await?;
    out.show(&answer, applied::applied)
}

/// Objects are named as `apply` prints them; what has no kind is a family.
fn request(args: AdoptArgs) -> Result<api::AdoptRequest, Failure> {
    let mut request = api::AdoptRequest {
        source: args.source.unwrap_or_default(),
        idempotency_key: idempotency_key(),
        ..Default::default()
    };
    for object in args.objects {
        match object.split_once('/') {
            None => request.families.push(object),
            Some(("family", name)) => request.families.push(name.to_owned()),
            Some(("plan", name)) => request.plans.push(name.to_owned()),
            Some(("budget", "fleet")) => request.budget = true,
            Some((kind, _)) => {
                return Err(Failure::usage(format!(
                    "`{object}`: no {kind} can be handed over, only families, plans and budget/fleet"
                ))
                .hint("name a family by its name, and a plan as plan/NAME"));
            }
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::exit::Code;

    #[derive(Parser)]
    struct Adopt {
        #[command(flatten)]
        args: AdoptArgs,
    }

    #[derive(Parser)]
    struct Set {
        #[command(flatten)]
        args: SetArgs,
    }

    fn adopt(line: &str) -> Option<AdoptArgs> {
        let line = format!("adopt {line}");
        Some(Adopt::try_parse_from(line.split_whitespace()).ok()?.args)
    }

    #[test]
    fn objects_are_named_as_apply_prints_them() {
        let asked = request(adopt("web family/pii plan/careful --source git").unwrap()).unwrap();
        assert_eq!(asked.families, ["web", "pii"]);
        assert_eq!(
            (asked.plans, asked.source),
            (vec!["careful".to_owned()], "git".to_owned())
        );
        assert_eq!(request(adopt("web --to-api").unwrap()).unwrap().source, "");
        let all = request(adopt("budget/fleet --source git").unwrap()).unwrap();
        assert!(all.budget && all.families.is_empty());
        let refused = request(adopt("budget/zone --to-api").unwrap()).unwrap_err();
        assert_eq!(refused.code(), Code::Usage);
    }

    #[test]
    fn handing_over_says_what_and_to_whom() {
        for refused in ["web", "--source git", "web --source git --to-api"] {
            assert!(adopt(refused).is_none(), "{refused}");
        }
    }

    #[test]
    fn source_has_a_plan_or_writes_drafts() {
        for (line, good) in [
            ("git", false),
            ("git --plan careful", true),
            ("git --drafts-only", true),
            ("git --plan careful --drafts-only", false),
            ("git --plan=", false),
        ] {
            let line = format!("set {line}");
            let parsed = Set::try_parse_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), good, "{line}");
        }
    }
}
