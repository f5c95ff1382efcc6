//! A waypoint's worker on loopback sockets: clients with certificates, applications outside the mesh, and a generation of
//! resources as the control plane sends them.

use std::{cell::RefCell, collections::BTreeMap, net::Ipv4Addr};

use mesh::{
    delta::{Delta, Resource},
    waypoint::Store,
};
use net::{
    clock,
    config::Environment,
    drain::{self, Drainer},
    hbone::{ConnectError, Stream, Tunnel},
    metrics::Metrics,
    tls,
};
use prost::Message;
use proto::{
    security::{Action, Authorization, Scope},
    waypoint::{self as told, Protocol, Reference},
    workload::{NetworkAddress, Port, PortList, Service, Workload},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    app,
    fixture::{Office, identity},
};

const KEY: &str = "shop/orders.shop.svc.cluster.local";
const VIP: [u8; 4] = [10, 96, 0, 9];

/// A waypoint, and whoever gives it certificates.
struct Waypoint {
    at: SocketAddr,
    authority: Rc<Office>,
    shared: Arc<Shared>,
    /// The first one.
    worker: Rc<Worker>,
    others: Vec<Rc<Worker>>,
    serving: JoinHandle<()>,
    drainer: Option<Drainer>,
    metrics: Metrics,
    store: RefCell<Store>,
}

impl Waypoint {
    async fn start() -> Self {
        Self::with_workers(1).await
    }

    async fn with_workers(number: usize) -> Self {
        let env = [("GATEWAY", "waypoint"), ("POD_NAMESPACE", "shop")];
        let config = Config::read(&Environment::of(&env)).unwrap();
        let (certificates, keeper) = Certificates::new(clock::wall);
        let authority = Office::new();
        let office = Rc::clone(&authority);
        tokio::task::spawn_local(keeper.run(move |identity| {
            let credential = office.issue(identity);
            async move { Ok::<_, String>(credential) }
        }));
        let mut metrics = Metrics::new("waypoint", "test", number);
        let (drainer, drain) = drain::pair();
        let channels = (0..number).map(|_| mpsc::unbounded_channel());
        let (workers, inboxes): (Vec<_>, Vec<_>) = channels.unzip();
        let shared = Arc::new(Shared {
            loads: workers.iter().map(|_| AtomicUsize::new(0)).collect(),
            certificates,
            telemetry: Telemetry::new(&mut metrics, number, None),
            workers,
            config,
        });
        // All on this thread, each with an inbox of its own.
        let all = inboxes.into_iter().enumerate().map(|(id, inbox)| {
            let worker = Rc::new(Worker::new(id, Arc::clone(&shared), drain.clone()));
            let serving = tokio::task::spawn_local(Rc::clone(&worker).serve(inbox));
            (worker, serving)
        });
        let (mut all, mut serving): (Vec<_>, Vec<_>) = all.unzip();
        drop(drain);
        let (worker, serving) = (all.remove(0), serving.remove(0));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::task::spawn_local(app::accept(Arc::clone(&shared), listener));
        Self {
            at,
            authority,
            shared,
            worker,
            others: all,
            serving,
            drainer: Some(drainer),
            metrics,
            store: RefCell::new(Store::new("ambit-system".into())),
        }
    }

    /// Tells the worker what a control plane would.
    fn told(&self, type_url: &str, resources: &[(&str, Vec<u8>)]) {
        let resource = |(name, bytes): &(&str, Vec<u8>)| Resource {
            name: (*name).to_owned(),
            version: "1".to_owned(),
            bytes: bytes.clone(),
        };
        let delta = Delta {
            type_url: type_url.to_owned(),
            resources: resources.iter().map(resource).collect(),
            removed: Vec::new(),
        };
        let mut store = self.store.borrow_mut();
        assert_eq!(store.apply(&delta), []);
        for worker in self.others.iter().chain([&self.worker]) {
            worker.adopt(Arc::clone(store.current()));
        }
    }

    /// Service `orders`: its port 80 speaks `protocol` and leads to `app`.
    fn orders(&self, protocol: Protocol, app: SocketAddr, policies: &[(&str, told::Policy)]) {
        self.leads_to(protocol, backend(app), policies);
    }

    /// Takes that service away.
    fn without_orders(&self) {
        let delta = Delta {
            type_url: proto::TABLE_TYPE.to_owned(),
            resources: Vec::new(),
            removed: vec![KEY.to_owned()],
        };
        self.store.borrow_mut().apply(&delta);
        let generation = Arc::clone(self.store.borrow().current());
        self.worker.adopt(generation);
    }

