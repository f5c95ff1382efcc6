//! HTTP/2, on either side.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use proto::waypoint::Protocol;
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

use super::{
    fixture::{Endpoint, Lab, Peer, World, run, value},
    policy::deny,
};
use crate::http::Version;

/// An HTTP/2 client on a connection, driven beside the test.
pub(super) async fn client(peer: Peer<DuplexStream>) -> client::SendRequest<Bytes> {
    let (send, connection) = client::handshake(peer.0).await.unwrap();
    net::task::spawn(async { drop(connection.await) });
    send
}

pub(super) async fn server(endpoint: &Endpoint) -> server::Connection<TcpStream, Bytes> {
    server::handshake(endpoint.accept().await.0).await.unwrap()
}

pub(super) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://shop{path}")).body(()).unwrap()
}

pub(super) fn call() -> Request<()> {
    let call = Request::post("http://shop/x.Y/Z")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    call.body(()).unwrap()
}

/// The next request of a connection, which goes on by itself from then on.
macro_rules! next {
    ($connection:ident) => {{
        let accepted = $connection.accept().await.unwrap().unwrap();
        net::task::spawn(async move { while $connection.accept().await.is_some() {} });
        accepted
    }};
}
pub(super) use next;

#[test]
fn a_call_keeps_its_trailers() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut send = client(lab.client(Version::Either)).await;
        let (answer, mut body) = send.send_request(call(), false).unwrap();
        body.send_data(Bytes::from_static(b"ask"), true).unwrap();
        let mut connection = server(&endpoint).await;
        let (request, mut respond) = next!(connection);
        let (parts, mut asked) = request.into_parts();
        assert_eq!(parts.uri.to_string(), "http://shop/x.Y/Z");
        assert_eq!(parts.headers["te"], "trailers");
        assert!(!parts.headers.contains_key("host"));
        assert_eq!(parts.headers["x-forwarded-for"], "10.9.8.7");
        assert_eq!(asked.data().await.unwrap().unwrap(), "ask");
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .body(());
        let mut told = respond.send_response(head.unwrap(), false).unwrap();
        told.send_data(Bytes::from_static(b"tell"), false).unwrap();
        let trailers = [("grpc-status", "5"), ("authorization", "evil")]
            .map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v)));
        told.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "tell");
        assert_eq!(body.trailers().await.unwrap().unwrap().len(), 1);
        let told = lab.told();
        assert_eq!(
            (told[0].status, told[0].grpc_status, told[0].sent),
            (200, Some(5), 4)
        );
    });
}

#[test]
fn a_denied_call_is_answered_in_trailers_alone() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            policies: vec![deny("/x.Y/Z")],
            ..World::to(&endpoint)
        };
        let mut send = client(world.lab().client(Version::H2)).await;
        let (answer, _body) = send.send_request(call(), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["grpc-status"]),
            (200, &HeaderValue::from_static("7"))
        );
        assert!(answer.body().is_end_stream());
    });
}

#[test]
fn http2_becomes_http1_where_the_endpoint_speaks_that() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            protocol: Protocol::Http1,
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        let mut request = get("/a?b");
        for cookie in ["a=1", "b=2"] {
            request
                .headers_mut()
                .append("cookie", HeaderValue::from_static(cookie));
        }
        let (answer, _) = send.send_request(request, true).unwrap();
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
        assert_eq!(value(&head, "host").as_deref(), Some("shop"));
        assert_eq!(value(&head, "cookie").as_deref(), Some("a=1; b=2"));
        peer.write("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
        let answer = answer.await.unwrap();
        assert!(!answer.headers().contains_key("connection"));
        assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "hi");
    });
}

#[test]
fn http1_becomes_http2_where_the_endpoint_speaks_that() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            protocol: Protocol::Http2,
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write("GET /a HTTP/1.1\r\nHost: shop:8080\r\nConnection: x\r\nX: 1\r\n\r\n")
            .await;
        let mut connection = server(&endpoint).await;
        let (request, mut respond) = next!(connection);
        assert_eq!(request.uri().to_string(), "http://shop:8080/a");
        assert!(!request.headers().contains_key("x"));
        let head = Response::builder()
            .header("content-length", 2)
            .body(())
            .unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(b"hi"), true).unwrap();
        let answer = client.until("hi").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    });
}

#[test]
fn a_length_that_others_may_read_otherwise_is_refused() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut world = World::to(&endpoint);
        world.protocol = Protocol::Http1;
        let lab = world.lab();
        let mut send = client(lab.client(Version::Either)).await;
        for lengths in [&["03"][..], &["3", "3"]] {
            let mut request = Request::post("http://shop/");
            for length in lengths {
                request = request.header("content-length", *length);
            }
            let request = request.body(()).unwrap();
            let (answer, mut body) = send.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"abc"), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 400, "{lengths:?}");
        }
    });
}

