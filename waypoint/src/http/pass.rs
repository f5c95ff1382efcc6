//! Heads on their way through: the request as the endpoint sees it, the answer as the client does.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::{Body, Incoming};
use mesh::waypoint::{Answer, Forward, Protocol};

use super::{
    exchange::Exchange,
    headers::{self, Hop},
    session::Session,
};
use crate::upstream::Speaks;

/// What to speak to an endpoint.
pub(super) fn speaks(forward: &Forward<'_>, parts: &Parts) -> Speaks {
    match forward.upstream {
        Protocol::Http1 => Speaks::Http1,
        Protocol::Http2 => Speaks::Http2,
        Protocol::Http | Protocol::Detect | Protocol::Tcp => {
            if parts.version == Version::HTTP_2 {
                Speaks::Http2
            } else {
                Speaks::Http1
            }
        }
    }
}

/// What the endpoint is asked beside the request.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    /// What to speak instead.
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) waits: bool,
    /// Its client, over HTTP/1.1, takes a call's trailers.
    pub(super) trailers: bool,
}

/// Makes a head what the endpoint sees.
pub(super) fn outgoing(
    session: &Session,
    exchange: &mut Exchange,
    parts: &mut Parts,
    forward: &Forward<'_>,
    hop: Hop,
) -> Result<Wants, Answer> {
    let speaks = speaks(forward, parts);
    let is_h1 = parts.version == Version::HTTP_11;
    let all = &mut parts.headers;
    for edits in &forward.request_edits {
        headers::edit(all, edits);
    }
    if let Some(table) = &exchange.table {
        exchange.forwarded_for = headers::introduce(all, session, table);
    }
    exchange.request_id = Some(headers::identify(all, session));
    let unusable = |what: &str| Answer::InvalidBackend(format!("{what} cannot be sent"));
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| unusable("the host"));
    let host = match (&forward.host, parts.uri.authority()) {
        (Some(host), _) => Some(value(host)?),
        (None, Some(authority)) => Some(value(authority.as_str())?),
        (None, None) => None,
    };
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target(
        parts.uri.path_and_query(),
        forward.target.as_deref(),
    )?);
    let mut wants = Wants {
        trailers: hop.trailers && exchange.grpc && is_h1,
        ..Wants::default()
    };
    parts.extensions.clear();
    match speaks {
        Speaks::Http1 => {
            parts.version = Version::HTTP_11;
            if let Some(host) = host {
                all.insert(header::HOST, host);
            }
            // A rule may have added to what was one.
            if !forward.request_edits.is_empty() {
                headers::join_cookies(all);
            }
            if let Some(upgrade) = hop.upgrade.filter(|_| is_h1) {
                all.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                all.insert(header::UPGRADE, upgrade.clone());
                wants.upgrade = Some(upgrade);
            } else if hop.trailers {
                all.insert(header::CONNECTION, HeaderValue::from_static("te"));
                all.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            if hop.waits && is_h1 {
                all.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
                wants.waits = true;
            }
        }
        Speaks::Http2 => {
            parts.version = Version::HTTP_2;
            let host = host.or_else(|| all.get(header::HOST).cloned());
            let host = host.ok_or_else(|| unusable("no host"))?;
            let authority = Authority::try_from(host.as_bytes());
            uri.authority = Some(authority.map_err(|_| unusable("the host"))?);
            uri.scheme = Some(Scheme::HTTP);
            all.remove(header::HOST);
            if hop.trailers {
                all.insert(header::TE, HeaderValue::from_static("trailers"));
            }
        }
    }
    parts.uri = Uri::from_parts(uri).map_err(|_| unusable("the target"))?;
    Ok(wants)
}

/// Path and query to send: the ones that came, where they are the same.
fn target(came: Option<&PathAndQuery>, wanted: Option<&[u8]>) -> Result<PathAndQuery, Answer> {
    match (came, wanted) {
        (Some(came), Some(wanted)) if came.as_str().as_bytes() == wanted => Ok(came.clone()),
        (_, Some(wanted)) => PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(wanted))
            .map_err(|_| Answer::InvalidBackend("the path cannot be sent".to_owned())),
        (came, None) => Ok(came
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"))),
    }
}

/// Makes an answer's head what the client sees.
pub(super) fn incoming(
    response: &mut Response<Incoming>,
    forward: &Forward<'_>,
    wants: &Wants,
) -> Result<(), Answer> {
    let mut to = None;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let asked = wants.upgrade.as_ref();
        if !asked.is_some_and(|asked| headers::agrees(response.headers(), asked)) {
            let why = "it switches to a protocol that nobody asked for";
            return Err(Answer::UpstreamProtocol(why.to_owned()));
        }
        to = response.headers().get(header::UPGRADE).cloned();
    }
    *response.version_mut() = Version::HTTP_11;
    let all = response.headers_mut();
    headers::trim_answer(all);
    for edits in &forward.response_edits {
        headers::edit(all, edits);
    }
    if let Some(to) = to {
        all.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        all.insert(header::UPGRADE, to);
    }
    if wants.trailers {
        announce_trailers(response);
    }
    Ok(())
}

/// Names what follows a call: HTTP/1.1 trailers are written only if they are announced.
fn announce_trailers(response: &mut Response<Incoming>) {
    let follows = !response.body().is_end_stream();
    let all = response.headers_mut();
    if follows && !all.contains_key(header::CONTENT_LENGTH) && !all.contains_key(header::TRAILER) {
        let names = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");
        all.insert(header::TRAILER, names);
    }
}
