//! The way to a service that has a waypoint: a tunnel to one of the waypoint's endpoints, and no other way.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    model::{Gateway, Health, Port, Service, Workload},
    pick::{Wanted, pick},
    plan::{Flow, Hop, expected},
    refusal::{Lack, Refusal},
    store::{Generation, Known},
};

/// The tunnel to `waypoint` for a flow to `service`. It is asked for what the flow asked for.
///
/// Whatever stands in the way refuses: a service with a waypoint is never reached without it.
pub fn through(
    generation: &Generation,
    flow: &Flow<'_>,
    service: &Arc<Service>,
    waypoint: Gateway,
) -> Result<Hop, Refusal> {
    let far = find(generation, flow, service, waypoint).map_err(|lack| Refusal::NoWaypoint {
        service: service.key,
        waypoint,
        lack,
    })?;
    let to = flow.to;
    Ok(Hop {
        address: far.address,
        identities: expected(far.workload, far.service),
        authority: SocketAddr::new(to.ip().to_canonical(), to.port()),
        workload: Arc::clone(far.workload),
        service: Some(Arc::clone(service)),
        waypoint: true,
    })
}

/// The far end of the tunnel.
struct Far<'a> {
    address: SocketAddr,
    workload: &'a Arc<Workload>,
    service: Option<&'a Service>,
}

fn find<'a>(
    generation: &'a Generation,
    flow: &Flow<'_>,
    service: &Service,
    waypoint: Gateway,
) -> Result<Far<'a>, Lack> {
    match waypoint {
        Gateway::Hostname { service, port } => {
            let far = generation.service(service).ok_or(Lack::Unknown)?;
            endpoint(generation, flow, far, port)
        }
        Gateway::Address { network, .. } if network != flow.source.network => {
            Err(Lack::ForeignNetwork(network))
        }
        // As the service's namespace sees it: no client makes an address into something else for itself.
        Gateway::Address {
            network,
            address,
            port,
        } => match generation.lookup(network, address, service.namespace) {
            Known::Service(far) => endpoint(generation, flow, far, port),
            Known::Workload(far) => alone(flow, far, SocketAddr::new(address, port)),
            Known::Unusable(_) => Err(Lack::NotUnderstood),
            Known::Nothing => Err(Lack::Unknown),
        },
    }
}

/// One of the endpoints of the waypoint's service.
fn endpoint<'a>(
    generation: &'a Generation,
    flow: &Flow<'_>,
    far: &'a Arc<Service>,
    port: u16,
) -> Result<Far<'a>, Lack> {
    let endpoints = generation.endpoints(far.key);
    if endpoints.iter().any(|it| is_client(flow, &it.workload)) {
        return Err(Lack::Itself);
    }
    let foreign = endpoints
        .iter()
        .map(|it| &it.workload)
        .filter(|workload| is_foreign(flow, workload));
    let tried: Vec<Arc<str>> = foreign.clone().map(|it| Arc::clone(&it.uid)).collect();
    let tried = [flow.tried, &tried].concat();
    let own = far.ports.iter().find(|p| p.service == port).copied();
    let wanted = Wanted {
        source: flow.source,
        // The family that was asked for, if the waypoint has it.
        address: flow.to.ip().to_canonical(),
        // Where only an endpoint says that it takes tunnels, that is enough.
        port: own.unwrap_or(Port {
            service: port,
            target: 0,
        }),
        seed: flow.seed,
        tried: &tried,
    };
    let none = || match foreign.clone().next() {
        Some(workload) if endpoints.len() == foreign.clone().count() => {
            Lack::ForeignNetwork(workload.network)
        }
        _ => Lack::NoHealthyEndpoint,
    };
    let picked = pick(far, endpoints, &wanted).ok_or_else(none)?;
    Ok(Far {
        address: SocketAddr::new(picked.address, picked.port),
        workload: picked.workload,
        service: Some(far),
    })
}

/// The workload that the reference names itself.
fn alone<'a>(
    flow: &Flow<'_>,
    workload: &'a Arc<Workload>,
    address: SocketAddr,
) -> Result<Far<'a>, Lack> {
    if is_client(flow, workload) {
        return Err(Lack::Itself);
    }
    if is_foreign(flow, workload) {
        return Err(Lack::ForeignNetwork(workload.network));
    }
    if workload.health != Health::Healthy || flow.tried.contains(&workload.uid) {
        return Err(Lack::NoHealthyEndpoint);
    }
    Ok(Far {
        address,
        workload,
        service: None,
    })
}

/// Whether the flow comes from this workload.
fn is_client(flow: &Flow<'_>, workload: &Workload) -> bool {
    let own = workload.addresses.contains(&flow.from.ip().to_canonical());
    own && workload.network == flow.source.network
}

/// Whether a workload cannot be reached from where the flow comes from.
pub(super) fn is_foreign(flow: &Flow<'_>, workload: &Workload) -> bool {
    workload.network != flow.source.network || workload.network_gateway.is_some()
}

#[cfg(test)]
mod tests;
