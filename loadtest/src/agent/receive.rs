//! What a simulated supervisor does with a message from the server, in the order of the client library.

use std::time::Duration;

use proto::opamp::{
    ConnectionSettingsOffers, OpAmpConnectionSettings, ServerToAgent, ServerToAgentFlags as Flag,
};
use proto::uid::Uid;

use super::client::Due;
use super::{Effect, Generation, Note, Settings, SimAgent, Wire, capability};

// === impl SimAgent: receiving ===

impl SimAgent {
    pub(super) fn receive(&mut self, reply: ServerToAgent, now: Duration, out: &mut Vec<Effect>) {
        self.answered(out);
        if let Some(error) = &reply.error_response {
            out.push(Effect::Log(Note::ErrorResponse(
                error.error_message.clone(),
            )));
        }
        if reply.command.is_some() && self.gate(capability::ACCEPTS_RESTART_COMMAND, "command", out)
        {
            // Everything else in a message with a command is ignored.
            out.push(Effect::Log(Note::CollectorRestarted));
            self.launch(now, out);
        } else {
            self.receive_fields(reply, now, out);
        }
        self.flush(now, out);
    }

    fn receive_fields(&mut self, reply: ServerToAgent, now: Duration, out: &mut Vec<Effect>) {
        if let Some(offer) = reply.remote_config
            && self.gate(capability::ACCEPTS_REMOTE_CONFIG, "remote_config", out)
        {
            self.offered(offer, now, out);
        }
        if let Some(identification) = reply.agent_identification {
            self.identified(&identification.new_instance_uid, now, out);
        }
        if reply.packages_available.is_some() {
            out.push(Effect::Log(Note::Ignored("packages_available")));
        }
        if let Some(offers) = reply.connection_settings {
            self.settings_offered(offers, now, out);
        }
        self.flags(reply.flags, out);
    }

    fn flags(&mut self, flags: u64, out: &mut Vec<Effect>) {
        if flags & Flag::ReportFullState as u64 != 0 {
            out.push(Effect::Log(Note::FullStateAsked));
            self.client.due = Due {
                components: self.client.due.components,
                ..Due::FULL
            };
        }
        if flags & Flag::ReportAvailableComponents as u64 != 0
            && self.gate(
                capability::REPORTS_AVAILABLE_COMPONENTS,
                "ReportAvailableComponents",
                out,
            )
        {
            out.push(Effect::Log(Note::ComponentsAsked));
            self.client.due.components = true;
        }
    }

    /// A new uid is written into the collector's config, hence the restart.
    fn identified(&mut self, bytes: &[u8], now: Duration, out: &mut Vec<Effect>) {
        match Uid::from_wire(bytes) {
            Ok(uid) if uid == self.disk.uid => {}
            Ok(uid) => {
                self.disk.uid = uid;
                out.push(Effect::Log(Note::UidAdopted(uid)));
                self.client.due.description = true;
                self.client.due.effective = true;
                self.launch(now, out);
            }
            Err(_) => out.push(Effect::Log(Note::Ignored("new_instance_uid"))),
        }
    }

    fn settings_offered(
        &mut self,
        offers: ConnectionSettingsOffers,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        let own = [&offers.own_metrics, &offers.own_traces, &offers.own_logs];
        if own.iter().any(|offer| offer.is_some()) || !offers.other_connections.is_empty() {
            out.push(Effect::Log(Note::Ignored(
                "own or other telemetry connections",
            )));
        }
        let known = !offers.hash.is_empty() && offers.hash == self.client.settings_hash;
        let Some(settings) = offers.opamp else { return };
        if self.options.generation == Generation::Main && known {
            return;
        }
        self.client.settings_hash = offers.hash;
        self.heartbeat(settings.heartbeat_interval_seconds, out);
        if self.gate(
            capability::ACCEPTS_OPAMP_CONNECTION_SETTINGS,
            "connection_settings.opamp",
            out,
        ) {
            self.reconnect_by(settings, now, out);
        }
    }

    /// Applied before the settings and whether or not those are accepted. Over HTTP 0 is refused.
    fn heartbeat(&mut self, seconds: u64, out: &mut Vec<Effect>) {
        if !self.has(capability::REPORTS_HEARTBEAT) {
            return;
        }
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds));
        if interval.is_none() && self.wire == Wire::Http {
            out.push(Effect::Log(Note::Ignored("heartbeat_interval_seconds = 0")));
            return;
        }
        if interval != self.client.interval {
            self.client.interval = interval;
            out.push(Effect::Log(Note::HeartbeatChanged(interval)));
            self.schedule_poll(out);
        }
    }

    /// A new client with what the offer holds and nothing of what it does not hold.
    fn reconnect_by(
        &mut self,
        settings: OpAmpConnectionSettings,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        let endpoint = settings.destination_endpoint;
        if endpoint.is_empty() {
            out.push(Effect::Log(Note::Ignored(
                "connection settings without an endpoint",
            )));
            return;
        }
        let headers = settings.headers.unwrap_or_default().headers;
        let headers = headers
            .into_iter()
            .map(|header| (header.key, header.value))
            .collect();
        if self.wire == Wire::Ws {
            self.farewell(out);
        }
        out.push(Effect::Log(Note::SettingsTaken {
            endpoint: endpoint.clone(),
        }));
        out.push(Effect::Reconnect(Some(Settings { endpoint, headers })));
        self.client.start_over();
        self.forget_health();
        self.flush(now, out);
    }

    fn gate(&self, bit: u64, what: &'static str, out: &mut Vec<Effect>) -> bool {
        if !self.has(bit) {
            out.push(Effect::Log(Note::Ignored(what)));
        }
        self.has(bit)
    }
}
