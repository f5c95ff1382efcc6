//! `istio.workload.Address` to [`Workload`] and [`Service`].

use std::{collections::BTreeMap, net::IpAddr};

use prost::Message;
use proto::workload as wire;

use crate::{
    identity::{DEFAULT_TRUST_DOMAIN, Identity},
    model::{
        ApplicationTunnel, Balancing, Families, Gateway, Health, Locality, LocalityScope,
        Membership, Mode, Port, Protocol, Service, Vip, Visibility, Workload, WorkloadType,
    },
    name::Name,
    parse::{ip, port, range},
};

/// What an `Address` resource holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A service.
    Service(Service),
    /// A workload.
    Workload(Workload),
}

/// Reads an `Address` resource. `name` is the resource's; it must be the one the content implies.
pub fn address(name: &str, bytes: &[u8]) -> Result<Address, String> {
    let message = wire::Address::decode(bytes).map_err(|e| format!("not an Address: {e}"))?;
    match message.r#type.ok_or("neither a workload nor a service")? {
        wire::address::Type::Workload(w) if w.uid == name => workload(w).map(Address::Workload),
        wire::address::Type::Workload(w) => Err(format!("holds the workload {:?}", w.uid)),
        wire::address::Type::Service(s) => match service(s)? {
            service if service.key.as_str() == name => Ok(Address::Service(service)),
            service => Err(format!("holds the service {:?}", service.key)),
        },
    }
}

impl Address {
    /// Where a resource says that it can be reached, even if it cannot be used. Such addresses are
    /// refused rather than taken for something outside the mesh.
    pub fn reach(bytes: &[u8]) -> Vec<Vip> {
        let Ok(message) = wire::Address::decode(bytes) else {
            return Vec::new();
        };
        match message.r#type {
            Some(wire::address::Type::Workload(w))
                if w.network_mode != i32::from(wire::NetworkMode::HostNetwork) =>
            {
                let own = |a: &Vec<u8>| wire::NetworkAddress {
                    network: w.network.clone(),
                    address: a.clone(),
                    length: None,
                };
                w.addresses
                    .iter()
                    .filter_map(|a| vip(&own(a)).ok())
                    .collect()
            }
            Some(wire::address::Type::Service(s)) => {
                // Where the length is what is wrong, the address itself is still claimed.
                let single = |a: &wire::NetworkAddress| wire::NetworkAddress {
                    length: None,
                    ..a.clone()
                };
                let one = |a| vip(a).or_else(|_| vip(&single(a))).ok();
                s.addresses.iter().filter_map(one).collect()
            }
            _ => Vec::new(),
        }
    }
}

pub(crate) fn workload(w: wire::Workload) -> Result<Workload, String> {
    if w.uid.is_empty() {
        return Err("has no uid".to_owned());
    }
    let locality = w.locality.clone().unwrap_or_default();
    let cluster = if w.cluster_id.is_empty() {
        "Kubernetes"
    } else {
        &w.cluster_id
    };
    Ok(Workload {
        identity: identity(&w)?,
        protocol: protocol(w.tunnel_protocol)?,
        health: health(w.status)?,
        host_network: host_network(w.network_mode)?,
        addresses: w
            .addresses
            .iter()
            .map(|a| ip(a))
            .collect::<Result<_, _>>()?,
        network: Name::new(&w.network),
        native_tunnel: w.native_tunnel,
        waypoint: w.waypoint.map(gateway).transpose()?,
        network_gateway: w.network_gateway.map(gateway).transpose()?,
        application_tunnel: w.application_tunnel.map(application_tunnel).transpose()?,
        services: memberships(w.services)?,
        policies: w
            .authorization_policies
            .iter()
            .map(|name| Name::new(name))
            .collect(),
        node: Name::new(&w.node),
        cluster: Name::new(cluster),
        locality: Locality {
            region: Name::new(&locality.region),
            zone: Name::new(&locality.zone),
            subzone: Name::new(&locality.subzone),
        },
        capacity: w.capacity.unwrap_or(1).max(1),
        workload_name: Name::new(&w.workload_name),
        workload_type: workload_type(w.workload_type),
        canonical_name: Name::new(&w.canonical_name),
        canonical_revision: Name::new(&w.canonical_revision),
        uid: w.uid.into(),
        name: w.name.into(),
        hostname: (!w.hostname.is_empty()).then(|| w.hostname.into()),
    })
}

fn identity(w: &wire::Workload) -> Result<Identity, String> {
    let or = |text, default| if str::is_empty(text) { default } else { text };
    let trust_domain = or(&w.trust_domain, DEFAULT_TRUST_DOMAIN);
    let identity = Identity::new(
        trust_domain,
        &w.namespace,
        or(&w.service_account, "default"),
    );
    // Through text, so that nothing is an identity that could not stand in a certificate.
    identity.to_string().parse().map_err(|e| format!("{e}"))
}

