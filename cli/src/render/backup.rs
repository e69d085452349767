//! Backups.

use crate::operator::backup::Made;
use crate::render::Look;
use crate::render::table::table;
use crate::render::text::{clean, plural, short, thousands, timestamp};

/// One line that says what it is of, then its groups.
pub fn made(made: &Made, _: &Look) -> String {
    let of = match made.name.as_str() {
        "" => short(&made.cluster).to_owned(),
        name => format!("{} ({})", clean(name), short(&made.cluster)),
    };
    let restored = match made.incarnation {
        0 => String::new(),
        times => format!(", restored {} before", plural(times.into(), "time")),
    };
    let groups = made.groups.iter().map(|group| {
        vec![
            clean(&group.name),
            thousands(group.applied),
            thousands(group.rows),
        ]
    });
    format!(
        "backup of cluster {of}, made {} by version {}{restored}\n{}, {} bytes, {}\n\n{}",
        timestamp(made.at_ms),
        clean(&made.version),
        plural(made.groups.len() as u64, "group"),
        thousands(made.bytes),
        match made.encrypted {
            true => "encrypted",
            false => "not encrypted",
        },
        table(&["GROUP", ">APPLIED", ">KEYS"], groups)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::backup::Group;

    #[test]
    fn a_backup_says_of_what_and_when_it_was_made() {
        let made = made(
            &Made {
                cluster: "0f3a91c2d4e500112233445566778899".into(),
                name: "prod".into(),
                incarnation: 1,
                at_ms: 1_700_000_000_000,
                version: "0.1.0".into(),
                bytes: 12_345,
                encrypted: true,
                groups: vec![Group {
                    name: "control".into(),
                    applied: 1_234,
                    rows: 56,
                }],
            },
            &Look::default(),
        );
        assert!(
            made.starts_with("backup of cluster prod (0f3a91c2"),
            "{made}"
        );
        assert!(made.contains("restored 1 time before"), "{made}");
        assert!(made.contains("1 group, 12,345 bytes, encrypted"), "{made}");
    }
}
