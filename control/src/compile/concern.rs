//! Which policies may be for an object that cannot be understood. Not what they do: `policy`, `authorization` and `peer`
//! say that of what is there.

use super::{authorization::is_dry_run, binding};
use crate::{
    manifest::{
        Kind, Object, ObjectRef, TargetRef,
        authorization::{Action, PolicyTarget, TargetKind},
        unserved::Target,
    },
    world::{Key, UNREADABLE, World},
};

/// A policy that may be for an object, which is not in force. By a Service and its Namespace it would be known which
/// waypoint is asked, by a Gateway and its class which policies that has, by a Namespace which pods are in the mesh at all, and
/// by a Pod or WorkloadEntry which policies select it; by a ServiceEntry the same as by a Service; of other kinds only what is named counts.
pub(crate) fn policy(world: &World, root: &str, object: &ObjectRef) -> Option<ObjectRef> {
    if [Kind::Pod, Kind::WorkloadEntry].contains(&object.kind) {
        return of_pods(world, root, &object.namespace);
    }
    let behind = behind(world, object);
    let concerns = |(policy, targets): &(ObjectRef, &[TargetRef])| {
        let any = |kinds: &[TargetKind]| targets.iter().any(|it| kinds.contains(&it.kind));
        let through = [TargetKind::Gateway, TargetKind::GatewayClass];
        match object.kind {
            Kind::Service | Kind::ServiceEntry => match &behind {
                Behind::Nothing => false,
                Behind::Gateway((home, name)) => targets.iter().any(|it| match it.kind {
                    TargetKind::Gateway => policy.namespace == *home && it.name == *name,
                    kind => kind == TargetKind::GatewayClass,
                }),
                Behind::Anything => any(&through),
            },
            Kind::GatewayClass => any(&through),
            // A policy of a Gateway names it.
            Kind::Gateway => any(&[TargetKind::GatewayClass]),
            Kind::Namespace => {
                any(&through) || policy.namespace == root || is_of(world, policy, object)
            }
            _ => false,
        }
    };
    let found = all(world).find(concerns);
    found.map(|(policy, _)| policy)
}

/// What a Service or ServiceEntry that cannot be understood is behind.
pub(super) enum Behind {
    /// No waypoint.
    Nothing,
    /// The waypoint of this Gateway.
    Gateway(Key),
    /// Nobody knows.
    Anything,
}

/// What such an object is behind, as far as its label and that of its namespace can be read.
pub(super) fn behind(world: &World, service: &ObjectRef) -> Behind {
    let faulty = world.faults.get(service);
    let faults = faulty.into_iter().flat_map(|it| &it.faults);
    let mut of_metadata = faults.filter(|it| it.field.contains("metadata"));
    let meta = match world.refused.get(service) {
        Some(Object::Service(read)) => &read.meta,
        Some(Object::ServiceEntry(read)) => &read.meta,
        _ => return Behind::Anything,
    };
    // One of which nobody knows the name is not known by its labels either.
    if meta.name.is_empty() || of_metadata.next().is_some() {
        return Behind::Anything;
    }
    binding::named(world, meta).map_or(Behind::Nothing, Behind::Gateway)
}

/// A policy that may be for a pod of a namespace by the pod's labels.
pub(crate) fn of_pods(world: &World, root: &str, namespace: &str) -> Option<ObjectRef> {
    let mut policies = all(world).map(|(policy, _)| policy);
    policies.find(|policy| policy.namespace == namespace || policy.namespace == root)
}

/// Whether a policy is, or may be, of a namespace. What has no name that can be read may be any that is not there.
fn is_of(world: &World, policy: &ObjectRef, namespace: &ObjectRef) -> bool {
    let home = &policy.namespace;
    let nameless = namespace.name.starts_with(UNREADABLE);
    *home == namespace.name || nameless && !world.namespaces.contains_key(home)
}

/// The policies that change who gets in, with what they are attached to.
fn all(world: &World) -> impl Iterator<Item = (ObjectRef, &[TargetRef])> {
    let written = world.authorization_policies.values();
    let written = written.filter(|it| it.action != Action::Audit && !is_dry_run(it));
    let written = written.map(|it| {
        let reference =
            ObjectRef::new(Kind::AuthorizationPolicy, &it.meta.namespace, &it.meta.name);
        (reference, targets(&it.target))
    });
    let peers = world.peer_authentications.keys();
    let peers = peers.map(|(namespace, name)| {
        let none: &[TargetRef] = &[];
        (
            ObjectRef::new(Kind::PeerAuthentication, namespace, name),
            none,
        )
    });
    let tokens = world.unserved.iter();
    let tokens = tokens.filter_map(|(reference, object)| match &object.target {
        Target::Tokens(target) => Some((reference.clone(), targets(target))),
        _ => None,
    });
    let denials = world.denials.iter();
    let denials = denials.map(|(reference, denial)| (reference.clone(), denial.targets.as_slice()));
    written.chain(peers).chain(tokens).chain(denials)
}

fn targets(target: &PolicyTarget) -> &[TargetRef] {
    match target {
        PolicyTarget::Objects(targets) => targets,
        _ => &[],
    }
}
