//! One request: read, decided, forwarded, answered.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::{Body, Incoming};
use mesh::{
    http::{
        head::{self, Field, Head, Raw},
        host,
        messages::Messages,
        path,
    },
    waypoint::{Answer, Asked, Forward, Generation, Judgement, Port, Table, judge},
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Upload,
    answer::answer,
    body::{Download, Failed, Source},
    exchange::Exchange,
    headers,
    judged::{Judged, Side},
    pass::{Wants, incoming, outgoing, speaks},
    session::Session,
    upgrade::Upgraded,
};
use crate::upstream::{Handover, Lease, Speaks, Unanswered};

/// Endpoints that are tried for one request.
const TRIES: usize = 3;
/// Header fields that need no memory of their own while they are looked at.
const FIELDS: usize = 32;

/// Answers one request.
pub(super) async fn respond(
    session: Rc<Session>,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    // What follows such a request is not looked at: see `guard`.
    let last = version != Version::HTTP_2
        && (parts.method == Method::CONNECT || parts.headers.contains_key(header::UPGRADE));
    let seed = session.front.random();
    let mut exchange = Exchange::new(&session, &parts);
    let settled = headers::settle(&mut parts);
    if settled.is_ok() && Judged::is_worth_it(&parts, !body.is_end_stream(), exchange.grpc) {
        exchange.judged = Some(Judged::new(&session, &parts));
    }
    let forwarded = match settled {
        Ok(()) => forward(&session, &mut parts, body, seed, &mut exchange).await,
        Err(why) => Err(why),
    };
    let mut response = match forwarded {
        Ok(forwarded) => forwarded.into_response(&session, exchange),
        Err(why) => answer(why, exchange),
    };
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let is_old = version == Version::HTTP_10;
    // Without chunks the end of the connection is the end of what has no length.
    let endless = is_old && response.size_hint().exact().is_none();
    if version != Version::HTTP_2 && !switched && (last || endless || session.draining.get()) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        if is_old {
            // An answer of HTTP/1.1 would promise the client what it asked for.
            *response.version_mut() = Version::HTTP_10;
        }
    }
    Ok(response)
}

/// An endpoint's answer.
struct Forwarded {
    response: Response<Incoming>,
    deadline: Option<Instant>,
    handover: Option<Handover>,
}

impl Forwarded {
    fn into_response(self, session: &Session, mut exchange: Box<Exchange>) -> Response<Download> {
        let (parts, body) = self.response.into_parts();
        exchange.answered(&parts);
        let download = if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            Download::endpoint(body, exchange, self.deadline)
        } else if let Some((handover, judged)) = self.handover.zip(exchange.judged.clone()) {
            session
                .upgraded
                .replace(Some(Upgraded::new(handover, judged, exchange)));
            Download::none()
        } else {
            let why = "it switches protocols, and nobody asked for that";
            return answer(Answer::UpstreamProtocol(why.to_owned()), exchange);
        };
        Response::from_parts(parts, download)
    }
}

/// Decides a request and sends it where it belongs.
async fn forward(
    session: &Rc<Session>,
    parts: &mut Parts,
    body: Incoming,
    seed: u64,
    exchange: &mut Exchange,
) -> Result<Forwarded, Answer> {
    let front = &session.front;
    let connection = &session.connection;
    let generation = front.serving(connection.table, connection.port);
    let table = generation.table(connection.table).ok_or(Answer::NotReady)?;
    let port = table.port(connection.port);
    let port = port.ok_or_else(|| Answer::NotServed(format!("port {}", connection.port)))?;
    exchange.table = Some(Arc::clone(table));
    let mut tried: Vec<Arc<str>> = Vec::new();
    let mut failed = None;
    let (forward, lease) = loop {
        let decided = decide(session, &generation, (table, port), parts, seed, &tried);
        let decided = decided.map(|judgement| exchange.judged(judgement));
        let forward = match decided? {
            Ok(forward) => forward,
            // Where no other endpoint is left, the first reason is the better one.
            Err(answer) => return Err(failed.unwrap_or(answer)),
        };
        let speaks = speaks(&forward, parts);
        if speaks == Speaks::Http2 && exchange.judged.is_none() {
            exchange.judged = Some(Judged::new(session, parts));
        }
        exchange.leads_to(&forward, &generation);
        let judged = exchange.judged.clone();
        let deadline = deadline(exchange, &forward);
        let lent = {
            let lent = Lease::take(front, &forward.plan, speaks, &connection.via, false);
            within(deadline, judged.as_deref(), pin!(lent)).await?
        };
        match (lent, forward.plan.workload()) {
            (Ok(lease), _) => break (forward, lease),
            (Err(refusal), Some(workload)) if refusal.retryable() && tried.len() + 1 < TRIES => {
                let uid = Arc::clone(&workload.uid);
                drop(forward);
                tried.push(uid);
                failed = Some(Answer::Upstream(refusal));
            }
            (Err(refusal), _) => return Err(Answer::Upstream(refusal)),
        }
    };
    let wants = edit(session, exchange, parts, table, &forward)?;
    let source = source(body, front.limits.body_time, exchange);
    let handover = wants.upgrade.as_ref().and_then(|_| lease.handover());
    let deadline = deadline(exchange, &forward);
    let judged = exchange.judged.clone();
    let sent = pin!(send(
        session,
        (table, &forward),
        lease,
        request(parts, source.as_ref(), wants.waits),
        source.as_deref(),
        exchange,
    ));
    let mut response = within(deadline, judged.as_deref(), sent).await??;
    if let Some(source) = &source {
        source.answered();
    }
    incoming(&mut response, &forward, &wants)?;
    Ok(Forwarded {
        response,
        deadline,
        handover,
    })
}

