//! One request and its answer, as far as they are remembered: told when they are over, however they end.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, request, response};
use mesh::{
    http::{authorize::Matched, messages::Messages},
    model::Workload,
    plan::Plan,
    waypoint::{Answer, Backend, Denial, Forward, Generation, Judgement, Table},
};
use tokio::time::Instant;

use super::{Done, RuleTold, answer::GRPC_STATUS, body::Source, judged::Judged, session::Session};
use crate::{http::body::Download, upstream::Lease};

/// One request. It is over when this is dropped.
pub(super) struct Exchange {
    pub(super) session: Rc<Session>,
    pub(super) started: Instant,
    pub(super) version: Version,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) request_id: Option<HeaderValue>,
    /// As it was forwarded, if that was more than the client's address.
    pub(super) forwarded_for: Option<HeaderValue>,
    pub(super) grpc: bool,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) answer: Option<Answer>,
    pub(super) source: Option<Rc<Source>>,
    /// What it is judged again by while it is under way; none: it is taken for a short one.
    pub(super) judged: Option<Rc<Judged>>,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Of a call that is answered as one: the messages in the answer.
    pub(super) messages: Option<Messages>,
    pub(super) upstream_time: Option<Duration>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) upstream_security: bool,
    pub(super) table: Option<Arc<Table>>,
    pub(super) backend: Option<Arc<Backend>>,
    backend_port: Option<u16>,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) rule: Option<RuleTold>,
    pub(super) allowed_by: Option<Matched>,
    pub(super) dry_run: Vec<Denial>,
    pub(super) audit: Vec<Matched>,
    /// The endpoint's connection, until the answer is all there.
    pub(super) lease: Option<Lease>,
    broken: Option<(&'static str, &'static str)>,
    ended: bool,
}

impl Exchange {
    pub(super) fn new(session: &Rc<Session>, parts: &request::Parts) -> Box<Self> {
        session.in_flight.set(session.in_flight.get() + 1);
        // One look at each is less than three look-ups.
        let (mut host, mut user_agent, mut grpc) = (None, None, false);
        for (name, value) in &parts.headers {
            match *name {
                header::HOST if host.is_none() => host = Some(value.clone()),
                header::USER_AGENT if user_agent.is_none() => user_agent = Some(value.clone()),
                header::CONTENT_TYPE => grpc |= is_grpc(value.as_bytes()),
                _ => {}
            }
        }
        Box::new(Self {
            session: Rc::clone(session),
            started: Instant::now(),
            version: parts.version,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host,
            user_agent,
            request_id: None,
            forwarded_for: None,
            grpc,
            status: 0,
            grpc_status: None,
            answer: None,
            source: None,
            judged: None,
            received: 0,
            sent: 0,
            messages: None,
            upstream_time: None,
            upstream: None,
            upstream_security: false,
            table: None,
            backend: None,
            backend_port: None,
            workload: None,
            rule: None,
            allowed_by: None,
            dry_run: Vec::new(),
            audit: Vec::new(),
            lease: None,
            broken: None,
            ended: false,
        })
    }

