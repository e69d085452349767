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
        self.kept(question).unwrap_or_else(|| {
            let answer = ask();
            self.keep(question, answer);
            answer
        })
    }

    /// What is kept of this question; none: it was not asked, or another one since.
    pub(crate) fn kept(&self, question: u32) -> Option<u32> {
        let kept = self.0.load(Ordering::Relaxed);
        (kept >> 32 == u64::from(question)).then_some(kept as u32)
    }

    /// Keeps what was answered to this question.
    pub(crate) fn keep(&self, question: u32, answer: u32) {
        let kept = u64::from(question) << 32 | u64::from(answer);
        self.0.store(kept, Ordering::Relaxed);
    }
}

impl Clone for Answer {
    fn clone(&self) -> Self {
        Answer(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}
