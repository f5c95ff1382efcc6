//! Connections: how long they live, what they become, what happens when they do not.

use std::time::Duration;

use tokio::{sync::oneshot, time::sleep};

use super::fixture::{Endpoint, GET, World, asked, rule, run, value};
use crate::http::{Limits, Version};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_connection_becomes_what_both_ends_agree_on() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        assert_eq!(value(&head, "connection").as_deref(), Some("upgrade"));
        assert_eq!(value(&head, "upgrade").as_deref(), Some("websocket"));
        peer.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst\n").await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert_eq!(value(&answer, "upgrade").as_deref(), Some("websocket"));
        assert_eq!(client.until("first\n").await, "first\n");
        client.write("any\nthing").await;
        peer.until("any\nthing").await;
        client.finish().await;
        assert_eq!(peer.rest().await, "");
        peer.write("last").await;
        drop(peer);
        assert_eq!(client.rest().await, "last");
        sleep(Duration::from_secs(1)).await;
        let told = lab.told();
        assert_eq!((told.len(), told[0].status), (1, 101));
        assert_eq!((told[0].received, told[0].sent), (9, 10));
    });
}

#[test]
fn a_protocol_that_is_not_taken_up_ends_the_connection() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write(OK).await;
        let answer = client.rest().await;
        assert_eq!(value(&answer, "connection").as_deref(), Some("close"));
        assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    });
}

#[test]
fn a_head_that_does_not_end_is_answered_with_408() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        sleep(Duration::from_secs(60)).await;
        client.write("GET / HTTP/1.1\r\nHost: a\r\n").await;
        sleep(Duration::from_secs(9)).await;
        client.write("X: ").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    });
}

#[test]
fn an_empty_line_begins_a_head() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client.write("\r\n").await;
        let begun = tokio::time::Instant::now();
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(begun.elapsed() < Limits::default().head_time + Duration::from_secs(3));
    });
}

#[test]
fn a_client_that_resets_its_connection_ends_its_request_at_once() {
    run(async {
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na",
        ] {
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut client = lab.socket().await;
            client.write(request).await;
            let mut peer = endpoint.accept().await;
            peer.head().await;
            let begun = tokio::time::Instant::now();
            client.0.set_zero_linger().unwrap();
            drop(client);
            peer.rest().await;
            assert!(begun.elapsed() < Duration::from_secs(1), "{request}");
            assert_eq!(lab.front.pools.connections(), 0);
            assert_eq!(lab.told().len(), 1);
        }
    });
}

#[test]
fn a_client_that_has_ended_its_side_is_not_served_for_ever() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client.write(GET).await;
        client.finish().await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        let limit = Limits::default().half_closed;
        sleep(limit - Duration::from_secs(1)).await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na")
            .await;
        client.until("\r\n\r\na").await;
        // It takes what comes, so it has its time again.
        let begun = tokio::time::Instant::now();
        assert_eq!(peer.rest().await, "");
        assert!(begun.elapsed() >= limit, "{:?}", begun.elapsed());
        assert!(begun.elapsed() < limit + Duration::from_secs(2));
        assert_eq!(&*lab.told()[0].flags, "DC");
    });
}

#[test]
fn a_body_that_does_not_come_is_answered_with_408() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
            .await;
        let mut peer = endpoint.accept().await;
        peer.until("\r\n\r\na").await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    });
}

#[test]
fn an_unused_connection_ends() {
    run(async {
        let (lab, mut client, mut peer) = asked(GET).await;
        peer.write(OK).await;
        client.head().await;
        let begun = tokio::time::Instant::now();
        assert_eq!(peer.rest().await, "");
        assert!(begun.elapsed() <= Limits::default().upstream.idle + Duration::from_secs(1));
        assert_eq!(lab.front.pools.connections(), 0);
        assert_eq!(client.rest().await, "");
        assert!(begun.elapsed() >= Limits::default().idle);
    });
}

#[test]
fn a_client_may_be_silent_before_its_first_request() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.client(Version::Either);
        sleep(Limits::default().idle / 2).await;
        client.write(GET).await;
        endpoint.accept().await.head().await;
        let begun = tokio::time::Instant::now();
        assert_eq!(lab.client(Version::Either).rest().await, "");
        assert_eq!(begun.elapsed(), Limits::default().idle);
        // But not in the middle of saying what it speaks.
        let begun = tokio::time::Instant::now();
        let mut client = lab.client(Version::Either);
        client.write("PRI * HTTP/2.0\r\n").await;
        assert_eq!(client.rest().await, "");
        assert_eq!(begun.elapsed(), Limits::default().head_time);
    });
}

