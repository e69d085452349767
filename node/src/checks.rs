//! Every check that a revision has to pass: what is wrong with a family as it is written, and with the agents that there
//! are now. All findings at once; a revision is validated if no error is among them.

use fleet::census::Census;
use fleet::family::{ConfigMap, Role, check_precedence};
use fleet::source::Object;
use fleet::validate::{self, Policy, Severity, check_policies};
use proto::api::Finding;
use proto::store::{self, RevisionState};

use crate::control::Documents;
use crate::local::Node;
use crate::manifest::{FamilySpec, Manifest};
use crate::partition::merged_config;

/// Errors that a message repeats; all of them stand with the revision.
const ERRORS_TOLD: usize = 5;

const ERROR: &str = "error";
const WARNING: &str = "warning";

/// An error, of a role or of the whole family.
pub fn error(role: &str, message: String) -> Finding {
    finding(role, ERROR, message)
}

/// Something that is worth a look.
pub fn warning(role: &str, message: String) -> Finding {
    finding(role, WARNING, message)
}

fn finding(role: &str, severity: &str, message: String) -> Finding {
    Finding {
        severity: severity.to_owned(),
        message,
        role: role.to_owned(),
        ..Finding::default()
    }
}

/// Does it stand in the way of the revision?
pub fn is_error(finding: &Finding) -> bool {
    finding.severity == ERROR
}

/// Everything that stands in the way, a line each.
pub fn errors(family: &str, findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| match finding.role.as_str() {
        // What is about the whole family names it.
        "" => finding.message.clone(),
        role => format!("family {family}, role {role}: {}", finding.message),
    };
    findings.iter().filter(|f| is_error(f)).map(line).collect()
}

/// Has it not passed every check yet?
pub fn is_draft(revision: &store::Revision) -> bool {
    let unchecked = matches!(
        revision.state(),
        RevisionState::Unspecified | RevisionState::Draft
    );
    unchecked && revision.rejected.is_empty()
}

/// Why a draft is neither approved nor started, with the way out; none: it is no draft.
pub fn draft_refusal(revision: &store::Revision) -> Option<String> {
    let store::Revision { family, number, .. } = revision;
    is_draft(revision).then(|| {
        format!(
            "{family} revision {number} is a draft: {}; fix that and apply it again, or, if the cause has gone since, let \
             it be checked again with `muster families validate {family} --revision {number}`",
            summed(&errors(family, &found(revision)))
        )
    })
}

/// A few errors in a line.
pub fn summed(errors: &[String]) -> String {
    let more = errors.len().saturating_sub(ERRORS_TOLD);
    let told = errors.iter().take(ERRORS_TOLD).cloned();
    let more = (more > 0).then(|| format!("and {more} more"));
    match told.chain(more).collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => "its checks did not run".to_owned(),
        some => some,
    }
}

/// What the checks of a revision found when they last ran.
pub fn found(revision: &store::Revision) -> Vec<Finding> {
    let found = revision.findings.iter().cloned();
    let told = |store::Finding {
                    severity,
                    path,
                    message,
                    role,
                }| Finding {
        severity,
        path,
        message,
        role,
    };
    found.map(told).collect()
}

/// The same revision with what its checks have found now.
pub fn checked(revision: &store::Revision, findings: &[Finding]) -> store::Revision {
    let state = match findings.iter().any(is_error) {
        true => RevisionState::Draft,
        false => RevisionState::Validated,
    };
    let stored = findings.iter().map(|finding| store::Finding {
        severity: finding.severity.clone(),
        path: finding.path.clone(),
        message: finding.message.clone(),
        role: finding.role.clone(),
    });
    store::Revision {
        state: state.into(),
        findings: stored.collect(),
        ..revision.clone()
    }
}

/// What is to be said of a family without asking its agents: precedence, configs, and rules that count for every role.
/// `all` is sent with it, `gone` goes with it.
pub fn by_itself(
    documents: &Documents,
    all: &[Manifest],
    gone: &[&Object],
    family: &FamilySpec,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = same_precedence(documents, all, gone, family)
        .map(|message| error("", message))
        .into_iter()
        .collect();
    findings.extend(configs(family));
    findings
}

