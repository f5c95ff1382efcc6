//! What clients send to a waypoint, and what the control plane does.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ::waypoint::http::Version;
use mesh::{
    delta::{self, Delta},
    http::{
        authorize::{Effect, Policy},
        balance::Load,
        head::{Field, Head, Raw},
        host::Scheme,
        path,
    },
    model::Workload,
    name::Name,
    waypoint::{Asked, Client, Generation, Judgement, Store, Table, judge, judge_connection},
};
use proto::waypoint::Protocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::LocalSet,
    time::timeout,
};

use super::piece;
use crate::{
    front,
    reading::{Reading, Request, read},
};

/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(10);

struct Lab {
    runtime: Runtime,
    endpoint: TcpListener,
    generation: Arc<Generation>,
}

impl Lab {
    fn new() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs nothing");
        let endpoint = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a socket");
        let address = endpoint.local_addr().expect("it is bound");
        let generation = front::told(address, Protocol::Http);
        Self {
            runtime,
            endpoint,
            generation,
        }
    }
}

/// What an HTTP/1.1 client sends to a waypoint. What the endpoint gets of it is what a second reader finds in those bytes,
/// request by request; of bytes that have two readings it gets nothing. What nothing is wrong with gets there.
pub fn message(data: &[u8]) {
    thread_local!(static LAB: Lab = Lab::new());
    let data = &data[..data.len().min(16 << 10)];
    let seen = LAB.with(|lab| {
        let carried = LocalSet::new().block_on(&lab.runtime, async {
            timeout(PATIENCE, carried(lab, data)).await
        });
        carried.expect("it ends")
    });
    let (mut meant, sure) = meant(data);
    for (at, (request, is_whole)) in seen.iter().enumerate() {
        let found = loop {
            let next = meant
                .pop_front()
                .unwrap_or_else(|| panic!("nobody sent {request:?}"));
            if is_same(request, *is_whole, &next) {
                break next;
            }
            assert!(at >= sure, "{request:?} instead of {next:?}");
        };
        assert!(*is_whole || !found.is_whole || at + 1 == seen.len());
    }
    assert!(seen.len() >= sure, "{sure} are sent, {} came", seen.len());
}

