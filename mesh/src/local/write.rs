//! Writing: one resource a line, so that two files compare well.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proto::{
    security::{self, Action, Authorization, Match, Scope, StringMatch, string_match::MatchType},
    workload::{
        Address, GatewayAddress, IpFamilies, NetworkAddress, NetworkMode, Port, Service,
        TunnelProtocol, Workload, WorkloadStatus, WorkloadType, address::Type, application_tunnel,
        gateway_address::Destination, load_balancing,
    },
};

use crate::identity::DEFAULT_TRUST_DOMAIN;

/// Resources as a local workload file. What the format has no words for is left out: application protocols of ports,
/// weighted waypoints, capacity, extensions. Policies with such are no exception, for they have none.
pub fn write(
    addresses: &BTreeMap<String, Address>,
    authorizations: &BTreeMap<String, Authorization>,
) -> String {
    let (mut workloads, mut services) = (Vec::new(), Vec::new());
    for address in addresses.values() {
        match &address.r#type {
            Some(Type::Workload(it)) => workloads.push(workload(it)),
            Some(Type::Service(it)) => services.push(service(it)),
            None => {}
        }
    }
    let policies = authorizations.values().map(policy).collect();
    let mut text = String::new();
    for (key, lines) in [
        ("workloads", workloads),
        ("services", services),
        ("policies", policies),
    ] {
        list(&mut text, key, lines);
    }
    text
}

fn list(text: &mut String, key: &str, lines: Vec<String>) {
    text.push_str(key);
    if lines.is_empty() {
        text.push_str(": []\n");
        return;
    }
    text.push_str(":\n");
    for line in lines {
        text.push_str("- ");
        text.push_str(&line);
        text.push('\n');
    }
}

/// A mapping on one line; empty values are left out.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn put(&mut self, key: &str, value: impl AsRef<str>) {
        self.0.push(format!("{key}: {}", value.as_ref()));
    }

    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.put(key, quote(value));
        }
    }

    fn items<T>(&mut self, key: &str, values: &[T], value: impl Fn(&T) -> String) {
        if !values.is_empty() {
            self.put(key, sequence(values, value));
        }
    }

    fn end(self) -> String {
        format!("{{{}}}", self.0.join(", "))
    }
}

fn sequence<T>(values: &[T], value: impl Fn(&T) -> String) -> String {
    format!(
        "[{}]",
        values.iter().map(value).collect::<Vec<_>>().join(", ")
    )
}

/// Double-quoted (YAML 1.2.2 §7.3.1).
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

fn workload(it: &Workload) -> String {
    let mut fields = Fields::default();
    fields.text("uid", &it.uid);
    fields.put("name", quote(&it.name));
    fields.put("namespace", quote(&it.namespace));
    // Written out where the wire leaves them to be known.
    fields.text("serviceAccount", or(&it.service_account, "default"));
    fields.text("trustDomain", or(&it.trust_domain, DEFAULT_TRUST_DOMAIN));
    fields.items("workloadIps", &it.addresses, |bytes| quote(&ip(bytes)));
    fields.text("hostname", &it.hostname);
    let hbone = it.tunnel_protocol == TunnelProtocol::Hbone as i32;
    fields.put("protocol", if hbone { "HBONE" } else { "TCP" });
    fields.text("node", &it.node);
    fields.put("network", quote(&it.network));
    if let Some(gateway) = &it.network_gateway {
        fields.put("networkGateway", gateway_address(gateway));
    }
    fields.text("workloadName", &it.workload_name);
    fields.put(
        "workloadType",
        match it.workload_type() {
            WorkloadType::Deployment => "deployment",
            WorkloadType::Cronjob => "cronjob",
            WorkloadType::Pod => "pod",
            WorkloadType::Job => "job",
        },
    );
    fields.text("canonicalName", &it.canonical_name);
    fields.text("canonicalRevision", &it.canonical_revision);
    fields.text("clusterId", or(&it.cluster_id, "Kubernetes"));
    workload_place(it, &mut fields);
    fields.items(
        "authorizationPolicies",
        &it.authorization_policies,
        |name| quote(name),
    );
    if let Some(gateway) = &it.waypoint {
        fields.put("waypoint", gateway_address(gateway));
    }
    let services: BTreeMap<_, _> = it.services.iter().collect();
    if !services.is_empty() {
        let one = |(name, list): (&String, &proto::workload::PortList)| {
            format!("{}: {}", quote(name), ports(&list.ports))
        };
        let all: Vec<_> = services.into_iter().map(one).collect();
        fields.put("services", format!("{{{}}}", all.join(", ")));
    }
    fields.end()
}

