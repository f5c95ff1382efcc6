//! What is said of objects of kinds that are known and not served.

use super::{Compiled, Scope, host};
use crate::{
    manifest::{Unserved, UnservedKind, unserved::Target},
    status::{Condition, Status},
};

/// Of those of which nobody else has said anything.
pub(super) fn statuses(scope: Scope<'_>, compiled: &mut Compiled) {
    let objects = scope.world.unserved.iter();
    for (reference, object) in objects.filter(|(it, _)| scope.sees(&it.namespace)) {
        let message = format!(
            "kind {} is not served: {}",
            object.kind.as_str(),
            effect(scope, object)
        );
        let condition = Condition::fails("Accepted", "UnsupportedValue", message);
        let status = Status {
            generation: object.meta.generation,
            conditions: vec![condition],
            ..Status::default()
        };
        compiled.statuses.entry(reference.clone()).or_insert(status);
    }
}

/// What becomes of what it wants.
fn effect(scope: Scope<'_>, object: &Unserved) -> &'static str {
    match (&object.target, object.kind) {
        (Target::Host(host), _) if !is_about_any(scope, &object.meta.namespace, host) => {
            "its host is no Service or ServiceEntry that it may speak for, which are those of its own namespace, so it changes nothing"
        }
        (Target::Services(_) | Target::Host(_) | Target::All, _) => {
            "waypoints send nothing where it wants TLS, and answer with 500 instead"
        }
        (Target::Tokens(_), _) => "node proxies see no tokens, so it changes nothing",
        (Target::Harmless, UnservedKind::DestinationRule) => {
            "it is as if it were not there, and it wants no TLS of its own"
        }
        (Target::Harmless, _) => "it is as if it were not there",
    }
}

/// Whether it is heard for any service: those of its own namespace, or all if its namespace is the root.
fn is_about_any(scope: Scope<'_>, namespace: &str, host: &str) -> bool {
    let mut near = scope.services().filter(|service| {
        let home = &service.meta.namespace;
        scope.sees(home) && (home == namespace || scope.is_root(namespace))
    });
    near.any(|service| host::is_of(scope, namespace, host, service))
}
