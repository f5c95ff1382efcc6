//! Every answer that is the waypoint's own, and how each looks to a client, to gRPC and in the access log. No other place
//! maps reasons to statuses.
//!
//! Flags and details are the words of Envoy's access log, which is what dashboards know.

use std::fmt;

use crate::{
    decide,
    http::{
        authorize,
        edit::HeaderEdits,
        head::{Malformed, TooLarge},
    },
    name::Name,
    refusal::Refusal,
};

/// Why a request is answered here, or a connection is not carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Policy says no.
    Denied(Denial),
    /// The backend is none, or cannot be used. Says why.
    InvalidBackend(String),
    /// The request was here before, or at too many waypoints. Says where.
    Loop(String),
    /// The endpoint's connection ended before its answer began. Says how.
    Lost(String),
    /// The head cannot be read as one request.
    Malformed(Malformed),
    /// The rule leads nowhere: it has no backend with a weight.
    NoBackend,
    /// None of the service's endpoints can take it.
    NoEndpoint(Name),
    /// Routes there are, and none matches.
    NoRoute,
    /// The authority names no port of a service of this waypoint.
    NotServed(String),
    /// The control plane has not said yet what is needed.
    NotReady,
    /// A rule sends the client elsewhere.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The header's value.
        location: Vec<u8>,
        /// What the rule makes of the answer's headers.
        response_edits: Vec<HeaderEdits>,
    },
    /// The client took too long with its request.
    Slow,
    /// The rule's time is over.
    Timeout,
    /// The head is larger than any may be.
    TooLarge(TooLarge),
    /// The message is framed in a way that has two readings, or none. Says what is wrong with it.
    Unframed(String),
    /// Something that is not known here, or not served. Says what.
    Unserved(String),
    /// What the endpoint answered is not HTTP. Says what is wrong with it.
    UpstreamProtocol(String),
    /// The endpoint cannot be reached.
    Upstream(Refusal),
}

/// Which layer's policy says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Layer 4, for the endpoint that was chosen.
    Connection(decide::Denial),
    /// Layer 7, of the service that was asked for or of the backend.
    Request(authorize::Denial),
}

impl Denial {
    /// The policy that decided, `<namespace>/<name>`.
    pub fn policy(self) -> Name {
        match self {
            Self::Connection(denial) => denial.policy(),
            Self::Request(denial) => denial.policy(),
        }
    }

    /// The rule that matched, from 0, where one did and is known.
    pub fn rule(self) -> Option<usize> {
        match self {
            Self::Request(authorize::Denial::Denied(matched)) => Some(matched.rule),
            Self::Connection(_) | Self::Request(_) => None,
        }
    }

    /// As the access log names it: `ns[shop]-policy[no-admin]-rule[0]`; `none` where no ALLOW policy matches.
    fn matched(self) -> String {
        let named = |policy: Name| match policy.as_str().split_once('/') {
            Some((namespace, name)) => format!("ns[{namespace}]-policy[{name}]"),
            None => format!("policy[{policy}]"),
        };
        match self {
            Self::Connection(decide::Denial::NotAllowed(_))
            | Self::Request(authorize::Denial::NotAllowed(_)) => "none".to_owned(),
            denial => match denial.rule() {
                Some(rule) => format!("{}-rule[{rule}]", named(denial.policy())),
                None => named(denial.policy()),
            },
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(denial) => denial.fmt(f),
            Self::Request(denial) => denial.fmt(f),
        }
    }
}

