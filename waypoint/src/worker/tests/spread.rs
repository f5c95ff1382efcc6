//! Tunnels: which worker gets one, who may have one, what they lead to, when they end.

use std::net::Ipv4Addr;

use net::{hbone::ConnectError, tls};
use proto::waypoint::{self as told, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    super::*,
    fixture::{GET, Waypoint, alone, ask, backend, echo, talk},
};
use crate::fixture::{Office, identity};

#[test]
fn open_connections_count_when_one_more_is_balanced() {
    alone(async {
        let waypoint = Waypoint::start().await;
        let listeners =
            [[127, 0, 0, 1], [127, 0, 0, 2]].map(|at| TcpListener::bind((Ipv4Addr::from(at), 0)));
        let mut all = told::Backend::default();
        let mut apps = Vec::new();
        for (listener, number) in listeners.into_iter().zip(1_u8..) {
            let listener = listener.await.unwrap();
            let mut one = backend(listener.local_addr().unwrap());
            for workload in &mut one.workloads {
                workload.uid.push_str(&number.to_string());
                workload.addresses = vec![vec![127, 0, 0, number]];
            }
            all.service = all.service.or(one.service);
            all.workloads.append(&mut one.workloads);
            apps.push(listener);
        }
        waypoint.leads_to(Protocol::Tcp, all, &[]);
        let tunnel = waypoint.tunnel("cart").await;
        let (mut open, mut accepted) = (Vec::new(), [Vec::new(), Vec::new()]);
        for _ in 0..10 {
            open.push(ask(&tunnel, "10.96.0.9:80", &[]).await.unwrap());
            tokio::select! {
                stream = apps[0].accept() => accepted[0].push(stream),
                stream = apps[1].accept() => accepted[1].push(stream),
            }
        }
        assert_eq!(accepted.map(|it| it.len()), [5, 5]);
    });
}

