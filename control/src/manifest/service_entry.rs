//! ServiceEntry (API `networking.istio.io/v1`): hosts that the mesh knows although no Service stands for them.
//!
//! `location` and `exportTo` are read and not acted on: neither says anything to a node proxy.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Labels, Meta,
    authorization::Block,
    core::{ServicePort, Target},
    meta::is_label,
    read::{At, Faults},
    workload_entry::{Endpoint, endpoint, is_host},
};

/// A ServiceEntry without faults; or, in place of one that never was without, what could be read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// Metadata.
    pub meta: Meta,
    /// Host names, at least one; `*.` before one stands for any number of labels.
    pub hosts: Vec<String>,
    /// Addresses and address ranges of every host; may be none.
    pub addresses: Vec<Block>,
    /// Ports, of which each has a name.
    pub ports: Vec<ServicePort>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// The endpoints.
    pub members: Members,
    /// `subjectAltNames`: as whom endpoints may answer, too.
    pub identities: Vec<String>,
}

/// How the endpoints of a ServiceEntry are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// There are none: what is sent goes where it was sent to.
    #[default]
    None,
    /// They have addresses.
    Static,
    /// By the names of endpoints, or of the hosts.
    Dns,
    /// The same, one of all addresses at a time.
    DnsRoundRobin,
    /// By the name that the client asks for.
    DynamicDns,
}

/// The endpoints of a ServiceEntry.
#[derive(Clone, Debug, PartialEq)]
pub enum Members {
    /// These.
    Listed(Vec<Endpoint>),
    /// Pods and WorkloadEntries of its namespace with these labels; without labels none.
    Selected(Labels),
    /// What it selects cannot be read. Only of what stands in for an object.
    Unknown,
}

impl ServiceEntry {
    /// One of which nothing could be read but its metadata.
    pub fn unknown(meta: Meta) -> Self {
        Self {
            meta,
            hosts: Vec::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
            resolution: Resolution::default(),
            members: Members::Unknown,
            identities: Vec::new(),
        }
    }
}

impl Members {
    /// Whether a workload of the namespace with these labels is one, or may be.
    pub fn may_select(&self, labels: &Labels) -> bool {
        match self {
            Self::Listed(_) => false,
            Self::Selected(wanted) => {
                !wanted.is_empty() && wanted.iter().all(|(key, it)| labels.get(key) == Some(it))
            }
            Self::Unknown => true,
        }
    }
}

impl Resolution {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Static,
        Self::Dns,
        Self::DnsRoundRobin,
        Self::DynamicDns,
    ];

    /// As written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DnsRoundRobin => "DNS_ROUND_ROBIN",
            Self::DynamicDns => "DYNAMIC_DNS",
        }
    }
}

/// The API's own limits.
const MOST: usize = 256;

pub(super) fn service_entry(meta: Meta, root: &At<'_>, faults: &mut Faults) -> ServiceEntry {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut entry = ServiceEntry::unknown(meta);
    let Some(spec) = root.mapping("spec", faults) else {
        if root.get("spec").is_none() {
            faults.add(root, "spec", "required");
        }
        return entry;
    };
    spec.only(
        &[
            "hosts",
            "addresses",
            "ports",
            "location",
            "resolution",
            "endpoints",
            "workloadSelector",
            "exportTo",
            "subjectAltNames",
        ],
        faults,
    );
    entry.hosts = hosts(&spec, faults);
    entry.resolution = resolution(&spec, faults);
    entry.addresses = addresses(&spec, entry.resolution, faults);
    entry.ports = ports(&spec, faults);
    entry.members = members(&spec, entry.resolution, faults);
    let identities = spec.texts("subjectAltNames", faults);
    entry.identities = identities.iter().map(|(_, it)| (*it).to_owned()).collect();
    ignored(&spec, faults);
    entry
}

/// What nobody acts on has to be what the API has, all the same.
fn ignored(spec: &At<'_>, faults: &mut Faults) {
    let location = spec.text("location", faults);
    if location.is_some_and(|it| !["MESH_EXTERNAL", "MESH_INTERNAL"].contains(&it)) {
        let reason = format!(
            "{:?} is neither MESH_EXTERNAL nor MESH_INTERNAL",
            location.unwrap_or_default()
        );
        faults.add(spec, "location", reason);
    }
    for (at, text) in spec.texts("exportTo", faults) {
        if ![".", "*", "~"].contains(&text) && !is_label(text) {
            let reason = format!("{text:?} is none of '.', '*', '~', and not a namespace");
            faults.add(&at, "", reason);
        }
    }
}

