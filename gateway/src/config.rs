//! What a gateway is told at start, and why it may refuse to start.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::limits::Limits;

/// The port that the specification recommends.
pub const OPAMP_PORT: u16 = 4320;
/// The path that the specification recommends.
pub const OPAMP_PATH: &str = "/v1/opamp";

/// Settings of the agents' side.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this gateway in reports and logs.
    pub name: String,
    /// Where agents connect.
    pub listener: Listener,
    /// Path of the OpAMP endpoint; all others are 404.
    pub path: String,
    /// Every limit.
    pub limits: Limits,
}

/// One listening address and the rules for it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate and key; none: plain text.
    pub tls: Option<tls::Files>,
    /// Allows a public address without TLS or tokens. `--insecure-public` on the command line.
    pub insecure_public: bool,
    /// Browser origins that are let in besides loopback ones, as `https://console.example`.
    pub origins: Vec<String>,
}

/// Why a listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The safety rule of public addresses.
    #[error(
        "{address} is not a loopback address and {missing}: {remedy}, listen on 127.0.0.1, \
         or say --insecure-public if this network is trusted"
    )]
    Public {
        /// The address asked for.
        address: SocketAddr,
        /// What is missing.
        missing: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The path is not one.
    #[error(
        "the OpAMP path `{0}` must begin with a slash and hold no query, space or letter beyond ASCII"
    )]
    Path(String),
    /// The address could not be taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use the certificate {certificate} with the key {key}: {reason}")]
    Certificate {
        /// File of the chain.
        certificate: String,
        /// File of the key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// The path, if requests can have it.
pub fn opamp_path(path: &str) -> Result<String, StartError> {
    // What is not printable ASCII without spaces would stand percent-encoded in a request, and match none.
    let is_path = path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && !path.contains(['?', '#']);
    is_path
        .then(|| path.to_owned())
        .ok_or_else(|| StartError::Path(path.to_owned()))
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "gateway".to_owned(),
            listener: Listener::loopback(OPAMP_PORT),
            path: OPAMP_PATH.to_owned(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Checks what can be checked without touching the system.
    pub(crate) fn check(&self, tokens_required: bool) -> Result<(), StartError> {
        opamp_path(&self.path)?;
        self.listener.check(tokens_required)
    }
}

// === impl Listener ===

impl Listener {
    /// On 127.0.0.1, without TLS.
    pub fn loopback(port: u16) -> Self {
        Listener {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            tls: None,
            insecure_public: false,
            origins: Vec::new(),
        }
    }

    /// A public address needs TLS and tokens, or the word of the person who starts it.
    pub fn check(&self, tokens_required: bool) -> Result<(), StartError> {
        if self.address.ip().is_loopback() || self.insecure_public {
            return Ok(());
        }
        let (missing, remedy) = match (self.tls.is_some(), tokens_required) {
            (true, true) => return Ok(()),
            (false, true) => ("there is no TLS", "give --tls-cert and --tls-key"),
            (true, false) => ("no tokens are required", "give --require-tokens"),
            (false, false) => (
                "there is neither TLS nor a required token",
                "give --tls-cert, --tls-key and --require-tokens",
            ),
        };
        Err(StartError::Public {
            address: self.address,
            missing,
            remedy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_listens_on_loopback_4320() {
        assert_eq!(
            Config::default().listener.address.to_string(),
            "127.0.0.1:4320"
        );
        assert!(Config::default().check(false).is_ok());
    }

    #[test]
    fn a_path_begins_with_a_slash_and_can_stand_in_a_request() {
        assert_eq!(opamp_path("/fleet/v2").unwrap(), "/fleet/v2");
        for path in ["", "fleet", "/a?b", "/a#b", "/a b", "/flöte"] {
            assert!(opamp_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_public_address_needs_tls_and_tokens_or_the_word() {
        let mut listener = Listener::loopback(0);
        listener.address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let said = listener.check(false).unwrap_err().to_string();
        assert!(
            said.contains("--tls-cert") && said.contains("--insecure-public"),
            "{said}"
        );
        assert!(listener.check(true).is_err());
        listener.tls = Some(tls::Files {
            certificate: "c".into(),
            key: "k".into(),
        });
        assert!(listener.check(false).is_err());
        assert!(listener.check(true).is_ok());
        listener.tls = None;
        listener.insecure_public = true;
        assert!(listener.check(false).is_ok());
    }
}