fn protocol(number: i32) -> Result<Protocol, String> {
    match wire::TunnelProtocol::try_from(number) {
        Ok(wire::TunnelProtocol::Hbone) => Ok(Protocol::Hbone),
        Ok(wire::TunnelProtocol::None) => Ok(Protocol::Tcp),
        Ok(wire::TunnelProtocol::LegacyIstioMtls) => {
            Err("tunnel protocol LEGACY_ISTIO_MTLS is not supported".to_owned())
        }
        Err(_) => Err(format!("unknown tunnel protocol {number}")),
    }
}

fn health(number: i32) -> Result<Health, String> {
    match wire::WorkloadStatus::try_from(number) {
        Ok(wire::WorkloadStatus::Healthy) => Ok(Health::Healthy),
        Ok(wire::WorkloadStatus::Unhealthy) => Ok(Health::Unhealthy),
        Err(_) => Err(format!("unknown status {number}")),
    }
}

fn host_network(number: i32) -> Result<bool, String> {
    match wire::NetworkMode::try_from(number) {
        Ok(wire::NetworkMode::Standard) => Ok(false),
        Ok(wire::NetworkMode::HostNetwork) => Ok(true),
        Err(_) => Err(format!("unknown network mode {number}")),
    }
}

fn workload_type(number: i32) -> WorkloadType {
    match wire::WorkloadType::try_from(number) {
        Ok(wire::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(wire::WorkloadType::Deployment) => WorkloadType::Deployment,
        Ok(wire::WorkloadType::Job) => WorkloadType::Job,
        // Only telemetry reads it: a type that is new to us is no reason to lose the workload.
        Ok(wire::WorkloadType::Pod) | Err(_) => WorkloadType::Pod,
    }
}

fn memberships(services: BTreeMap<String, wire::PortList>) -> Result<Box<[Membership]>, String> {
    let membership = |(service, list): (String, wire::PortList)| {
        Ok(Membership {
            service: Name::new(&service),
            ports: ports(&list.ports)?,
        })
    };
    services.into_iter().map(membership).collect()
}

fn ports(list: &[wire::Port]) -> Result<Box<[Port]>, String> {
    let one = |p: &wire::Port| {
        let service = port(p.service_port, "service port")?;
        Ok(Port {
            service,
            target: port(p.target_port, "target port")?,
        })
    };
    list.iter().map(one).collect()
}

fn gateway(g: wire::GatewayAddress) -> Result<Gateway, String> {
    let port = match port(g.hbone_mtls_port, "gateway port")? {
        0 => 15008,
        port => port,
    };
    match g
        .destination
        .ok_or("a gateway has neither hostname nor address")?
    {
        wire::gateway_address::Destination::Hostname(h) => {
            let service = Name::new(&format!("{}/{}", h.namespace, h.hostname));
            Ok(Gateway::Hostname { service, port })
        }
        wire::gateway_address::Destination::Address(a) => Ok(Gateway::Address {
            network: Name::new(&a.network),
            address: ip(&a.address)?,
            port,
        }),
    }
}

fn application_tunnel(t: wire::ApplicationTunnel) -> Result<ApplicationTunnel, String> {
    let proxy_protocol = match wire::application_tunnel::Protocol::try_from(t.protocol) {
        Ok(wire::application_tunnel::Protocol::None) => false,
        Ok(wire::application_tunnel::Protocol::Proxy) => true,
        Err(_) => {
            return Err(format!(
                "unknown application tunnel protocol {}",
                t.protocol
            ));
        }
    };
    let port = port(t.port, "application tunnel port")?;
    Ok(ApplicationTunnel {
        proxy_protocol,
        port: (port != 0).then_some(port),
    })
}

pub(crate) fn service(s: wire::Service) -> Result<Service, String> {
    if s.hostname.is_empty() {
        return Err("has no hostname".to_owned());
    }
    let families = match wire::IpFamilies::try_from(s.ip_families) {
        Ok(wire::IpFamilies::Automatic) => Families::Automatic,
        Ok(wire::IpFamilies::Ipv4Only) => Families::V4,
        Ok(wire::IpFamilies::Ipv6Only) => Families::V6,
        Ok(wire::IpFamilies::Dual) => Families::Dual,
        Err(_) => return Err(format!("unknown address families {}", s.ip_families)),
    };
    let visibility = match wire::service::Visibility::try_from(s.visibility) {
        Ok(wire::service::Visibility::Public) => Visibility::Public,
        Ok(wire::service::Visibility::Namespace) => Visibility::Namespace,
        Err(_) => return Err(format!("unknown visibility {}", s.visibility)),
    };
    let (trusted, distrust) = match trusted(&s.extensions) {
        Ok(trusted) => (trusted, None),
        Err(reason) => (Box::default(), Some(reason.into())),
    };
    Ok(Service {
        key: Name::new(&format!("{}/{}", s.namespace, s.hostname)),
        name: Name::new(&s.name),
        namespace: Name::new(&s.namespace),
        hostname: Name::new(&s.hostname),
        vips: s.addresses.iter().map(vip).collect::<Result<_, _>>()?,
        ports: ports(&s.ports)?,
        // Others cannot be the identity of any peer that we accept: leaving them out allows nothing.
        identities: s
            .subject_alt_names
            .iter()
            .filter_map(|san| san.parse().ok())
            .collect(),
        waypoint: s.waypoint.map(gateway).transpose()?,
        weighted_waypoints: !s.weighted_waypoints.is_empty(),
        trusted,
        distrust,
        balancing: balancing(&s.load_balancing.unwrap_or_default())?,
        families,
        canonical: s.canonical,
        visibility,
    })
}

/// Whom the service trusts to have decided its policies. All of it is understood, or nobody is trusted.
fn trusted(extensions: &[wire::Extension]) -> Result<Box<[Identity]>, String> {
    let mut ours = extensions
        .iter()
        .filter(|extension| extension.name == proto::TRUST_EXTENSION);
    let Some(extension) = ours.next() else {
        return Ok(Box::default());
    };
    let bad = |what: &str| format!("extension {:?} {what}", proto::TRUST_EXTENSION);
    if ours.next().is_some() {
        return Err(bad("is there twice"));
    }
    let config = extension.config.as_ref();
    let config = config.ok_or_else(|| bad("holds nothing"))?;
    if config.type_url != proto::TRUST_TYPE {
        return Err(bad(&format!("holds a {:?}", config.type_url)));
    }
    let trust = proto::waypoint::Trust::decode(config.value.as_slice())
        .map_err(|e| bad(&format!("is not a Trust: {e}")))?;
    // What is not known may narrow the trust down.
    if trust.encode_to_vec() != config.value {
        return Err(bad("holds more than is known here"));
    }
    let identity = |text: &String| {
        let identity = text.parse::<Identity>();
        identity.map_err(|e| bad(&format!("trusts {text:?}: {e}")))
    };
    trust.identities.iter().map(identity).collect()
}

fn vip(a: &wire::NetworkAddress) -> Result<Vip, String> {
    let width = if a.address.len() == 4 { 32 } else { 128 };
    let (address, length) = range(&a.address, a.length.unwrap_or(width))?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{v6}/{length} spans IPv4 and IPv6"))
        }
        address => Ok(Vip {
            network: Name::new(&a.network),
            address,
            length,
        }),
    }
}

