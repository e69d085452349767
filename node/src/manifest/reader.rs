//! Reads fields of a YAML map and collects what is wrong with them.

use fleet::value::{Map, Value};

/// Collects mistakes while fields are read.
#[derive(Default)]
pub struct Reader {
    /// In the order of reading.
    pub mistakes: Vec<String>,
}

// === impl Reader ===

impl Reader {
    /// One more mistake.
    pub fn mistake(&mut self, message: impl Into<String>) {
        self.mistakes.push(message.into());
    }

    /// The value as a map.
    pub fn map<'v>(&mut self, value: &'v Value, at: &str) -> Option<&'v Map> {
        let map = value.as_map();
        if map.is_none() {
            self.mistake(format!("{at} is {}: a map is needed", value.kind()));
        }
        map
    }

    /// Refuses keys that nobody reads: mostly typing errors.
    pub fn known(&mut self, map: &Map, at: &str, keys: &[&str]) {
        for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
            self.mistake(format!(
                "{at} has an unknown key `{key}`: known are {}",
                keys.join(", ")
            ));
        }
    }

    /// A map under a key.
    pub fn field<'v>(&mut self, map: &'v Map, at: &str, key: &str) -> Option<&'v Map> {
        match map.get(key) {
            Some(value) => self.map(value, &join(at, key)),
            None => {
                self.mistake(format!("{} is missing", join(at, key)));
                None
            }
        }
    }

    /// A text; numbers and booleans are taken as written.
    pub fn text(&mut self, map: &Map, at: &str, key: &str) -> Option<String> {
        let text = self.optional(map, at, key);
        if text.is_none() && !map.contains_key(key) {
            self.mistake(format!("{} is missing", join(at, key)));
        }
        text
    }

    /// A text that may be absent.
    pub fn optional(&mut self, map: &Map, at: &str, key: &str) -> Option<String> {
        match map.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            other => {
                self.mistake(format!(
                    "{} is {}: a text is needed",
                    join(at, key),
                    other.kind()
                ));
                None
            }
        }
    }

    /// An element of a list that is a text.
    pub fn word(&mut self, value: &Value, at: &str) -> Option<String> {
        let word = value.as_str().map(str::to_owned);
        if word.is_none() {
            self.mistake(format!("{at} is {}: a text is needed", value.kind()));
        }
        word
    }

    /// A list that may be absent.
    pub fn list<'v>(&mut self, map: &'v Map, at: &str, key: &str) -> &'v [Value] {
        match map.get(key) {
            None => &[],
            Some(Value::List(list)) => list,
            Some(other) => {
                self.mistake(format!(
                    "{} is {}: a list is needed",
                    join(at, key),
                    other.kind()
                ));
                &[]
            }
        }
    }
}

/// `a` and `b` as a path for people.
pub fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.to_owned()
    } else {
        format!("{at}.{key}")
    }
}
