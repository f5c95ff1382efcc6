//! What is said of a route at one of its parents.

use super::{attach::Outcome, rule::Converted};
use crate::{status::Condition, world::Key};

const ACCEPTED: &str = "Accepted";
const PARTLY: &str = "PartiallyInvalid";
const REFS: &str = "ResolvedRefs";
const WAYPOINTS: &str = "ResolvedWaypoints";
const UNSUPPORTED: &str = "UnsupportedValue";

/// In the order of their types. `has_waypoint` says whether a service is bound to one.
pub(super) fn conditions(
    converted: &Converted,
    outcome: Outcome,
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
        None => Condition::holds(ACCEPTED, ACCEPTED, outcome.note.clone()),
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
                    "Service {}/{} has no waypoint, so the route changes nothing",
                    service.0, service.1
                ),
            ),
        });
    }
    conditions
}