    /// The same with endpoints as they are told.
    fn leads_to(
        &self,
        protocol: Protocol,
        backend: told::Backend,
        policies: &[(&str, told::Policy)],
    ) {
        let policies: Vec<_> = policies
            .iter()
            .map(|(name, policy)| (*name, policy.encode_to_vec()))
            .collect();
        self.told(proto::POLICY_TYPE, &policies);
        self.told(proto::ROUTE_TYPE, &[]);
        self.told(proto::BACKEND_TYPE, &[(KEY, backend.encode_to_vec())]);
        let http = policies
            .iter()
            .filter(|(name, _)| name.starts_with("http/"));
        let reference = |(name, _): &(&str, Vec<u8>)| Reference {
            name: (*name).to_owned(),
            version: "1".to_owned(),
        };
        let table = told::Table {
            backend: KEY.to_owned(),
            backends: vec![KEY.to_owned()],
            ports: vec![told::Port {
                number: 80,
                protocol: protocol.into(),
                ..told::Port::default()
            }],
            policies: http.map(reference).collect(),
            ..told::Table::default()
        };
        self.told(proto::TABLE_TYPE, &[(KEY, table.encode_to_vec())]);
    }

    async fn tunnel(&self, client: &str) -> Tunnel {
        let credential = self.authority.issue(identity(client));
        let tcp = TcpStream::connect(self.at).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let expected = [identity("waypoint")];
        let (tls, _) = tls::connect(tcp, &credential, &expected, deadline)
            .await
            .unwrap();
        hbone::open(tls, hbone::Settings::default(), None)
            .await
            .unwrap()
    }

    async fn stream(&self, client: &str) -> Stream {
        let tunnel = self.tunnel(client).await;
        ask(&tunnel, "10.96.0.9:80", &[]).await.unwrap()
    }

    async fn drain(&mut self) -> bool {
        let drainer = self.drainer.take().unwrap();
        // The worker is one that has something to finish until its task and this one let go.
        let drained = drainer.drain(Duration::from_secs(10));
        let finished = async {
            (&mut self.serving).await.unwrap();
        };
        tokio::select! {
            _ = drained => false,
            () = finished => true,
        }
    }
}

async fn ask(
    tunnel: &Tunnel,
    authority: &str,
    headers: &[(&'static str, &'static str)],
) -> Result<Stream, ConnectError> {
    let pairs = headers.iter().map(|(name, value)| {
        let value = http::HeaderValue::from_static(value);
        (http::HeaderName::from_static(name), value)
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let opened = tunnel.connect(authority, pairs.collect(), deadline).await;
    opened.map(|(stream, _)| stream)
}

/// A pod outside the mesh at an address of this machine, and its service.
fn backend(app: SocketAddr) -> told::Backend {
    let ports = vec![Port {
        service_port: 80,
        target_port: app.port().into(),
        app_protocol: 0,
    }];
    let service = Service {
        name: "orders".to_owned(),
        namespace: "shop".to_owned(),
        hostname: "orders.shop.svc.cluster.local".to_owned(),
        addresses: vec![NetworkAddress {
            address: VIP.to_vec(),
            ..NetworkAddress::default()
        }],
        ports: ports.clone(),
        ..Service::default()
    };
    let workload = Workload {
        uid: "Kubernetes//Pod/shop/orders-1".to_owned(),
        name: "orders-1".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "orders".to_owned(),
        addresses: vec![vec![127, 0, 0, 1]],
        services: BTreeMap::from([(KEY.to_owned(), PortList { ports })])
            .into_iter()
            .collect(),
        ..Workload::default()
    };
    told::Backend {
        service: Some(service),
        workloads: vec![workload],
        ..told::Backend::default()
    }
}

/// An application that says `greeting` first, then sends back what it reads.
async fn echo(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                stream.write_all(greeting.as_bytes()).await.ok();
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.shutdown().await.ok();
            });
        }
    });
    at
}

/// An application that answers each request with 200 and its own text.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::task::spawn_local(net::http::serve(listener, |_| async {
        net::http::text(http::StatusCode::OK, "hello")
    }));
    at
}

const GET: &[u8] = b"GET /cart HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";

async fn talk(mut stream: Stream, text: &[u8]) -> String {
    stream.write_all(text).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Runs a test on one thread, as a worker is. One that waits for what does not come fails.
fn alone(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, test)
            .await
            .expect("what a test waits for comes");
    };
    LocalSet::new().block_on(&runtime, test);
}

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

/// A DENY of everything at layer 4.
fn nobody() -> told::Policy {
    let policy = Authorization {
        name: "nobody".to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::Namespace.into(),
        action: Action::Allow.into(),
        ..Authorization::default()
    };
    told::Policy {
        policy: Some(told::policy::Policy::Connection(policy)),
        ..told::Policy::default()
    }
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
