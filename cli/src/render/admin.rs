//! Tokens.

use proto::api;

use crate::render::table::table;
use crate::render::text::{clean, or_dash, timestamp};
use crate::render::{Look, Tone};

/// The table of `tokens list`.
pub fn tokens(answer: &api::ListTokensResponse, look: &Look) -> String {
    if answer.tokens.is_empty() {
        return "no tokens; `muster tokens create NAME` makes one\n".to_owned();
    }
    table(
        &[
            "NAME", "KIND", "ROLE", "LABELS", "STATE", "EXPIRES", "AGE", "BY",
        ],
        answer.tokens.iter().map(|token| {
            let labels: Vec<String> = token
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let (tone, state) = token_state(token, look);
            vec![
                clean(&token.name).into(),
                clean(&token.kind).into(),
                or_dash(&token.role).into(),
                or_dash(&labels.join(",")).into(),
                look.cell(tone, &state),
                timestamp(token.expires_ms).into(),
                look.age(token.created_ms).into(),
                or_dash(&token.created_by).into(),
            ]
        }),
    )
}

fn token_state(token: &api::Token, look: &Look) -> (Tone, String) {
    if token.revoked_ms != 0 {
        (
            Tone::Quiet,
            format!("revoked {} ago", look.age(token.revoked_ms)),
        )
    } else if token.expires_ms != 0 && token.expires_ms <= look.now_ms {
        (Tone::Quiet, "expired".to_owned())
    } else {
        (Tone::Good, "valid".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_valid_expired_or_revoked() {
        let look = Look {
            now_ms: 100_000,
            ..Default::default()
        };
        let token = |expires_ms, revoked_ms| api::Token {
            expires_ms,
            revoked_ms,
            ..Default::default()
        };
        assert_eq!(token_state(&token(0, 0), &look).1, "valid");
        assert_eq!(token_state(&token(100_000, 0), &look).1, "expired");
        assert_eq!(token_state(&token(0, 40_000), &look).1, "revoked 1m ago");
    }
}
