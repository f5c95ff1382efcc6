//! The access log: a line for each request and each connection, in the form that Envoy's users know, or as an object.
//!
//! In the order of that form: when it began; method, path and protocol; status, flags, details; what ended the connection,
//! why the endpoint's TLS failed (both are always `-`); bytes received and sent; how long it took, and the endpoint's part
//! of that; `x-forwarded-for`, user agent, request id, authority; the endpoint's address and service; our own addresses;
//! the client's; the server name (there is none); the route.

use std::{
    fmt::{self, Display, Write},
    net::SocketAddr,
    time::Duration,
};

use net::log::Format;
use time::OffsetDateTime;
use tracing::info;

/// What a line says. Empty texts are not known.
#[derive(Clone, Debug)]
pub(super) struct Line<'a> {
    /// Since 1970.
    pub(super) began: Duration,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) protocol: &'a str,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) flags: &'a str,
    pub(super) details: &'a str,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) duration: Duration,
    pub(super) upstream_time: Option<Duration>,
    pub(super) forwarded_for: &'a str,
    pub(super) user_agent: &'a str,
    pub(super) request_id: &'a str,
    pub(super) authority: &'a str,
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
            path: "",
            protocol: "",
            status: 0,
            grpc_status: None,
            flags: "",
            details: "",
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
            upstream_time: None,
            forwarded_for: "",
            user_agent: "",
            request_id: "",
            authority: "",
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
            Format::Text => info!(target: net::log::WHOLE, "{self}"),
            Format::Json => self.object(),
        }
    }

    fn object(&self) {
        let known = |text| Some(text).filter(|text: &&str| !text.is_empty());
        info!(
            target: net::log::WHOLE,
            method = known(self.method),
            path = known(self.path),
            protocol = self.protocol,
            response_code = self.status,
            grpc_status = self.grpc_status,
            response_flags = self.flags,
            response_code_details = self.details,
            bytes_received = self.received,
            bytes_sent = self.sent,
            duration = milliseconds(self.duration),
            upstream_service_time = self.upstream_time.map(milliseconds),
            x_forwarded_for = known(self.forwarded_for),
            user_agent = known(self.user_agent),
            request_id = known(self.request_id),
            authority = known(self.authority),
            upstream_host = self.upstream.map(tracing::field::display),
            upstream_cluster = known(self.cluster),
            downstream_local_address = self.local.map(tracing::field::display),
            downstream_remote_address = %self.client,
            downstream_peer = known(self.principal),
            route_name = known(self.route),
            error = known(self.error),
            policy = known(self.policy),
            rule = self.rule,
        );
    }
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] ", Instant(self.began))?;
        f.write_char('"')?;
        if self.method.is_empty() {
            write!(f, "- - {}", or_dash(self.protocol))?;
        } else {
            write!(
                f,
                "{} {} {}",
                Quoted(self.method),
                Quoted(self.path),
                self.protocol
            )?;
        }
        write!(
            f,
            "\" {} {} {} - \"-\" {} {} {} ",
            self.status,
            or_dash(self.flags),
            Spaceless(self.details),
            self.received,
            self.sent,
            milliseconds(self.duration),
        )?;
        match self.upstream_time {
            Some(time) => write!(f, "{}", milliseconds(time))?,
            None => f.write_char('-')?,
        }
        for text in [
            self.forwarded_for,
            self.user_agent,
            self.request_id,
            self.authority,
        ] {
            write!(f, " \"{}\"", Quoted(text))?;
        }
        match self.upstream {
            Some(upstream) => write!(f, " \"{upstream}\"")?,
            None => f.write_str(" \"-\"")?,
        }
        write!(f, " {} - ", Spaceless(self.cluster))?;
        match self.local {
            Some(local) => write!(f, "{local}")?,
            None => f.write_char('-')?,
        }
        write!(f, " {} - {}", self.client, Spaceless(self.route))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Within quotes: what a client sends does not end them.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = or_dash(self.0);
        while let Some(at) = rest.find(['"', '\\']) {
            f.write_str(&rest[..at])?;
            f.write_char('\\')?;
            f.write_str(&rest[at..=at])?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// One word.
struct Spaceless<'a>(&'a str);

impl Display for Spaceless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = or_dash(self.0).split(' ');
        f.write_str(words.next().unwrap_or_default())?;
        words.try_for_each(|word| write!(f, "_{word}"))
    }
}

/// RFC 3339 with milliseconds.
struct Instant(Duration);

impl Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.as_secs()).unwrap_or_default();
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            self.0.subsec_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            began: Duration::from_millis(1_767_225_600_123),
            method: "GET",
            path: "/cart?id=1",
            protocol: "HTTP/1.1",
            status: 200,
            grpc_status: None,
            flags: "-",
            details: "via_upstream",
            received: 0,
            sent: 17,
            duration: Duration::from_micros(5_900),
            upstream_time: Some(Duration::from_millis(4)),
            forwarded_for: "10.0.0.1",
            user_agent: "curl/8",
            request_id: "7b",
            authority: "orders",
            upstream: Some("10.0.1.2:8080".parse().unwrap()),
            cluster: "inbound-vip|80|http|orders.shop.svc.cluster.local",
            local: Some("10.96.0.9:80".parse().unwrap()),
            client: "10.0.0.1:40302".parse().unwrap(),
            route: "shop/orders/0",
            principal: "spiffe://cluster.local/ns/shop/sa/cart",
            error: "",
            policy: "",
            rule: None,
        }
    }

    #[test]
    fn a_request_is_one_line_in_the_known_order() {
        let want = "[2026-01-01T00:00:00.123Z] \"GET /cart?id=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 17 5 4 \"10.0.0.1\" \
            \"curl/8\" \"7b\" \"orders\" \"10.0.1.2:8080\" inbound-vip|80|http|orders.shop.svc.cluster.local - \
            10.96.0.9:80 10.0.0.1:40302 - shop/orders/0";
        assert_eq!(line().to_string(), want);
    }

    #[test]
    fn what_is_unknown_is_a_dash_and_a_client_cannot_end_its_quotes() {
        let line = Line {
            method: "",
            protocol: "",
            user_agent: "a\" 200 \\\"b",
            forwarded_for: "",
            upstream: None,
            upstream_time: None,
            local: None,
            cluster: "",
            route: "",
            details: "two words",
            ..line()
        };
        let want = "[2026-01-01T00:00:00.123Z] \"- - -\" 200 - two_words - \"-\" 0 17 5 - \"-\" \"a\\\" 200 \\\\\\\"b\" \"7b\" \
            \"orders\" \"-\" - - - 10.0.0.1:40302 - -";
        assert_eq!(line.to_string(), want);
    }
}
