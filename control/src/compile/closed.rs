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
    workloads::{self, Origin},
};
use crate::{
    manifest::{Kind, Object, ObjectRef, service_entry::Members},
    world::{Key, UNREADABLE, host},
};

/// No object can have a name with a `_`.
const SERVICE: &str = "refused_service_";
const ENTRY: &str = "refused_service_entry_";
const NAMESPACE: &str = "refused_namespace_";

pub(super) fn compile(scope: Scope<'_>, attached: &Attached, compiled: &mut Compiled) {
    let services = services(scope, attached);
    let namespaces = namespaces(scope);
    if services.is_empty() && namespaces.is_empty() {
        return;
    }
    for address in compiled.addresses.values_mut() {
        let Some(Type::Workload(workload)) = &address.r#type else {
            continue;
        };
        let Some(origin) = workloads::origin(scope, workload) else {
            continue;
        };
        // What a ServiceEntry lists it does not select.
        let labels = match origin {
            Origin::Pod(_) | Origin::Entry(_) => origin.labels(),
            Origin::Listed(_) => continue,
        };
        let home = &workload.namespace.clone();
        let own = services.iter().filter(|((of, _), _)| of == home);
        let own = own.filter(|(_, all)| all.may_select(&labels));
        let all = own.map(|((_, name), _)| match host::parts(name) {
            Some((entry, _)) => format!("{ENTRY}{entry}"),
            None => format!("{SERVICE}{name}"),
        });
        let namespace = namespaces.get(home.as_str());
        let all = all.chain(namespace.map(|_| format!("{NAMESPACE}{home}")));
        let denials: Vec<_> = all.map(|name| denial(home, name)).collect();
        super::name(address, &denials);
        for denial in denials {
            let name = format!("{home}/{}", denial.name);
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
    for (service, members) in services(scope, attached) {
        // What gets a name, or another selector, is any service of the namespace.
        let unknown =
            members == Members::Unknown || host::object(&service).name.starts_with(UNREADABLE);
        compiled.closed.extend(unknown.then(|| any(&service.0)));
        compiled.closed.insert(service);
    }
}

/// The Gateway of a waypoint for workloads that a workload is labelled to, if a policy is attached to that which is enforced: what
/// is sent to its own address would go past it.
pub(super) fn policed(scope: Scope<'_>, attached: &Attached, workload: &Workload) -> Option<Key> {
    let origin = workloads::origin(scope, workload)?;
    let gateway = binding::label(scope, origin.meta())?;
    let reference = ObjectRef::new(Kind::Gateway, &gateway.0, &gateway.1);
    let concerned = match scope.world.gateways.get(&gateway) {
        Some(found) => gateway::is_for_workloads(scope, found),
        None => scope.world.hides(&reference),
    };
    let denied = gateway::obstacle(scope, &gateway, &workload.namespace) == Some(Obstacle::Denied);
    let own = matches!(origin, Origin::Pod(pod) if gateway::is_own(pod, &gateway));
    let policed = concerned && attached.polices_gateway(scope, &gateway);
    (policed && !denied && !own).then_some(gateway)
}

/// Whether a policy closes something because an object is not understood.
pub(super) fn closes(scope: Scope<'_>, attached: &Attached, object: &ObjectRef) -> bool {
    let key = || (object.namespace.clone(), object.name.clone());
    match object.kind {
        Kind::Service => services(scope, attached).contains_key(&key()),
        Kind::ServiceEntry => {
            let all = host::all(&object.namespace, &object.name);
            services(scope, attached).contains_key(&all)
        }
        Kind::Namespace => is_closed(scope, object),
        Kind::Gateway => attached.polices_gateway(scope, &key()),
        _ => false,
    }
}

/// Services and ServiceEntries that cannot be understood and that a policy is, or may be, for, with those whom they select.
fn services(scope: Scope<'_>, attached: &Attached) -> BTreeMap<Key, Members> {
    let faults = scope.world.faults.keys();
    let behind = faults.filter_map(|it| {
        let key = match it.kind {
            Kind::Service => (it.namespace.clone(), it.name.clone()),
            Kind::ServiceEntry => host::all(&it.namespace, &it.name),
            _ => return None,
        };
        may_be_behind(scope, attached, it).then_some(key)
    });
    let policed = attached.policed_services().cloned().chain(behind);
    let hidden = policed.filter_map(|key| {
        let reference = host::object(&key);
        if !scope.world.hides(&reference) {
            return None;
        }
        let members = match scope.world.refused.get(&reference) {
            Some(Object::Service(service)) if !service.selector.is_empty() => {
                Members::Selected(service.selector.clone())
            }
            Some(Object::ServiceEntry(entry)) => entry.members.clone(),
            _ => Members::Unknown,
        };
        Some((key, members))
    });
    hidden.collect()
}

/// Whether a Service or ServiceEntry that cannot be understood would be behind a waypoint that has a policy, as far as its label can be read.
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
    let mut faults = scope.world.faults.keys();
    if !faults.any(|it| it.kind == Kind::Namespace) {
        return BTreeSet::new();
    }
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
