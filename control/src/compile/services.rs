//! Services.

use proto::workload::{
    IpFamilies, LoadBalancing, NetworkAddress, Port, Service,
    load_balancing::{HealthPolicy, Mode, Scope as Reach},
};

use super::{Compiled, Scope, octets, protocol::app_protocol};
use crate::{
    manifest::{self, Kind, Labels, ObjectRef, core::Target},
    status::{Condition, Status},
};

const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

pub(super) fn compile(scope: Scope<'_>, compiled: &mut Compiled) {
    for service in scope
        .world
        .services
        .values()
        .filter(|service| is_served(scope, service))
    {
        compiled
            .addresses
            .extend([super::service(resource(scope, service))]);
        // Waypoints are not served yet, so none can be ready.
        let waypoint = scope.label(&service.meta.labels, &service.meta.namespace, USE_WAYPOINT);
        if let Some(name) = waypoint.filter(|name| *name != "none") {
            let message =
                format!("waypoint {name} is not there: traffic goes straight to the endpoints");
            let condition =
                Condition::fails("istio.io/WaypointBound", "WaypointIsNotReady", message);
            let reference =
                ObjectRef::new(Kind::Service, &service.meta.namespace, &service.meta.name);
            compiled.statuses.insert(
                reference,
                Status {
                    conditions: vec![condition],
                    ..Status::default()
                },
            );
        }
    }
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
