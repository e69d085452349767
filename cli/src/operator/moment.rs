//! Points in time and revisions, as people name them on the command line. All times are UTC.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;

/// What is said about text that is no time.
const NO_TIME: &str =
    "neither a time of today (14:02, UTC) nor a date with or without one (2026-09-01T14:02:00Z)";
const DAY_MS: u64 = 24 * 3_600_000;

/// A moment by the calendar or by the clock of today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// In ms since 1970.
    At(u64),
    /// So many ms after the midnight with which today began.
    Today(u64),
}

/// A moment that is over, which may also be named by how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Ago(Duration),
    Point(Point),
}

/// When something that is set for a time ends.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
pub struct Ends {
    /// When it ends
    #[arg(long, value_name = "TIME", value_parser = Point::parse)]
    until: Option<Point>,
    /// How long it lasts: 2h, 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
}

// === impl Ends ===

impl Ends {
    /// In ms since 1970, for what begins then.
    pub fn at_ms(self, begins_ms: u64, now_ms: u64) -> u64 {
        let lasts = self.lasts.map_or(0, millis);
        self.until
            .map_or(begins_ms.saturating_add(lasts), |until| until.at_ms(now_ms))
    }
}

// === impl Point ===

impl Point {
    /// Reads `14:02`, `2026-09-01`, `2026-09-01T14:02Z`.
    pub fn parse(text: &str) -> Result<Point, String> {
        if humantime::parse_duration(text).is_ok() {
            return Err("this is a length of time, not a time".to_owned());
        }
        let on_a_day = |clock: &str| rfc3339(&format!("1970-01-01T{clock}"));
        let today = on_a_day(text).or_else(|| on_a_day(&format!("{text}:00")));
        if let Some(ms) = today {
            return Ok(Point::Today(ms));
        }
        let date = text.trim_end_matches('Z');
        let spelled = [
            text.to_owned(),
            format!("{date}:00Z"),
            format!("{date}T00:00:00Z"),
        ];
        let at = spelled.iter().find_map(|text| rfc3339(text));
        at.map(Point::At).ok_or_else(|| NO_TIME.to_owned())
    }

    /// In ms since 1970.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Point::At(at_ms) => at_ms,
            Point::Today(ms) => now_ms - now_ms % DAY_MS + ms,
        }
    }
}

// === impl Moment ===

impl Moment {
    /// Reads what [`Point::parse`] reads, and `2h` for two hours ago.
    pub fn parse(text: &str) -> Result<Moment, String> {
        match humantime::parse_duration(text) {
            Ok(ago) => Ok(Moment::Ago(ago)),
            Err(_) => match Point::parse(text) {
                Ok(point) => Ok(Moment::Point(point)),
                Err(_) => Err(format!("no duration (2h), and {NO_TIME}")),
            },
        }
    }

    /// In ms since 1970.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Moment::Ago(ago) => now_ms.saturating_sub(millis(ago)),
            Moment::Point(point) => point.at_ms(now_ms),
        }
    }
}

/// A length of time in ms.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The number of a revision, written as `4` or as lists show it, `r4`.
pub fn revision(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('r').unwrap_or(text).parse();
    number.map_err(|_| "a revision is a number: 4, or r4".to_owned())
}

fn rfc3339(text: &str) -> Option<u64> {
    let at = humantime::parse_rfc3339_weak(text).ok()?;
    Some(millis(at.duration_since(UNIX_EPOCH).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_788_264_000_000; // 2026-09-01T12:00:00Z

    fn at(text: &str) -> u64 {
        Moment::parse(text).unwrap().at_ms(NOON)
    }

    #[test]
    fn moment_is_a_duration_back_a_time_of_today_or_a_date() {
        assert_eq!(at("2h"), NOON - 7_200_000);
        assert_eq!(at("14:02"), NOON + 7_320_000);
        assert_eq!(at("00:00:07"), NOON - 12 * 3_600_000 + 7_000);
        for same in [
            "2026-09-01T14:02:00Z",
            "2026-09-01 14:02:00",
            "2026-09-01T14:02Z",
            "2026-09-01 14:02",
        ] {
            assert_eq!(at(same), NOON + 7_320_000, "{same}");
        }
        assert_eq!(at("2026-09-01"), NOON - 12 * 3_600_000);
        assert_eq!(at("1970-01-01T00:00:02Z"), 2_000);
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_would_be() {
        for text in ["yesterday", "25:00", "2026-13-01", "", "14", "Z"] {
            let refused = Moment::parse(text).unwrap_err();
            assert!(refused.contains("14:02, UTC"), "{text}: {refused}");
        }
        assert!(Point::parse("2h").unwrap_err().contains("length of time"));
    }

    #[test]
    fn revision_is_written_as_lists_show_it_or_as_a_number() {
        assert_eq!((revision("4"), revision("r4")), (Ok(4), Ok(4)));
        for text in ["", "r", "four", "-1"] {
            assert!(revision(text).is_err(), "{text}");
        }
    }
}
