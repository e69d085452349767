//! A check-in's trace began at its gateway: what that has said of its span, as the parent of what is done here.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

/// What the spans of a report belong to. Of a gateway that has named none, or nothing that can be read: to nothing.
pub fn parent(traceparent: &str) -> Context {
    match read(traceparent) {
        Some(span) => Context::new().with_remote_span_context(span),
        None => Context::new(),
    }
}

/// W3C trace context, version 00, which says how long each part is.
fn read(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    if version != "00" || lengths != [2, 32, 16, 2] || parts.next().is_some() {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let read = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    read.is_valid().then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the recommendation; gateways write the same (`gateway/src/cluster/trace.rs`).
    const NAMED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_a_gateway_names_is_the_parent() {
        let parent = parent(NAMED);
        let span = parent.span().span_context().clone();
        assert_eq!(
            (span.trace_id().to_string(), span.span_id().to_string()),
            (NAMED[3..35].to_owned(), NAMED[36..52].to_owned())
        );
        assert!(span.is_remote() && span.is_sampled());
    }

    #[test]
    fn what_is_no_span_is_nobodys_parent() {
        let zeros = format!("00-{}-{}-01", "0".repeat(32), "0".repeat(16));
        let long = format!("{NAMED}-more");
        let other = NAMED.replacen("00-", "01-", 1);
        let wrong = NAMED.replacen("4b", "4x", 1);
        let short = &NAMED[..NAMED.len() - 1];
        for text in ["", "-", "---", &zeros, &long, &other, &wrong, short] {
            assert!(!parent(text).has_active_span(), "{text}");
        }
    }
}
