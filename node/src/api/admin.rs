//! Tokens, audit and the server itself.

use std::ops::ControlFlow;

use fleet::governance::actor::Act;
use proto::api;
use proto::api::admin_service_server::AdminService;
use proto::store::{self, ActRecord};
use rand::RngCore;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, broken, not_stored};
use crate::ledger::{Ledger, Mirror, act, entry, now_ms, once, put, table};

const AUDIT: usize = 100;
const AUDIT_MAX: usize = 10_000;

/// Entries of an export that wait for its reader.
const EXPORTED: usize = 256;

/// A new secret: 256 random bits behind a prefix that scanners for leaked secrets can know.
pub fn new_secret() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    format!("muster_{}", hex::encode(bytes))
}

fn token_view(t: &store::Token) -> api::Token {
    api::Token {
        name: t.name.clone(),
        kind: t.kind.clone(),
        labels: t.labels.clone(),
        created_ms: t.created_ms,
        expires_ms: t.expires_ms,
        revoked_ms: t.revoked_ms,
        created_by: t.created_by.clone(),
        role: t.role.clone(),
    }
}

fn entry_view(group: &str, record: ActRecord) -> api::AuditEntry {
    let act = record.act.unwrap_or_default();
    api::AuditEntry {
        group: group.to_owned(),
        seq: record.seq,
        hash: hex::encode(&record.hash),
        actor: act.actor,
        action: act.action,
        object: act.object,
        detail: act.detail,
        at_ms: act.at_ms,
        prev: String::new(),
    }
}

fn is_wanted(act: &store::Act, request: &api::ListAuditRequest) -> bool {
    act.object.starts_with(&request.object)
        && act.action.starts_with(&request.action)
        && (request.actor.is_empty() || act.actor == request.actor)
        && is_within(act.at_ms, request.since_ms, request.until_ms)
}

/// Both ends count; an end of 0 is open.
fn is_within(at_ms: u64, since_ms: u64, until_ms: u64) -> bool {
    at_ms >= since_ms && (until_ms == 0 || at_ms <= until_ms)
}

fn check_span(since_ms: u64, until_ms: u64) -> Result<(), Status> {
    if until_ms == 0 || since_ms <= until_ms {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "nothing is between since_ms {since_ms} and until_ms {until_ms}: swap them, or leave one out"
    )))
}

/// An entry with the hash of the one before it, so that the chain can be recomputed.
fn exported(group: &str, record: ActRecord) -> api::AuditEntry {
    let prev = hex::encode(&record.prev);
    api::AuditEntry {
        prev,
        ..entry_view(group, record)
    }
}

/// Sends a group's entries of this time, oldest first. Break: nobody listens any more, or the group cannot be read.
fn export<M: Mirror>(
    ledger: &Ledger<M>,
    span: &api::ExportAuditRequest,
    send: &Sender<Result<api::AuditEntry, Status>>,
) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    let read = ledger.each_audit(|record| {
        let at_ms = record.act.as_ref().map_or(0, |act| act.at_ms);
        if is_within(at_ms, span.since_ms, span.until_ms) {
            let sent = send.blocking_send(Ok(exported(ledger.name(), record)));
            flow = sent.map_or(ControlFlow::Break(()), ControlFlow::Continue);
        }
        flow
    });
    if let Err(error) = read {
        let _ = send.blocking_send(Err(broken(&error)));
        return ControlFlow::Break(());
    }
    flow
}

fn audit_of<M: Mirror>(
    ledger: &Ledger<M>,
    limit: usize,
    request: &api::ListAuditRequest,
) -> Result<Vec<api::AuditEntry>, Status> {
    let wanted = |record: &ActRecord| {
        record
            .act
            .as_ref()
            .is_some_and(|act| is_wanted(act, request))
    };
    let found = ledger
        .audit(limit, wanted)
        .map_err(|error| broken(&error))?;
    Ok(found
        .into_iter()
        .map(|record| entry_view(ledger.name(), record))
        .collect())
}

fn verified<M: Mirror>(ledger: &Ledger<M>) -> Result<api::VerifyAuditResponse, Status> {
    let group = ledger.name().to_owned();
    Ok(match ledger.verify().map_err(|error| broken(&error))? {
        Ok(head) => api::VerifyAuditResponse {
            group,
            entries: head.seq,
            head: head.digest.to_hex(),
            intact: true,
            problem: String::new(),
        },
        Err(problem) => api::VerifyAuditResponse {
            group,
            intact: false,
            problem: problem.to_string(),
            ..Default::default()
        },
    })
}

fn group_info<M: Mirror>(ledger: &Ledger<M>, agents: u64) -> api::GroupInfo {
    let status = ledger.group().status();
    api::GroupInfo {
        name: ledger.name().to_owned(),
        term: status.leadership.term,
        applied: status.applied.unwrap_or(0),
        leader: status.leadership.leader == Some(status.node),
        agents,
    }
}