/// What the endpoint gets of a client's bytes: requests, and whether all of each came.
async fn carried(lab: &Lab, data: &[u8]) -> Vec<(Request, bool)> {
    let front = front::front(Arc::clone(&lab.generation));
    let (client, server) = duplex(64 << 10);
    let serve = front::carry(&front, server, Version::H1);
    let client = async {
        let (mut answers, mut requests) = tokio::io::split(client);
        let speak = async {
            // Who has heard enough closes.
            let _ = requests.write_all(data).await;
            let _ = requests.shutdown().await;
        };
        let mut heard = Vec::new();
        let _ = tokio::join!(speak, answers.read_to_end(&mut heard));
    };
    let seen = Rc::new(RefCell::new(Vec::new()));
    let over = async {
        tokio::join!(serve, client);
        // Connections to endpoints close with what keeps them.
        front.pools.end();
        while front.pools.connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::pin!(over);
    let mut connections = Vec::new();
    loop {
        tokio::select! {
            biased;
            socket = lab.endpoint.accept() => {
                let (socket, _) = socket.expect("a socket of ours");
                connections.push(tokio::task::spawn_local(serve_endpoint(socket, Rc::clone(&seen))));
            }
            () = &mut over => break,
        }
    }
    for connection in connections {
        if let Err(panicked) = connection.await {
            std::panic::resume_unwind(panicked.into_panic());
        }
    }
    seen.take()
}

/// Takes requests as strictly as can be, and answers each.
async fn serve_endpoint(mut socket: TcpStream, seen: Rc<RefCell<Vec<(Request, bool)>>>) {
    let mut bytes = Vec::new();
    let mut told = false;
    loop {
        match read(&bytes) {
            Reading::Whole(request, length) => {
                bytes.drain(..length);
                seen.borrow_mut().push((*request, true));
                told = false;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if socket.write_all(answer).await.is_err() {
                    return;
                }
                continue;
            }
            Reading::Head(request) if !told && request.lists("expect", "100-continue") => {
                told = true;
                let _ = socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            Reading::Head(_) | Reading::Part => {}
            Reading::Wrong(why) => panic!("{why}: {}", bytes.escape_ascii()),
        }
        if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
            break;
        }
    }
    if let Reading::Head(request) = read(&bytes) {
        seen.borrow_mut().push((*request, false));
    } else {
        assert!(bytes.is_empty(), "half a head: {}", bytes.escape_ascii());
    }
}

/// A request that a client meant, and what may come of it.
#[derive(Debug)]
struct Meant {
    request: Request,
    is_whole: bool,
    /// Path and query as they are to be forwarded, and the host; none: it is refused.
    forwarded: Option<(Vec<u8>, Vec<u8>)>,
}

/// All requests in a client's bytes, and how many of them have to get through, whatever follows.
fn meant(mut data: &[u8]) -> (VecDeque<Meant>, usize) {
    let (mut all, mut sure, mut still) = (VecDeque::new(), 0, true);
    loop {
        let (request, length) = match read(data) {
            Reading::Whole(request, length) => (request, Some(length)),
            Reading::Head(request) => (request, None),
            Reading::Part | Reading::Wrong(_) => break,
        };
        let forwarded = forwarded(&request);
        still &= length.is_some() && forwarded.is_some() && is_plain(&request);
        sure += usize::from(still);
        let last = request.is_last();
        all.push_back(Meant {
            request: *request,
            is_whole: length.is_some(),
            forwarded,
        });
        match length {
            Some(length) if !last => data = &data[length..],
            _ => break,
        }
    }
    (all, sure)
}

/// Whether nobody could have a reason to refuse it for its looks.
fn is_plain(request: &Request) -> bool {
    let is_plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(byte);
    request.target.starts_with(b"/")
        && request.target.iter().all(is_plain)
        && request.fields.len() < 100
        && request.method != b"CONNECT"
}

/// The target and the host that a request has to be forwarded with.
fn forwarded(request: &Request) -> Option<(Vec<u8>, Vec<u8>)> {
    let target = &request.target[..];
    let (authority, target) = if target.starts_with(b"/") || target == b"*" {
        (None, target)
    } else {
        let colon = target.windows(3).position(|it| it == b"://")?;
        let rest = &target[colon + 3..];
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
        let (authority, target) = rest.split_at(end.unwrap_or(rest.len()));
        (Some(authority), target)
    };
    let fields: Vec<Field<'_>> = request
        .fields
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let raw = Raw {
        method: &request.method,
        scheme: Scheme::Http,
        authority,
        target,
        headers: &fields,
    };
    let head = Head::read(&raw).ok()?;
    let host = authority.or_else(|| request.values("host").next())?;
    Some((head.target(), host.to_vec()))
}

/// Whether what came is what was meant.
fn is_same(came: &Request, is_whole: bool, meant: &Meant) -> bool {
    let Some((target, host)) = &meant.forwarded else {
        return false;
    };
    let request = &meant.request;
    let body = if is_whole {
        meant.is_whole && came.body == request.body
    } else {
        request.body.starts_with(&came.body)
    };
    let hosts: Vec<_> = came.values("host").collect();
    came.method == request.method
        && came.target == *target
        && came.minor == 1
        && hosts == [host]
        && body
        && came.trailers.iter().all(|it| request.trailers.contains(it))
        && end_to_end(came) == end_to_end(request)
}

/// What is for the application, by name.
fn end_to_end(request: &Request) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    // For one hop, of the framing, or said by the waypoint.
    const OURS: [&str; 15] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "true-client-ip",
        "x-real-ip",
        "x-request-id",
        "cookie",
    ];
    let listed: BTreeSet<Vec<u8>> = request
        .values("connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .filter(|name| name != b"content-type")
        .collect();
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in &request.fields {
        // To many an application an underscore is a dash; what frames has none.
        let spelled = String::from_utf8_lossy(name).replace('_', "-");
        let claims = ["ambit-", "x-envoy-", "x-forwarded-"]
            .iter()
            .any(|it| spelled.starts_with(it));
        let ours = claims
            || OURS.iter().any(|it| it.as_bytes() == name)
            || matches!(&*spelled, "true-client-ip" | "x-real-ip");
        if !ours && !listed.contains(name) {
            all.entry(name.clone()).or_default().push(value.clone());
        }
    }
    all
}

/// The path of a request. Its normal form is what the letter of RFC 3986 makes of it, and stays as it is when it is read
/// again; no reading has a dot segment.
pub fn path(data: &[u8]) {
    let judged = match path::judge(data) {
        Ok(judged) => judged,
        Err(why) => {
            drop(why.to_string());
            return assert_eq!(normal(data), None, "{}", data.escape_ascii());
        }
    };
    let text = judged.normal.as_bytes();
    assert_eq!(
        Some(text),
        normal(data).as_deref(),
        "{}",
        data.escape_ascii()
    );
    let again = path::judge(text).expect("it is a path");
    assert_eq!(again, judged, "read again");
    for reading in judged.readings() {
        assert!(reading.starts_with('/') && reading.is_ascii(), "{reading}");
        assert!(
            !reading.split('/').any(|it| it == "." || it == ".."),
            "{reading}"
        );
    }
    for other in &judged.others {
        assert!(!other.contains("//") && !other.contains(';'), "{other}");
    }
    let distinct: BTreeSet<_> = judged.readings().collect();
    assert_eq!(distinct.len(), 1 + judged.others.len());
    let all: BTreeSet<String> = lenient(&judged.normal);
    let found: BTreeSet<String> = judged.readings().map(str::to_owned).collect();
    assert_eq!(found, all, "{}", judged.normal);
}

