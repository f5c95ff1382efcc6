//! Compiled resources as JSON, for people and for comparing: protobuf's JSON mapping with the field names of the
//! `.proto` files, zero values left out, addresses as text.

use std::net::{IpAddr, Ipv6Addr};

use prost::Message as _;
use proto::{
    security::{self, Action, Authorization, Scope, string_match::MatchType},
    waypoint::Trust,
    workload::{
        self, AppProtocol, IpFamilies, NetworkMode, TunnelProtocol, Workload, WorkloadStatus,
        WorkloadType, address::Type, application_tunnel, gateway_address::Destination,
        load_balancing, service::Visibility,
    },
};
use serde_json::{Map, Value, json};

use super::Compiled;

mod status;
mod told;

pub use self::{status::status, told::told};

/// `{"addresses": {NAME: …}, "authorizations": {NAME: …}, "status": {"Kind/namespace/name": {"conditions": […]}}}`,
/// everything sorted by name. Messages of conditions are for people and not part of it.
pub fn compiled(compiled: &Compiled) -> Value {
    let addresses: Map<_, _> = compiled
        .addresses
        .iter()
        .map(|(name, it)| (name.clone(), address(it)))
        .collect();
    let authorizations: Map<_, _> = compiled
        .authorizations
        .iter()
        .map(|(name, it)| (name.clone(), authorization(it)))
        .collect();
    let statuses: Map<_, _> = compiled
        .statuses
        .iter()
        .map(|(name, it)| (name.to_string(), status::compared(it)))
        .collect();
    json!({ "addresses": addresses, "authorizations": authorizations, "status": statuses })
}

/// One Address resource.
pub fn address(address: &workload::Address) -> Value {
    match &address.r#type {
        Some(Type::Workload(workload)) => json!({ "workload": workload_fields(workload) }),
        Some(Type::Service(service)) => json!({ "service": service_fields(service) }),
        None => json!({}),
    }
}

/// One Authorization resource.
pub fn authorization(authorization: &Authorization) -> Value {
    let mut fields = Fields::default();
    fields.text("name", &authorization.name);
    fields.text("namespace", &authorization.namespace);
    fields.word("scope", authorization.scope, |n| {
        Some(Scope::try_from(n).ok()?.as_str_name())
    });
    fields.word("action", authorization.action, |n| {
        Some(Action::try_from(n).ok()?.as_str_name())
    });
    fields.list("groups", &authorization.groups, |group| {
        let mut fields = Fields::default();
        fields.list("rules", &group.rules, |rules| {
            let mut fields = Fields::default();
            fields.list("matches", &rules.matches, match_fields);
            fields.0.into()
        });
        fields.0.into()
    });
    fields.flag("dry_run", authorization.dry_run);
    fields.0.into()
}

/// A message under construction; fields at their zero value are never entered.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.put(key, value);
        }
    }

    fn number(&mut self, key: &str, value: u32) {
        if value != 0 {
            self.put(key, value);
        }
    }

    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.put(key, true);
        }
    }

    /// An enum; a number without a name stays one.
    fn word(&mut self, key: &str, value: i32, name: impl Fn(i32) -> Option<&'static str>) {
        if value != 0 {
            self.put(
                key,
                name(value).map_or_else(|| json!(value), |name| json!(name)),
            );
        }
    }

    fn list<T>(&mut self, key: &str, values: &[T], value: impl Fn(&T) -> Value) {
        if !values.is_empty() {
            self.put(key, values.iter().map(value).collect::<Vec<_>>());
        }
    }

    fn message<T>(&mut self, key: &str, message: Option<&T>, value: impl Fn(&T) -> Value) {
        if let Some(message) = message {
            self.put(key, value(message));
        }
    }
}

