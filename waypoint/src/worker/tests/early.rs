//! Answers of endpoints that do not read the rest of their requests, and close their connections: their systems reset those.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use net::{
    carry::{self, carry},
    hbone::{self, Stream, Tunnel},
    task, tls,
};
use proto::{waypoint::Protocol, workload::TunnelProtocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
    sync::oneshot,
    time::Instant,
};

use super::fixture::{Waypoint, alone, ask, backend};
use crate::fixture::{Office, identity};

/// How often each is tried: where a race decides, a few times tell nothing.
const TIMES: usize = 200;

/// An answer with its reason in words, more than is read of it at once.
fn too_large() -> String {
    let why = "too large".repeat(4_000);
    let length = why.len();
    format!("HTTP/1.1 413 Content Too Large\r\nContent-Length: {length}\r\n\r\n{why}")
}

/// An application that reads the beginning of a request's body, says this and closes. It has a thread of its own, as it is
/// in no step with the waypoint. `resets`: its end is a reset in any case.
fn impatient(answer: String, resets: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut read = [0; 1 << 10];
            stream.read_exact(&mut read).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if resets {
                sys::socket::reset(&stream).unwrap();
            }
        }
    });
    at
}

/// The proxy of a pod, in front of its application. It has a thread of its own, too.
fn proxy(office: &Office, at: Ipv4Addr, app: SocketAddr) {
    let listener = TcpListener::bind((at, mesh::plan::HBONE_PORT)).unwrap();
    let credential = office.issue(identity("orders"));
    let serve = move || async move {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        sys::socket::nodelay(&tcp).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (tls, _) = tls::accept(tcp, &credential, deadline).await.unwrap();
        let on_stream = |connect: hbone::Connect| {
            task::spawn(async move {
                let app = TcpStream::connect(app).await.unwrap();
                sys::socket::nodelay(&app).unwrap();
                let stream = connect.accept(http::HeaderMap::new()).unwrap();
                let (_stop, stopped) = oneshot::channel();
                let counts = carry::Counts::default();
                let app = carry::Socket::tcp(app);
                carry(stream, app, &counts, stopped).await.ok();
            });
        };
        let settings = hbone::Settings::default();
        let served = hbone::serve(tls, settings, std::future::pending(), on_stream);
        served.await.ok();
    };
    thread::spawn(|| alone(serve()));
}

/// What comes of an upload that goes on until its answer is there.
async fn upload(tunnel: &Tunnel) -> String {
    let stream = ask(tunnel, "10.96.0.9:80", &[]).await.unwrap();
    let (mut read, mut write) = split::<Stream>(stream);
    let send = async {
        let head = "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 800000000\r\n\r\n";
        write.write_all(head.as_bytes()).await.unwrap();
        // Whoever has its answer may close.
        while write.write_all(&[b'x'; 8 << 10]).await.is_ok() {}
        std::future::pending().await
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = send => {}
        _ = read.read_to_end(&mut answer) => {}
    }
    String::from_utf8(answer).unwrap()
}

async fn all_hear(waypoint: &Waypoint, answer: &str) {
    let (head, body) = answer.split_once("\r\n").unwrap_or((answer, ""));
    let (_, body) = body.split_once("\r\n\r\n").unwrap_or_default();
    let tunnel = waypoint.tunnel("cart").await;
    for at in 0..TIMES {
        let answer = upload(&tunnel).await;
        assert!(answer.starts_with(head), "{at}: {answer}");
        assert!(
            answer.ends_with(body),
            "{at}: {} of {}",
            answer.len(),
            body.len()
        );
    }
    let pools = &waypoint.worker.front.pools;
    while pools.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_answer_of_an_endpoint_that_does_not_read_the_rest_is_heard() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let app = impatient(too_large(), false);
        waypoint.orders(Protocol::Http1, app, &[]);
        all_hear(&waypoint, &too_large()).await;
    });
}

#[test]
fn it_is_heard_through_a_tunnel() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let app = impatient(too_large(), false);
        // An address of this test alone: the port is the same for all.
        let [.., high, low] = std::process::id().to_be_bytes();
        let at = Ipv4Addr::new(127, 99, high, low);
        proxy(&waypoint.authority, at, app);
        let mut backend = backend(app);
        let pod = &mut backend.workloads[0];
        pod.addresses = vec![at.octets().to_vec()];
        pod.tunnel_protocol = TunnelProtocol::Hbone.into();
        waypoint.leads_to(Protocol::Http1, backend, &[]);
        all_hear(&waypoint, &too_large()).await;
    });
}

#[test]
fn an_endpoint_that_says_nothing_is_lost() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Http1, impatient(String::new(), false), &[]);
        all_hear(&waypoint, "HTTP/1.1 503 ").await;
    });
}

#[test]
fn an_answer_whose_end_is_a_reset_does_not_look_whole() {
    alone(async {
        let waypoint = Waypoint::start().await;
        // Its end is the end of the connection.
        let answer = "HTTP/1.1 413 Content Too Large\r\n\r\ntoo".to_owned();
        let app = impatient(answer, true);
        waypoint.orders(Protocol::Http1, app, &[]);
        let tunnel = waypoint.tunnel("cart").await;
        for at in 0..TIMES {
            let answer = upload(&tunnel).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{at}: {answer}");
            assert!(!answer.ends_with("0\r\n\r\n"), "{at}: {answer}");
        }
    });
}
