//! What is for one hop, what others may not say, what rules edit.

use mesh::name::Name;
use proto::waypoint::{
    Authorization, AuthorizationCondition, AuthorizationRule, Filter, Header, HeaderEdits,
    PathEdit, Redirect, Rewrite, filter, path_edit,
};

use super::fixture::{Endpoint, World, rule, run, value};
use crate::http::Limits;

#[test]
fn what_is_for_one_hop_or_from_outside_goes_and_the_client_is_introduced() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            tells_identity: true,
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write(
                "GET / HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: 5\r\n\
                 X-Hop: 1\r\nTE: gzip\r\nProxy-Connection: x\r\nX-Forwarded-For: 6.6.6.6\r\n\
                 Forwarded: for=6.6.6.6\r\nX-Forwarded-Client-Cert: URI=me\r\nX-Envoy-Internal: true\r\n\
                 Ambit-Via: a/b\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Keep: yes\r\nX-Keep: too\r\n\r\n",
            )
            .await;
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        for gone in [
            "connection",
            "keep-alive",
            "x-hop",
            "te",
            "proxy-connection",
            "x-envoy-internal",
            "ambit-via",
            "x-forwarded-host",
        ] {
            assert_eq!(value(&head, gone), None, "{head}");
        }
        let is = |name: &str| value(&head, name).unwrap_or_default();
        assert_eq!(is("x-forwarded-for"), "10.9.8.7");
        assert_eq!(is("forwarded"), "for=\"10.9.8.7:4321\";proto=http");
        assert_eq!(is("x-forwarded-proto"), "http");
        let certificate = "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(is("x-forwarded-client-cert"), certificate);
        assert_eq!(is("x-keep"), "yes|too");
        assert_eq!(is("x-request-id").len(), 36);
        peer.write(
            "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-Stay: 1\r\n\
             Content-Length: 0\r\n\r\n",
        )
        .await;
        let answer = client.head().await;
        for gone in ["connection", "x-hop", "keep-alive"] {
            assert_eq!(value(&answer, gone), None, "{answer}");
        }
        assert_eq!(value(&answer, "x-stay").as_deref(), Some("1"));
    });
}

#[test]
fn an_underscore_is_no_way_around_that() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        let claims = "X_Forwarded_For: 1.2.3.4\r\nx-forwarded_for: 1.2.3.4\r\nx_real_ip: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\ntrue_client-ip: 1.2.3.4\r\nx_forwarded_client_cert: 1.2.3.4\r\nx_envoy_a: 1.2.3.4\r\n";
        client
            .write(&format!(
                "GET / HTTP/1.1\r\nHost: a\r\nx_mine: 5\r\n{claims}\r\n"
            ))
            .await;
        let head = endpoint.accept().await.head().await;
        assert!(!head.contains("1.2.3.4"), "{head}");
        assert_eq!(value(&head, "x_mine").as_deref(), Some("5"), "{head}");
    });
}

#[test]
fn a_gateway_may_say_whom_it_forwards_for() {
    const HEAD: &str = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
                        Forwarded: for=6.6.6.6\r\nX-Forwarded-Client-Cert: URI=me\r\nX-Forwarded-Proto: https\r\n\
                        X-Forwarded-Host: shop.example\r\nX-Envoy-Internal: true\r\nAmbit-Via: a/b\r\n\r\n";
    let web = "spiffe://cluster.local/ns/shop/sa/web".to_owned();
    run(async {
        for tells_identity in [false, true] {
            let endpoint = Endpoint::listen().await;
            let world = World {
                gateways: vec![
                    "spiffe://cluster.local/ns/edge/sa/other".to_owned(),
                    web.clone(),
                ],
                tells_identity,
                ..World::to(&endpoint)
            };
            let lab = world.lab();
            let mut client = lab.h1();
            client.write(HEAD).await;
            let mut peer = endpoint.accept().await;
            let head = peer.head().await;
            let is = |name: &str| value(&head, name).unwrap_or_default();
            assert_eq!(is("x-forwarded-for"), "6.6.6.6, 7.7.7.7, 10.9.8.7");
            let forwarded = "for=6.6.6.6, for=\"10.9.8.7:4321\";proto=http";
            assert_eq!(is("forwarded"), forwarded);
            assert_eq!(is("x-forwarded-proto"), "https");
            assert_eq!(is("x-forwarded-host"), "shop.example");
            let own = format!(", By=spiffe://cluster.local/ns/shop/sa/waypoint;URI={web}");
            let own = if tells_identity { &*own } else { "" };
            assert_eq!(is("x-forwarded-client-cert"), format!("URI=me{own}"));
            assert_eq!(is("x-envoy-internal") + &is("ambit-via"), "");
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            client.head().await;
            let told = lab.told();
            assert_eq!(told[0].forwarded_for, is("x-forwarded-for"));
        }
    });
}

