//! Reading.

use std::{collections::BTreeMap, net::IpAddr};

use proto::{
    security::{
        self, Authorization, Group, Match, Presence, Rules, ServiceAccountMatch, StringMatch,
        string_match,
    },
    workload::{
        self, Address, ApplicationTunnel, GatewayAddress, IpFamilies, LoadBalancing, Locality,
        NamespacedHostname, NetworkAddress, NetworkMode, Port, PortList, TunnelProtocol,
        WorkloadStatus, WorkloadType, address::Type, application_tunnel,
        gateway_address::Destination, load_balancing,
    },
};
use serde::Deserialize;

use super::{Error, Local};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct File {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<Policy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Workload {
    uid: String,
    name: String,
    namespace: String,
    #[serde(default)]
    service_account: String,
    #[serde(default)]
    trust_domain: String,
    #[serde(default)]
    workload_ips: Vec<String>,
    #[serde(default)]
    hostname: String,
    protocol: Option<String>,
    #[serde(default)]
    node: String,
    #[serde(default)]
    network: String,
    network_gateway: Option<Gateway>,
    #[serde(default)]
    workload_name: String,
    workload_type: Option<String>,
    #[serde(default)]
    canonical_name: String,
    #[serde(default)]
    canonical_revision: String,
    #[serde(default)]
    cluster_id: String,
    locality: Option<Place>,
    status: Option<String>,
    network_mode: Option<String>,
    application_tunnel: Option<Tunnel>,
    #[serde(default)]
    authorization_policies: Vec<String>,
    waypoint: Option<Gateway>,
    #[serde(default)]
    services: BTreeMap<String, BTreeMap<u16, u16>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Gateway {
    destination: String,
    hbone_mtls_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Place {
    region: String,
    zone: String,
    subzone: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tunnel {
    protocol: String,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Service {
    name: String,
    namespace: String,
    hostname: String,
    #[serde(default)]
    vips: Vec<String>,
    #[serde(default)]
    ports: BTreeMap<u16, u16>,
    #[serde(default)]
    subject_alt_names: Vec<String>,
    waypoint: Option<Gateway>,
    load_balancer: Option<Balancer>,
    ip_families: Option<String>,
    #[serde(default)]
    canonical: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Balancer {
    #[serde(default)]
    routing_preferences: Vec<String>,
    mode: Option<String>,
    health_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Policy {
    name: String,
    namespace: String,
    scope: String,
    action: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    rules: Vec<Vec<Vec<Matching>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Matching {
    namespaces: Vec<Word>,
    not_namespaces: Vec<Word>,
    principals: Vec<Word>,
    not_principals: Vec<Word>,
    source_ips: Vec<String>,
    not_source_ips: Vec<String>,
    destination_ips: Vec<String>,
    not_destination_ips: Vec<String>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
    service_accounts: Vec<Account>,
    not_service_accounts: Vec<Account>,
}

/// The tag says which.
#[derive(Deserialize)]
enum Word {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Account {
    namespace: String,
    service_account: String,
}

pub(super) fn parse(text: &str) -> Result<Local, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 64, max_nodes: 1 << 24, max_events: 1 << 25 },
        with_snippet: false,
    };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let reason = error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        Error {
            field: error
                .location()
                .map(|at| format!("line {}", at.line()))
                .unwrap_or_default(),
            reason,
        }
    })?;
    let mut local = Local::default();
    for (i, it) in file.workloads.into_iter().enumerate() {
        let at = format!("workloads[{i}]");
        let workload = workload(it, &at)?;
        let name = workload.uid.clone();
        add(
            &mut local.addresses,
            name,
            Address {
                r#type: Some(Type::Workload(workload)),
            },
            &at,
        )?;
    }
    for (i, it) in file.services.into_iter().enumerate() {
        let at = format!("services[{i}]");
        let service = service(it, &at)?;
        let name = format!("{}/{}", service.namespace, service.hostname);
        add(
            &mut local.addresses,
            name,
            Address {
                r#type: Some(Type::Service(service)),
            },
            &at,
        )?;
    }
    for (i, it) in file.policies.into_iter().enumerate() {
        let at = format!("policies[{i}]");
        let policy = policy(it, &at)?;
        let name = format!("{}/{}", policy.namespace, policy.name);
        add(&mut local.authorizations, name, policy, &at)?;
    }
    Ok(local)
}

fn wrong(at: &str, reason: impl Into<String>) -> Error {
    Error {
        field: at.to_owned(),
        reason: reason.into(),
    }
}

fn add<T>(all: &mut BTreeMap<String, T>, name: String, value: T, at: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(wrong(at, "an empty name"));
    }
    if all.contains_key(&name) {
        return Err(wrong(at, format!("{name} is there twice")));
    }
    all.insert(name, value);
    Ok(())
}

fn workload(it: Workload, at: &str) -> Result<workload::Workload, Error> {
    let field = |name: &str| format!("{at}.{name}");
    let mut services = std::collections::HashMap::new();
    for (name, ports) in it.services {
        services.insert(
            name,
            PortList {
                ports: port_list(ports),
            },
        );
    }
    let tunnel = it
        .application_tunnel
        .map(|tunnel| application_tunnel(&tunnel, &field("applicationTunnel")));
    Ok(workload::Workload {
        uid: it.uid,
        name: it.name,
        namespace: it.namespace,
        addresses: each(&it.workload_ips, &field("workloadIps"), |text, at| {
            Ok(octets(address(text, at)?))
        })?,
        hostname: it.hostname,
        network: it.network,
        tunnel_protocol: word(&it.protocol, &PROTOCOLS, &field("protocol"))?,
        trust_domain: it.trust_domain,
        service_account: it.service_account,
        waypoint: it
            .waypoint
            .map(|it| gateway(&it, &field("waypoint")))
            .transpose()?,
        network_gateway: it
            .network_gateway
            .map(|it| gateway(&it, &field("networkGateway")))
            .transpose()?,
        node: it.node,
        canonical_name: it.canonical_name,
        canonical_revision: it.canonical_revision,
        workload_type: word(&it.workload_type, &TYPES, &field("workloadType"))?,
        workload_name: it.workload_name,
        application_tunnel: tunnel.transpose()?,
        services: services.into_iter().collect(),
        authorization_policies: it.authorization_policies,
        status: word(&it.status, &STATUSES, &field("status"))?,
        cluster_id: it.cluster_id,
        locality: it.locality.map(
            |Place {
                 region,
                 zone,
                 subzone,
             }| Locality {
                region,
                zone,
                subzone,
            },
        ),
        network_mode: word(&it.network_mode, &NETWORK_MODES, &field("networkMode"))?,
        ..workload::Workload::default()
    })
}

/// Words and the numbers that stand for them on the wire; the first is the default.
type Words = [(&'static str, i32)];

const PROTOCOLS: [(&str, i32); 2] = [
    ("TCP", TunnelProtocol::None as i32),
    ("HBONE", TunnelProtocol::Hbone as i32),
];
const TYPES: [(&str, i32); 4] = [
    ("deployment", WorkloadType::Deployment as i32),
    ("cronjob", WorkloadType::Cronjob as i32),
    ("pod", WorkloadType::Pod as i32),
    ("job", WorkloadType::Job as i32),
];
const STATUSES: [(&str, i32); 2] = [
    ("Healthy", WorkloadStatus::Healthy as i32),
    ("Unhealthy", WorkloadStatus::Unhealthy as i32),
];
const NETWORK_MODES: [(&str, i32); 2] = [
    ("Standard", NetworkMode::Standard as i32),
    ("HostNetwork", NetworkMode::HostNetwork as i32),
];
const TUNNELS: [(&str, i32); 2] = [
    ("NONE", application_tunnel::Protocol::None as i32),
    ("PROXY", application_tunnel::Protocol::Proxy as i32),
];
const FAMILIES: [(&str, i32); 4] = [
    ("Automatic", IpFamilies::Automatic as i32),
    ("Dual", IpFamilies::Dual as i32),
    ("IPv4", IpFamilies::Ipv4Only as i32),
    ("IPv6", IpFamilies::Ipv6Only as i32),
];
const SCOPES: [(&str, i32); 6] = [
    ("Region", load_balancing::Scope::Region as i32),
    ("Zone", load_balancing::Scope::Zone as i32),
    ("Subzone", load_balancing::Scope::Subzone as i32),
    ("Node", load_balancing::Scope::Node as i32),
    ("Cluster", load_balancing::Scope::Cluster as i32),
    ("Network", load_balancing::Scope::Network as i32),
];
const MODES: [(&str, i32); 4] = [
    ("Standard", load_balancing::Mode::UnspecifiedMode as i32),
    ("Strict", load_balancing::Mode::Strict as i32),
    ("Failover", load_balancing::Mode::Failover as i32),
    ("Passthrough", load_balancing::Mode::Passthrough as i32),
];
const HEALTH: [(&str, i32); 2] = [
    (
        "OnlyHealthy",
        load_balancing::HealthPolicy::OnlyHealthy as i32,
    ),
    ("AllowAll", load_balancing::HealthPolicy::AllowAll as i32),
];
const REACHES: [(&str, i32); 3] = [
    ("Global", security::Scope::Global as i32),
    ("Namespace", security::Scope::Namespace as i32),
    ("WorkloadSelector", security::Scope::WorkloadSelector as i32),
];
const ACTIONS: [(&str, i32); 2] = [
    ("Allow", security::Action::Allow as i32),
    ("Deny", security::Action::Deny as i32),
];

/// Case does not matter.
fn find(text: &str, words: &Words, at: &str) -> Result<i32, Error> {
    let found = words
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|&(_, number)| number).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        wrong(at, format!("{text:?} is none of {}", known.join(", ")))
    })
}

fn word(text: &Option<String>, words: &Words, at: &str) -> Result<i32, Error> {
    text.as_deref()
        .map_or(Ok(words[0].1), |text| find(text, words, at))
}

fn each<T>(
    texts: &[String],
    at: &str,
    parse: impl Fn(&str, &str) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    texts
        .iter()
        .enumerate()
        .map(|(i, text)| parse(text, &format!("{at}[{i}]")))
        .collect()
}

fn address(text: &str, at: &str) -> Result<IpAddr, Error> {
    text.parse()
        .map_err(|_| wrong(at, format!("{text:?} is not an IP address")))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn port_list(ports: BTreeMap<u16, u16>) -> Vec<Port> {
    let port = |(service, target): (u16, u16)| Port {
        service_port: service.into(),
        target_port: target.into(),
        ..Port::default()
    };
    ports.into_iter().map(port).collect()
}

fn application_tunnel(it: &Tunnel, at: &str) -> Result<ApplicationTunnel, Error> {
    let protocol = find(&it.protocol, &TUNNELS, &format!("{at}.protocol"))?;
    Ok(ApplicationTunnel {
        protocol,
        port: it.port.unwrap_or_default().into(),
    })
}

/// `<network>/<address>` or `<namespace>/<hostname>`; a hostname never parses as an address.
fn gateway(it: &Gateway, at: &str) -> Result<GatewayAddress, Error> {
    let Some((first, second)) = it.destination.split_once('/') else {
        let reason = format!(
            "{:?} is neither <network>/<address> nor <namespace>/<hostname>",
            it.destination
        );
        return Err(wrong(&format!("{at}.destination"), reason));
    };
    let destination = match second.parse() {
        Ok(address) => Destination::Address(NetworkAddress {
            network: first.to_owned(),
            address: octets(address),
            length: None,
        }),
        Err(_) => Destination::Hostname(NamespacedHostname {
            namespace: first.to_owned(),
            hostname: second.to_owned(),
        }),
    };
    Ok(GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: it.hbone_mtls_port.into(),
    })
}

fn service(it: Service, at: &str) -> Result<workload::Service, Error> {
    let field = |name: &str| format!("{at}.{name}");
    Ok(workload::Service {
        name: it.name,
        namespace: it.namespace,
        hostname: it.hostname,
        addresses: each(&it.vips, &field("vips"), vip)?,
        ports: port_list(it.ports),
        subject_alt_names: it.subject_alt_names,
        waypoint: it
            .waypoint
            .map(|it| gateway(&it, &field("waypoint")))
            .transpose()?,
        load_balancing: it
            .load_balancer
            .map(|it| balancer(&it, &field("loadBalancer")))
            .transpose()?,
        ip_families: word(&it.ip_families, &FAMILIES, &field("ipFamilies"))?,
        canonical: it.canonical,
        ..workload::Service::default()
    })
}

/// `<network>/<address>`, the default network being empty: `/10.0.0.1`; a prefix length makes it a range.
fn vip(text: &str, at: &str) -> Result<NetworkAddress, Error> {
    let wrong = || {
        wrong(
            at,
            format!("{text:?} is not of the form <network>/<address>"),
        )
    };
    let (network, rest) = text.split_once('/').ok_or_else(wrong)?;
    let (address, length) = range(rest).ok_or_else(wrong)?;
    Ok(NetworkAddress {
        network: network.to_owned(),
        address: octets(address),
        length: length.map(u32::from),
    })
}

fn range(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let Some((address, length)) = text.split_once('/') else {
        return Some((text.parse().ok()?, None));
    };
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, Some(length)))
}