/// What is to be said of its configs by themselves.
pub fn configs(family: &FamilySpec) -> Vec<Finding> {
    let always: Vec<Policy> = family.policies.iter().filter(is_always).cloned().collect();
    let of_role = |role: &Role| {
        let mut found = config("config", &role.config, &always);
        if !role.baseline.is_empty() {
            found.extend(config("baseline", &role.baseline, &[]));
        }
        told(role, found)
    };
    family.roles.iter().flat_map(of_role).collect()
}

fn is_always(policy: &&Policy) -> bool {
    policy.only.is_none()
}

fn told(role: &Role, found: Vec<validate::Finding>) -> Vec<Finding> {
    let told = |found: validate::Finding| Finding {
        path: found.path.to_string(),
        ..match found.severity {
            Severity::Error => error(&role.name, found.message),
            Severity::Warning => warning(&role.name, found.message),
        }
    };
    found.into_iter().map(told).collect()
}

/// Against the families of this call as they are sent, and the others as they are and as their latest revision will have
/// them. A draft claims nothing.
fn same_precedence(
    documents: &Documents,
    all: &[Manifest],
    gone: &[&Object],
    family: &FamilySpec,
) -> Option<String> {
    let sent = all.iter().filter_map(|manifest| match manifest {
        Manifest::Family(other) => Some((other.name.as_str(), other.precedence)),
        _ => None,
    });
    let is_out = |name: &str| {
        sent.clone().any(|(other, _)| other == name)
            || gone.iter().any(|o| o.kind == "family" && o.name == name)
    };
    let stored = documents.families.values().flat_map(|found| {
        let name = found.value.name.as_str();
        let all = (name.to_owned(), 0)..=(name.to_owned(), u64::MAX);
        let newest_first = documents.revisions.range(all).rev().map(|(_, r)| &r.value);
        let latest = newest_first.into_iter().find(|r| !is_draft(r));
        // Without any that has passed, what is in force is a draft's, too.
        let both = latest.map(|latest| [found.value.precedence, latest.precedence]);
        both.into_iter().flatten().map(move |number| (name, number))
    });
    let stored = stored.filter(|(name, _)| !is_out(name));
    let others = stored.chain(sent.clone());
    let checked = check_precedence(&family.name, family.precedence, others);
    checked.err().map(|error| error.to_string())
}

fn config(what: &str, config: &ConfigMap, policies: &[Policy]) -> Vec<validate::Finding> {
    let error = |message: String| {
        vec![validate::Finding {
            severity: Severity::Error,
            path: fleet::value::Path::root(),
            message,
        }]
    };
    for (name, file) in config {
        if file.body.trim().is_empty() {
            return error(format!(
                "{what} `{name}` is empty, which would stop the collector: give it a body"
            ));
        }
        if let Err(found) = proto::yaml::parse(&file.body) {
            return error(format!("{what} `{name}` is no YAML: {found}"));
        }
    }
    let Some(config) = merged_config(config) else {
        return error(format!(
            "its {what} cannot be merged: each file has to be a map"
        ));
    };
    let mut findings = validate::validate(&config);
    findings.extend(check_policies(&config, policies));
    findings
}

/// Agents that match two roles of the family.
pub fn overlaps(family: &str, census: &Census<'_>) -> Vec<Finding> {
    let overlaps = census.overlaps(family).into_iter();
    overlaps
        .map(|overlap| error("", overlap.to_string()))
        .collect()
}

/// What is against rules with a condition that counts for a role, by the agents that it has now.
pub fn conditional(roles: &[Role], census: &Census<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, role) in roles.iter().enumerate() {
        let Some(config) = merged_config(&role.config) else {
            continue; // told already
        };
        for counting in census.conditional(i) {
            let mut found = check_policies(&config, std::slice::from_ref(counting.policy));
            for found in &mut found {
                found.message.push_str(&match counting.agent {
                    Some(agent) => format!("; {agent} is such an agent"),
                    None => format!("; {} selects such agents only", role.selector),
                });
            }
            findings.extend(told(role, found));
        }
    }
    findings
}

/// The fleet as it is now. Scans every agent, if there is anything to ask of them.
pub fn census<'a>(node: &Node, roles: &'a [Role], policies: &'a [Policy]) -> Census<'a> {
    let mut census = Census::of(roles, policies);
    if !census.asks() {
        return census;
    }
    for partition in node.partitions.iter() {
        let columns = partition.index().read();
        for row in columns.rows.values().filter(|row| !row.alias) {
            census.see(row, || row.name());
        }
    }
    census
}
