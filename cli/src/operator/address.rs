//! Where the server is, and which certificates it is trusted by.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::args::Connection;
use crate::exit::Failure;

/// A server that does not take a connection in this time is called unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pings of an idle connection, so that a watch notices a server that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Where systems keep the certificates they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The address, checked, with what TLS needs.
pub fn endpoint(connection: &Connection) -> Result<Endpoint, Failure> {
    let bad = |why: String| {
        Failure::usage(format!(
            "`{}` is no server address: {why}",
            connection.server
        ))
        .hint("give --server http://HOST:PORT or https://HOST:PORT")
    };
    let endpoint =
        Endpoint::from_shared(connection.server.clone()).map_err(|error| bad(error.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| bad(error.to_string()))?;
    match endpoint.uri().scheme_str() {
        Some("http") => Ok(endpoint),
        Some("https") => {
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(roots(connection.ca_file.as_deref())?));
            endpoint
                .tls_config(tls)
                .map_err(|error| bad(causes(&error)))
        }
        _ => Err(bad("it begins with neither http:// nor https://".to_owned())),
    }
}

fn roots(ca_file: Option<&Path>) -> Result<String, Failure> {
    let from_environment = std::env::var_os("MUSTER_CA_FILE").filter(|path| !path.is_empty());
    if let Some(path) = ca_file
        .map(Path::to_owned)
        .or(from_environment.map(PathBuf::from))
    {
        let pem = read(&path, "CA file")?;
        return match pem.contains("-----BEGIN CERTIFICATE-----") {
            true => Ok(pem),
            false => Err(Failure::usage(format!(
                "the CA file {} has no certificate",
                path.display()
            ))
            .hint("give a PEM file with a BEGIN CERTIFICATE line")),
        };
    }
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(SYSTEM_ROOTS.map(PathBuf::from))
        .find_map(|path| std::fs::read_to_string(path).ok());
    found.ok_or_else(|| {
        Failure::usage("found no certificates of this system to trust").hint("give --ca-file FILE")
    })
}

/// A file that an option names.
pub fn read(path: &Path, what: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "cannot read the {what} {}: {error}",
            path.display()
        ))
    })
}

/// Whether nobody else can listen in between.
pub fn is_loopback(endpoint: &Endpoint) -> bool {
    let host = endpoint
        .uri()
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The causes only: the outermost error of the transport says no more than that it failed.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut causes: Vec<String> = std::iter::successors(error.source(), |e| e.source())
        .map(ToString::to_string)
        .collect();
    causes.dedup();
    if causes.is_empty() {
        error.to_string()
    } else {
        causes.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;
    use crate::exit::Code;

    fn connection(options: &str) -> Connection {
        let line = format!("muster {options} agents list");
        Cli::parse_from(line.split_whitespace()).connection
    }

    #[test]
    fn address_without_a_scheme_is_a_usage_error() {
        let failure = endpoint(&connection("--server localhost:4321")).unwrap_err();
        assert_eq!(failure.code(), Code::Usage);
        assert!(failure.to_string().contains("http://HOST:PORT"));
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for (server, loopback) in [
            ("http://localhost:1", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1:1", false),
        ] {
            let endpoint = Endpoint::from_shared(server.to_owned()).unwrap();
            assert_eq!(is_loopback(&endpoint), loopback, "{server}");
        }
    }
}
