//! Durations as people write them.

/// The largest unit that says it whole.
pub fn duration_text(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_said_in_the_largest_unit_that_says_it_whole() {
        let said = [0, 500, 20_000, 90_000, 120_000, 7_200_000].map(duration_text);
        assert_eq!(said, ["0s", "500ms", "20s", "90s", "2m", "2h"]);
    }
}
