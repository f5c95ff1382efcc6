//! Services.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use proto::{
    waypoint::Trust,
    workload::{
        Extension, IpFamilies, LoadBalancing, NetworkAddress, Port, Service,
        address::Type,
        load_balancing::{HealthPolicy, Mode, Scope as Reach},
    },
};

use super::{
    Compiled, Scope,
    binding::{Binding, Bindings, Published},
    gateway, octets,
    protocol::app_protocol,
};
use crate::{
    manifest::{self, Labels, core::Target},
    world::Key,
};

const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const INGRESS: &str = "istio.io/ingress-use-waypoint";

pub(super) fn compile(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    let served = scope.services().filter(|service| is_served(scope, service));
    for service in served {
        let key = (service.meta.namespace.clone(), service.meta.name.clone());
        let mut resource = resource(scope, service);
        let entry = scope.entry(&key);
        if let Some(entry) = entry {
            entry.describe(&mut resource);
        }
        if let Some(binding) = bindings.binding(&key) {
            bind(scope, service, binding, &mut resource);
        }
        // What is not served is there to be refused, or not at all.
        if entry.is_some_and(|it| it.lack.is_some()) && resource.waypoint.is_none() {
            continue;
        }
        compiled.addresses.extend([super::service(resource)]);
    }
}

/// Says of each service which waypoints are trusted to have judged requests for it. All workloads have to be known already:
/// a service says it of each of its endpoints, so it holds for all of them or is not said.
pub(super) fn trust(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for address in compiled.addresses.values() {
        if let Some(Type::Workload(workload)) = &address.r#type {
            for service in workload.services.keys() {
                let homes = homes.entry(service.clone()).or_default();
                homes.insert(workload.namespace.clone());
            }
        }
    }
    let served = scope.services().filter(|service| is_served(scope, service));
    for service in served {
        let meta = &service.meta;
        let name = scope.service_key(&meta.namespace, &meta.name);
        let Some(binding) = bindings.binding(&(meta.namespace.clone(), meta.name.clone())) else {
            continue;
        };
        let homes = homes.get(&name).into_iter().flatten();
        let homes: BTreeSet<_> = homes.chain([&meta.namespace]).collect();
        let trusted = binding.involved.iter().filter(|gateway| {
            let mut homes = homes.iter();
            homes.all(|home| trusts(scope, home, gateway))
        });
        let identities: Vec<_> = trusted.map(|key| gateway::identity(scope, key)).collect();
        let resource = compiled.addresses.get_mut(&name);
        let resource = resource.and_then(|address| Arc::make_mut(address).r#type.as_mut());
        if let (Some(Type::Service(resource)), false) = (resource, identities.is_empty()) {
            let config = prost_types::Any {
                type_url: proto::TRUST_TYPE.to_owned(),
                value: Trust { identities }.encode_to_vec(),
            };
            resource.extensions.push(Extension {
                name: proto::TRUST_EXTENSION.to_owned(),
                config: Some(config),
            });
        }
    }
}

/// Which waypoint requests go to.
fn bind(scope: Scope<'_>, service: &manifest::Service, binding: &Binding, resource: &mut Service) {
    let namespace = &service.meta.namespace;
    resource.waypoint = binding.published.as_ref().map(|published| match published {
        Published::Gateway(key) => gateway::address(scope, key),
        Published::Nowhere => gateway::nowhere(namespace),
    });
    let ingress = scope.label(&service.meta.labels, namespace, INGRESS);
    resource.ingress_use_waypoint =
        resource.waypoint.is_some() && ingress.is_some_and(|value| value == "true");
}

/// Whether a waypoint decides what the workloads of a namespace then need not decide again: it is told the policies by us,
/// and it is of that namespace, or of one that the mesh trusts.
pub(super) fn trusts(scope: Scope<'_>, namespace: &str, (home, name): &Key) -> bool {
    let known = gateway::find(scope, &(home.clone(), name.clone()));
    let exclusive = !scope
        .derived
        .shared
        .contains_key(&(home.clone(), name.clone()));
    exclusive
        && known.is_some_and(|found| gateway::serves(scope, &found.class))
        && (home == namespace || scope.trusts_waypoints_of(home))
}

/// A name for something outside has no endpoints, so there is nothing to send.
pub(super) fn is_served(scope: Scope<'_>, service: &manifest::Service) -> bool {
    !service.external_name && scope.sees(&service.meta.namespace)
}

fn resource(scope: Scope<'_>, service: &manifest::Service) -> Service {
    let meta = &service.meta;
    let families = match (service.families.v4, service.families.v6) {
        (false, false) => IpFamilies::Automatic,
        (true, false) => IpFamilies::Ipv4Only,
        (false, true) => IpFamilies::Ipv6Only,
        (true, true) => IpFamilies::Dual,
    };
    let address = |&address| NetworkAddress {
        network: String::new(),
        address: octets(address),
        length: None,
    };
    Service {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        hostname: scope.hostname(&meta.namespace, &meta.name),
        addresses: service.addresses.iter().map(address).collect(),
        ports: service.ports.iter().map(port).collect(),
        load_balancing: load_balancing(scope, service),
        ip_families: families.into(),
        canonical: true,
        ..Service::default()
    }
}

fn port(port: &manifest::core::ServicePort) -> Port {
    let target = match port.target {
        Target::Number(number) => number.into(),
        // Each endpoint says its own.
        Target::Name(_) => 0,
    };
    Port {
        service_port: port.port.into(),
        target_port: target,
        app_protocol: app_protocol(port).into(),
    }
}

fn load_balancing(scope: Scope<'_>, service: &manifest::Service) -> Option<LoadBalancing> {
    let near = distribution(scope, service);
    let (preference, mode): (&[Reach], _) = if service.local {
        (&[Reach::Node], Mode::Strict)
    } else {
        match near {
            Near::Any => (&[], Mode::UnspecifiedMode),
            Near::Zone => (
                &[Reach::Network, Reach::Region, Reach::Zone],
                Mode::Failover,
            ),
            Near::Node => (
                &[
                    Reach::Network,
                    Reach::Region,
                    Reach::Zone,
                    Reach::Subzone,
                    Reach::Node,
                ],
                Mode::Failover,
            ),
        }
    };
    let health = if service.publish_not_ready {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    if preference.is_empty() && !service.publish_not_ready {
        return None;
    }
    Some(LoadBalancing {
        routing_preference: preference.iter().map(|&reach| reach.into()).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    })
}

enum Near {
    Any,
    Zone,
    Node,
}

/// The field, else the service's annotation, else its namespace's.
fn distribution(scope: Scope<'_>, service: &manifest::Service) -> Near {
    let annotation = |annotations: &Labels| annotations.get(DISTRIBUTION).cloned();
    let namespace = || {
        annotation(
            &scope
                .world
                .namespaces
                .get(&service.meta.namespace)?
                .meta
                .annotations,
        )
    };
    let field = service.distribution.clone();
    let word = field
        .or_else(|| annotation(&service.meta.annotations))
        .or_else(namespace)
        .unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "preferclose" | "prefersamezone" => Near::Zone,
        "prefersamenode" => Near::Node,
        _ => Near::Any,
    }
}
