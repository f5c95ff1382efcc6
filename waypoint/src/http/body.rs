//! What is behind the heads, as it moves: a piece is read when the other side has room for it, and kept nowhere.

mod download;
mod upload;

use http::{HeaderMap, HeaderName};
use mesh::http::{
    claim::{claim, dashed},
    head::FRAMING,
};

pub(super) use self::download::{Broken, Download};
pub(crate) use self::upload::Upload;
pub(super) use self::upload::{Failed, Source};
use super::headers::has_blank_end;

/// What routes, authorizes or describes a message, in lower case, beside what frames it.
const TOO_LATE: [&str; 12] = [
    "authorization",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "location",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
];

/// Takes from trailers what would come too late there (RFC 9110 §6.5.1), what says who the client is or what proxies tell
/// each other, whoever says it, and what has two readings (RFC 9113 §8.2.1).
fn trim(trailers: &mut HeaderMap) {
    let wrong = trailers
        .iter()
        .filter(|(name, value)| !may_trail(name) || has_blank_end(value));
    let wrong: Vec<_> = wrong.map(|(name, _)| name.clone()).collect();
    for name in wrong {
        trailers.remove(name);
    }
}

/// Many an application takes an underscore for a dash, and trailers for headers.
fn may_trail(name: &HeaderName) -> bool {
    let name = dashed(name.as_str());
    !FRAMING.contains(&&*name) && !TOO_LATE.contains(&&*name) && claim(&name).is_none()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn trailers_say_nothing_that_comes_too_late_or_is_not_theirs_to_say() {
        for (name, value, stays) in [
            ("grpc-status", "0", true),
            ("grpc-message", "a b", true),
            ("x-checksum", "1", true),
            ("x-checksum", " 1", false),
            ("x-checksum", "1\t", false),
            ("authorization", "a", false),
            ("proxy_authorization", "a", false),
            ("keep-alive", "5", false),
            ("content-length", "5", false),
            ("host", "a", false),
            ("x-forwarded-client-cert", "URI=me", false),
            ("x_forwarded_for", "6.6.6.6", false),
            ("true-client-ip", "6.6.6.6", false),
            ("x_real_ip", "6.6.6.6", false),
            ("forwarded", "for=6.6.6.6", false),
            ("x-envoy-internal", "true", false),
            ("x-forwarded-host", "a", false),
            ("ambit-via", "a/b", false),
        ] {
            let mut trailers = HeaderMap::new();
            let name: HeaderName = name.parse().unwrap();
            trailers.append(&name, HeaderValue::from_static(value));
            trim(&mut trailers);
            assert_eq!(trailers.contains_key(&name), stays, "{name}: {value:?}");
        }
    }
}