/// RFC 3986 §6.2.2, one step after the other.
fn normal(raw: &[u8]) -> Option<Vec<u8>> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut text = Vec::new();
    let mut rest = raw;
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let digits = str::from_utf8(after.get(..2)?).ok()?;
            if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            let byte = u8::from_str_radix(digits, 16).ok()?;
            rest = &after[2..];
            if unreserved(byte) {
                text.push(byte);
            } else {
                text.extend(format!("%{byte:02X}").bytes());
            }
        } else if *byte <= b' ' || b"#?\x7f".contains(byte) {
            return None;
        } else if unreserved(*byte) || b"/!$&'()*+,;=:@".contains(byte) {
            text.push(*byte);
        } else {
            text.extend(format!("%{byte:02X}").bytes());
        }
    }
    text.starts_with(b"/").then(|| undotted(&text))
}

/// RFC 3986 §5.2.4, by the letter.
fn undotted(path: &[u8]) -> Vec<u8> {
    let mut input = path.to_vec();
    let mut output = Vec::new();
    let cut = |output: &mut Vec<u8>| {
        let slash = output.iter().rposition(|byte| *byte == b'/');
        output.truncate(slash.unwrap_or(0));
    };
    while !input.is_empty() {
        if input.starts_with(b"/./") {
            input.drain(..2);
        } else if input == b"/." {
            input.truncate(1);
        } else if input.starts_with(b"/../") {
            input.drain(..3);
            cut(&mut output);
        } else if input == b"/.." {
            input.truncate(1);
            cut(&mut output);
        } else {
            let end = input.iter().skip(1).position(|byte| *byte == b'/');
            output.extend(input.drain(..end.map_or(input.len(), |at| at + 1)));
        }
    }
    output
}

/// What servers make of a normal path that has more than one reading, each step as its own pass over the whole.
fn lenient(normal: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::from([normal.to_owned()]);
    let escapes = unescaped(normal.as_bytes().to_vec(), false).1;
    if !normal.contains("//") && !normal.contains(';') && escapes.iter().all(|it| *it == b'%') {
        return all;
    }
    for (early, slashes, cut) in (0..8).map(|it| (it & 1 > 0, it & 2 > 0, it & 4 > 0)) {
        let mut path = normal.as_bytes().to_vec();
        if early {
            path = unparametrized(&path);
        }
        path = unescaped(path, cut).0;
        path = unparametrized(&path);
        if slashes {
            path = squeezed(path);
        }
        path = squeezed(undotted(&path));
        all.insert(String::from_utf8(path).expect("it is ASCII"));
    }
    all
}

fn unparametrized(path: &[u8]) -> Vec<u8> {
    let bare = |segment: &[u8]| {
        segment
            .split(|byte| *byte == b';')
            .next()
            .map(<[u8]>::to_vec)
    };
    let segments: Vec<_> = path.split(|byte| *byte == b'/').filter_map(bare).collect();
    segments.join(&b'/')
}

fn squeezed(mut path: Vec<u8>) -> Vec<u8> {
    path.dedup_by(|one, other| *one == b'/' && *other == b'/');
    path
}

/// Decodes the first escape there is of what a path is made of, until there is none. And what was found so.
fn unescaped(mut path: Vec<u8>, cut: bool) -> (Vec<u8>, Vec<u8>) {
    let mut all = Vec::new();
    let meant = |triple: &[u8]| {
        let digits = triple.strip_prefix(b"%")?;
        let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
        let byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        let known = byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/\\\0".contains(&byte);
        known.then_some(byte)
    };
    loop {
        let found = path
            .windows(3)
            .enumerate()
            .find_map(|(at, it)| Some((at, meant(it)?)));
        let Some((at, byte)) = found else {
            return (path, all);
        };
        all.push(byte);
        let rest = path.split_off(at + 3);
        path.truncate(at);
        match byte {
            0 if cut => return (path, all),
            0 => {}
            b'\\' => path.push(b'/'),
            byte => path.push(byte),
        }
        path.extend(rest);
    }
}

/// A resource as the control plane names it, whose version is always the same.
struct Resource<'a> {
    kind: usize,
    name: String,
    bytes: &'a [u8],
}

