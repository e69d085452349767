//! What the gateway counts. Each counter is one atomic, looked up by nobody on the hot path.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// All metrics of one gateway. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    check_ins: Family<Labels, Counter>,
    /// Check-ins answered from memory.
    pub memory: Counter,
    /// Check-ins that were reported to a leader.
    pub reported: Counter,
    /// Retries answered with the stored answer.
    pub retried: Counter,
    refusals: Family<Labels, Counter>,
    /// Refused, by reason.
    pub refused: Refused,
    connections: Family<Labels, Gauge>,
    /// Open connections that speak HTTP.
    pub http_connections: Gauge,
    /// Open connections that speak WebSocket.
    pub ws_connections: Gauge,
    /// Bytes of messages being received and handled.
    pub in_flight_bytes: Gauge,
    /// Sessions in memory.
    pub sessions: Gauge,
    /// Reports that are under way to leaders.
    pub reports_in_flight: Gauge,
    /// Sessions let go because another gateway serves their agents now.
    pub moved: Counter,
    /// Orders to WebSocket connections that had too many waiting. The pending bit stays.
    pub orders_dropped: Counter,
    /// Sessions given up because the table was full.
    pub evicted: Counter,
    /// Agents asked for because their leader had something for them.
    pub pushes: Counter,
    /// Offers not written because their grant had run out.
    pub grants_expired: Counter,
    /// Answers not written because they were over the limit.
    pub oversized_answers: Counter,
    /// Requests whose header named another uid than their body.
    pub uid_mismatches: Counter,
    /// WebSocket connections dropped because the peer was silent.
    pub silent: Counter,
    /// Connections dropped because the peer took no bytes.
    pub slow: Counter,
    /// Times that accepting stopped until a connection had gone.
    pub accepting_paused: Counter,
}

/// Why something was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Missing or unknown token.
    pub unauthorised: Counter,
    /// Foreign Host or Origin.
    pub foreign: Counter,
    /// Not a message, or one over a limit of structure.
    pub malformed: Counter,
    /// Over the size limit.
    pub too_large: Counter,
    /// A request header over the size limit (HTTP/1.1; HTTP/2 answers 431 where nobody can count).
    pub header: Counter,
    /// A body in an encoding other than gzip and identity.
    pub encoding: Counter,
    /// A body or WebSocket message too slow, or not there in time.
    pub late: Counter,
    /// A body that broke off.
    pub broken: Counter,
    /// Too many agents on one WebSocket connection.
    pub agents: Counter,
    /// Over the global budget of bytes.
    pub bytes: Counter,
    /// Over the limit of reports in flight.
    pub reports: Counter,
    /// Over the limit of connections.
    pub connections: Counter,
    /// Too many messages of one agent at a time.
    pub queue: Counter,
    /// No leader.
    pub unavailable: Counter,
    /// The leader sheds load.
    pub overloaded: Counter,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything under `muster_gateway_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("muster_gateway");
        registry.register(
            "check_ins",
            "Messages of agents, by how they were answered",
            self.check_ins.clone(),
        );
        registry.register("refused", "Refused, by reason", self.refusals.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "in_flight_bytes",
            "Bytes of messages being handled",
            self.in_flight_bytes.clone(),
        );
        registry.register("sessions", "Sessions in memory", self.sessions.clone());
        registry.register(
            "reports_in_flight",
            "Reports that are under way to leaders",
            self.reports_in_flight.clone(),
        );
        let counters = [
            (
                "sessions_evicted",
                "Sessions given up because the table was full",
                &self.evicted,
            ),
            (
                "sessions_moved",
                "Sessions let go because another gateway serves their agents now",
                &self.moved,
            ),
            (
                "orders_dropped",
                "Orders to WebSocket connections that had too many waiting",
                &self.orders_dropped,
            ),
            (
                "pushes",
                "Agents asked for because their leader had something for them",
                &self.pushes,
            ),
            (
                "grants_expired",
                "Offers not written because their grant had run out",
                &self.grants_expired,
            ),
            (
                "oversized_answers",
                "Answers not written because they were over the limit",
                &self.oversized_answers,
            ),
            (
                "uid_mismatches",
                "Requests whose header named another uid than their body",
                &self.uid_mismatches,
            ),
            (
                "silent_connections",
                "WebSocket connections dropped because the peer was silent",
                &self.silent,
            ),
            (
                "slow_connections",
                "Connections dropped because the peer took no bytes",
                &self.slow,
            ),
            (
                "accepting_paused",
                "Times that accepting stopped until a connection had gone",
                &self.accepting_paused,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let check_ins = Family::<Labels, Counter>::default();
        let path = |value| check_ins.get_or_create_owned(&[("path", value)]);
        let refusals = Family::<Labels, Counter>::default();
        let connections = Family::<Labels, Gauge>::default();
        let transport = |value| connections.get_or_create_owned(&[("transport", value)]);
        Metrics {
            memory: path("memory"),
            reported: path("reported"),
            retried: path("retry"),
            refused: Refused::of(&refusals),
            http_connections: transport("http"),
            ws_connections: transport("websocket"),
            in_flight_bytes: Gauge::default(),
            sessions: Gauge::default(),
            reports_in_flight: Gauge::default(),
            moved: Counter::default(),
            orders_dropped: Counter::default(),
            evicted: Counter::default(),
            pushes: Counter::default(),
            grants_expired: Counter::default(),
            oversized_answers: Counter::default(),
            uid_mismatches: Counter::default(),
            silent: Counter::default(),
            slow: Counter::default(),
            accepting_paused: Counter::default(),
            check_ins,
            refusals,
            connections,
        }
    }
}

// === impl Refused ===

impl Refused {
    fn of(family: &Family<Labels, Counter>) -> Self {
        let reason = |value| family.get_or_create_owned(&[("reason", value)]);
        Refused {
            unauthorised: reason("unauthorised"),
            foreign: reason("foreign"),
            malformed: reason("malformed"),
            too_large: reason("too_large"),
            header: reason("header"),
            encoding: reason("encoding"),
            late: reason("late"),
            broken: reason("broken"),
            agents: reason("agents"),
            bytes: reason("bytes"),
            reports: reason("reports"),
            connections: reason("connections"),
            queue: reason("queue"),
            unavailable: reason("unavailable"),
            overloaded: reason("overloaded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_prints_every_metric_with_its_labels() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.memory.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("muster_gateway_check_ins_total{path=\"memory\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("muster_gateway_refused_total{reason=\"bytes\"} 0"),
            "{text}"
        );
        assert!(
            text.contains("muster_gateway_connections{transport=\"websocket\"} 0"),
            "{text}"
        );
    }
}
