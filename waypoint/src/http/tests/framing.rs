//! A message with two readings goes nowhere.

use super::fixture::{Endpoint, World, run, value};

const REST: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the client hears and what the endpoint sees of bytes that nothing follows.
async fn exchanged(request: &str) -> (String, Option<String>) {
    let endpoint = Endpoint::listen().await;
    let lab = World::to(&endpoint).lab();
    let mut client = lab.h1();
    client.write(request).await;
    let client = async {
        let answer = client.rest().await;
        drop(client);
        // Connections to endpoints close with what keeps them.
        lab.front.pools.end();
        answer
    };
    let server = async {
        let mut peer = endpoint.accept().await;
        let seen = peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        seen + &peer.rest().await
    };
    tokio::pin!(server);
    tokio::select! {
        biased;
        answer = client => (answer, None),
        seen = &mut server => (String::new(), Some(seen)),
    }
}

#[test]
fn what_has_two_readings_is_answered_with_400_and_no_endpoint_sees_a_byte() {
    run(async {
        for head in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\t HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        ] {
            let request = format!("{head}{REST}");
            let (answer, seen) = exchanged(&request).await;
            assert_eq!(seen, None, "{request}");
            assert!(answer.starts_with("HTTP/1.1 400 "), "{request}{answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request}{answer}");
        }
    });
}

#[test]
fn what_names_two_hosts_or_none_is_answered_with_400() {
    run(async {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "Connect / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let request = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            let (answer, seen) = exchanged(&request).await;
            assert_eq!(seen, None, "{request}");
            assert!(answer.starts_with("HTTP/1.1 400 "), "{request}{answer}");
        }
    });
}

#[test]
fn a_body_in_chunks_is_written_anew() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n03;x=\"y\"\r\nabc\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        assert!(head.starts_with("POST /a HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(peer.until("abc\r\n").await, "3\r\nabc\r\n");
        client.write("0\r\n\r\n").await;
        assert_eq!(peer.until("0\r\n\r\n").await, "0\r\n\r\n");
        peer.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 204 "));
    });
}

#[test]
fn a_body_of_a_request_that_has_mostly_none_is_not_lost() {
    run(async {
        for method in ["GET", "HEAD", "DELETE"] {
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut client = lab.h1();
            client
                .write(&format!("{method} /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
                .await;
            let mut peer = endpoint.accept().await;
            let head = peer.head().await;
            assert_eq!(
                value(&head, "transfer-encoding").as_deref(),
                Some("chunked"),
                "{head}"
            );
            assert_eq!(peer.until("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
        }
    });
}

#[test]
fn a_chunk_that_is_none_ends_both_connections() {
    run(async {
        for bad in [
            "x\r\n",
            "3\nabc",
            "3;a\nb\r\nabc\r\n",
            "3\r\nabcX\r\n",
            "-1\r\n",
            "3\r\nabc0\r\n",
        ] {
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut client = lab.h1();
            client
                .write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            let mut peer = endpoint.accept().await;
            peer.head().await;
            client.write(&format!("{bad}{REST}")).await;
            let seen = peer.rest().await;
            assert!(
                !seen.contains("0\r\n\r\n") && !seen.contains("GET"),
                "{bad}: {seen}"
            );
            drop(peer);
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{bad}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{bad}: {answer}");
        }
    });
}

#[test]
fn an_answer_of_two_readings_is_502_and_ends_its_connection() {
    run(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut client = lab.h1();
            client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut peer = endpoint.accept().await;
            peer.head().await;
            peer.write(answer).await;
            let heard = client.head().await;
            assert!(heard.starts_with("HTTP/1.1 502 "), "{answer}{heard}");
            assert_eq!(peer.rest().await, "", "{answer}");
            assert_eq!(&*lab.told()[0].flags, "UPE", "{answer}");
        }
    });
}

#[test]
fn an_answer_of_one_reading_passes_and_its_connection_is_used_again() {
    run(async {
        for (method, answer) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
            (
                "HEAD",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                "GET",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n",
            ),
            (
                "GET",
                "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "GET",
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nUpgrade: h2c\r\n\r\n",
            ),
        ] {
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut client = lab.h1();
            let mut peer = None;
            for _ in 0..2 {
                client
                    .write(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
                    .await;
                let mut at = match peer.take() {
                    None => endpoint.accept().await,
                    Some(peer) => peer,
                };
                at.head().await;
                at.write(answer).await;
                let heard = client.head().await;
                assert!(!heard.starts_with("HTTP/1.1 502 "), "{answer}{heard}");
                peer = Some(at);
            }
        }
    });
}

#[test]
fn a_chunk_of_an_answer_that_is_none_breaks_it_off() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0;a\nb\r\n\r\n",
        )
        .await;
        let answer = client.rest().await;
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
        assert_eq!(peer.rest().await, "");
    });
}

#[test]
fn what_was_refused_is_told() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client.write("GET / HTTP/1.1\nHost: a\n\n").await;
        client.rest().await;
        client.finish().await;
        drop(client);
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let told = lab.told();
        assert_eq!(
            (told.len(), told[0].status, &*told[0].flags),
            (1, 400, "DPE")
        );
    });
}
