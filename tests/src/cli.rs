//! The `muster` command as a script uses it.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::server::binary;
use crate::wait::{eventually_blocking, holds};

/// No command of a test takes longer, unless it says so.
const COMMAND: Duration = Duration::from_secs(90);

/// One operator at one server.
#[derive(Clone, Debug)]
pub struct Cli {
    server: String,
    token: Option<String>,
    user: Option<String>,
    authority: Option<PathBuf>,
    patience: Duration,
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

// === impl Cli ===

impl Cli {
    pub fn new(server: impl Into<String>) -> Self {
        Cli {
            server: server.into(),
            token: None,
            user: None,
            authority: None,
            patience: COMMAND,
        }
    }

    /// The same server with this token.
    pub fn with_token(&self, token: &str) -> Self {
        Cli {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Somebody else at the same server.
    pub fn as_user(&self, user: &str) -> Self {
        Cli {
            user: Some(user.to_owned()),
            ..self.clone()
        }
    }

    /// The same over TLS, trusting these certificates.
    pub fn with_authority(&self, file: &Path) -> Self {
        Cli {
            authority: Some(file.to_owned()),
            ..self.clone()
        }
    }

    /// The same where a command may take so long.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Cli {
            patience,
            ..self.clone()
        }
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command
            .args(args)
            .env("MUSTER_SERVER", &self.server)
            .env_remove("MUSTER_TOKEN")
            .env_remove("MUSTER_TOKEN_FILE");
        if let Some(user) = &self.user {
            command.env("USER", user);
        }
        if let Some(token) = &self.token {
            command.env("MUSTER_TOKEN", token);
        }
        if let Some(file) = &self.authority {
            command.env("MUSTER_CA_FILE", file);
        }
        let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let status =
            eventually_blocking(self.patience, &format!("muster {}", args.join(" ")), || {
                let ended = child.try_wait().unwrap();
                holds(ended.is_some(), "still running").map(|()| ended.unwrap())
            });
        Output {
            code: status.code().unwrap_or(-1),
            stdout: read(&mut out),
            stderr: read(&mut err),
        }
    }

    /// Runs it, insists on exit code 0, and answers what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.code, 0, "muster {}: {output:#?}", args.join(" "));
        output.stdout
    }

    /// As [`Cli::ok`] with `-o json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("muster {}: {error}: {text}", args.join(" ")))
    }

    /// Stores manifests.
    pub fn apply(&self, path: &Path) -> Value {
        self.json(&["apply", "-f", path.to_str().unwrap()])
    }
}

fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
