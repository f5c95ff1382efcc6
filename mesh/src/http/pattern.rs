//! Regular expressions that users write: bounded in size, linear in time, over bytes.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes: what the Gateway API lets pass for a header's value.
const LONGEST: usize = 4096;
/// Most memory that a compiled expression, and its cache for each thread, may take.
const LARGEST: usize = 256 << 10;

/// An expression that matches whole values. `.` is any byte but a line feed; classes are ASCII.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    whole: Regex,
}

/// Why an expression is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected(pub String);

impl Pattern {
    /// Compiles an expression.
    pub fn new(text: &str) -> Result<Self, Rejected> {
        if text.len() > LONGEST {
            return Err(Rejected(format!("longer than {LONGEST} bytes")));
        }
        // By itself first: `a)|(?:b` is no expression, but would be one inside of the anchors.
        compiled(text)?;
        let whole = compiled(&format!(r"\A(?:{text})\z"))?;
        Ok(Self {
            text: text.into(),
            whole,
        })
    }

    /// Whether it matches the whole value.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.whole.is_match(value)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn compiled(text: &str) -> Result<Regex, Rejected> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(LARGEST)
        .dfa_size_limit(LARGEST)
        .build()
        .map_err(|error| Rejected(error.to_string()))
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a regular expression that can be used: {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_whole_values_of_any_bytes() {
        for (text, value, matches) in [
            ("a+", &b"aaa"[..], true),
            ("a+", b"aab", false),
            ("a+", b"baa", false),
            ("a|b", b"b", true),
            ("a|b", b"bc", false),
            ("(?i)chrome.*", b"Chrome/1", true),
            (".*", b"\xff\xfe", true),
            ("[^x]+", b"\x80y", true),
            ("", b"", true),
            ("", b"a", false),
            ("a", b"a\n", false),
        ] {
            let pattern = Pattern::new(text).unwrap();
            assert_eq!(
                pattern.matches(value),
                matches,
                "{text} {}",
                value.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_broken_or_too_large_is_refused() {
        for text in [
            "(",
            "a)|(?:b",
            "*",
            r"(a)\1",
            "(?=a)",
            "(a{1000}){1000}",
            &"a".repeat(4097),
        ] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
