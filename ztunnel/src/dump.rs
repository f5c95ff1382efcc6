//! `/config_dump`: all that this proxy knows, in the shape that the ecosystem's tools read.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use mesh::{
    model::{
        Action, Effect, Families, Gateway, Group, Health, IpRange, LocalityScope, Match, Mode,
        Policy, Protocol, Rule, Scope, Service, StringMatch, Visibility, Workload, WorkloadAccount,
        WorkloadType,
    },
    name::Name,
    store::Generation,
};
use net::tls::Certificate;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::oneshot;

use crate::{admin::Inside, app::INSPECT_TIMEOUT, config::Config, flows::Shown, worker::Command};

/// Everything, as JSON text.
pub(crate) async fn all(inside: &Inside) -> serde_json::Result<String> {
    let generation = inside.state.current();
    let sorted = |mut all: Vec<Value>, keys: &[&str]| {
        all.sort_by_cached_key(|v| {
            keys.iter()
                .map(|key| v[*key].to_string())
                .collect::<Vec<_>>()
        });
        all
    };
    let dump = json!({
        "certificates": certificates(inside),
        "policies": sorted(generation.policies().map(|p| policy(p)).collect(), &["namespace", "name"]),
        "services": sorted(generation.services().map(|s| service(&generation, s)).collect(), &["namespace", "hostname"]),
        "stagedServices": {},
        "staticConfig": { "workloads": [], "services": [], "policies": [] },
        "version": version(),
        "workloadState": pods(inside).await,
        "workloads": sorted(generation.workloads().map(|w| workload(w)).collect(), &["uid"]),
        "config": config(&inside.shared.config),
    });
    serde_json::to_string_pretty(&dump)
}

/// An object without what is absent.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        present
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

/// A name, or nothing if it is empty.
fn named(name: Name) -> Value {
    if name.is_empty() {
        Value::Null
    } else {
        json!(name.as_str())
    }
}

fn certificates(inside: &Inside) -> Vec<Value> {
    let entries = inside.shared.certificates.snapshot().into_iter();
    let one = |entry: net::certificates::Entry| {
        let shown = |certificates: &[Certificate]| certificates.iter().map(certificate).collect();
        let held = entry.credential.as_deref();
        let chain: Vec<Value> = held.map(|held| shown(held.chain())).unwrap_or_default();
        let roots: Vec<Value> = held.map(|held| shown(held.roots())).unwrap_or_default();
        json!({
            "identity": entry.identity.to_string(),
            "state": entry.state,
            "certChain": chain,
            "rootCerts": roots,
        })
    };
    entries.map(one).collect()
}

fn certificate(certificate: &Certificate) -> Value {
    json!({
        "pem": base64(certificate.pem.as_bytes()),
        "serialNumber": certificate.serial,
        "validFrom": instant(certificate.not_before),
        "expirationTime": instant(certificate.not_after),
    })
}

fn instant(seconds: i64) -> Value {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    json!(time.and_then(|time| time.format(&Rfc3339).ok()))
}

/// Standard base64 with padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: u32, at: u32| char::from(DIGITS[(group >> at & 63) as usize]);
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        text.push(digit(group, 18));
        text.push(digit(group, 12));
        text.push(if chunk.len() > 1 {
            digit(group, 6)
        } else {
            '='
        });
        text.push(if chunk.len() > 2 {
            digit(group, 0)
        } else {
            '='
        });
    }
    text
}

