//! What goes through a waypoint from end to end: calls, other versions of HTTP, upgrades, large bodies, bodies that wait, and
//! what is not HTTP.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{self, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::LazyLock,
};

use bytes::Bytes;
use cli::lab::Node;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use sys::netns::privileged;
use tests::{
    gateway::{Gateway, through},
    mesh::Mesh,
    pod::Pod,
    server::{head, serve},
    world::PATIENCE,
};

const GATEWAY: Gateway = Gateway::new("wire", Node::One, 200);
/// For the test that looks at its memory.
const LARGE: Gateway = Gateway::new("large", Node::One, 201);

const CALLS: u16 = 7001;
const UPGRADES: u16 = 7002;
const WAITS: u16 = 7003;
const GREETS: u16 = 7004;
const NAMES: u16 = 7005;
const BULK: u16 = 7006;

/// Bytes of a large body.
const GIGABYTE: u64 = 1 << 30;
/// What a waypoint may need for it, beside what it needs anyway.
const GROWTH: u64 = 64 << 20;

static WORLD: LazyLock<Mesh> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("batch", Node::Two, 10),
        Pod::new("app", Node::Two, 20),
        Pod::new("twin", Node::Two, 21),
    ];
    let mut world = Mesh::new(tests::place!(), "waypoint-wire", &pods, &[], &[]);
    let app = world.netns("app");
    serve(app, CALLS, answer_calls);
    serve(app, UPGRADES, upgrade);
    serve(app, WAITS, answer_late);
    serve(app, GREETS, greet);
    serve(app, BULK, bulk);
    for name in ["app", "twin"] {
        serve(world.netns(name), NAMES, move |stream| {
            say_name(stream, name)
        });
    }
    for gateway in [GATEWAY, LARGE] {
        world.run_gateway(&gateway);
    }
    world
});

fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv4Addr::new(10, 96, 0, host)), port)
}

/// A service with one port, which is the pods' own, behind a waypoint.
fn service(name: &str, host: u8, app: &str, port: &str, gateway: &Gateway) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop{}}}
spec: {{clusterIP: 10.96.0.{host}, selector: {{app: {app}}}, ports: [{{{port}}}]}}
---
",
        through(gateway.name)
    )
}

/// A policy for a service; `spec` is the rest of its `spec`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {name}}}]
  {spec}
---
"
    )
}

