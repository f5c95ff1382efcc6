//! Headers on their way through: what is judged is what goes on, what is meant for one hop goes, what others may not say of a
//! client goes, edits happen.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request::Parts};
use mesh::{
    http::{
        claim::{Claim, claim},
        edit::{Edit, HeaderEdits},
        head::is_token,
    },
    identity::Identity,
    waypoint::{Answer, Table},
};

use super::session::Session;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether a header counts when a request is decided. What says who the client is never does, whoever says it.
pub(super) fn counts(name: &HeaderName, gateway: bool) -> bool {
    match claim(name.as_str()) {
        None => true,
        Some(Claim::Origin) => gateway,
        Some(Claim::Client | Claim::Mesh) => false,
    }
}

/// Whether it goes on to the endpoint.
fn goes_on(name: &HeaderName, forwards: bool) -> bool {
    match claim(name.as_str()) {
        None => true,
        Some(Claim::Client | Claim::Origin) => forwards,
        Some(Claim::Mesh) => false,
    }
}

/// Before anything is decided: refuses what has another reading behind us, and takes away what does not go on.
///
/// What `connection` lists is for us alone. Of protocols to speak instead only those are asked for inside of which there are
/// no requests that nobody would judge. The pieces into which a cookie is cut are one (RFC 9113 §8.2.3).
pub(super) fn settle(parts: &mut Parts) -> Result<(), Answer> {
    one_reading(parts)?;
    let all = &mut parts.headers;
    let (mut connection, mut upgrade, mut cookies) = (false, false, 0);
    for (name, _) in all.iter() {
        match *name {
            header::CONNECTION => connection = true,
            header::UPGRADE => upgrade = true,
            header::COOKIE => cookies += 1,
            _ => {}
        }
    }
    if connection {
        drop_listed(all);
    }
    if upgrade {
        let wanted: Vec<_> = protocols(all).filter(|it| !is_http_or_tls(it)).collect();
        // A list of what was read can be written.
        match HeaderValue::from_bytes(&wanted.join(&b", "[..])) {
            Ok(wanted) if !wanted.is_empty() => drop(all.insert(header::UPGRADE, wanted)),
            _ => drop(all.remove(header::UPGRADE)),
        }
    }
    if cookies > 1 {
        join_cookies(all);
    }
    Ok(())
}

/// Refuses over HTTP/2 what could be read in another way behind us. Over HTTP/1 `guard` does.
fn one_reading(parts: &Parts) -> Result<(), Answer> {
    let unframed = |what: &str| Err(Answer::Unframed(what.to_owned()));
    if parts.version != Version::HTTP_2 {
        return Ok(());
    }
    // RFC 9113 §8.2.1: who reads HTTP/1.1 takes the blanks away.
    if parts.headers.values().any(has_blank_end) {
        return unframed("a header's value with a blank at its end");
    }
    let scheme = parts.uri.scheme_str().unwrap_or("http");
    if !["http", "https"].contains(&scheme) {
        return unframed("a scheme other than http and https");
    }
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    let is_plain = |text: &[u8]| text == b"0" || text.first() != Some(&b'0');
    match (lengths.next(), lengths.next()) {
        (Some(length), None) if is_plain(length.as_bytes()) => Ok(()),
        (None, None) => Ok(()),
        _ => unframed("a length that is not one"),
    }
}

/// Whether a value begins or ends with what is none of it (RFC 9110 §5.5).
pub(super) fn has_blank_end(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    is_blank(bytes.first()) || is_blank(bytes.last())
}

/// What `upgrade` lists, in all its lines. What is no protocol is left out (RFC 9110 §7.8).
fn protocols(all: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = all.get_all(header::UPGRADE).into_iter();
    let items = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_protocol = |item: &&[u8]| {
        let mut parts = item.split(|byte| *byte == b'/');
        let is_token = |part: &[u8]| !part.is_empty() && part.iter().copied().all(is_token);
        parts.clone().count() <= 2 && parts.all(is_token)
    };
    items.map(<[u8]>::trim_ascii).filter(is_protocol)
}

