//! Paths with operators: `{*}` is one segment, `{**}` is any text.

use std::fmt;

use crate::http::path;

/// A path whose segments may be operators. `{**}` is the last of them; literals may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Segments up to `{**}`, or all; none is `{*}`.
    segments: Box<[Option<Box<str>>]>,
    /// What the path ends with, if there is a `{**}`.
    end: Option<Box<str>>,
}

impl Template {
    /// Reads a template. An operator is a whole segment; a brace or a star anywhere else is refused, as is an
    /// operator after `{**}`.
    pub fn read(text: &str) -> Result<Self, path::Malformed> {
        let text = text.strip_prefix('/').ok_or(path::Malformed::Relative)?;
        let mut segments = Vec::new();
        let mut parts = text.split('/');
        while let Some(part) = parts.next() {
            match part {
                "{**}" => {
                    let mut end = String::new();
                    for part in parts {
                        end.push('/');
                        end.push_str(&literal(part)?);
                    }
                    return Ok(Self {
                        segments: segments.into(),
                        end: Some(end.into()),
                    });
                }
                "{*}" => segments.push(None),
                part => segments.push(Some(literal(part)?)),
            }
        }
        Ok(Self {
            segments: segments.into(),
            end: None,
        })
    }

    /// The same with what needs no escape bare; none if it is so already.
    pub(super) fn bare(&self) -> Option<Self> {
        let bare = |text: &str| -> Box<str> {
            path::bare(text).map_or_else(|| text.into(), String::into_boxed_str)
        };
        let segments = self.segments.iter();
        let bare = Self {
            segments: segments.map(|it| it.as_deref().map(bare)).collect(),
            end: self.end.as_deref().map(bare),
        };
        (bare != *self).then_some(bare)
    }

    /// Whether it matches a path. `{*}` is at least one character.
    pub fn matches(&self, path: &str) -> bool {
        let Some(mut rest) = path.strip_prefix('/') else {
            return false;
        };
        let fits = |segment: &Option<Box<str>>, text: &str| match segment {
            Some(literal) => **literal == *text,
            None => !text.is_empty(),
        };
        let Some(end) = &self.end else {
            let count = rest.split('/').count();
            let mut pairs = self.segments.iter().zip(rest.split('/'));
            return count == self.segments.len()
                && pairs.all(|(segment, text)| fits(segment, text));
        };
        for segment in &self.segments {
            match rest.split_once('/') {
                Some((text, after)) if fits(segment, text) => rest = after,
                _ => return false,
            }
        }
        rest.ends_with(&**end)
    }
}

impl fmt::Display for Template {
    /// As it could be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(f, "/{}", segment.as_deref().unwrap_or("{*}"))?;
        }
        match &self.end {
            Some(end) => write!(f, "/{{**}}{end}"),
            None => Ok(()),
        }
    }
}

fn literal(text: &str) -> Result<Box<str>, path::Malformed> {
    match text.bytes().find(|byte| b"{}*".contains(byte)) {
        Some(byte) => Err(path::Malformed::Byte(byte)),
        None => path::spelled(text.as_bytes()).map(|text| text.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::pattern::Pattern;

    #[test]
    fn a_template_is_written_as_it_was_read() {
        for text in ["/", "/a/{*}/b", "/{**}", "/{*}/{**}", "/a/{**}/b/c"] {
            assert_eq!(Template::read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn operators_stand_for_a_segment_or_for_any_text() {
        for (template, path, matches) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo", false),
            ("/foo/{*}/", "/foo/bar/", true),
            ("/foo/{**}", "/foo/bar/baz", true),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo", false),
            ("/foo/{**}", "/foobar/x", false),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{**}/", "/foo/bar/baz.txt/", true),
            ("/foo/{**}/", "/foo//", true),
            ("/foo/{**}/", "/foo/bar", false),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz", true),
            ("/foo/{*}/bar/{**}", "/foo/bar/baz", false),
            ("/foo/{**}/bar/baz", "/foo/x/y/bar/baz", true),
            ("/foo/{**}/bar", "/foo/bar", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
            ("/{*}", "/", false),
            ("/%61/{*}", "/a/b", true),
            ("/{*}", "/A%2Fb", true),
        ] {
            let read = Template::read(template).unwrap();
            assert_eq!(read.matches(path), matches, "{template} {path}");
        }
    }

    #[test]
    fn other_braces_and_stars_are_refused() {
        for template in [
            "{*}",
            "/{a}",
            "/{*",
            "/a{*}",
            "/{*}a",
            "/{***}",
            "/{}",
            "/{*}/b*",
            "/*/{*}",
            "/{**}/{*}",
            "/{**}/{**}",
            "/a b/{*}",
            "/a?b/{*}",
            "/%zz/{*}",
        ] {
            assert!(Template::read(template).is_err(), "{template}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn a_template_is_an_expression(
            before in prop::collection::vec(prop::sample::select(vec!["a", "b", "{*}"]), 0..3),
            any in any::<bool>(),
            after in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..2),
            path in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 0..6),
        ) {
            let operator = any.then_some("{**}");
            let parts: Vec<_> = before.into_iter().chain(operator).chain(after).collect();
            let template = format!("/{}", parts.join("/"));
            let expression = template.replace("{**}", ".*").replace("{*}", "[^/]+");
            let path = format!("/{}", path.join("/"));
            prop_assert_eq!(
                Template::read(&template).unwrap().matches(&path),
                Pattern::new(&expression).unwrap().matches(path.as_bytes()),
                "{} {}", template, path
            );
        }
    }
}
