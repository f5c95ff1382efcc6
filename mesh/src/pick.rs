//! Choosing one of a service's endpoints.

use std::{net::IpAddr, sync::Arc};

use crate::{
    model::{Families, Health, LocalityScope, Mode, Port, Service, Workload},
    name::Name,
    plan::Source,
    store::Endpoint,
};

/// An endpoint and how to reach it.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// What a client wants of a service.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Who asks.
    pub source: &'a Source,
    /// The address it asked for.
    pub address: IpAddr,
    /// The port it asked for.
    pub port: Port,
    /// The same seed always chooses the same.
    pub seed: u64,
    /// Uids of endpoints to leave out.
    pub tried: &'a [Arc<str>],
}

/// One endpoint of `service`, weighted by capacity among the best that its preference leaves.
pub fn pick<'a>(
    service: &Service,
    endpoints: &'a [Endpoint],
    wanted: &Wanted<'_>,
) -> Option<Picked<'a>> {
    let best = eligible(service, endpoints, wanted);
    let weight = |picked: &Picked<'_>| u64::from(picked.workload.capacity);
    let mut left = wanted.seed.checked_rem(best.iter().map(weight).sum())?;
    best.into_iter().find(|picked| {
        let here = left < weight(picked);
        left = left.saturating_sub(weight(picked));
        here
    })
}

/// The endpoints of `service` to choose from: the best that its preference leaves.
pub fn eligible<'a>(
    service: &Service,
    endpoints: &'a [Endpoint],
    wanted: &Wanted<'_>,
) -> Vec<Picked<'a>> {
    let eligible = endpoints.iter().filter_map(|endpoint| {
        let workload = &endpoint.workload;
        let healthy = workload.health == Health::Healthy || service.balancing.unhealthy_too;
        if !healthy || wanted.tried.contains(&workload.uid) {
            return None;
        }
        let port = target(&endpoint.ports, wanted.port)?;
        let address = choose_address(workload, wanted.address, service.families)?;
        let rank = rank(service, wanted.source, workload)?;
        Some((
            rank,
            Picked {
                workload,
                address,
                port,
            },
        ))
    });
    let mut best: Vec<Picked<'a>> = Vec::new();
    let mut best_rank = 0;
    for (rank, picked) in eligible {
        if rank > best_rank {
            best.clear();
            best_rank = rank;
        }
        if rank == best_rank {
            best.push(picked);
        }
    }
    best
}

/// The endpoint's own port for a service port, if it has one: by what the endpoint itself says, else by the service.
pub(crate) fn target(own: &[Port], port: Port) -> Option<u16> {
    let own = own
        .iter()
        .find(|p| p.service == port.service)
        .map(|p| p.target);
    [own, Some(port.target)]
        .into_iter()
        .flatten()
        .find(|target| *target != 0)
}

/// The address asked for if it is the workload's; else one of the same family; else any allowed.
pub(crate) fn choose_address(
    workload: &Workload,
    wanted: IpAddr,
    families: Families,
) -> Option<IpAddr> {
    let allowed = |a: &&IpAddr| match families {
        Families::Automatic | Families::Dual => true,
        Families::V4 => a.is_ipv4(),
        Families::V6 => a.is_ipv6(),
    };
    let own = || workload.addresses.iter().filter(allowed);
    own()
        .find(|a| **a == wanted)
        .or_else(|| own().find(|a| a.is_ipv4() == wanted.is_ipv4()))
        .or_else(|| own().next())
        .copied()
}

/// How well an endpoint fits; more is better, none is not at all.
fn rank(service: &Service, source: &Source, workload: &Workload) -> Option<usize> {
    let preference = &service.balancing.preference;
    let shared = preference
        .iter()
        .take_while(|scope| shares(**scope, source, workload))
        .count();
    match service.balancing.mode {
        Mode::Standard | Mode::Passthrough => Some(0),
        Mode::Failover => Some(shared),
        Mode::Strict => (shared == preference.len()).then_some(0),
    }
}

/// Whether client and endpoint share a scope. Where either side is unknown they do not, but for the
/// network, where the empty name is the default one. Who shares the node shares all that is wider,
/// so that a preference works on nodes that nobody labelled.
fn shares(scope: LocalityScope, source: &Source, workload: &Workload) -> bool {
    let known = |from: Name, to: Name| from == to && !to.is_empty();
    let (from, to) = (&source.locality, &workload.locality);
    let cluster = source.cluster == workload.cluster;
    let node = cluster && known(source.node, workload.node);
    let region = node || known(from.region, to.region);
    let zone = node || region && known(from.zone, to.zone);
    match scope {
        LocalityScope::Cluster => cluster,
        LocalityScope::Network => source.network == workload.network,
        LocalityScope::Node => node,
        LocalityScope::Region => region,
        LocalityScope::Subzone => node || zone && known(from.subzone, to.subzone),
        LocalityScope::Zone => zone,
    }
}

#[cfg(test)]
mod tests;
