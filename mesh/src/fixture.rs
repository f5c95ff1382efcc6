//! A small mesh for tests, made of the messages that a control plane sends and read as those are.
//! Names stand in namespace `shop` where nothing else is said.

use std::{net::IpAddr, sync::Arc};

use prost::Message;
use proto::{
    security::{Action, Authorization, Group, Match, Rules, Scope},
    workload::{
        Address, Extension, GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList,
        Service, TunnelProtocol, Workload, address::Type, gateway_address::Destination,
    },
};

use crate::{
    delta::{Delta, Resource},
    store::{Generation, Store},
};

/// The node of [`store`].
pub(crate) const NODE: &str = "n1";

/// An empty store for node `n1`; the root namespace is `ambit-system`.
pub(crate) fn store() -> Store {
    Store::new(NODE.into(), "ambit-system".into())
}

/// A generation that holds all this, none of which is refused.
pub(crate) fn generation(
    workloads: &[Workload],
    services: &[Service],
    policies: &[Authorization],
) -> Arc<Generation> {
    let mut store = store();
    let items = workloads.iter().cloned().map(Type::Workload);
    let items = items.chain(services.iter().cloned().map(Type::Service));
    let (rejected, _) = store.apply(&addresses(items));
    assert_eq!(rejected, []);
    let (rejected, _) = store.apply(&authorizations(policies.iter().cloned()));
    assert_eq!(rejected, []);
    store.current()
}

/// A pod that takes tunnels, on another node than ours, whose service account is named as it is.
pub(crate) fn workload(name: &str, ips: &[&str]) -> Workload {
    Workload {
        uid: uid(name),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: name.to_owned(),
        addresses: ips.iter().map(|ip| bytes(ip)).collect(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        node: "n2".to_owned(),
        ..Default::default()
    }
}

/// The uid of a pod in `shop`.
pub(crate) fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

/// A service whose port 80 leads to 8080, at addresses or ranges (`10.0.0.0/8`).
pub(crate) fn service(name: &str, vips: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: vips.iter().map(|vip| network_address(vip)).collect(),
        ports: vec![port(80, 8080)],
        ..Default::default()
    }
}

/// The resource name of a service in `shop`.
pub(crate) fn key(name: &str) -> String {
    format!("shop/{name}.shop.svc.cluster.local")
}

/// The workload as an endpoint of a service in `shop`, with ports of its own.
pub(crate) fn endpoint_of(mut workload: Workload, service: &str, ports: &[(u32, u32)]) -> Workload {
    let ports = ports
        .iter()
        .map(|(service, target)| port(*service, *target))
        .collect();
    workload.services.insert(key(service), PortList { ports });
    workload
}

/// A port of a service.
pub(crate) fn port(service_port: u32, target_port: u32) -> Port {
    Port {
        service_port,
        target_port,
        app_protocol: 0,
    }
}

/// A gateway by host name.
pub(crate) fn gateway() -> GatewayAddress {
    let hostname = NamespacedHostname {
        namespace: "shop".to_owned(),
        hostname: "gateway".to_owned(),
    };
    GatewayAddress {
        destination: Some(Destination::Hostname(hostname)),
        hbone_mtls_port: 15008,
    }
}

/// An extension by which a service trusts these identities.
pub(crate) fn trust(identities: &[&str]) -> Extension {
    let identities = identities.iter().map(|id| (*id).to_owned()).collect();
    let trust = proto::waypoint::Trust { identities };
    Extension {
        name: proto::TRUST_EXTENSION.to_owned(),
        config: Some(prost_types::Any {
            type_url: proto::TRUST_TYPE.to_owned(),
            value: trust.encode_to_vec(),
        }),
    }
}

/// A policy in `shop` with one group, one rule and these matches.
pub(crate) fn policy(name: &str, scope: Scope, action: Action, matches: &[Match]) -> Authorization {
    let rules = vec![Rules {
        matches: matches.to_vec(),
    }];
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: scope.into(),
        action: action.into(),
        groups: vec![Group { rules }],
        ..Default::default()
    }
}

/// A match of one destination port.
pub(crate) fn to_port(port: u32) -> Match {
    Match {
        destination_ports: vec![port],
        ..Default::default()
    }
}

/// A response with workloads and services.
pub(crate) fn addresses(items: impl IntoIterator<Item = Type>) -> Delta {
    let resource = |item: Type| Resource {
        name: name(&item),
        version: String::new(),
        bytes: Address { r#type: Some(item) }.encode_to_vec(),
    };
    Delta {
        type_url: proto::ADDRESS_TYPE.to_owned(),
        resources: items.into_iter().map(resource).collect(),
        removed: vec![],
    }
}

/// A response with policies.
pub(crate) fn authorizations(items: impl IntoIterator<Item = Authorization>) -> Delta {
    let resource = |item: Authorization| Resource {
        name: format!("{}/{}", item.namespace, item.name),
        version: String::new(),
        bytes: item.encode_to_vec(),
    };
    Delta {
        type_url: proto::AUTHORIZATION_TYPE.to_owned(),
        resources: items.into_iter().map(resource).collect(),
        removed: vec![],
    }
}

/// The same response with names that are gone.
pub(crate) fn removing(mut delta: Delta, names: &[&str]) -> Delta {
    delta.removed = names.iter().map(|name| (*name).to_owned()).collect();
    delta
}

/// The resource name that a workload or service has.
pub(crate) fn name(item: &Type) -> String {
    match item {
        Type::Workload(w) => w.uid.clone(),
        Type::Service(s) => format!("{}/{}", s.namespace, s.hostname),
    }
}

/// 4 or 16 bytes.
pub(crate) fn bytes(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn network_address(text: &str) -> NetworkAddress {
    let (ip, length) = text
        .split_once('/')
        .map_or((text, None), |(ip, l)| (ip, Some(l)));
    let length = length.map(|length| length.parse().unwrap());
    NetworkAddress {
        network: String::new(),
        address: bytes(ip),
        length,
    }
}
