//! A waypoint of one service whose endpoints are sockets of the test.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::{Future, pending},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mesh::{
    delta::{Delta, Resource},
    identity::Identity,
    model::Locality,
    name::Name,
    plan::Source,
    waypoint::{Client, Generation, Store},
};
use prost::Message;
use proto::{
    waypoint::{
        Authorization, Backend, Destination, Match, Policy, Port, Protocol, Reference, Route, Rule,
        Table, WeightedBackend, r#match, policy, weighted_backend::Target,
    },
    workload::{self, NetworkAddress, PortList, Service, Workload},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::http::{Connection, Done, Front, Limits, Line, Own, Record, Version, serve};

pub(super) const KEY: &str = "shop/orders.shop.svc.cluster.local";
pub(super) const CLIENT: &str = "10.9.8.7:4321";

/// Runs a test on one thread with the clock stopped: time passes when nothing else can happen.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // What waits for what never comes is told at once, by this clock.
    let limited = async { tokio::time::timeout(Duration::from_secs(86_400), test).await };
    let ended = LocalSet::new().block_on(&runtime, limited);
    ended.expect("nothing more happens");
}

/// What was told of one request.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
    pub(super) flags: String,
    pub(super) details: String,
    pub(super) forwarded_for: String,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) rule: Option<(String, usize)>,
    pub(super) workload: Option<String>,
    pub(super) host: String,
    pub(super) user_agent: String,
    pub(super) request_id: String,
    pub(super) backend_port: Option<u16>,
}

#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<Vec<Told>>);

impl Record for Notes {
    fn request(&self, done: &Done<'_>) {
        self.0.borrow_mut().push(Told {
            method: done.method.to_owned(),
            path: text(done.path),
            status: done.status,
            grpc_status: done.grpc_status,
            flags: done.flags.to_owned(),
            details: done.details().into_owned(),
            forwarded_for: text(done.forwarded_for),
            received: done.received,
            sent: done.sent,
            rule: done.rule.map(|it| (it.route.name.to_string(), it.at)),
            workload: done.workload.map(|it| it.name.to_string()),
            host: text(done.authority),
            user_agent: text(done.user_agent),
            request_id: text(done.request_id),
            backend_port: done.backend_port,
        });
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the waypoint is told.
#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) protocol: Protocol,
    pub(super) rules: Vec<Rule>,
    pub(super) policies: Vec<Authorization>,
    pub(super) limits: Option<Limits>,
    pub(super) tells_identity: bool,
    pub(super) gateways: Vec<String>,
    pub(super) waypoints: Vec<String>,
}

/// A waypoint.
pub(super) struct Lab {
    pub(super) front: Rc<Front>,
    notes: Rc<Notes>,
}

/// One endpoint.
pub(super) struct Endpoint(TcpListener);

impl Endpoint {
    pub(super) async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(super) async fn accept(&self) -> Peer<TcpStream> {
        Peer(self.0.accept().await.unwrap().0, Vec::new())
    }
}

/// One end of a connection.
pub(super) struct Peer<S>(pub(super) S, Vec<u8>);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(super) async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub(super) async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// What comes up to `end`, and it.
    pub(super) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .1
                .windows(end.len())
                .position(|it| it == end.as_bytes());
            if let Some(at) = found {
                let rest = self.1.split_off(at + end.len());
                let text = std::mem::replace(&mut self.1, rest);
                return String::from_utf8(text).unwrap();
            }
            let read = self.0.read_buf(&mut self.1).await.unwrap();
            assert!(read > 0, "ended before {end:?}: {}", self.1.escape_ascii());
        }
    }

    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// All that comes until the end.
    pub(super) async fn rest(&mut self) -> String {
        // A reset is an end, too.
        self.0.read_to_end(&mut self.1).await.ok();
        String::from_utf8(std::mem::take(&mut self.1)).unwrap()
    }
}

/// A request without more to it, and one whose body waits until it is wanted.
pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const WAITING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";