#[test]
fn a_worker_that_drains_ends_with_its_last_tunnel() {
    alone(async {
        let mut waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Tcp, echo("").await, &[]);
        let tunnel = waypoint.tunnel("cart").await;
        let mut stream = ask(&tunnel, "10.96.0.9:80", &[]).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(waypoint.shared.loads[0].load(Ordering::Relaxed), 1);
        let talk = async {
            // After the GOAWAY nothing new begins, and what is open goes on.
            while ask(&tunnel, "10.96.0.9:80", &[]).await.is_ok() {}
            stream.write_all(b"y").await.unwrap();
            stream.read_exact(&mut byte).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut byte).await.unwrap(), 0);
        };
        let (finished, ()) = tokio::join!(waypoint.drain(), talk);
        assert!(finished);
        assert_eq!(waypoint.shared.loads[0].load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_client_without_a_certificate_of_the_mesh_does_not_get_in() {
    alone(async {
        let waypoint = Waypoint::start().await;
        waypoint.orders(Protocol::Tcp, echo("").await, &[]);
        let stranger = Office::new().issue(identity("cart"));
        let tcp = TcpStream::connect(waypoint.at).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let expected = [identity("waypoint")];
        assert!(
            tls::connect(tcp, &stranger, &expected, deadline)
                .await
                .is_err()
        );
        let series = "ambit_tunnels_refused_total{reason=\"handshake\"} 1";
        while !waypoint.metrics.encode().unwrap().contains(series) {
            tokio::task::yield_now().await;
        }
        assert_eq!(waypoint.worker.handshakes.get(), 0);
    });
}

/// A pod of the mesh that listens for bytes in the clear as well.
#[test]
fn a_workload_of_the_mesh_never_gets_plain_text() {
    alone(async {
        let waypoint = Waypoint::start().await;
        // Nobody listens for tunnels there.
        let listener = TcpListener::bind((Ipv4Addr::new(127, 86, 0, 1), 0)).await;
        let listener = listener.unwrap();
        let mut within = backend(listener.local_addr().unwrap());
        for workload in &mut within.workloads {
            workload.addresses = vec![vec![127, 86, 0, 1]];
            workload.tunnel_protocol = proto::workload::TunnelProtocol::Hbone.into();
        }
        waypoint.leads_to(Protocol::Tcp, within.clone(), &[]);
        let tunnel = waypoint.tunnel("cart").await;
        let refused = ask(&tunnel, "10.96.0.9:80", &[]).await;
        assert_eq!(refused.err(), Some(ConnectError::Status(503)));
        waypoint.leads_to(Protocol::Http1, within.clone(), &[]);
        let answer = talk(waypoint.stream("cart").await, GET).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        // What would have come is first in line.
        for workload in &mut within.workloads {
            workload.tunnel_protocol = proto::workload::TunnelProtocol::None.into();
        }
        waypoint.leads_to(Protocol::Tcp, within, &[]);
        let mut stream = waypoint.stream("cart").await;
        stream.write_all(b"x").await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut byte = [0; 1];
        app.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    });
}

/// Connections of one client, as its proxy opens them: how many tunnels each worker has.
async fn spread(waypoint: &Waypoint, connections: usize) -> Vec<usize> {
    let pool = hbone::Pool::new(100, Duration::from_secs(300));
    let credential = Rc::new(waypoint.authority.issue(identity("cart")));
    let key = hbone::Key {
        address: waypoint.at,
        identities: vec![identity("waypoint")],
        workload: "waypoint".into(),
        serial: credential.serial().to_owned(),
    };
    let dial = || {
        let (at, credential) = (waypoint.at, Rc::clone(&credential));
        async move {
            let tcp = TcpStream::connect(at).await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            let expected = [identity("waypoint")];
            let (tls, _) = tls::connect(tcp, &credential, &expected, deadline)
                .await
                .unwrap();
            Ok(hbone::open(tls, hbone::Settings::default(), None)
                .await
                .unwrap())
        }
    };
    let mut open = Vec::new();
    for _ in 0..connections {
        let (tunnel, place) = pool.place(&key, dial).await.unwrap();
        let mut stream = ask(&tunnel, "10.96.0.9:80", &[]).await.unwrap();
        let mut byte = [0; 1];
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        open.push((stream, place));
    }
    let loads = waypoint.shared.loads.iter();
    let loads = loads.map(|load| load.load(Ordering::Relaxed)).collect();
    let streams = waypoint.others.iter().chain([&waypoint.worker]);
    let streams: usize = streams.map(|worker| worker.streams.get()).sum();
    assert_eq!(streams, connections);
    loads
}

#[test]
fn a_client_gets_no_more_tunnels_than_one_may_have_until_one_of_them_closes() {
    alone(async {
        let waypoint = Waypoint::limited(&[("MAX_TUNNELS_PER_CLIENT", "1")]).await;
        let first = waypoint.tunnel("cart").await;
        let client = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(waypoint.shared.tunnels_of(client), 1);
        let mut second = TcpStream::connect(waypoint.at).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0);
        let series = "ambit_tunnels_refused_total{reason=\"too_many_of_client\"} 1";
        assert!(waypoint.metrics.encode().unwrap().contains(series));
        drop(first);
        while waypoint.shared.tunnels_of(client) > 0 {
            tokio::task::yield_now().await;
        }
        waypoint.tunnel("cart").await;
    });
}

#[test]
fn a_stream_is_refused_while_the_process_holds_too_much() {
    alone(async {
        let waypoint = Waypoint::limited(&[("MAX_MEMORY", "1Mi")]).await;
        waypoint.shared.config.tunnel.budget.hold((1 << 20) + 1);
        waypoint.orders(Protocol::Tcp, echo("").await, &[]);
        let tunnel = waypoint.tunnel("cart").await;
        let refused = ask(&tunnel, "10.96.0.9:80", &[]).await;
        assert_eq!(refused.err(), Some(ConnectError::Status(503)));
        let series = "ambit_streams_refused_total{response_code=\"503\"} 1";
        assert!(waypoint.metrics.encode().unwrap().contains(series));
    });
}

#[test]
fn many_connections_of_one_client_use_all_workers() {
    alone(async {
        for (connections, tunnels) in [(1, [1, 0]), (16, [1, 0]), (17, [1, 1]), (64, [2, 2])] {
            let waypoint = Waypoint::with_workers(2).await;
            waypoint.orders(Protocol::Tcp, echo("").await, &[]);
            let found = spread(&waypoint, connections).await;
            assert_eq!(found, tunnels, "{connections} connections");
        }
    });
}