#[test]
fn a_waypoint_that_ends_does_not_wait_for_silent_clients() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (begin, drain) = oneshot::channel::<()>();
        let mut silent = lab.draining_client(Version::Either, async { drop(drain.await) });
        let (begin_late, drain) = oneshot::channel::<()>();
        let mut late = lab.draining_client(Version::Either, async { drop(drain.await) });
        begin.send(()).unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(silent.rest().await, "");
        assert_eq!(begun.elapsed(), Limits::default().linger);
        begin_late.send(()).unwrap();
        sleep(Limits::default().linger / 2).await;
        late.write(GET).await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write(OK).await;
        let answer = late.rest().await;
        assert_eq!(value(&answer, "connection").as_deref(), Some("close"));
    });
}

#[test]
fn a_request_takes_no_longer_than_its_rule_says() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut rule = rule("/");
        rule.request_timeout = 500;
        let world = World {
            rules: vec![rule],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client.write(GET).await;
        let answer = client.until("upstream request timeout").await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        client
            .write("POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(
            value(&client.head().await, "grpc-status").as_deref(),
            Some("4")
        );
        let flags: Vec<_> = lab.told().into_iter().map(|told| told.flags).collect();
        assert_eq!(flags, ["UT", "UT"]);
    });
}

#[test]
fn an_answer_that_takes_longer_than_its_rule_says_is_cut_off() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut rule = rule("/");
        rule.backend_timeout = 500;
        let world = World {
            rules: vec![rule],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client.write(GET).await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            .await;
        client.until("ab").await;
        assert_eq!(client.rest().await, "");
        assert_eq!(&*lab.told()[0].flags, "UT");
    });
}

#[test]
fn when_the_waypoint_ends_answers_are_the_last_ones() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (begin, drain) = oneshot::channel::<()>();
        let mut client = lab.draining_client(Version::Either, async { drop(drain.await) });
        client.write(GET).await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        begin.send(()).unwrap();
        sleep(Duration::from_millis(10)).await;
        peer.write(OK).await;
        let answer = client.rest().await;
        assert_eq!(value(&answer, "connection").as_deref(), Some("close"));
    });
}

#[test]
fn a_request_that_comes_as_the_waypoint_ends_is_served() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let (begin, drain) = oneshot::channel::<()>();
        let mut client = lab.draining_client(Version::H1, async { drop(drain.await) });
        begin.send(()).unwrap();
        sleep(Duration::from_millis(500)).await;
        client.write(GET).await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write(OK).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn a_connection_that_the_endpoint_has_closed_is_not_used_again() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        for _ in 0..3 {
            client.write(GET).await;
            let mut peer = endpoint.accept().await;
            peer.head().await;
            peer.write(OK).await;
            drop(peer);
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        }
    });
}

#[test]
fn a_request_that_may_have_been_seen_is_not_sent_again() {
    run(async {
        let (lab, mut client, mut peer) = asked(GET).await;
        peer.write(OK).await;
        client.head().await;
        client.write(GET).await;
        peer.head().await;
        drop(peer);
        assert!(client.head().await.starts_with("HTTP/1.1 503 "));
        assert_eq!(&*lab.told()[1].flags, "UC");
    });
}

#[test]
fn a_client_that_is_gone_is_told_of() {
    run(async {
        let (lab, client, mut peer) = asked(GET).await;
        drop(client);
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            .await;
        peer.rest().await;
        assert_eq!(&*lab.told()[0].flags, "DC");
    });
}

#[test]
fn an_unused_connection_closes_when_its_endpoint_is_forgotten() {
    run(async {
        let (lab, mut client, mut peer) = asked(GET).await;
        peer.write(OK).await;
        client.head().await;
        let idle = sleep(lab.front.limits.upstream.idle / 2);
        lab.front.pools.end();
        tokio::select! {
            _ = peer.rest() => {}
            () = idle => panic!("it is kept"),
        }
    });
}