fn workload_place(it: &Workload, fields: &mut Fields) {
    if let Some(locality) = &it.locality {
        let mut place = Fields::default();
        place.put("region", quote(&locality.region));
        place.put("zone", quote(&locality.zone));
        place.put("subzone", quote(&locality.subzone));
        fields.put("locality", place.end());
    }
    if it.status() == WorkloadStatus::Unhealthy {
        fields.put("status", "Unhealthy");
    }
    if it.network_mode() == NetworkMode::HostNetwork {
        fields.put("networkMode", "HostNetwork");
    }
    if let Some(tunnel) = &it.application_tunnel {
        let proxy = tunnel.protocol() == application_tunnel::Protocol::Proxy;
        let protocol = if proxy { "PROXY" } else { "NONE" };
        fields.put(
            "applicationTunnel",
            format!("{{protocol: {protocol}, port: {}}}", tunnel.port),
        );
    }
}

fn service(it: &Service) -> String {
    let mut fields = Fields::default();
    fields.put("name", quote(&it.name));
    fields.put("namespace", quote(&it.namespace));
    fields.put("hostname", quote(&it.hostname));
    fields.put(
        "vips",
        sequence(&it.addresses, |address| quote(&network_address(address))),
    );
    fields.put("ports", ports(&it.ports));
    fields.items("subjectAltNames", &it.subject_alt_names, |name| quote(name));
    if let Some(gateway) = &it.waypoint {
        fields.put("waypoint", gateway_address(gateway));
    }
    if let Some(balancing) = &it.load_balancing {
        fields.put("loadBalancer", balancer(balancing));
    }
    match it.ip_families() {
        IpFamilies::Automatic => {}
        IpFamilies::Ipv4Only => fields.put("ipFamilies", "IPv4"),
        IpFamilies::Ipv6Only => fields.put("ipFamilies", "IPv6"),
        IpFamilies::Dual => fields.put("ipFamilies", "Dual"),
    }
    if it.canonical {
        fields.put("canonical", "true");
    }
    fields.end()
}

fn balancer(it: &proto::workload::LoadBalancing) -> String {
    let scopes: Vec<_> = it.routing_preference().collect();
    let preferences = sequence(&scopes, |scope| {
        match scope {
            load_balancing::Scope::Region => "Region",
            load_balancing::Scope::Zone => "Zone",
            load_balancing::Scope::Subzone => "Subzone",
            load_balancing::Scope::Node => "Node",
            load_balancing::Scope::Cluster | load_balancing::Scope::UnspecifiedScope => "Cluster",
            load_balancing::Scope::Network => "Network",
        }
        .to_owned()
    });
    let mode = match it.mode() {
        load_balancing::Mode::UnspecifiedMode => "Standard",
        load_balancing::Mode::Strict => "Strict",
        load_balancing::Mode::Failover => "Failover",
        load_balancing::Mode::Passthrough => "Passthrough",
    };
    let health = match it.health_policy() {
        load_balancing::HealthPolicy::OnlyHealthy => "OnlyHealthy",
        load_balancing::HealthPolicy::AllowAll => "AllowAll",
    };
    format!("{{routingPreferences: {preferences}, mode: {mode}, healthPolicy: {health}}}")
}

