//! What is written into the status of an object, and whether anything has to be. Pure.
//!
//! Others write there too: another controller's parents of a route, another controller's conditions of a Service. Theirs
//! are left as they are, word for word. So a status is read, changed and written with the version that was read, which the
//! API server refuses if somebody was faster; to apply lists that have no keys would take others' entries away.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    manifest::{Kind, route::ParentRef},
    status::{CONTROLLER, Condition, ListenerStatus, ParentStatus, Status},
};

/// Whether objects of a kind have a status that we write: one of conditions, or a route's.
pub fn is_written(kind: Kind) -> bool {
    match kind {
        Kind::Service
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::Route(_)
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::ServiceEntry
        | Kind::WorkloadEntry => true,
        // Those of the Gateway API have one entry per parent, and none of ours is a parent of what we do not serve.
        Kind::Unserved(_) => kind.group().ends_with(".istio.io"),
        _ => false,
    }
}

/// Whether the owners of such objects are told anything: in a status, or else by Events alone.
pub fn is_told(kind: Kind) -> bool {
    is_written(kind) || kind == Kind::ConfigMap
}

/// The status that an object is to have, if that is another than it has (`null` if it has none).
pub fn changed(kind: Kind, has: &Value, wanted: &Status, now: OffsetDateTime) -> Option<Value> {
    let mut next = match has {
        Value::Object(fields) => fields.clone(),
        _ => Map::new(),
    };
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let stamp = now.format(&Rfc3339).unwrap_or_default();
    let writer = Writer { stamp };
    let generation = wanted.refused.unwrap_or(wanted.generation);
    match kind {
        Kind::Route(_) => {
            let parents = writer.parents(&wanted.parents, generation, list(has, "parents"));
            if !parents.is_empty() || next.contains_key("parents") {
                next.insert("parents".to_owned(), parents.into());
            }
        }
        _ => {
            let conditions = list(has, "conditions");
            let conditions = writer.conditions(&wanted.conditions, generation, conditions, &|it| {
                is_ours(it)
            });
            if !conditions.is_empty() || next.contains_key("conditions") {
                next.insert("conditions".to_owned(), conditions.into());
            }
        }
    }
    // One that is not ours has listeners of another's.
    if kind == Kind::Gateway && !wanted.listeners.is_empty() {
        let listeners = writer.listeners(&wanted.listeners, generation, list(has, "listeners"));
        if !listeners.is_empty() || next.contains_key("listeners") {
            next.insert("listeners".to_owned(), listeners.into());
        }
    }
    let next = Value::Object(next);
    let same = next == *has || has.is_null() && next == json!({});
    (!same).then_some(next)
}

/// Whether a condition of this type is written by nobody else, so that one that is not wanted is a leftover of ours.
fn is_ours(condition: &str) -> bool {
    condition.starts_with("ambit.dev/") || OWN.contains(&condition)
}

const OWN: [&str; 5] = [
    "ZtunnelAccepted",
    "WaypointAccepted",
    "istio.io/VisibilityApplied",
    "istio.io/WaypointBound",
    "istio.io/WaypointMissing",
];

struct Writer {
    /// RFC 3339, in whole seconds as the API server keeps it.
    stamp: String,
}

impl Writer {
    /// `wanted` beside what others wrote. Those that are there keep their place, and their time if they say the same.
    fn conditions(
        &self,
        wanted: &[Condition],
        generation: i64,
        has: &[Value],
        is_ours: &dyn Fn(&str) -> bool,
    ) -> Vec<Value> {
        let kind = |it: &Value| it["type"].as_str().unwrap_or_default().to_owned();
        let mut left: Vec<&Condition> = wanted.iter().collect();
        let mut all = Vec::new();
        for had in has {
            match left.iter().position(|it| it.kind == kind(had)) {
                Some(i) => all.push(self.condition(left.remove(i), generation, Some(had))),
                None if is_ours(&kind(had)) => {}
                None => all.push(had.clone()),
            }
        }
        all.extend(
            left.into_iter()
                .map(|it| self.condition(it, generation, None)),
        );
        all
    }