/// A waypoint with a request on its way: the client that has sent it, and its only endpoint, which has read the head.
pub(super) async fn asked(request: &str) -> (Lab, Peer<DuplexStream>, Peer<TcpStream>) {
    let endpoint = Endpoint::listen().await;
    let lab = World::to(&endpoint).lab();
    let mut client = lab.h1();
    client.write(request).await;
    let mut peer = endpoint.accept().await;
    peer.head().await;
    (lab, client, peer)
}

impl World {
    /// One endpoint.
    pub(super) fn to(endpoint: &Endpoint) -> Self {
        Self::to_all(&[endpoint])
    }

    pub(super) fn to_all(endpoints: &[&Endpoint]) -> Self {
        Self {
            endpoints: endpoints.iter().map(|it| it.address()).collect(),
            protocol: Protocol::Http,
            ..Self::default()
        }
    }

    pub(super) fn lab(self) -> Lab {
        self.lab_told_to(None)
    }

    /// A waypoint that tells somebody else of its requests, if there is one.
    pub(super) fn lab_told_to(self, record: Option<Rc<dyn Record>>) -> Lab {
        let notes = Rc::new(Notes::default());
        let source = Source {
            identity: Identity::new("cluster.local", "shop", "waypoint"),
            network: Name::new(""),
            node: Name::new("n1"),
            cluster: Name::new("Kubernetes"),
            locality: Locality {
                region: Name::new(""),
                zone: Name::new(""),
                subzone: Name::new(""),
            },
        };
        let record = record.unwrap_or_else(|| Rc::clone(&notes) as Rc<dyn Record>);
        let limits = self.limits.unwrap_or_default();
        let front = Front::new(Own::default(), source, limits, record, 7);
        front.adopt(self.generation());
        Lab {
            front: Rc::new(front),
            notes,
        }
    }

    pub(super) fn generation(&self) -> Arc<Generation> {
        let mut store = Store::new("ambit-system".into());
        for delta in self.deltas() {
            assert_eq!(store.apply(&delta), []);
        }
        assert!(store.current().is_ready());
        Arc::clone(store.current())
    }

    /// All that is told of it: routes, policies, backends, tables.
    pub(super) fn deltas(&self) -> [Delta; 4] {
        let backend = Backend {
            service: Some(Service {
                name: "orders".to_owned(),
                namespace: "shop".to_owned(),
                hostname: "orders.shop.svc.cluster.local".to_owned(),
                addresses: vec![NetworkAddress {
                    address: vec![10, 1, 0, 1],
                    ..NetworkAddress::default()
                }],
                ports: vec![port(80, 8080)],
                ..Service::default()
            }),
            workloads: self.endpoints.iter().enumerate().map(pod).collect(),
            ..Backend::default()
        };
        let mut routes = BTreeMap::new();
        if !self.rules.is_empty() {
            let route = Route {
                kind: "HTTPRoute".to_owned(),
                namespace: "shop".to_owned(),
                name: "route".to_owned(),
                rules: self.rules.clone(),
                ..Route::default()
            };
            routes.insert("route".to_owned(), route);
        }
        let policies = self.policies.iter().map(|policy| {
            let name = format!("http/{}/{}", policy.namespace, policy.name);
            let policy = Policy {
                policy: Some(policy::Policy::Http(policy.clone())),
                ..Policy::default()
            };
            (name, policy)
        });
        let policies: BTreeMap<_, _> = policies.collect();
        let refers = |name: &String| Reference {
            name: name.clone(),
            version: "1".to_owned(),
        };
        let table = Table {
            backend: KEY.to_owned(),
            ports: vec![Port {
                number: 80,
                protocol: self.protocol.into(),
                routes: routes.keys().map(refers).collect(),
                ..Port::default()
            }],
            policies: policies.keys().map(refers).collect(),
            backends: vec![KEY.to_owned()],
            tells_identity: self.tells_identity,
            gateways: self.gateways.clone(),
            waypoints: self.waypoints.clone(),
            ..Table::default()
        };
        [
            delta(proto::ROUTE_TYPE, &routes),
            delta(proto::POLICY_TYPE, &policies),
            delta(proto::BACKEND_TYPE, &[(KEY.to_owned(), backend)].into()),
            delta(proto::TABLE_TYPE, &[(KEY.to_owned(), table)].into()),
        ]
    }
}

