//! Who may speak from where: Host and Origin rules against DNS rebinding, and bearer tokens.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header};

use crate::config::Listener;

/// The Host and Origin rules of one listener.
#[derive(Clone, Debug)]
pub struct Guard {
    loopback: bool,
    /// A token proves more than Host and Origin do.
    tokens: bool,
    origins: Vec<String>,
}

// === impl Guard ===

impl Guard {
    /// For a listener that was bound to `address`.
    pub fn new(listener: &Listener, address: SocketAddr, tokens_required: bool) -> Self {
        Guard {
            loopback: address.ip().is_loopback(),
            tokens: tokens_required,
            origins: listener.origins.clone(),
        }
    }

    /// May a request with these headers be served?
    pub fn allows(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        if self.tokens {
            return true;
        }
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| text(headers, header::HOST));
        if self.loopback && !host.is_some_and(is_loopback_host) {
            return false;
        }
        match headers.get(header::ORIGIN) {
            None => true,
            Some(origin) => origin.to_str().is_ok_and(|origin| {
                let same = origin.split_once("://").map(|(_, authority)| authority);
                self.allows_origin(origin) || (!self.loopback && same.is_some() && same == host)
            }),
        }
    }

    /// May pages of this origin read answers?
    pub fn allows_origin(&self, origin: &str) -> bool {
        let loopback = || {
            let authority = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            self.loopback && authority.is_some_and(is_loopback_host)
        };
        self.origins.iter().any(|allowed| allowed == origin) || loopback()
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `localhost`, 127.0.0.0/8 or `[::1]`, with or without a port.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => address,
            _ => return false,
        },
        None => match host.rfind(':') {
            Some(at) if is_port(&host[at..]) => &host[..at],
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_some_and(|digits| digits.parse::<u16>().is_ok())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_known_in_every_spelling_and_nothing_else_is() {
        for host in [
            "localhost",
            "LOCALHOST:4320",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:4320",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "localhost:x",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "bearer abc".parse().unwrap());
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }
}