fn balancer(it: &Balancer, at: &str) -> Result<LoadBalancing, Error> {
    let scope = |text: &str, at: &str| find(text, &SCOPES, at);
    Ok(LoadBalancing {
        routing_preference: each(
            &it.routing_preferences,
            &format!("{at}.routingPreferences"),
            scope,
        )?,
        mode: word(&it.mode, &MODES, &format!("{at}.mode"))?,
        health_policy: word(&it.health_policy, &HEALTH, &format!("{at}.healthPolicy"))?,
    })
}

fn policy(it: Policy, at: &str) -> Result<Authorization, Error> {
    let mut groups = Vec::new();
    for (i, clauses) in it.rules.into_iter().enumerate() {
        let mut rules = Vec::new();
        for (j, matches) in clauses.into_iter().enumerate() {
            let at = |k: usize| format!("{at}.rules[{i}][{j}][{k}]");
            let matches = matches
                .into_iter()
                .enumerate()
                .map(|(k, it)| matching(it, &at(k)))
                .collect::<Result<_, _>>()?;
            rules.push(Rules { matches });
        }
        groups.push(Group { rules });
    }
    Ok(Authorization {
        name: it.name,
        namespace: it.namespace,
        scope: find(&it.scope, &REACHES, &format!("{at}.scope"))?,
        action: find(&it.action, &ACTIONS, &format!("{at}.action"))?,
        groups,
        dry_run: it.dry_run,
        ..Authorization::default()
    })
}