/// Whether there would be requests, or TLS, inside of it: nobody would judge those.
fn is_http_or_tls(protocol: &[u8]) -> bool {
    let has_name = |name: &&[u8]| {
        let start = protocol.get(..name.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    [&b"h2"[..], b"h3", b"http", b"spdy", b"ssl", b"tls"]
        .iter()
        .any(has_name)
}

/// Whether an endpoint speaks what it was asked for, and nothing else, from now on.
pub(super) fn agrees(answer: &HeaderMap, asked: &HeaderValue) -> bool {
    let was_asked = |protocol: &[u8]| {
        let mut asked = asked.as_bytes().split(|byte| *byte == b',');
        asked.any(|item| item.trim_ascii().eq_ignore_ascii_case(protocol))
    };
    let mut spoken = protocols(answer).peekable();
    spoken.peek().is_some() && spoken.all(was_asked)
}

/// What a request wants of its connections, which both sides are told anew.
#[derive(Debug, Default)]
pub(super) struct Hop {
    /// What it wants to speak instead.
    pub(super) upgrade: Option<HeaderValue>,
    /// It takes trailers.
    pub(super) trailers: bool,
    /// It waits with its body.
    pub(super) waits: bool,
}

/// Takes from a settled request what is for one hop (RFC 9110 §7.6.1) and what is not its client's to say.
pub(super) fn trim(all: &mut HeaderMap, peer: Option<Identity>, table: &Table) -> Hop {
    let forwards = forwards(table, peer);
    let mut hop = Hop::default();
    let mut outside = Vec::new();
    let mut found: [bool; 8] = [false; 8];
    for (name, value) in all.iter() {
        if !goes_on(name, forwards) {
            outside.push(name.clone());
            continue;
        }
        match *name {
            header::CONNECTION => found[7] = true,
            header::UPGRADE => {
                found[0] = true;
                hop.upgrade = Some(value.clone());
            }
            header::TE => {
                found[1] = true;
                hop.trailers |= has_token(value.as_bytes(), b"trailers");
            }
            header::TRANSFER_ENCODING => found[2] = true,
            header::EXPECT => {
                found[3] = true;
                hop.waits |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            _ => match name.as_str() {
                "keep-alive" => found[4] = true,
                "proxy-connection" => found[5] = true,
                "http2-settings" => found[6] = true,
                _ => {}
            },
        }
    }
    let named = [
        header::UPGRADE,
        header::TE,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        header::CONNECTION,
    ];
    // A protocol that is only named, not asked for, is not asked for.
    let asks = hop.upgrade.is_some()
        && all
            .get_all(header::CONNECTION)
            .iter()
            .any(|value| has_token(value.as_bytes(), b"upgrade"));
    if !asks {
        hop.upgrade = None;
    }
    for (name, found) in named.into_iter().zip(found) {
        if found {
            all.remove(name);
        }
    }
    for name in outside {
        all.remove(name);
    }
    hop
}

/// Takes from an answer what is for one hop.
pub(super) fn trim_answer(all: &mut HeaderMap) {
    if all.contains_key(header::CONNECTION) {
        drop_listed(all);
    }
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        KEEP_ALIVE,
        header::UPGRADE,
        PROXY_CONNECTION,
    ] {
        // Mostly there is none, and comparing is cheaper than hashing.
        if all.keys().any(|key| *key == name) {
            all.remove(name);
        }
    }
}

/// Takes away what `connection` lists.
fn drop_listed(all: &mut HeaderMap) {
    let mut listed = Vec::new();
    for value in all.get_all(header::CONNECTION) {
        let tokens = value.as_bytes().split(|byte| *byte == b',');
        let names = tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok());
        // What frames or routes a message is not one hop's to name; what is for one hop is still asked for.
        listed.extend(names.filter(|name| {
            !matches!(
                *name,
                header::HOST
                    | header::CONTENT_LENGTH
                    | header::CONTENT_TYPE
                    | header::CONNECTION
                    | header::UPGRADE
                    | header::TE
                    | header::EXPECT
            )
        }));
    }
    for name in listed {
        all.remove(name);
    }
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| {
        let name = item.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token)
    })
}