fn workload_fields(it: &Workload) -> Value {
    let mut fields = Fields::default();
    fields.text("uid", &it.uid);
    fields.text("name", &it.name);
    fields.text("namespace", &it.namespace);
    fields.list("addresses", &it.addresses, |bytes| ip(bytes));
    fields.text("hostname", &it.hostname);
    fields.text("network", &it.network);
    fields.word("tunnel_protocol", it.tunnel_protocol, |n| {
        Some(TunnelProtocol::try_from(n).ok()?.as_str_name())
    });
    fields.text("trust_domain", &it.trust_domain);
    fields.text("service_account", &it.service_account);
    fields.message("waypoint", it.waypoint.as_ref(), gateway);
    fields.message("network_gateway", it.network_gateway.as_ref(), gateway);
    fields.text("node", &it.node);
    fields.text("canonical_name", &it.canonical_name);
    fields.text("canonical_revision", &it.canonical_revision);
    fields.word("workload_type", it.workload_type, |n| {
        Some(WorkloadType::try_from(n).ok()?.as_str_name())
    });
    fields.text("workload_name", &it.workload_name);
    fields.flag("native_tunnel", it.native_tunnel);
    fields.message(
        "application_tunnel",
        it.application_tunnel.as_ref(),
        |tunnel| {
            let mut fields = Fields::default();
            let name = |n| {
                Some(
                    application_tunnel::Protocol::try_from(n)
                        .ok()?
                        .as_str_name(),
                )
            };
            fields.word("protocol", tunnel.protocol, name);
            fields.number("port", tunnel.port);
            fields.0.into()
        },
    );
    if !it.services.is_empty() {
        let services: Map<_, _> = it
            .services
            .iter()
            .map(|(name, list)| (name.clone(), ports(&list.ports)))
            .collect();
        fields.put("services", services);
    }
    fields.list(
        "authorization_policies",
        &it.authorization_policies,
        |name| json!(name),
    );
    fields.word("status", it.status, |n| {
        Some(WorkloadStatus::try_from(n).ok()?.as_str_name())
    });
    fields.text("cluster_id", &it.cluster_id);
    fields.message("locality", it.locality.as_ref(), |locality| {
        let mut fields = Fields::default();
        fields.text("region", &locality.region);
        fields.text("zone", &locality.zone);
        fields.text("subzone", &locality.subzone);
        fields.0.into()
    });
    fields.word("network_mode", it.network_mode, |n| {
        Some(NetworkMode::try_from(n).ok()?.as_str_name())
    });
    fields.message("capacity", it.capacity.as_ref(), |capacity| json!(capacity));
    fields.0.into()
}

fn service_fields(it: &workload::Service) -> Value {
    let mut fields = Fields::default();
    fields.text("name", &it.name);
    fields.text("namespace", &it.namespace);
    fields.text("hostname", &it.hostname);
    fields.list("addresses", &it.addresses, network_address);
    fields.list("ports", &it.ports, port);
    fields.list("subject_alt_names", &it.subject_alt_names, |name| {
        json!(name)
    });
    fields.message("waypoint", it.waypoint.as_ref(), gateway);
    fields.message("load_balancing", it.load_balancing.as_ref(), |balancing| {
        let mut fields = Fields::default();
        let scope = |n: &i32| {
            load_balancing::Scope::try_from(*n)
                .map_or_else(|_| json!(n), |scope| json!(scope.as_str_name()))
        };
        fields.list("routing_preference", &balancing.routing_preference, scope);
        fields.word("mode", balancing.mode, |n| {
            Some(load_balancing::Mode::try_from(n).ok()?.as_str_name())
        });
        let health = |n| {
            Some(
                load_balancing::HealthPolicy::try_from(n)
                    .ok()?
                    .as_str_name(),
            )
        };
        fields.word("health_policy", balancing.health_policy, health);
        fields.0.into()
    });
    fields.word("ip_families", it.ip_families, |n| {
        Some(IpFamilies::try_from(n).ok()?.as_str_name())
    });
    fields.flag("canonical", it.canonical);
    fields.flag("ingress_use_waypoint", it.ingress_use_waypoint);
    fields.list("weighted_waypoints", &it.weighted_waypoints, |weighted| {
        let mut fields = Fields::default();
        fields.message("destination", weighted.destination.as_ref(), gateway);
        fields.number("weight", weighted.weight);
        fields.0.into()
    });
    fields.word("visibility", it.visibility, |n| {
        Some(Visibility::try_from(n).ok()?.as_str_name())
    });
    fields.list("extensions", &it.extensions, extension);
    fields.0.into()
}