fn hosts(spec: &At<'_>, faults: &mut Faults) -> Vec<String> {
    let count = spec.at_most("hosts", MOST, faults).len();
    if count == 0 {
        faults.add(spec, "hosts", "at least one is required");
    }
    let mut hosts = Vec::new();
    for (at, text) in spec.texts("hosts", faults) {
        if is_host(text.strip_prefix("*.").unwrap_or(text)) {
            hosts.push(text.to_owned());
        } else {
            faults.add(&at, "", format!("{text:?} is not a host name"));
        }
    }
    hosts
}

fn resolution(spec: &At<'_>, faults: &mut Faults) -> Resolution {
    let Some(text) = spec.text("resolution", faults) else {
        return Resolution::default();
    };
    let mut all = Resolution::ALL.into_iter();
    all.find(|it| it.as_str() == text).unwrap_or_else(|| {
        let known = Resolution::ALL.map(Resolution::as_str).join(", ");
        faults.add(spec, "resolution", format!("{text:?} is none of {known}"));
        Resolution::default()
    })
}

fn addresses(spec: &At<'_>, resolution: Resolution, faults: &mut Faults) -> Vec<Block> {
    spec.at_most("addresses", MOST, faults);
    let mut all = Vec::new();
    for (at, text) in spec.texts("addresses", faults) {
        let Some(block) = block(text) else {
            let reason = format!("{text:?} is neither an address nor an address range");
            faults.add(&at, "", reason);
            continue;
        };
        let of_names = [Resolution::Dns, Resolution::DnsRoundRobin].contains(&resolution);
        if of_names && !is_single(&block) {
            let reason = format!("no address range with resolution {}", resolution.as_str());
            faults.add(&at, "", reason);
        }
        all.push(block);
    }
    all
}

/// Whether a range is one address.
pub fn is_single(block: &Block) -> bool {
    block.length == whole(block.address)
}

fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn block(text: &str) -> Option<Block> {
    let (address, length) = match text.split_once('/') {
        None => (text, None),
        Some((address, length)) => (address, Some(length.parse().ok()?)),
    };
    let address: IpAddr = address.parse().ok()?;
    let length = length.unwrap_or_else(|| whole(address));
    (length <= whole(address)).then_some(Block { address, length })
}

fn ports(spec: &At<'_>, faults: &mut Faults) -> Vec<ServicePort> {
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for at in spec.at_most("ports", MOST, faults) {
        at.only(&["number", "name", "protocol", "targetPort"], faults);
        let name = at.required("name", faults).to_owned();
        let protocol = at.text("protocol", faults).unwrap_or_default();
        if at.get("number").is_none() {
            faults.add(&at, "number", "a port number is required");
        }
        let Some(port) = at.port("number", faults) else {
            continue;
        };
        if !numbers.insert(port) {
            faults.add(&at, "number", format!("{port} is there twice"));
        }
        if !name.is_empty() && !names.insert(name.clone()) {
            faults.add(&at, "name", format!("{name:?} is there twice"));
        }
        ports.push(ServicePort {
            target: Target::Number(at.port("targetPort", faults).unwrap_or(port)),
            udp: protocol.eq_ignore_ascii_case("UDP"),
            // What it says counts and not its name, even if that is nothing.
            app_protocol: Some(protocol.to_owned()),
            name,
            port,
        });
    }
    ports
}

fn members(spec: &At<'_>, resolution: Resolution, faults: &mut Faults) -> Members {
    let listed = spec.items("endpoints", faults);
    if !listed.is_empty() && spec.get("workloadSelector").is_some() {
        faults.add(spec, "", "at most one of endpoints, workloadSelector");
    }
    if !listed.is_empty() && resolution == Resolution::None {
        faults.add(spec, "endpoints", "none with resolution NONE");
    }
    if listed.len() > 1 && resolution == Resolution::DnsRoundRobin {
        faults.add(
            spec,
            "endpoints",
            "at most one with resolution DNS_ROUND_ROBIN",
        );
    }
    if spec.get("workloadSelector").is_none() {
        let listed = listed.iter().map(|at| endpoint(at, faults));
        return Members::Listed(listed.collect());
    }
    let mut own = Faults::default();
    let selector = spec.mapping("workloadSelector", &mut own);
    let labels = selector.map(|at| {
        at.only(&["labels"], &mut own);
        at.labels("labels", &mut own)
    });
    let members = match labels {
        Some(labels) if own.is_empty() => Members::Selected(labels),
        _ => Members::Unknown,
    };
    faults.extend(own);
    members
}
