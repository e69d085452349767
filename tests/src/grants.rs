//! What the offers that a fleet has recorded say of the server: none was repeated without a reason, and none was begun
//! after somebody had been told that no more would be.
//!
//! A fleet records what reached its agents. An answer that was lost on the way is no offer here, and its repetition the
//! first.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_loadtest::stats::{Offer, Report};
use proto::opamp::RemoteConfigStatuses;
use proto::uid::Uid;

/// A grant may be written for so long, so the first of two offers may have come that much later than it was decided.
const GRANT: Duration = Duration::from_secs(2);

/// From a write that was begun to its record at an agent, in one process on a loaded machine.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// What a person has done about one config, and when, by the fleet's clock.
#[derive(Clone, Debug)]
pub struct Act {
    pub hash: Vec<u8>,
    pub at: Duration,
}

/// What explains offers, and what forbids them.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    /// An offer that was not answered for so long may be made once more.
    pub timeout: Duration,
    /// It may be offered again.
    pub retried: Vec<Act>,
    /// It is not offered any more: `halt`, `pause` or `rollback` was acknowledged.
    pub halted: Vec<Act>,
}

/// Offers that nothing explains, in words. Empty: all is well.
pub fn unexplained(offers: &[Offer], reports: &[Report], acts: &Acts) -> Vec<String> {
    let mut last: BTreeMap<(Uid, &[u8]), Duration> = BTreeMap::new();
    let mut found = Vec::new();
    for offer in offers {
        let (uid, at, hash) = (offer.uid, offer.at, offer.hash.as_slice());
        let name = hex::encode(hash);
        if let Some(before) = last.insert((uid, hash), at)
            && !is_explained(offer, before, reports, acts)
        {
            found.push(format!(
                "agent {uid} was offered {name} at {before:?} and again at {at:?}, without an answer, timeout or retry between"
            ));
        }
        let halted = acts.halted.iter().find(|act| act.hash == hash);
        if let Some(halt) = halted.filter(|halt| at > halt.at + UNDER_WAY) {
            found.push(format!(
                "agent {uid} was offered {name} at {at:?}, which was stopped at {:?}",
                halt.at
            ));
        }
    }
    found
}

fn is_explained(offer: &Offer, before: Duration, reports: &[Report], acts: &Acts) -> bool {
    let between = |at: Duration| before <= at && at <= offer.at;
    let answered = reports.iter().any(|report| {
        report.uid == offer.uid
            && report.hash == offer.hash
            && report.status != RemoteConfigStatuses::Unset
            && between(report.at)
    });
    let retried = acts
        .retried
        .iter()
        .any(|act| act.hash == offer.hash && between(act.at));
    answered || retried || offer.at.saturating_sub(before) + GRANT >= acts.timeout
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"a";

    fn uid(n: u8) -> Uid {
        Uid::from_wire(&[n; 16]).unwrap()
    }

    fn seconds(at: u64) -> Duration {
        Duration::from_secs(at)
    }

    fn offer(agent: u8, hash: &[u8], at: u64) -> Offer {
        Offer {
            agent: agent.into(),
            uid: uid(agent),
            hash: hash.to_vec(),
            at: seconds(at),
        }
    }

    fn report(agent: u8, hash: &[u8], status: RemoteConfigStatuses, at: u64) -> Report {
        Report {
            agent: agent.into(),
            uid: uid(agent),
            hash: hash.to_vec(),
            status,
            error: String::new(),
            at: seconds(at),
        }
    }

    fn act(hash: &[u8], at: u64) -> Act {
        Act {
            hash: hash.to_vec(),
            at: seconds(at),
        }
    }

    fn acts() -> Acts {
        Acts {
            timeout: seconds(20),
            ..Acts::default()
        }
    }

    #[test]
    fn each_agent_and_each_config_is_another_matter() {
        let offers = [offer(1, A, 1), offer(2, A, 1), offer(1, b"b", 2)];
        assert_eq!(unexplained(&offers, &[], &acts()), Vec::<String>::new());
    }

    #[test]
    fn a_second_offer_needs_an_answer_a_timeout_or_a_retry_between() {
        let offers = [offer(1, A, 1), offer(1, A, 4)];
        let found = unexplained(&offers, &[], &acts());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("and again at 4s"), "{found:?}");

        let applied = RemoteConfigStatuses::Applied;
        let answered = [report(1, A, applied, 2)];
        assert!(unexplained(&offers, &answered, &acts()).is_empty());
        let retried = Acts {
            retried: vec![act(A, 3)],
            ..acts()
        };
        assert!(unexplained(&offers, &[], &retried).is_empty());
        let late = [offer(1, A, 1), offer(1, A, 21)];
        assert!(unexplained(&late, &[], &acts()).is_empty());
    }

    #[test]
    fn what_others_say_or_was_said_before_explains_nothing() {
        let offers = [offer(1, A, 3), offer(1, A, 5)];
        let applied = RemoteConfigStatuses::Applied;
        let said = [
            report(1, A, applied, 2),
            report(1, A, applied, 6),
            report(1, b"b", applied, 4),
            report(2, A, applied, 4),
            report(1, A, RemoteConfigStatuses::Unset, 4),
        ];
        let retried = Acts {
            retried: vec![act(b"b", 4), act(A, 2)],
            ..acts()
        };
        assert_eq!(unexplained(&offers, &said, &retried).len(), 1);
    }

    #[test]
    fn nothing_is_offered_after_its_halt_was_acknowledged() {
        let halted = Acts {
            halted: vec![act(A, 5)],
            ..acts()
        };
        let offers = [offer(1, A, 5), offer(2, b"b", 9)];
        assert!(unexplained(&offers, &[], &halted).is_empty());
        let found = unexplained(&[offer(1, A, 6)], &[], &halted);
        assert!(
            found[0].contains("at 6s, which was stopped at 5s"),
            "{found:?}"
        );
    }
}
