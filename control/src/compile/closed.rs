//! Pods that refuse every peer: a policy is, or may be, for them that nobody can carry out. It is for their service, which
//! cannot be understood, or for a waypoint that such a service may be behind; their namespace cannot be understood, so that
//! nobody knows who of them is in the mesh and behind what; or it is for a waypoint for workloads, which are not served.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    security::{Action, Authorization, Group, Scope as Reach},
    workload::{Workload, address::Type},
};

use super::{
    Compiled, Scope, binding,
    concern::{self, Behind},
    gateway::{self, Obstacle},
    policy::Attached,
    workloads::has_all,
};
use crate::{
    manifest::{Kind, Labels, Object, ObjectRef},
    world::{Key, UNREADABLE},
};

/// No object can have a name with a `_`.
const SERVICE: &str = "refused_service_";
const NAMESPACE: &str = "refused_namespace_";

pub(super) fn compile(scope: Scope<'_>, attached: &Attached, compiled: &mut Compiled) {
    let services = services(scope, attached);
    let namespaces = namespaces(scope);
    for address in compiled.addresses.values_mut() {
        let Some(Type::Workload(workload)) = &mut address.r#type else {
            continue;
        };
        let key = (workload.namespace.clone(), workload.name.clone());
        let Some(pod) = scope.world.pods.get(&key) else {
            continue;
        };
        let home = &key.0;
        let own = services.iter().filter(|((of, _), _)| of == home);
        let own = own.filter(|(_, all)| has_all(&pod.meta.labels, all));
        let all = own.map(|((_, name), _)| format!("{SERVICE}{name}"));
        let namespace = namespaces.get(home.as_str());
        for name in all.chain(namespace.map(|_| format!("{NAMESPACE}{home}"))) {
            let denial = denial(home, name);
            let name = format!("{home}/{}", denial.name);
            workload.authorization_policies.push(name.clone());
            compiled.authorizations.entry(name).or_insert(denial);
        }
    }
}

/// Says of which services that is, so that what closes one later, for good, takes over from here. Where all pods of a namespace
/// are closed, it may be any service of it, and one that nobody knows yet.
pub(super) fn tell(scope: Scope<'_>, attached: &Attached, compiled: &mut Compiled) {
    let any = |home: &str| (home.to_owned(), UNREADABLE.to_owned());
    let homes = namespaces(scope);
    compiled.closed.extend(homes.into_iter().map(any));
    for (service, labels) in services(scope, attached) {
        // What gets a name, or another selector, is any service of the namespace.
        let unknown = labels.is_empty() || service.1.starts_with(UNREADABLE);
        compiled.closed.extend(unknown.then(|| any(&service.0)));
        compiled.closed.insert(service);
    }
}

/// The Gateway of a waypoint for workloads that a pod is labelled to, if a policy is attached to that which is enforced: what
/// is sent to the pod's own address would go past it.
pub(super) fn policed(scope: Scope<'_>, attached: &Attached, workload: &Workload) -> Option<Key> {
    let key = (workload.namespace.clone(), workload.name.clone());
    let pod = scope.world.pods.get(&key)?;
    let gateway = binding::label(scope, &pod.meta)?;
    let reference = ObjectRef::new(Kind::Gateway, &gateway.0, &gateway.1);
    let concerned = match scope.world.gateways.get(&gateway) {
        Some(found) => gateway::is_for_workloads(scope, found),
        None => scope.world.hides(&reference),
    };
    let denied = gateway::obstacle(scope, &gateway, &key.0) == Some(Obstacle::Denied);
    let own = gateway::is_own(pod, &gateway);
    let policed = concerned && attached.polices_gateway(scope, &gateway);
    (policed && !denied && !own).then_some(gateway)
}

/// Whether a policy closes something because an object is not understood.
pub(super) fn closes(scope: Scope<'_>, attached: &Attached, object: &ObjectRef) -> bool {
    let key = || (object.namespace.clone(), object.name.clone());
    match object.kind {
        Kind::Service => services(scope, attached).contains_key(&key()),
        Kind::Namespace => is_closed(scope, object),
        Kind::Gateway => attached.polices_gateway(scope, &key()),
        _ => false,
    }
}

/// Services that cannot be understood and that a policy is, or may be, for, with the labels of their pods: none if all pods
/// of the namespace may be theirs.
fn services(scope: Scope<'_>, attached: &Attached) -> BTreeMap<Key, Labels> {
    let faults = scope.world.faults.keys();
    let faults = faults.filter(|it| it.kind == Kind::Service && may_be_behind(scope, attached, it));
    let behind = faults.map(|it| (it.namespace.clone(), it.name.clone()));
    let policed = attached.policed_services().cloned().chain(behind);
    let hidden = policed.filter_map(|key| {
        let reference = ObjectRef::new(Kind::Service, &key.0, &key.1);
        let labels = match scope.world.refused.get(&reference) {
            Some(Object::Service(service)) => service.selector.clone(),
            _ if scope.world.hides(&reference) => Labels::new(),
            _ => return None,
        };
        Some((key, labels))
    });
    hidden.collect()
}

/// Whether a Service that cannot be understood would be behind a waypoint that has a policy, as far as its label can be read.
fn may_be_behind(scope: Scope<'_>, attached: &Attached, service: &ObjectRef) -> bool {
    if !attached.polices_gateways() {
        return false;
    }
    match concern::behind(scope.world, service) {
        Behind::Nothing => false,
        Behind::Gateway(gateway) => attached.polices_gateway(scope, &gateway),
        Behind::Anything => true,
    }
}

/// Namespaces of pods that are closed as a whole.
fn namespaces(scope: Scope<'_>) -> BTreeSet<&str> {
    let homes = scope.world.pods.keys().map(|(home, _)| home.as_str());
    let homes: BTreeSet<_> = homes.collect();
    let closed = |home: &&str| is_closed(scope, &ObjectRef::new(Kind::Namespace, "", home));
    homes.into_iter().filter(closed).collect()
}

fn is_closed(scope: Scope<'_>, namespace: &ObjectRef) -> bool {
    let root = &scope.settings.root_namespace;
    scope.world.hides(namespace) && concern::policy(scope.world, root, namespace).is_some()
}

fn denial(namespace: &str, name: String) -> Authorization {
    Authorization {
        name,
        namespace: namespace.to_owned(),
        scope: Reach::WorkloadSelector.into(),
        action: Action::Deny.into(),
        groups: vec![Group { rules: Vec::new() }],
        ..Authorization::default()
    }
}
