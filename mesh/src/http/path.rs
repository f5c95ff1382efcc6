//! The path of a request: the one spelling that is routed on, decided on and forwarded.
//!
//! That is the normal form of RFC 3986 §6.2.2. Some spellings stay ambiguous in it, because servers disagree on what
//! `//`, `\`, `;` or an escaped slash mean; of those the [`readings`](Judged::readings) hold what a lenient server
//! would make of them, so that authorization can ask about each. Nobody is routed by them, nor are they forwarded.
//!
//! So it is with escapes of what may stand in a path bare, such as `%40` for `@`: they may mean something else (§2.2), most
//! servers take them for the same. They stay as they are, and are judged in both readings.

use std::{borrow::Cow, fmt};

/// A path as it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<'a> {
    /// The normal form: what is routed on and forwarded.
    pub normal: Cow<'a, str>,
    /// What else a server may take it for; none unless it has an ambiguous spelling.
    pub others: Vec<String>,
}

impl Judged<'_> {
    /// `*`: what OPTIONS asks about is the server and no path of it. No prefix is in front of it.
    pub fn whole_server() -> Self {
        Self {
            normal: "*".into(),
            others: Vec::new(),
        }
    }

    /// The normal form, then the others.
    pub fn readings(&self) -> impl Iterator<Item = &str> {
        let others = self.others.iter().map(String::as_str);
        std::iter::once(&*self.normal).chain(others)
    }
}

/// What is not the path of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin with `/`.
    Relative,
    /// A byte that no path may hold.
    Byte(u8),
    /// `%` without two hexadecimal digits.
    Escape,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative => f.write_str("the path does not begin with a slash"),
            Self::Byte(byte) => write!(f, "the path holds the byte {byte:#04x}"),
            Self::Escape => f.write_str("the path holds a % without two hexadecimal digits"),
        }
    }
}

/// The path of a request, without its query, in all its readings.
pub fn judge(raw: &[u8]) -> Result<Judged<'_>, Malformed> {
    let normal = normal(raw)?;
    let others = others(&normal);
    Ok(Judged { normal, others })
}

/// The normal form of a path (RFC 3986 §6.2.2): escapes of unreserved characters decoded, hexadecimal digits in upper
/// case, dot segments gone. What needs an escape and has none gets one. Control characters, spaces, `?` and `#` are refused.
pub fn normal(raw: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    if raw.first() != Some(&b'/') {
        return Err(Malformed::Relative);
    }
    let text = spelled(raw)?;
    if text.contains("/.") {
        Ok(Cow::Owned(without_dots(&text)))
    } else {
        Ok(text)
    }
}

/// A piece of a path with every character spelled as in the normal form; its dot segments stay.
pub fn spelled(raw: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    if raw.iter().all(|byte| is_plain(*byte))
        && let Ok(text) = str::from_utf8(raw)
    {
        return Ok(Cow::Borrowed(text));
    }
    let mut text = String::with_capacity(raw.len() + 8);
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>().ok_or(Malformed::Escape)?;
                let byte = decoded(*digits).ok_or(Malformed::Escape)?;
                rest = after;
                push(&mut text, byte, is_unreserved(byte));
            }
            0..=b' ' | b'#' | b'?' | 0x7f => return Err(Malformed::Byte(byte)),
            byte => push(&mut text, byte, is_plain(byte)),
        }
    }
    Ok(Cow::Owned(text))
}

/// A spelled piece of a path with every escape gone of what may stand there bare; its separators stay escaped. None: there
/// is no such escape.
pub fn bare(spelled: &str) -> Option<String> {
    let reserved = |byte: u8| is_plain(byte) && !is_separator(byte);
    let mut text = String::with_capacity(spelled.len());
    let mut rest = spelled;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes()[at + 1..].first_chunk::<2>();
        let byte = digits.and_then(|digits| decoded(*digits));
        text.push_str(&rest[..at]);
        match byte.filter(|byte| reserved(*byte)) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                text.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    (text != spelled).then_some(text)
}

fn push(text: &mut String, byte: u8, as_it_is: bool) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    if as_it_is {
        text.push(char::from(byte));
    } else {
        let digits = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
        text.extend(['%'].iter().chain(&digits));
    }
}

pub(crate) fn decoded(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What stands in a path unescaped: `pchar` (RFC 3986 §3.3) and the slash.
fn is_plain(byte: u8) -> bool {
    is_unreserved(byte) || b"/:@!$&'()*+,;=".contains(&byte)
}

/// RFC 3986 §5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// How a lenient server reads. Those that are known differ in these, so each is tried.
#[derive(Clone, Copy)]
struct Lenient {
    /// `;parameters` go before escapes are decoded, not only after.
    parameters_first: bool,
    /// `//` becomes `/` before dot segments go, not only after.
    slashes_first: bool,
    /// A path ends at a zero byte; else the byte is passed over.
    ends_at_zero: bool,
}

fn others(normal: &str) -> Vec<String> {
    let mut others = Vec::new();
    if !is_ambiguous(normal) {
        return others;
    }
    for bits in 0..8 {
        let how = Lenient {
            parameters_first: bits & 1 != 0,
            slashes_first: bits & 2 != 0,
            ends_at_zero: bits & 4 != 0,
        };
        let other = read(normal, how);
        if other != normal && !others.contains(&other) {
            others.push(other);
        }
    }
    others
}

/// Whether servers disagree on what a normal path means.
fn is_ambiguous(normal: &str) -> bool {
    normal.contains("//")
        || normal.contains(';')
        || normal
            .match_indices('%')
            .any(|(at, _)| is_ambiguous_escape(&normal.as_bytes()[at + 1..]))
}

/// Of what follows a `%`: an escaped separator or anything else that a path is made of, escaped once or more.
fn is_ambiguous_escape(after: &[u8]) -> bool {
    let mut rest = after;
    while let Some(inner) = rest.strip_prefix(b"25") {
        rest = inner;
    }
    let byte = rest.first_chunk::<2>().and_then(|digits| decoded(*digits));
    byte.is_some_and(|byte| is_separator(byte) || is_plain(byte))
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\' | b';' | 0)
}

fn read(normal: &str, how: Lenient) -> String {
    let mut path = if how.parameters_first {
        decode(&without_parameters(normal), how)
    } else {
        decode(normal, how)
    };
    path = without_parameters(&path);
    if how.slashes_first {
        path = single_slashes(&path);
    }
    single_slashes(&without_dots(&path))
}

/// Decodes until nothing is left to decode of what a path is made of: also what was escaped many times, in one pass.
fn decode(path: &str, how: Lenient) -> String {
    let mut text = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        text.push(byte);
        while let [.., b'%', high, low] = text[..]
            && let Some(byte) = decoded([high, low])
            && (byte == b'%' || is_plain(byte) || is_separator(byte))
        {
            text.truncate(text.len() - 3);
            match byte {
                0 if how.ends_at_zero => return into_text(text),
                0 => {}
                b'\\' => text.push(b'/'),
                byte => text.push(byte),
            }
        }
    }
    into_text(text)
}

fn into_text(ascii: Vec<u8>) -> String {
    ascii.into_iter().map(char::from).collect()
}

/// Each segment up to its first `;`.
fn without_parameters(path: &str) -> String {
    let bare = |segment: &str| match segment.split_once(';') {
        Some((bare, _)) => bare.to_owned(),
        None => segment.to_owned(),
    };
    path.split('/').map(bare).collect::<Vec<_>>().join("/")
}

fn single_slashes(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !text.ends_with('/') {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests;
