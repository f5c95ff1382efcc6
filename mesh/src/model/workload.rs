//! A workload: something with an identity and, mostly, addresses. A pod, nearly always.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{identity::Identity, model::Port, name::Name, plan::HBONE_PORT};

/// One workload (`istio.workload.Workload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The resource's name, unique and stable: `<cluster>//Pod/<namespace>/<name>` for a pod.
    pub uid: Arc<str>,
    /// Name within its namespace.
    pub name: Box<str>,
    /// Who it is.
    pub identity: Identity,
    /// Never IPv4-mapped IPv6.
    pub addresses: Box<[IpAddr]>,
    /// A name to resolve where there are no addresses.
    pub hostname: Option<Box<str>>,
    /// Empty: the default network.
    pub network: Name,
    /// How it takes connections.
    pub protocol: Protocol,
    /// Ends tunnels itself; nothing of it is captured.
    pub native_tunnel: bool,
    /// Where traffic for its addresses has to go first.
    pub waypoint: Option<Gateway>,
    /// How to get at it from another network.
    pub network_gateway: Option<Gateway>,
    /// A tunnel inside the pod, behind the node proxy.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Services that it is an endpoint of, sorted by service.
    pub services: Box<[Membership]>,
    /// `<namespace>/<name>` of the policies that select it, beside those of its namespace and mesh.
    pub policies: Box<[Name]>,
    /// Whether it takes new connections of a service.
    pub health: Health,
    /// Shares its node's addresses, so none of them names it.
    pub host_network: bool,
    /// The node that it runs on.
    pub node: Name,
    /// The cluster that it runs in.
    pub cluster: Name,
    /// Where it runs.
    pub locality: Locality,
    /// Weight among a service's endpoints; at least 1.
    pub capacity: u32,
    /// Telemetry: what the workload belongs to.
    pub workload_name: Name,
    /// Telemetry: of which kind that is.
    pub workload_type: WorkloadType,
    /// Telemetry: service name by label.
    pub canonical_name: Name,
    /// Telemetry: service version by label.
    pub canonical_revision: Name,
}

/// How a workload takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Inside mTLS tunnels on port 15008.
    Hbone,
    /// As they are.
    Tcp,
}

/// Whether a workload takes new connections of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Healthy,
    /// Only where the service asks for endpoints that are not ready.
    Unhealthy,
}

/// Telemetry: what kind of object a workload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadType {
    /// `CronJob`.
    CronJob,
    /// `Deployment`.
    Deployment,
    /// `Job`.
    Job,
    /// A pod of its own.
    Pod,
}

impl WorkloadType {
    /// The word that keys in `baggage` and the admin interface use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CronJob => "cronjob",
            Self::Deployment => "deployment",
            Self::Job => "job",
            Self::Pod => "pod",
        }
    }
}

/// Where a workload runs. Empty names are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// The widest.
    pub region: Name,
    /// Within a region.
    pub zone: Name,
    /// Within a zone.
    pub subzone: Name,
}

/// Being an endpoint of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// `<namespace>/<hostname>`.
    pub service: Name,
    /// Service port to this endpoint's own port.
    pub ports: Box<[Port]>,
}

/// A waypoint or a network gateway, by name or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gateway {
    /// By a service's `<namespace>/<hostname>`.
    Hostname {
        /// `<namespace>/<hostname>`.
        service: Name,
        /// Port that takes tunnels.
        port: u16,
    },
    /// By address.
    Address {
        /// Network of the address.
        network: Name,
        /// Address.
        address: IpAddr,
        /// Port that takes tunnels.
        port: u16,
    },
}

impl fmt::Display for Gateway {
    /// `<namespace>/<hostname>`, or the address after its network; the port only if it is not that of all tunnels.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match *self {
            Self::Hostname { service, port } => {
                write!(f, "{service}")?;
                port
            }
            Self::Address {
                network,
                address,
                port,
            } => {
                if !network.is_empty() {
                    write!(f, "{network}/")?;
                }
                write!(f, "{address}")?;
                port
            }
        };
        if port == HBONE_PORT {
            Ok(())
        } else {
            write!(f, " port {port}")
        }
    }
}

/// A tunnel inside the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// Whether PROXY protocol comes first.
    pub proxy_protocol: bool,
    /// Port; absent: the one that was asked for.
    pub port: Option<u16>,
}

impl Workload {
    /// The workload's namespace, which is that of its identity.
    pub fn namespace(&self) -> Name {
        self.identity.namespace
    }
}
