//! Reads the text of a selector, left to right, one character ahead, without recursion.

use super::term::{Order, Term, Test, is_key_char, is_value_char};
use super::{Error, Selector, TERMS_MAX, TEXT_BYTES_MAX, VALUES_MAX, Version};
use std::collections::BTreeSet;

const KEY: &str = "expected a key (letters, digits and ._/-)";
const VALUE: &str = "expected a value: letters, digits and ._/:@+- or a text in double quotes";
const OPERATOR: &str = "expected =, !=, in, notin, <, <=, >, >= or a comma before the next term";

pub(super) fn selector(text: &str) -> Result<Selector, Error> {
    let mut reader = Reader { text, at: 0 };
    if text.len() > TEXT_BYTES_MAX {
        return Err(reader.error_at(
            0,
            format!(
                "expected at most {TEXT_BYTES_MAX} bytes, this has {}",
                text.len()
            ),
        ));
    }
    reader.skip_space();
    if reader.is_at_end() {
        return Err(reader.error("expected a term; to match every agent write *"));
    }
    if reader.take("*") {
        reader.skip_space();
        let rest = reader
            .error("expected nothing after *, which matches every agent: remove it or the rest");
        return if reader.is_at_end() {
            Ok(Selector::all())
        } else {
            Err(rest)
        };
    }
    let selector = Selector {
        terms: reader.terms()?,
    };
    let canonical = selector.to_string().len();
    if canonical > TEXT_BYTES_MAX {
        let expected = format!(
            "expected at most {TEXT_BYTES_MAX} bytes, written out in full this has {canonical}"
        );
        return Err(reader.error_at(0, expected));
    }
    Ok(selector)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn terms(&mut self) -> Result<Vec<Term>, Error> {
        let mut terms: Vec<Term> = Vec::new();
        loop {
            self.skip_space();
            if terms.len() == TERMS_MAX {
                return Err(self.error(format!("expected at most {TERMS_MAX} terms")));
            }
            let term = self.term(terms.last().map(|term| term.key.as_str()))?;
            let bare = term.test == Test::Exists;
            terms.push(term);
            self.skip_space();
            if self.is_at_end() {
                return Ok(terms);
            }
            if !self.take(",") {
                return Err(self.error(if bare {
                    OPERATOR
                } else {
                    "expected a comma before the next term, or the end"
                }));
            }
        }
    }

    fn term(&mut self, previous: Option<&str>) -> Result<Term, Error> {
        if self.text[self.at..].starts_with(['<', '>']) {
            let key = previous
                .ok_or_else(|| self.error(format!("{KEY} before the comparison")))?
                .to_owned();
            return Ok(Term {
                key,
                test: self.test()?,
            });
        }
        if self.take("!") {
            self.skip_space();
            return Ok(Term {
                key: self.key()?,
                test: Test::Missing,
            });
        }
        Ok(Term {
            key: self.key()?,
            test: self.test()?,
        })
    }

    /// What comes behind the key; nothing asks whether the key exists.
    fn test(&mut self) -> Result<Test, Error> {
        self.skip_space();
        if self.take("!=") {
            return Ok(Test::NotEqual(self.value()?));
        }
        if self.take("==") || self.take("=") {
            return Ok(Test::Equal(self.value()?));
        }
        for (sign, order) in [
            ("<=", Order::LessOrEqual),
            ("<", Order::Less),
            (">=", Order::GreaterOrEqual),
            (">", Order::Greater),
        ] {
            if self.take(sign) {
                return Ok(Test::Version(order, self.version()?));
            }
        }
        let start = self.at;
        match self.word(is_key_char) {
            "in" => Ok(Test::In(self.set()?)),
            "notin" => Ok(Test::NotIn(self.set()?)),
            "" => Ok(Test::Exists),
            _ => Err(self.error_at(start, OPERATOR)),
        }
    }

    fn key(&mut self) -> Result<String, Error> {
        match self.word(is_key_char) {
            "" if self.text[self.at..].starts_with('*') => {
                Err(self.error("expected * by itself: it matches every agent, so no other term can stand beside it"))
            }
            "" => Err(self.error(KEY)),
            key => Ok(key.to_owned()),
        }
    }

    fn set(&mut self) -> Result<BTreeSet<String>, Error> {
        self.skip_space();
        if !self.take("(") {
            return Err(self.error("expected ( and the values, e.g. (prod, staging)"));
        }
        let mut values = BTreeSet::new();
        loop {
            if values.len() == VALUES_MAX {
                return Err(self.error(format!("expected at most {VALUES_MAX} values")));
            }
            values.insert(self.value()?);
            self.skip_space();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.error("expected a comma and the next value, or ) to end them"));
            }
        }
    }

    fn version(&mut self) -> Result<Version, Error> {
        self.skip_space();
        let start = self.at;
        let value = self.value()?;
        let expected = "expected a version such as 0.150, v1.2.3 or 0.150.0-rc1; < and > compare versions only";
        Version::parse(&value).ok_or_else(|| self.error_at(start, expected))
    }

    fn value(&mut self) -> Result<String, Error> {
        self.skip_space();
        if self.take("\"") {
            return self.quoted();
        }
        match self.word(is_value_char) {
            "" => Err(self.error(VALUE)),
            value => Ok(value.to_owned()),
        }
    }

    /// The rest of a quoted value, behind its opening quote.
    fn quoted(&mut self) -> Result<String, Error> {
        let start = self.at - 1;
        let mut value = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += offset + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => {
                        return Err(self.error_at(
                            self.at + offset,
                            "expected \\\" or \\\\: a \\ stands only before \" or \\",
                        ));
                    }
                },
                c => value.push(c),
            }
        }
        Err(self.error_at(start, "expected a closing \" for this one"))
    }

    fn word(&mut self, belongs: fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let word = &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn error(&self, expected: impl Into<String>) -> Error {
        self.error_at(self.at, expected)
    }

    fn error_at(&self, at: usize, expected: impl Into<String>) -> Error {
        Error {
            text: self.text.to_owned(),
            at,
            expected: expected.into(),
        }
    }
}