/// What a control plane tells a waypoint: for each resource a byte that says of which type it is, its name, then two bytes
/// of length and the message. The order makes no difference to which tables are in force; a policy that could not be
/// understood lets nothing through; and what goes leaves nothing behind.
pub fn waypoint(data: &[u8]) {
    let resources = resources(data);
    let mut store = Store::new(Name::new("ambit-system"));
    for resource in &resources {
        store.apply(&told(resource.kind, &[resource]));
        judged(store.current());
    }
    let mut other = Store::new(Name::new("ambit-system"));
    for kind in [2, 0, 3, 1] {
        let all: Vec<_> = resources.iter().filter(|it| it.kind == kind).collect();
        other.apply(&told(kind, &all));
    }
    judged(other.current());
    let keys = |store: &Store| -> Vec<_> {
        let tables = store.current().tables();
        tables
            .map(|it| (it.key, it.policies.clone(), it.refused.clone()))
            .collect()
    };
    assert_eq!(keys(&store), keys(&other), "in another order");
    for (kind, type_url) in TYPES.iter().enumerate() {
        let names = resources.iter().filter(|it| it.kind == kind);
        other.apply(&Delta {
            type_url: (*type_url).to_owned(),
            resources: Vec::new(),
            removed: names.map(|it| it.name.clone()).collect(),
        });
    }
    let left = other.current();
    assert_eq!(left.tables().count() + left.backends().count(), 0);
    assert_eq!(
        left.mesh.workloads().count() + left.mesh.services().count(),
        0
    );
}

const TYPES: [&str; 4] = [
    proto::TABLE_TYPE,
    proto::ROUTE_TYPE,
    proto::POLICY_TYPE,
    proto::BACKEND_TYPE,
];

/// The last of each name.
fn resources(mut data: &[u8]) -> Vec<Resource<'_>> {
    let mut all = Vec::<Resource<'_>>::new();
    while let Some((kind, rest)) = data.split_first() {
        data = rest;
        let name = piece(&mut data).unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let Some((length, rest)) = data.split_first_chunk() else {
            break;
        };
        let (bytes, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
        data = rest;
        let kind = usize::from(kind % 4);
        all.retain(|it| (it.kind, &it.name) != (kind, &name));
        all.push(Resource { kind, name, bytes });
    }
    all
}

fn told(kind: usize, resources: &[&Resource<'_>]) -> Delta {
    let resource = |it: &&Resource<'_>| delta::Resource {
        name: it.name.clone(),
        version: "1".to_owned(),
        bytes: it.bytes.to_vec(),
    };
    Delta {
        type_url: TYPES[kind].to_owned(),
        resources: resources.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}

/// Asks about some requests of each service.
fn judged(generation: &Generation) {
    const HEADS: [(&[u8], &[u8], &[Field<'_>]); 4] = [
        (b"GET", b"/", &[(b"host", b"orders")]),
        (
            b"POST",
            b"/a.B/C?x=1",
            &[
                (b"host", b"orders.shop"),
                (b"content-type", b"application/grpc"),
            ],
        ),
        (
            b"GET",
            b"/admin%2f..//x;y",
            &[(b"host", b"[::1]:81"), (b"x", b"1"), (b"x", b"2")],
        ),
        (
            b"OPTIONS",
            b"/items/1",
            &[(b"host", b"10.0.0.1"), (b"user-agent", b"")],
        ),
    ];
    let (here, client) = (front::place(), front::client());
    let nobody = Client {
        peer: None,
        ..client
    };
    let load = |_: &Workload| Load::default();
    for table in generation.tables() {
        for (port, client) in table
            .ports
            .iter()
            .flat_map(|it| [(it, &client), (it, &nobody)])
        {
            let asked = Asked {
                table,
                port,
                client,
                from: &here,
                seed: 1 << 63 | u64::from(port.number),
                tried: &[],
                load: &load,
            };
            let connection = judge_connection(generation, &asked);
            shut_out(table, &connection);
            for (method, target, headers) in HEADS {
                let raw = Raw {
                    method,
                    scheme: Scheme::Http,
                    authority: None,
                    target,
                    headers,
                };
                let head = Head::read(&raw).expect("nothing is wrong with it");
                shut_out(table, &judge(generation, &asked, &head));
            }
        }
    }
}

/// Whom a policy that nobody understands keeps out gets nowhere.
fn shut_out(table: &Table, judgement: &Judgement<'_>) {
    let denies = |policy: &Arc<Policy>| matches!(policy.effect, Effect::DenyAll(_));
    let backend = judgement
        .backend
        .is_some_and(|it| it.policies.iter().any(denies));
    match &judgement.outcome {
        Ok(forward) => {
            assert!(
                !backend && !table.policies.iter().any(denies),
                "{forward:?}"
            );
            assert!(table.refused.is_none(), "{forward:?}");
        }
        Err(answer) => {
            assert!((300..600).contains(&answer.status()), "{answer}");
            drop((answer.details(), answer.body().len(), answer.grpc_status()));
        }
    }
}