/// Says of the client what we know, after what a gateway says of its own client. Then there is more in `x-forwarded-for`
/// than one address, and that is what comes back.
pub(super) fn introduce(
    all: &mut HeaderMap,
    session: &Session,
    table: &Table,
) -> Option<HeaderValue> {
    let peer = session.connection.client.peer;
    let mut forwarded_for = None;
    if forwards(table, peer) {
        forwarded_for = Some(append(all, FORWARDED_FOR, &session.forwarded_for));
        append(all, header::FORWARDED, &session.forwarded);
        let proto = all.entry(FORWARDED_PROTO);
        proto.or_insert(HeaderValue::from_static("http"));
    } else {
        all.insert(FORWARDED_FOR, session.forwarded_for.clone());
        all.insert(header::FORWARDED, session.forwarded.clone());
        all.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if table.tells_identity
        && let Some(peer) = peer
    {
        let text = format!("By={};URI={peer}", session.front.from.identity);
        let value = HeaderValue::try_from(text).expect("identities are plain ASCII");
        append(all, CLIENT_CERT, &value);
    }
    forwarded_for
}

/// Whether applications are told what a peer says of whom it forwards for: it is a gateway, or another waypoint.
fn forwards(table: &Table, peer: Option<Identity>) -> bool {
    is_gateway(table, peer) || peer.is_some_and(|peer| table.waypoints.contains(&peer))
}

/// Whether a peer is a gateway, of which also counts what it says of its own path.
pub(super) fn is_gateway(table: &Table, peer: Option<Identity>) -> bool {
    peer.is_some_and(|peer| table.gateways.contains(&peer))
}

/// Makes a list longer, which may be in several lines so far (RFC 9110 §5.3).
fn append(all: &mut HeaderMap, name: HeaderName, last: &HeaderValue) -> HeaderValue {
    let items = all.get_all(&name).iter().chain([last]);
    let items: Vec<_> = items.map(HeaderValue::as_bytes).collect();
    // Values that were read can be written.
    let joined = HeaderValue::from_bytes(&items.join(&b", "[..]));
    let joined = joined.unwrap_or_else(|_| last.clone());
    all.insert(name, joined.clone());
    joined
}

/// The request's id, which it gets if it has none.
pub(super) fn identify(all: &mut HeaderMap, session: &Session) -> HeaderValue {
    // It comes never again: HTTP/2 is not to keep it in the place of what does (RFC 7541 §7.1.3).
    if let Some(id) = all.get_mut(REQUEST_ID) {
        id.set_sensitive(true);
        return id.clone();
    }
    let mut id = request_id(session.front.random(), session.front.random());
    id.set_sensitive(true);
    all.insert(REQUEST_ID, id.clone());
    id
}

/// A random UUID (RFC 9562 §5.4).
fn request_id(high: u64, low: u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let high = high & !0xf000 | 0x4000;
    let low = low & !(3 << 62) | 1 << 63;
    let mut text = [b'-'; 36];
    // Two digits a byte, and a dash before bytes 4, 6, 8 and 10.
    let places = [
        0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34_usize,
    ];
    let bytes = high.to_be_bytes().into_iter().chain(low.to_be_bytes());
    for (byte, at) in bytes.zip(places) {
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits")
}

/// Joins the pieces of a cookie.
pub(super) fn join_cookies(all: &mut HeaderMap) {
    let mut pieces = all.get_all(header::COOKIE).iter();
    if pieces.nth(1).is_none() {
        return;
    }
    let pieces: Vec<_> = all
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        all.insert(header::COOKIE, joined);
    }
}

/// Does a rule's edits. What is no header is passed over: it was refused when it was read.
pub(super) fn edit(all: &mut HeaderMap, edits: &HeaderEdits) {
    let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
    for edit in edits.edits() {
        match edit {
            Edit::Remove(removed) => {
                all.remove(removed);
            }
            Edit::Set(key, value) => {
                if let (Some(key), Ok(value)) = (name(key), HeaderValue::from_str(value)) {
                    all.insert(key, value);
                }
            }
            Edit::Add(key, value) => {
                if let (Some(key), Ok(value)) = (name(key), HeaderValue::from_str(value)) {
                    all.append(key, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_random_uuid() {
        let cases = [
            (0, 0, "00000000-0000-4000-8000-000000000000"),
            (u64::MAX, u64::MAX, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (
                0x0123_4567_89ab_cdef,
                0x1032_5476_98ba_dcfe,
                "01234567-89ab-4def-9032-547698badcfe",
            ),
        ];
        for (high, low, text) in cases {
            assert_eq!(request_id(high, low), text);
        }
    }
}
