//! What three other servers read of what a waypoint sends: as many requests as were meant, each as it was meant.
//!
//! Each server is the endpoint in its turn: `http_parser` in C, which a great many servers have been made of, `tiny_http` and
//! `khttp`. None shares a line with the parser that the waypoint uses. Where Node.js is found, it is the fourth.

#[path = "readers/cases.rs"]
mod cases;
#[path = "readers/servers.rs"]
mod servers;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use cases::{BAD, BROKEN, HOSTS, SMUGGLED, good, seen};
use http::{HeaderMap, HeaderValue, Request};
use proto::waypoint::Protocol;
use servers::{EARLY, Seen, Server};
use tests::front;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::{LocalSet, yield_now},
};
use waypoint::http::Version;

/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets a client speak to a waypoint before the server.
fn before<T>(server: &Server, version: Version, client: impl AsyncFnOnce(DuplexStream) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let front = front::front(front::told(server.address, Protocol::Http1));
    let (near, far) = duplex(64 << 10);
    let serve = front::carry(&front, far, version);
    let both = async { tokio::join!(serve, client(near)).1 };
    LocalSet::new()
        .block_on(&runtime, async {
            tokio::time::timeout(PATIENCE, both).await
        })
        .unwrap_or_else(|_| panic!("{} does not end: {:?}", server.name, server.read()))
}

/// Says it all, in pieces, and hears what comes back.
async fn say(io: DuplexStream, pieces: impl Iterator<Item = &[u8]>) -> String {
    let (mut answers, mut requests) = tokio::io::split(io);
    let speak = async {
        for piece in pieces {
            // Who has heard enough closes.
            requests.write_all(piece).await.ok();
            yield_now().await;
        }
        requests.shutdown().await.ok();
    };
    let mut heard = Vec::new();
    let _ = tokio::join!(speak, answers.read_to_end(&mut heard));
    String::from_utf8(heard).expect("answers are text")
}

#[test]
fn every_server_reads_what_was_meant() {
    let servers = Server::all();
    for (sent, meant) in good() {
        let has_trailers = sent.contains("\r\nTrailer:");
        let start = &sent[..sent.len().min(300)];
        for server in servers
            .iter()
            .filter(|it| it.takes_trailers || !has_trailers)
        {
            for size in [sent.len(), 7] {
                let pieces = sent.as_bytes().chunks(size);
                let heard = before(server, Version::H1, async |io| say(io, pieces).await);
                assert_eq!(server.read(), meant, "{}: {start}", server.name);
                let answers = heard.matches(" 200 OK\r\n").count();
                assert_eq!(answers, meant.len(), "{}: {start}{heard}", server.name);
            }
        }
    }
}

#[test]
fn what_has_two_readings_reaches_no_server() {
    for server in &Server::all() {
        for head in BAD {
            let sent = format!("{head}{SMUGGLED}");
            let heard = before(server, Version::H1, async |io| {
                say(io, [sent.as_bytes()].into_iter()).await
            });
            assert_eq!(server.read(), [], "{}: {sent}", server.name);
            assert!(heard.starts_with("HTTP/1.1 400 "), "{sent}{heard}");
            assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{sent}{heard}");
        }
        for head in HOSTS {
            let heard = before(server, Version::H1, async |io| {
                say(io, [head.as_bytes()].into_iter()).await
            });
            assert_eq!(server.read(), [], "{}: {head}", server.name);
            assert!(heard.starts_with("HTTP/1.1 400 "), "{head}{heard}");
        }
    }
}

#[test]
fn what_breaks_off_is_nowhere_a_whole_request() {
    for server in &Server::all() {
        for broken in BROKEN {
            let sent = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{broken}{SMUGGLED}"
            );
            before(server, Version::H1, async |io| {
                say(io, sent.as_bytes().chunks(1)).await
            });
            assert_eq!(server.read(), [], "{}: {sent}", server.name);
        }
    }
}

/// Else the others would prove nothing.
#[test]
fn what_reaches_no_server_is_read_in_more_than_one_way() {
    let servers = Server::all();
    let mut disputed = 0;
    for head in BAD {
        let sent = format!("{head}{SMUGGLED}");
        let readings = servers[..3].iter().map(|server| {
            server.say(sent.as_bytes());
            let read = server.read();
            read.into_iter()
                .map(|it| (it.method, it.target, it.body))
                .collect::<Vec<_>>()
        });
        let readings: BTreeSet<_> = readings.collect();
        disputed += usize::from(readings.len() > 1);
    }
    assert!(disputed > BAD.len() / 2, "{disputed} of {}", BAD.len());
}

