//! What gets past the policies of waypoints, said in their statuses: nobody is to take for enforced what is not.
//!
//! Nothing is decided here. Pods are reached past a policy through another service that leads to the same port of them,
//! because all waypoints of a port are let in there; or because they are outside the mesh, and nobody stands before them.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use mesh::{enrol, keys::Keys};
use proto::workload::{TunnelProtocol, Workload, address::Type};

use super::{
    Compiled, Scope,
    authorization::{WAYPOINT_ACCEPTED, is_dry_run},
    binding::{self, Bindings, Denied},
    gateway,
    policy::Attached,
    workloads::{self, Origin},
};
use crate::{
    manifest::{
        AuthorizationPolicy, Kind, Labels, ObjectRef, Service,
        authorization::{Action, PolicyTarget, TargetKind},
    },
    world::{Key, host},
};

/// So many objects are told of by name.
const MOST: usize = 3;

/// After the statuses of policies and services are there.
pub(super) fn tell(
    scope: Scope<'_>,
    attached: &Attached,
    bindings: &Bindings,
    compiled: &mut Compiled,
) {
    let mut said = Vec::new();
    let passing = Passing::new(scope, bindings, compiled);
    for policy in scope.world.authorization_policies.values() {
        let reference = ObjectRef::new(
            Kind::AuthorizationPolicy,
            &policy.meta.namespace,
            &policy.meta.name,
        );
        said.extend(
            passing
                .of(policy)
                .into_iter()
                .map(|text| (reference.clone(), text)),
        );
    }
    for service in passing.headless() {
        let Some(gateway) = binding::label(scope, &service.meta) else {
            continue;
        };
        if attached.polices_gateway(scope, &gateway) {
            let (namespace, name) = &gateway;
            let text = format!(
                "what is attached to Gateway {namespace}/{name} or its class is not enforced for it"
            );
            let meta = &service.meta;
            let reference = host::object(&(meta.namespace.clone(), meta.name.clone()));
            said.push((reference, text));
        }
    }
    for (reference, text) in said {
        let status = compiled.statuses.get_mut(&reference);
        let mut conditions = status.into_iter().flat_map(|status| &mut status.conditions);
        let is_meant = |kind: &str| [WAYPOINT_ACCEPTED, binding::BOUND].contains(&kind);
        if let Some(condition) = conditions.find(|it| is_meant(it.kind)) {
            condition.add(&text);
        }
    }
}

/// What there is to say it from.
struct Passing<'a> {
    scope: Scope<'a>,
    bindings: &'a Bindings,
    compiled: &'a Compiled,
    services: OnceCell<BTreeMap<String, Key>>,
    workloads: OnceCell<BTreeMap<&'a str, Vec<&'a Workload>>>,
}

impl<'a> Passing<'a> {
    fn new(scope: Scope<'a>, bindings: &'a Bindings, compiled: &'a Compiled) -> Self {
        Self {
            scope,
            bindings,
            compiled,
            services: OnceCell::new(),
            workloads: OnceCell::new(),
        }
    }

    /// By the names of their resources.
    fn services(&self) -> &BTreeMap<String, Key> {
        self.services.get_or_init(|| {
            let services = self.scope.services().map(|service| {
                let key = key(service);
                (self.scope.service_key(&key.0, &key.1), key)
            });
            services.collect()
        })
    }