fn policy(policy: &Policy) -> Value {
    let (namespace, name) = policy
        .name
        .as_str()
        .split_once('/')
        .unwrap_or(("", policy.name.as_str()));
    let scope = match policy.scope {
        Scope::Mesh => "Global",
        Scope::Namespace(_) => "Namespace",
        Scope::Selected => "WorkloadSelector",
    };
    match &policy.effect {
        Effect::DenyAll(reason) => json!({
            "name": name, "namespace": namespace, "scope": scope, "action": "Deny",
            "dryRun": false, "rules": [[]], "notUnderstood": reason,
        }),
        Effect::Rules {
            action,
            dry_run,
            groups,
        } => {
            let rules: Vec<Vec<Vec<Value>>> = groups
                .iter()
                .map(|Group(rules)| {
                    let rule = |Rule(matches): &Rule| matches.iter().map(one_match).collect();
                    rules.iter().map(rule).collect()
                })
                .collect();
            let action = match action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            };
            json!({
                "name": name, "namespace": namespace, "scope": scope, "action": action,
                "dryRun": dry_run, "rules": rules,
            })
        }
    }
}

fn one_match(m: &Match) -> Value {
    fn list<T>(values: &[T], one: impl Fn(&T) -> Value) -> Value {
        if values.is_empty() {
            Value::Null
        } else {
            values.iter().map(one).collect()
        }
    }
    let text = |m: &StringMatch| match m {
        StringMatch::Exact(value) => json!({ "Exact": value }),
        StringMatch::Prefix(value) => json!({ "Prefix": value }),
        StringMatch::Suffix(value) => json!({ "Suffix": value }),
        StringMatch::Presence => json!("Presence"),
    };
    let range = |r: &IpRange| json!(format!("{}/{}", r.address, r.length));
    let account = |a: &WorkloadAccount| json!(format!("{}/{}", a.namespace, a.service_account));
    let port = |port: &u16| json!(port);
    object([
        ("namespaces", list(&m.namespaces, text)),
        ("notNamespaces", list(&m.not_namespaces, text)),
        ("principals", list(&m.principals, text)),
        ("notPrincipals", list(&m.not_principals, text)),
        ("sourceIps", list(&m.source_ips, range)),
        ("notSourceIps", list(&m.not_source_ips, range)),
        ("destinationIps", list(&m.destination_ips, range)),
        ("notDestinationIps", list(&m.not_destination_ips, range)),
        ("destinationPorts", list(&m.destination_ports, port)),
        ("notDestinationPorts", list(&m.not_destination_ports, port)),
        ("serviceAccounts", list(&m.service_accounts, account)),
        ("notServiceAccounts", list(&m.not_service_accounts, account)),
    ])
}

fn ports(ports: &[mesh::model::Port]) -> Value {
    let pair = |port: &mesh::model::Port| (port.service.to_string(), json!(port.target));
    Value::Object(ports.iter().map(pair).collect())
}

