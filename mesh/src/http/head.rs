//! The head of a request, as values: what is decided on and routed by is read here, once, and refused where it has two
//! readings that a rule could not be asked about. How a head is framed, and what its headers must look like, is settled
//! before, by whoever reads the bytes.

use std::fmt;

use crate::http::{
    host::{self, Host, Scheme},
    path::{self, Judged},
};

/// Name and value of a header field, as they came.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// The head of a request as its framing gives it.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// As it came; case matters (RFC 9110 §9.1).
    pub method: &'a [u8],
    /// Of the connection, not what the request says of itself.
    pub scheme: Scheme,
    /// `:authority`, or that of an absolute target.
    pub authority: Option<&'a [u8]>,
    /// Path and query; without scheme and authority.
    pub target: &'a [u8],
    /// In order; repeated ones stay apart.
    pub headers: &'a [Field<'a>],
}

/// A request that can be decided and routed.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// As it came.
    pub method: &'a [u8],
    /// Of the connection.
    pub scheme: Scheme,
    /// What both authority and `host` name.
    pub host: Host,
    /// Without the query.
    pub path: Judged<'a>,
    /// Behind the `?`, untouched.
    pub query: Option<&'a [u8]>,
    /// In order; repeated ones stay apart.
    pub headers: &'a [Field<'a>],
}

/// What is not a request that we take: the answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The method is empty, or CONNECT in another case: some servers would take it for that.
    Method,
    /// There is no host.
    NoHost,
    /// `host` stands there twice.
    Hosts,
    /// Authority and `host` name different hosts.
    OtherHost,
    /// The host is none.
    Host(host::Malformed),
    /// The path is none.
    Path(path::Malformed),
    /// The query holds a byte that none may hold.
    Query(u8),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("the method is empty or CONNECT in another case"),
            Self::NoHost => f.write_str("the request names no host"),
            Self::Hosts => f.write_str("the request has more than one host header"),
            Self::OtherHost => f.write_str("authority and host header differ"),
            Self::Host(malformed) => malformed.fmt(f),
            Self::Path(malformed) => malformed.fmt(f),
            Self::Query(byte) => write!(f, "the query holds the byte {byte:#04x}"),
        }
    }
}

/// Headers that say how a message ends or what one connection does, in lower case (RFC 9110 §7.6.1, RFC 9113 §8.2.2): whoever
/// writes a message sets them himself.
pub const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a byte may stand in a token: a method, or the name of a header field (RFC 9110 §5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of path and query.
    pub target: usize,
    /// Header fields.
    pub fields: usize,
    /// Bytes of all fields, each counted as its name, its value and 32 (RFC 9113 §6.5.2), decoded.
    pub bytes: usize,
}

/// Which limit a head exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLarge {
    /// [`Limits::target`].
    Target,
    /// [`Limits::fields`].
    Fields,
    /// [`Limits::bytes`].
    Bytes,
}

impl TooLarge {
    /// The status that says so (RFC 9110 §15.5.15, RFC 6585 §5).
    pub fn status(self) -> u16 {
        match self {
            Self::Target => 414,
            Self::Fields | Self::Bytes => 431,
        }
    }
}

/// Methods that servers know, which somebody might compare without case.
const METHODS: [&[u8]; 8] = [
    b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE",
];

impl Raw<'_> {
    /// Whether the head keeps the limits.
    pub fn within(&self, limits: &Limits) -> Result<(), TooLarge> {
        if self.target.len() > limits.target {
            return Err(TooLarge::Target);
        }
        if self.headers.len() > limits.fields {
            return Err(TooLarge::Fields);
        }
        let size = |(name, value): &Field<'_>| name.len() + value.len() + 32;
        if self.headers.iter().map(size).sum::<usize>() > limits.bytes {
            return Err(TooLarge::Bytes);
        }
        Ok(())
    }
}

impl<'a> Head<'a> {
    /// Reads a head. The target `*` of OPTIONS is its own path (RFC 9112 §3.2.4).
    pub fn read(raw: &Raw<'a>) -> Result<Self, Malformed> {
        let is_connect = raw.method.eq_ignore_ascii_case(b"CONNECT");
        if raw.method.is_empty() || is_connect && raw.method != b"CONNECT" {
            return Err(Malformed::Method);
        }
        let mark = raw.target.iter().position(|byte| *byte == b'?');
        let (path, query) = raw.target.split_at(mark.unwrap_or(raw.target.len()));
        // An absolute target may lack its path (RFC 3986 §6.2.3).
        let path = match (path, raw.authority) {
            (b"", Some(_)) => b"/",
            (path, _) => path,
        };
        let query = query.strip_prefix(b"?");
        let forbidden = |byte: &u8| *byte <= b' ' || matches!(byte, b'#' | 0x7f);
        if let Some(byte) = query.and_then(|query| query.iter().copied().find(forbidden)) {
            return Err(Malformed::Query(byte));
        }
        let path = if path == b"*" && raw.method == b"OPTIONS" && query.is_none() {
            Judged::whole_server()
        } else {
            path::judge(path).map_err(Malformed::Path)?
        };
        Ok(Self {
            method: raw.method,
            scheme: raw.scheme,
            host: host_of(raw)?,
            path,
            query,
            headers: raw.headers,
        })
    }

    /// The method; and the known one that a server may take it for which compares them without case.
    pub fn methods(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let method = self.method;
        let other = |known: &&&[u8]| method != **known && method.eq_ignore_ascii_case(known);
        let other = METHODS.iter().find(other).copied();
        std::iter::once(method).chain(other)
    }

    /// All values of a header, whose name is compared without case.
    pub fn values(&self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        let named = |field: &&Field<'a>| field.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|field| field.1)
    }

    /// Path and query as they are forwarded.
    pub fn target(&self) -> Vec<u8> {
        with_query(&self.path.normal, self.query)
    }
}

/// A path with the query that came with the request.
pub(crate) fn with_query(path: &str, query: Option<&[u8]>) -> Vec<u8> {
    let mut target = path.as_bytes().to_vec();
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    target
}

fn host_of(raw: &Raw<'_>) -> Result<Host, Malformed> {
    let read = |text: &[u8]| Host::read(text, raw.scheme).map_err(Malformed::Host);
    let is_host = |field: &&Field<'_>| field.0.eq_ignore_ascii_case(b"host");
    let mut headers = raw.headers.iter().filter(is_host).map(|field| field.1);
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Malformed::Hosts);
    }
    match (raw.authority, header) {
        (None, None) => Err(Malformed::NoHost),
        (Some(one), None) | (None, Some(one)) => read(one),
        (Some(authority), Some(header)) => {
            let host = read(authority)?;
            if read(header)? == host {
                Ok(host)
            } else {
                Err(Malformed::OtherHost)
            }
        }
    }
}

#[cfg(test)]
mod tests;