/// Asks from `web` on a connection of its own, and reads the head of the first answer: what comes then, and the line with the
/// status.
fn begun(to: SocketAddr, ask: &str) -> io::Result<(BufReader<TcpStream>, String)> {
    let mut stream = BufReader::new(WORLD.connect("web", to)?);
    stream.get_mut().write_all(ask.as_bytes())?;
    let status = head(&mut stream)?.into_iter().next();
    Ok((stream, status.ok_or(io::ErrorKind::UnexpectedEof)?))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn in_tokio(stream: TcpStream) -> tokio::net::TcpStream {
    stream.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(stream).unwrap()
}

/// A server of HTTP/2 alone: sends back the body, and in trailers that all went well. What it heard of `te` is in a header.
fn answer_calls(stream: TcpStream) -> io::Result<()> {
    runtime().block_on(async {
        let mut connection = h2::server::handshake(in_tokio(stream))
            .await
            .map_err(io::Error::other)?;
        while let Some(next) = connection.accept().await {
            let (request, mut respond) = next.map_err(io::Error::other)?;
            tokio::spawn(async move {
                let te = request.headers().get("te").cloned();
                let mut response = Response::new(());
                response
                    .headers_mut()
                    .insert("content-type", HeaderValue::from_static("application/grpc"));
                if let Some(te) = te {
                    response.headers_mut().insert("x-te", te);
                }
                let mut send = respond.send_response(response, false)?;
                let mut body = request.into_body();
                while let Some(bytes) = body.data().await {
                    let bytes = bytes?;
                    body.flow_control().release_capacity(bytes.len())?;
                    send.send_data(bytes, false)?;
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                trailers.insert("x-last", HeaderValue::from_static("word"));
                send.send_trailers(trailers)
            });
        }
        Ok(())
    })
}

/// What came of a call.
#[derive(Debug)]
struct Called {
    response: Response<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// One request over HTTP/2 by prior knowledge, on a connection of its own.
fn call(
    to: SocketAddr,
    path: &str,
    kind: &'static str,
    body: &'static [u8],
) -> Result<Called, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let stream = WORLD.connect("web", to).map_err(text)?;
    let talk = async {
        let (send, connection) = h2::client::handshake(in_tokio(stream))
            .await
            .map_err(text)?;
        tokio::spawn(connection);
        let mut send = send.ready().await.map_err(text)?;
        let request = Request::post(format!("http://{to}{path}"))
            .header("content-type", kind)
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut out) = send.send_request(request, false).map_err(text)?;
        // Who is refused may be so before that.
        out.send_data(Bytes::from_static(body), true).ok();
        let (head, mut all) = response.await.map_err(text)?.into_parts();
        let mut body = Vec::new();
        while let Some(bytes) = all.data().await {
            let bytes = bytes.map_err(text)?;
            all.flow_control()
                .release_capacity(bytes.len())
                .map_err(text)?;
            body.extend_from_slice(&bytes);
        }
        let trailers = all.trailers().await.map_err(text)?;
        let response = Response::from_parts(head, ());
        Ok(Called {
            response,
            body,
            trailers,
        })
    };
    let in_time = async { tokio::time::timeout(PATIENCE, talk).await.map_err(text)? };
    runtime().block_on(in_time)
}

#[test]
fn calls_arrive_with_their_trailers_and_refused_ones_say_so_in_theirs() {
    if !privileged("calls_arrive_with_their_trailers_and_refused_ones_say_so_in_theirs") {
        return;
    }
    let to = at(60, CALLS);
    let port = format!("name: grpc, port: {CALLS}");
    let rules = "rules: [{to: [{operation: {paths: [/test.Echo/Say]}}]}]";
    let manifest = service("calls", 60, "app", &port, &GATEWAY) + &policy("calls", rules);
    WORLD.put("calls", &manifest);
    let grpc = |path| call(to, path, "application/grpc", b"\0\0\0\0\x05hello");
    let status = |called: &Called| {
        let header = called.response.headers().get("grpc-status");
        header?.to_str().unwrap().parse::<u32>().ok()
    };
    WORLD.known("calls");
    WORLD.until("a call is refused", || {
        grpc("/test.Echo/Shout").is_ok_and(|called| status(&called) == Some(7))
    });
    let refused = grpc("/test.Echo/Shout").unwrap();
    // All in the headers: nothing else comes.
    assert_eq!(refused.response.status(), StatusCode::OK);
    assert!(
        refused.body.is_empty() && refused.trailers.is_none(),
        "{refused:?}"
    );

    let said = grpc("/test.Echo/Say").unwrap();
    assert_eq!(said.body, b"\0\0\0\0\x05hello");
    assert_eq!(said.response.headers()["x-te"], "trailers");
    let trailers = said.trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-last"], "word");

    // What is no call is refused in the way of HTTP.
    let plain = call(to, "/other", "text/plain", b"hello").unwrap();
    assert_eq!(plain.response.status(), StatusCode::FORBIDDEN);
    assert_eq!(plain.body, b"RBAC: access denied");
    // A client of HTTP/1.1 reaches the server, which speaks HTTP/2 alone.
    let request = cli::http::Request {
        method: "POST",
        body: b"over one",
        ..cli::http::Request::get("/test.Echo/Say")
    };
    let answer = WORLD.ask("web", to, &request).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"over one"[..]));
}