/// Makes a head what the endpoint sees.
fn edit(
    session: &Session,
    exchange: &mut Exchange,
    parts: &mut Parts,
    table: &Table,
    forward: &Forward<'_>,
) -> Result<Wants, Answer> {
    let hop = headers::trim(&mut parts.headers, session.connection.client.peer, table);
    outgoing(session, exchange, parts, forward, hop)
}

/// Where a request's body comes from, if it has one. Calls may be silent for as long as they like.
fn source(body: Incoming, patience: Duration, exchange: &mut Exchange) -> Option<Rc<Source>> {
    if body.is_end_stream() {
        return None;
    }
    let source = Source::new(
        body,
        (!exchange.grpc).then_some(patience),
        exchange.grpc.then(Messages::default),
        exchange.judged.clone(),
    );
    exchange.source = Some(Rc::clone(&source));
    Some(source)
}

/// Asks what becomes of a request.
fn decide<'g>(
    session: &'g Session,
    generation: &'g Generation,
    (table, port): (&'g Table, &'g Port),
    parts: &Parts,
    seed: u64,
    tried: &'g [Arc<str>],
) -> Result<Judgement<'g>, Answer> {
    let front = &session.front;
    let asked = Asked {
        table,
        port,
        client: &session.connection.client,
        from: &front.from,
        seed,
        tried,
        load: front.pools.load(),
    };
    read(session, table, parts, |head| {
        judge(generation, &asked, head)
    })
}

