//! CPU seconds of a process, from `/proc/PID/stat`.

/// Ticks per second of the fields below; 100 on every Linux that is in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// Two processes' CPU clocks, read at the start.
pub struct Clocks {
    client: Option<f64>,
    server: Option<(u32, f64)>,
}

// === impl Clocks ===

impl Clocks {
    pub fn start(server: Option<u32>) -> Self {
        let client = seconds(std::process::id());
        Clocks {
            client,
            server: server.and_then(|pid| Some((pid, seconds(pid)?))),
        }
    }

    /// CPU seconds of this process and of the server since the start; None where it cannot be read.
    pub fn used(&self) -> (Option<f64>, Option<f64>) {
        let client = self
            .client
            .and_then(|then| Some(seconds(std::process::id())? - then));
        let server = self
            .server
            .and_then(|(pid, then)| Some(seconds(pid)? - then));
        (client, server)
    }
}

/// User and system time of `pid` so far.
fn seconds(pid: u32) -> Option<f64> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 14 and 15 of proc(5); the name in field 2 may contain spaces and parentheses.
fn parse(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_ticks_are_found_behind_an_awkward_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(parse(stat), Some(2.0));
        assert!(seconds(std::process::id()).is_some());
    }
}
