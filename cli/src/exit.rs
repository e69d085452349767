//! How a command ends: the exit codes scripts rely on, and the one way from an error to them.
//!
//! A failure says what could not be done, to which object, and what to do next. A reader of stdout that has left
//! (`muster agents list | head`) is no failure.

use std::fmt;
use std::io;
use std::process::ExitCode;

use tonic::Status;

use crate::render::text::clean;

/// The table of exit codes, for `--help`.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    failed, or refused by the server
  2    wrong usage
  3    no such object
  4    precondition or conflict: stale preview, reach limit, wrong state
  5    server unreachable
  6    not permitted
  7    rollout did not complete (rollout watch, rollout start --wait)
  8    audit log not intact
  130  interrupted";

/// What a script sees. A number, once given out, keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Failed here, or refused by the server.
    Failed = 1,
    /// The command line asks for something that cannot be.
    Usage = 2,
    /// No such object.
    NotFound = 3,
    /// A precondition does not hold: stale preview, reach limit, wrong state.
    Conflict = 4,
    /// The server did not answer.
    Unreachable = 5,
    /// No token, a wrong one, or one without the right.
    Permission = 6,
    /// The watched rollout ended otherwise than completed.
    NotCompleted = 7,
    /// The audit log is not what was written.
    NotIntact = 8,
    /// Ctrl-C.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    what: String,
    hint: Option<String>,
    below: Option<String>,
}

// === impl Code ===

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        match code {
            tonic::Code::Ok => Code::Ok,
            tonic::Code::NotFound => Code::NotFound,
            tonic::Code::FailedPrecondition | tonic::Code::Aborted | tonic::Code::AlreadyExists => {
                Code::Conflict
            }
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => Code::Unreachable,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::Permission,
            tonic::Code::Cancelled
            | tonic::Code::Unknown
            | tonic::Code::InvalidArgument
            | tonic::Code::ResourceExhausted
            | tonic::Code::OutOfRange
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::DataLoss => Code::Failed,
        }
    }
}

// === impl Failure ===

impl Failure {
    /// A failure with its exit code; `what` is one sentence without a full stop.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Failure {
            code,
            what: what.into(),
            hint: None,
            below: None,
        }
    }

    /// The command line asks for something that cannot be.
    pub fn usage(what: impl Into<String>) -> Self {
        Failure::new(Code::Usage, what)
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds text that is printed as it is, for people to take: a patch.
    pub fn below(mut self, text: impl Into<String>) -> Self {
        self.below = Some(text.into());
        self
    }

    /// What the server answered while this client tried to `doing` ("read agent web-1").
    pub fn from_status(doing: &str, status: &Status) -> Self {
        let code = Code::from(status.code());
        let message = match status.message() {
            "" => status.code().description().to_owned(),
            message => clean(message),
        };
        Failure {
            code,
            what: format!("cannot {doing}: {message}"),
            hint: advice(status.code()).map(str::to_owned),
            below: None,
        }
    }

    /// The exit code, for claims about it.
    #[cfg(test)]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Tells the person at stderr, unless nothing went wrong, and answers the exit code.
    pub fn report(&self) -> Code {
        if self.code != Code::Ok {
            crate::operator::output::talk(self);
        }
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  {}", hint.replace('\n', "\n  "))?;
        }
        match &self.below {
            Some(text) => write!(f, "\n\n{}", text.trim_end_matches('\n')),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// Writing to stdout failed. A closed pipe means that the reader has seen enough.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Code::Ok, ""),
            _ => Failure::new(Code::Failed, format!("cannot write the output: {error}")),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::new(Code::Failed, format!("{error:#}"))
    }
}

/// What to do where the code alone tells.
fn advice(code: tonic::Code) -> Option<&'static str> {
    match code {
        tonic::Code::Unauthenticated => Some("give a token: --token-file FILE, or MUSTER_TOKEN"),
        tonic::Code::PermissionDenied => {
            Some("the token's role does not allow this; use a token of a role that does")
        }
        tonic::Code::Unavailable => {
            Some("try again in a moment; if it stays so, ask for the state of the server's nodes")
        }
        tonic::Code::Unimplemented => Some("server and client differ in version"),
        tonic::Code::ResourceExhausted => Some("narrow the request, or try again later"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_the_server_has_the_documented_exit_code() {
        for (status, code) in [
            (Status::not_found("x"), 3),
            (Status::failed_precondition("x"), 4),
            (Status::aborted("x"), 4),
            (Status::already_exists("x"), 4),
            (Status::unavailable("x"), 5),
            (Status::deadline_exceeded("x"), 5),
            (Status::permission_denied("x"), 6),
            (Status::unauthenticated("x"), 6),
            (Status::invalid_argument("x"), 1),
            (Status::internal("x"), 1),
        ] {
            assert_eq!(
                Failure::from_status("do it", &status).code() as u8,
                code,
                "{status}"
            );
        }
    }

    #[test]
    fn failure_names_the_act_the_object_and_the_remedy() {
        let failure = Failure::from_status(
            "read agent web-1",
            &Status::unauthenticated("a token is needed"),
        );
        assert_eq!(
            failure.to_string(),
            "error: cannot read agent web-1: a token is needed\n  give a token: --token-file FILE, or MUSTER_TOKEN"
        );
    }

    #[test]
    fn closed_pipe_is_success() {
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(),
            Code::Ok
        );
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::StorageFull)).code(),
            Code::Failed
        );
    }

    #[test]
    fn help_lists_every_code() {
        for code in [
            Code::Ok,
            Code::Failed,
            Code::Usage,
            Code::NotFound,
            Code::Conflict,
            Code::Unreachable,
            Code::Permission,
            Code::NotCompleted,
            Code::NotIntact,
            Code::Interrupted,
        ] {
            assert!(
                HELP.contains(&format!("\n  {:<3}  ", code as u8)),
                "{code:?}"
            );
        }
    }
}
