//! `muster supervisor-config`: a config of the OpAMP Supervisor that is right for its version. Needs no server.
//!
//! The Supervisor refuses keys it does not know, and the key that makes it report config status changed its meaning:
//! needed up to 0.160, without effect in 0.161 and 0.162, fatal from 0.163. So only keys that the version knows are
//! written, and that one where it must be.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// Last version that needs `reports_remote_config`.
const LAST_WITH_STATUS_KEY: (u64, u64) = (0, 160);

/// First version that can go back by itself.
const FIRST_WITH_ROLLBACK: (u64, u64) = (0, 157);

#[derive(Args)]
#[command(
    after_help = "Examples:\n  muster supervisor-config --version 0.160 > supervisor.yaml\n  \
    muster supervisor-config --version 0.165 --endpoint wss://muster.example:4320/v1/opamp \\\n      \
    --ca-file /etc/muster/ca.pem --token-env MUSTER_AGENT_TOKEN"
)]
pub struct SupervisorArgs {
    /// Version of the Supervisor: 0.160, v0.165.0
    #[arg(long = "version", value_name = "V")]
    pub release: Release,
    /// OpAMP address of the control plane, as seen by the agent's host
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:4320/v1/opamp"
    )]
    pub endpoint: String,
    /// Collector on the agent's host
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/usr/local/bin/otelcol-contrib"
    )]
    pub executable: String,
    /// Where the Supervisor keeps its identity and last config; one directory for each agent, never copied
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/otelcol/supervisor"
    )]
    pub storage: String,
    /// Environment variable of the Supervisor that holds the enrolment token
    #[arg(long, value_name = "NAME", value_parser = variable)]
    pub token_env: Option<String>,
    /// Certificates (PEM) on the agent's host that sign the server's
    #[arg(long, value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
}

/// A release of the Supervisor, as far as its config depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u64,
    minor: u64,
}

// === impl Release ===

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text
            .strip_prefix('v')
            .unwrap_or(text)
            .split('.')
            .map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Release { major, minor }),
            _ => Err("a version like 0.160 or v0.165.0 is needed".to_owned()),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The config, with the reasons beside the keys.
pub fn config(args: &SupervisorArgs) -> String {
    let mut text = format!(
        "# OpAMP Supervisor {}, managed by Muster. Other versions may want another file:\n\
         # muster supervisor-config --version V\n\
         server:\n  \
           # http(s) polls every 30 s, ws(s) keeps a connection.\n  \
           endpoint: {}\n",
        args.release,
        quoted(&args.endpoint)
    );
    if let Some(name) = &args.token_env {
        text += &format!(
            "  headers:\n    # Read from the Supervisor's environment at start.\n    Authorization: [\"Bearer ${{env:{name}}}\"]\n"
        );
    }
    if let Some(path) = &args.ca_file {
        text += &format!(
            "  tls:\n    ca_file: {}\n",
            quoted(&path.display().to_string())
        );
    }
    text += &format!(
        "\nagent:\n  \
           # Needs the opamp extension built in.\n  \
           executable: {}\n  \
           # Longer than the collector takes to start and become healthy; APPLIED is reported after it.\n  \
           config_apply_timeout: 10s\n",
        quoted(&args.executable)
    );
    if (args.release.major, args.release.minor) >= FIRST_WITH_ROLLBACK {
        text += "  # The collector crashes on a new config: go back to the last that worked, at once. Muster shows it, and\n  \
                 # does not offer that config again.\n  \
                 automatic_config_rollback: true\n";
    }
    text += &capabilities(args.release);
    text += &format!(
        "\nstorage:\n  \
           # Holds the agent's uid. A copied disk makes two agents of one uid: leave this out of images.\n  \
           directory: {}\n",
        quoted(&args.storage)
    );
    text
}

fn capabilities(release: Release) -> String {
    let status = if (release.major, release.minor) <= LAST_WITH_STATUS_KEY {
        "  # Without it the server never learns whether a config was applied. From 0.163 on the Supervisor\n  \
           # refuses to start with this key: remove it before upgrading.\n  \
           reports_remote_config: true\n"
    } else {
        "  # Reports whether a config was applied, too; `reports_remote_config` must not be set from 0.163 on.\n"
    };
    format!(
        "\ncapabilities:\n  \
           accepts_remote_config: true\n\
         {status}  \
           reports_effective_config: true\n  \
           reports_health: true\n  \
           # Lets a config be checked against the components the collector has, before it is sent.\n  \
           reports_available_components: true\n  \
           # muster agents restart\n  \
           accepts_restart_command: true\n  \
           # Settings offered by a server replace headers and TLS of the connection: off.\n  \
           accepts_opamp_connection_settings: false\n"
    )
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn variable(name: &str) -> Result<String, String> {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        Ok(name.to_owned())
    } else {
        Err(
            "a name of letters, digits and _ is needed; give the variable, not the token"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn args(release: &str) -> SupervisorArgs {
        SupervisorArgs {
            release: release.parse().unwrap(),
            endpoint: "wss://muster:4320/v1/opamp".into(),
            executable: "/opt/otel col".into(),
            storage: "/var/lib/s".into(),
            token_env: Some("TOKEN".into()),
            ca_file: Some("/etc/ca.pem".into()),
        }
    }

    fn parsed(release: &str) -> Value {
        serde_saphyr::from_str(&config(&args(release))).unwrap()
    }

    #[test]
    fn a_supervisor_that_can_goes_back_by_itself() {
        for (release, there) in [("0.149", false), ("0.157", true), ("0.165.1", true)] {
            let agent = &parsed(release)["agent"];
            let goes_back = agent.get("automatic_config_rollback") == Some(&Value::from(true));
            assert_eq!(goes_back, there, "{release}");
        }
    }

    #[test]
    fn status_key_is_there_as_long_as_it_is_needed_and_not_when_it_is_fatal() {
        for (release, there) in [
            ("0.158", true),
            ("0.160", true),
            ("0.161", false),
            ("0.162.0", false),
            ("0.163", false),
            ("v0.165.1", false),
        ] {
            let capabilities = &parsed(release)["capabilities"];
            assert_eq!(
                capabilities.get("reports_remote_config").is_some(),
                there,
                "{release}"
            );
            assert_eq!(capabilities["accepts_remote_config"], true, "{release}");
        }
    }

    #[test]
    fn fatal_keys_of_any_version_are_never_set() {
        for release in ["0.158", "0.160", "0.161", "0.163", "0.165"] {
            let capabilities = &parsed(release)["capabilities"];
            assert!(capabilities.get("accepts_packages").is_none());
            assert!(capabilities.get("reports_package_statuses").is_none());
        }
    }

    #[test]
    fn options_stand_where_the_supervisor_reads_them() {
        let config = parsed("0.165");
        assert_eq!(config["server"]["endpoint"], "wss://muster:4320/v1/opamp");
        assert_eq!(
            config["server"]["headers"]["Authorization"][0],
            "Bearer ${env:TOKEN}"
        );
        assert_eq!(config["server"]["tls"]["ca_file"], "/etc/ca.pem");
        assert_eq!(config["agent"]["executable"], "/opt/otel col");
        assert_eq!(config["storage"]["directory"], "/var/lib/s");
    }

    #[test]
    fn token_in_place_of_a_variable_is_refused() {
        assert!(variable("MUSTER_TOKEN").is_ok());
        assert!(variable("mst_abc-def").is_err());
    }
}
