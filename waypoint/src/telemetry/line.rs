//! The access log: a line for each request and each connection, in the form that Envoy's users know, or as an object.
//!
//! In the order of that form: when it began; method, path and protocol; status, flags, details; what ended the connection,
//! why the endpoint's TLS failed (both are always `-`); bytes received and sent; how long it took, and the endpoint's part
//! of that; `x-forwarded-for`, user agent, request id, authority; the endpoint's address and service; our own addresses;
//! the client's; the server name (there is none); the route. The object has them under the names that the ecosystem's
//! dashboards know, without those of which nothing is known.
//!
//! What clients send is [escaped](escape) in both: a line looks as it is, wherever it is shown, and what was sent can be told
//! from it.

mod escape;
mod text;

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use net::log::Format;
use tracing::info;

/// Longest text within a line, in bytes.
const TEXT: usize = 4 << 10;

/// What a line says. Empty texts are not known. Bytes are those that a client sent.
#[derive(Clone, Debug)]
pub(super) struct Line<'a> {
    /// Since 1970.
    pub(super) began: Duration,
    pub(super) method: &'a str,
    pub(super) path: &'a [u8],
    pub(super) protocol: &'a str,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) flags: &'a str,
    pub(super) details: &'a str,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) duration: Duration,
    pub(super) upstream_time: Option<Duration>,
    pub(super) forwarded_for: &'a [u8],
    pub(super) user_agent: &'a [u8],
    pub(super) request_id: &'a [u8],
    pub(super) authority: &'a [u8],
    pub(super) upstream: Option<SocketAddr>,
    pub(super) cluster: &'a str,
    pub(super) local: Option<SocketAddr>,
    pub(super) client: SocketAddr,
    pub(super) route: &'a str,
    /// Who the client proved to be.
    pub(super) principal: &'a str,
    /// What went wrong, in words.
    pub(super) error: &'a str,
    /// `<namespace>/<name>` of the policy that decided, where one did.
    pub(super) policy: &'a str,
    /// Which of its rules.
    pub(super) rule: Option<usize>,
}

impl Line<'_> {
    /// Of this client; nothing else is known.
    pub(super) fn of(client: SocketAddr) -> Self {
        Self {
            began: Duration::ZERO,
            method: "",
            path: &[],
            protocol: "",
            status: 0,
            grpc_status: None,
            flags: "",
            details: "",
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
            upstream_time: None,
            forwarded_for: &[],
            user_agent: &[],
            request_id: &[],
            authority: &[],
            upstream: None,
            cluster: "",
            local: None,
            client,
            route: "",
            principal: "",
            error: "",
            policy: "",
            rule: None,
        }
    }

    /// Logs it.
    pub(super) fn log(&self, format: Format) {
        match format {
            // Its target is that of lines which stay as they are.
            Format::Text => text::with(self, |text| info!(target: net::log::WHOLE, "{text}")),
            Format::Json => self.object(),
        }
    }

    fn object(&self) {
        let known = |text| Some(cut(text)).filter(|text: &&str| !text.is_empty());
        info!(
            target: net::log::WHOLE,
            start_time = text::time(self.began),
            method = known(self.method),
            path = sent(self.path).as_deref(),
            protocol = known(self.protocol),
            response_code = self.status,
            grpc_status = self.grpc_status,
            response_flags = known(self.flags),
            response_code_details = known(self.details),
            bytes_received = self.received,
            bytes_sent = self.sent,
            duration = milliseconds(self.duration),
            upstream_service_time = self.upstream_time.map(milliseconds),
            x_forwarded_for = sent(self.forwarded_for).as_deref(),
            user_agent = sent(self.user_agent).as_deref(),
            request_id = sent(self.request_id).as_deref(),
            authority = sent(self.authority).as_deref(),
            upstream_host = self.upstream.map(tracing::field::display),
            upstream_cluster = known(self.cluster),
            downstream_local_address = self.local.map(tracing::field::display),
            downstream_remote_address = %self.client,
            downstream_peer = known(self.principal),
            route_name = known(self.route),
            // It may quote what a client sent.
            error = sent(self.error.as_bytes()).as_deref(),
            policy = known(self.policy),
            rule = self.rule,
        );
    }
}

fn sent(text: &[u8]) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then(|| escape::plain(text))
}

/// As much of a text as a line has room for.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT)]
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
