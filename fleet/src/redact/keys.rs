//! What a key says about its value.
//!
//! A key is read as words: `secretAccessKey`, `SECRET_ACCESS_KEY` and `secret-access-key` are `secret access key`.

/// What the key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The value is secret.
    Secret,
    /// The value is a DSN or connection string: a part of it is secret.
    Connection,
    /// The value is secret if it looks random: `key`, or any header.
    Material,
    Plain,
}

/// Words with spaces between them.
pub(super) struct Words(&'static str);

impl Words {
    pub(super) fn contains(&self, word: &str) -> bool {
        self.0.split(' ').any(|known| known == word)
    }
}

/// Wherever one of these stands, the value is secret.
const STRONG: Words = Words(
    "password passwords passwd passphrase passcode pwd secret secrets credential credentials \
    creds htpasswd apikey apikeys apitoken accesstoken authtoken authkey accesskey secretkey \
    privatekey sharedkey licensekey clientsecret bearer cookie jwt",
);
/// At the end of a key these make it secret.
const LAST: Words =
    Words("token tokens pass sig signature sas authorization community cookies psk hmac otp");
/// Before `key` these make it secret.
const QUALIFIERS: Words = Words(
    "access account api app application auth client consumer encryption hec hmac ingest \
    ingestion insert instrumentation integration licence license master private project \
    secret service session shared signing ssh storage subscription write",
);
/// Behind `key` or `token` these change nothing.
const FILLERS: Words = Words("pem value raw b64 base64 data json content string text");
/// At the end of a key these say that the value is no secret but is about one.
const ABOUT: Words = Words(
    "algorithm allowed arn attribute attributes audience authenticator bucket cache claim \
    count dir directory disabled duration enabled encoding endpoint expiration expiry field \
    file files format header id ids index interval length lifetime limit manager max method \
    min mode name names namespace path paths pattern patterns policy prefix provider ref \
    regex region required rotation scope scopes seconds selector size source store suffix \
    timeout ttl type uri url user username version",
);
/// Secret although they end like something that is only about a secret.
const EXACT: &[&str] = &[
    "secret id",
    "access key id",
    "aws access key id",
    "x honeycomb team",
    "honeycomb team",
];
/// Whole connection strings.
const CONNECTIONS: &[&str] = &[
    "dsn",
    "datasource",
    "data source",
    "data source name",
    "connection string",
    "connectionstring",
    "conn string",
    "connection url",
    "connection uri",
    "database url",
    "jdbc url",
];
/// A header with one of these words is secret.
pub(super) const HEADER_WORDS: Words =
    Words("auth authentication authorization key token license signature dsn session");
/// Longest key that is looked at, in bytes: longer is no name.
pub(super) const KEY_MAX: usize = 128;

/// What a key by itself says.
pub(super) fn class_of(key: &str) -> Class {
    classify(&words(key)).0
}

/// True for a key that is about a secret and holds none.
pub(super) fn is_about_key(key: &str) -> bool {
    is_about(&words(key))
}

/// The class, and whether even a number is secret.
pub(super) fn classify(words: &[String]) -> (Class, bool) {
    let all = words.join(" ");
    if EXACT.contains(&all.as_str()) {
        return (Class::Secret, true);
    }
    if CONNECTIONS
        .iter()
        .any(|ending| all == *ending || all.ends_with(&format!(" {ending}")))
    {
        return (Class::Connection, false);
    }
    if is_about(words) {
        return (Class::Plain, false);
    }
    if words.iter().any(|word| STRONG.contains(word)) {
        return (Class::Secret, true);
    }
    let fillers = words
        .iter()
        .rev()
        .take_while(|word| FILLERS.contains(word))
        .count();
    let (core, filled) = (&words[..words.len() - fillers], fillers > 0);
    match core {
        [.., last] if LAST.contains(last) => (Class::Secret, false),
        [.., qualifier, last] if is_key(last) && QUALIFIERS.contains(qualifier) => {
            (Class::Secret, true)
        }
        [.., last] if last == "key" && filled && words.iter().any(|word| word == "pem") => {
            (Class::Secret, false)
        }
        [.., last] if is_key(last) => (Class::Material, false),
        _ => (Class::Plain, false),
    }
}

pub(super) fn is_about(words: &[String]) -> bool {
    words.last().is_some_and(|last| ABOUT.contains(last))
        && !EXACT.contains(&words.join(" ").as_str())
}

fn is_key(word: &str) -> bool {
    matches!(word, "key" | "keys")
}

pub(super) fn qualifies(parent: &str) -> bool {
    words(parent)
        .last()
        .is_some_and(|word| QUALIFIERS.contains(word))
}

/// The words of a key, in lower case.
pub(super) fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    if key.len() > KEY_MAX {
        return Vec::new();
    }
    let mut before = ' ';
    for c in key.chars() {
        let begins = !c.is_alphanumeric() || c.is_uppercase() && before.is_lowercase();
        if begins && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_alphanumeric(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests;
