//! Endpoints that ServiceEntries list, and WorkloadEntries, as workloads.
//!
//! One that has the address of a pod is that pod: a member if it is of the same namespace, and nothing if it is of another. Who
//! may write there has no say over how a pod is reached. What has a name instead of an address is left out: names are not
//! resolved yet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use proto::workload::{Locality, Port, PortList, Workload, WorkloadType};

use super::{Entry, is_lacking, status::not_served};
use crate::{
    compile::{
        Compiled, Scope,
        authorization::Selecting,
        binding::{self, BOUND},
        gateway::{self, Obstacle},
        octets,
        peer::Modes,
        pods::Policies,
        services::is_served,
        workloads::{
            Memberships, WORKLOAD_NAME, by_address, canonical, has_all, is_redirected,
            served_ports, tunnel,
        },
    },
    manifest::{
        Labels, Meta, Pod, Service, ServiceEntry, WorkloadEntry,
        core::Target,
        service_entry::Members,
        workload_entry::{Address, Endpoint},
    },
    status::Condition,
};

/// What begins the ids, after the cluster's.
pub(in crate::compile) const SERVICE: &str = "/networking.istio.io/ServiceEntry/";
pub(in crate::compile) const WORKLOAD: &str = "/networking.istio.io/WorkloadEntry/";
/// On a WorkloadEntry: of which group it is one, by whose name it is then known.
const GROUP: &str = "istio.io/autoRegistrationGroup";

/// Pods by the addresses that are theirs alone.
pub(super) type ByAddress<'a> = HashMap<IpAddr, &'a Pod>;

pub(super) fn compile(scope: Scope<'_>, compiled: &mut Compiled) {
    let world = scope.world;
    if world.service_entries.is_empty() && world.workload_entries.is_empty() {
        return;
    }
    let making = Making {
        scope,
        pods: by_address(scope),
        policies: Selecting::new(scope),
        modes: Modes::new(scope),
    };
    for entry in world.service_entries.values() {
        let hosts = served(scope, entry);
        if !hosts.is_empty() {
            let all = making.listed(entry, &hosts);
            compiled.addresses.extend(all.map(crate::compile::workload));
        }
    }
    let services = selecting(scope);
    let entries = world.workload_entries.values();
    for entry in entries.filter(|it| scope.sees(&it.meta.namespace)) {
        let services = services.get(entry.meta.namespace.as_str());
        let services = services.map_or(&[][..], Vec::as_slice);
        let workload = making.entry(entry, services);
        compiled
            .addresses
            .extend(workload.map(crate::compile::workload));
    }
}

/// The hosts of a ServiceEntry that are served, as services.
fn served<'a>(scope: Scope<'a>, entry: &ServiceEntry) -> Vec<&'a Service> {
    let Meta {
        namespace, name, ..
    } = &entry.meta;
    let entries = &scope.derived.entries;
    let hosts = entries
        .hosts(namespace, name)
        .filter(|it| it.lack.is_none());
    hosts
        .filter_map(|it: &Entry<'_>| entries.service(&it.key).map(|it| &**it))
        .collect()
}

/// By namespace: the services that select their endpoints.
fn selecting(scope: Scope<'_>) -> BTreeMap<&str, Vec<&Service>> {
    let mut selecting: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let served = scope.services().filter(|it| is_served(scope, it));
    let served = served.filter(|it| !is_lacking(scope, it));
    for service in served.filter(|it| !it.selector.is_empty()) {
        let all = selecting
            .entry(service.meta.namespace.as_str())
            .or_default();
        all.push(&**service);
    }
    selecting
}

/// What it takes to make workloads.
struct Making<'a> {
    scope: Scope<'a>,
    pods: ByAddress<'a>,
    policies: Selecting<'a>,
    modes: Modes<'a>,
}

