//! A draft that is checked once more, at somebody's word.

use proto::api;
use proto::store;
use tonic::Status;

use super::super::{Api, not_stored};
use super::apply::{check_again, spec_of};
use super::show::summary;
use crate::checks;
use crate::control::{Doc, Documents};
use crate::ledger::{entry, once};
use crate::manifest::{FamilySpec, Manifest};

impl Api {
    /// Checks a draft. It is validated if nothing is wrong with it any more, and refused with what is if not; either
    /// way, what was found stands with it.
    pub(super) async fn check_draft(
        &self,
        request: &api::ValidateRevisionRequest,
        actor: &str,
    ) -> Result<api::RevisionSummary, Status> {
        let (found, family) = draft(&self.node.control.read(), request)?;
        if !checks::is_draft(&found.value) {
            return Ok(summary(&found.value));
        }
        let name = &request.family;
        let mut seen = self.look(vec![family.clone()]).await?;
        let all = [Manifest::Family(family.clone())];
        let mut findings = checks::by_itself(&self.node.control.read(), &all, &[], &family);
        findings.extend(seen.remove(name).unwrap_or_default());
        let (write, act) = check_again(&found, &findings, actor);
        let checked = checks::checked(&found.value, &findings);
        let entry = store::Entry {
            idempotency_key: once("revision.validate", name, &request.idempotency_key),
            ..entry(vec![write], vec![act])
        };
        let proposed = self.node.control_ledger.propose(entry).await;
        proposed.map_err(|error| not_stored(&error))?;
        checks::draft_refusal(&checked).map_or_else(
            || Ok(summary(&checked)),
            |why| Err(Status::failed_precondition(why)),
        )
    }
}

/// The revision that is meant, as somebody has written it.
fn draft(
    documents: &Documents,
    request: &api::ValidateRevisionRequest,
) -> Result<(Doc<store::Revision>, FamilySpec), Status> {
    let name = &request.family;
    let family = documents.families.get(name).ok_or_else(|| {
        Status::not_found(format!(
            "there is no family `{name}`: list them with `muster families list`"
        ))
    })?;
    let found = documents.revision(name, request.revision).ok_or_else(|| {
        Status::not_found(format!(
            "family {name} has no revision {}: see `muster families get {name}`",
            request.revision
        ))
    })?;
    if !found.value.rejected.is_empty() {
        return Err(Status::failed_precondition(format!(
            "{name} revision {} was rejected {}: apply a new revision",
            found.value.number, found.value.rejected
        )));
    }
    let spec = spec_of(&family.value, &found.value);
    if spec.roles.len() < found.value.roles.len()
        || spec.policies.len() < found.value.policies.len()
    {
        return Err(Status::failed_precondition(format!(
            "{name} revision {} was written for a newer server: apply it again",
            found.value.number
        )));
    }
    Ok((found.clone(), spec))
}
