//! Facts of tunnels to endpoints, on loopback sockets with certificates.

use std::net::Ipv4Addr;

use mesh::{model::Locality, plan::Source, waypoint::Store};
use net::task;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
    task::LocalSet,
};

use super::*;
use crate::{
    fixture::{Office, identity},
    http::{Done, Limits, Own, Record},
};

const AUTHORITY: &str = "10.0.0.7:8080";

struct Nobody;

impl Record for Nobody {
    fn request(&self, _: &Done<'_>) {}
}

fn front(office: &Office) -> Rc<Front> {
    let from = Source {
        identity: identity("waypoint"),
        network: "".into(),
        node: "n1".into(),
        cluster: "Kubernetes".into(),
        locality: Locality {
            region: "".into(),
            zone: "".into(),
            subzone: "".into(),
        },
    };
    let own = Own {
        name: "shop/waypoint".to_owned(),
        baggage: headers::waypoint_baggage(&from, "waypoint"),
    };
    let front = Front::new(own, from, Limits::default(), Rc::new(Nobody), 7);
    front.renew(Arc::new(office.issue(identity("waypoint"))));
    Rc::new(front)
}

/// A workload of the mesh, as it is told.
fn workload() -> Arc<mesh::model::Workload> {
    let workload = proto::workload::Workload {
        uid: "Kubernetes//Pod/shop/orders-1".to_owned(),
        name: "orders-1".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "orders".to_owned(),
        addresses: vec![vec![10, 0, 0, 7]],
        tunnel_protocol: proto::workload::TunnelProtocol::Hbone.into(),
        ..proto::workload::Workload::default()
    };
    let backend = proto::waypoint::Backend {
        service: Some(proto::workload::Service {
            name: "orders".to_owned(),
            namespace: "shop".to_owned(),
            hostname: "orders.shop.svc.cluster.local".to_owned(),
            ..proto::workload::Service::default()
        }),
        workloads: vec![workload],
        ..proto::waypoint::Backend::default()
    };
    let name = "shop/orders.shop.svc.cluster.local".to_owned();
    let mut store = Store::new("ambit-system".into());
    let delta = mesh::delta::Delta {
        type_url: proto::BACKEND_TYPE.to_owned(),
        resources: vec![mesh::delta::Resource {
            name,
            version: "1".to_owned(),
            bytes: backend.encode_to_vec(),
        }],
        removed: Vec::new(),
    };
    assert_eq!(store.apply(&delta), []);
    let mut all = store.current().mesh.workloads();
    Arc::clone(all.next().unwrap())
}

/// What a proxy at an endpoint has seen of one connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Who came, if TLS ended well.
    peer: Option<Identity>,
    /// What was asked for, and what was said beside it.
    connects: Vec<(String, HeaderMap<HeaderValue>)>,
}

/// A proxy that shows a certificate and sends back what comes. What it saw comes once its peer is gone.
async fn proxy(office: &Office, shown: Identity) -> (SocketAddr, oneshot::Receiver<Seen>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let credential = office.issue(shown);
    let (tell, told) = oneshot::channel();
    task::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let deadline = Instant::now() + HANDSHAKE;
        let mut seen = Seen {
            peer: None,
            connects: Vec::new(),
        };
        if let Ok((tls, peer)) = tls::accept(tcp, &credential, deadline).await {
            seen.peer = Some(peer.identity);
            let on_stream = |connect: hbone::Connect| {
                let authority = connect.authority().to_owned();
                seen.connects.push((authority, connect.headers().clone()));
                task::spawn(async move {
                    let mut stream = connect.accept(HeaderMap::new()).unwrap();
                    let mut byte = [0; 1];
                    stream.read_exact(&mut byte).await.unwrap();
                    stream.write_all(&byte).await.unwrap();
                    // Until the other end is gone.
                    stream.read_to_end(&mut Vec::new()).await.ok();
                });
            };
            let settings = hbone::Settings::default();
            hbone::serve(tls, settings, std::future::pending(), on_stream)
                .await
                .ok();
        }
        tell.send(seen).ok();
    });
    (at, told)
}

fn plan(address: SocketAddr, expected: Identity) -> Plan {
    Plan::Tunnel(Hop {
        address,
        identities: vec![expected],
        authority: AUTHORITY.parse().unwrap(),
        workload: workload(),
        service: None,
        waypoint: false,
    })
}

fn alone(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn bytes_go_to_who_proves_to_be_the_endpoint() {
    alone(async {
        let office = Office::new();
        let front = front(&office);
        let (at, seen) = proxy(&office, identity("orders")).await;
        let purpose = Purpose {
            client: Some("10.9.8.7:4321".parse().unwrap()),
            via: &["bank/other".to_owned()],
        };
        let opened = open(&front, &plan(at, identity("orders")), purpose).await;
        let Opened { mut io, peer } = opened.unwrap();
        assert_eq!(peer, Some(identity("orders")));
        io.write_all(b"x").await.unwrap();
        let mut byte = [0; 1];
        io.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
        drop(io);
        front.pools.end();
        let seen = seen.await.unwrap();
        assert_eq!(seen.peer, Some(identity("waypoint")));
        let [(authority, headers)] = &seen.connects[..] else {
            panic!("{seen:?}")
        };
        assert_eq!(authority, AUTHORITY);
        assert_eq!(headers["ambit-via"], "bank/other, shop/waypoint");
        assert_eq!(headers["forwarded"], "for=\"10.9.8.7:4321\"");
        let baggage = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=waypoint,service.name=waypoint";
        assert_eq!(headers["baggage"], baggage);
    });
}

#[test]
fn nothing_is_sent_to_anybody_else() {
    alone(async {
        let (office, stranger) = (Office::new(), Office::new());
        for (office_of_peer, shown) in [
            (&office, identity("orders-v2")),
            (&office, identity("waypoint")),
            (&office, Identity::new("cluster.local", "bank", "orders")),
            (&office, Identity::new("other.example", "shop", "orders")),
            (&stranger, identity("orders")),
        ] {
            let front = front(&office);
            let (at, seen) = proxy(office_of_peer, shown).await;
            let purpose = Purpose {
                client: None,
                via: &[],
            };
            let opened = open(&front, &plan(at, identity("orders")), purpose).await;
            let refused = opened.expect_err("its identity is another");
            let Refusal::Tunnel { to, stage, .. } = &refused else {
                panic!("{refused:?}")
            };
            assert_eq!((*to, *stage), (at, Stage::Tls), "{shown}");
            let nothing = Seen {
                peer: None,
                connects: Vec::new(),
            };
            assert_eq!(seen.await.unwrap(), nothing, "{shown}");
        }
    });
}

#[test]
fn without_a_certificate_nothing_is_opened() {
    alone(async {
        let office = Office::new();
        let front = front(&office);
        let without = Front::new(
            front.own.clone(),
            front.from.clone(),
            front.limits,
            Rc::new(Nobody),
            7,
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let plan = plan(listener.local_addr().unwrap(), identity("orders"));
        let purpose = Purpose {
            client: None,
            via: &[],
        };
        let refused = open(&Rc::new(without), &plan, purpose).await.unwrap_err();
        assert!(
            matches!(refused, Refusal::NoCertificate { .. }),
            "{refused:?}"
        );
        let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(accepted.is_err(), "nobody came");
    });
}
