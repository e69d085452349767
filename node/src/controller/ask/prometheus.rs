//! A PromQL check: an instant query that has to hold.
//!
//! Comparisons drop what does not satisfy them, so that an empty vector is a no; with `bool` they give 0 and 1, so that
//! a zero is one, too. What is no number proves nothing.

use std::fmt::Write;
use std::str::FromStr;

use ::http::{Request, StatusCode, Uri};
use bytes::Bytes;
use fleet::rollout::Answer;
use http_body_util::Full;
use serde_json::Value;

use super::http::Http;
use super::{PATIENCE, Wave};

/// Of an answer: some thousand series. An expression that gives more wants an aggregation.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Bytes that are shown of a series.
const SERIES_BYTES_MAX: usize = 120;

/// A Prometheus, or what speaks its HTTP API, by its URL without `/api/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus(String);

/// No URL of a Prometheus.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no URL of a Prometheus: use one like http://prometheus:9090, without user, password and query"
)]
pub struct NotPrometheus(String);

pub(super) async fn ask(
    http: &Http,
    prometheus: Option<&Prometheus>,
    expression: &str,
) -> Result<Answer, String> {
    let prometheus = prometheus
        .ok_or("no Prometheus is configured: start the server with --prometheus URL")?
        .query(expression)?;
    let request = Request::get(prometheus)
        .header("user-agent", "muster")
        .header("accept", "application/json")
        .body(Full::new(Bytes::new()))
        .map_err(|error| error.to_string())?;
    let asked = http.ask(request, ANSWER_BYTES_MAX).await;
    let (status, body) = asked.map_err(|why| format!("Prometheus: {why}"))?;
    read(status, &body)
}

/// The expression with what `$rollout`, `$family`, `$role`, `$wave` and `$revision` stand for, once each; other dollars
/// stay.
pub(super) fn expand(expression: &str, wave: &Wave<'_>) -> String {
    let mut expanded = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = from[1..]
            .find(|c| !is_name(c))
            .map_or(from.len(), |end| end + 1);
        let (name, after) = from.split_at(end);
        expanded.push_str(before);
        match name {
            "$rollout" => escape(wave.rollout, &mut expanded),
            "$family" => escape(wave.family, &mut expanded),
            "$role" => escape(wave.role, &mut expanded),
            "$wave" => expanded.push_str(&wave.number.to_string()),
            "$revision" => expanded.push_str(&wave.revision.to_string()),
            other => expanded.push_str(other),
        }
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

/// As content of a string in any of PromQL's quotes. `\x22` is read in both kinds that know escapes; `\"` in one.
fn escape(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '\'' | '`' | '\\' | '\0'..='\x1f' | '\x7f' => {
                let _ = write!(into, "\\x{:02x}", u32::from(c));
            }
            c => into.push(c),
        }
    }
}

/// What an answer of the API says.
fn read(status: StatusCode, body: &[u8]) -> Result<Answer, String> {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let text = |key: &str| Some(parsed.as_ref()?.get(key)?.as_str()?.to_owned());
    if !status.is_success() || text("status").as_deref() != Some("success") {
        let why = match (text("errorType"), text("error")) {
            (Some(kind), Some(error)) => format!("{kind}: {error}"),
            _ if status.is_success() => "the answer is none of its API".to_owned(),
            _ => "is this the URL of its API?".to_owned(),
        };
        return Err(format!("Prometheus answers {}: {why}", status.as_u16()));
    }
    let data = parsed.as_ref().and_then(|parsed| parsed.get("data"));
    let kind = data.and_then(|data| data.get("resultType")?.as_str());
    let result = data.and_then(|data| data.get("result"));
    let malformed = || "Prometheus answers something that is no result".to_owned();
    match (kind, result) {
        (Some("vector"), Some(Value::Array(series))) => vector(series),
        (Some("scalar"), Some(sample)) => Ok(match number(sample).ok_or_else(malformed)? {
            value if value.is_nan() => return Err("the expression is not a number".to_owned()),
            0.0 => Answer::Fail("it is 0".to_owned()),
            _ => Answer::Pass,
        }),
        (Some(kind @ ("matrix" | "string")), _) => Err(format!(
            "the expression gives a {kind}: write one that gives an instant vector or a scalar"
        )),
        _ => Err(malformed()),
    }
}

fn vector(series: &[Value]) -> Result<Answer, String> {
    if series.is_empty() {
        return Ok(Answer::Fail("no series satisfies it".to_owned()));
    }
    let mut zero = Vec::new();
    let mut unknown = Vec::new();
    for one in series {
        match one.get("value").and_then(number) {
            Some(0.0) => zero.push(one),
            Some(value) if !value.is_nan() => {}
            _ => unknown.push(one),
        }
    }
    let of = series.len();
    match (zero.first(), unknown.first()) {
        (Some(first), _) => {
            let why = format!("{} of {of} series are 0, e.g. {}", zero.len(), name(first));
            Ok(Answer::Fail(why))
        }
        (None, Some(first)) => Err(format!(
            "{} of {of} series are not a number, e.g. {}",
            unknown.len(),
            name(first)
        )),
        (None, None) => Ok(Answer::Pass),
    }
}