    /// Remembers why it goes where it goes, or is answered as it is.
    pub(super) fn judged<'g>(
        &mut self,
        mut judgement: Judgement<'g>,
    ) -> Result<Forward<'g>, Answer> {
        self.backend = judgement.backend.cloned();
        self.backend_port = judgement.backend_port;
        self.rule = judgement.route.map(|selected| RuleTold {
            route: Arc::clone(selected.route),
            at: selected.at,
        });
        self.allowed_by = judgement.allowed_by;
        self.dry_run = judgement.would_deny().collect();
        self.audit = std::mem::take(&mut judgement.audit);
        judgement.outcome
    }

    /// Remembers which endpoint it goes to, by which generation.
    pub(super) fn leads_to(&mut self, forward: &Forward<'_>, by: &Arc<Generation>) {
        self.upstream = Some(forward.plan.end());
        self.upstream_security = matches!(forward.plan, Plan::Tunnel(_));
        self.workload = forward.plan.workload().cloned();
        if let Some(judged) = &self.judged {
            judged.leads_to(forward, by);
        }
    }

    /// Remembers the head of the endpoint's answer.
    pub(super) fn answered(&mut self, head: &response::Parts) {
        self.status = head.status.as_u16();
        self.trailers(&head.headers);
        self.messages = (self.grpc && is_call(&head.headers)).then(Messages::default);
    }

    /// Remembers what trailers, or headers that are them, say of a call.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        if !self.grpc {
            return;
        }
        let status = trailers.get(GRPC_STATUS).and_then(|v| v.to_str().ok());
        if let Some(status) = status.and_then(|status| status.parse().ok()) {
            self.grpc_status = Some(status);
        }
    }

    /// Whether its client can be told in trailers how its call ended.
    pub(super) fn takes_status(&self) -> bool {
        self.grpc && self.version == Version::HTTP_2
    }

    /// The answer did not come to its end.
    pub(super) fn broke(&mut self, why: super::body::Broken) {
        self.broken = Some(match why {
            // That is an answer of our own.
            super::body::Broken::Denied => return,
            super::body::Broken::Late => ("UT", "response_timeout"),
            super::body::Broken::Endpoint => (
                "UC",
                "upstream_reset_after_response_started{connection_termination}",
            ),
        });
        self.ended = true;
    }

    /// The answer may not come to its end.
    pub(super) fn cut(&mut self, why: Answer) {
        self.answer = Some(why);
        self.ended = true;
    }

    /// The answer is all there.
    pub(super) fn end(&mut self) {
        self.ended = true;
        if let Some(source) = &self.source {
            source.release();
        }
        self.lease = None;
    }

    /// Makes the rest of a request whose answer has no body that anybody waits for.
    pub(super) fn into_body(self: Box<Self>, body: Bytes) -> Download {
        Download::own(body, self)
    }

    fn tell(&self) {
        let (flags, broken) = match (&self.answer, self.broken) {
            (Some(answer), _) => (answer.flags(), None),
            (None, Some((flags, broken))) => (flags, Some(broken)),
            (None, None) if self.ended => ("-", None),
            (None, None) => ("DC", Some("downstream_remote_disconnect")),
        };
        let received = self.source.as_ref().map_or(0, |source| source.bytes.get());
        let session = &self.session;
        let path = self.uri.path_and_query();
        let forwarded_for = self.forwarded_for.as_ref();
        session.front.record.request(&Done {
            connection: &session.connection,
            protocol: match self.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            method: self.method.as_str(),
            path: path.map_or(&[], |path| path.as_str().as_bytes()),
            authority: match self.uri.authority() {
                Some(authority) => authority.as_str().as_bytes(),
                None => bytes(self.host.as_ref()),
            },
            user_agent: bytes(self.user_agent.as_ref()),
            request_id: bytes(self.request_id.as_ref()),
            forwarded_for: forwarded_for.unwrap_or(&session.forwarded_for).as_bytes(),
            grpc: self.grpc,
            status: self.status,
            grpc_status: self.grpc_status,
            answer: self.answer.as_ref(),
            flags,
            broken,
            received: received.max(self.received),
            sent: self.sent,
            messages: (
                self.source.as_ref().map_or(0, |source| source.messages()),
                self.messages.as_ref().map_or(0, Messages::count),
            ),
            duration: self.started.elapsed(),
            upstream_time: self.upstream_time,
            upstream: self.upstream,
            upstream_security: self.upstream_security,
            table: self.table.as_ref(),
            backend: self.backend.as_ref(),
            backend_port: self.backend_port,
            workload: self.workload.as_ref(),
            rule: self.rule.as_ref(),
            allowed_by: self.allowed_by.as_ref(),
            dry_run: &self.dry_run,
            audit: &self.audit,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.tell();
        let session = &self.session;
        session.in_flight.set(session.in_flight.get() - 1);
        session.rested.set(Instant::now());
    }
}

/// Tells of a request that had no head to speak of.
pub(super) fn unread(session: &Rc<Session>, answer: &Answer) {
    let (generation, connection) = (session.front.generation(), &session.connection);
    session.front.record.request(&Done {
        connection,
        protocol: "HTTP/1.1",
        method: "",
        path: &[],
        authority: &[],
        user_agent: &[],
        request_id: &[],
        forwarded_for: &[],
        grpc: false,
        status: answer.status(),
        grpc_status: None,
        answer: Some(answer),
        flags: answer.flags(),
        broken: None,
        received: 0,
        sent: 0,
        messages: (0, 0),
        duration: Duration::ZERO,
        upstream_time: None,
        upstream: None,
        upstream_security: false,
        table: generation.table(connection.table),
        backend: None,
        backend_port: None,
        workload: None,
        rule: None,
        allowed_by: None,
        dry_run: &[],
        audit: &[],
    });
}

fn bytes(value: Option<&HeaderValue>) -> &[u8] {
    value.map_or(&[], HeaderValue::as_bytes)
}

/// Whether what is behind a head is a call, or the answer to one.
fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|value| is_grpc(value.as_bytes()))
}

/// `application/grpc`, with or without what follows.
fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type
        .split_at_checked(GRPC.len())
        .is_some_and(|(kind, rest)| {
            kind.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
        })
}