fn port(service_port: u32, target_port: u32) -> workload::Port {
    workload::Port {
        service_port,
        target_port,
        ..workload::Port::default()
    }
}

fn pod((at, address): (usize, &SocketAddr)) -> Workload {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("tests are on 127.0.0.1");
    };
    let ports = PortList {
        ports: vec![port(80, address.port().into())],
    };
    Workload {
        uid: format!("Kubernetes//Pod/shop/p{at}"),
        name: format!("p{at}"),
        namespace: "shop".to_owned(),
        service_account: "orders".to_owned(),
        addresses: vec![ip.octets().to_vec()],
        services: [(KEY.to_owned(), ports)].into(),
        ..Workload::default()
    }
}

pub(super) fn delta<M: Message>(type_url: &str, all: &BTreeMap<String, M>) -> Delta {
    let resource = |(name, message): (&String, &M)| Resource {
        name: name.clone(),
        version: "1".to_owned(),
        bytes: message.encode_to_vec(),
    };
    Delta {
        type_url: type_url.to_owned(),
        resources: all.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}

/// A rule for paths below `prefix`, to the service itself.
pub(super) fn rule(prefix: &str) -> Rule {
    let to = Destination {
        backend: KEY.to_owned(),
        port: 80,
    };
    Rule {
        matches: vec![Match {
            path: Some(r#match::Path::Prefix(prefix.to_owned())),
            ..Match::default()
        }],
        backends: vec![WeightedBackend {
            weight: 1,
            target: Some(Target::Destination(to)),
            ..WeightedBackend::default()
        }],
        ..Rule::default()
    }
}

impl Lab {
    /// A client's connection.
    pub(super) fn client(&self, version: Version) -> Peer<DuplexStream> {
        self.draining_client(version, pending())
    }

    pub(super) fn draining_client(
        &self,
        version: Version,
        drain: impl Future<Output = ()> + 'static,
    ) -> Peer<DuplexStream> {
        let (client, server) = duplex(64 << 10);
        self.serve(server, version, drain);
        Peer(client, Vec::new())
    }

    /// A client's connection that can be reset.
    pub(super) async fn socket(&self) -> Peer<TcpStream> {
        let listener = Endpoint::listen().await;
        let client = TcpStream::connect(listener.address()).await.unwrap();
        self.serve(listener.accept().await.0, Version::H1, pending());
        Peer(client, Vec::new())
    }

    fn serve<IO: Line + 'static>(
        &self,
        server: IO,
        version: Version,
        drain: impl Future<Output = ()> + 'static,
    ) {
        let connection = Connection {
            client: Client {
                peer: Some(Identity::new("cluster.local", "shop", "web")),
                address: CLIENT.parse().unwrap(),
                destination: None,
            },
            table: Name::new(KEY),
            port: 80,
            security: true,
            via: Vec::new(),
        };
        let front = Rc::clone(&self.front);
        net::task::spawn(serve(front, connection, server, version, drain));
    }

    pub(super) fn h1(&self) -> Peer<DuplexStream> {
        self.client(Version::H1)
    }

    /// What was told so far.
    pub(super) fn told(&self) -> Vec<Told> {
        self.notes.0.borrow().clone()
    }
}

/// The value of a header in a head; all of them, with `|` between.
pub(super) fn value(head: &str, name: &str) -> Option<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let named = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    let values: Vec<_> = named.map(|(_, value)| value.trim()).collect();
    (!values.is_empty()).then(|| values.join("|"))
}
