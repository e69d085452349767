//! Reads a request's body within size, time and the global budget.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::budget::{Budget, Share};
use crate::limits::Limits;
use crate::opamp::inflate::{self, InflateError};
use crate::opamp::negotiate::{self, Encoding};

/// A body that is too large is read on for so long, so that its sender sees the answer rather than a reset.
const DISCARD: Duration = Duration::from_secs(5);
/// Compressed bodies from this size are inflated away from the threads that serve connections.
const INFLATE_ASIDE_BYTES: usize = 64 * 1024;

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// The budget is spent.
    Budget,
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
    let mut share = budget.take(announced).ok_or(BodyError::Budget)?;
    match tokio::time::timeout(
        limits.body_timeout,
        collect(&mut body, announced, &mut share, limits),
    )
    .await
    {
        Err(_) => Err(BodyError::Late),
        Ok(Ok(bytes)) => Ok((bytes, share)),
        Ok(Err(error)) => {
            if error == BodyError::TooLarge {
                drop(share);
                discard(body, limits).await;
            }
            Err(error)
        }
    }
}

/// Most bodies come in one piece, which is not copied.
async fn collect(
    body: &mut Incoming,
    announced: usize,
    share: &mut Share,
    limits: &Limits,
) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue;
        };
        let before = if all.is_empty() {
            first.len()
        } else {
            all.len()
        };
        let size = before + data.len();
        if size > limits.receive_bytes {
            return Err(BodyError::TooLarge);
        }
        if !share.grow(size.saturating_sub(announced.max(before))) {
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
