//! What request headers say: content type, encodings, WebSocket handshake.

use http::{HeaderMap, HeaderName, header};

/// The one content type of OpAMP over plain HTTP.
pub const PROTOBUF: &str = "application/x-protobuf";

/// How a request's body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Unknown,
}

/// Is it plain HTTP? Parameters and case do not matter.
pub fn is_protobuf(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    if value.as_bytes() == PROTOBUF.as_bytes() {
        return true;
    }
    let essence = value.to_str().ok().and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(PROTOBUF))
}

/// The encoding of the body.
pub fn encoding(headers: &HeaderMap) -> Encoding {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else {
        return Encoding::Identity;
    };
    if values.next().is_some() {
        return Encoding::Unknown;
    }
    match value.to_str().map(str::trim) {
        Ok(text) if text.is_empty() || text.eq_ignore_ascii_case("identity") => Encoding::Identity,
        Ok(text) if text.eq_ignore_ascii_case("gzip") || text.eq_ignore_ascii_case("x-gzip") => {
            Encoding::Gzip
        }
        _ => Encoding::Unknown,
    }
}

/// May the answer be gzip? Only if it is asked for, and not if identity is wanted more.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for item in headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
    {
        for item in item.split(',') {
            let (name, quality) = weighted(item);
            match name.to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => gzip = Some(quality),
                "identity" => identity = Some(quality),
                "*" => any = Some(quality),
                _ => {}
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// Does a comma-separated header hold this token?
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut texts = values.iter().filter_map(|value| value.to_str().ok());
    texts.any(|text| {
        text.split(',')
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    })
}

/// `gzip;q=0.5`. What cannot be read counts as not wanted.
fn weighted(item: &str) -> (&str, f32) {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality =
        parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (
        name,
        quality.map_or(1.0, |text| text.parse().unwrap_or(0.0)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn gzip_answers_only_where_they_are_asked_for() {
        assert!(!takes_gzip(&HeaderMap::new()));
        let cases = [
            ("gzip", true),
            ("gzip;q=0", false),
            ("gzip; q=0.5, identity", false),
            ("identity;q=0.3, gzip;q=0.5", true),
            ("*", true),
            ("*;q=0", false),
            ("br, deflate", false),
            ("br, GZIP", true),
            ("", false),
            ("gzip;q=x", false),
        ];
        for (value, expected) in cases {
            assert_eq!(
                takes_gzip(&headers(header::ACCEPT_ENCODING, value)),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn the_content_type_is_compared_without_parameters() {
        for value in [
            "application/x-protobuf",
            "Application/X-Protobuf; charset=utf-8",
        ] {
            assert!(
                is_protobuf(&headers(header::CONTENT_TYPE, value)),
                "{value}"
            );
        }
        assert!(!is_protobuf(&headers(
            header::CONTENT_TYPE,
            "application/x-protobuffer"
        )));
        assert!(!is_protobuf(&HeaderMap::new()));
    }

    #[test]
    fn encodings_are_gzip_identity_or_unknown() {
        let cases = [
            ("gzip", Encoding::Gzip),
            ("identity", Encoding::Identity),
            ("br", Encoding::Unknown),
            ("gzip, gzip", Encoding::Unknown),
        ];
        for (value, expected) in cases {
            assert_eq!(
                encoding(&headers(header::CONTENT_ENCODING, value)),
                expected,
                "{value}"
            );
        }
    }
}