fn service(generation: &Generation, service: &Arc<Service>) -> Value {
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

fn workload(w: &Arc<Workload>) -> Value {
    let locality = json!({
        "region": w.locality.region.as_str(),
        "zone": w.locality.zone.as_str(),
        "subzone": w.locality.subzone.as_str(),
    });
    let tunnel = w.application_tunnel.map(|tunnel| {
        let protocol = if tunnel.proxy_protocol {
            "PROXY"
        } else {
            "NONE"
        };
        json!({ "protocol": protocol, "port": tunnel.port })
    });
    let policies =
        (!w.policies.is_empty()).then(|| w.policies.iter().map(|p| p.as_str()).collect::<Vec<_>>());
    let protocol = match w.protocol {
        Protocol::Hbone => "HBONE",
        Protocol::Tcp => "TCP",
    };
    object([
        ("uid", json!(&*w.uid)),
        ("name", json!(&*w.name)),
        ("namespace", json!(w.namespace().as_str())),
        ("serviceAccount", json!(w.identity.service_account.as_str())),
        ("trustDomain", json!(w.identity.trust_domain.as_str())),
        (
            "workloadIps",
            w.addresses.iter().map(ToString::to_string).collect(),
        ),
        ("hostname", json!(w.hostname)),
        ("protocol", json!(protocol)),
        ("node", json!(w.node.as_str())),
        ("network", named(w.network)),
        ("workloadName", json!(w.workload_name.as_str())),
        (
            "workloadType",
            match w.workload_type {
                WorkloadType::Pod => json!("pod"),
                other => json!(other.as_str()),
            },
        ),
        ("canonicalName", json!(w.canonical_name.as_str())),
        ("canonicalRevision", named(w.canonical_revision)),
        ("clusterId", json!(w.cluster.as_str())),
        (
            "locality",
            if w.locality.region.is_empty() {
                Value::Null
            } else {
                locality
            },
        ),
        ("status", json!(health(w.health))),
        (
            "networkMode",
            json!(if w.host_network {
                "HostNetwork"
            } else {
                "Standard"
            }),
        ),
        ("waypoint", w.waypoint.as_ref().map_or(Value::Null, gateway)),
        (
            "networkGateway",
            w.network_gateway.as_ref().map_or(Value::Null, gateway),
        ),
        ("applicationTunnel", json!(tunnel)),
        (
            "nativeTunnel",
            if w.native_tunnel {
                json!(true)
            } else {
                Value::Null
            },
        ),
        ("authorizationPolicies", json!(policies)),
        (
            "services",
            w.services.iter().map(|m| m.service.as_str()).collect(),
        ),
        ("capacity", json!(w.capacity)),
    ])
}

/// The pods that are served, and their open flows.
async fn pods(inside: &Inside) -> Value {
    let mut flows: BTreeMap<Arc<str>, Vec<Shown>> = BTreeMap::new();
    for worker in &inside.shared.workers {
        let (reply, shown) = oneshot::channel();
        worker.send(Command::Inspect(reply)).ok();
        if let Ok(Ok(shown)) = tokio::time::timeout(INSPECT_TIMEOUT, shown).await {
            for (uid, shown) in shown {
                flows.entry(uid).or_default().extend(shown);
            }
        }
    }
    let pods = inside.pods.borrow().pods.clone();
    let pod = |pod: &Arc<crate::worker::PodFacts>| {
        let flows = flows.get(&pod.uid).map_or(&[][..], Vec::as_slice);
        let (inbound, outbound): (Vec<&Shown>, Vec<&Shown>) =
            flows.iter().partition(|flow| flow.inbound);
        let shown = json!({
            "state": "Up",
            "info": {
                "name": pod.name,
                "namespace": pod.workload.identity.namespace.as_str(),
                "serviceAccount": pod.workload.identity.service_account.as_str(),
            },
            "connections": { "inbound": inbound, "outbound": outbound },
        });
        (pod.uid.to_string(), shown)
    };
    Value::Object(pods.iter().map(pod).collect())
}

fn version() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": "unknown",
        "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "unknown",
        "istioVersion": "unknown",
    })
}

/// Settings; no secret is one of them.
fn config(config: &Config) -> Value {
    let address = |address: SocketAddr| address.to_string();
    json!({
        "localNode": config.node.as_str(),
        "clusterId": config.cluster.as_str(),
        "network": config.network.as_str(),
        "trustDomain": config.trust_domain.as_str(),
        "rootNamespace": config.root_namespace.as_str(),
        "proxyMode": "Shared",
        "inpodUds": config.zds.display().to_string(),
        "inpodPortReuse": config.port_reuse,
        "packetMark": config.mark,
        "xdsAddress": config.discovery.as_ref().map(|server| &server.address),
        "caAddress": &config.authority.address,
        "secretTtl": format!("{}s", config.ttl.as_secs()),
        "numWorkerThreads": config.workers,
        "poolMaxStreamsPerConn": config.max_streams,
        "poolUnusedReleaseTimeout": format!("{}s", config.tunnel_idle.as_secs()),
        "selfTerminationDeadline": format!("{}s", config.drain.as_secs()),
        "windowSize": config.tunnel.stream_window,
        "connectionWindowSize": config.tunnel.connection_window,
        "frameSize": config.tunnel.frame_size,
        "adminAddr": address(config.admin),
        "statsAddr": address(config.metrics),
        "readinessAddr": address(config.readiness),
    })
}