impl<'a> Making<'a> {
    /// The endpoints that a ServiceEntry lists.
    fn listed<'b>(
        &'b self,
        entry: &'b ServiceEntry,
        hosts: &'b [&'a Service],
    ) -> impl Iterator<Item = Workload> + 'b {
        let meta = &entry.meta;
        let own = listed(entry).filter(|(address, it)| pod_at(&self.pods, *address, it).is_none());
        own.map(move |(address, endpoint)| {
            let mut workload = self.workload(meta, &meta.labels, &meta.name, endpoint);
            let Meta {
                namespace, name, ..
            } = meta;
            let cluster = &self.scope.settings.cluster_id;
            workload.uid = format!("{cluster}{SERVICE}{namespace}/{name}/{address}");
            workload.services = self.memberships(hosts.iter().copied(), endpoint);
            workload
        })
    }

    fn entry(&self, entry: &WorkloadEntry, services: &[&'a Service]) -> Option<Workload> {
        let WorkloadEntry { meta, endpoint } = entry;
        let is_pod = match endpoint.address {
            Address::Host(_) | Address::Socket(_) => true,
            Address::Network => false,
            Address::Ip(address) => pod_at(&self.pods, address, endpoint).is_some(),
        };
        if is_pod {
            return None;
        }
        let labels = entry.labels();
        let group = meta.annotations.get(GROUP);
        let name = group.or_else(|| labels.get(WORKLOAD_NAME));
        let name = name.unwrap_or(&meta.name);
        let mut workload = self.workload(meta, &labels, name, endpoint);
        let cluster = &self.scope.settings.cluster_id;
        workload.uid = format!("{cluster}{WORKLOAD}{}/{}", meta.namespace, meta.name);
        let services = services.iter().copied();
        let services = services.filter(|it| has_all(&labels, &it.selector));
        workload.services = self.memberships(services, endpoint);
        Some(workload)
    }

    /// What both have in common.
    fn workload(&self, meta: &Meta, labels: &Labels, name: &str, endpoint: &Endpoint) -> Workload {
        let scope = self.scope;
        let (tunnel, native) = tunnel(labels, is_redirected(meta));
        let (canonical_name, canonical_revision) = canonical(labels, name);
        let policies = Policies::of(&self.policies, &self.modes, &meta.namespace);
        let address = match endpoint.address {
            Address::Ip(address) => Some(octets(address)),
            _ => None,
        };
        Workload {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            addresses: address.into_iter().collect(),
            network: endpoint.network.clone(),
            tunnel_protocol: tunnel.into(),
            native_tunnel: native,
            trust_domain: scope.trust_domain(),
            service_account: endpoint.service_account.clone(),
            canonical_name,
            canonical_revision,
            // What it is nobody says, and a pod is what most are.
            workload_type: WorkloadType::Pod.into(),
            workload_name: name.to_owned(),
            authorization_policies: policies.names(labels),
            cluster_id: scope.settings.cluster_id.clone(),
            locality: locality(endpoint),
            capacity: endpoint.weight,
            ..Workload::default()
        }
    }

    fn memberships<'b>(
        &self,
        services: impl Iterator<Item = &'b Service>,
        endpoint: &Endpoint,
    ) -> BTreeMap<String, PortList> {
        let membership = |service: &Service| {
            let ports = ports(service, endpoint);
            (resource_name(self.scope, service), PortList { ports })
        };
        services.map(membership).collect()
    }
}

fn resource_name(scope: Scope<'_>, service: &Service) -> String {
    scope.service_key(&service.meta.namespace, &service.meta.name)
}

/// The endpoints of a ServiceEntry that have an address, each address once.
fn listed(entry: &ServiceEntry) -> impl Iterator<Item = (IpAddr, &Endpoint)> {
    let all = match &entry.members {
        Members::Listed(all) => all.as_slice(),
        Members::Selected(_) | Members::Unknown => &[],
    };
    let mut seen = BTreeSet::new();
    all.iter().filter_map(move |it| match it.address {
        Address::Ip(address) if seen.insert(address) => Some((address, it)),
        _ => None,
    })
}

/// The pod that an endpoint is. What is of another network is none of ours.
fn pod_at<'a>(pods: &ByAddress<'a>, address: IpAddr, endpoint: &Endpoint) -> Option<&'a Pod> {
    let pod = pods.get(&address).copied();
    pod.filter(|_| endpoint.network.is_empty())
}

fn locality(endpoint: &Endpoint) -> Option<Locality> {
    let place = endpoint.place.clone();
    let locality = Locality {
        region: place.region,
        zone: place.zone,
        subzone: place.subzone,
    };
    (locality != Locality::default()).then_some(locality)
}

/// The service's ports as this endpoint serves them: as it maps the port's name, or else the name of the target. A named
/// target that it does not map is left out.
fn ports(service: &Service, endpoint: &Endpoint) -> Vec<Port> {
    served_ports(service, |port| {
        let mapped = endpoint.ports.get(&port.name).copied();
        mapped.or_else(|| match &port.target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => endpoint.ports.get(name).copied(),
        })
    })
}

/// Pods that ServiceEntries of their namespace list by address.
pub(in crate::compile) struct Pods {
    by_pod: HashMap<(String, String), Memberships>,
}

