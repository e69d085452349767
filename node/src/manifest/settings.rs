//! A family's settings in words: what it does by itself.

use fleet::program::OwnerChange;
use fleet::{components, drift, versions};

use crate::control::Settings;

/// What follows when somebody else claims an agent.
pub fn owner_change_word(policy: OwnerChange) -> &'static str {
    match policy {
        OwnerChange::Ask => "ask",
        OwnerChange::Auto => "auto",
    }
}

/// What follows a drift.
pub fn drift_word(policy: drift::Policy) -> &'static str {
    match policy {
        drift::Policy::Report => "report",
        drift::Policy::ReOffer => "re-offer",
    }
}

/// What follows from a component that a build lacks.
pub fn missing_word(policy: components::Policy) -> &'static str {
    match policy {
        components::Policy::Exclude => "exclude",
        components::Policy::Block => "block",
    }
}

/// A version policy; empty: every version is allowed.
pub fn versions_text(policy: &versions::Policy) -> String {
    let versions::Policy {
        from,
        below,
        behind_max,
    } = policy;
    let parts = [
        from.as_ref().map(|version| format!("from {version}")),
        below.as_ref().map(|version| format!("below {version}")),
        behind_max.map(|max| format!("at most {max} releases behind the newest")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn parts(settings: &Settings) -> [(&'static str, String); 4] {
    let Settings {
        owner_change,
        drift,
        versions,
        missing,
    } = settings;
    let versions = match versions_text(versions) {
        any if any.is_empty() => "any".to_owned(),
        some => some,
    };
    [
        ("owner change", owner_change_word(*owner_change).to_owned()),
        ("drift", drift_word(*drift).to_owned()),
        ("missing components", missing_word(*missing).to_owned()),
        ("versions", versions),
    ]
}

/// Equal for equal settings only. Revision hashes cover it: see the test before a word is changed.
pub fn settings_text(settings: &Settings) -> String {
    let parts = parts(settings).map(|(key, value)| format!("{key} {value}"));
    parts.join(", ")
}

/// `owner change auto instead of ask`; empty: nothing changes.
pub fn settings_change(before: &Settings, after: &Settings) -> String {
    let (before, after) = (parts(before), parts(after));
    let both = before.into_iter().zip(after);
    let changes = both
        .filter(|((_, before), (_, after))| before != after)
        .map(|((key, before), (_, after))| format!("{key} {after} instead of {before}"));
    changes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_that_revision_hashes_cover_stay_as_they_are() {
        let all = Settings {
            owner_change: OwnerChange::Auto,
            drift: drift::Policy::ReOffer,
            versions: versions::Policy {
                from: fleet::selector::Version::parse("0.150.0"),
                below: fleet::selector::Version::parse("0.160.0"),
                behind_max: Some(2),
            },
            missing: components::Policy::Block,
        };
        assert_eq!(
            settings_text(&all),
            "owner change auto, drift re-offer, missing components block, versions from 0.150.0, below 0.160.0, at most \
             2 releases behind the newest"
        );
        let auto = Settings {
            owner_change: OwnerChange::Auto,
            ..Settings::default()
        };
        assert_eq!(
            settings_change(&Settings::default(), &auto),
            "owner change auto instead of ask"
        );
        assert_eq!(settings_change(&all, &all), "");
    }
}