#[test]
fn a_call_over_http1_keeps_its_trailers_if_it_takes_them() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("POST /x.Y/Z HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 5\r\n\r\n").await;
        client.head().await;
        let body = client.until("\r\n\r\n").await;
        assert!(body.ends_with("0\r\ngrpc-status: 5\r\n\r\n"), "{body}");
    });
}

#[test]
fn requests_share_a_connection() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (mut one, mut other) = (
            client(lab.client(Version::H2)).await,
            client(lab.client(Version::H2)).await,
        );
        let (a, _) = one.send_request(get("/a"), true).unwrap();
        let (b, _) = other.send_request(get("/b"), true).unwrap();
        let mut connection = server(&endpoint).await;
        let (_, mut first) = connection.accept().await.unwrap().unwrap();
        let (_, mut second) = next!(connection);
        second.send_response(Response::new(()), true).unwrap();
        first.send_response(Response::new(()), true).unwrap();
        assert_eq!(
            (a.await.unwrap().status(), b.await.unwrap().status()),
            (http::StatusCode::OK, http::StatusCode::OK)
        );
        assert_eq!(lab.front.pools.connections(), 1);
    });
}

/// Has the endpoint refuse the first request in some way, and answers what comes on another connection.
async fn refused(
    lab: &Lab,
    endpoint: &Endpoint,
    refuse: impl FnOnce(&mut server::Connection<TcpStream, Bytes>, server::SendResponse<Bytes>),
) -> (u16, bool) {
    let mut send = client(lab.client(Version::H2)).await;
    let (answer, _) = send.send_request(get("/a"), true).unwrap();
    let mut connection = server(endpoint).await;
    let (_, respond) = connection.accept().await.unwrap().unwrap();
    refuse(&mut connection, respond);
    net::task::spawn(async move { while connection.accept().await.is_some() {} });
    let again = async {
        let mut connection = server(endpoint).await;
        let (_, mut respond) = next!(connection);
        respond.send_response(Response::new(()), true).unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => (answer.unwrap().status().as_u16(), lab.front.pools.connections() > 0),
        () = again => unreachable!(),
    }
}

#[test]
fn a_request_that_the_endpoint_refused_goes_once_more() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (status, _) = refused(&lab, &endpoint, |_, mut respond| {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        assert_eq!(status, 200);
    });
}

#[test]
fn where_that_connection_cannot_be_had_nobody_else_is_asked() {
    run(async {
        let (one, other) = (Endpoint::listen().await, Endpoint::listen().await);
        let lab = World::to_all(&[&one, &other]).lab();
        let mut send = client(lab.client(Version::H2)).await;
        let (answer, _) = send.send_request(get("/a"), true).unwrap();
        let (mut connection, rest) = tokio::select! {
            connection = server(&one) => {
                drop(one);
                (connection, other)
            }
            connection = server(&other) => {
                drop(other);
                (connection, one)
            }
        };
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        net::task::spawn(async move { while connection.accept().await.is_some() {} });
        assert_eq!(answer.await.unwrap().status(), 503);
        let asked = timeout(Duration::from_secs(60), rest.accept()).await;
        assert!(asked.is_err(), "a request goes to one endpoint");
    });
}

#[test]
fn a_request_that_the_endpoint_broke_off_does_not() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (status, _) = refused(&lab, &endpoint, |_, mut respond| {
            respond.send_reset(Reason::INTERNAL_ERROR);
        })
        .await;
        assert_eq!(status, 503);
    });
}

#[test]
fn a_waypoint_that_ends_says_so_and_serves_what_came() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (begin, drain) = oneshot::channel::<()>();
        let peer = lab.draining_client(Version::H2, async { drop(drain.await) });
        let (mut send, connection) = client::handshake(peer.0).await.unwrap();
        let ended = tokio::task::spawn_local(connection);
        let (answer, _) = send.send_request(get("/a"), true).unwrap();
        let mut upstream = server(&endpoint).await;
        let (_, mut respond) = next!(upstream);
        begin.send(()).unwrap();
        tokio::task::yield_now().await;
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        drop(send);
        ended.await.unwrap().unwrap();
    });
}

