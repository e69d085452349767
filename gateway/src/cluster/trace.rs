//! A check-in's trace goes on at the node that is asked: what of the span that runs here is sent along.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};

/// The span that runs now, as W3C trace context writes it. Empty, and for nothing, where none is recorded.
pub fn traceparent() -> String {
    Context::map_current(|now| write(now.span().span_context()))
}

fn write(span: &SpanContext) -> String {
    if !span.is_valid() || !span.is_sampled() {
        return String::new();
    }
    // Version 00; the only flag that is set here is "sampled".
    format!("00-{}-{}-01", span.trace_id(), span.span_id())
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    fn span(flags: TraceFlags) -> SpanContext {
        let trace = TraceId::from_hex("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        let span = SpanId::from_hex("00f067aa0ba902b7").unwrap();
        SpanContext::new(trace, span, flags, false, TraceState::NONE)
    }

    /// The example of the recommendation; nodes read the same (`node/src/trace.rs`).
    #[test]
    fn a_span_that_is_recorded_is_named_as_w3c_says() {
        let named = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(write(&span(TraceFlags::SAMPLED)), named);
        let here = Context::new().with_remote_span_context(span(TraceFlags::SAMPLED));
        let _here = here.attach();
        assert_eq!(traceparent(), named);
    }

    #[test]
    fn a_span_that_nobody_records_is_not_named() {
        assert_eq!(traceparent(), "");
        assert_eq!(write(&span(TraceFlags::NOT_SAMPLED)), "");
    }
}
