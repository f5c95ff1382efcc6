//! Services and workloads as `/config_dump` shows them.

use std::sync::Arc;

use mesh::{
    model::{
        ApplicationTunnel, Families, Gateway, Health, Locality, LocalityScope, Mode, Protocol,
        Service, Visibility, Workload,
    },
    name::Name,
    store::Generation,
};
use serde_json::{Map, Value, json};

use super::object;

fn ports(ports: &[mesh::model::Port]) -> Value {
    let pair = |port: &mesh::model::Port| (port.service.to_string(), json!(port.target));
    Value::Object(ports.iter().map(pair).collect())
}

/// A service with its endpoints in `generation`.
pub fn service(generation: &Generation, service: &Arc<Service>) -> Value {
    let endpoint = |e: &mesh::store::Endpoint| {
        let shown = json!({
            "workloadUid": &*e.workload.uid,
            "port": ports(&e.ports),
            "status": health(e.workload.health),
        });
        (e.workload.uid.to_string(), shown)
    };
    let endpoints: Map<String, Value> = generation
        .endpoints(service.key)
        .iter()
        .map(endpoint)
        .collect();
    let vip = |vip: &mesh::model::Vip| {
        if vip.is_single() {
            format!("{}/{}", vip.network, vip.address)
        } else {
            format!("{}/{}/{}", vip.network, vip.address, vip.length)
        }
    };
    let families = match service.families {
        Families::Automatic => Value::Null,
        Families::Dual => json!("Dual"),
        Families::V4 => json!("IPv4"),
        Families::V6 => json!("IPv6"),
    };
    object([
        ("name", json!(service.name.as_str())),
        ("namespace", json!(service.namespace.as_str())),
        ("hostname", json!(service.hostname.as_str())),
        ("vips", service.vips.iter().map(vip).collect()),
        ("ports", ports(&service.ports)),
        ("endpoints", Value::Object(endpoints)),
        (
            "subjectAltNames",
            service.identities.iter().map(ToString::to_string).collect(),
        ),
        (
            "waypoint",
            service.waypoint.as_ref().map_or(Value::Null, gateway),
        ),
        ("trusted", trusted(service)),
        ("loadBalancer", balancer(service)),
        ("ipFamilies", families),
        ("canonical", json!(service.canonical)),
        (
            "visibility",
            match service.visibility {
                Visibility::Namespace => json!("Namespace"),
                Visibility::Public => json!("Public"),
            },
        ),
    ])
}

/// Waypoints that are believed at the service's endpoints, if there are any.
fn trusted(service: &Service) -> Value {
    if service.trusted.is_empty() {
        return Value::Null;
    }
    service.trusted.iter().map(ToString::to_string).collect()
}

fn balancer(service: &Service) -> Value {
    let balancing = &service.balancing;
    let mode = match balancing.mode {
        Mode::Standard if !balancing.unhealthy_too => return Value::Null,
        Mode::Failover => "Failover",
        Mode::Passthrough => "Passthrough",
        Mode::Standard => "Standard",
        Mode::Strict => "Strict",
    };
    let scope = |scope: &LocalityScope| match scope {
        LocalityScope::Cluster => "Cluster",
        LocalityScope::Network => "Network",
        LocalityScope::Node => "Node",
        LocalityScope::Region => "Region",
        LocalityScope::Subzone => "Subzone",
        LocalityScope::Zone => "Zone",
    };
    let preferences: Vec<_> = balancing.preference.iter().map(scope).collect();
    let health = if balancing.unhealthy_too {
        "AllowAll"
    } else {
        "OnlyHealthy"
    };
    json!({ "routingPreferences": preferences, "mode": mode, "healthPolicy": health })
}

fn gateway(gateway: &Gateway) -> Value {
    match gateway {
        Gateway::Hostname { service, port } => {
            json!({ "destination": service.as_str(), "hboneMtlsPort": port })
        }
        Gateway::Address {
            network,
            address,
            port,
        } => {
            json!({ "destination": format!("{network}/{address}"), "hboneMtlsPort": port })
        }
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Unhealthy => "Unhealthy",
    }
}

/// A workload.
pub fn workload(w: &Arc<Workload>) -> Value {
    let policies = w.policies.iter().map(|p| p.as_str());
    object([
        ("uid", json!(&*w.uid)),
        ("name", json!(&*w.name)),
        ("namespace", json!(w.namespace().as_str())),
        ("serviceAccount", json!(w.identity.service_account.as_str())),
        ("trustDomain", json!(w.identity.trust_domain.as_str())),
        ("workloadIps", json!(w.addresses)),
        ("hostname", json!(w.hostname)),
        ("protocol", json!(protocol(w.protocol))),
        ("node", json!(w.node.as_str())),
        ("network", named(w.network)),
        ("workloadName", json!(w.workload_name.as_str())),
        ("workloadType", json!(w.workload_type.as_str())),
        ("canonicalName", json!(w.canonical_name.as_str())),
        ("canonicalRevision", named(w.canonical_revision)),
        ("clusterId", json!(w.cluster.as_str())),
        ("locality", locality(&w.locality)),
        ("status", json!(health(w.health))),
        ("networkMode", json!(network_mode(w.host_network))),
        ("waypoint", w.waypoint.as_ref().map_or(Value::Null, gateway)),
        (
            "networkGateway",
            w.network_gateway.as_ref().map_or(Value::Null, gateway),
        ),
        (
            "applicationTunnel",
            w.application_tunnel.map_or(Value::Null, tunnel),
        ),
        ("nativeTunnel", json!(w.native_tunnel.then_some(true))),
        (
            "authorizationPolicies",
            some(policies.map(Value::from).collect()),
        ),
        (
            "services",
            w.services.iter().map(|m| m.service.as_str()).collect(),
        ),
        ("capacity", json!(w.capacity)),
    ])
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Hbone => "HBONE",
        Protocol::Tcp => "TCP",
    }
}

fn network_mode(host_network: bool) -> &'static str {
    if host_network {
        "HostNetwork"
    } else {
        "Standard"
    }
}

fn locality(locality: &Locality) -> Value {
    if locality.region.is_empty() {
        return Value::Null;
    }
    json!({
        "region": locality.region.as_str(),
        "zone": locality.zone.as_str(),
        "subzone": locality.subzone.as_str(),
    })
}

fn tunnel(tunnel: ApplicationTunnel) -> Value {
    let protocol = if tunnel.proxy_protocol {
        "PROXY"
    } else {
        "NONE"
    };
    json!({ "protocol": protocol, "port": tunnel.port })
}

/// A list, or nothing if it is empty.
fn some(list: Vec<Value>) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        Value::Array(list)
    }
}

/// A name, or nothing if it is empty.
fn named(name: Name) -> Value {
    if name.is_empty() {
        Value::Null
    } else {
        json!(name.as_str())
    }
}