/// The only one that we make; of others only the name.
fn extension(extension: &workload::Extension) -> Value {
    let config = extension.config.as_ref();
    let trust = config.filter(|config| config.type_url == proto::TRUST_TYPE);
    let trust = trust.and_then(|config| Trust::decode(config.value.as_slice()).ok());
    let mut fields = Fields::default();
    fields.text("name", &extension.name);
    fields.message(
        "config",
        trust.as_ref(),
        |trust| json!({ "identities": trust.identities }),
    );
    fields.0.into()
}

fn ports(ports: &[workload::Port]) -> Value {
    let mut fields = Fields::default();
    fields.list("ports", ports, port);
    fields.0.into()
}

fn port(port: &workload::Port) -> Value {
    let mut fields = Fields::default();
    fields.number("service_port", port.service_port);
    fields.number("target_port", port.target_port);
    fields.word("app_protocol", port.app_protocol, |n| {
        Some(AppProtocol::try_from(n).ok()?.as_str_name())
    });
    fields.0.into()
}

fn gateway(gateway: &workload::GatewayAddress) -> Value {
    let mut fields = Fields::default();
    match &gateway.destination {
        Some(Destination::Hostname(name)) => {
            fields.put(
                "hostname",
                json!({ "namespace": name.namespace, "hostname": name.hostname }),
            );
        }
        Some(Destination::Address(address)) => fields.put("address", network_address(address)),
        None => {}
    }
    fields.number("hbone_mtls_port", gateway.hbone_mtls_port);
    fields.0.into()
}

fn network_address(address: &workload::NetworkAddress) -> Value {
    let mut fields = Fields::default();
    fields.text("network", &address.network);
    fields.put("address", ip(&address.address));
    fields.message("length", address.length.as_ref(), |length| json!(length));
    fields.0.into()
}

fn match_fields(it: &security::Match) -> Value {
    let mut fields = Fields::default();
    fields.list("namespaces", &it.namespaces, string_match);
    fields.list("not_namespaces", &it.not_namespaces, string_match);
    fields.list("principals", &it.principals, string_match);
    fields.list("not_principals", &it.not_principals, string_match);
    fields.list("source_ips", &it.source_ips, block);
    fields.list("not_source_ips", &it.not_source_ips, block);
    fields.list("destination_ips", &it.destination_ips, block);
    fields.list("not_destination_ips", &it.not_destination_ips, block);
    fields.list("destination_ports", &it.destination_ports, |port| {
        json!(port)
    });
    fields.list("not_destination_ports", &it.not_destination_ports, |port| {
        json!(port)
    });
    fields.list("service_accounts", &it.service_accounts, service_account);
    fields.list(
        "not_service_accounts",
        &it.not_service_accounts,
        service_account,
    );
    fields.0.into()
}

fn string_match(it: &security::StringMatch) -> Value {
    match &it.match_type {
        Some(MatchType::Exact(text)) => json!({ "exact": text }),
        Some(MatchType::Prefix(text)) => json!({ "prefix": text }),
        Some(MatchType::Suffix(text)) => json!({ "suffix": text }),
        Some(MatchType::Presence(_)) => json!({ "presence": {} }),
        None => json!({}),
    }
}

fn block(it: &security::Address) -> Value {
    let mut fields = Fields::default();
    fields.put("address", ip(&it.address));
    fields.number("length", it.length);
    fields.0.into()
}

/// The ecosystem spells this field in camel case in the `.proto` file itself.
fn service_account(it: &security::ServiceAccountMatch) -> Value {
    json!({ "namespace": it.namespace, "serviceAccount": it.service_account })
}

/// Mapped IPv4 in hexadecimal groups like any other IPv6 address, so that the family shows.
fn ip(bytes: &[u8]) -> Value {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    match v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)) {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => mapped(address).into(),
        Ok(address) => address.to_string().into(),
        Err(_) => json!(bytes),
    }
}

fn mapped(address: Ipv6Addr) -> String {
    let [.., high, low] = address.segments();
    format!("::ffff:{high:x}:{low:x}")
}