impl Answer {
    /// The HTTP status. A gRPC request is answered with 200 and [`Answer::grpc_status`] instead.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::NotServed(_) | Self::Unframed(_) => 400,
            Self::Denied(_) => 403,
            Self::NoRoute => 404,
            Self::Slow => 408,
            Self::TooLarge(which) => which.status(),
            Self::Redirect { status, .. } => *status,
            Self::InvalidBackend(_) | Self::NoBackend | Self::Unserved(_) => 500,
            Self::UpstreamProtocol(_) => 502,
            Self::Loop(_)
            | Self::Lost(_)
            | Self::NoEndpoint(_)
            | Self::NotReady
            | Self::Upstream(_) => 503,
            Self::Timeout => 504,
        }
    }

    /// The status for gRPC. What is malformed is INTERNAL, which is what a client takes a bare 400 for.
    pub fn grpc_status(&self) -> u32 {
        match self {
            // UNKNOWN
            Self::Redirect { .. } => 2,
            // DEADLINE_EXCEEDED
            Self::Slow | Self::Timeout => 4,
            // PERMISSION_DENIED
            Self::Denied(_) => 7,
            // RESOURCE_EXHAUSTED
            Self::TooLarge(_) => 8,
            // UNIMPLEMENTED
            Self::NoRoute => 12,
            // INTERNAL
            Self::Malformed(_) | Self::NotServed(_) | Self::Unframed(_) => 13,
            // UNAVAILABLE
            Self::InvalidBackend(_)
            | Self::Loop(_)
            | Self::Lost(_)
            | Self::NoBackend
            | Self::NoEndpoint(_)
            | Self::NotReady
            | Self::Unserved(_)
            | Self::Upstream(_)
            | Self::UpstreamProtocol(_) => 14,
        }
    }

    /// The response flags.
    pub fn flags(&self) -> &'static str {
        match self {
            Self::Denied(_) | Self::Redirect { .. } | Self::Slow | Self::TooLarge(_) => "-",
            Self::Malformed(_) | Self::Unframed(_) => "DPE",
            Self::InvalidBackend(_) | Self::NoBackend | Self::Unserved(_) => "NC",
            Self::NoRoute | Self::NotServed(_) | Self::Loop(_) | Self::NotReady => "NR",
            Self::Lost(_) => "UC",
            Self::NoEndpoint(_) => "UH",
            Self::Timeout => "UT",
            Self::Upstream(Refusal::TooMany) => "UO",
            Self::Upstream(_) => "UF",
            Self::UpstreamProtocol(_) => "UPE",
        }
    }

    /// The response code's details.
    pub fn details(&self) -> String {
        let reset = |why| format!("upstream_reset_before_response_started{{{why}}}");
        match self {
            Self::Denied(denial) => {
                return format!("rbac_access_denied_matched_policy[{}]", denial.matched());
            }
            Self::Lost(_) => return reset("connection_termination"),
            Self::Upstream(Refusal::TooMany) => return reset("overflow"),
            Self::Upstream(_) => return reset("connection_failure"),
            Self::UpstreamProtocol(_) => return reset("protocol_error"),
            Self::InvalidBackend(_) | Self::NoBackend | Self::Unserved(_) => "cluster_not_found",
            Self::Loop(_) => "waypoint_loop",
            Self::Malformed(Malformed::NoHost) => "missing_host_header",
            Self::Malformed(Malformed::Path(_)) => "path_normalization_failed",
            Self::Malformed(_) | Self::Unframed(_) => "http1.codec_error",
            Self::NoEndpoint(_) => "no_healthy_upstream",
            Self::NoRoute | Self::NotServed(_) => "route_not_found",
            Self::NotReady => "route_configuration_not_ready",
            Self::Redirect { .. } => "direct_response",
            Self::Slow => "request_overall_timeout",
            Self::Timeout => "response_timeout",
            Self::TooLarge(_) => "request_headers_too_large",
        }
        .to_owned()
    }

    /// What the client reads: nothing of who is behind, or of policies.
    pub fn body(&self) -> &'static str {
        match self {
            Self::Denied(_) => "RBAC: access denied",
            Self::NoRoute | Self::NotServed(_) | Self::Redirect { .. } => "",
            Self::InvalidBackend(_) | Self::NoBackend => "no valid backend",
            Self::Loop(_) => "loop",
            Self::Lost(_) => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
            }
            Self::Malformed(_) | Self::Unframed(_) => "Bad Request",
            Self::NoEndpoint(_) => "no healthy upstream",
            Self::NotReady => "not ready",
            Self::Slow => "request timeout",
            Self::Timeout => "upstream request timeout",
            Self::TooLarge(TooLarge::Target) => "URI Too Long",
            Self::TooLarge(_) => "Request Header Fields Too Large",
            Self::Unserved(_) => "not served",
            Self::Upstream(_) => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
            }
            Self::UpstreamProtocol(_) => {
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
            }
        }
    }

    /// What a gRPC client reads.
    pub fn grpc_message(&self) -> &'static str {
        match self {
            Self::NoRoute | Self::NotServed(_) => "no route",
            Self::Redirect { .. } => "redirected, which a call cannot follow",
            _ => self.body(),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denial) => denial.fmt(f),
            Self::InvalidBackend(why) => write!(f, "the backend cannot be used: {why}"),
            Self::Loop(via) => write!(f, "the request went in a circle of waypoints: {via}"),
            Self::Lost(how) => write!(
                f,
                "the endpoint's connection ended before its answer: {how}"
            ),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::NoBackend => f.write_str("the rule has no backend with a weight"),
            Self::NoEndpoint(service) => write!(f, "no healthy endpoint in service {service}"),
            Self::NoRoute => f.write_str("no route matches"),
            Self::NotServed(authority) => {
                write!(f, "{authority:?} is no port of a service of this waypoint")
            }
            Self::NotReady => f.write_str("the control plane has not sent this service yet"),
            Self::Redirect {
                status, location, ..
            } => {
                write!(f, "redirected with {status} to {}", location.escape_ascii())
            }
            Self::Slow => f.write_str("the client took too long with its request"),
            Self::Timeout => f.write_str("the time that the rule gives is over"),
            Self::TooLarge(TooLarge::Target) => f.write_str("path and query are too long"),
            Self::TooLarge(TooLarge::Fields) => f.write_str("there are too many header fields"),
            Self::TooLarge(TooLarge::Bytes) => f.write_str("the header fields are too large"),
            Self::Unframed(what) => write!(f, "the request is not framed as one may be: {what}"),
            Self::Unserved(what) => write!(f, "not served: {what}"),
            Self::UpstreamProtocol(what) => write!(f, "the endpoint's answer is not HTTP: {what}"),
            Self::Upstream(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for Answer {}

#[cfg(test)]
mod tests;
