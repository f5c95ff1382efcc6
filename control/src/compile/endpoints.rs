//! Endpoints that are listed by hand, in EndpointSlices of services without a selector.
//!
//! One that names a pod, or has the address of one, makes that pod a member if it is of the same namespace, and makes nothing
//! if it is of another: who may write there has no say over how a pod is reached. One that is only addresses of no pod is a
//! workload of its own, of which nothing is known but that.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use proto::workload::{NetworkMode, Port, PortList, Workload, WorkloadStatus};

use super::{
    Compiled, Scope, octets,
    services::is_served,
    workloads::{self, Memberships},
};
use crate::{
    manifest::{EndpointSlice, Kind, ObjectRef, Pod, Service, core::Endpoint},
    status::Condition,
    world::Key,
};

pub(super) fn compile(scope: Scope<'_>, compiled: &mut Compiled) {
    let pods = LazyCell::new(|| listed_pods(scope));
    for (slice, service) in slices(scope) {
        let key = scope.service_key(&service.meta.namespace, &service.meta.name);
        let ports = ports(slice, service);
        // A pod is never reached as if it were none.
        let alone = slice.endpoints.iter().filter(|endpoint| {
            let is_pod = endpoint.pod.is_some() || of_pod(&pods, endpoint).is_some();
            !is_pod
        });
        for endpoint in alone {
            if let Some(mut workload) = resource(scope, slice, endpoint) {
                workload.services = [(
                    key.clone(),
                    PortList {
                        ports: ports.clone(),
                    },
                )]
                .into();
                compiled.addresses.extend([super::workload(workload)]);
            }
        }
    }
}

/// Says of services which of their endpoints are none, because they belong to another namespace.
pub(super) fn statuses(scope: Scope<'_>, compiled: &mut Compiled) {
    let mut foreign: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    let by_address = LazyCell::new(|| listed_pods(scope));
    for (slice, service) in slices(scope) {
        let pods = slice.endpoints.iter().filter_map(|endpoint| {
            let named = endpoint.pod.as_ref();
            named.map(|pod| (&pod.namespace, &pod.name)).or_else(|| {
                let meta = &of_pod(&by_address, endpoint)?.meta;
                Some((&meta.namespace, &meta.name))
            })
        });
        for (namespace, name) in pods.filter(|(home, _)| **home != slice.meta.namespace) {
            let key = (service.meta.namespace.clone(), service.meta.name.clone());
            let names = foreign.entry(key).or_default();
            names.insert(format!("{namespace}/{name}"));
        }
    }
    for ((namespace, name), pods) in foreign {
        let pods: Vec<_> = pods.into_iter().collect();
        let message = format!(
            "its EndpointSlices list pods of other namespaces, by name or address, which are no endpoints of it: {}",
            pods.join(", ")
        );
        let reference = ObjectRef::new(Kind::Service, &namespace, &name);
        let status = compiled.statuses.entry(reference).or_default();
        let service = scope.world.services.get(&(namespace, name));
        status.generation = service.map_or(0, |service| service.meta.generation);
        let condition = Condition::fails("ResolvedRefs", "RefNotPermitted", message);
        status.conditions.push(condition);
    }
}

/// Pods that are listed.
pub(super) struct Listed<'a> {
    by_pod: HashMap<(&'a str, &'a str, &'a str), Memberships>,
}