#[test]
fn http2_by_prior_knowledge_reaches_a_server_of_http1() {
    if !privileged("http2_by_prior_knowledge_reaches_a_server_of_http1") {
        return;
    }
    let to = at(61, 8080);
    WORLD.put(
        "older",
        &service("older", 61, "app", "name: http, port: 8080", &GATEWAY),
    );
    WORLD.known("older");
    WORLD.until("it is bound", || {
        call(to, "/x", "text/plain", b"hello").is_ok_and(|called| called.body == b"hello")
    });
    let called = call(to, "/x", "text/plain", b"hello").unwrap();
    assert_eq!(called.response.headers()["x-request"], "POST /x");
}

/// Switches protocols, and then sends back every byte.
fn upgrade(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let asked = head(&mut stream)?;
    let is_asked = |wanted: &str| asked.iter().any(|line| line == wanted);
    if !is_asked("upgrade: websocket") || !is_asked("connection: upgrade") {
        let no = b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n";
        return stream.get_mut().write_all(no);
    }
    let yes =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.get_mut().write_all(yes)?;
    stream.get_mut().write_all(b"welcome")?;
    let mut back = stream.get_ref().try_clone()?;
    io::copy(&mut stream, &mut back)?;
    back.shutdown(Shutdown::Write)
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    if !privileged("an_upgraded_connection_carries_bytes_both_ways") {
        return;
    }
    let to = at(62, UPGRADES);
    let port = format!("name: http, port: {UPGRADES}");
    let rules = "rules: [{to: [{operation: {paths: [/chat]}}]}]";
    WORLD.put(
        "chat",
        &(service("chat", 62, "app", &port, &GATEWAY) + &policy("chat", rules)),
    );
    let open = |path: &str| {
        let ask = format!(
            "GET {path} HTTP/1.1\r\nhost: chat\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        begun(to, &ask)
    };
    WORLD.known("chat");
    WORLD.until("it is judged", || {
        open("/closed").is_ok_and(|(_, status)| status.starts_with("http/1.1 403"))
    });
    let (mut stream, status) = open("/chat").unwrap();
    assert!(status.starts_with("http/1.1 101"), "{status}");
    let hear = |bytes: &[u8], stream: &mut BufReader<TcpStream>| {
        let mut heard = vec![0; bytes.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, bytes);
    };
    hear(b"welcome", &mut stream);
    for text in [
        &b"\x81\x05hello"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 100_000],
    ] {
        stream.get_mut().write_all(text).unwrap();
        hear(text, &mut stream);
    }
    // One side has ended, and hears the rest.
    stream.get_mut().write_all(b"bye").unwrap();
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
}

/// Says whether it wants a body once it has read the head: not under `/no`.
fn answer_late(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let asked = head(&mut stream)?;
    if !asked.iter().any(|line| line == "expect: 100-continue") {
        let odd = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        return stream.get_mut().write_all(odd);
    }
    if asked[0].contains("/no") {
        let no =
            b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return stream.get_mut().write_all(no);
    }
    stream
        .get_mut()
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    let mut body = [0; 5];
    stream.read_exact(&mut body)?;
    let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &body[..]].concat();
    stream.get_mut().write_all(&answer)
}

#[test]
fn a_body_waits_until_it_is_wanted() {
    if !privileged("a_body_waits_until_it_is_wanted") {
        return;
    }
    let to = at(63, WAITS);
    let port = format!("name: http, port: {WAITS}");
    let rules = "rules: [{to: [{operation: {paths: [/yes, /no]}}]}]";
    WORLD.put(
        "waits",
        &(service("waits", 63, "app", &port, &GATEWAY) + &policy("waits", rules)),
    );
    let ask = |path: &str| {
        let ask = format!(
            "POST {path} HTTP/1.1\r\nhost: waits\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        );
        begun(to, &ask)
    };
    WORLD.known("waits");
    // None of these hears of a body.
    WORLD.until("it is judged", || {
        ask("/closed").is_ok_and(|(_, status)| status.starts_with("http/1.1 403"))
    });
    let (_, status) = ask("/no").unwrap();
    assert!(status.starts_with("http/1.1 417"), "{status}");
    let (mut stream, status) = ask("/yes").unwrap();
    assert!(status.starts_with("http/1.1 100"), "{status}");
    stream.get_mut().write_all(b"hello").unwrap();
    let answer = head(&mut stream).unwrap();
    assert!(answer[0].starts_with("http/1.1 200"), "{answer:?}");
    let mut body = [0; 5];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"hello");
}

