//! What a workload is, of a pod or of any origin.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use proto::workload::{
    Locality, NetworkMode, Port, TunnelProtocol, Workload, WorkloadStatus, WorkloadType,
};

use super::{Scope, entry, gateway, octets};
use crate::{
    manifest::{
        Labels, Meta, Node, Pod, Service, ServiceEntry, WorkloadEntry,
        core::{ServicePort, Target},
    },
    world::PodReport,
};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const TUNNEL: &str = "networking.istio.io/tunnel";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
/// What begins the id of a pod, after the cluster's.
const POD: &str = "//Pod/";
pub(super) const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
/// The most telling first.
const NAME: [&str; 3] = [
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
const REVISION: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

/// The pods by the addresses that are theirs alone, whether they are in the mesh already or not.
pub(super) fn by_address(scope: Scope<'_>) -> HashMap<IpAddr, &Pod> {
    having(scope, |_| true)
}

/// The same, as far as somebody asks for an address.
pub(super) fn having(scope: Scope<'_>, asked: impl Fn(&IpAddr) -> bool) -> HashMap<IpAddr, &Pod> {
    let mut pods = HashMap::new();
    for (key, pod) in &scope.world.pods {
        let reported = scope.report(key, pod).map(|report| &report.addresses);
        let reported = reported.filter(|addresses| !addresses.is_empty());
        let mut addresses = reported.unwrap_or(&pod.addresses).iter();
        if pod.over || pod.host_network || !addresses.any(&asked) {
            continue;
        }
        if scope.sees(&pod.meta.namespace) {
            let addresses = reported.unwrap_or(&pod.addresses).iter();
            let asked = addresses.filter(|it| asked(it));
            pods.extend(asked.map(|address| (*address, &**pod)));
        }
    }
    pods
}

/// What a workload was made of.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Pod(&'a Pod),
    Entry(&'a WorkloadEntry),
    /// One of the endpoints that a ServiceEntry lists.
    Listed(&'a ServiceEntry),
}

impl<'a> Origin<'a> {
    /// Of the object.
    pub(super) fn meta(self) -> &'a Meta {
        match self {
            Self::Pod(pod) => &pod.meta,
            Self::Entry(entry) => &entry.meta,
            Self::Listed(entry) => &entry.meta,
        }
    }

    /// Those by which policies select it.
    pub(super) fn labels(self) -> Cow<'a, Labels> {
        match self {
            Self::Entry(entry) => Cow::Owned(entry.labels()),
            Self::Pod(_) | Self::Listed(_) => Cow::Borrowed(&self.meta().labels),
        }
    }
}

/// The object that a workload was made of; `None` if it is an address in an EndpointSlice.
pub(super) fn origin<'a>(scope: Scope<'a>, workload: &Workload) -> Option<Origin<'a>> {
    let world = scope.world;
    let key = (workload.namespace.clone(), workload.name.clone());
    let kind = workload.uid.strip_prefix(&scope.settings.cluster_id)?;
    if kind.starts_with(POD) {
        world.pods.get(&key).map(|pod| Origin::Pod(pod))
    } else if kind.starts_with(entry::WORKLOAD) {
        world.workload_entries.get(&key).map(Origin::Entry)
    } else if kind.starts_with(entry::SERVICE) {
        world.service_entries.get(&key).map(Origin::Listed)
    } else {
        None
    }
}

/// How a workload is reached that is labelled or annotated so: by which tunnel, and whether it makes that itself.
pub(super) fn tunnel(labels: &Labels, captured: bool) -> (TunnelProtocol, bool) {
    let native = is_native(labels);
    match captured || native {
        true => (TunnelProtocol::Hbone, native),
        false => (TunnelProtocol::None, native),
    }
}

/// Whether it is written of an object that its traffic is captured.
pub(super) fn is_redirected(meta: &Meta) -> bool {
    let redirection = meta.annotations.get(REDIRECTION);
    redirection.is_some_and(|value| value == "enabled")
}

/// Canonical name and revision.
pub(super) fn canonical(labels: &Labels, workload_name: &str) -> (String, String) {
    let first = |keys: &[&str]| keys.iter().find_map(|&key| labels.get(key)).cloned();
    let name = first(&NAME).unwrap_or_else(|| workload_name.to_owned());
    (
        name,
        first(&REVISION).unwrap_or_else(|| "latest".to_owned()),
    )
}

fn is_native(labels: &Labels) -> bool {
    let tunnel = labels.get(TUNNEL);
    tunnel.is_some_and(|value| value.split(',').any(|word| word == "http"))
}

/// Whether a pod that a service selects is ready.
pub(super) fn has_ready(scope: Scope<'_>, service: &Service) -> bool {
    let namespace = &service.meta.namespace;
    let pods = scope
        .world
        .pods
        .values()
        .filter(|pod| pod.meta.namespace == *namespace);
    let selected = pods.filter(|pod| has_all(&pod.meta.labels, &service.selector));
    let mut own = selected.filter(|pod| !gateway::is_impostor(scope, service, pod));
    own.any(|pod| {
        let key = (pod.meta.namespace.clone(), pod.meta.name.clone());
        let facts = Facts::of(scope, pod, scope.report(&key, pod));
        facts.ready && !pod.over && !pod.meta.deleting && !facts.addresses.is_empty()
    })
}