    fn condition(&self, wanted: &Condition, generation: i64, had: Option<&Value>) -> Value {
        let status = if wanted.holds { "True" } else { "False" };
        let since = had
            .filter(|had| had["status"] == status)
            .and_then(|had| had["lastTransitionTime"].as_str());
        let mut next = json!({
            "type": wanted.kind,
            "status": status,
            "reason": wanted.reason,
            "message": wanted.message,
            "lastTransitionTime": since.unwrap_or(&self.stamp),
        });
        if generation > 0 {
            next["observedGeneration"] = generation.into();
        }
        next
    }

    /// One entry per parent that is ours to serve, after those of others.
    fn parents(&self, wanted: &[ParentStatus], generation: i64, has: &[Value]) -> Vec<Value> {
        let (ours, others): (Vec<_>, Vec<_>) = has
            .iter()
            .partition(|it| it["controllerName"] == CONTROLLER);
        let mut all: Vec<Value> = others.into_iter().cloned().collect();
        all.extend(wanted.iter().map(|parent| {
            let reference = reference(&parent.parent);
            let had = ours.iter().find(|it| it["parentRef"] == reference);
            let conditions = had.map_or(&[][..], |had| list(had, "conditions"));
            let conditions = self.conditions(&parent.conditions, generation, conditions, &|_| true);
            json!({"controllerName": CONTROLLER, "parentRef": reference, "conditions": conditions})
        }));
        all
    }

    fn listeners(&self, wanted: &[ListenerStatus], generation: i64, has: &[Value]) -> Vec<Value> {
        let listeners = wanted.iter().map(|listener| {
            let had = has.iter().find(|it| it["name"] == *listener.name);
            let conditions = had.map_or(&[][..], |had| list(had, "conditions"));
            let conditions =
                self.conditions(&listener.conditions, generation, conditions, &|_| true);
            json!({
                "name": listener.name,
                "attachedRoutes": listener.attached,
                "supportedKinds": had.map_or(json!([]), |had| had["supportedKinds"].clone()),
                "conditions": conditions,
            })
        });
        listeners.collect()
    }
}

/// As the API server stores it, which fills in what the route leaves out.
fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({
        "group": parent.group.as_deref().unwrap_or("gateway.networking.k8s.io"),
        "kind": parent.kind.as_deref().unwrap_or("Gateway"),
        "name": parent.name,
    });
    if let Some(namespace) = &parent.namespace {
        reference["namespace"] = namespace.as_str().into();
    }
    if let Some(section) = &parent.section {
        reference["sectionName"] = section.as_str().into();
    }
    if let Some(port) = parent.port {
        reference["port"] = port.into();
    }
    reference
}

