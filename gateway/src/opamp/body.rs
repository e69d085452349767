//! Reads a request's body within size, pace and the global budget.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout_at;

use crate::budget::{Budget, Share};
use crate::limits::Limits;
use crate::opamp::inflate::{self, InflateError};
use crate::opamp::negotiate::{self, Encoding};
use crate::opamp::pace::Pace;

/// A body that is refused while it arrives is read on for so long, so that its sender sees the answer rather than a reset.
const DISCARD: Duration = Duration::from_secs(5);
/// Compressed bodies from this size are inflated away from the threads that serve connections.
const INFLATE_ASIDE_BYTES: usize = 64 * 1024;

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// The budget is spent.
    Budget,
    /// Too slow, or not there in time.
    Late,
    /// The connection broke.
    Broken,
    UnknownEncoding,
    NotGzip,
}

/// The bare message and its share of the budget.
pub async fn receive(
    headers: &HeaderMap,
    body: Incoming,
    budget: &Budget,
    limits: &std::sync::Arc<Limits>,
) -> Result<(Bytes, Share), BodyError> {
    let encoding = negotiate::encoding(headers);
    if encoding == Encoding::Unknown {
        return Err(BodyError::UnknownEncoding);
    }
    let (bytes, mut share) = read(body, budget, limits).await?;
    if encoding == Encoding::Identity {
        return Ok((bytes, share));
    }
    if bytes.len() < INFLATE_ASIDE_BYTES {
        let inflated = inflate::inflate(&bytes, limits, &mut share)?;
        return Ok((inflated, share));
    }
    let limits = limits.clone();
    let aside =
        move || inflate::inflate(&bytes, &limits, &mut share).map(|inflated| (inflated, share));
    tokio::task::spawn_blocking(aside)
        .await
        .map_err(|_| BodyError::Broken)?
        .map_err(BodyError::from)
}

async fn read(
    mut body: Incoming,
    budget: &Budget,
    limits: &Limits,
) -> Result<(Bytes, Share), BodyError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limits.receive_bytes {
        discard(body, limits).await;
        return Err(BodyError::TooLarge);
    }
    // Looked at, not taken: an announcement costs its sender nothing, so it may hold nothing.
    if !budget.has(announced) {
        return Err(BodyError::Budget);
    }
    let mut share = budget.empty();
    match collect(&mut body, &mut share, limits).await {
        Ok(bytes) => Ok((bytes, share)),
        Err(error) => {
            if matches!(error, BodyError::TooLarge | BodyError::Budget) {
                drop(share);
                discard(body, limits).await;
            }
            Err(error)
        }
    }
}

/// Takes from the budget what arrives, when it arrives. Most bodies come in one piece, which is not copied.
async fn collect(
    body: &mut Incoming,
    share: &mut Share,
    limits: &Limits,
) -> Result<Bytes, BodyError> {
    let mut pace = Pace::new(limits);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = timeout_at(pace.due(), body.frame())
        .await
        .map_err(|_| BodyError::Late)?
    {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue;
        };
        pace.arrived(data.len());
        let before = first.len().max(all.len());
        if before + data.len() > limits.receive_bytes {
            return Err(BodyError::TooLarge);
        }
        if !share.grow(data.len()) {
            return Err(BodyError::Budget);
        }
        if before == 0 {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

async fn discard(mut body: Incoming, limits: &Limits) {
    let reading = async {
        let mut left = limits.receive_bytes;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _late = tokio::time::timeout(DISCARD, reading).await;
}

// === impl BodyError ===

impl From<InflateError> for BodyError {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::TooLarge => BodyError::TooLarge,
            InflateError::Budget => BodyError::Budget,
            InflateError::Malformed => BodyError::NotGzip,
        }
    }
}
