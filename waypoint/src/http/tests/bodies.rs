//! Bodies move both ways as they come.

use super::fixture::{Endpoint, GET, WAITING, World, asked, run, value};

#[test]
fn bodies_stream_both_ways_and_trailers_stay() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-sum, authorization\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        assert_eq!(value(&head, "te").as_deref(), Some("trailers"));
        assert_eq!(peer.until("ab\r\n").await, "2\r\nab\r\n");
        // The answer begins, and moves, before the request has ended.
        peer.write(
            "HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        )
        .await;
        client.head().await;
        assert_eq!(client.until("x\r\n").await, "1\r\nx\r\n");
        client
            .write("1\r\nc\r\n0\r\nx-sum: 3\r\nauthorization: evil\r\n\r\n")
            .await;
        let rest = peer.until("\r\n\r\n").await;
        assert_eq!(rest, "1\r\nc\r\n0\r\nx-sum: 3\r\n\r\n");
        peer.write("0\r\nx-end: 1\r\n\r\n").await;
        assert_eq!(client.until("\r\n\r\n").await, "0\r\nx-end: 1\r\n\r\n");
        let told = lab.told();
        assert_eq!(
            (told[0].received, told[0].sent, &*told[0].flags),
            (3, 1, "-")
        );
    });
}

#[test]
fn a_client_that_does_not_read_holds_its_endpoint_back() {
    run(async {
        let (_lab, mut client, mut peer) = asked(GET).await;
        let size = 64 << 20;
        peer.write(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"
        ))
        .await;
        let piece = "x".repeat(1 << 20);
        let mut sent = 0;
        // By the stopped clock, a write that has room does not wait.
        let wait = std::time::Duration::from_secs(1);
        while tokio::time::timeout(wait, peer.write(&piece)).await.is_ok() {
            sent += piece.len();
            assert!(sent < 32 << 20, "all of it was taken");
        }
        client.head().await;
    });
}

#[test]
fn an_early_answer_is_delivered() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
            .await;
        let mut peer = endpoint.accept().await;
        peer.until("abc").await;
        peer.write("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .await;
        drop(peer);
        let answer = client.until("no").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    });
}

#[test]
fn a_client_that_has_said_all_gets_its_answer() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            .await;
        client.finish().await;
        let mut peer = endpoint.accept().await;
        peer.until("abc").await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        assert!(client.rest().await.ends_with("\r\n\r\nhi"));
    });
}

#[test]
fn a_body_waits_until_the_endpoint_wants_it() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client.write(WAITING).await;
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        assert_eq!(value(&head, "expect").as_deref(), Some("100-continue"));
        peer.write("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write("abc").await;
        peer.until("abc").await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn a_body_that_the_endpoint_does_not_want_is_not_asked_for() {
    run(async {
        let (_lab, mut client, mut peer) = asked(WAITING).await;
        peer.write("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert!(client.rest().await.starts_with("HTTP/1.1 417 "));
        assert_eq!(peer.rest().await, "");
    });
}

#[test]
fn an_application_that_answers_before_it_reads_gets_the_body() {
    run(async {
        let (_lab, mut client, mut peer) = asked(WAITING).await;
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.write("abc").await;
        peer.until("abc").await;
        peer.write("3\r\nabc\r\n0\r\n\r\n").await;
        assert!(client.rest().await.ends_with("abc\r\n0\r\n\r\n"));
    });
}

#[test]
fn answers_without_a_body_have_none() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (mut client, mut peer) = (lab.h1(), None);
        for (method, answer) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
            (
                "GET",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
            ),
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ] {
            client
                .write(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            let peer = match &mut peer {
                Some(peer) => peer,
                none => none.insert(endpoint.accept().await),
            };
            peer.head().await;
            peer.write(answer).await;
            let got = client.head().await;
            assert_eq!(got.lines().next(), answer.lines().next());
            let length = value(answer, "content-length").filter(|_| !answer.contains(" 304 "));
            assert_eq!(value(&got, "content-length"), length, "{got}");
            assert_eq!(value(&got, "transfer-encoding"), None, "{got}");
        }
        assert_eq!(lab.told().len(), 4);
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    run(async {
        let (lab, mut client, mut peer) = asked(GET).await;
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await;
        client.until("abc\r\n").await;
        drop(peer);
        assert_eq!(client.rest().await, "");
        assert_eq!(&*lab.told()[0].flags, "UC");
    });
}

#[test]
fn requests_that_come_at_once_are_answered_one_after_the_other() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        let get = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write(&(get("/1") + &get("/2") + &get("/3"))).await;
        let mut peer = endpoint.accept().await;
        for path in ["/1", "/2", "/3"] {
            let head = peer.head().await;
            assert!(head.starts_with(&format!("GET {path} ")), "{head}");
            peer.write(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{path}"
            ))
            .await;
            client.until(path).await;
        }
    });
}

#[test]
fn an_endpoint_is_busy_as_long_as_its_answer_lasts() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World::to(&endpoint);
        let generation = world.generation();
        let lab = world.lab();
        let workload = generation.mesh.workload("Kubernetes//Pod/shop/p0").unwrap();
        let load = || lab.front.pools.load()(workload);
        let mut client = lab.h1();
        client.write(GET).await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")
            .await;
        client.head().await;
        assert_eq!(load().in_flight, 1);
        peer.write("2").await;
        client.until("12").await;
        assert_eq!(load().in_flight, 0);
        assert!(load().latency >= std::time::Duration::from_millis(30));
    });
}
