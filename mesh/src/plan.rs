//! Where an outbound flow goes.

mod waypoint;

use std::{fmt, net::SocketAddr, sync::Arc};

use waypoint::is_foreign;
pub use waypoint::through;

use crate::{
    identity::Identity,
    model::{Families, Locality, Mode, Protocol, Service, Workload},
    name::Name,
    pick::{Wanted, choose_address, pick},
    refusal::Refusal,
    store::{Generation, Known},
};

/// The port of tunnels.
pub const HBONE_PORT: u16 = 15008;
/// Ports of the proxy inside a pod: outbound, plain inbound, tunnels.
pub const PROXY_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// The workload that a flow comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who it is, as the node agent says.
    pub identity: Identity,
    /// Network of the node.
    pub network: Name,
    /// Node that it runs on.
    pub node: Name,
    /// Cluster that it runs in.
    pub cluster: Name,
    /// Where it runs; empty names if that is not known.
    pub locality: Locality,
}

/// One captured connection.
#[derive(Clone, Debug)]
pub struct Flow<'a> {
    /// Where it comes from.
    pub source: &'a Source,
    /// The client's socket.
    pub from: SocketAddr,
    /// Where the application wanted to go.
    pub to: SocketAddr,
    /// Every choice derives from it, so that a second call chooses the same.
    pub seed: u64,
    /// Uids of endpoints that were tried in vain.
    pub tried: &'a [Arc<str>],
}

/// What `plan` and `admit` can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Find this out, and call again.
    Ask(Question),
    /// Do this.
    Do(T),
    /// Do nothing, for this reason.
    Refuse(Refusal),
}

/// Something that a decision needs and the generation does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The control plane's first complete answer.
    FirstState,
    /// The workload that a pod of this node is.
    OwnWorkload,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstState => "its first state",
            Self::OwnWorkload => "the workload of this pod",
        })
    }
}

/// How to carry a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// As it is, to a workload of the mesh that does not take tunnels.
    Direct {
        /// Where to.
        to: SocketAddr,
        /// The workload there.
        workload: Arc<Workload>,
        /// The service that was asked for.
        service: Option<Arc<Service>>,
    },
    /// As it is, to what is outside the mesh.
    Passthrough {
        /// Where the application wanted to go.
        to: SocketAddr,
    },
    /// Inside a tunnel: to the workload's own proxy, or to a waypoint.
    Tunnel(Hop),
}

/// The far end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Where the tunnel goes.
    pub address: SocketAddr,
    /// Who may answer there.
    pub identities: Vec<Identity>,
    /// What to ask for: the workload's own address and port; of a waypoint the service's.
    pub authority: SocketAddr,
    /// The workload there.
    pub workload: Arc<Workload>,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// The workload there is the service's waypoint, not what was asked for.
    pub waypoint: bool,
}

impl Plan {
    /// Where the connection of this proxy goes.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Direct { to, .. } | Self::Passthrough { to } => *to,
            Self::Tunnel(hop) => hop.address,
        }
    }

    /// Where its bytes end: within a tunnel, what the far end is asked for.
    pub fn end(&self) -> SocketAddr {
        match self {
            Self::Direct { to, .. } | Self::Passthrough { to } => *to,
            Self::Tunnel(hop) => hop.authority,
        }
    }

    /// The service that was asked for.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Direct { service, .. } => service.as_ref(),
            Self::Passthrough { .. } => None,
            Self::Tunnel(hop) => hop.service.as_ref(),
        }
    }

    /// The workload at the other end, if it is one of the mesh.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Direct { workload, .. } => Some(workload),
            Self::Passthrough { .. } => None,
            Self::Tunnel(hop) => Some(&hop.workload),
        }
    }
}