impl Pods {
    pub(in crate::compile) fn new(scope: Scope<'_>) -> Self {
        let mut by_pod: HashMap<_, Memberships> = HashMap::new();
        let entries = scope.world.service_entries.values();
        let listing = entries.filter(|it| listed(it).next().is_some());
        let hosts: Vec<_> = listing.map(|it| (it, served(scope, it))).collect();
        if hosts.iter().all(|(_, hosts)| hosts.is_empty()) {
            return Self { by_pod };
        }
        let pods = by_address(scope);
        for (entry, hosts) in &hosts {
            for (address, endpoint) in listed(entry) {
                let pod = pod_at(&pods, address, endpoint);
                let Some(pod) = pod.filter(|it| it.meta.namespace == entry.meta.namespace) else {
                    continue;
                };
                let key = (pod.meta.namespace.clone(), pod.meta.name.clone());
                let all = by_pod.entry(key).or_default();
                let memberships = hosts
                    .iter()
                    .map(|host| (resource_name(scope, host), ports(host, endpoint)));
                all.extend(memberships);
            }
        }
        Self { by_pod }
    }

    pub(in crate::compile) fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    /// The services that list a pod.
    pub(in crate::compile) fn of<'b>(
        &'b self,
        pod: &Pod,
    ) -> impl Iterator<Item = (&'b String, &'b Vec<Port>)> {
        let own = (!self.by_pod.is_empty()).then(|| {
            let key = (pod.meta.namespace.clone(), pod.meta.name.clone());
            self.by_pod.get(&key)
        });
        own.flatten().into_iter().flatten()
    }
}

/// What is said of the endpoints that a ServiceEntry lists and that are none.
pub(super) fn notes(pods: &ByAddress<'_>, entry: &ServiceEntry) -> Vec<String> {
    let Members::Listed(all) = &entry.members else {
        return Vec::new();
    };
    let mut seen = BTreeSet::new();
    let note = |endpoint: &Endpoint| match &endpoint.address {
        Address::Ip(address) => {
            if !seen.insert(*address) {
                return Some(format!(
                    "endpoint {address} is there twice: the first counts"
                ));
            }
            let meta = &pod_at(pods, *address, endpoint)?.meta;
            let Meta {
                namespace, name, ..
            } = meta;
            (*namespace != entry.meta.namespace).then(|| {
                format!(
                    "endpoint {address} is pod {namespace}/{name} of another namespace, and so none"
                )
            })
        }
        Address::Host(name) | Address::Socket(name) => {
            Some(format!("endpoint {name} is left out: {NAMES}"))
        }
        Address::Network => Some(NETWORK.to_owned()),
    };
    all.iter().filter_map(note).collect()
}

const NAMES: &str = "only addresses are served yet";
const NETWORK: &str =
    "an endpoint without an address is left out: gateways of networks are not served yet";

/// What is said of a WorkloadEntry.
pub(super) fn conditions(
    scope: Scope<'_>,
    pods: &ByAddress<'_>,
    entry: &WorkloadEntry,
) -> Vec<Condition> {
    let endpoint = &entry.endpoint;
    let note = match &endpoint.address {
        Address::Host(name) | Address::Socket(name) => Some(format!("{name} is left out: {NAMES}")),
        Address::Ip(address) => pod_at(pods, *address, endpoint).map(|pod| {
            let Meta {
                namespace, name, ..
            } = &pod.meta;
            format!("{address} is the address of pod {namespace}/{name}: it is left out")
        }),
        Address::Network => None,
    };
    let bound = bound(scope, &entry.meta);
    not_served(note.into_iter().collect())
        .into_iter()
        .chain(bound)
        .collect()
}

/// Whether a workload is behind the waypoint that it is labelled to: it is behind none.
fn bound(scope: Scope<'_>, meta: &Meta) -> Option<Condition> {
    let gateway = binding::label(scope, meta)?;
    let (namespace, name) = &gateway;
    let fails = |reason, what: &str| {
        let message = format!("waypoint {namespace}/{name} {what}: it is reached without");
        Some(Condition::fails(BOUND, reason, message))
    };
    let not_ready = "WaypointIsNotReady";
    match gateway::obstacle(scope, &gateway, &meta.namespace) {
        Some(Obstacle::Missing) => return fails(not_ready, "is not there"),
        Some(Obstacle::Denied) => {
            let what = "does not admit workloads of this namespace (allowedRoutes)";
            return fails("AttachmentDenied", what);
        }
        Some(Obstacle::Shared) => {
            let what = "shares its service account with a pod that is not its own";
            return fails(not_ready, what);
        }
        Some(Obstacle::Unsupported | Obstacle::Hidden) | None => {}
    }
    let found = gateway::find(scope, &gateway)?;
    if !gateway::is_ready(scope, &gateway) {
        return fails(not_ready, "was not ready yet");
    }
    let unsupported = "UnsupportedTrafficType";
    if gateway::is_for_workloads(scope, found) {
        return fails(unsupported, "is for workloads, which is not served yet");
    }
    // What the namespace says is for its services.
    let own = meta.labels.contains_key(binding::USE_WAYPOINT);
    own.then(|| fails(unsupported, "is not for workloads (istio.io/waypoint-for)"))?
}