#[test]
fn an_answer_before_the_body_leaves_the_next_request_where_it_is() {
    for server in &Server::all() {
        let head = format!(
            "POST {EARLY} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            4000 + SMUGGLED.len()
        );
        let heard = before(server, Version::H1, async |mut io| {
            io.write_all(format!("{head}{}", "x".repeat(4000)).as_bytes())
                .await
                .unwrap();
            let mut early = [0; 12];
            io.read_exact(&mut early).await.unwrap();
            assert_eq!(&early, b"HTTP/1.1 200");
            say(
                io,
                [SMUGGLED.as_bytes(), b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n"].into_iter(),
            )
            .await
        });
        let mut read = server.read();
        // Two connections may be behind it.
        read.sort_by_key(|it| it.target.clone());
        assert_eq!(
            read,
            [seen("GET", "/b", "a", ""), seen("POST", EARLY, "a", "")],
            "{}: {heard}",
            server.name
        );
    }
}

/// Sends one HTTP/2 request. Whether it was answered with 200.
async fn ask(
    io: DuplexStream,
    request: Request<()>,
    data: &[&'static str],
    trailers: Option<HeaderMap>,
) -> bool {
    let (send, connection) = h2::client::handshake(io).await.expect("it is memory");
    tokio::task::spawn_local(async move { connection.await.ok() });
    let mut send = send.ready().await.expect("it takes one");
    let last = data.is_empty() && trailers.is_none();
    let (answer, mut body) = send
        .send_request(request, last)
        .expect("nothing is wrong with it");
    for (at, piece) in data.iter().enumerate() {
        let last = at + 1 == data.len() && trailers.is_none();
        // Who has heard enough resets the stream.
        body.send_data(Bytes::from_static(piece.as_bytes()), last)
            .ok();
    }
    if let Some(trailers) = trailers {
        body.send_trailers(trailers).ok();
    }
    let answer = answer.await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

fn h2_request(fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method("POST").uri("http://a/x/../b?c");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("nothing is wrong with it")
}

#[test]
fn what_came_by_http2_is_read_as_it_was_meant() {
    let trailers: HeaderMap = [("t", "u"), ("content-length", "9"), ("host", "b")]
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .into_iter()
        .collect();
    for server in &Server::all() {
        for (fields, data, trailers) in [
            (&[][..], &[][..], None),
            (&[("host", "a")], &["abc"], None),
            (&[("content-length", "3")], &["a", "", "bc"], None),
            (
                &[("te", "trailers"), ("trailer", "t, content-length")],
                &["0\r\n\r\n", SMUGGLED],
                Some(trailers.clone()),
            ),
            (
                &[
                    ("cookie", "a=b"),
                    ("cookie", "c=d"),
                    ("content_length", "7"),
                ],
                &[SMUGGLED],
                None,
            ),
            (
                &[("expect", "100-continue"), ("content-length", "32")],
                &[SMUGGLED],
                None,
            ),
        ] {
            if trailers.is_some() && !server.takes_trailers {
                continue;
            }
            let request = h2_request(fields);
            let answered = before(server, Version::H2, async |io| {
                ask(io, request, data, trailers).await
            });
            let meant = seen("POST", "/b?c", "a", &data.concat());
            assert_eq!(server.read(), [meant], "{}: {fields:?}", server.name);
            assert!(answered, "{}: {fields:?}", server.name);
        }
    }
}

/// A client's first bytes and one request, as no client's library would send it.
fn frames(fields: &[(&str, &str)], data: &[&str]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literal, without a name from the table (RFC 7541 §6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("texts are short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("frames are short");
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        bytes.extend_from_slice(payload);
        bytes
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4 | u8::from(data.is_empty()), 1, &block));
    for (at, piece) in data.iter().enumerate() {
        bytes.extend(frame(
            0,
            u8::from(at + 1 == data.len()),
            1,
            piece.as_bytes(),
        ));
    }
    bytes
}

const HEAD: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/b"),
];

/// What the server reads of such a request, once something comes back.
fn read_of(
    server: &Server,
    head: &[(&str, &str)],
    fields: &[(&str, &str)],
    data: &[&str],
) -> Vec<Seen> {
    let bytes = frames(&[head, fields].concat(), data);
    before(server, Version::H2, async |mut io| {
        io.write_all(&bytes).await.expect("it is memory");
        let mut head = [0; 9];
        while io.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let payload = &mut vec![0; length.try_into().expect("it is small")];
            io.read_exact(payload).await.expect("frames come whole");
            // An answer has begun, the stream is reset, or all is over.
            if matches!(head[3], 1 | 3 | 7) {
                break;
            }
        }
    });
    server.read()
}

#[test]
fn what_http2_may_not_say_reaches_no_server_whole() {
    for server in &Server::all() {
        let good = [seen("POST", "/b", "a", SMUGGLED)];
        assert_eq!(
            read_of(server, &HEAD, &[("content-length", "32")], &[SMUGGLED]),
            good,
            "{}",
            server.name
        );
        for (fields, data) in [
            (
                &[("transfer-encoding", "chunked")][..],
                &["0\r\n\r\n", SMUGGLED][..],
            ),
            (
                &[("connection", "content-length"), ("content-length", "32")],
                &[SMUGGLED],
            ),
            (&[("content-length", "3")], &["abc", SMUGGLED]),
            (&[("content-length", "50")], &[SMUGGLED]),
            (
                &[("content-length", "32"), ("content-length", "0")],
                &[SMUGGLED],
            ),
            (&[("content-length", "+32")], &[SMUGGLED]),
            (&[("host", "b")], &[]),
            (&[("host", "a"), ("host", "b")], &[]),
            (&[("x", "y\r\ncontent-length: 0")], &[SMUGGLED]),
            (&[("x\r\ny", "z")], &[]),
            (&[("x: y", "z")], &[]),
            (&[("Host", "a")], &[]),
            (&[(":path", "/c")], &[]),
        ] {
            assert_eq!(
                read_of(server, &HEAD, fields, data),
                [],
                "{}: {fields:?}",
                server.name
            );
        }
    }
}

#[test]
fn what_is_no_head_in_http2_reaches_no_server() {
    for server in &Server::all() {
        for (at, value) in [
            (0, "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"),
            (0, "GET /c HTTP/1.1"),
            (2, "a\r\nX: y"),
            (2, "b@a"),
            (3, "/b HTTP/1.1\r\nHost: b\r\n\r\n"),
            (3, "/b c"),
            (3, "b"),
            (3, "*"),
            (3, ""),
        ] {
            let mut head = HEAD;
            head[at].1 = value;
            assert_eq!(
                read_of(server, &head, &[], &[]),
                [],
                "{}: {head:?}",
                server.name
            );
        }
    }
}
