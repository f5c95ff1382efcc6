//! Connections that carry no requests, and how they are told from those that do.

use std::net::Ipv4Addr;

use net::hbone::ConnectError;
use proto::waypoint::{self as told, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::fixture::{GET, KEY, Waypoint, alone, ask, backend, echo, nobody, server, talk};

#[test]
fn bytes_that_are_no_http_are_carried() {
    alone(async {
        let waypoint = Waypoint::start().await;
        for protocol in [Protocol::Tcp, Protocol::Detect] {
            waypoint.orders(protocol, echo("").await, &[]);
            let mut stream = waypoint.stream("cart").await;
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
            let mut answer = [0; 14];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"*1\r\n$4\r\nPING\r\n");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        }
        let table = mesh::name::Name::new(KEY);
        assert!(!waypoint.worker.taught.speaks_first(table, 80));
        let text = waypoint.metrics.encode().unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("istio_tcp_connections_opened"));
        assert!(line.is_some_and(|line| line.contains("reporter=\"waypoint\"") && line.ends_with("} 2")));
    });
}

#[test]
fn http_is_seen_by_its_first_bytes_where_nobody_says_it() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Detect, server().await, &[]);
        let answer = talk(waypoint.stream("cart").await, GET).await;
        assert!(answer.ends_with("hello"), "{answer}");
        let text = waypoint.metrics.encode().unwrap();
        assert!(
            text.contains("istio_requests_total{reporter=\"waypoint\""),
            "{text}"
        );
    });
}

#[test]
fn a_server_that_speaks_first_teaches_its_port() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let app = echo("220 mail\r\n").await;
        waypoint.orders(Protocol::Detect, app, &[]);
        let table = mesh::name::Name::new(KEY);
        for _ in 0..2 {
            let mut stream = waypoint.stream("cart").await;
            let mut greeting = [0; 10];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"220 mail\r\n");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut greeting).await.unwrap(), 0);
            // It ends a moment after its client has seen the end.
            while waypoint.worker.flows.len() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(waypoint.worker.taught.speaks_first(table, 80));
        }
        waypoint.orders(Protocol::Http1, app, &[]);
        assert!(!waypoint.worker.taught.speaks_first(table, 80));
    });
}

#[test]
fn a_slow_client_teaches_nothing() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        waypoint.orders(Protocol::Detect, listener.local_addr().unwrap(), &[]);
        let mut stream = waypoint.stream("cart").await;
        // Opened once nobody waits for the client any more.
        let (mut app, _) = listener.accept().await.unwrap();
        let mut byte = [0; 1];
        stream.write_all(b"x").await.unwrap();
        app.read_exact(&mut byte).await.unwrap();
        app.write_all(b"y").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        drop((app, stream));
        while waypoint.worker.flows.len() > 0 {
            tokio::task::yield_now().await;
        }
        let table = mesh::name::Name::new(KEY);
        assert!(!waypoint.worker.taught.speaks_first(table, 80));
    });
}

#[test]
fn a_connection_that_is_denied_meanwhile_is_cut() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let app = echo("").await;
        waypoint.orders(Protocol::Tcp, app, &[]);
        let mut stream = waypoint.stream("cart").await;
        let mut byte = [0; 1];
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        // Another generation that changes nothing for it.
        waypoint.orders(Protocol::Tcp, app, &[]);
        stream.write_all(b"y").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        waypoint.orders(Protocol::Tcp, app, &[("connection/shop/nobody", nobody())]);
        assert!(stream.read_exact(&mut byte).await.is_err());
        let text = waypoint.metrics.encode().unwrap();
        let denied =
            "ambit_policy_decisions_total{policy=\"shop/nobody\",rule=\"\",decision=\"denied\"";
        assert!(text.contains(denied), "{text}");
        // And a new one is not opened.
        let tunnel = waypoint.tunnel("cart").await;
        let refused = ask(&tunnel, "10.96.0.9:80", &[]).await;
        assert_eq!(refused.err(), Some(ConnectError::Status(401)));
    });
}

#[test]
fn a_connection_is_cut_by_the_policy_of_a_pod_that_left_the_service() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let app = echo("").await;
        waypoint.orders(Protocol::Tcp, app, &[]);
        let mut stream = waypoint.stream("cart").await;
        let mut byte = [0; 1];
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        let mut left = backend(app);
        left.workloads[0].services.clear();
        waypoint.leads_to(Protocol::Tcp, left.clone(), &[]);
        stream.write_all(b"y").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        let policies = [("connection/shop/nobody", nobody())];
        waypoint.leads_to(Protocol::Tcp, left, &policies);
        assert!(stream.read_exact(&mut byte).await.is_err());
    });
}

#[test]
fn a_layer_4_policy_that_is_only_tried_is_counted_and_denies_nobody() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let mut tried = nobody();
        if let Some(told::policy::Policy::Connection(policy)) = &mut tried.policy {
            policy.dry_run = true;
        }
        let policies = [("connection/shop/nobody", tried)];
        let counted = |count: u32| {
            let text = waypoint.metrics.encode().unwrap();
            let series = format!(
                "ambit_policy_decisions_total{{policy=\"shop/nobody\",rule=\"\",decision=\"would_deny\",\
                 destination_service=\"orders.shop.svc.cluster.local\"}} {count}"
            );
            assert!(text.lines().any(|line| line == series), "{text}");
        };
        waypoint.orders(Protocol::Http1, server().await, &policies);
        let answer = talk(waypoint.stream("cart").await, GET).await;
        assert!(answer.ends_with("hello"), "{answer}");
        counted(1);
        waypoint.orders(Protocol::Tcp, echo("").await, &policies);
        let mut stream = waypoint.stream("cart").await;
        stream.write_all(b"x").await.unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut byte).await.unwrap(), 0);
        while waypoint.worker.flows.len() > 0 {
            tokio::task::yield_now().await;
        }
        counted(2);
    });
}

#[test]
fn a_connection_whose_service_is_gone_is_cut() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Tcp, echo("").await, &[]);
        let mut stream = waypoint.stream("cart").await;
        let mut byte = [0; 1];
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        waypoint.without_orders();
        assert!(stream.read_exact(&mut byte).await.is_err());
    });
}
