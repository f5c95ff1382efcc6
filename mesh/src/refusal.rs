//! Every reason not to carry a flow, and how each looks from outside. No other place maps errors to the outside.

use std::{fmt, net::SocketAddr};

use crate::{decide::Denial, identity::Identity, model::Gateway, name::Name};

/// Why a flow is not carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The workload ends in a tunnel of its own, which is not served.
    ApplicationTunnel,
    /// The `:authority` of a tunnelled stream is not an address and port.
    BadAuthority(String),
    /// The tunnelled stream is not a CONNECT.
    BadMethod(String),
    /// Policy says no.
    Denied(Denial),
    /// The destination is on another network, which is not served.
    ForeignNetwork(Name),
    /// The destination workload has a name to resolve, which is not served.
    HostnameWorkload(String),
    /// It would come back to this proxy.
    Loop(SocketAddr),
    /// The endpoint has no address that can be used.
    NoAddress(String),
    /// The certificate for an identity could not be had.
    NoCertificate {
        /// Whose.
        identity: Identity,
        /// What the certificate authority, or the way to it, said.
        reason: String,
    },
    /// A service is known, but no endpoint of it can take the flow.
    NoHealthyEndpoint(Name),
    /// The service has no such port.
    NoSuchPort {
        /// `<namespace>/<hostname>`.
        service: Name,
        /// What was asked for.
        port: u16,
    },
    /// The service's traffic has to go through a waypoint that cannot be had. Nothing goes around it.
    NoWaypoint {
        /// `<namespace>/<hostname>` of the service that was asked for.
        service: Name,
        /// The waypoint, as the service refers to it.
        waypoint: Gateway,
        /// Why it cannot be had.
        lack: Lack,
    },
    /// The control plane has not said yet what is needed.
    NotKnownYet(String),
    /// A tunnelled stream asks for something that is not this pod.
    NotThisPod {
        /// What it asks for.
        authority: String,
        /// What this pod is.
        pod: SocketAddr,
    },
    /// The port belongs to the proxy.
    ProxyPort(u16),
    /// The peer's proxy answered with this HTTP status.
    RefusedByPeer {
        /// Where it is.
        peer: SocketAddr,
        /// Its answer.
        status: u16,
    },
    /// The waypoint on the way answered with this HTTP status.
    RefusedByWaypoint {
        /// The waypoint's workload.
        waypoint: String,
        /// Where it is.
        peer: SocketAddr,
        /// Its answer.
        status: u16,
    },
    /// Too many flows of this workload at once.
    TooMany,
    /// A tunnel to a peer could not be opened, or broke.
    Tunnel {
        /// Where to.
        to: SocketAddr,
        /// Where it failed.
        stage: Stage,
        /// What happened.
        reason: String,
    },
    /// A connection to the application, or to what is outside the mesh, failed.
    Unreachable {
        /// Where to.
        to: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The resource for the destination could not be understood.
    Unusable(String),
    /// The destination, as these words call it, has several waypoints by weight. They are not served, and nothing goes
    /// around them.
    WeightedWaypoints(String),
    /// The workload that was asked for by its own address has a waypoint. That is not served, and nothing goes around it.
    WorkloadWaypoint(String),
}

/// Why a waypoint cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lack {
    /// It is on this network, which is not ours.
    ForeignNetwork(Name),
    /// The client is that waypoint: its flow would come back to it.
    Itself,
    /// None of its endpoints takes tunnels now.
    NoHealthyEndpoint,
    /// What it says of itself could not be understood.
    NotUnderstood,
    /// Nobody knows it.
    Unknown,
}

/// Where a tunnel failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// TCP.
    Connect,
    /// HTTP/2.
    Http2,
    /// TLS, the peer's identity included.
    Tls,
}

/// What metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `CONNECT`: no connection came about.
    Connect,
    /// `DENY`: policy.
    Deny,
    /// `H2_HANDSHAKE_FAILURE`.
    Http2,
    /// `IDENTITY_ERROR`: no certificate of our own.
    Identity,
    /// `TLS_FAILURE`.
    Tls,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Who connects.
    Client,
    /// The mesh, its control plane or its configuration.
    Mesh,
    /// Who is connected to.
    Server,
}

