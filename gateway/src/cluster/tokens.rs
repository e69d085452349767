//! Who may speak, by the tokens that the nodes tell of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::edge;
use proto::token::secret_hash;

use super::Cluster;
use crate::link::{Access, Denied, Operator, Role};

/// By the hash of the secret: whoever finds one knows the secret, so looking it up tells nobody anything.
pub type Valid = HashMap<Vec<u8>, edge::Token>;

/// Asks for tokens, or does not.
#[derive(Clone)]
pub struct Tokens {
    cluster: Arc<Cluster>,
    required: bool,
}

impl Cluster {
    /// Who may speak. `required`: nobody does without a token.
    pub fn access(self: &Arc<Self>, required: bool) -> Tokens {
        Tokens {
            cluster: self.clone(),
            required,
        }
    }

    /// A node has told which tokens are valid: all of them.
    pub(super) fn take_tokens(&self, tokens: edge::Tokens) {
        let by_hash = tokens
            .tokens
            .into_iter()
            .map(|token| (token.secret_hash.to_vec(), token));
        self.tokens.store(Arc::new(by_hash.collect()));
    }
}

impl Tokens {
    fn find(&self, kind: &str, bearer: &str) -> Option<edge::Token> {
        let valid = self.cluster.tokens.load();
        let token = valid.get(secret_hash(bearer).as_slice())?;
        let in_time = token.expires_ms == 0 || token.expires_ms > now_ms();
        (token.kind == kind && in_time).then(|| token.clone())
    }
}

impl Access for Tokens {
    fn agent(&self, bearer: Option<&str>) -> Result<String, Denied> {
        match bearer {
            Some(bearer) => self.find("agent", bearer).map(|t| t.name).ok_or(Denied),
            None if self.required => Err(Denied),
            None => Ok(String::new()),
        }
    }

    fn operator(&self, bearer: Option<&str>) -> Result<Operator, Denied> {
        let found = bearer.and_then(|bearer| self.find("operator", bearer));
        let token = found.ok_or(Denied)?;
        Ok(Operator {
            role: Role::named(&token.role),
            name: token.name,
        })
    }

    fn tokens_required(&self) -> bool {
        self.required
    }
}

/// Ends of tokens are told by the wall clock.
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
