//! Who may speak, by the tokens that the control group keeps.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use gateway::{Access, Denied, Operator, Role};
use node::Node;
use node::api::admin::new_secret;
use node::api::{Actor, Role as Allowed};
use node::control::Control;
use node::ledger::{act, entry, now_ms, put, table};
use proto::store;
use proto::token::secret_hash;

/// Name of the token that is made at the first start with --require-tokens.
const FIRST: &str = "first-admin";

/// Tokens of the control group.
#[derive(Clone)]
pub struct Tokens {
    control: Control,
    required: bool,
}

impl Tokens {
    /// `required`: nobody speaks without one.
    pub fn new(control: Control, required: bool) -> Self {
        Tokens { control, required }
    }

    fn find(&self, kind: &str, bearer: &str) -> Option<Arc<store::Token>> {
        let hash = secret_hash(bearer);
        let documents = self.control.read();
        // The hash of a secret is no secret to the one who knows the secret; comparing it leaks nothing of another.
        let found = documents
            .tokens
            .values()
            .find(|t| t.value.secret_hash == hash)?;
        let token = found.value.clone();
        (is_valid(&token) && token.kind == kind).then_some(token)
    }
}

impl Access for Tokens {
    fn agent(&self, bearer: Option<&str>) -> Result<String, Denied> {
        match bearer {
            Some(bearer) => self
                .find("agent", bearer)
                .map(|t| t.name.clone())
                .ok_or(Denied),
            None if self.required => Err(Denied),
            None => Ok(String::new()),
        }
    }

    fn operator(&self, bearer: Option<&str>) -> Result<Operator, Denied> {
        let token = bearer
            .and_then(|bearer| self.find("operator", bearer))
            .ok_or(Denied)?;
        Ok(Operator {
            name: token.name.clone(),
            role: Role::named(&token.role),
        })
    }

    fn tokens_required(&self) -> bool {
        self.required
    }
}

fn is_valid(token: &store::Token) -> bool {
    token.revoked_ms == 0 && (token.expires_ms == 0 || token.expires_ms > now_ms())
}

/// Tells the services who calls, in their words.
pub async fn name_actor(mut request: axum::extract::Request) -> axum::extract::Request {
    if let Some(operator) = request.extensions().get::<Operator>().cloned() {
        let role = match operator.role {
            Role::Viewer => Allowed::Viewer,
            Role::Editor => Allowed::Editor,
            Role::Approver => Allowed::Approver,
            Role::Admin => Allowed::Admin,
        };
        request.extensions_mut().insert(Actor {
            name: operator.name,
            role,
        });
    }
    request
}

/// Makes the first admin token where there is no valid one, and writes its secret where only the owner can read it.
pub async fn first_admin(node: &Arc<Node>, data_dir: &Path) -> anyhow::Result<()> {
    let (version, has_admin) = {
        let documents = node.control.read();
        let valid = documents
            .tokens
            .values()
            .any(|t| t.value.role == "admin" && is_valid(&t.value));
        (documents.tokens.get(FIRST).map_or(0, |t| t.version), valid)
    };
    if has_admin {
        return Ok(());
    }
    let secret = new_secret();
    let path = data_dir.join("admin.token");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{secret}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    let token = store::Token {
        name: FIRST.to_owned(),
        secret_hash: secret_hash(&secret).to_vec(),
        kind: "operator".to_owned(),
        role: "admin".to_owned(),
        created_ms: now_ms(),
        created_by: "muster serve".to_owned(),
        ..store::Token::default()
    };
    let acts = vec![act(
        "muster serve",
        "token.create",
        format!("token/{FIRST}"),
        "first admin".to_owned(),
    )];
    node.control_ledger
        .propose(entry(vec![put(table::TOKEN, FIRST, version, &token)], acts))
        .await?;
    tracing::info!(file = %path.display(), "the first admin token was written; use it with --token-file");
    Ok(())
}