    /// By service.
    fn workloads(&self) -> &BTreeMap<&'a str, Vec<&'a Workload>> {
        self.workloads.get_or_init(|| {
            let mut workloads: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for address in self.compiled.addresses.values() {
                if let Some(Type::Workload(workload)) = &address.r#type {
                    for service in workload.services.keys() {
                        let all = workloads.entry(service.as_str()).or_default();
                        all.push(workload);
                    }
                }
            }
            workloads
        })
    }

    /// What gets past a policy, in words.
    fn of(&self, policy: &AuthorizationPolicy) -> Vec<String> {
        let PolicyTarget::Objects(_) = &policy.target else {
            return Vec::new();
        };
        if is_dry_run(policy) || policy.action == Action::Audit {
            return Vec::new();
        }
        let (covered, headless) = self.covered(policy);
        let mut said = Vec::new();
        if !headless.is_empty() {
            said.push(format!(
                "it is not enforced for headless services, which are never behind a waypoint: {}",
                named(&headless)
            ));
        }
        for service in covered.iter().filter(|service| self.is_open(service)) {
            let own = self.scope.service_key(&service.0, &service.1);
            let pods = self.workloads().get(own.as_str());
            let pods: Vec<_> = pods.into_iter().flatten().copied().collect();
            let others = pods.iter().flat_map(|pod| self.siblings(pod, &own));
            let others: BTreeSet<_> = others.filter(|it| !covered.contains(*it)).collect();
            let outside = pods.iter().filter(|pod| is_outside(self.scope, pod));
            let outside: BTreeSet<_> = outside
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .collect();
            let words = host::words(service);
            let noun = match host::parts(&service.1) {
                Some(_) => "endpoints",
                None => "pods",
            };
            if !others.is_empty() {
                let others: BTreeSet<_> = others.into_iter().map(short).collect();
                said.push(format!(
                    "{noun} of {words} are reached without it through services that lead to the same port of them: {}",
                    named(&others)
                ));
            }
            if !outside.is_empty() {
                said.push(format!(
                    "{noun} of {words} are not in the mesh, so whoever goes straight to them does not meet it: {}",
                    named(&outside)
                ));
            }
            let found = self.scope.service(service);
            if found.is_some_and(|it| binding::may_be_bypassed(it)) {
                said.push(format!(
                    "{words} is annotated so that whoever goes straight to its pods does not meet it"
                ));
            }
        }
        said
    }

    /// The services that a policy is for, and those that it would be for if they were not headless.
    fn covered(&self, policy: &AuthorizationPolicy) -> (BTreeSet<&Key>, BTreeSet<String>) {
        let PolicyTarget::Objects(targets) = &policy.target else {
            return Default::default();
        };
        let scope = self.scope;
        let namespace = &policy.meta.namespace;
        let mut services = BTreeSet::new();
        let mut gateways = BTreeSet::new();
        for target in targets {
            let key = (namespace.clone(), target.name.clone());
            match target.kind {
                TargetKind::Service => {
                    let all = self.services().values();
                    services.extend(all.filter(|it| **it == key));
                }
                TargetKind::Gateway => drop(gateways.insert(key)),
                TargetKind::GatewayClass if scope.is_root(namespace) => {
                    let classes = gateway::aliases(scope, &target.name);
                    let meant = gateway::ours(scope)
                        .filter(|(_, gateway)| classes.contains(&gateway.class.as_str()));
                    gateways.extend(meant.map(|(key, _)| key.clone()));
                }
                TargetKind::ServiceEntry => {
                    let entry = host::all(namespace, &target.name);
                    let all = self.services().values();
                    services.extend(all.filter(|it| host::widened(it) == entry && **it != entry));
                }
                TargetKind::GatewayClass => {}
            }
        }
        services.extend(gateways.iter().flat_map(|it| self.bindings.services_of(it)));
        let headless = self.headless().filter(|service| {
            let label = binding::label(scope, &service.meta);
            label.is_some_and(|gateway| gateways.contains(&gateway))
        });
        let headless = headless.map(|it| short(&key(it)));
        (services, headless.collect())
    }

    /// Services without an address whose pods do not refuse everybody for want of one.
    fn headless(&self) -> impl Iterator<Item = &'a Service> {
        let scope = self.scope;
        let services = scope.services().filter(|it| it.addresses.is_empty());
        let strangers = services.filter(move |it| !gateway::owns(scope, it));
        let open = strangers.filter(|it| self.is_open(&key(it)));
        open.map(|it| &**it)
    }

    fn is_open(&self, service: &Key) -> bool {
        let binding = self.bindings.binding(service);
        binding.is_some_and(|binding| binding.denied != Denied::Everybody)
    }

    /// Other services behind waypoints that lead to the same ports of a pod.
    fn siblings(&self, pod: &'a Workload, own: &str) -> impl Iterator<Item = &Key> {
        let targets = |service: &str| {
            let ports = pod.services.get(service).map(|list| &list.ports);
            let ports = ports.into_iter().flatten();
            ports.map(|port| port.target_port).collect::<BTreeSet<_>>()
        };
        let wanted = targets(own);
        let others = pod
            .services
            .keys()
            .filter(move |other| *other != own && !targets(other).is_disjoint(&wanted));
        others.filter_map(|other| {
            let key = self.services().get(other)?;
            let binding = self.bindings.binding(key)?;
            // The waypoints of others are not let in for its sake.
            (key.0 == pod.namespace && !binding.told.is_empty()).then_some(key)
        })
    }
}

/// Of a Service as `<namespace>/<name>`, since that is what most are.
fn short(service: &Key) -> String {
    match host::parts(&service.1) {
        Some(_) => host::words(service),
        None => format!("{}/{}", service.0, service.1),
    }
}

fn key(service: &Service) -> Key {
    (service.meta.namespace.clone(), service.meta.name.clone())
}

/// Whether nobody stands before a workload, and nobody is to.
fn is_outside(scope: Scope<'_>, workload: &Workload) -> bool {
    if workload.tunnel_protocol != i32::from(TunnelProtocol::None) {
        return false;
    }
    let Some(Origin::Pod(pod)) = workloads::origin(scope, workload) else {
        return true;
    };
    let none = Labels::new();
    let namespace = scope.world.namespaces.get(&pod.meta.namespace);
    let namespace = enrol::Namespace {
        labels: namespace.map_or(&none, |it| &it.meta.labels),
    };
    let facts = enrol::Pod {
        labels: &pod.meta.labels,
        annotations: &pod.meta.annotations,
        host_network: pod.host_network,
        ended: pod.over,
    };
    enrol::enrolled(Keys::Shared, namespace, facts) != enrol::Enrolment::In
}

fn named(all: &BTreeSet<String>) -> String {
    let shown: Vec<_> = all.iter().take(MOST).cloned().collect();
    match all.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