#[tonic::async_trait]
impl AdminService for Api {
    async fn create_token(
        &self,
        request: Request<api::CreateTokenRequest>,
    ) -> Result<Response<api::CreateTokenResponse>, Status> {
        let actor = self.actor(&request, Act::ManageTokens)?;
        let request = request.into_inner();
        fleet::family::check_name("token", &request.name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let role = match (request.kind.as_str(), request.role.as_str()) {
            ("agent", "") => "",
            ("operator", "" | "viewer") => "viewer",
            ("operator", role @ ("editor" | "approver" | "admin")) => role,
            ("agent", _) => {
                return Err(Status::invalid_argument(
                    "a token of kind agent has no role: leave it out",
                ));
            }
            ("operator", role) => {
                return Err(Status::invalid_argument(format!(
                    "there is no role `{role}`: use viewer, editor, approver or admin"
                )));
            }
            (kind, _) => {
                return Err(Status::invalid_argument(format!(
                    "there is no token kind `{kind}`: use agent or operator"
                )));
            }
        };
        let before = self
            .node
            .control
            .read()
            .tokens
            .get(&request.name)
            .map(|t| (t.version, t.value.revoked_ms));
        let version = match before {
            None => 0,
            Some((version, revoked)) if revoked != 0 => version,
            Some(_) => {
                let text = format!(
                    "token `{}` exists: revoke it first, or choose another name",
                    request.name
                );
                return Err(Status::already_exists(text));
            }
        };
        let secret = new_secret();
        let token = store::Token {
            name: request.name.clone(),
            secret_hash: proto::token::secret_hash(&secret).to_vec(),
            labels: request.labels,
            kind: request.kind,
            role: role.to_owned(),
            created_ms: now_ms(),
            expires_ms: if request.expires_in_s == 0 {
                0
            } else {
                now_ms().saturating_add(request.expires_in_s.saturating_mul(1000))
            },
            revoked_ms: 0,
            created_by: actor.clone(),
        };
        let detail = format!(
            "kind {}{}",
            token.kind,
            if role.is_empty() {
                String::new()
            } else {
                format!(", role {role}")
            }
        );
        let acts = vec![act(
            &actor,
            "token.create",
            format!("token/{}", token.name),
            detail,
        )];
        let change = entry(
            vec![put(table::TOKEN, token.name.as_str(), version, &token)],
            acts,
        );
        self.node
            .control_ledger
            .propose(change)
            .await
            .map_err(|error| not_stored(&error))?;
        Ok(Response::new(api::CreateTokenResponse {
            token: Some(token_view(&token)),
            secret,
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<api::ListTokensRequest>,
    ) -> Result<Response<api::ListTokensResponse>, Status> {
        self.actor(&request, Act::ManageTokens)?;
        let tokens = self
            .node
            .control
            .read()
            .tokens
            .values()
            .map(|t| token_view(&t.value))
            .collect();
        Ok(Response::new(api::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<api::RevokeTokenRequest>,
    ) -> Result<Response<api::Token>, Status> {
        let actor = self.actor(&request, Act::ManageTokens)?;
        let request = request.into_inner();
        let found = self.node.control.read().tokens.get(&request.name).cloned();
        let found = found.ok_or_else(|| {
            Status::not_found(format!(
                "there is no token `{}`: list them with `muster tokens list`",
                request.name
            ))
        })?;
        if found.value.revoked_ms != 0 {
            return Ok(Response::new(token_view(&found.value)));
        }
        let token = store::Token {
            revoked_ms: now_ms(),
            ..store::Token::clone(&found.value)
        };
        let acts = vec![act(
            &actor,
            "token.revoke",
            format!("token/{}", token.name),
            String::new(),
        )];
        let entry = store::Entry {
            idempotency_key: once("token.revoke", &token.name, &request.idempotency_key),
            ..entry(
                vec![put(
                    table::TOKEN,
                    token.name.as_str(),
                    found.version,
                    &token,
                )],
                acts,
            )
        };
        self.node
            .control_ledger
            .propose(entry)
            .await
            .map_err(|error| not_stored(&error))?;
        Ok(Response::new(token_view(&token)))
    }

    async fn list_audit(
        &self,
        request: Request<api::ListAuditRequest>,
    ) -> Result<Response<api::ListAuditResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let request = request.into_inner();
        check_span(request.since_ms, request.until_ms)?;
        let limit = if request.limit == 0 {
            AUDIT
        } else {
            (request.limit as usize).min(AUDIT_MAX)
        };
        let mut entries = audit_of(&self.node.control_ledger, limit, &request)?;
        for partition in self.node.partitions.iter() {
            entries.extend(audit_of(&partition.ledger, limit, &request)?);
        }
        entries.sort_by(|a, b| {
            b.at_ms
                .cmp(&a.at_ms)
                .then_with(|| a.group.cmp(&b.group))
                .then_with(|| b.seq.cmp(&a.seq))
        });
        entries.truncate(limit);
        Ok(Response::new(api::ListAuditResponse { entries }))
    }

    type VerifyAuditStream = ReceiverStream<Result<api::VerifyAuditResponse, Status>>;

    async fn verify_audit(
        &self,
        request: Request<api::VerifyAuditRequest>,
    ) -> Result<Response<Self::VerifyAuditStream>, Status> {
        self.actor(&request, Act::Read)?;
        let (send, receive) = tokio::sync::mpsc::channel(4);
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || {
            if send.blocking_send(verified(&node.control_ledger)).is_err() {
                return;
            }
            for partition in node.partitions.iter() {
                if send.blocking_send(verified(&partition.ledger)).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn server_info(
        &self,
        request: Request<api::ServerInfoRequest>,
    ) -> Result<Response<api::ServerInfoResponse>, Status> {
        self.actor(&request, Act::Read)?;
        let mut info = api::ServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        info.groups.push(group_info(&self.node.control_ledger, 0));
        for partition in self.node.partitions.iter() {
            let columns = partition.index().read();
            let rows = || columns.rows.values().filter(|row| !row.alias);
            info.agents += rows().count() as u64;
            info.connected += rows()
                .filter(|row| row.link == store::Link::Connected)
                .count() as u64;
            info.groups
                .push(group_info(&partition.ledger, rows().count() as u64));
        }
        info.epoch = self.node.control.read().epoch().0;
        Ok(Response::new(info))
    }

    type ExportAuditStream = ReceiverStream<Result<api::AuditEntry, Status>>;

    async fn export_audit(
        &self,
        request: Request<api::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        self.actor(&request, Act::Read)?;
        let span = request.into_inner();
        check_span(span.since_ms, span.until_ms)?;
        let (send, receive) = tokio::sync::mpsc::channel(EXPORTED);
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || {
            let mut flow = export(&node.control_ledger, &span, &send);
            for partition in node.partitions.iter() {
                if flow.is_continue() {
                    flow = export(&partition.ledger, &span, &send);
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

#[cfg(test)]
mod tests {
    use fleet::audit::{Entry, Head, Record, Verifier, append};
    use fleet::digest::Digest;

    use super::*;

    fn record(at_ms: u64) -> store::Act {
        store::Act {
            actor: "alice".into(),
            action: "rollout.start".into(),
            object: "rollout/ro-1".into(),
            detail: "12 members".into(),
            at_ms,
        }
    }

    #[test]
    fn a_span_has_both_its_ends_and_an_end_of_zero_is_open() {
        let within = |since, until| [9, 10, 20, 21].map(|at| is_within(at, since, until));
        assert_eq!(within(10, 20), [false, true, true, false]);
        assert_eq!(within(0, 20), [true, true, true, false]);
        assert_eq!(within(10, 0), [false, true, true, true]);
        assert!(check_span(10, 10).is_ok());
        assert!(check_span(11, 10).is_err());
        assert!(check_span(11, 0).is_ok());
    }

    #[test]
    fn a_list_is_narrowed_by_object_action_actor_and_time() {
        let all = api::ListAuditRequest::default();
        let narrow = [
            api::ListAuditRequest {
                object: "rollout/".into(),
                ..all.clone()
            },
            api::ListAuditRequest {
                action: "rollout.".into(),
                ..all.clone()
            },
            api::ListAuditRequest {
                until_ms: 10,
                ..all.clone()
            },
        ];
        assert!(narrow.iter().all(|request| is_wanted(&record(10), request)));
        let other = [
            api::ListAuditRequest {
                action: "offer.".into(),
                ..all.clone()
            },
            api::ListAuditRequest {
                actor: "ali".into(),
                ..all.clone()
            },
            api::ListAuditRequest { until_ms: 9, ..all },
        ];
        assert!(!other.iter().any(|request| is_wanted(&record(10), request)));
    }

    #[test]
    fn an_exported_chain_can_be_recomputed() {
        let mut head = Head::genesis("control");
        let mut verifier = Verifier::after(head);
        for at_ms in [10, 20] {
            let act = record(at_ms);
            let content = Record {
                actor: act.actor.clone(),
                action: act.action.clone(),
                object: act.object.clone(),
                detail: act.detail.clone(),
                at_ms,
            };
            let (next, entry) = append(head, content);
            head = next;
            let stored = ActRecord {
                seq: entry.seq,
                prev: entry.prev.as_bytes().to_vec(),
                hash: entry.digest.as_bytes().to_vec(),
                act: Some(act),
            };
            let told = exported("control", stored);
            let hash = |text: &str| text.parse::<Digest>().unwrap();
            let read = Entry {
                seq: told.seq,
                prev: hash(&told.prev),
                digest: hash(&told.hash),
                record: Record {
                    actor: told.actor,
                    action: told.action,
                    object: told.object,
                    detail: told.detail,
                    at_ms: told.at_ms,
                },
            };
            assert_eq!(verifier.check(&read), Ok(()));
        }
        assert_eq!(verifier.finish(head), Ok(()));
    }
}
