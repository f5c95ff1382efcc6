//! A worker on loopback sockets, with what it is told, its clients and its applications.

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

use super::super::*;
use crate::{
    app,
    fixture::{Office, identity},
};

pub(super) const KEY: &str = "shop/orders.shop.svc.cluster.local";
pub(super) const VIP: [u8; 4] = [10, 96, 0, 9];

/// A waypoint, and whoever gives it certificates.
pub(super) struct Waypoint {
    pub(super) at: SocketAddr,
    pub(super) authority: Rc<Office>,
    pub(super) shared: Arc<Shared>,
    /// The first one.
    pub(super) worker: Rc<Worker>,
    pub(super) others: Vec<Rc<Worker>>,
    pub(super) serving: JoinHandle<()>,
    pub(super) drainer: Option<Drainer>,
    pub(super) metrics: Metrics,
    pub(super) store: RefCell<Store>,
}

impl Waypoint {
    pub(super) async fn start() -> Self {
        Self::with_workers(1).await
    }

    pub(super) async fn with_workers(number: usize) -> Self {
        Self::set(number, &[]).await
    }

    /// One with other settings.
    pub(super) async fn limited(settings: &[(&str, &str)]) -> Self {
        Self::set(1, settings).await
    }

    async fn set(number: usize, settings: &[(&str, &str)]) -> Self {
        let env = [("GATEWAY", "waypoint"), ("POD_NAMESPACE", "shop")];
        let env: Vec<_> = env.iter().chain(settings).copied().collect();
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
            clients: Mutex::default(),
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
    pub(super) fn told(&self, type_url: &str, resources: &[(&str, Vec<u8>)]) {
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
    pub(super) fn orders(
        &self,
        protocol: Protocol,
        app: SocketAddr,
        policies: &[(&str, told::Policy)],
    ) {
        self.leads_to(protocol, backend(app), policies);
    }

    /// Takes that service away.
    pub(super) fn without_orders(&self) {
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
    pub(super) fn leads_to(
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

    pub(super) async fn tunnel(&self, client: &str) -> Tunnel {
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

    pub(super) async fn stream(&self, client: &str) -> Stream {
        let tunnel = self.tunnel(client).await;
        ask(&tunnel, "10.96.0.9:80", &[]).await.unwrap()
    }

    pub(super) async fn drain(&mut self) -> bool {
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

pub(super) async fn ask(
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
pub(super) fn backend(app: SocketAddr) -> told::Backend {
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
pub(super) async fn echo(greeting: &'static str) -> SocketAddr {
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
pub(super) async fn server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::task::spawn_local(net::http::serve(listener, |_| async {
        net::http::text(http::StatusCode::OK, "hello")
    }));
    at
}

pub(super) const GET: &[u8] = b"GET /cart HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";

pub(super) async fn talk(mut stream: Stream, text: &[u8]) -> String {
    stream.write_all(text).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Runs a test on one thread, as a worker is. One that waits for what does not come fails.
pub(super) fn alone(test: impl Future<Output = ()>) {
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

/// A DENY of everything at layer 4.
pub(super) fn nobody() -> told::Policy {
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
