//! Pods.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use proto::workload::{
    Locality, NetworkMode, Port, PortList, TunnelProtocol, Workload, WorkloadStatus, WorkloadType,
};

use super::{
    Compiled, Scope, authorization::Selecting, endpoints::Listed, gateway, octets, peer::Modes,
    services::is_served,
};
use crate::manifest::{Labels, Pod, Service, core::Target};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const TUNNEL: &str = "networking.istio.io/tunnel";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
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

pub(super) fn compile(scope: Scope<'_>, compiled: &mut Compiled) {
    let mut selecting: HashMap<&str, Vec<&Service>> = HashMap::new();
    for service in scope.services().filter(|service| is_served(scope, service)) {
        // A service without a selector selects nothing, not everything.
        if !service.selector.is_empty() {
            selecting
                .entry(&service.meta.namespace)
                .or_default()
                .push(service);
        }
    }
    let listed = Listed::new(scope);
    let policies = Selecting::new(scope);
    let modes = Modes::new(scope);
    for pod in scope
        .world
        .pods
        .values()
        .filter(|pod| scope.sees(&pod.meta.namespace))
    {
        let facts = Facts::of(scope, pod);
        if pod.over || facts.addresses.is_empty() {
            continue;
        }
        let mut workload = resource(scope, pod, &facts);
        let services = selecting
            .get(pod.meta.namespace.as_str())
            .into_iter()
            .flatten();
        let services = services.filter(|it| has_all(&pod.meta.labels, &it.selector));
        for service in services.filter(|it| !gateway::is_impostor(scope, it, pod)) {
            let key = scope.service_key(&service.meta.namespace, &service.meta.name);
            workload.services.insert(
                key,
                PortList {
                    ports: ports(service, pod),
                },
            );
        }
        for (key, ports) in listed.of(pod) {
            workload.services.insert(
                key.clone(),
                PortList {
                    ports: ports.clone(),
                },
            );
        }
        workload.authorization_policies = policies.names(pod);
        workload.authorization_policies.extend(modes.names(pod));
        compiled.addresses.extend([super::workload(workload)]);
    }
}

/// The pods by the addresses that are theirs alone, whether they are in the mesh already or not.
pub(super) fn by_address(scope: Scope<'_>) -> HashMap<IpAddr, &Pod> {
    let pods = scope.world.pods.values();
    let own = pods.filter(|pod| !pod.over && !pod.host_network && scope.sees(&pod.meta.namespace));
    own.flat_map(|pod| {
        let addresses = Facts::of(scope, pod).addresses;
        addresses.into_iter().map(move |address| (address, pod))
    })
    .collect()
}

fn is_native(pod: &Pod) -> bool {
    let tunnel = pod.meta.labels.get(TUNNEL);
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
        let facts = Facts::of(scope, pod);
        facts.ready && !pod.over && !pod.meta.deleting && !facts.addresses.is_empty()
    })
}

pub(super) fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// What is so now, as the pod's node sees it, or as its manifest says where there are no node agents.
struct Facts {
    addresses: Vec<IpAddr>,
    ready: bool,
    captured: bool,
}

impl Facts {
    fn of(scope: Scope<'_>, pod: &Pod) -> Self {
        let told = Self {
            addresses: pod.addresses.clone(),
            ready: pod.ready,
            captured: pod
                .meta
                .annotations
                .get(REDIRECTION)
                .is_some_and(|value| value == "enabled"),
        };
        let Some(reports) = &scope.world.reports else {
            return told;
        };
        let key = (pod.meta.namespace.clone(), pod.meta.name.clone());
        match reports.get(&key).filter(|report| report.node == pod.node) {
            Some(report) => {
                let addresses = if report.addresses.is_empty() {
                    told.addresses
                } else {
                    report.addresses.clone()
                };
                Self {
                    addresses,
                    ready: report.ready,
                    captured: report.captured,
                }
            }
            // Nobody has seen it captured, whatever is written of it.
            None => Self {
                captured: false,
                ..told
            },
        }
    }
}

fn resource(scope: Scope<'_>, pod: &Pod, facts: &Facts) -> Workload {
    let Pod { meta, .. } = pod;
    let native = is_native(pod);
    let tunnel = if facts.captured || native {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    };
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
    let first = |keys: &[&str]| keys.iter().find_map(|&key| meta.labels.get(key)).cloned();
    Workload {
        uid: format!(
            "{}//Pod/{}/{}",
            scope.settings.cluster_id, meta.namespace, meta.name
        ),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        addresses: facts.addresses.iter().copied().map(octets).collect(),
        tunnel_protocol: tunnel.into(),
        trust_domain: scope.trust_domain(),
        service_account: pod.service_account.clone(),
        node: pod.node.clone(),
        canonical_name: first(&NAME).unwrap_or_else(|| workload_name.clone()),
        canonical_revision: first(&REVISION).unwrap_or_else(|| "latest".to_owned()),
        workload_type: WorkloadType::Pod.into(),
        workload_name,
        native_tunnel: native,
        status: status.into(),
        cluster_id: scope.settings.cluster_id.clone(),
        locality: locality(scope, &pod.node),
        network_mode: network.into(),
        ..Workload::default()
    }
}

fn locality(scope: Scope<'_>, node: &str) -> Option<Locality> {
    let labels = &scope.world.nodes.get(node)?.meta.labels;
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
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let resolve = |target: &Target| match target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => pod
            .ports
            .iter()
            .find(|port| port.name == *name)
            .map(|port| port.port),
    };
    let port = |port: &crate::manifest::core::ServicePort| {
        let target = resolve(&port.target)?;
        Some(Port {
            service_port: port.port.into(),
            target_port: target.into(),
            ..Port::default()
        })
    };
    service.ports.iter().filter_map(port).collect()
}

/// Membership by service.
pub(super) type Memberships = BTreeMap<String, Vec<Port>>;
