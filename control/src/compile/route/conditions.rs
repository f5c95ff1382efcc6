//! What is said of a route at one of its parents.

use mesh::keys::Keys;

use super::{attach::Outcome, rule::Converted};
use crate::{status::Condition, world::Key};

const ACCEPTED: &str = "Accepted";
const PARTLY: &str = "PartiallyInvalid";
const REFS: &str = "ResolvedRefs";
const WAYPOINTS: &str = "ResolvedWaypoints";
const UNSUPPORTED: &str = "UnsupportedValue";

/// In the order of their types. `namespace` is the route's; `has_waypoint` says whether a service is bound to one.
pub(super) fn conditions(
    keys: Keys,
    converted: &Converted,
    outcome: Outcome,
    namespace: &str,
    has_waypoint: impl Fn(&Key) -> bool,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let unserved = converted.unserved.join("; ");
    conditions.push(match &outcome.refusal {
        Some((reason, message)) => Condition::fails(ACCEPTED, reason, message.clone()),
        None if converted.is_refused() => {
            let effect = match converted.takes_part() {
                true => "what matches it is answered with 500",
                false => "the route is not in force",
            };
            Condition::fails(ACCEPTED, UNSUPPORTED, format!("{unserved}: {effect}"))
        }
        None => Condition::holds(ACCEPTED, ACCEPTED, note(converted, &outcome, namespace)),
    });
    if !unserved.is_empty() && !converted.is_refused() {
        let message = format!("{unserved}: what matches these rules is answered with 500");
        conditions.push(Condition::holds(PARTLY, UNSUPPORTED, message));
    }
    conditions.push(match &converted.unresolved {
        None => Condition::holds(REFS, REFS, ""),
        Some((reason, message)) => Condition::fails(REFS, reason, message.clone()),
    });
    if let Some(service) = &outcome.service {
        conditions.push(match has_waypoint(service) {
            true => Condition::holds(WAYPOINTS, WAYPOINTS, ""),
            false => Condition::fails(
                WAYPOINTS,
                "MissingWaypoint",
                format!(
                    "Service {}/{} has no waypoint (label {}), so the route changes nothing",
                    service.0,
                    service.1,
                    keys.use_waypoint()
                ),
            ),
        });
    }
    conditions
}

/// What is worth knowing of a route that is accepted.
fn note(converted: &Converted, outcome: &Outcome, namespace: &str) -> String {
    let said = |rules: &[String], between: &str, what: &str| {
        (!rules.is_empty()).then(|| format!("{}{what}", rules.join(between)))
    };
    let nowhere = ": without backendRefs, so what matches is answered with 500";
    let idle = " of requests have no effect: they are not a route's to change";
    let judged = outcome.service.as_ref().filter(|it| it.0 != namespace);
    let judged = judged.and_then(|(namespace, name)| {
        let what = format!(
            ": policies of Service {namespace}/{name} judge what the route makes of a request, too"
        );
        said(&converted.changing, ", ", &what)
    });
    let own = Some(outcome.note.clone()).filter(|note| !note.is_empty());
    let all = [
        own,
        said(&converted.nowhere, ", ", nowhere),
        said(&converted.idle, "; ", idle),
        judged,
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
