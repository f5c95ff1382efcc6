//! What is told of a request when it is over. Who listens makes log lines and metrics of it.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use mesh::{
    http::{authorize::Matched, route::Route},
    model::Workload,
    waypoint::{Answer, Backend, Denial, Table},
};

use super::Connection;

/// Who wants to know.
pub trait Record {
    /// A request is over: the last byte of its answer is out, or its client is gone.
    fn request(&self, done: &Done<'_>);
}

/// One request and its answer. Texts are empty where there is none; bytes are as they came, for whoever shows them to escape.
#[derive(Debug)]
pub struct Done<'a> {
    /// Where it came from.
    pub connection: &'a Connection,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// The method, or empty where no head could be read.
    pub method: &'a str,
    /// Path and query as the client asked.
    pub path: &'a [u8],
    /// The host that was asked for.
    pub authority: &'a [u8],
    /// `user-agent`.
    pub user_agent: &'a [u8],
    /// `x-request-id` as it was forwarded.
    pub request_id: &'a [u8],
    /// `x-forwarded-for` as it was forwarded.
    pub forwarded_for: &'a [u8],
    /// `content-type` of the request is one of gRPC.
    pub grpc: bool,
    /// Status of the answer; 0: there was none.
    pub status: u16,
    /// `grpc-status`, where the answer has one.
    pub grpc_status: Option<u32>,
    /// Why the answer is ours; none: it is the endpoint's.
    pub answer: Option<&'a Answer>,
    /// Response flags.
    pub flags: &'static str,
    /// What ended an answer of the endpoint before its time, if something did.
    pub broken: Option<&'static str>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Messages of a call, in the request and in the answer; none where it is no call.
    pub messages: (u64, u64),
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// From the last try to the head of the endpoint's answer.
    pub upstream_time: Option<Duration>,
    /// The endpoint, as the last try had it.
    pub upstream: Option<SocketAddr>,
    /// Whether its connection is a tunnel.
    pub upstream_security: bool,
    /// The service that was asked for, if it was known.
    pub table: Option<&'a Arc<Table>>,
    /// The service of the endpoint.
    pub backend: Option<&'a Arc<Backend>>,
    /// Its port, which need not be the one that was asked for.
    pub backend_port: Option<u16>,
    /// The endpoint.
    pub workload: Option<&'a Arc<Workload>>,
    /// The deciding rule.
    pub rule: Option<&'a RuleTold>,
    /// The policy that let it pass, if one had to.
    pub allowed_by: Option<&'a Matched>,
    /// What policies that are only tried would have denied.
    pub dry_run: &'a [Denial],
    /// What AUDIT policies matched.
    pub audit: &'a [Matched],
}

/// A rule of a route.
#[derive(Clone, Debug)]
pub struct RuleTold {
    /// The route.
    pub route: Arc<Route>,
    /// Which of its rules, from 0.
    pub at: usize,
}

impl Done<'_> {
    /// The response code's details.
    pub fn details(&self) -> Cow<'static, str> {
        match (self.answer, self.broken) {
            (Some(answer), _) => answer.details().into(),
            (None, Some(broken)) => broken.into(),
            (None, None) => "via_upstream".into(),
        }
    }
}
