//! Bindings of ServiceEntries that are not served, or not there to be looked at.

use super::{Asked, BOUND, Binding, Published, phase, policed_by};
use crate::{
    compile::{
        Compiled, Scope, Wanted,
        entry::{Entry, Lack},
    },
    status::Condition,
    world::{Key, Phase, host},
};

/// A host of a ServiceEntry that is not served. What a policy is for is refused, as far as it has an address; so is what was
/// behind a waypoint, as long as it is labelled to one.
pub(super) fn lacking(
    asked: Asked<'_>,
    label: Option<&Key>,
    named: bool,
    (entry, lack): (&Entry<'_>, &Lack),
) -> Binding {
    let policed = named || label.is_some_and(|gateway| policed_by(asked, gateway));
    let was = phase(asked).and_then(Phase::published).is_some();
    let closed = policed || was && label.is_some();
    let effect = match closed {
        true => entry.refusal(),
        false => "it is reached past every waypoint",
    };
    let message = || format!("{lack}: {effect}");
    Binding {
        published: closed.then_some(Published::Nowhere),
        closed: policed,
        condition: (closed || label.is_some())
            .then(|| Condition::fails(BOUND, "UnsupportedTrafficType", message())),
        ..Binding::default()
    }
}

/// Lets the bindings of ServiceEntries go on as they are recorded while these cannot be understood, or their namespaces are
/// not looked at.
pub(super) fn hold(scope: Scope<'_>, compiled: &mut Compiled) {
    let phases = scope.world.waypoints.iter().flat_map(|it| &it.phases);
    let entries = phases.filter(|(key, _)| host::parts(&key.1).is_some());
    for (key, phase) in entries {
        let reference = host::object(key);
        let is_there = scope
            .world
            .service_entries
            .contains_key(&(reference.namespace.clone(), reference.name.clone()));
        let is_unseen = is_there && !scope.sees(&key.0);
        let is_hidden = is_unseen || scope.world.hides(&reference);
        if !is_hidden || compiled.wanted.contains_key(key) {
            continue;
        }
        let (gateway, deny) = match phase {
            Phase::Told { .. } | Phase::Leaving { .. } => continue,
            Phase::Closed => {
                compiled.closed.insert(key.clone());
                continue;
            }
            Phase::Published { gateway } => (gateway, false),
            Phase::Enforced { gateway } => (gateway, true),
            Phase::Moving { to, enforced, .. } => (to, *enforced),
        };
        let wanted = Wanted {
            gateway: gateway.clone(),
            policed: true,
            deny,
        };
        compiled.wanted.insert(key.clone(), wanted);
    }
}
