//! What objects say of themselves that are about a service: their statuses, and of those only what does not hold. Whoever
//! asks for the service sees what he meant and did not get, also where nothing is refused for it.

use control::{
    compile,
    manifest::{Kind, ObjectRef, route::ParentRef},
    status::{Condition, Status},
    world::Key,
};

use super::facts::Facts;

/// What says of a Service whether it is behind its waypoint.
pub(super) const BOUND: &str = "istio.io/WaypointBound";
/// The class of Gateways that get waypoints.
const CLASS: &str = "ambit-waypoint";
/// So many lines are told.
const MOST: usize = 5;

/// In the order of the objects. `open` says that nothing is refused although it has no waypoint, so that nobody else says what to do
/// about that.
pub(super) fn about(facts: &Facts, service: &Key, open: bool) -> Vec<String> {
    let gateway = compile::gateway_of(&facts.world, &facts.settings, service);
    let mut lines = Vec::new();
    for (reference, status) in &facts.statuses {
        for condition in concerning(facts, service, gateway.as_ref(), reference, status) {
            let line = match condition.message.as_str() {
                "" => format!("{reference}: {} is not so", condition.kind),
                message => format!("{reference}: {message}"),
            };
            if !condition.holds && !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    if lines.len() > MOST {
        let more = lines.len() - MOST;
        lines.truncate(MOST);
        lines.push(format!("and {more} more"));
    }
    let next = open.then(|| waypointless(facts, service)).flatten();
    lines.extend(next.map(|next| format!("to have a waypoint: {next}")));
    lines
}

/// Of one status, what concerns a service.
fn concerning<'a>(
    facts: &Facts,
    service: &Key,
    gateway: Option<&Key>,
    reference: &ObjectRef,
    status: &'a Status,
) -> Vec<&'a Condition> {
    let key = (reference.namespace.clone(), reference.name.clone());
    let near = [&service.0, &facts.settings.root_namespace].contains(&&reference.namespace);
    let concerns = match reference.kind {
        Kind::Service => key == *service,
        // Whether it is ready, is presumed or said by the tunnel.
        Kind::Gateway => gateway == Some(&key) && facts.world.faults.contains_key(reference),
        Kind::AuthorizationPolicy => near,
        Kind::Route(_) => {
            let parents = status.parents.iter().filter(|it| {
                let parent = named(&it.parent, &reference.namespace);
                let (is_gateway, key) = &parent;
                let of_gateway = *is_gateway && gateway == Some(key);
                of_gateway || !is_gateway && key == service
            });
            let mut found: Vec<_> = parents.flat_map(|it| &it.conditions).collect();
            if !found.is_empty() {
                found.extend(&status.conditions);
            }
            return found;
        }
        _ => false,
    };
    let own = status.conditions.iter().filter(|_| concerns);
    own.collect()
}

/// Whether a parent is a Gateway, and which.
fn named(parent: &ParentRef, namespace: &str) -> (bool, Key) {
    let is_gateway = parent.kind.as_deref() != Some("Service");
    let namespace = parent.namespace.as_deref().unwrap_or(namespace);
    (is_gateway, (namespace.to_owned(), parent.name.clone()))
}

/// What to do about the waypoint of a service that nobody knows; `None` if it is not the Gateway that is in the way.
pub(super) fn waypointless(facts: &Facts, service: &Key) -> Option<String> {
    let gateway = compile::gateway_of(&facts.world, &facts.settings, service)?;
    let (namespace, name) = &gateway;
    let words = format!("Gateway {namespace}/{name}");
    let label = format!(
        "correct the label istio.io/use-waypoint of Service {}/{} or of its namespace",
        service.0, service.1
    );
    let reference = ObjectRef::new(Kind::Gateway, namespace, name);
    let Some(found) = facts.world.gateways.get(&gateway) else {
        return Some(match faults(facts, &reference) {
            Some(faults) => format!("correct {words}: {faults}"),
            None => format!("make {words}, of class {CLASS}, or {label}"),
        });
    };
    if !compile::sees(&facts.world, &facts.settings, namespace) {
        return Some(format!(
            "{words} is there, but its namespace is not looked at: let discoverySelectors select it, or {label}"
        ));
    }
    let is_ours = compile::gateways(&facts.world, &facts.settings).contains(&gateway);
    (!is_ours).then(|| {
        format!(
            "{words} is there, but its class {} is not ours, so no waypoint is made for it here: make its class {CLASS}, \
             see whether somebody else serves it, or {label}",
            found.class
        )
    })
}

/// What is wrong with an object that is not understood.
pub(super) fn faults(facts: &Facts, reference: &ObjectRef) -> Option<String> {
    let faulty = facts.world.faults.get(reference)?;
    let all: Vec<_> = faulty.faults.iter().map(ToString::to_string).collect();
    Some(all.join("; "))
}

/// A condition of an object that does not hold.
pub(super) fn failing<'f>(
    facts: &'f Facts,
    reference: &ObjectRef,
    kind: &str,
) -> Option<&'f Condition> {
    let mut conditions = facts.statuses.get(reference)?.conditions.iter();
    conditions.find(|it| it.kind == kind && !it.holds)
}
