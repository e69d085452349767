//! Why there is no answer, or not the one that was hoped for, and the way out of it.

use tonic::Status;

use crate::exit::{Code, Failure};
use crate::operator::address::causes;
use crate::render::text::{clean, clean_patch, plural};

/// What the causes of a failed connection say, what that means, and what to do about it.
const EXPLAINED: [(&str, &str, &str); 9] = [
    (
        "Connection refused",
        "nothing listens there",
        "start it with `muster serve`, or name another address: --server URL or MUSTER_SERVER",
    ),
    (
        "InvalidContentType",
        "it does not speak TLS",
        "give its address with http:// instead of https://",
    ),
    (
        "UnknownIssuer",
        "its certificate is signed by nobody this client trusts",
        "give the certificate of the signer: --ca-file FILE or MUSTER_CA_FILE",
    ),
    (
        "CaUsedAsEndEntity",
        "its certificate is that of a CA, which may sign certificates but not be a server's",
        "serve a certificate that this CA signed, and give the CA's: --ca-file FILE or MUSTER_CA_FILE",
    ),
    (
        "not valid for name",
        "its certificate is for another name",
        "use a name of the certificate in --server, or issue the certificate for this name, too",
    ),
    (
        "xpired",
        "its certificate has expired",
        "renew the certificate; the server reads the file again by itself",
    ),
    (
        "NotValidYet",
        "its certificate is not valid yet",
        "compare the clocks of both hosts",
    ),
    (
        "failed to lookup address",
        "the host is not known",
        "is the name in --server or MUSTER_SERVER right?",
    ),
    (
        "deadline has elapsed",
        "no answer within 5 s",
        "is the address in --server or MUSTER_SERVER right, and does a firewall let it through?",
    ),
];

/// How a patch begins.
const PATCH: [&str; 2] = ["--- ", "diff --git "];

/// No connection.
pub fn unreachable(server: &str, error: &dyn std::error::Error) -> Failure {
    let causes = clean(&causes(error));
    let explained = EXPLAINED.iter().find(|(mark, ..)| causes.contains(mark));
    let (why, way_out) = match explained {
        Some((_, why, way_out)) => (format!("{why} ({causes})"), *way_out),
        None => (
            causes,
            "is `muster serve` running there? --server or MUSTER_SERVER name another address",
        ),
    };
    Failure::new(
        Code::Unreachable,
        format!("cannot reach the server at {server}: {why}"),
    )
    .hint(way_out)
}

/// What `server` answered, or that the connection broke, while this client tried to `doing`. `with_token`: a token was
/// sent with the call.
pub fn refused(doing: &str, status: &Status, server: &str, with_token: bool) -> Failure {
    if let Some(source) = std::error::Error::source(status) {
        return broken(doing, source, server);
    }
    if is_foreign(status) {
        return Failure::new(
            Code::Unreachable,
            format!("cannot {doing}: what answers at {server} is not Muster's operator API"),
        )
        .hint(
            "name the address of --api-listen, by default port 4321: --server URL or MUSTER_SERVER",
        );
    }
    if status.message().lines().count() > 1 {
        return at_length(doing, status);
    }
    let failure = Failure::from_status(doing, status);
    match status.code() {
        tonic::Code::Unauthenticated if with_token => failure.hint(
            "the token that was given is unknown, expired, revoked, or an agent's; an admin makes another:\n\
             muster tokens create NAME --kind operator --role ROLE",
        ),
        tonic::Code::Unauthenticated => failure.hint(
            "give a token: --token-file FILE, MUSTER_TOKEN_FILE or MUSTER_TOKEN\n\
             the first one is in admin.token in the server's data directory",
        ),
        tonic::Code::PermissionDenied => failure.hint(
            "use a token of a role that may; an admin makes one:\n\
             muster tokens create NAME --kind operator --role ROLE",
        ),
        _ => failure,
    }
}

/// An answer of several lines: reasons, one a line, and behind them perhaps a patch, which is given as it is, so that
/// it can be applied.
fn at_length(doing: &str, status: &Status) -> Failure {
    let message = status.message();
    let starts = |line: &&str| PATCH.iter().any(|mark| line.starts_with(mark));
    let reasons: Vec<&str> = message.lines().take_while(|line| !starts(line)).collect();
    let patch: Vec<&str> = message.lines().skip(reasons.len()).collect();
    let reasons: Vec<String> = reasons.into_iter().map(clean).collect();
    let reasons: Vec<String> = reasons
        .into_iter()
        .filter(|line| !line.is_empty())
        .collect();
    let failure = match reasons.as_slice() {
        [one] => Failure::new(status.code().into(), format!("cannot {doing}: {one}")),
        several => {
            let noun = match status.code() {
                tonic::Code::InvalidArgument => "mistake",
                _ => "reason",
            };
            let number = plural(several.len() as u64, noun);
            Failure::new(status.code().into(), format!("cannot {doing}: {number}"))
                .hint(several.join("\n"))
        }
    };
    match patch.is_empty() {
        true => failure,
        false => failure.below(clean_patch(&patch.join("\n"))),
    }
}

