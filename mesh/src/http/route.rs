//! Routes, as compiled for one port of one service.

use std::time::Duration;

use crate::{
    http::{edit::Filter, head::Head, path, pattern::Pattern, weight::Backend},
    name::Name,
};

/// One route object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Of the object.
    pub kind: Kind,
    /// Of the object.
    pub namespace: Name,
    /// Of the object.
    pub name: Box<str>,
    /// Seconds since 1970; 0 where nobody knows, which is older than all others.
    pub created: i64,
    /// Only for clients of this namespace (a consumer's route); none: for all (the producer's).
    pub client: Option<Name>,
    /// Which hosts it is for; none: all.
    pub hosts: Box<[HostMatch]>,
    /// In order.
    pub rules: Box<[Rule]>,
}

/// What kind of object a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
    /// `TCPRoute`: its rules match connections, all of them.
    Tcp,
}

impl Kind {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

/// What is done with the requests that it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// As the user called it, or empty.
    pub name: Box<str>,
    /// Any of them has to hold; none: every request matches.
    pub matches: Box<[Match]>,
    /// In order.
    pub filters: Box<[Filter]>,
    /// By weight.
    pub backends: Box<[Backend]>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Why it cannot be carried out: what it matches is answered with 500.
    pub invalid: Option<Box<str>>,
}

/// How long a request may take; none: as long as it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From its first byte to the answer's last, whatever is tried.
    pub request: Option<Duration>,
    /// One try.
    pub backend: Option<Duration>,
}

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This one, in lower case.
    Exact(Box<str>),
    /// All that end so, in lower case: `.example.com`, which has at least one label in front.
    Below(Box<str>),
}

impl HostMatch {
    /// Reads `example.com` or `*.example.com`.
    pub fn read(text: &str) -> Self {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(below) => Self::Below(below.into()),
            None => Self::Exact(text.into()),
        }
    }
}

/// What all has to hold of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Of the normal form.
    pub path: PathMatch,
    /// Case matters.
    pub method: Option<Box<str>>,
    /// Each by its name without case; any value may match. Of entries with one name only the first counts.
    pub headers: Box<[FieldMatch]>,
    /// Each by its name; the first value has to match, with escapes and `+` decoded. Of entries with one name only the first counts.
    pub query: Box<[FieldMatch]>,
}

/// A header or a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldMatch {
    /// Its name.
    pub name: Box<str>,
    /// Its value.
    pub value: Text,
}

/// A text or how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The whole; case matters.
    Exact(Box<str>),
    /// The whole matches it.
    Regex(Pattern),
}

/// Which paths a match is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This one. Made by [`PathMatch::exact`].
    Exact(Literal),
    /// It and all below, by segments. Made by [`PathMatch::prefix`].
    Prefix(Literal),
    /// All of it matches.
    Regex(Pattern),
    /// `/<service>/<method>`; none: any.
    Grpc {
        /// With its package.
        service: Option<Text>,
        /// Case matters.
        method: Option<Text>,
    },
}

/// A path in the form in which it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal(Box<str>);

impl Literal {
    /// The normal form; of a prefix without trailing slash, so that `/` is empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Text {
    /// Whether it matches the whole value.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

impl PathMatch {
    /// One path, in any spelling.
    pub fn exact(text: &str) -> Result<Self, path::Malformed> {
        let normal = path::normal(text.as_bytes())?;
        Ok(Self::Exact(Literal((&*normal).into())))
    }

    /// A path and all below it. A trailing slash means nothing.
    pub fn prefix(text: &str) -> Result<Self, path::Malformed> {
        let normal = path::normal(text.as_bytes())?;
        let bare = normal.strip_suffix('/').unwrap_or(&normal);
        Ok(Self::Prefix(Literal(bare.into())))
    }

    /// Whether it matches a normal path.
    pub fn matches(&self, path: &str) -> bool {
        let text = |text: &Option<Text>, value: &str| {
            !value.is_empty() && text.as_ref().is_none_or(|t| t.matches(value.as_bytes()))
        };
        match self {
            Self::Exact(literal) => literal.as_str() == path,
            Self::Prefix(literal) => path
                .strip_prefix(literal.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
            Self::Grpc { service, method } => path
                .strip_prefix('/')
                .and_then(|call| call.split_once('/'))
                .is_some_and(|(s, m)| !m.contains('/') && text(service, s) && text(method, m)),
        }
    }
}

impl Match {
    /// Whether it holds of a request.
    pub fn holds(&self, head: &Head<'_>) -> bool {
        let method = self.method.as_deref().map(str::as_bytes);
        self.path.matches(&head.path.normal)
            && method.is_none_or(|method| method == head.method)
            && self.effective_headers().all(|field| {
                let mut values = head.values(field.name.as_bytes());
                values.any(|value| field.value.matches(value))
            })
            && self.effective_query().all(|field| {
                let value = first_value(head.query.unwrap_or_default(), field.name.as_bytes());
                value.is_some_and(|value| field.value.matches(&value))
            })
    }

    /// Without those whose name has been there.
    pub fn effective_headers(&self) -> impl Iterator<Item = &FieldMatch> {
        firsts(&self.headers, str::eq_ignore_ascii_case)
    }

    /// Without those whose name has been there.
    pub fn effective_query(&self) -> impl Iterator<Item = &FieldMatch> {
        firsts(&self.query, |one, other| one == other)
    }
}

fn firsts(
    fields: &[FieldMatch],
    same: impl Fn(&str, &str) -> bool,
) -> impl Iterator<Item = &FieldMatch> {
    fields.iter().enumerate().filter_map(move |(at, field)| {
        let before = fields[..at]
            .iter()
            .any(|other| same(&other.name, &field.name));
        (!before).then_some(field)
    })
}

/// The first value of a parameter (application/x-www-form-urlencoded).
fn first_value(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let end = pair.iter().position(|byte| *byte == b'=');
        let (key, value) = pair.split_at(end.unwrap_or(pair.len()));
        let value = value.strip_prefix(b"=").unwrap_or(value);
        (form_decoded(key) == name).then(|| form_decoded(value))
    })
}

/// A `%` that is no escape stays as it is.
fn form_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escape = rest.first_chunk().and_then(|digits| path::decoded(*digits));
        decoded.push(match (byte, escape) {
            (b'%', Some(escaped)) => {
                rest = &rest[2..];
                escaped
            }
            (b'+', _) => b' ',
            (byte, _) => byte,
        });
    }
    decoded
}
