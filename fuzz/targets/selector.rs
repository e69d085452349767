//! A selector: what is accepted can be printed, read again, and means the same.
#![no_main]

use fleet::selector::Selector;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(selector) = Selector::parse(text) {
        let printed = selector.to_string();
        match Selector::parse(&printed) {
            Ok(again) => assert_eq!(again, selector, "printed as {printed:?}"),
            Err(error) => panic!("printed as {printed:?}, which is refused: {error}"),
        }
    }
});