pub(super) fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// What is so now, as the pod's node sees it, or as its manifest says where there are no node agents.
pub(super) struct Facts {
    pub(super) addresses: Vec<IpAddr>,
    ready: bool,
    captured: bool,
}

impl Facts {
    /// `report` is that of [`Scope::report`].
    pub(super) fn of(scope: Scope<'_>, pod: &Pod, report: Option<&PodReport>) -> Self {
        let told = || Self {
            addresses: pod.addresses.clone(),
            ready: pod.ready,
            captured: is_redirected(&pod.meta),
        };
        match report {
            None if scope.world.reports.is_none() => told(),
            // Nobody has seen it captured, whatever is written of it.
            None => Self {
                captured: false,
                ..told()
            },
            Some(report) => Self {
                addresses: match report.addresses.is_empty() {
                    true => pod.addresses.clone(),
                    false => report.addresses.clone(),
                },
                ready: report.ready,
                captured: report.captured,
            },
        }
    }
}

/// A pod as a workload of no service and under no policy.
pub(super) fn resource(
    scope: Scope<'_>,
    pod: &Pod,
    facts: &Facts,
    locality: Option<Locality>,
) -> Workload {
    let Pod { meta, .. } = pod;
    let (tunnel, native) = tunnel(&meta.labels, facts.captured);
    let status = if facts.ready && !meta.deleting {
        WorkloadStatus::Healthy
    } else {
        WorkloadStatus::Unhealthy
    };
    let network = if pod.host_network {
        NetworkMode::HostNetwork
    } else {
        NetworkMode::Standard
    };
    let workload_name = workload_name(pod);
    let (canonical_name, canonical_revision) = canonical(&meta.labels, &workload_name);
    Workload {
        uid: format!(
            "{}{POD}{}/{}",
            scope.settings.cluster_id, meta.namespace, meta.name
        ),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        addresses: facts.addresses.iter().copied().map(octets).collect(),
        tunnel_protocol: tunnel.into(),
        trust_domain: scope.trust_domain(),
        service_account: pod.service_account.clone(),
        node: pod.node.clone(),
        canonical_name,
        canonical_revision,
        workload_type: WorkloadType::Pod.into(),
        workload_name,
        native_tunnel: native,
        status: status.into(),
        cluster_id: scope.settings.cluster_id.clone(),
        locality,
        network_mode: network.into(),
        ..Workload::default()
    }
}

/// Where the pods of a node are, if it says so.
pub(super) fn locality(node: &Node) -> Option<Locality> {
    let labels = &node.meta.labels;
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let locality = Locality {
        region: label(REGION),
        zone: label(ZONE),
        subzone: label(SUBZONE),
    };
    (locality != Locality::default()).then_some(locality)
}

/// The name of what the pod is one of: its label, else its controller's name without what controllers append for each
/// revision or run, else its own name.
fn workload_name(pod: &Pod) -> String {
    let labels = &pod.meta.labels;
    if let Some(name) = labels.get(WORKLOAD_NAME) {
        return name.clone();
    }
    let (true, Some(owner)) = (pod.generated, &pod.controller) else {
        return pod.meta.name.clone();
    };
    let hash = ["pod-template-hash", "rollouts-pod-template-hash"]
        .into_iter()
        .find_map(|key| labels.get(key));
    let shorter = match owner.kind.as_str() {
        "ReplicaSet" => hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-')),
        "Job" => without_schedule(&owner.name),
        "ReplicationController" => labels.get("deploymentconfig").map(String::as_str),
        _ => None,
    };
    shorter
        .filter(|name| !name.is_empty())
        .unwrap_or(&owner.name)
        .to_owned()
}

/// A job that a schedule made ends in the time of its run, in minutes: 8 to 10 digits.
fn without_schedule(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|b| b.is_ascii_digit());
    is_time.then_some(name)
}

/// The service's ports as this pod serves them. A named port that the pod does not have is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let resolve = |target: &Target| match target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => pod
            .ports
            .iter()
            .find(|port| port.name == *name)
            .map(|port| port.port),
    };
    served_ports(service, |port| resolve(&port.target))
}

/// The ports of a service, each with the `target` that an endpoint has for it. One that it has none for is left out.
pub(super) fn served_ports(
    service: &Service,
    target: impl Fn(&ServicePort) -> Option<u16>,
) -> Vec<Port> {
    let port = |port: &ServicePort| {
        Some(Port {
            service_port: port.port.into(),
            target_port: target(port)?.into(),
            ..Port::default()
        })
    };
    service.ports.iter().filter_map(port).collect()
}

/// Membership by service.
pub(super) type Memberships = BTreeMap<String, Vec<Port>>;