/// The value of `[time, "value"]`.
fn number(sample: &Value) -> Option<f64> {
    let text = sample.get(1)?.as_str()?;
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

/// `{job="x"}`, shortened.
fn name(series: &Value) -> String {
    let labels = series.get("metric").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    let name = format!("{{{}}}", pairs.join(","));
    name[..name.floor_char_boundary(SERIES_BYTES_MAX)].to_owned()
}

// === impl Prometheus ===

impl Prometheus {
    /// The URL of an instant query, which the server gives up on when nobody waits for it any more.
    fn query(&self, expression: &str) -> Result<Uri, String> {
        let mut url = format!("{}/api/v1/query?query=", self.0);
        for byte in expression.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    url.push(char::from(byte));
                }
                byte => {
                    let _ = write!(url, "%{byte:02X}");
                }
            }
        }
        let _ = write!(url, "&timeout={}s", PATIENCE.as_secs());
        Uri::try_from(url).map_err(|_| "the expression is too long for a URL".to_owned())
    }
}

impl FromStr for Prometheus {
    type Err = NotPrometheus;

    fn from_str(text: &str) -> Result<Self, NotPrometheus> {
        let refused = || NotPrometheus(text.to_owned());
        let uri: Uri = text.trim().parse().map_err(|_| refused())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let plain = |authority: &::http::uri::Authority| !authority.as_str().contains('@');
        if !is_http || !uri.authority().is_some_and(plain) || uri.query().is_some() {
            return Err(refused());
        }
        Ok(Prometheus(text.trim().trim_end_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAVE: Wave<'static> = Wave {
        rollout: "ro-1",
        family: "pii",
        revision: 7,
        role: "a\"b",
        number: 2,
    };

    fn answer(body: &str) -> String {
        match read(StatusCode::OK, body.as_bytes()) {
            Ok(answer) => answer.to_string(),
            Err(why) => format!("inconclusive: {why}"),
        }
    }

    fn vector_of(values: &[&str]) -> String {
        let one = |value: &&str| format!(r#"{{"metric":{{"job":"x"}},"value":[1.5,"{value}"]}}"#);
        let all: Vec<String> = values.iter().map(one).collect();
        let all = all.join(",");
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{all}]}}}}"#)
    }

    #[test]
    fn an_expression_holds_when_every_series_is_there_and_not_zero() {
        assert_eq!(answer(&vector_of(&["1", "0.25", "+Inf"])), "pass");
        assert_eq!(answer(&vector_of(&[])), "fail: no series satisfies it");
        assert_eq!(
            answer(&vector_of(&["1", "0"])),
            r#"fail: 1 of 2 series are 0, e.g. {job="x"}"#
        );
    }

    #[test]
    fn a_division_by_nothing_proves_nothing_and_a_zero_beside_it_counts() {
        assert_eq!(
            answer(&vector_of(&["1", "NaN"])),
            r#"inconclusive: 1 of 2 series are not a number, e.g. {job="x"}"#
        );
        assert!(answer(&vector_of(&["0", "NaN"])).starts_with("fail"));
    }

    #[test]
    fn a_scalar_holds_unless_it_is_zero() {
        let scalar = |value: &str| {
            let data = format!(r#"{{"resultType":"scalar","result":[1,"{value}"]}}"#);
            answer(&format!(r#"{{"status":"success","data":{data}}}"#))
        };
        assert_eq!(scalar("0.5"), "pass");
        assert_eq!(scalar("0"), "fail: it is 0");
        assert_eq!(
            scalar("NaN"),
            "inconclusive: the expression is not a number"
        );
    }

    #[test]
    fn whatever_is_no_result_is_inconclusive_and_says_why() {
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert!(answer(matrix).contains("gives a matrix"));
        let histogram = r#"{"metric":{},"histogram":[1,{}]}"#;
        let data = format!(r#"{{"resultType":"vector","result":[{histogram}]}}"#);
        let histogram = format!(r#"{{"status":"success","data":{data}}}"#);
        assert!(answer(&histogram).starts_with("inconclusive: 1 of 1"));
        assert!(answer("<html>").contains("none of its API"));
        assert!(answer(r#"{"status":"success"}"#).contains("no result"));
        let error = br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(
            read(StatusCode::BAD_REQUEST, error).unwrap_err(),
            "Prometheus answers 400: bad_data: parse error"
        );
        assert!(
            read(StatusCode::NOT_FOUND, b"")
                .unwrap_err()
                .contains("URL")
        );
    }

    #[test]
    fn placeholders_are_replaced_once_and_cannot_leave_their_string() {
        assert_eq!(
            expand(
                r#"up{r="$rollout",f="$family",role="$role"} > $wave * $revision"#,
                &WAVE
            ),
            r#"up{r="ro-1",f="pii",role="a\x22b"} > 2 * 7"#
        );
        assert_eq!(expand("$roles $ $", &WAVE), "$roles $ $");
        let family = Wave {
            family: "$role",
            ..WAVE
        };
        assert_eq!(expand("$family", &family), "$role");
    }

    #[test]
    fn a_query_is_one_parameter_of_the_url() {
        let prometheus: Prometheus = "http://p:9090/prom/".parse().unwrap();
        let url = prometheus.query("a{b=\"c\"} > 1 & 2").unwrap();
        assert_eq!(
            url.to_string(),
            "http://p:9090/prom/api/v1/query?query=a%7Bb%3D%22c%22%7D%20%3E%201%20%26%202&timeout=5s"
        );
        assert!(prometheus.query(&"x".repeat(70_000)).is_err());
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused() {
        for text in [
            "p:9090",
            "ftp://p",
            "http://u:p@p",
            "http://p/?a=b",
            "",
            "/",
        ] {
            assert!(text.parse::<Prometheus>().is_err(), "{text}");
        }
    }
}
