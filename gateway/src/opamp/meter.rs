//! The bytes of a WebSocket message that is still arriving, charged to the global budget.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{Budget, Share};

/// So much of a message is free: nearly all messages are smaller, and the read buffer is there anyway.
const FREE_BYTES: usize = 64 * 1024;

/// A stream that fails when the budget is spent.
pub struct Metered<S> {
    inner: S,
    budget: Budget,
    since: usize,
    share: Option<Share>,
}

// === impl Metered ===

impl<S> Metered<S> {
    /// Charges what is read from `inner`.
    pub fn new(inner: S, budget: Budget) -> Self {
        Metered {
            inner,
            budget,
            since: 0,
            share: None,
        }
    }

    /// A message is complete; its share goes with it.
    pub fn message(&mut self) -> Option<Share> {
        self.since = 0;
        self.share.take()
    }

    fn charge(&mut self, bytes: usize) -> bool {
        self.since = self.since.saturating_add(bytes);
        if self.since <= FREE_BYTES {
            return true;
        }
        match &mut self.share {
            Some(share) => share.grow(bytes),
            None => {
                self.share = self.budget.take(self.since);
                self.share.is_some()
            }
        }
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
        if poll.is_ready() && !this.charge(buf.filled().len() - before) {
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
