//! Who may not, and what has no way, is answered here.

use std::io::ErrorKind;

use proto::waypoint::{Action, Authorization, AuthorizationOperation, AuthorizationRule};
use tokio::io::AsyncReadExt;

use super::fixture::{Endpoint, World, rule, run, value};

pub(super) fn deny(path: &str) -> Authorization {
    Authorization {
        namespace: "shop".to_owned(),
        name: "no-admin".to_owned(),
        action: Action::Deny.into(),
        rules: vec![AuthorizationRule {
            to: vec![AuthorizationOperation {
                paths: vec![path.to_owned()],
                ..AuthorizationOperation::default()
            }],
            ..AuthorizationRule::default()
        }],
        ..Authorization::default()
    }
}

#[test]
fn a_request_flows_and_the_next_takes_the_same_connections() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("GET /a?b HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        for _ in 0..3 {
            let head = peer.head().await;
            assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
            assert_eq!(value(&head, "host").as_deref(), Some("shop"));
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                .await;
            let answer = client.until("hi").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert_eq!(value(&answer, "content-length").as_deref(), Some("2"));
            client
                .write("GET /a?b HTTP/1.1\r\nHost: shop\r\n\r\n")
                .await;
        }
        let told = lab.told();
        assert_eq!(told.len(), 3);
        assert_eq!((&*told[0].method, &*told[0].path), ("GET", "/a?b"));
        assert_eq!(
            (told[0].status, told[0].sent, &*told[0].flags),
            (200, 2, "-")
        );
        assert_eq!(told[0].workload.as_deref(), Some("p0"));
    });
}

#[test]
fn denied_is_403_and_the_endpoint_sees_nothing() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            policies: vec![deny("/admin")],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write("GET /x/../admin HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await;
        let answer = client.until("RBAC: access denied").await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert_eq!(value(&answer, "connection"), None);
        client.write("GET /b HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let head = endpoint.accept().await.head().await;
        assert!(head.starts_with("GET /b "), "{head}");
        let told = lab.told();
        assert_eq!((told[0].status, told[0].sent), (403, 19));
        let details = "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]";
        assert_eq!(told[0].details, details);
    });
}

#[test]
fn what_has_no_way_says_so() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            rules: vec![rule("/a")],
            endpoints: Vec::new(),
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client.write("GET /b HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 404 "));
        client.write("GET /a HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let answer = client.until("no healthy upstream").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let flags: Vec<_> = lab.told().into_iter().map(|told| told.flags).collect();
        assert_eq!(flags, ["NR", "UH"]);
        assert_eq!(lab.told()[1].rule, Some(("route".to_owned(), 0)));
    });
}

#[test]
fn grpc_is_answered_in_trailers_alone() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            policies: vec![deny("/x.Y/Z")],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write("POST /x.Y/Z HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc+proto\r\nContent-Length: 0\r\n\r\n")
            .await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(value(&answer, "grpc-status").as_deref(), Some("7"));
        assert_eq!(
            value(&answer, "grpc-message").as_deref(),
            Some("RBAC: access denied")
        );
        assert_eq!(
            value(&answer, "content-type").as_deref(),
            Some("application/grpc")
        );
        assert_eq!(value(&answer, "content-length").as_deref(), Some("0"));
        assert_eq!(
            (lab.told()[0].status, lab.told()[0].grpc_status),
            (200, Some(7))
        );
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_not_the_last() {
    run(async {
        let (gone, endpoint) = (Endpoint::listen().await, Endpoint::listen().await);
        let world = World::to_all(&[&gone, &endpoint]);
        let lab = world.lab();
        drop(gone);
        let mut peers = Vec::new();
        for _ in 0..8 {
            let mut client = lab.h1();
            client.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
            let mut peer = endpoint.accept().await;
            peer.head().await;
            peers.push((client, peer));
        }
        assert_eq!(lab.told().len(), 0);
    });
}

#[test]
fn an_upgraded_connection_that_is_denied_meanwhile_is_cut_and_others_go_on() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut open = Vec::new();
        for path in ["/chat", "/feed"] {
            let mut client = lab.h1();
            let ask = format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            );
            client.write(&ask).await;
            let mut peer = endpoint.accept().await;
            peer.head().await;
            peer.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
            client.head().await;
            open.push((client, peer));
        }
        let denying = |path| {
            let world = World {
                policies: vec![deny(path)],
                ..World::to(&endpoint)
            };
            world.generation()
        };
        lab.front.adopt(denying("/admin"));
        for (client, peer) in &mut open {
            client.write("ping").await;
            peer.until("ping").await;
        }
        assert_eq!(lab.told().len(), 0);
        lab.front.adopt(denying("/chat"));
        let (mut client, mut peer) = open.remove(0);
        assert_eq!(client.rest().await, "");
        let end = peer.0.read(&mut [0; 1]).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let told = lab.told();
        assert_eq!(told.len(), 1);
        assert_eq!((&*told[0].path, told[0].status), ("/chat", 101));
        assert_eq!(
            &*told[0].details,
            "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]"
        );
        assert_eq!((told[0].received, told[0].sent), (4, 0));
        let (client, peer) = &mut open[0];
        peer.write("pong").await;
        client.until("pong").await;
    });
}
