//! Requests: one connection of a client, from its first byte to its last.
//!
//! `guard` watches how HTTP/1 messages are framed, `request` decides and forwards each of them by `mesh::waypoint`, `body`
//! moves what is behind the heads, `exchange` remembers what has to be told, `judged` what is asked again when rules change. Connections to endpoints are the business of
//! [`upstream`](crate::upstream). Nothing here knows where a connection came from: a stream of a tunnel or a socket.
//!
//! A client that has ended its side may still be reading, and on HTTP/1 nothing tells it from one that is gone: it is served
//! for [`Limits::half_closed`], unless its answer moves. A connection that breaks ends its request at once, also behind bytes
//! that nobody reads yet, if it is a stream of a tunnel; so does a reset on HTTP/2. Of informational answers
//! 100 and 101 are passed on; others, such as 103, end here, because the HTTP/1 and HTTP/2 servers that we use cannot write
//! them (RFC 9110 §15.2 wants them forwarded). A path over HTTP/2 comes
//! without the fragment that a client may have sent with it, and is decided and forwarded so. Trailers of an answer reach an
//! HTTP/1.1 client if the endpoint announces them, or if it is a call and the client takes trailers.

mod answer;
mod body;
mod exchange;
mod front;
mod guard;
mod headers;
mod judged;
mod pass;
mod record;
mod request;
mod serve;
mod session;
mod upgrade;

#[cfg(test)]
mod tests;

use mesh::{name::Name, waypoint::Client};

pub(crate) use self::{
    body::Upload,
    front::has,
    guard::{Scan, Wrong},
};
pub use self::{
    front::{Front, Limits, Own},
    guard::Line,
    record::{Done, Record, RuleTold},
    serve::serve,
};

/// Where a client's connection came from, and what for.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who is at its other end.
    pub client: Client,
    /// The service, `<namespace>/<hostname>`: looked up anew for each request.
    pub table: Name,
    /// The service's port.
    pub port: u16,
    /// Whether it came through mutual TLS.
    pub security: bool,
    /// The waypoints that it has been through, `<namespace>/<gateway>`, in order.
    pub via: Vec<String>,
}

/// Whether a header of a client, which is no gateway, counts when its request is decided: not one that says what is not the
/// client's to say.
pub fn counts(name: &str) -> bool {
    http::HeaderName::try_from(name).is_ok_and(|name| headers::counts(&name, false))
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1 or 1.0.
    H1,
    /// HTTP/2, without TLS of its own.
    H2,
    /// Its first bytes say.
    Either,
}
