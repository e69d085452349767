//! What a sequence number says about the messages before it. Used by gateways and partition leaders alike.

use crate::opamp::AgentToServer;

/// 16 bytes that tell two messages of an agent apart.
pub type Digest = [u8; 16];

/// How a message follows the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next number: nothing was lost.
    Next,
    /// The same message again: its sender did not get the answer.
    Retry,
    /// A client that has just started and tells everything.
    Fresh,
    /// A message was lost, or the conversation is not known: full state is needed.
    Lost,
}

/// Judges message `number` with `digest` after (`last`, `last_digest`).
///
/// `fresh` says that the message carries a description under number 0 or 1, as clients do when they start.
/// A fresh start is no loss whatever came before, and a retry is one only with the same bytes.
pub fn judge(last: Option<(u64, &Digest)>, number: u64, digest: &Digest, fresh: bool) -> Verdict {
    match last {
        Some((last, last_digest)) if number == last && digest == last_digest => Verdict::Retry,
        _ if fresh => Verdict::Fresh,
        Some((last, _)) if number == last.wrapping_add(1) => Verdict::Next,
        _ => Verdict::Lost,
    }
}

/// Does the message look like the first one of a client that has just started?
pub fn is_fresh(message: &AgentToServer) -> bool {
    message.sequence_num <= 1 && message.agent_description.is_some()
}

/// Does the message say nothing but "still here", given the capabilities known of its sender?
pub fn is_idle(message: &AgentToServer, capabilities: u64) -> bool {
    let AgentToServer {
        instance_uid: _,
        sequence_num: _,
        agent_description: None,
        capabilities: stated,
        health: None,
        effective_config: None,
        remote_config_status: None,
        package_statuses: None,
        agent_disconnect: None,
        flags: 0,
        connection_settings_request: None,
        custom_capabilities: None,
        custom_message: _, // nothing here listens to custom messages
        available_components: None,
        connection_settings_status: None,
    } = message
    else {
        return false;
    };
    *stated == 0 || *stated == capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Digest = [1; 16];
    const B: Digest = [2; 16];

    #[test]
    fn the_next_number_is_no_loss_and_wraps() {
        assert_eq!(judge(Some((7, &A)), 8, &B, false), Verdict::Next);
        assert_eq!(judge(Some((u64::MAX, &A)), 0, &B, false), Verdict::Next);
    }

    #[test]
    fn the_same_number_is_a_retry_only_with_the_same_bytes() {
        assert_eq!(judge(Some((7, &A)), 7, &A, false), Verdict::Retry);
        assert_eq!(judge(Some((7, &A)), 7, &B, false), Verdict::Lost);
    }

    #[test]
    fn gaps_steps_back_and_unknown_agents_are_losses() {
        assert_eq!(judge(Some((7, &A)), 9, &B, false), Verdict::Lost);
        assert_eq!(judge(Some((7, &A)), 3, &B, false), Verdict::Lost);
        assert_eq!(judge(None, 7, &B, false), Verdict::Lost);
    }

    #[test]
    fn a_fresh_start_is_no_loss() {
        assert_eq!(judge(None, 0, &A, true), Verdict::Fresh);
        assert_eq!(judge(Some((99, &A)), 1, &B, true), Verdict::Fresh);
    }
}