fn broken(doing: &str, source: &dyn std::error::Error, server: &str) -> Failure {
    let why = clean(&causes(source));
    let failure = Failure::new(
        Code::Unreachable,
        format!("cannot {doing}: the connection to {server} broke: {why}"),
    );
    match server.strip_prefix("http://") {
        Some(address) => failure.hint(format!(
            "if the server speaks TLS: --server https://{address}"
        )),
        None => failure.hint("is the server still running? try again in a moment"),
    }
}

/// Whether something else than a gRPC server answered, e.g. a web server or the OpAMP port.
fn is_foreign(status: &Status) -> bool {
    let guessed = matches!(
        status.code(),
        tonic::Code::Unimplemented | tonic::Code::Internal | tonic::Code::Unknown
    );
    let message = status.message();
    guessed
        && (message.contains("mapped from HTTP status code")
            || message.contains("while receiving response with status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Error(&'static str);

    impl std::fmt::Display for Error {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Error {}

    #[test]
    fn each_way_not_to_connect_has_its_way_out() {
        for (cause, words) in [
            ("Connection refused (os error 111)", "`muster serve`"),
            (
                "received corrupt message of type InvalidContentType",
                "http://",
            ),
            ("invalid peer certificate: UnknownIssuer", "--ca-file FILE"),
            (
                "invalid peer certificate: certificate not valid for name \"a\"",
                "name of the certificate",
            ),
            ("invalid peer certificate: certificate expired", "renew"),
            ("something else", "MUSTER_SERVER"),
        ] {
            let failure = unreachable("https://a:1", &Error(cause));
            assert_eq!(failure.code(), Code::Unreachable);
            let text = failure.to_string();
            assert!(text.contains(words) && text.contains(cause), "{text}");
        }
    }

    #[test]
    fn several_mistakes_stand_on_a_line_each() {
        let status = Status::invalid_argument("a.yaml: one\nb.yaml: two");
        assert_eq!(
            refused("apply the manifests", &status, "http://a", false).to_string(),
            "error: cannot apply the manifests: 2 mistakes\n  a.yaml: one\n  b.yaml: two"
        );
    }

    #[test]
    fn refused_edit_ends_with_its_patch_as_it_is() {
        let status = Status::failed_precondition(
            "family a is owned by source git: commit the change there\n\n--- a/a.yaml\n+++ b/a.yaml\n@@ -1 +1 @@\n-x: 1 \n+x:\t2\n",
        );
        let failure = refused("apply the manifests", &status, "http://a", false);
        assert_eq!(failure.code(), Code::Conflict);
        assert_eq!(
            failure.to_string(),
            "error: cannot apply the manifests: family a is owned by source git: commit the change there\n\n--- a/a.yaml\n+++ b/a.yaml\n@@ -1 +1 @@\n-x: 1 \n+x:\t2"
        );
    }

    #[test]
    fn several_reasons_of_a_refusal_stand_on_a_line_each_and_are_no_mistakes() {
        let status = Status::failed_precondition("family a is git's\nfamily b is git's");
        assert_eq!(
            refused("apply the manifests", &status, "http://a", false).to_string(),
            "error: cannot apply the manifests: 2 reasons\n  family a is git's\n  family b is git's"
        );
    }

    #[test]
    fn missing_token_and_wrong_token_are_told_apart() {
        let status = Status::unauthenticated("a token is needed");
        let missing = refused("list agents", &status, "http://a", false).to_string();
        let wrong = refused("list agents", &status, "http://a", true).to_string();
        assert!(missing.contains("--token-file FILE"), "{missing}");
        assert!(wrong.contains("revoked"), "{wrong}");
    }

    #[test]
    fn web_server_is_not_taken_for_muster() {
        let status =
            Status::unimplemented("grpc-status header missing, mapped from HTTP status code 404");
        let failure = refused("list agents", &status, "http://a:4320", false);
        assert_eq!(failure.code(), Code::Unreachable);
        assert!(failure.to_string().contains("--api-listen"), "{failure}");
        let known = Status::unimplemented("no such method");
        assert_eq!(refused("x", &known, "http://a", false).code(), Code::Failed);
    }
}