/// Sends a gigabyte to who asks, and counts what who sends has sent.
fn bulk(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(1 << 20, stream);
    let asked = head(&mut stream)?;
    let Some(first) = asked.first() else {
        return Ok(());
    };
    if first.starts_with("get") {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {GIGABYTE}\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes())?;
        return send_gigabyte(stream.get_mut());
    }
    let got = io::copy(&mut (&mut stream).take(GIGABYTE), &mut io::sink())?.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{got}",
        got.len()
    );
    stream.get_mut().write_all(answer.as_bytes())
}

fn send_gigabyte(to: &mut TcpStream) -> io::Result<()> {
    let some = vec![7; 1 << 20];
    (0..GIGABYTE >> 20).try_for_each(|_| to.write_all(&some))
}

/// Bytes of memory that a process holds.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

#[test]
fn a_gigabyte_each_way_needs_no_memory() {
    if !privileged("a_gigabyte_each_way_needs_no_memory") {
        return;
    }
    let to = at(64, BULK);
    let port = format!("name: http, port: {BULK}");
    let rules = "rules: [{to: [{operation: {paths: [/bulk]}}]}]";
    WORLD.put(
        "bulk",
        &(service("bulk", 64, "app", &port, &LARGE) + &policy("bulk", rules)),
    );
    WORLD.known("bulk");
    WORLD.until("it is judged", || {
        let answer = WORLD.ask("web", to, &cli::http::Request::get("/closed"));
        answer.is_ok_and(|answer| answer.status == 403)
    });
    let process = WORLD.processes.id("waypoint-large").unwrap();
    let before = resident(process);
    let bounded = || {
        let grown = resident(process).saturating_sub(before);
        assert!(grown < GROWTH, "{grown} bytes more than before");
    };
    let mut down = BufReader::with_capacity(1 << 20, WORLD.connect("web", to).unwrap());
    down.get_mut()
        .write_all(b"GET /bulk HTTP/1.1\r\nhost: bulk\r\n\r\n")
        .unwrap();
    assert!(head(&mut down).unwrap()[0].starts_with("http/1.1 200"));
    let mut piece = vec![0; 1 << 20];
    for at in 0..GIGABYTE >> 20 {
        down.read_exact(&mut piece).unwrap();
        if at % 32 == 0 {
            bounded();
        }
    }
    let mut up = BufReader::new(WORLD.connect("web", to).unwrap());
    let ask = format!("POST /bulk HTTP/1.1\r\nhost: bulk\r\ncontent-length: {GIGABYTE}\r\n\r\n");
    up.get_mut().write_all(ask.as_bytes()).unwrap();
    let some = vec![7; 32 << 20];
    for _ in 0..GIGABYTE >> 25 {
        up.get_mut().write_all(&some).unwrap();
        bounded();
    }
    assert!(head(&mut up).unwrap()[0].starts_with("http/1.1 200"));
    let mut count = vec![0; GIGABYTE.to_string().len()];
    up.read_exact(&mut count).unwrap();
    assert_eq!(count, GIGABYTE.to_string().as_bytes());
    bounded();
}

/// Speaks first, and then sends back every byte.
fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"220 ready\r\n")?;
    let mut back = stream.try_clone()?;
    io::copy(&mut stream, &mut back)?;
    back.shutdown(Shutdown::Write)
}

