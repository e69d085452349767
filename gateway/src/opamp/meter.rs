//! The bytes of a WebSocket message that is still arriving: charged to the global budget, and watched for their pace.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::budget::{Budget, Share};
use crate::limits::Limits;
use crate::opamp::boundary::Boundary;
use crate::opamp::pace::Pace;

/// So much of a message is free: an idle check-in has less than 100 bytes, and shall touch nothing that all share.
const FREE_BYTES: usize = 4 * 1024;

/// A stream that fails when the budget is spent, or the peer too slow.
pub struct Metered<S> {
    inner: S,
    budget: Budget,
    limits: Arc<Limits>,
    boundary: Boundary,
    /// Bytes of messages that were read and not taken away by `message`.
    held: usize,
    share: Option<Share>,
    /// Of the message that is unfinished.
    pace: Option<Pace>,
    /// Runs while more of that message is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    let_go: bool,
}

// === impl Metered ===

impl<S> Metered<S> {
    /// Charges what is read from `inner`.
    pub fn new(inner: S, budget: Budget, limits: Arc<Limits>) -> Self {
        Metered {
            inner,
            budget,
            limits,
            boundary: Boundary::default(),
            held: 0,
            share: None,
            pace: None,
            timer: None,
            let_go: false,
        }
    }

    /// A message is complete; its share goes with it. What was read beyond it stays here.
    pub fn message(&mut self) -> Option<Share> {
        self.held = self.boundary.open_bytes();
        self.share.take()
    }

    /// A share for a small message, which came free, but is kept longer than it takes to look at it.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        self.budget.take(bytes)
    }

    /// The unfinished message has not kept its pace.
    pub fn is_late(&self) -> bool {
        self.pace.is_some_and(|pace| pace.due() <= Instant::now())
    }

    /// Nothing was read for a while that is not the peer's fault: the unfinished message has its time anew.
    pub fn excuse(&mut self) {
        if self.pace.is_some() {
            self.pace = Some(Pace::new(&self.limits));
        }
    }

    /// From now on what is read is thrown away, and costs nothing.
    pub fn let_go(&mut self) {
        self.share = None;
        self.pace = None;
        self.let_go = true;
    }

    /// Nothing has come. Asked only then, so that what came while nobody read counts before the time does.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pace) = self.pace else {
            self.timer = None;
            return Poll::Pending;
        };
        let due = pace.due();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the message did not arrive in time",
        )))
    }

    /// Says whether the budget had enough.
    fn charge(&mut self, bytes: &[u8]) -> bool {
        if self.let_go {
            return true;
        }
        self.held += self.boundary.follow(bytes);
        if self.boundary.is_whole() {
            self.pace = None;
        } else {
            let limits = &self.limits;
            let pace = self.pace.get_or_insert_with(|| Pace::new(limits));
            pace.arrived(bytes.len());
        }
        if self.held <= FREE_BYTES {
            return true;
        }
        let share = self.share.get_or_insert_with(|| self.budget.empty());
        share.grow(self.held.saturating_sub(share.bytes()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.inner).poll_read(cx, buf);
        if poll.is_pending() {
            return this.wait(cx);
        }
        if !this.charge(&buf.filled()[before..]) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "too many bytes in flight",
            )));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    /// A masked binary frame of so many bytes.
    fn frame(payload: u8) -> Vec<u8> {
        let mut frame = vec![0x82, 0x80 | payload, 0, 0, 0, 0];
        frame.extend(vec![0; usize::from(payload)]);
        frame
    }

    fn metered(budget: &Budget) -> Metered<()> {
        Metered::new((), budget.clone(), Arc::default())
    }

    #[test]
    fn small_messages_and_control_frames_never_touch_the_budget() {
        let mut meter = metered(&Budget::new(0, Gauge::default()));
        for _ in 0..1000 {
            assert!(meter.charge(&frame(100)));
            assert!(meter.message().is_none());
            let pong = [0x8a, 0x82, 0, 0, 0, 0, 1, 2];
            assert!(meter.charge(&pong));
            assert!(meter.held == 0 && meter.pace.is_none());
        }
    }

    #[test]
    fn an_unfinished_message_is_charged_from_its_first_bytes_on_once_it_is_not_small() {
        let gauge = Gauge::default();
        let mut meter = metered(&Budget::new(10_000, gauge.clone()));
        let head = [0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0];
        assert!(meter.charge(&head) && meter.charge(&[0; 4000]));
        assert_eq!(gauge.get(), 0);
        assert!(meter.pace.is_some() && !meter.is_late());
        assert!(meter.charge(&[0; 1000]));
        assert_eq!(gauge.get(), 5008);
        assert!(!meter.charge(&[0; 5000]));
    }

    #[test]
    fn what_was_read_beyond_a_message_stays_charged_with_the_next() {
        let gauge = Gauge::default();
        let mut meter = metered(&Budget::new(100_000, gauge.clone()));
        let mut bytes = vec![0x82, 0xfe, 0x20, 0x00, 0, 0, 0, 0];
        bytes.extend([0; 0x2000]);
        bytes.extend([0x02, 0xfe, 0x40, 0x00, 0, 0, 0, 0, 1, 2, 3]);
        assert!(meter.charge(&bytes));
        let share = meter.message();
        assert_eq!((meter.held, gauge.get()), (11, bytes.len() as i64));
        drop(share);
        assert!(meter.charge(&[0; 5000]));
        assert_eq!(gauge.get(), 5011);
    }
}
