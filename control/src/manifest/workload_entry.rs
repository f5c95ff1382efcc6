//! WorkloadEntry (API `networking.istio.io/v1`): a workload outside the cluster; and the endpoint that it is, as a ServiceEntry
//! lists such too.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Labels, Meta,
    meta::is_subdomain,
    read::{At, Faults},
};

/// A WorkloadEntry without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEntry {
    /// Metadata. Its labels are those of the object; see [`WorkloadEntry::labels`] for those of the workload.
    pub meta: Meta,
    /// What it is.
    pub endpoint: Endpoint,
}

impl WorkloadEntry {
    /// The labels of the workload: those of its spec, and those of its metadata, which count where both have one.
    pub fn labels(&self) -> Labels {
        let mut labels = self.endpoint.labels.clone();
        labels.extend(self.meta.labels.clone());
        labels
    }
}

/// Something that is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// By name of a service's port: the endpoint's own.
    pub ports: BTreeMap<String, u16>,
    /// Labels.
    pub labels: Labels,
    /// Empty: the mesh's own.
    pub network: String,
    /// Where it is.
    pub place: Place,
    /// Its share among endpoints; `None` if it says nothing.
    pub weight: Option<u32>,
    /// As whom it runs; may be empty.
    pub service_account: String,
}

/// Where an endpoint is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Address {
    /// Nowhere but through the gateway of its network.
    #[default]
    Network,
    /// At an address.
    Ip(IpAddr),
    /// At whatever a name stands for.
    Host(String),
    /// At a socket of a node, `unix://…`.
    Socket(String),
}

/// Region, zone and subzone; each may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the part of that name")]
pub struct Place {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

const SOCKET: &str = "unix://";

pub(super) fn workload_entry(meta: Meta, root: &At<'_>, faults: &mut Faults) -> WorkloadEntry {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let endpoint = match root.mapping("spec", faults) {
        Some(spec) => endpoint(&spec, faults),
        None => {
            if root.get("spec").is_none() {
                faults.add(root, "spec", "required");
            }
            Endpoint::default()
        }
    };
    WorkloadEntry { meta, endpoint }
}

pub(super) fn endpoint(at: &At<'_>, faults: &mut Faults) -> Endpoint {
    at.only(
        &[
            "address",
            "ports",
            "labels",
            "network",
            "locality",
            "weight",
            "serviceAccount",
        ],
        faults,
    );
    let mut endpoint = Endpoint {
        address: address(at, faults),
        labels: at.labels("labels", faults),
        network: at.text("network", faults).unwrap_or_default().to_owned(),
        place: place(at, faults),
        weight: weight(at, faults),
        service_account: account(at, faults),
        ports: BTreeMap::new(),
    };
    for (name, port) in at.entries("ports", faults) {
        if let Some(port) = port.as_port(faults) {
            endpoint.ports.insert(name.to_owned(), port);
        }
    }
    match endpoint.address {
        Address::Network if endpoint.network.is_empty() => {
            faults.add(at, "address", "required, unless there is a network");
        }
        Address::Socket(_) if !endpoint.ports.is_empty() => {
            faults.add(at, "ports", "a socket has no ports");
        }
        _ => {}
    }
    endpoint
}

fn address(at: &At<'_>, faults: &mut Faults) -> Address {
    let Some(text) = at.text("address", faults).filter(|text| !text.is_empty()) else {
        return Address::Network;
    };
    if let Some(path) = text.strip_prefix(SOCKET) {
        if !path.starts_with(['/', '@']) || path.len() == 1 {
            let reason = format!("{text:?} is neither an absolute path nor an abstract socket");
            faults.add(at, "address", reason);
        }
        return Address::Socket(text.to_owned());
    }
    match text.parse() {
        Ok(address) => Address::Ip(address),
        Err(_) => {
            if !is_host(text) {
                let reason =
                    format!("{text:?} is neither an address nor a host name nor {SOCKET}…");
                faults.add(at, "address", reason);
            }
            Address::Host(text.to_owned())
        }
    }
}

/// A name of DNS, in any case; `_` is a character of some.
pub(super) fn is_host(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let part = |part: &str| (1..=63).contains(&part.len()) && part.bytes().all(allowed);
    text.len() <= 253 && text.split('.').all(part)
}

fn place(at: &At<'_>, faults: &mut Faults) -> Place {
    let text = at.text("locality", faults).unwrap_or_default();
    let mut parts = text.split('/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let place = Place {
        region: part(),
        zone: part(),
        subzone: part(),
    };
    if parts.next().is_some() {
        let reason = format!("{text:?} is not <region>/<zone>/<subzone>");
        faults.add(at, "locality", reason);
    }
    place
}

fn weight(at: &At<'_>, faults: &mut Faults) -> Option<u32> {
    let number = at.whole("weight", faults)?;
    let weight = u32::try_from(number).ok();
    if weight.is_none() {
        let reason = format!("{number} is not a number from 0 to {}", u32::MAX);
        faults.add(at, "weight", reason);
    }
    weight.filter(|&weight| weight > 0)
}

/// It becomes part of an identity, where a '/' would change its meaning.
fn account(at: &At<'_>, faults: &mut Faults) -> String {
    let name = at.text("serviceAccount", faults).unwrap_or_default();
    if !name.is_empty() && !is_subdomain(name) {
        let reason = format!("{name:?} is not a DNS subdomain (a-z, 0-9, '-', '.')");
        faults.add(at, "serviceAccount", reason);
    }
    name.to_owned()
}