#[test]
fn a_server_that_speaks_first_teaches_its_port() {
    if !privileged("a_server_that_speaks_first_teaches_its_port") {
        return;
    }
    let to = at(65, GREETS);
    WORLD.put(
        "greets",
        &service("greets", 65, "app", &format!("port: {GREETS}"), &GATEWAY),
    );
    // Through the waypoint, a client that speaks HTTP at once is taken at its word: what answers is no HTTP.
    let eager = || -> io::Result<Vec<u8>> {
        let mut stream = WORLD.connect("web", to)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: greets\r\nconnection: close\r\n\r\n")?;
        stream.shutdown(Shutdown::Write)?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        Ok(heard)
    };
    WORLD.known("greets");
    WORLD.until("it is bound", || {
        eager().is_ok_and(|heard| heard.starts_with(b"HTTP/1.1 50"))
    });
    let patient = || {
        let mut stream = WORLD.connect("web", to).unwrap();
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"helo").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"helo");
    };
    // Each worker learns for itself.
    WORLD.until("the port is known to be no HTTP", || {
        patient();
        let heard = eager().unwrap();
        let learned = heard.starts_with(b"220 ready\r\nGET /");
        assert!(
            learned || heard.starts_with(b"HTTP/1.1 50"),
            "{}",
            heard.escape_ascii()
        );
        learned
    });
}

/// Says who it is to who says anything.
fn say_name(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.read_exact(&mut [0])?;
    stream.write_all(name.as_bytes())
}

#[test]
fn bytes_are_carried_by_weight_and_judged_by_what_can_be_known_of_them() {
    if !privileged("bytes_are_carried_by_weight_and_judged_by_what_can_be_known_of_them") {
        return;
    }
    let to = at(66, NAMES);
    let port = format!("name: tcp, port: {NAMES}");
    let route = |one: u32, other: u32| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: bytes, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: bytes}}]
  rules:
  - backendRefs:
    - {{name: bytes-app, port: {NAMES}, weight: {one}}}
    - {{name: bytes-twin, port: {NAMES}, weight: {other}}}
"
        )
    };
    let plain = |name: &str, host, app: &str| service(name, host, app, &port, &GATEWAY);
    WORLD.put("bytes-app", &plain("bytes-app", 67, "app"));
    WORLD.put("bytes-twin", &plain("bytes-twin", 68, "twin"));
    WORLD.put("bytes", &plain("bytes", 66, "nobody"));
    WORLD.put("bytes-route", &route(3, 1));
    let who = |from: &str| -> io::Result<String> {
        let mut stream = WORLD.connect(from, to)?;
        stream.write_all(b"?")?;
        let mut name = String::new();
        stream.read_to_string(&mut name)?;
        Ok(name).and_then(|name| match name.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(name),
        })
    };
    WORLD.known("bytes");
    WORLD.until("it is bound", || who("web").is_ok());
    let apps = (0..100).filter(|_| who("web").unwrap() == "app").count();
    // Five standard deviations to either side.
    assert!(
        (53..=97).contains(&apps),
        "{apps} of 100 with weight 3 of 4"
    );
    WORLD.put("bytes-route", &route(0, 1));
    WORLD.until("all goes to the other", || {
        (0..20).all(|_| who("web").unwrap() == "twin")
    });

    // A rule about requests allows no bytes, and the others still do.
    let rules = "rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/batch]}}]
    to: [{operation: {methods: [GET]}}]";
    assert!(who("batch").is_ok());
    WORLD.put(
        "bytes",
        &(plain("bytes", 66, "nobody") + &policy("bytes", rules)),
    );
    WORLD.until("batch is refused", || who("batch").is_err());
    assert_eq!(who("web").unwrap(), "twin");
    // And one that denies requests denies bytes, because they may be some.
    let rules = "action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [DELETE]}}]";
    WORLD.put(
        "bytes",
        &(plain("bytes", 66, "nobody") + &policy("bytes", rules)),
    );
    WORLD.until("web is refused", || who("web").is_err());
    WORLD.until("batch is not", || who("batch").is_ok());
}