#[test]
fn another_waypoint_is_believed_for_applications_and_for_no_decision() {
    const HEAD: &str = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
                        X-Forwarded-Client-Cert: URI=me\r\nX-Forwarded-Host: shop.example\r\n\r\n";
    let waypoints = vec!["spiffe://cluster.local/ns/shop/sa/web".to_owned()];
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            waypoints: waypoints.clone(),
            ..World::to(&endpoint)
        };
        let mut client = world.lab().h1();
        client.write(HEAD).await;
        let head = endpoint.accept().await.head().await;
        let is = |name: &str| value(&head, name).unwrap_or_default();
        assert_eq!(is("x-forwarded-for"), "6.6.6.6, 10.9.8.7");
        assert_eq!(is("x-forwarded-client-cert"), "URI=me");
        assert_eq!(is("x-forwarded-host"), "shop.example");
        let origin = AuthorizationRule {
            when: vec![AuthorizationCondition {
                key: "request.headers[x-forwarded-host]".to_owned(),
                values: vec!["shop.example".to_owned()],
                ..AuthorizationCondition::default()
            }],
            ..AuthorizationRule::default()
        };
        let policy = Authorization {
            namespace: "shop".to_owned(),
            name: "by-header".to_owned(),
            rules: vec![origin],
            ..Authorization::default()
        };
        let world = World {
            policies: vec![policy],
            waypoints,
            ..World::to(&endpoint)
        };
        let mut client = world.lab().h1();
        client.write(HEAD).await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    });
}

#[test]
fn nothing_is_decided_by_what_a_gateway_says_of_its_client() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let condition = |key: &str, value: &str| AuthorizationRule {
            when: vec![AuthorizationCondition {
                key: format!("request.headers[{key}]"),
                values: vec![value.to_owned()],
                ..AuthorizationCondition::default()
            }],
            ..AuthorizationRule::default()
        };
        let policy = Authorization {
            namespace: "shop".to_owned(),
            name: "by-header".to_owned(),
            rules: vec![
                condition("x-forwarded-for", "*"),
                condition("x-forwarded-client-cert", "*"),
                condition("forwarded", "*"),
                condition("x-forwarded-host", "shop.example"),
            ],
            ..Authorization::default()
        };
        let world = World {
            policies: vec![policy],
            gateways: vec!["spiffe://cluster.local/ns/shop/sa/web".to_owned()],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write("GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Client-Cert: URI=me\r\n\r\n")
            .await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        // Of its own path it may speak.
        lab.h1()
            .write("GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Host: shop.example\r\n\r\n")
            .await;
        endpoint.accept().await.head().await;
    });
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn a_rule_edits_headers_and_rewrites_host_and_path() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut rule = rule("/old");
        let edits = HeaderEdits {
            set: vec![header("x-set", "new")],
            add: vec![header("x-add", "more")],
            remove: vec!["x-remove".to_owned()],
        };
        let rewrite = Rewrite {
            hostname: "inner.example".to_owned(),
            path: Some(PathEdit {
                edit: Some(path_edit::Edit::Prefix("/new".to_owned())),
            }),
        };
        rule.filters = [
            filter::Filter::RequestHeaders(edits.clone()),
            filter::Filter::ResponseHeaders(edits),
            filter::Filter::Rewrite(rewrite),
        ]
        .map(|filter| Filter {
            filter: Some(filter),
        })
        .into();
        let world = World {
            rules: vec![rule],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write("GET /old/a/../b?c=%2f HTTP/1.1\r\nHost: shop\r\nX-Set: 1\r\nX-Set: 2\r\nX-Add: one\r\nX-Remove: 1\r\n\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        let head = peer.head().await;
        assert!(head.starts_with("GET /new/b?c=%2f HTTP/1.1\r\n"), "{head}");
        for (name, wanted) in [
            ("host", "inner.example"),
            ("x-set", "new"),
            ("x-add", "one|more"),
        ] {
            assert_eq!(value(&head, name).as_deref(), Some(wanted));
        }
        assert_eq!(value(&head, "x-remove"), None);
        peer.write("HTTP/1.1 200 OK\r\nX-Set: 1\r\nX-Remove: 1\r\nContent-Length: 0\r\n\r\n")
            .await;
        let answer = client.head().await;
        for (name, wanted) in [
            ("x-set", Some("new")),
            ("x-add", Some("more")),
            ("x-remove", None),
        ] {
            assert_eq!(value(&answer, name).as_deref(), wanted);
        }
    });
}

#[test]
fn a_rule_sends_the_client_elsewhere() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut rule = rule("/");
        rule.backends.clear();
        rule.filters = vec![Filter {
            filter: Some(filter::Filter::Redirect(Redirect {
                scheme: "https".to_owned(),
                status: 301,
                ..Redirect::default()
            })),
        }];
        let world = World {
            rules: vec![rule],
            ..World::to(&endpoint)
        };
        let mut client = world.lab().h1();
        client
            .write("GET /a?b HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
        assert_eq!(
            value(&answer, "location").as_deref(),
            Some("https://shop/a?b")
        );
    });
}

#[test]
fn what_is_too_large_is_refused() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut limits = Limits::default();
        limits.head.target = 100;
        limits.head.bytes = 2000;
        limits.head.fields = 20;
        let path = format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "a".repeat(100));
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "a".repeat(2000));
        let fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: a\r\n".repeat(20));
        let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "a".repeat(60_000));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: a\r\n".repeat(200));
        for (head, status) in [
            (path, 414),
            (bytes, 431),
            (fields, 431),
            (huge, 431),
            (many, 431),
        ] {
            let world = World {
                limits: Some(limits),
                ..World::to(&endpoint)
            };
            let lab = world.lab();
            let mut client = lab.h1();
            client.write(&format!("{head}\r\n")).await;
            let answer = client.head().await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
    });
}

#[test]
fn a_service_that_is_not_known_yet_is_not_ready() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut other = World::to(&endpoint).generation();
        assert!(other.table(Name::new(super::fixture::KEY)).is_some());
        other = std::sync::Arc::default();
        lab.front.adopt(other);
        // It was known once, and connections that were open then are served for a while.
        tokio::time::sleep(3 * lab.front.limits.linger).await;
        let mut client = lab.h1();
        client.write("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    });
}