impl<'a> Listed<'a> {
    pub(super) fn new(scope: Scope<'a>) -> Self {
        let known = LazyCell::new(|| listed_pods(scope));
        let mut by_pod: HashMap<_, Memberships> = HashMap::new();
        for (slice, service) in slices(scope) {
            let key = scope.service_key(&service.meta.namespace, &service.meta.name);
            let pods = slice
                .endpoints
                .iter()
                .filter_map(|endpoint| endpoint.pod.as_ref());
            let pods =
                pods.map(|pod| (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()));
            let alone = slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.pod.is_none());
            let by_address = alone.filter_map(|endpoint| {
                let meta = &of_pod(&known, endpoint)?.meta;
                Some((
                    meta.namespace.as_str(),
                    meta.name.as_str(),
                    meta.uid.as_str(),
                ))
            });
            // Who may write in one namespace has no say over the pods of another.
            let own = |pod: &(&str, &str, &str)| pod.0 == slice.meta.namespace;
            for pod in pods.chain(by_address).filter(own) {
                let all = by_pod
                    .entry(pod)
                    .or_default()
                    .entry(key.clone())
                    .or_default();
                for port in ports(slice, service) {
                    if !all.contains(&port) {
                        all.push(port);
                    }
                }
            }
        }
        Self { by_pod }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    /// The services that list a pod. The uid has to match too: a pod of the same name may have come later.
    pub(super) fn of<'b>(
        &'b self,
        pod: &'b Pod,
    ) -> impl Iterator<Item = (&'b String, &'b Vec<Port>)> {
        let own = (!self.by_pod.is_empty()).then(|| {
            let key = (
                pod.meta.namespace.as_str(),
                pod.meta.name.as_str(),
                pod.meta.uid.as_str(),
            );
            self.by_pod.get(&key)
        });
        own.flatten().into_iter().flatten()
    }
}

/// The pods that have an address which somebody lists without a pod.
fn listed_pods(scope: Scope<'_>) -> HashMap<IpAddr, &Pod> {
    let endpoints = slices(scope).flat_map(|(slice, _)| &slice.endpoints);
    let alone = endpoints.filter(|endpoint| endpoint.pod.is_none());
    let listed: HashSet<_> = alone.flat_map(|endpoint| &endpoint.addresses).collect();
    workloads::having(scope, |address| listed.contains(address))
}

/// The pod that an endpoint is by one of its addresses.
fn of_pod<'a>(pods: &HashMap<IpAddr, &'a Pod>, endpoint: &Endpoint) -> Option<&'a Pod> {
    let mut pods = endpoint.addresses.iter().filter_map(|it| pods.get(it));
    pods.next().copied()
}

fn slices(scope: Scope<'_>) -> impl Iterator<Item = (&EndpointSlice, &Service)> {
    let services: BTreeMap<_, _> = scope
        .world
        .services
        .values()
        .filter(move |service| is_served(scope, service) && service.selector.is_empty())
        .map(|service| {
            (
                (service.meta.namespace.as_str(), service.meta.name.as_str()),
                service,
            )
        })
        .collect();
    scope
        .world
        .endpoint_slices
        .values()
        .filter_map(move |slice| {
            let service =
                services.get(&(slice.meta.namespace.as_str(), slice.service.as_deref()?))?;
            Some((slice, &***service))
        })
}

/// The service's ports as the slice serves them, joined by name.
fn ports(slice: &EndpointSlice, service: &Service) -> Vec<Port> {
    let target = |name: &str| {
        slice
            .ports
            .iter()
            .find(|port| port.name == name)
            .map(|port| port.port)
    };
    workloads::served_ports(service, |port| target(&port.name))
}

fn resource(scope: Scope<'_>, slice: &EndpointSlice, endpoint: &Endpoint) -> Option<Workload> {
    let meta = &slice.meta;
    let first = endpoint.addresses.first()?;
    let cluster = &scope.settings.cluster_id;
    let status = if endpoint.ready {
        WorkloadStatus::Healthy
    } else {
        WorkloadStatus::Unhealthy
    };
    Some(Workload {
        uid: format!(
            "{cluster}/discovery.k8s.io/EndpointSlice/{}/{}/{first}",
            meta.namespace, meta.name
        ),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        addresses: endpoint.addresses.iter().copied().map(octets).collect(),
        trust_domain: scope.trust_domain(),
        status: status.into(),
        cluster_id: cluster.clone(),
        // The address may belong to anything: it does not name this workload.
        network_mode: NetworkMode::HostNetwork.into(),
        ..Workload::default()
    })
}