fn matching(it: Matching, at: &str) -> Result<Match, Error> {
    let blocks = |texts: &[String], name: &str| each(texts, &format!("{at}.{name}"), block);
    Ok(Match {
        namespaces: words(it.namespaces),
        not_namespaces: words(it.not_namespaces),
        principals: words(it.principals),
        not_principals: words(it.not_principals),
        source_ips: blocks(&it.source_ips, "sourceIps")?,
        not_source_ips: blocks(&it.not_source_ips, "notSourceIps")?,
        destination_ips: blocks(&it.destination_ips, "destinationIps")?,
        not_destination_ips: blocks(&it.not_destination_ips, "notDestinationIps")?,
        destination_ports: it.destination_ports.into_iter().map(u32::from).collect(),
        not_destination_ports: it
            .not_destination_ports
            .into_iter()
            .map(u32::from)
            .collect(),
        service_accounts: accounts(it.service_accounts),
        not_service_accounts: accounts(it.not_service_accounts),
        ..Match::default()
    })
}

fn words(words: Vec<Word>) -> Vec<StringMatch> {
    let word = |word| match word {
        Word::Exact(text) => string_match::MatchType::Exact(text),
        Word::Prefix(text) => string_match::MatchType::Prefix(text),
        Word::Suffix(text) => string_match::MatchType::Suffix(text),
        Word::Presence => string_match::MatchType::Presence(Presence {}),
    };
    words
        .into_iter()
        .map(|it| StringMatch {
            match_type: Some(word(it)),
        })
        .collect()
}

fn accounts(accounts: Vec<Account>) -> Vec<ServiceAccountMatch> {
    let account = |Account {
                       namespace,
                       service_account,
                   }| ServiceAccountMatch {
        namespace,
        service_account,
    };
    accounts.into_iter().map(account).collect()
}

fn block(text: &str, at: &str) -> Result<security::Address, Error> {
    let (address, length) = range(text).ok_or_else(|| {
        wrong(
            at,
            format!("{text:?} is neither an IP address nor a range of them"),
        )
    })?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    Ok(security::Address {
        address: octets(address),
        length: length.unwrap_or(whole).into(),
    })
}