fn ports(ports: &[Port]) -> String {
    // A number twice, once for TCP and once for UDP, is one key here.
    let ports: BTreeMap<_, _> = ports
        .iter()
        .rev()
        .map(|port| (port.service_port, port.target_port))
        .collect();
    let all: Vec<_> = ports
        .iter()
        .map(|(service, target)| format!("{service}: {target}"))
        .collect();
    format!("{{{}}}", all.join(", "))
}

fn gateway_address(it: &GatewayAddress) -> String {
    let destination = match &it.destination {
        Some(Destination::Hostname(name)) => format!("{}/{}", name.namespace, name.hostname),
        Some(Destination::Address(address)) => network_address(address),
        None => String::new(),
    };
    format!(
        "{{destination: {}, hboneMtlsPort: {}}}",
        quote(&destination),
        it.hbone_mtls_port
    )
}

fn network_address(it: &NetworkAddress) -> String {
    let length = it
        .length
        .map(|length| format!("/{length}"))
        .unwrap_or_default();
    format!("{}/{}{length}", it.network, ip(&it.address))
}

fn ip(bytes: &[u8]) -> String {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return IpAddr::from(Ipv4Addr::from(bytes)).to_string();
    }
    <[u8; 16]>::try_from(bytes)
        .map(|bytes| Ipv6Addr::from(bytes).to_string())
        .unwrap_or_default()
}

fn policy(it: &Authorization) -> String {
    let mut fields = Fields::default();
    fields.put("name", quote(&it.name));
    fields.put("namespace", quote(&it.namespace));
    fields.put(
        "scope",
        match it.scope() {
            Scope::Global => "Global",
            Scope::Namespace => "Namespace",
            Scope::WorkloadSelector => "WorkloadSelector",
        },
    );
    fields.put(
        "action",
        match it.action() {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
    );
    fields.put("dryRun", if it.dry_run { "true" } else { "false" });
    let rules = sequence(&it.groups, |group| {
        sequence(&group.rules, |rules| sequence(&rules.matches, matching))
    });
    fields.put("rules", rules);
    fields.end()
}

fn matching(it: &Match) -> String {
    let mut fields = Fields::default();
    fields.items("namespaces", &it.namespaces, word);
    fields.items("notNamespaces", &it.not_namespaces, word);
    fields.items("principals", &it.principals, word);
    fields.items("notPrincipals", &it.not_principals, word);
    fields.items("sourceIps", &it.source_ips, block);
    fields.items("notSourceIps", &it.not_source_ips, block);
    fields.items("destinationIps", &it.destination_ips, block);
    fields.items("notDestinationIps", &it.not_destination_ips, block);
    fields.items(
        "destinationPorts",
        &it.destination_ports,
        ToString::to_string,
    );
    fields.items(
        "notDestinationPorts",
        &it.not_destination_ports,
        ToString::to_string,
    );
    fields.items("serviceAccounts", &it.service_accounts, account);
    fields.items("notServiceAccounts", &it.not_service_accounts, account);
    fields.end()
}

fn word(it: &StringMatch) -> String {
    match &it.match_type {
        Some(MatchType::Exact(text)) => format!("!Exact {}", quote(text)),
        Some(MatchType::Prefix(text)) => format!("!Prefix {}", quote(text)),
        Some(MatchType::Suffix(text)) => format!("!Suffix {}", quote(text)),
        Some(MatchType::Presence(_)) | None => "!Presence []".to_owned(),
    }
}

fn block(it: &security::Address) -> String {
    quote(&format!("{}/{}", ip(&it.address), it.length))
}

fn account(it: &security::ServiceAccountMatch) -> String {
    format!(
        "{{namespace: {}, serviceAccount: {}}}",
        quote(&it.namespace),
        quote(&it.service_account)
    )
}
