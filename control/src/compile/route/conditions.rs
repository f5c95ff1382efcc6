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
        None => Condition::holds(ACCEPTED, ACCEPTED, note(converted, &outcome)),
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

/// What is worth knowing of a route that is accepted.
fn note(converted: &Converted, outcome: &Outcome) -> String {
    let rules = converted.nowhere.join(", ");
    let nowhere = (!rules.is_empty())
        .then(|| format!("{rules}: without backendRefs, so what matches is answered with 500"));
    let own = Some(outcome.note.clone()).filter(|note| !note.is_empty());
    let all: Vec<_> = own.into_iter().chain(nowhere).collect();
    all.join("; ")
}