impl Refusal {
    /// The HTTP status for a tunnelled stream.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadAuthority(_) | Self::BadMethod(_) | Self::NotThisPod { .. } => 400,
            Self::Denied(_) => 401,
            Self::ApplicationTunnel
            | Self::ForeignNetwork(_)
            | Self::HostnameWorkload(_)
            | Self::Loop(_)
            | Self::NoAddress(_)
            | Self::NoCertificate { .. }
            | Self::NoHealthyEndpoint(_)
            | Self::NoSuchPort { .. }
            | Self::NoWaypoint { .. }
            | Self::NotKnownYet(_)
            | Self::ProxyPort(_)
            | Self::RefusedByPeer { .. }
            | Self::RefusedByWaypoint { .. }
            | Self::TooMany
            | Self::Tunnel { .. }
            | Self::Unreachable { .. }
            | Self::Unusable(_)
            | Self::WeightedWaypoints(_)
            | Self::WorkloadWaypoint(_) => 503,
        }
    }

    /// The `response_flags` of metrics.
    pub fn flag(&self) -> Flag {
        match self {
            // A waypoint speaks of a denial as HTTP does, a node proxy always as the mesh does.
            Self::Denied(_)
            | Self::RefusedByPeer { status: 401, .. }
            | Self::RefusedByWaypoint {
                status: 401 | 403, ..
            } => Flag::Deny,
            Self::NoCertificate { .. } => Flag::Identity,
            Self::Tunnel {
                stage: Stage::Http2,
                ..
            } => Flag::Http2,
            Self::Tunnel {
                stage: Stage::Tls, ..
            } => Flag::Tls,
            _ => Flag::Connect,
        }
    }

    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::BadAuthority(_)
            | Self::BadMethod(_)
            | Self::Denied(_)
            | Self::Loop(_)
            | Self::NoSuchPort { .. }
            | Self::NotThisPod { .. }
            | Self::ProxyPort(_)
            | Self::TooMany => Blame::Client,
            Self::NoHealthyEndpoint(_)
            | Self::RefusedByPeer { .. }
            | Self::RefusedByWaypoint { .. }
            | Self::Unreachable { .. } => Blame::Server,
            Self::ApplicationTunnel
            | Self::ForeignNetwork(_)
            | Self::HostnameWorkload(_)
            | Self::NoAddress(_)
            | Self::NoCertificate { .. }
            | Self::NoWaypoint { .. }
            | Self::NotKnownYet(_)
            | Self::Tunnel { .. }
            | Self::Unusable(_)
            | Self::WeightedWaypoints(_)
            | Self::WorkloadWaypoint(_) => Blame::Mesh,
        }
    }

    /// Whether another endpoint may do better. Nothing was sent yet in any of these cases.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Tunnel {
                    stage: Stage::Connect,
                    ..
                }
        )
    }

    /// The policy that decided, if one did.
    pub fn policy(&self) -> Option<Name> {
        match self {
            Self::Denied(denial) => Some(denial.policy()),
            _ => None,
        }
    }
}

/// What becomes of a waypoint of a kind that we do not know how to go through.
const KEPT: &str = "which is not served; nothing goes around it";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApplicationTunnel => {
                f.write_str("the workload wants an application tunnel, which is not served")
            }
            Self::BadAuthority(text) => {
                write!(f, "authority {text:?} is not an address and a port")
            }
            Self::BadMethod(method) => write!(f, "method {method:?} is not CONNECT"),
            Self::Denied(denial) => {
                write!(f, "connection closed due to policy rejection: {denial}")
            }
            Self::ForeignNetwork(network) => {
                write!(
                    f,
                    "the destination is on network {network:?}, which is not served"
                )
            }
            Self::HostnameWorkload(uid) => {
                write!(
                    f,
                    "workload {uid} has a host name to resolve, which is not served"
                )
            }
            Self::Loop(to) => write!(f, "{to} leads back to this proxy"),
            Self::NoAddress(uid) => write!(f, "workload {uid} has no address that can be used"),
            Self::NoCertificate { identity, reason } => {
                write!(f, "no certificate for {identity}: {reason}")
            }
            Self::NoHealthyEndpoint(service) => {
                write!(f, "no healthy endpoint in service {service}")
            }
            Self::NoSuchPort { service, port } => write!(f, "service {service} has no port {port}"),
            Self::NoWaypoint {
                service,
                waypoint,
                lack,
            } => write!(
                f,
                "service {service} has waypoint {waypoint}, and nothing goes around it: {lack}"
            ),
            Self::NotKnownYet(what) => write!(f, "the control plane has not sent {what} yet"),
            Self::NotThisPod { authority, pod } => {
                write!(f, "ip mismatch: authority {authority} is not {pod}")
            }
            Self::ProxyPort(port) => write!(f, "port {port} belongs to the proxy"),
            Self::RefusedByPeer { peer, status } => write!(f, "{peer} answered {status}"),
            Self::RefusedByWaypoint {
                waypoint,
                peer,
                status,
            } => write!(f, "waypoint {waypoint} at {peer} answered {status}"),
            Self::TooMany => f.write_str("too many connections of this workload"),
            Self::Tunnel { to, stage, reason } => write!(f, "no tunnel to {to}: {stage}: {reason}"),
            Self::Unreachable { to, reason } => write!(f, "no connection to {to}: {reason}"),
            Self::Unusable(name) => {
                write!(
                    f,
                    "resource {name} could not be understood, so nothing goes there"
                )
            }
            Self::WeightedWaypoints(it) => write!(f, "service {it} has weighted waypoints, {KEPT}"),
            Self::WorkloadWaypoint(it) => write!(f, "workload {it} has a waypoint, {KEPT}"),
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignNetwork(network) => {
                write!(f, "it is on network {network:?}, which is not served")
            }
            Self::Itself => f.write_str("the client is that waypoint itself"),
            Self::NoHealthyEndpoint => f.write_str("it has no healthy endpoint"),
            Self::NotUnderstood => f.write_str("what it says of itself could not be understood"),
            Self::Unknown => f.write_str("it is unknown"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "tcp",
            Self::Http2 => "http/2",
            Self::Tls => "tls",
        })
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
