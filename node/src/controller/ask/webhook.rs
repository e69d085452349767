//! A webhook: a URL of the plan is told where its wave stands, and says pass, fail or inconclusive.
//!
//! The URL is whoever's who may edit plans. Only hosts that whoever starts the server has named are asked, so that a
//! plan cannot make the server knock at doors inside of its network.

use std::str::FromStr;

use ::http::uri::Authority;
use ::http::{Request, StatusCode, Uri};
use bytes::Bytes;
use fleet::bucket::{ALL, Counts};
use fleet::rollout::{Answer, State};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::Wave;
use super::http::Http;

/// Of an answer: a word and a reason.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A host that webhooks may be on; with a port, only that port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(Authority);

/// No host.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no host: use a name or address with or without a port, like hooks.example.com")]
pub struct NotHost(String);

pub(super) async fn ask(
    http: &Http,
    hosts: &[Host],
    url: &str,
    body: &[u8],
) -> Result<Answer, String> {
    let request = Request::post(allowed(hosts, url)?)
        .header("user-agent", "muster")
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|error| error.to_string())?;
    let (status, body) = http.ask(request, ANSWER_BYTES_MAX).await?;
    read(status, &body)
}

/// The URL, if it may be asked.
fn allowed(hosts: &[Host], url: &str) -> Result<Uri, String> {
    let uri: Option<Uri> = url.trim().parse().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    let Some((uri, host)) = uri.and_then(|uri| Some((uri.clone(), uri.host()?.to_owned()))) else {
        return Err("it is no http or https URL".to_owned());
    };
    match hosts.iter().any(|allowed| allowed.is_of(&uri)) {
        true => Ok(uri),
        false => Err(format!(
            "webhooks to {host} are not allowed: start the server with --webhook-hosts {host}"
        )),
    }
}

/// What the webhook is told.
pub(super) fn body(wave: &Wave<'_>, state: State, counts: &Counts) -> Vec<u8> {
    let named = ALL.iter().zip(counts.by_bucket());
    let mut counts: Map<String, Value> = named
        .map(|(bucket, members)| (bucket.name().replace(' ', "_"), json!(members)))
        .collect();
    let members: u64 = counts.values().filter_map(Value::as_u64).sum();
    counts.insert("members".to_owned(), json!(members));
    let told = json!({
        "rollout": wave.rollout,
        "family": wave.family,
        "revision": wave.revision,
        "role": wave.role,
        "wave": wave.number,
        "state": state.name(),
        "counts": counts,
    });
    told.to_string().into_bytes()
}

fn read(status: StatusCode, body: &[u8]) -> Result<Answer, String> {
    if status.is_redirection() {
        return Err(format!("it answers {status}; redirects are not followed"));
    }
    if status != StatusCode::OK {
        return Err(format!("it answers {status}"));
    }
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    let text = |key: &str| Some(answer.as_ref()?.get(key)?.as_str()?.to_owned());
    let reason = text("reason").filter(|reason| !reason.is_empty());
    let reason = reason.unwrap_or_else(|| "it gives no reason".to_owned());
    match text("answer").as_deref() {
        Some("pass") => Ok(Answer::Pass),
        Some("fail") => Ok(Answer::Fail(reason)),
        Some("inconclusive") => Ok(Answer::Inconclusive(reason)),
        _ => Err(
            r#"its answer is not {"answer": "pass" | "fail" | "inconclusive", "reason": "…"}"#
                .to_owned(),
        ),
    }
}

// === impl Host ===

impl Host {
    fn is_of(&self, uri: &Uri) -> bool {
        let usual = match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        };
        let same_port = self
            .0
            .port_u16()
            .is_none_or(|port| port == uri.port_u16().unwrap_or(usual));
        let same_host = uri
            .host()
            .is_some_and(|host| host.eq_ignore_ascii_case(self.0.host()));
        same_host && same_port
    }
}

impl FromStr for Host {
    type Err = NotHost;

    fn from_str(text: &str) -> Result<Self, NotHost> {
        let refused = || NotHost(text.to_owned());
        let authority: Authority = text.trim().parse().map_err(|_| refused())?;
        let odd = authority.as_str().contains(['@', '*']) || authority.host().is_empty();
        let bad_port =
            authority.port_u16().is_none() && authority.as_str().len() != authority.host().len();
        match odd || bad_port {
            true => Err(refused()),
            false => Ok(Host(authority)),
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet::bucket::Bucket;

    use super::*;

    fn hosts(texts: &[&str]) -> Vec<Host> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn no_host_is_asked_that_was_not_named_at_the_start_of_the_server() {
        assert_eq!(
            allowed(&[], "http://169.254.169.254/latest").unwrap_err(),
            "webhooks to 169.254.169.254 are not allowed: start the server with --webhook-hosts 169.254.169.254"
        );
        let named = hosts(&["hooks.example.com", "ci:8080"]);
        for url in [
            "https://hooks.example.com/x",
            "http://HOOKS.example.com:99/",
            "http://ci:8080/gate",
        ] {
            assert!(allowed(&named, url).is_ok(), "{url}");
        }
        for url in [
            "https://hooks.example.com.evil.org/",
            "https://hooks.example.com@evil.org/",
            "http://ci:9090/",
            "https://ci/",
            "file:///etc/passwd",
            "hooks.example.com/x",
        ] {
            assert!(allowed(&named, url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_address_with_or_without_port() {
        for text in ["a", "a.b:80", "10.0.0.1", "[::1]", "[::1]:80"] {
            assert!(text.parse::<Host>().is_ok(), "{text}");
        }
        for text in ["", "http://a", "u@a", "a:x", "*.a", "a/b", "a:"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn it_is_told_where_the_wave_stands() {
        let wave = Wave {
            rollout: "ro-1",
            family: "pii",
            revision: 7,
            role: "agent",
            number: 2,
        };
        let mut counts = Counts::default();
        counts.add(Bucket::Converged);
        counts.add(Bucket::PendingPickup);
        let told: Value = serde_json::from_slice(&body(&wave, State::Running, &counts)).unwrap();
        assert_eq!(told["rollout"], "ro-1");
        assert_eq!(told["wave"], 2);
        assert_eq!(told["state"], "running");
        assert_eq!(told["counts"]["members"], 2);
        assert_eq!(told["counts"]["pending_pickup"], 1);
        assert_eq!(told["counts"]["rejected"], 0);
    }

    #[test]
    fn only_a_200_with_one_of_three_words_is_an_answer() {
        let ok = |body: &str| read(StatusCode::OK, body.as_bytes());
        assert_eq!(ok(r#"{"answer":"pass"}"#), Ok(Answer::Pass));
        assert_eq!(
            ok(r#"{"answer":"fail","reason":"error budget is spent"}"#),
            Ok(Answer::Fail("error budget is spent".to_owned()))
        );
        assert_eq!(
            ok(r#"{"answer":"inconclusive"}"#),
            Ok(Answer::Inconclusive("it gives no reason".to_owned()))
        );
        for body in [
            "",
            "yes",
            r#"{"answer":"PASS"}"#,
            r#"{"answer":true}"#,
            "[]",
        ] {
            assert!(ok(body).is_err(), "{body}");
        }
        let moved = read(StatusCode::FOUND, b"").unwrap_err();
        assert_eq!(moved, "it answers 302 Found; redirects are not followed");
        let busy = read(StatusCode::SERVICE_UNAVAILABLE, br#"{"answer":"pass"}"#);
        assert_eq!(busy.unwrap_err(), "it answers 503 Service Unavailable");
    }
}
