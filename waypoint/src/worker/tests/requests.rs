//! Requests, from a client's tunnel to an application and back.

use std::{net::Ipv4Addr, time::Duration};

use net::hbone::ConnectError;
use proto::waypoint::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::fixture::{GET, Waypoint, alone, ask, nobody, server, talk};

#[test]
fn a_request_goes_through_a_tunnel_and_is_counted() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Http1, server().await, &[]);
        let tunnel = waypoint.tunnel("cart").await;
        let says = [(
            "baggage",
            "k8s.deployment.name=till,service.name=cart,k8s.namespace.name=bank",
        )];
        let stream = ask(&tunnel, "10.96.0.9:80", &says).await.unwrap();
        let answer = talk(stream, GET).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("hello"), "{answer}");
        let by_name = ask(&tunnel, "orders.shop.svc.cluster.local:80", &[])
            .await
            .unwrap();
        assert!(talk(by_name, GET).await.ends_with("hello"));

        let text = waypoint.metrics.encode().unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("istio_requests_total"))
            .unwrap();
        for part in [
            "reporter=\"waypoint\"",
            "source_workload=\"till\"",
            "source_canonical_service=\"cart\"",
            // What is proven, not what is said.
            "source_workload_namespace=\"shop\"",
            "source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
            "destination_service=\"orders.shop.svc.cluster.local\"",
            "destination_workload=\"orders-1\"",
            "request_protocol=\"http\"",
            "connection_security_policy=\"mutual_tls\"",
            "response_code=\"200\"",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(line.ends_with("} 2"), "{line}");
    });
}

#[test]
fn what_is_not_served_is_refused_with_its_status() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Http1, server().await, &[]);
        let tunnel = waypoint.tunnel("cart").await;
        for (authority, headers, status) in [
            ("10.96.0.10:80", &[][..], 400),
            ("10.96.0.9:81", &[], 400),
            ("127.0.0.1:80", &[], 400),
            (
                "10.96.0.9:80",
                &[("ambit-via", "bank/w, shop/waypoint")],
                503,
            ),
        ] {
            let answer = ask(&tunnel, authority, headers).await;
            assert_eq!(
                answer.err(),
                Some(ConnectError::Status(status)),
                "{authority}"
            );
        }
        let text = waypoint.metrics.encode().unwrap();
        for series in [
            "ambit_streams_refused_total{response_code=\"400\"} 3",
            "ambit_streams_refused_total{response_code=\"503\"} 1",
        ] {
            assert!(text.lines().any(|line| line == series), "{text}");
        }
        assert_eq!(waypoint.worker.streams.get(), 0);
    });
}

#[test]
fn an_open_connection_of_requests_to_a_service_that_is_gone_ends_with_its_next_answer() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Http1, server().await, &[]);
        let mut stream = waypoint.stream("cart").await;
        let request = b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        waypoint.without_orders();
        // Its client may have sent this before it could know.
        let answer = talk(stream, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        // Nobody gets there anew.
        let tunnel = waypoint.tunnel("cart").await;
        assert!(ask(&tunnel, "10.96.0.9:80", &[]).await.is_err());
    });
}

#[test]
fn an_answer_before_the_body_is_heard_by_a_client_that_goes_on_sending() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(
            Protocol::Http1,
            server().await,
            &[("connection/shop/nobody", nobody())],
        );
        let stream = waypoint.stream("cart").await;
        let (mut read, mut write) = tokio::io::split(stream);
        // It does not look for an answer before all of it is out, as many do.
        let head = b"POST /cart HTTP/1.1\r\nHost: orders\r\nContent-Length: 8000000\r\n\r\n";
        write.write_all(head).await.unwrap();
        write.write_all(&vec![b'x'; 8_000_000]).await.unwrap();
        write.shutdown().await.unwrap();
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.ends_with("RBAC: access denied"), "{answer}");
    });
}

#[test]
fn an_answer_that_broke_off_does_not_look_whole() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        waypoint.orders(Protocol::Http1, listener.local_addr().unwrap(), &[]);
        let mut stream = waypoint.stream("cart").await;
        // The end of the connection is the end of the answer.
        let head = b"GET /cart HTTP/1.0\r\nHost: orders\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let read = app.read(&mut request).await.unwrap();
        assert!(read > 0);
        app.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .unwrap();
        drop(app);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        assert!(ended.is_err(), "{}", answer.escape_ascii());
    });
}

