//! What a client sent, as a line shows it: printable ASCII as it is but for a backslash, which is doubled, and `\xNN` for every
//! other byte. So no two texts look alike.
//!
//! Of characters beyond ASCII some turn a line around, or end it for whoever shows it (U+202E, U+2028), and clients that mean
//! well encode them in paths and host names: none is worth a list.

use std::{borrow::Cow, fmt::Write};

use super::TEXT;

/// A text, as far as there is room.
pub(super) fn plain(text: &[u8]) -> Cow<'_, str> {
    as_is(text, b'\\').map_or_else(
        || {
            let mut out = String::new();
            add_escaped(&mut out, text, b'\\');
            Cow::Owned(out)
        },
        Cow::Borrowed,
    )
}

/// Adds a text between quotes: its own ones have a backslash before them.
pub(super) fn add_quoted(out: &mut String, text: &[u8]) {
    match as_is(text, b'"') {
        Some(plain) => out.push_str(plain),
        None => add_escaped(out, text, b'"'),
    }
}

/// The text, if nothing of it is to be escaped, nor this character.
fn as_is(text: &[u8], special: u8) -> Option<&str> {
    // All bytes are looked at, so that many are at once.
    let fits = |all, byte: &u8| {
        all & (matches!(byte, b' '..=b'~') & (*byte != b'\\') & (*byte != special))
    };
    let plain = text.len() <= TEXT && text.iter().fold(true, fits);
    plain.then(|| str::from_utf8(text).ok()).flatten()
}

/// Adds a text with a backslash before each of these characters, as far as there is room. An escape is whole or not there.
fn add_escaped(out: &mut String, text: &[u8], special: u8) {
    let end = out.len() + TEXT;
    for byte in text {
        let is_plain = matches!(byte, b' '..=b'~');
        let is_escaped = *byte == b'\\' || *byte == special;
        let takes = match (is_plain, is_escaped) {
            (false, _) => 4,
            (true, true) => 2,
            (true, false) => 1,
        };
        if out.len() + takes > end {
            return;
        }
        match takes {
            // Writing to a string does not fail.
            4 => drop(write!(out, "\\x{byte:02x}")),
            2 => out.extend(['\\', char::from(*byte)]),
            _ => out.push(char::from(*byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = String::new();
        add_quoted(&mut out, text);
        out
    }

    #[test]
    fn what_is_sent_is_told_from_what_looks_like_it() {
        for (sent, shown) in [
            (&b"/cart?id=1"[..], "/cart?id=1"),
            (b"/a%20b", "/a%20b"),
            (b"\x9b", r"\x9b"),
            (br"\x9b", r"\\x9b"),
            (br"\\x9b", r"\\\\x9b"),
            (b"a\tb\r\n\0", r"a\x09b\x0d\x0a\x00"),
            (
                "\u{202e}\u{2028}\u{85}é".as_bytes(),
                r"\xe2\x80\xae\xe2\x80\xa8\xc2\x85\xc3\xa9",
            ),
        ] {
            assert_eq!(plain(sent), shown);
            assert_eq!(quoted(sent), shown);
        }
        assert_eq!(plain(br#"a"b"#), r#"a"b"#);
        assert_eq!(quoted(br#"a"b\"#), r#"a\"b\\"#);
    }

    #[test]
    fn no_escape_is_cut() {
        for (one, shown) in [(b'\\', r"\\"), (b'"', "\\\""), (0xff, r"\xff")] {
            for before in 0..4 {
                let text = [vec![b'a'; before], vec![one; TEXT]].concat();
                let shown = format!(
                    "{}{}",
                    "a".repeat(before),
                    shown.repeat((TEXT - before) / shown.len())
                );
                assert_eq!(quoted(&text), shown);
            }
        }
        assert_eq!(plain(&[b'a'; TEXT + 1]), "a".repeat(TEXT));
    }
}
