//! Requests in memory, well and badly behaved.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::Instant,
};

use super::*;

async fn echo(request: Request<Bytes>) -> Response<Bytes> {
    let level = parameter(&request, "level").unwrap_or("-");
    let said = format!(
        "{} {} {level} {}",
        request.method(),
        request.uri().path(),
        request.body().len()
    );
    text(StatusCode::OK, said)
}

fn start() -> DuplexStream {
    let (near, far) = duplex(1 << 20);
    tokio::spawn(connection(far, Arc::new(echo)));
    near
}

async fn all(mut io: DuplexStream) -> String {
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_and_the_connection_closed() {
    let mut io = start();
    io.write_all(
        b"POST /logging?x&level=debug HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    )
    .await
    .unwrap();
    let answer = all(io).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\nPOST /logging debug 3"),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_half_is_left() {
    for half in ["", "GET / HTTP/1.1\r\nhost:"] {
        let mut io = start();
        let begun = Instant::now();
        io.write_all(half.as_bytes()).await.unwrap();
        all(io).await;
        assert_eq!(begun.elapsed().as_secs(), 5, "{half:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_or_is_too_large_is_refused() {
    let mut io = start();
    io.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab")
        .await
        .unwrap();
    let begun = Instant::now();
    assert!(all(io).await.starts_with("HTTP/1.1 408"));
    assert_eq!(begun.elapsed().as_secs(), 5);
    let mut io = start();
    io.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n")
        .await
        .unwrap();
    io.write_all(&[b'x'; 70_000]).await.unwrap();
    assert!(all(io).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_answer_is_left() {
    let (mut near, far) = duplex(1 << 16);
    let forever = |_: Request<Bytes>| std::future::pending::<Response<Bytes>>();
    tokio::spawn(connection(far, Arc::new(forever)));
    let begun = Instant::now();
    near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    all(near).await;
    assert_eq!(begun.elapsed(), LIFE);
}

#[tokio::test]
async fn it_serves_on_a_socket() {
    let listeners = listen(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let [listener] = <[_; 1]>::try_from(listeners).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, echo));
    for _ in 0..3 {
        let mut io = tokio::net::TcpStream::connect(address).await.unwrap();
        io.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("GET /healthz/ready - 0"), "{answer}");
    }
    assert!(listen(&[address]).is_err(), "taken");
}

#[tokio::test]
async fn both_wildcards_can_be_listened_on() {
    let v4 = listen(&["0.0.0.0:0".parse().unwrap()]).unwrap();
    let port = v4[0].local_addr().unwrap().port();
    let v6 = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
    match listen(&[v6]) {
        Ok(v6) => assert_eq!(v6.len(), 1),
        Err(error) => assert_ne!(error.kind(), io::ErrorKind::AddrInUse),
    }
}
