//! What is said of objects of kinds that are known and not served.

use super::{Compiled, Scope};
use crate::{
    manifest::{Unserved, UnservedKind, unserved::Target},
    status::{Condition, Status},
};

/// Of those of which nobody else has said anything.
pub(super) fn statuses(scope: Scope<'_>, compiled: &mut Compiled) {
    let objects = scope.world.unserved.iter();
    for (reference, object) in objects.filter(|(it, _)| scope.sees(&it.namespace)) {
        let message = format!(
            "{}s are not served: {}",
            object.kind.as_str(),
            effect(object)
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
fn effect(object: &Unserved) -> &'static str {
    match (&object.target, object.kind) {
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
