//! What is judged is what the endpoint gets, in the one reading that there is.

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, uri};
use proto::waypoint::{
    Action, Authorization, AuthorizationCondition, AuthorizationRule, Filter, Protocol, Redirect,
    filter,
};

use super::{
    fixture::{Endpoint, GET, World, asked, rule, run, value},
    policy::deny,
    two::{call, client, get, next, server},
};
use crate::http::Version;

pub(super) fn by_header(action: Action, name: &str, value: &str) -> Authorization {
    Authorization {
        namespace: "shop".to_owned(),
        name: "by-header".to_owned(),
        action: action.into(),
        rules: vec![AuthorizationRule {
            when: vec![AuthorizationCondition {
                key: format!("request.headers[{name}]"),
                values: vec![value.to_owned()],
                ..AuthorizationCondition::default()
            }],
            ..AuthorizationRule::default()
        }],
        ..Authorization::default()
    }
}

async fn status(send: &mut SendRequest<Bytes>, request: Request<()>) -> u16 {
    let (answer, _) = send.send_request(request, true).unwrap();
    answer.await.unwrap().status().as_u16()
}

#[test]
fn what_carries_requests_is_not_asked_for() {
    run(async {
        for (upgrade, asked_for) in [
            (&["websocket"][..], Some("websocket")),
            (&["h2c"], None),
            (&["H2"], None),
            (&["http/2.0", "tls/1.3"], None),
            (&["TLS/1.0, HTTP/1.1"], None),
            (&["H2C, WebSocket"], Some("WebSocket")),
            (&["a/1, h2c", "b"], Some("a/1, b")),
            (&["a b", "c/d/e", ","], None),
        ] {
            let lines: String = upgrade
                .iter()
                .map(|it| format!("Upgrade: {it}\r\n"))
                .collect();
            let endpoint = Endpoint::listen().await;
            let lab = World::to(&endpoint).lab();
            let mut client = lab.h1();
            let head = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n{lines}\r\n"
            );
            client.write(&head).await;
            let mut peer = endpoint.accept().await;
            let head = peer.head().await;
            assert_eq!(value(&head, "upgrade").as_deref(), asked_for, "{upgrade:?}");
            let connection = asked_for.map(|_| "upgrade");
            assert_eq!(value(&head, "connection").as_deref(), connection);
            assert_eq!(value(&head, "http2-settings"), None);
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            let answer = client.head().await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    });
}

#[test]
fn a_switch_to_what_nobody_asked_for_is_no_answer() {
    run(async {
        for (spoken, status) in [
            ("Upgrade: WebSocket\r\n", 101),
            ("Upgrade: h2c\r\n", 502),
            ("Upgrade: websocket, h2c\r\n", 502),
            ("Upgrade: websocket\r\nUpgrade: other\r\n", 502),
            ("", 502),
        ] {
            let (_lab, mut client, mut peer) = asked(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
            )
            .await;
            let answer =
                format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{spoken}\r\n");
            peer.write(&answer).await;
            let answer = client.head().await;
            let wanted = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&wanted), "{spoken}: {answer}");
        }
        // Nor is one where nothing was asked for.
        let (_lab, mut client, mut peer) = asked(GET).await;
        peer.write(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        )
        .await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    });
}

#[test]
fn what_connection_lists_is_not_judged() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            policies: vec![by_header(Action::Allow, "x-role", "guest")],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut client = lab.h1();
        client
            .write("GET / HTTP/1.1\r\nHost: a\r\nX-Role: guest\r\nConnection: x-role\r\n\r\n")
            .await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    });
}

#[test]
fn a_value_with_blanks_at_its_ends_is_refused() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            protocol: Protocol::Http1,
            policies: vec![by_header(Action::Deny, "x-role", "evil")],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        for (value, refused) in [
            ("evil", 403),
            (" evil", 400),
            ("evil ", 400),
            ("\tevil", 400),
            ("evil\t", 400),
        ] {
            let mut request = get("/");
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert("x-role", value.clone());
            assert_eq!(status(&mut send, request).await, refused, "{value:?}");
        }
        assert_eq!(lab.told().len(), 5);
    });
}

#[test]
fn a_cookie_is_judged_whole() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            policies: vec![by_header(Action::Deny, "cookie", "a=1; b=2")],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        let mut request = get("/");
        for piece in ["a=1", "b=2"] {
            let piece = HeaderValue::from_static(piece);
            request.headers_mut().append("cookie", piece);
        }
        assert_eq!(status(&mut send, request).await, 403);
        let mut client = lab.h1();
        client
            .write("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX: y\r\nCookie: b=2\r\n\r\n")
            .await;
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    });
}

#[test]
fn trailers_of_a_request_say_nothing_of_its_client() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut world = World::to(&endpoint);
        world.gateways = vec!["spiffe://cluster.local/ns/shop/sa/web".to_owned()];
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        let (_answer, mut body) = send.send_request(call(), false).unwrap();
        let trailers = [
            ("x-checksum", "1"),
            ("x-forwarded-client-cert", "URI=me"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-host", "evil"),
        ]
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_static(value))
        });
        body.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
        let mut connection = server(&endpoint).await;
        let (request, _respond) = next!(connection);
        let trailers = request.into_body().trailers().await.unwrap().unwrap();
        let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-checksum"]);
    });
}

