//! The host that a request names, in one spelling for routing and for authorization.

use std::{fmt, net::Ipv6Addr};

/// How the request came, as far as its default port goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Port 80.
    Http,
    /// Port 443.
    Https,
}

impl Scheme {
    /// The port that goes without saying (RFC 9110 §4.2).
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A host in its canonical spelling. Shown as `name` or `name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Lower case, no trailing dot; an IPv6 address in brackets and in its shortest form.
    pub name: String,
    /// The port, unless it is the scheme's own.
    pub port: Option<u16>,
}

/// What is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Nothing is there.
    Empty,
    /// A byte that no name may hold: user information, escapes and zones have some, too.
    Byte(u8),
    /// Two dots side by side, or one in front.
    Label,
    /// What stands in brackets is not an IPv6 address, or something follows them.
    Address,
    /// Not a number between 1 and 65535.
    Port,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the host is empty"),
            Self::Byte(byte) => write!(f, "the host holds the byte {byte:#04x}"),
            Self::Label => f.write_str("the host has an empty label"),
            Self::Address => f.write_str("the host is not an IPv6 address in brackets"),
            Self::Port => f.write_str("the host's port is not one"),
        }
    }
}

impl Host {
    /// Reads `host [":" port]` (RFC 3986 §3.2.2). Only what a DNS name (underscores too) or an address is made of passes.
    pub fn read(text: &[u8], scheme: Scheme) -> Result<Self, Malformed> {
        let (name, port) = if text.starts_with(b"[") {
            let end = text.iter().position(|byte| *byte == b']');
            let (inside, after) = text.split_at(end.ok_or(Malformed::Address)?);
            (address(&inside[1..])?, after_address(&after[1..])?)
        } else {
            let colon = text.iter().position(|byte| *byte == b':');
            let (name, port) = text.split_at(colon.unwrap_or(text.len()));
            (
                canonical_name(name)?,
                port.strip_prefix(b":").unwrap_or(b""),
            )
        };
        let port = read_port(port)?.filter(|port| *port != scheme.port());
        Ok(Self { name, port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn address(text: &[u8]) -> Result<String, Malformed> {
    let text = str::from_utf8(text).map_err(|_| Malformed::Address)?;
    let address: Ipv6Addr = text.parse().map_err(|_| Malformed::Address)?;
    Ok(format!("[{address}]"))
}

fn after_address(text: &[u8]) -> Result<&[u8], Malformed> {
    if text.is_empty() {
        return Ok(text);
    }
    text.strip_prefix(b":").ok_or(Malformed::Address)
}

fn canonical_name(text: &[u8]) -> Result<String, Malformed> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    if text.is_empty() {
        return Err(Malformed::Empty);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    // All bytes are looked at, so that many are at once.
    if !text.iter().fold(true, |all, byte| all & allowed(*byte))
        && let Some(byte) = text.iter().find(|byte| !allowed(**byte))
    {
        return Err(Malformed::Byte(*byte));
    }
    let is_gap = |two: &[u8]| two == b"..";
    if text.starts_with(b".") || text.ends_with(b".") || text.windows(2).any(is_gap) {
        return Err(Malformed::Label);
    }
    String::from_utf8(text.to_ascii_lowercase()).map_err(|_| Malformed::Empty)
}

/// An empty port is none (RFC 3986 §6.2.3).
fn read_port(text: &[u8]) -> Result<Option<u16>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(text).ok().filter(|_| digits);
    let port = number.and_then(|number| number.parse().ok());
    port.filter(|port| *port != 0)
        .map(Some)
        .ok_or(Malformed::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (text, scheme, expected) in [
            ("shop", Scheme::Http, "shop"),
            ("Secret.COM", Scheme::Http, "secret.com"),
            ("secret.com.", Scheme::Http, "secret.com"),
            ("secret.com:80", Scheme::Http, "secret.com"),
            ("secret.com.:80", Scheme::Http, "secret.com"),
            ("secret.com:080", Scheme::Http, "secret.com"),
            ("secret.com:", Scheme::Http, "secret.com"),
            ("secret.com:443", Scheme::Http, "secret.com:443"),
            ("secret.com:443", Scheme::Https, "secret.com"),
            ("secret.com:80", Scheme::Https, "secret.com:80"),
            ("secret.com:8080", Scheme::Http, "secret.com:8080"),
            ("a_b.c-d", Scheme::Http, "a_b.c-d"),
            ("10.0.0.1:8080", Scheme::Http, "10.0.0.1:8080"),
            ("[::1]", Scheme::Http, "[::1]"),
            ("[::1]:80", Scheme::Http, "[::1]"),
            ("[::1]:81", Scheme::Http, "[::1]:81"),
            ("[0:0::0001]", Scheme::Http, "[::1]"),
            ("[FD00::A]", Scheme::Http, "[fd00::a]"),
        ] {
            let host = Host::read(text.as_bytes(), scheme);
            assert_eq!(
                host.map(|host| host.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for (text, expected) in [
            (&b""[..], Malformed::Empty),
            (b".", Malformed::Empty),
            (b":80", Malformed::Empty),
            (b"a..b", Malformed::Label),
            (b".a", Malformed::Label),
            (b"a..", Malformed::Label),
            (b"user@a", Malformed::Byte(b'@')),
            (b"a,b", Malformed::Byte(b',')),
            (b"a b", Malformed::Byte(b' ')),
            (b"a/b", Malformed::Byte(b'/')),
            (b"a%2eb", Malformed::Byte(b'%')),
            (b"a\0", Malformed::Byte(0)),
            ("é".as_bytes(), Malformed::Byte(0xc3)),
            (b"a:0", Malformed::Port),
            (b"a:65536", Malformed::Port),
            (b"a:+80", Malformed::Port),
            (b"a:80:80", Malformed::Port),
            (b"user:pw@a", Malformed::Port),
            (b"::1", Malformed::Empty),
            (b"[::1", Malformed::Address),
            (b"[::1]x", Malformed::Address),
            (b"[::1%eth0]", Malformed::Address),
            (b"[10.0.0.1]", Malformed::Address),
            (b"[]", Malformed::Address),
        ] {
            assert_eq!(
                Host::read(text, Scheme::Http),
                Err(expected),
                "{}",
                text.escape_ascii()
            );
        }
    }
}
