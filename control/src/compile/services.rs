//! Services.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use prost::Message as _;
use proto::{
    waypoint::Trust,
    workload::{
        Address, Extension, IpFamilies, LoadBalancing, NetworkAddress, Port, Service,
        address::Type,
        load_balancing::{HealthPolicy, Mode, Scope as Reach},
    },
};

use super::{
    Compiled, Scope,
    binding::{Binding, Bindings, Published},
    gateway, is_same, octets,
    protocol::app_protocol,
};
use crate::{
    manifest::{self, Labels, Meta, core::Target},
    world::Key,
};

const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const INGRESS: &str = "istio.io/ingress-use-waypoint";

/// All services. Those that are no more than themselves, and the same as in `last`, are taken from there.
pub(super) fn compile(
    scope: Scope<'_>,
    bindings: &Bindings,
    last: &mut Made,
) -> Vec<(String, Arc<Address>)> {
    let mut all = Vec::new();
    let mut before = mem::take(&mut last.0).into_iter().peekable();
    let served = scope.services().filter(|service| is_served(scope, service));
    for service in served {
        let Meta {
            namespace, name, ..
        } = &service.meta;
        let key = (namespace.clone(), name.clone());
        let entry = scope.entry(&key);
        let binding = bindings.binding(&key);
        if entry.is_none() && binding.is_none_or(|it| it.published.is_none()) {
            let near = inherited(scope, namespace).cloned();
            let is_before = |it: &OfService| {
                let meta = &it.service.meta;
                (&meta.namespace, &meta.name) < (namespace, name)
            };
            while before.next_if(is_before).is_some() {}
            let was = before.next_if(|it| is_same(&it.service, service) && it.inherited == near);
            let made = match was {
                Some(was) => was.made,
                None => super::service(resource(scope, service)),
            };
            all.push(made.clone());
            last.0.push(OfService {
                service: Arc::clone(service),
                inherited: near,
                made,
            });
            continue;
        }
        let mut resource = resource(scope, service);
        if let Some(entry) = entry {
            entry.describe(&mut resource);
        }
        if let Some(binding) = binding {
            bind(scope, service, binding, &mut resource);
        }
        // What is not served is there to be refused, or not at all.
        if entry.is_some_and(|it| it.lack.is_some()) && resource.waypoint.is_none() {
            continue;
        }
        all.push(super::service(resource));
    }
    all
}

/// What was made of services last, in their order.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<OfService>);

/// A service that is neither of a ServiceEntry nor behind a waypoint, and what was made of it.
#[derive(Debug)]
struct OfService {
    service: Arc<manifest::Service>,
    /// What its namespace says of where its traffic stays.
    inherited: Option<String>,
    made: (String, Arc<Address>),
}

/// Says of each service which waypoints are trusted to have judged requests for it. All workloads have to be known already:
/// a service says it of each of its endpoints, so it holds for all of them or is not said.
pub(super) fn trust(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let involving = bindings.involving();
    let involving: Vec<_> = involving
        .map(|((namespace, name), binding)| {
            let name = scope.service_key(namespace, name);
            homes.insert(name.clone(), BTreeSet::from([namespace.clone()]));
            (name, binding)
        })
        .collect();
    if involving.is_empty() {
        return;
    }
    for address in compiled.addresses.values() {
        if let Some(Type::Workload(workload)) = &address.r#type {
            for service in workload.services.keys() {
                if let Some(homes) = homes.get_mut(service) {
                    homes.insert(workload.namespace.clone());
                }
            }
        }
    }
    for (name, binding) in involving {
        let homes = &homes[&name];
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

/// What a namespace says of where the traffic of its services stays.
fn inherited<'a>(scope: Scope<'a>, namespace: &str) -> Option<&'a String> {
    let namespace = scope.world.namespaces.get(namespace)?;
    namespace.meta.annotations.get(DISTRIBUTION)
}

enum Near {
    Any,
    Zone,
    Node,
}

/// The field, else the service's annotation, else its namespace's.
fn distribution(scope: Scope<'_>, service: &manifest::Service) -> Near {
    let annotation = |annotations: &Labels| annotations.get(DISTRIBUTION).cloned();
    let namespace = || inherited(scope, &service.meta.namespace).cloned();
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