#[test]
fn a_scheme_is_http_or_https() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            policies: vec![deny("/admin")],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        for (scheme, refused) in [("http", 403), ("https", 403), ("ftp", 400), ("x", 400)] {
            let request = Request::get(format!("{scheme}://shop/admin"));
            let request = request.body(()).unwrap();
            assert_eq!(status(&mut send, request).await, refused, "{scheme}");
        }
    });
}

#[test]
fn options_are_those_of_the_whole_server_too() {
    run(async {
        let (_lab, _client, _peer) = asked("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let endpoint = Endpoint::listen().await;
            let world = World {
                protocol,
                ..World::to(&endpoint)
            };
            let lab = world.lab();
            let whole = uri::Builder::new().scheme("http").authority("shop");
            let whole = whole.path_and_query("*").build().unwrap();
            let request = Request::options(whole).body(()).unwrap();
            let mut send = client(lab.client(Version::H2)).await;
            let (_answer, _) = send.send_request(request, true).unwrap();
            if protocol == Protocol::Http1 {
                let head = endpoint.accept().await.head().await;
                assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
            } else {
                let mut connection = server(&endpoint).await;
                let (request, _respond) = next!(connection);
                assert_eq!(request.uri().path(), "*");
            }
        }
    });
}

#[test]
fn a_method_may_be_any() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        for method in ["get", "Purge"] {
            let mut client = lab.h1();
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write(&head).await;
            let head = endpoint.accept().await.head().await;
            assert!(head.starts_with(&format!("{method} / ")), "{head}");
        }
    });
}

#[test]
fn an_old_client_learns_that_an_answer_ends_with_its_connection() {
    run(async {
        for (answer, connection) in [
            (
                "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
                "close",
            ),
            ("Content-Length: 2\r\n\r\nhi", "keep-alive"),
        ] {
            let old = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
            let (_lab, mut client, mut peer) = asked(old).await;
            peer.write(&format!("HTTP/1.1 200 OK\r\n{answer}")).await;
            let head = client.head().await;
            assert_eq!(value(&head, "connection").as_deref(), Some(connection));
            client.until("hi").await;
            if connection == "close" {
                assert_eq!(client.rest().await, "");
            }
        }
    });
}

#[test]
fn a_call_whose_time_is_over_is_told_so() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            rules: vec![proto::waypoint::Rule {
                request_timeout: 1000,
                ..rule("/")
            }],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        let (answer, _) = send.send_request(call(), true).unwrap();
        let mut connection = server(&endpoint).await;
        let (_, mut respond) = next!(connection);
        let head = Response::builder().header("content-type", "application/grpc");
        let mut told = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        told.send_data(Bytes::from_static(b"tell"), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "tell");
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "4");
        assert_eq!(trailers["grpc-message"], "upstream request timeout");
        let done = &lab.told()[0];
        assert_eq!((&*done.flags, done.grpc_status), ("UT", Some(4)));
        assert_eq!(done.details, "response_timeout");
        // The endpoint hears that nobody listens any more.
        let reset = std::future::poll_fn(|cx| told.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::CANCEL);
    });
}

#[test]
fn a_call_hears_why_it_has_no_answer() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let mut away = rule("/x.Y");
        away.filters = vec![Filter {
            filter: Some(filter::Filter::Redirect(Redirect {
                hostname: "elsewhere".to_owned(),
                ..Redirect::default()
            })),
        }];
        away.backends.clear();
        let world = World {
            rules: vec![away],
            ..World::to(&endpoint)
        };
        let lab = world.lab();
        let mut send = client(lab.client(Version::H2)).await;
        let mut other = call();
        *other.uri_mut() = "http://shop/z".parse().unwrap();
        for (call, status, message) in [
            (call(), "2", "redirected, which a call cannot follow"),
            (other, "12", "no route"),
        ] {
            let (answer, _) = send.send_request(call, true).unwrap();
            let answer = answer.await.unwrap();
            let all = answer.headers();
            assert_eq!(all["grpc-status"], status);
            assert_eq!(all["grpc-message"], message);
            assert!(!all.contains_key("location") && answer.body().is_end_stream());
        }
    });
}

#[test]
fn nobody_hides_behind_what_is_not_text() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let mut client = lab.h1();
        client
            .write("GET / HTTP/1.1\r\nHost: é\r\nUser-Agent: a\u{202e}b\r\nX-Request-Id: 7\r\n\r\n")
            .await;
        client.head().await;
        client
            .write("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nX-Request-Id: ÿ\r\n\r\n")
            .await;
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.head().await;
        let told = lab.told();
        assert_eq!((told[0].status, &*told[0].host), (400, "é"));
        assert_eq!(told[0].user_agent, "a\u{202e}b");
        assert_eq!((told[1].status, &*told[1].user_agent), (200, "b"));
        assert_eq!(told[1].request_id, "ÿ");
        assert_eq!(told[1].backend_port, Some(80));
    });
}