/// Reads a request's head for what asks about it.
pub(super) fn read<T>(
    session: &Session,
    table: &Table,
    parts: &Parts,
    ask: impl FnOnce(&Head<'_>) -> T,
) -> Result<T, Answer> {
    let method = &parts.method;
    if *method == Method::CONNECT {
        return Err(Answer::Unframed("CONNECT is for tunnels".to_owned()));
    }
    let uri = &parts.uri;
    if uri.scheme().is_none() && uri.authority().is_some() {
        return Err(Answer::Malformed(head::Malformed::Path(
            path::Malformed::Relative,
        )));
    }
    let gateway = headers::is_gateway(table, session.connection.client.peer);
    let mut few: [Field<'_>; FIELDS] = [(&[], &[]); FIELDS];
    let many: Vec<Field<'_>>;
    let all = parts.headers.iter();
    let mut ours = all
        .filter(|(name, _)| headers::counts(name, gateway))
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let fields = if parts.headers.len() <= FIELDS {
        let mut len = 0;
        for (place, field) in few.iter_mut().zip(&mut ours) {
            *place = field;
            len += 1;
        }
        &few[..len]
    } else {
        many = ours.collect();
        &many
    };
    let raw = Raw {
        method: method.as_str().as_bytes(),
        scheme: host::Scheme::Http,
        authority: uri
            .authority()
            .map(|authority| authority.as_str().as_bytes()),
        target: uri
            .path_and_query()
            .map_or(&[][..], |it| it.as_str().as_bytes()),
        headers: fields,
    };
    raw.within(&session.front.limits.head)
        .map_err(Answer::TooLarge)?;
    let head = Head::read(&raw).map_err(Answer::Malformed)?;
    Ok(ask(&head))
}

/// When a request's time is over, if its rule sets one.
fn deadline(exchange: &Exchange, forward: &Forward<'_>) -> Option<Instant> {
    let request = forward
        .timeouts
        .request
        .map(|limit| exchange.started + limit);
    let backend = forward.timeouts.backend.map(|limit| Instant::now() + limit);
    match (request, backend) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Not longer than its time, and than it may go on. The future stays where it is: it is large, and what holds it would hold it
/// once for each place that it is moved to.
async fn within<T>(
    deadline: Option<Instant>,
    judged: Option<&Judged>,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Answer> {
    let allowed = poll_fn(|cx| {
        let cut = judged.map_or(Poll::Pending, |judged| judged.poll_cut(cx, Side::Download));
        match cut {
            Poll::Ready(answer) => Poll::Ready(Err(answer)),
            Poll::Pending => future.as_mut().poll(cx).map(Ok),
        }
    });
    match deadline {
        None => allowed.await,
        Some(at) => tokio::time::timeout_at(at, allowed)
            .await
            .unwrap_or(Err(Answer::Timeout)),
    }
}

/// A request as it is sent, made of a head that is not needed any more where it is.
fn request(parts: &mut Parts, source: Option<&Rc<Source>>, waits: bool) -> Request<Upload> {
    let parts = std::mem::replace(parts, Request::new(()).into_parts().0);
    let mut request = Request::from_parts(parts, Upload::new(source));
    if let Some(source) = source.filter(|_| waits) {
        hold(source, &mut request);
    }
    request
}

/// Lets a body wait until the endpoint says that it wants it.
fn hold(source: &Source, request: &mut Request<Upload>) {
    let (tell, told) = oneshot::channel();
    // Taken by the first 100, of which there is one; the callback has to be shareable.
    let tell = std::sync::Mutex::new(Some(tell));
    hyper::ext::on_informational(request, move |response| {
        let mut tell = tell
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if response.status() == StatusCode::CONTINUE
            && let Some(tell) = tell.take()
        {
            tell.send(()).ok();
        }
    });
    source.hold(told);
}

/// Sends a request, once more on a new connection if the endpoint cannot have seen any of it. Not an `async fn`, which
/// would hold the request twice.
fn send(
    session: &Session,
    (table, forward): (&Table, &Forward<'_>),
    mut lease: Lease,
    request: Request<Upload>,
    source: Option<&Source>,
    exchange: &mut Exchange,
) -> impl Future<Output = Result<Response<Incoming>, Answer>> {
    let speaks = if request.version() == Version::HTTP_2 {
        Speaks::Http2
    } else {
        Speaks::Http1
    };
    let whole = exchange.judged.clone();
    let whole = whole.filter(|_| speaks == Speaks::Http2 && source.is_none());
    let mut begun = Instant::now();
    let mut answer = lease.send(request);
    async move {
        let mut again = true;
        loop {
            let failed = match answer.await {
                Ok(response) => {
                    let now = Instant::now();
                    lease.answered(begun, now);
                    exchange.upstream_time = Some(now - begun);
                    exchange.lease = Some(lease);
                    return Ok(response);
                }
                Err(failed) => failed,
            };
            let request = match (resent(failed, source, again)?, &whole) {
                (Some(request), _) => request,
                (None, Some(judged)) if again => {
                    let mut parts = judged.head();
                    edit(session, exchange, &mut parts, table, forward)?;
                    Box::new(Request::from_parts(parts, Upload::default()))
                }
                (None, _) => {
                    return Err(Answer::Lost("it was closed before the request".to_owned()));
                }
            };
            again = false;
            let (front, via) = (&session.front, &session.connection.via);
            lease = Box::pin(Lease::take(front, &forward.plan, speaks, via, true))
                .await
                .map_err(Answer::Upstream)?;
            begun = Instant::now();
            answer = lease.send(*request);
        }
    }
}

/// The request, if it came back whole and may be sent `again`; none: it is to be made anew, if that may be.
fn resent(
    failed: Unanswered,
    source: Option<&Source>,
    again: bool,
) -> Result<Option<Box<Request<Upload>>>, Answer> {
    match source.and_then(|source| source.failed.get()) {
        Some(Failed::Slow) => return Err(Answer::Slow),
        Some(Failed::Broken) => return Err(Answer::Unframed("its body broke off".to_owned())),
        Some(Failed::Unwanted) | None => {}
    }
    let whole = source.is_none_or(|source| !source.touched.get());
    match failed {
        Unanswered::Unsent(Some(back)) if whole && again => Ok(Some(back)),
        Unanswered::Unsent(_) => Ok(None),
        Unanswered::Lost(how) => Err(Answer::Lost(how)),
        Unanswered::Protocol(what) => Err(Answer::UpstreamProtocol(what)),
    }
}
