//! One agent's conversation with its leader: what is known before a report is evaluated, and what is afterwards.

use proto::edge::{Answer, Report, Session, Transport};
use proto::sequence::{Digest, is_fresh};
use proto::uid::Uid;

use super::evaluate::Evaluation;
use super::presence::Core;
use super::timing::GRANT_LIFE;

/// What presence knows of an agent that says something.
#[derive(Default)]
pub struct Known {
    /// Last number and digest.
    pub heard: Option<(u64, Digest)>,
    /// Full state was asked for so long ago.
    pub asked_ago: Option<u64>,
    /// It has lost a message, and was not asked.
    pub has_lost: bool,
    /// Two agents speak with its uid.
    pub duplicate: bool,
    /// Changes that were not written.
    pub skipped: Option<u64>,
}

// === impl Known ===

impl Known {
    /// Of the agent of this report. `has_lost`: by its gateway's word, as the leader before may have seen it.
    pub fn of(core: &mut Core, uid: Uid, report: &Report, has_lost: bool, now_ms: u64) -> Self {
        let duplicate = report.message.as_ref().is_some_and(|m| {
            core.sees_double(uid, m.sequence_num, report.connection, is_fresh(m), now_ms)
        });
        let spoke = report.message.is_some();
        let skipped = if spoke { core.owed(uid, now_ms) } else { None };
        Known {
            heard: core.last(uid),
            asked_ago: core.full_asked_ms_ago(uid, now_ms),
            has_lost: has_lost || core.has_lost(uid),
            duplicate,
            skipped,
        }
    }
}

/// A report was evaluated and what follows from it is stored: the conversation goes on from there.
pub fn handled(core: &mut Core, uid: Uid, report: &Report, evaluation: &Evaluation, now_ms: u64) {
    let Some(message) = &report.message else {
        return;
    };
    core.postpone_full(uid, evaluation.asks_full_later);
    if evaluation.told_all {
        core.told_full(uid);
    }
    core.handled(
        uid,
        message.sequence_num,
        report.digest.as_ref().try_into().unwrap_or_default(),
        (&report.gateway, report.connection),
        evaluation.asks_full,
        now_ms,
    );
}

/// Does this report go on where the conversation stood, as far as is known? `here`: by its gateway's session.
pub fn follows(core: &Core, uid: Uid, here: Option<u64>, number: Option<u64>) -> bool {
    let last = core.last(uid).map(|(number, _)| number).max(here);
    last.zip(number)
        .is_none_or(|(last, number)| last + 1 >= number)
}

/// What the gateway is told.
pub fn answer(report: &Report, evaluation: Evaluation) -> Answer {
    let many = evaluation.replies.len() > 1 && report.transport() != Transport::Websocket;
    let (number, digest) = match (&report.message, &report.session) {
        (Some(message), _) => (message.sequence_num, report.digest.clone()),
        (None, Some(session)) => (session.number, session.digest.clone()),
        (None, None) => (0, Default::default()),
    };
    let session = Session {
        number,
        digest,
        pending: evaluation.pending || many,
        capabilities: evaluation.capabilities,
        lost: evaluation.asks_full_later,
    };
    let grant_ms = if evaluation.offers {
        u32::try_from(GRANT_LIFE.as_millis()).unwrap_or(0)
    } else {
        0
    };
    Answer {
        replies: evaluation.replies,
        session: Some(session),
        grant_ms,
        new_instance_uid: evaluation
            .new_uid
            .map(|uid| uid.as_bytes().to_vec().into())
            .unwrap_or_default(),
        disconnect: evaluation.goodbye && report.transport() == Transport::Websocket,
    }
}