#[test]
fn what_is_no_request_counts_for_the_service_that_it_was_for() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Http1, server().await, &[]);
        let answer = talk(waypoint.stream("cart").await, b"GET / HTTP/1.1\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let text = waypoint.metrics.encode().unwrap();
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("istio_requests_total{"));
        for part in [
            "destination_service=\"orders.shop.svc.cluster.local\"",
            "response_code=\"400\"",
        ] {
            assert!(
                line.is_some_and(|line| line.contains(part)),
                "{part} in {text}"
            );
        }
    });
}

#[test]
fn a_client_that_gives_up_behind_bytes_that_nobody_takes_lets_its_endpoint_go() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        waypoint.orders(Protocol::Http1, listener.local_addr().unwrap(), &[]);
        let mut stream = waypoint.stream("cart").await;
        let head = b"POST /cart HTTP/1.1\r\nHost: orders\r\nContent-Length: 800000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let (_app, _) = listener.accept().await.unwrap();
        // By the stopped clock, a write that has room does not wait.
        tokio::time::pause();
        let piece = vec![b'x'; 1 << 20];
        let wait = Duration::from_millis(1);
        while tokio::time::timeout(wait, stream.write(&piece))
            .await
            .is_ok()
        {}
        tokio::time::resume();
        let pools = &waypoint.worker.front.pools;
        assert_eq!(pools.connections(), 1);
        drop(stream);
        while pools.connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn messages_of_calls_are_counted_and_nothing_else_is_taken_for_one() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        waypoint.orders(Protocol::Http1, listener.local_addr().unwrap(), &[]);
        let messages = |count| "\0\0\0\0\x02hi".repeat(count);
        let talk = async |asked: &str, answered: &str| {
            let mut stream = waypoint.stream("cart").await;
            let request = format!(
                "POST /a/b HTTP/1.1\r\nHost: orders\r\nContent-Type: {asked}\r\nContent-Length: 14\r\n\r\n{}",
                messages(2)
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(messages(2).as_bytes()) {
                assert_ne!(app.read_buf(&mut read).await.unwrap(), 0);
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {answered}\r\nConnection: close\r\nContent-Length: 21\r\n\r\n{}",
                messages(3)
            );
            app.write_all(answer.as_bytes()).await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(messages(3).as_bytes()) {
                assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
            }
        };
        let counted = |protocol: &str| {
            let text = waypoint.metrics.encode().unwrap();
            [
                "istio_request_messages_total",
                "istio_response_messages_total",
            ]
            .map(|name| {
                let mut lines = text.lines();
                let protocol = format!("request_protocol=\"{protocol}\"");
                let line = lines.find(|line| line.starts_with(name) && line.contains(&protocol))?;
                Some(line.rsplit_once(' ').unwrap().1.to_owned())
            })
        };
        let count = |count: &str| Some(count.to_owned());
        talk("application/json", "application/grpc").await;
        assert_eq!(counted("http"), [None, None]);
        talk("application/grpc+proto", "application/grpc").await;
        assert_eq!(counted("grpc"), [count("2"), count("3")]);
        talk("application/grpc", "text/html").await;
        assert_eq!(counted("grpc"), [count("4"), count("3")]);
        assert_eq!(counted("http"), [None, None]);
    });
}

#[test]
fn a_client_that_gives_an_upgraded_connection_up_behind_bytes_that_nobody_takes_ends_it() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        waypoint.orders(Protocol::Http1, listener.local_addr().unwrap(), &[]);
        let mut stream = waypoint.stream("cart").await;
        let head =
            b"GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let agreed =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhi";
        app.write_all(agreed).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhi") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        // By the stopped clock, a write that has room does not wait.
        tokio::time::pause();
        let piece = vec![b'x'; 1 << 20];
        let wait = Duration::from_millis(1);
        while tokio::time::timeout(wait, stream.write(&piece))
            .await
            .is_ok()
        {}
        tokio::time::resume();
        assert_eq!(waypoint.worker.streams.get(), 1);
        drop(stream);
        while waypoint.worker.streams.get() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
