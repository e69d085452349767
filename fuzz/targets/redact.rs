//! A config that an agent reports: redacting twice is redacting once, as a tree and as text.
#![no_main]

use fleet::redact::{redact, redact_text};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let once = redact_text(text);
    assert_eq!(redact_text(&once), once);
    if let Ok(document) = proto::yaml::parse(text) {
        let once = redact(&document);
        assert_eq!(redact(&once), once);
    }
});