/// Frames of a client that does what no client should; what the waypoint says last.
async fn abused(lab: &Lab, frames: &[u8]) -> Vec<u8> {
    let mut peer = lab.client(Version::H2);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(frames);
    let (mut read, mut write) = tokio::io::split(&mut peer.0);
    let mut said = Vec::new();
    let write = async { drop(tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await) };
    let _ = tokio::join!(write, read.read_to_end(&mut said));
    said
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Whether a GOAWAY with an error is among frames.
fn is_sent_away(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if *kind == 7 {
            return rest[4..8] != [0; 4];
        }
        frames = rest.get(len..).unwrap_or_default();
    }
    false
}

#[test]
fn abuse_ends_the_connection() {
    // `:method GET`, `:scheme http`, `:path /`, `:authority a`, indexed or literal (RFC 7541).
    const HEAD: &[u8] = b"\x82\x86\x84\x41\x01a";
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            endpoints: Vec::new(),
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        // HEADERS without END_STREAM, then RST_STREAM, again and again.
        let resets = (0..2000).flat_map(|at| {
            let stream = at * 2 + 1;
            [
                frame(1, 4, stream, HEAD),
                frame(3, 0, stream, &8u32.to_be_bytes()),
            ]
            .concat()
        });
        let said = abused(&lab, &resets.collect::<Vec<_>>()).await;
        assert!(is_sent_away(&said), "rapid reset");
        // A head that goes on and on.
        let more = frame(
            9,
            0,
            1,
            &[&b"\0\x01x\x7f\x81\x7f"[..], &[b'a'; 256]].concat(),
        );
        let endless = [frame(1, 0, 1, HEAD), more.repeat(2000)].concat();
        let said = abused(&lab, &endless).await;
        assert!(is_sent_away(&said), "continuation");
        assert!(lab.told().iter().all(|told| told.status != 200));
    });
}

#[test]
fn pseudo_headers_are_checked() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        for (what, head) in [
            ("no path", &b"\x82\x86\x41\x01a"[..]),
            ("two paths", b"\x82\x86\x84\x84\x41\x01a"),
            ("after a header", b"\x82\x86\x84\x00\x01x\x01y\x41\x01a"),
            ("unknown", b"\x82\x86\x84\x41\x01a\x00\x02:x\x01y"),
            ("upper case", b"\x82\x86\x84\x41\x01a\x00\x01X\x01y"),
            (
                "connection",
                b"\x82\x86\x84\x41\x01a\x00\x0aconnection\x05close",
            ),
            (
                "transfer-encoding",
                b"\x82\x86\x84\x41\x01a\x00\x11transfer-encoding\x07chunked",
            ),
        ] {
            let bytes = [frame(1, 5, 1, head), frame(7, 0, 0, &[0; 8])].concat();
            let said = abused(&lab, &bytes).await;
            // RST_STREAM or GOAWAY, and no HEADERS.
            let reset = said.windows(5).any(|it| it == [0, 0, 4, 3, 0]);
            assert!(
                reset || is_sent_away(&said),
                "{what}: {}",
                said.escape_ascii()
            );
        }
        assert_eq!(lab.told().len(), 0);
        let other = b"\x82\x86\x84\x41\x01a\x00\x04host\x01b";
        let bytes = [frame(1, 5, 1, other), frame(7, 0, 0, &[0; 8])].concat();
        abused(&lab, &bytes).await;
        assert_eq!(lab.told()[0].status, 400);
    });
}

#[test]
fn a_request_above_the_last_of_a_goaway_goes_once_more() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut send = client(lab.client(Version::H2)).await;
        let mut request = get("/a");
        let evil = HeaderValue::from_static("6.6.6.6");
        request.headers_mut().insert("x-forwarded-for", evil);
        let (answer, _) = send.send_request(request, true).unwrap();
        let mut leaving = endpoint.accept().await;
        leaving.until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let bytes = [frame(4, 0, 0, &[]), frame(7, 0, 0, &[0; 8])].concat();
        leaving.write(str::from_utf8(&bytes).unwrap()).await;
        let mut connection = server(&endpoint).await;
        let (request, mut respond) = next!(connection);
        assert_eq!(request.uri().path(), "/a");
        assert_eq!(request.headers()["x-forwarded-for"], "10.9.8.7");
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn a_request_that_a_goaway_includes_does_not() {
    run(async {
        for code in [0, 2] {
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut send = client(lab.client(Version::H2)).await;
            let (answer, _) = send.send_request(get("/a"), true).unwrap();
            let mut leaving = endpoint.accept().await;
            leaving.until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            let away = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, code]);
            let bytes = [frame(4, 0, 0, &[]), away].concat();
            leaving.write(str::from_utf8(&bytes).unwrap()).await;
            leaving.finish().await;
            assert_eq!(answer.await.unwrap().status(), 503);
            assert_eq!(&*lab.told()[0].flags, "UC");
        }
    });
}
