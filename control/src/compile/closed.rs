//! Pods that refuse every peer: a policy is for them that nobody can carry out. It names their service, which cannot be
//! understood; or a waypoint for workloads, which are not served.

use proto::{
    security::{Action, Authorization, Group, Scope as Reach},
    workload::{Workload, address::Type},
};

use super::{
    Compiled, Scope, binding,
    gateway::{self, Obstacle},
    policy::Attached,
    workloads::has_all,
};
use crate::{
    manifest::{Kind, Labels, Object, ObjectRef},
    world::Key,
};

/// No object can have a name with a `_`.
const SERVICE: &str = "refused_service_";

pub(super) fn compile(scope: Scope<'_>, attached: &Attached, compiled: &mut Compiled) {
    let hidden = hidden(scope, attached);
    if hidden.is_empty() {
        return;
    }
    for address in compiled.addresses.values_mut() {
        let Some(Type::Workload(workload)) = &mut address.r#type else {
            continue;
        };
        let key = (workload.namespace.clone(), workload.name.clone());
        let Some(pod) = scope.world.pods.get(&key) else {
            continue;
        };
        let own = hidden.iter().filter(|((home, _), _)| *home == key.0);
        for ((home, name), _) in own.filter(|(_, all)| has_all(&pod.meta.labels, all)) {
            let denial = denial(home, format!("{SERVICE}{name}"));
            let name = format!("{home}/{}", denial.name);
            workload.authorization_policies.push(name.clone());
            compiled.authorizations.entry(name).or_insert(denial);
        }
    }
}

/// The Gateway of a waypoint for workloads that a pod is labelled to, if a policy is attached to that which is enforced: what
/// is sent to the pod's own address would go past it.
pub(super) fn policed(scope: Scope<'_>, attached: &Attached, workload: &Workload) -> Option<Key> {
    let key = (workload.namespace.clone(), workload.name.clone());
    let pod = scope.world.pods.get(&key)?;
    let gateway = binding::label(scope, &pod.meta)?;
    let class = match gateway::find(scope, &gateway) {
        Some(found) if !gateway::is_for_workloads(scope, found) => return None,
        Some(found) => Some(found.class.as_str()),
        None => {
            let reference = ObjectRef::new(Kind::Gateway, &gateway.0, &gateway.1);
            scope.world.hides(&reference).then_some(())?;
            None
        }
    };
    let denied = gateway::obstacle(scope, &gateway, &key.0) == Some(Obstacle::Denied);
    let own = gateway::is_own(pod, &gateway);
    (!denied && !own && attached.polices_gateway(&gateway, class)).then_some(gateway)
}

/// Services that a policy is attached to and that cannot be understood, with the labels of their pods: none if all pods of
/// the namespace may be theirs.
fn hidden(scope: Scope<'_>, attached: &Attached) -> Vec<(Key, Labels)> {
    let policed = attached.policed_services();
    let hidden = policed.filter_map(|key| {
        let reference = ObjectRef::new(Kind::Service, &key.0, &key.1);
        let labels = match scope.world.refused.get(&reference) {
            Some(Object::Service(service)) => service.selector.clone(),
            _ if scope.world.hides(&reference) => Labels::new(),
            _ => return None,
        };
        Some((key.clone(), labels))
    });
    hidden.collect()
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