fn balancing(l: &wire::LoadBalancing) -> Result<Balancing, String> {
    let mode = match wire::load_balancing::Mode::try_from(l.mode) {
        Ok(wire::load_balancing::Mode::UnspecifiedMode) => Mode::Standard,
        Ok(wire::load_balancing::Mode::Strict) => Mode::Strict,
        Ok(wire::load_balancing::Mode::Failover) => Mode::Failover,
        Ok(wire::load_balancing::Mode::Passthrough) => Mode::Passthrough,
        Err(_) => return Err(format!("unknown load balancing mode {}", l.mode)),
    };
    let unhealthy_too = match wire::load_balancing::HealthPolicy::try_from(l.health_policy) {
        Ok(wire::load_balancing::HealthPolicy::OnlyHealthy) => false,
        Ok(wire::load_balancing::HealthPolicy::AllowAll) => true,
        Err(_) => return Err(format!("unknown health policy {}", l.health_policy)),
    };
    let preference = l
        .routing_preference
        .iter()
        .map(|n| scope(*n))
        .collect::<Result<_, _>>()?;
    Ok(Balancing {
        preference,
        mode,
        unhealthy_too,
    })
}

fn scope(number: i32) -> Result<LocalityScope, String> {
    use wire::load_balancing::Scope;
    match Scope::try_from(number) {
        Ok(Scope::Region) => Ok(LocalityScope::Region),
        Ok(Scope::Zone) => Ok(LocalityScope::Zone),
        Ok(Scope::Subzone) => Ok(LocalityScope::Subzone),
        Ok(Scope::Node) => Ok(LocalityScope::Node),
        Ok(Scope::Cluster) => Ok(LocalityScope::Cluster),
        Ok(Scope::Network) => Ok(LocalityScope::Network),
        Ok(Scope::UnspecifiedScope) | Err(_) => Err(format!("unknown locality scope {number}")),
    }
}

#[cfg(test)]
mod tests;