/// Decides where an outbound flow goes.
pub fn plan(generation: &Generation, flow: &Flow<'_>) -> Outcome<Plan> {
    let to = SocketAddr::new(flow.to.ip().to_canonical(), flow.to.port());
    let own = to.ip().is_loopback() || to.ip() == flow.from.ip().to_canonical();
    if own && PROXY_PORTS.contains(&to.port()) {
        return Outcome::Refuse(Refusal::Loop(to));
    }
    if !generation.is_complete() {
        return Outcome::Ask(Question::FirstState);
    }
    let Source {
        network, identity, ..
    } = flow.source;
    match generation.lookup(*network, to.ip(), identity.namespace) {
        Known::Nothing => Outcome::Do(Plan::Passthrough { to }),
        Known::Service(service) => to_service(generation, flow, to, service),
        Known::Unusable(name) => Outcome::Refuse(Refusal::Unusable(name.to_owned())),
        Known::Workload(workload) => to_workload(flow, workload, to, None),
    }
}

fn to_service(
    generation: &Generation,
    flow: &Flow<'_>,
    to: SocketAddr,
    service: &Arc<Service>,
) -> Outcome<Plan> {
    if service.weighted_waypoints {
        return Outcome::Refuse(Refusal::WeightedWaypoints(service.key.to_string()));
    }
    // What the waypoint makes of a destination that is to be kept is its business.
    if service.balancing.mode == Mode::Passthrough && service.waypoint.is_none() {
        // What is kept may be a pod's address: its tunnel is kept too.
        return match generation.workload_at(flow.source.network, to.ip()) {
            Some(workload) => to_workload(flow, workload, to, None),
            None => Outcome::Do(Plan::Passthrough { to }),
        };
    }
    let Some(port) = service
        .ports
        .iter()
        .find(|p| p.service == to.port())
        .copied()
    else {
        return Outcome::Refuse(Refusal::NoSuchPort {
            service: service.key,
            port: to.port(),
        });
    };
    if let Some(waypoint) = service.waypoint {
        return match through(generation, flow, service, waypoint) {
            Ok(hop) => Outcome::Do(Plan::Tunnel(hop)),
            Err(refusal) => Outcome::Refuse(refusal),
        };
    }
    let Flow {
        source,
        seed,
        tried,
        ..
    } = *flow;
    let endpoints = generation.endpoints(service.key);
    let wanted = Wanted {
        source,
        address: to.ip(),
        port,
        seed,
        tried,
    };
    if let Some(picked) = pick(service, endpoints, &wanted) {
        let to = SocketAddr::new(picked.address, picked.port);
        return to_workload(flow, picked.workload, to, Some(service));
    }
    let unresolved = |w: &Arc<Workload>| w.hostname.is_some() && w.addresses.is_empty();
    Outcome::Refuse(
        match endpoints
            .iter()
            .map(|e| &e.workload)
            .find(|w| unresolved(w))
        {
            Some(workload) => Refusal::HostnameWorkload(workload.uid.to_string()),
            None => Refusal::NoHealthyEndpoint(service.key),
        },
    )
}

pub(crate) fn to_workload(
    flow: &Flow<'_>,
    workload: &Arc<Workload>,
    to: SocketAddr,
    service: Option<&Arc<Service>>,
) -> Outcome<Plan> {
    if is_foreign(flow, workload) {
        return Outcome::Refuse(Refusal::ForeignNetwork(workload.network));
    }
    if service.is_none() && workload.waypoint.is_some() {
        return Outcome::Refuse(Refusal::WorkloadWaypoint(workload.uid.to_string()));
    }
    let Some(address) = choose_address(workload, to.ip(), Families::Automatic) else {
        return Outcome::Refuse(Refusal::NoAddress(workload.uid.to_string()));
    };
    let to = SocketAddr::new(address, to.port());
    let (workload, service) = (Arc::clone(workload), service.cloned());
    Outcome::Do(match workload.protocol {
        Protocol::Tcp => Plan::Direct {
            to,
            workload,
            service,
        },
        Protocol::Hbone => Plan::Tunnel(Hop {
            address: SocketAddr::new(address, HBONE_PORT),
            identities: expected(&workload, service.as_deref()),
            authority: to,
            workload,
            service,
            waypoint: false,
        }),
    })
}

/// Who may answer: the workload, and whoever the service says may.
fn expected(workload: &Workload, service: Option<&Service>) -> Vec<Identity> {
    let also = service.map_or(&[][..], |service| &service.identities);
    let also = also
        .iter()
        .copied()
        .filter(|identity| *identity != workload.identity);
    std::iter::once(workload.identity).chain(also).collect()
}

#[cfg(test)]
mod tests;
