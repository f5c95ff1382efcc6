//! A service: a name and virtual addresses for a set of workloads.

use std::net::IpAddr;

use crate::{
    identity::Identity,
    model::{Gateway, IpRange},
    name::Name,
};

/// One service (`istio.workload.Service`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `<namespace>/<hostname>`, the resource's name.
    pub key: Name,
    /// Name within its namespace.
    pub name: Name,
    /// Kubernetes namespace.
    pub namespace: Name,
    /// Fully qualified.
    pub hostname: Name,
    /// Virtual addresses and ranges of them.
    pub vips: Box<[Vip]>,
    /// Service port to target port.
    pub ports: Box<[Port]>,
    /// May answer for the service beside its workloads.
    pub identities: Box<[Identity]>,
    /// Where its traffic has to go first.
    pub waypoint: Option<Gateway>,
    /// Has several waypoints, chosen by weight.
    pub weighted_waypoints: bool,
    /// Waypoints that have decided the written policies of its workloads, with the real client, before they come to one
    /// of its target ports (`ambit.waypoint.v1.Trust`).
    pub trusted: Box<[Identity]>,
    /// Why nobody is trusted: what was said of it could not be understood.
    pub distrust: Option<Box<str>>,
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// Address families.
    pub families: Families,
    /// Wins where two services claim an address.
    pub canonical: bool,
    /// Who sees it.
    pub visibility: Visibility,
}

/// A virtual address, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Empty: the default network.
    pub network: Name,
    /// Never IPv4-mapped IPv6.
    pub address: IpAddr,
    /// Prefix length; that of the family for a single address.
    pub length: u8,
}

impl Vip {
    /// Whether it stands for one address only.
    pub fn is_single(&self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether it holds an address of a network.
    pub fn contains(&self, network: Name, address: IpAddr) -> bool {
        let range = IpRange {
            address: self.address,
            length: self.length,
        };
        self.network == network && range.contains(address)
    }
}

/// A port of a service and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What clients ask for.
    pub service: u16,
    /// What the endpoint listens on; 0: each endpoint says its own.
    pub target: u16,
}

/// How one of a service's endpoints is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// What to share with the client, most important first.
    pub preference: Box<[LocalityScope]>,
    /// What the preference means.
    pub mode: Mode,
    /// Endpoints that are not ready take part too.
    pub unhealthy_too: bool,
}

/// What a locality preference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The more leading scopes match, the better.
    Failover,
    /// Keep the original destination.
    Passthrough,
    /// All endpoints are equal.
    Standard,
    /// All scopes must match.
    Strict,
}

/// Something that client and endpoint may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalityScope {
    /// Cluster.
    Cluster,
    /// Network.
    Network,
    /// Node.
    Node,
    /// Region.
    Region,
    /// Subzone, and the wider ones.
    Subzone,
    /// Zone, and the region.
    Zone,
}

/// Address families of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// As it comes.
    Automatic,
    /// Both.
    Dual,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Who sees a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Clients of its own namespace.
    Namespace,
    /// Everybody.
    Public,
}
