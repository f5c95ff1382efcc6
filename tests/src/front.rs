//! The HTTP half of a waypoint without the rest: one service, whose endpoint is a socket of whoever drives it.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use ::mesh::{
    delta::{Delta, Resource},
    identity::Identity,
    model::Locality,
    name::Name,
    plan::Source,
    waypoint::{Client, Generation, Store},
};
use prost::Message;
use proto::{
    waypoint::{Backend, Port, Protocol, Table},
    workload::{self, NetworkAddress, PortList, Service, Workload},
};
use waypoint::http::{Connection, Done, Front, Limits, Line, Own, Record, Version, serve};

const KEY: &str = "shop/orders.shop.svc.cluster.local";

/// What a waypoint is told of a service on port 80 with one endpoint outside the mesh, which is spoken to as `protocol`
/// says.
///
/// # Panics
/// If the endpoint has no IPv4 address.
pub fn told(endpoint: SocketAddr, protocol: Protocol) -> Arc<Generation> {
    let service = Service {
        name: "orders".to_owned(),
        namespace: "shop".to_owned(),
        hostname: "orders.shop.svc.cluster.local".to_owned(),
        addresses: vec![NetworkAddress {
            address: vec![10, 1, 0, 1],
            ..NetworkAddress::default()
        }],
        ports: vec![port(80, 8080)],
        ..Service::default()
    };
    let ports = vec![Port {
        number: 80,
        protocol: protocol.into(),
        ..Port::default()
    }];
    let backend = Backend {
        service: Some(service),
        workloads: vec![pod(endpoint)],
        ..Backend::default()
    };
    let table = Table {
        backend: KEY.to_owned(),
        ports,
        backends: vec![KEY.to_owned()],
        ..Table::default()
    };
    let mut store = Store::new(Name::new("ambit-system"));
    let none = BTreeMap::<String, Table>::new();
    for delta in [
        delta(proto::ROUTE_TYPE, &none),
        delta(proto::POLICY_TYPE, &none),
        delta(proto::BACKEND_TYPE, &[(KEY.to_owned(), backend)].into()),
        delta(proto::TABLE_TYPE, &[(KEY.to_owned(), table)].into()),
    ] {
        assert_eq!(store.apply(&delta), []);
    }
    Arc::clone(store.current())
}

fn port(service_port: u32, target_port: u32) -> workload::Port {
    workload::Port {
        service_port,
        target_port,
        ..workload::Port::default()
    }
}

fn pod(address: SocketAddr) -> Workload {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("endpoints are on 127.0.0.1");
    };
    let ports = PortList {
        ports: vec![port(80, address.port().into())],
    };
    Workload {
        uid: "Kubernetes//Pod/shop/orders-1".to_owned(),
        name: "orders-1".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "orders".to_owned(),
        addresses: vec![ip.octets().to_vec()],
        services: [(KEY.to_owned(), ports)].into(),
        ..Workload::default()
    }
}

/// Resources of a type, all of version 1.
pub(crate) fn delta<M: Message>(type_url: &str, all: &BTreeMap<String, M>) -> Delta {
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

/// The waypoint `shop/waypoint`, on node `n1`.
pub(crate) fn place() -> Source {
    Source {
        identity: Identity::new("cluster.local", "shop", "waypoint"),
        network: Name::new(""),
        node: Name::new("n1"),
        cluster: Name::new("Kubernetes"),
        locality: Locality {
            region: Name::new(""),
            zone: Name::new(""),
            subzone: Name::new(""),
        },
    }
}

/// Who asks, if nothing else is said.
pub(crate) fn client() -> Client {
    Client {
        peer: Some(Identity::new("cluster.local", "shop", "web")),
        address: SocketAddr::from(([10, 9, 8, 7], 4321)),
        destination: None,
    }
}

struct Nobody;

impl Record for Nobody {
    fn request(&self, _: &Done<'_>) {}
}

/// One worker's half, with nobody to tell.
pub fn front(generation: Arc<Generation>) -> Rc<Front> {
    let front = Front::new(
        Own::default(),
        place(),
        Limits::default(),
        Rc::new(Nobody),
        7,
    );
    front.adopt(generation);
    Rc::new(front)
}

/// Serves a client on `io` until it ends.
pub fn carry<IO>(front: &Rc<Front>, io: IO, version: Version) -> impl Future<Output = ()> + use<IO>
where
    IO: Line + 'static,
{
    let connection = Connection {
        client: client(),
        table: Name::new(KEY),
        port: 80,
        security: true,
        via: Vec::new(),
    };
    serve(Rc::clone(front), connection, io, version, pending())
}
