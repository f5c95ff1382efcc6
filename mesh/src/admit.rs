//! May an inbound connection enter a pod, and where does it end?

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    decide::{Decision, Request, Which, decide},
    identity::Identity,
    model::{Port, Service, Workload},
    name::Name,
    pick,
    plan::{Outcome, PROXY_PORTS, Question},
    refusal::Refusal,
    store::Generation,
};

/// The pod that a connection wants to enter, as the node agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The uid by which the control plane knows it: `<cluster>//Pod/<namespace>/<name>`.
    pub uid: Arc<str>,
    /// Who it is.
    pub identity: Identity,
}

/// How a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival<'a> {
    /// As it is, redirected on its way to the application.
    Plain {
        /// Where it was going.
        to: SocketAddr,
    },
    /// As a stream of a tunnel.
    Tunnelled {
        /// From the peer's certificate.
        peer: Identity,
        /// The address of the pod that the tunnel came to.
        at: IpAddr,
        /// What it asks for.
        authority: &'a str,
    },
}

/// An inbound connection that may enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The application's socket.
    pub to: SocketAddr,
    /// The address that the application shall see; none where that would be the pod's own.
    pub from: Option<IpAddr>,
    /// The workload that the pod is.
    pub workload: Arc<Workload>,
    /// The ALLOW policy that matched, if any had to.
    pub allowed_by: Option<Name>,
    /// Policies that would have denied it, were they enforced.
    pub dry_run: Vec<Name>,
    /// The service that trusts the peer to have decided the written policies; they were not decided again.
    pub trusted_by: Option<Arc<Service>>,
}

/// Decides whether a connection from `source` may enter a pod.
///
/// The workload must be known: without it nobody knows which policies apply.
pub fn admit(
    generation: &Generation,
    pod: &Pod,
    arrival: Arrival<'_>,
    source: IpAddr,
) -> Outcome<Admission> {
    let source = source.to_canonical();
    let (peer, to) = match arrival {
        Arrival::Plain { to } => (None, SocketAddr::new(to.ip().to_canonical(), to.port())),
        Arrival::Tunnelled {
            peer,
            at,
            authority,
        } => match target(authority, at.to_canonical()) {
            Ok(to) => (Some(peer), to),
            Err(refusal) => return Outcome::Refuse(refusal),
        },
    };
    if PROXY_PORTS.contains(&to.port()) {
        return Outcome::Refuse(Refusal::ProxyPort(to.port()));
    }
    if !generation.is_complete() {
        return Outcome::Ask(Question::FirstState);
    }
    // A workload of the same name that is somebody else is not this pod.
    let Some(workload) = generation
        .workload(&pod.uid)
        .filter(|w| w.identity == pod.identity)
    else {
        return Outcome::Ask(Question::OwnWorkload);
    };
    if workload.application_tunnel.is_some() {
        return Outcome::Refuse(Refusal::ApplicationTunnel);
    }
    let request = Request {
        peer,
        source,
        destination: to.ip(),
        port: to.port(),
    };
    let trusted_by = peer.and_then(|peer| trusting(generation, workload, peer, to.port()));
    let which = trusted_by.map_or(Which::All, |_| Which::Generated);
    let verdict = decide(generation, workload, &request, which);
    match verdict.decision {
        Decision::Deny(denial) => Outcome::Refuse(Refusal::Denied(denial)),
        Decision::Allow(allowed_by) => Outcome::Do(Admission {
            to,
            from: (source != to.ip()).then_some(source),
            workload: Arc::clone(workload),
            allowed_by,
            dry_run: verdict.dry_run,
            trusted_by: trusted_by.cloned(),
        }),
    }
}

/// The service that trusts `peer` to have decided the written policies of a workload for a connection to `port` of it: one
/// that the workload is an endpoint of, and that leads to that port. A waypoint has only seen what came for the service.
pub fn trusting<'g>(
    generation: &'g Generation,
    workload: &Workload,
    peer: Identity,
    port: u16,
) -> Option<&'g Arc<Service>> {
    workload.services.iter().find_map(|membership| {
        let service = generation.service(membership.service)?;
        let leads = |p: &Port| pick::target(&membership.ports, *p) == Some(port);
        let trusts = service.trusted.contains(&peer) && service.ports.iter().any(leads);
        trusts.then_some(service)
    })
}

/// The application's socket that an authority names. It has to be in the pod the tunnel came to.
fn target(authority: &str, at: IpAddr) -> Result<SocketAddr, Refusal> {
    let bad = || Refusal::BadAuthority(authority.to_owned());
    let to: SocketAddr = authority.parse().map_err(|_| bad())?;
    // No zone, not even zone 0; a port as one counts, which is never 0.
    let port = authority.rsplit(':').next().unwrap_or_default();
    if authority.contains('%') || port.starts_with('0') {
        return Err(bad());
    }
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    if to.ip() != at {
        let pod = SocketAddr::new(at, to.port());
        return Err(Refusal::NotThisPod {
            authority: authority.to_owned(),
            pod,
        });
    }
    Ok(to)
}

#[cfg(test)]
mod tests;
