//! Answers of our own, as each kind of client understands them.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use mesh::waypoint::Answer;

use super::{body::Download, exchange::Exchange, headers};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Answers a request. To gRPC in trailers alone, with status 200 (gRPC over HTTP/2, "Trailers-Only").
pub(super) fn answer(answer: Answer, mut exchange: Box<Exchange>) -> Response<Download> {
    let mut response = Response::new(());
    let mut body = Bytes::new();
    let all = response.headers_mut();
    if exchange.grpc {
        let status = answer.grpc_status();
        all.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        all.insert(GRPC_STATUS, HeaderValue::from(status));
        if let Ok(message) = HeaderValue::try_from(escaped(answer.grpc_message())) {
            all.insert(GRPC_MESSAGE, message);
        }
        exchange.grpc_status = Some(status);
    } else {
        body = Bytes::from_static(answer.body().as_bytes());
        if !body.is_empty() {
            all.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        if let Answer::Redirect {
            location,
            response_edits,
            ..
        } = &answer
        {
            if let Ok(location) = HeaderValue::from_bytes(location) {
                all.insert(header::LOCATION, location);
            }
            response_edits
                .iter()
                .for_each(|edits| headers::edit(all, edits));
        }
        let status = StatusCode::from_u16(answer.status());
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    }
    exchange.status = response.status().as_u16();
    exchange.answer = Some(answer);
    response.map(|()| exchange.into_body(body))
}

/// What ends a call that has begun and may not go on.
pub(super) fn trailers(answer: &Answer) -> HeaderMap {
    HeaderMap::from_iter([
        (GRPC_STATUS, HeaderValue::from(answer.grpc_status())),
        (
            GRPC_MESSAGE,
            HeaderValue::from_static(answer.grpc_message()),
        ),
    ])
}

/// RFC 3986 percent-encoding of what a `grpc-message` may not hold.
fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            byte => write!(text, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    text
}