fn list<'a>(has: &'a Value, key: &str) -> &'a [Value] {
    has[key].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::RouteKind;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_700_000_000 + seconds).unwrap()
    }

    const FIRST: &str = "2023-11-14T22:13:20Z";
    const LATER: &str = "2023-11-14T22:13:30Z";

    fn service(conditions: Vec<Condition>) -> Status {
        Status {
            generation: 0,
            conditions,
            ..Status::default()
        }
    }

    fn bound(reason: &'static str) -> Condition {
        Condition::holds("istio.io/WaypointBound", reason, "to shop/waypoint")
    }

    #[test]
    fn a_condition_stands_beside_those_of_others_and_is_written_once() {
        let theirs = json!({"type": "LoadBalancerPortsError", "status": "False", "reason": "X", "message": ""});
        let has = json!({"loadBalancer": {}, "conditions": [theirs]});
        let wanted = service(vec![bound("WaypointAccepted")]);
        let next = changed(Kind::Service, &has, &wanted, at(0)).unwrap();
        let ours = json!({"type": "istio.io/WaypointBound", "status": "True", "reason": "WaypointAccepted",
            "message": "to shop/waypoint", "lastTransitionTime": FIRST});
        let expected = json!({"loadBalancer": {}, "conditions": [theirs, ours]});
        assert_eq!(next, expected);
        assert_eq!(changed(Kind::Service, &next, &wanted, at(10)), None);
    }

    #[test]
    fn the_time_is_that_of_the_last_change_of_yes_and_no() {
        let first = service(vec![bound("One")]);
        let has = changed(Kind::Service, &Value::Null, &first, at(0)).unwrap();
        let reworded = service(vec![bound("Two")]);
        let next = changed(Kind::Service, &has, &reworded, at(10)).unwrap();
        assert_eq!(next["conditions"][0]["lastTransitionTime"], FIRST);
        let no = service(vec![Condition::fails("istio.io/WaypointBound", "Gone", "")]);
        let next = changed(Kind::Service, &next, &no, at(10)).unwrap();
        assert_eq!(next["conditions"][0]["lastTransitionTime"], LATER);
    }

    #[test]
    fn what_we_do_not_say_any_more_is_taken_back_and_nothing_of_others() {
        let theirs = json!({"type": "Theirs", "status": "True"});
        let has =
            json!({"conditions": [{"type": "istio.io/WaypointBound", "status": "True"}, theirs]});
        let next = changed(Kind::Service, &has, &service(Vec::new()), at(0)).unwrap();
        assert_eq!(next, json!({"conditions": [theirs]}));
        let nothing = changed(Kind::Service, &Value::Null, &service(Vec::new()), at(0));
        assert_eq!(nothing, None);
    }

    #[test]
    fn of_a_routes_parents_only_ours_are_written() {
        let parent = ParentRef {
            group: Some(String::new()),
            kind: Some("Service".to_owned()),
            namespace: None,
            name: "web".to_owned(),
            section: None,
            port: Some(80),
        };
        let status = |holds: bool| Status {
            generation: 4,
            parents: vec![ParentStatus {
                parent: parent.clone(),
                conditions: vec![Condition {
                    kind: "Accepted",
                    holds,
                    reason: "Accepted",
                    message: String::new(),
                }],
            }],
            ..Status::default()
        };
        let theirs = json!({"controllerName": "example.com/gateway", "parentRef": {"name": "edge"}, "conditions": []});
        let stale = json!({"controllerName": CONTROLLER, "parentRef": {"group": "", "kind": "Service", "name": "old"}, "conditions": []});
        let has = json!({"parents": [stale, theirs]});
        let kind = Kind::Route(RouteKind::Http);
        let next = changed(kind, &has, &status(true), at(0)).unwrap();
        assert_eq!(next["parents"][0], theirs);
        assert_eq!(next["parents"].as_array().unwrap().len(), 2);
        let ours = &next["parents"][1];
        assert_eq!(
            ours["parentRef"],
            json!({"group": "", "kind": "Service", "name": "web", "port": 80})
        );
        assert_eq!(ours["conditions"][0]["observedGeneration"], 4);
        assert_eq!(changed(kind, &next, &status(true), at(10)), None);
        let next = changed(kind, &next, &status(false), at(10)).unwrap();
        assert_eq!(
            next["parents"][1]["conditions"][0]["lastTransitionTime"],
            LATER
        );
    }

    #[test]
    fn a_refused_version_is_what_the_conditions_are_about() {
        let status = Status {
            generation: 2,
            refused: Some(3),
            conditions: vec![Condition::fails("ZtunnelAccepted", "Invalid", "")],
            ..Status::default()
        };
        let next = changed(Kind::AuthorizationPolicy, &Value::Null, &status, at(0)).unwrap();
        assert_eq!(next["conditions"][0]["observedGeneration"], 3);
    }
}
