//! Who may speak, by the tokens that the nodes tell of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::edge;
use proto::token::secret_hash;

use super::Cluster;
use crate::link::{Access, Denied, Operator, Role};

/// The tokens that are valid, as of the newest list that was told.
#[derive(Default)]
pub struct Valid {
    /// Incarnation of the cluster, and where in its log a token changed last.
    at: (u32, u64),
    /// By the hash of the secret: whoever finds one knows the secret, so looking it up tells nobody anything.
    by_hash: HashMap<Vec<u8>, edge::Token>,
}

impl Valid {
    /// A node has told which tokens are valid: all of them. None: it is behind what is known, as a node is that was cut
    /// off. A node of an older version does not say how far it has come, and is believed.
    fn told(&self, tokens: edge::Tokens) -> Option<Valid> {
        let at = match tokens.changed {
            Some(changed) => (tokens.incarnation, changed),
            None => self.at,
        };
        if at < self.at {
            return None;
        }
        let by_hash = tokens
            .tokens
            .into_iter()
            .map(|token| (token.secret_hash.to_vec(), token))
            .collect();
        Some(Valid { at, by_hash })
    }
}

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

    /// A node has told which tokens are valid. Other lines may be told at the same time: the newest list stays.
    pub(super) fn take_tokens(&self, tokens: &edge::Tokens) {
        self.tokens.rcu(|known| {
            let newer = known.told(tokens.clone());
            newer.map_or_else(|| known.clone(), Arc::new)
        });
    }
}

impl Tokens {
    fn find(&self, kind: &str, bearer: &str) -> Option<edge::Token> {
        let valid = self.cluster.tokens.load();
        let token = valid.by_hash.get(secret_hash(bearer).as_slice())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Valid are the tokens of these names.
    fn list(incarnation: u32, changed: Option<u64>, names: &[&str]) -> edge::Tokens {
        let token = |name: &&str| edge::Token {
            name: (*name).to_owned(),
            secret_hash: name.as_bytes().to_vec().into(),
            ..edge::Token::default()
        };
        edge::Tokens {
            tokens: names.iter().map(token).collect(),
            changed,
            incarnation,
        }
    }

    /// What is valid after these lists, told in this order.
    fn after(lists: &[edge::Tokens]) -> Vec<String> {
        let mut valid = Valid::default();
        for told in lists {
            valid = valid.told(told.clone()).unwrap_or(valid);
        }
        let mut names: Vec<String> = valid.by_hash.into_values().map(|t| t.name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_node_that_was_cut_off_does_not_make_a_revoked_token_valid_again() {
        let before = list(1, Some(7), &["admin", "viewer"]);
        let after_revoking = list(1, Some(9), &["viewer"]);
        let told = [before.clone(), after_revoking.clone(), before];
        assert_eq!(after(&told), ["viewer"]);
        // Also where nothing of it is left, or the node has nothing yet.
        assert_eq!(
            after(&[list(1, Some(9), &[]), list(1, Some(7), &["admin"])]),
            [""; 0]
        );
        assert_eq!(after(&[after_revoking, list(0, Some(0), &[])]), ["viewer"]);
    }

    #[test]
    fn a_restored_cluster_begins_anew_and_what_is_left_of_the_one_before_is_not_believed() {
        let (old, restored) = (list(0, Some(900), &["admin"]), list(1, Some(5), &["new"]));
        assert_eq!(after(&[old.clone(), restored.clone()]), ["new"]);
        assert_eq!(after(&[restored, old]), ["new"]);
    }

    #[test]
    fn a_node_of_an_older_version_is_believed_and_does_not_make_numbers_smaller() {
        let unnumbered = list(0, None, &["a", "b"]);
        assert_eq!(
            after(&[list(1, Some(7), &["a"]), unnumbered.clone()]),
            ["a", "b"]
        );
        let told = [
            list(1, Some(7), &["a"]),
            unnumbered.clone(),
            list(1, Some(6), &["old"]),
        ];
        assert_eq!(after(&told), ["a", "b"]);
        assert_eq!(
            after(&[
                list(1, Some(7), &["a"]),
                unnumbered,
                list(1, Some(7), &["a"])
            ]),
            ["a"]
        );
    }
}
