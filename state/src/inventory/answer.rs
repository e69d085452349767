//! What a row was asked last, with the answer, kept beside the row from one look to the next.
//!
//! An answer belongs to one row, which never changes: a changed agent has a new row, which was asked nothing yet. So
//! nothing has to be told of a change. What is forgotten is asked again.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of the last question above, its answer below. Number 0: it was asked nothing.
#[derive(Default, Debug)]
pub(crate) struct Answer(AtomicU64);

impl Answer {
    /// What is kept of this question, or else what `ask` says. Two questions with the same number are the same.
    pub(crate) fn to(&self, question: u32, ask: impl FnOnce() -> u32) -> u32 {
        let kept = self.0.load(Ordering::Relaxed);
        if kept >> 32 == u64::from(question) {
            return kept as u32;
        }
        let answer = ask();
        let kept = u64::from(question) << 32 | u64::from(answer);
        self.0.store(kept, Ordering::Relaxed);
        answer
    }
}

impl Clone for Answer {
    fn clone(&self) -> Self {
        Answer(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}
