//! How far bindings have come, kept with the objects that they are about: for each Service its phase, for each Gateway whether
//! its waypoint was ready once. Pure.
//!
//! All replicas publish what is written there and nothing else, so that they agree and a restart changes nothing. The one
//! that writes decides what comes next; the others learn of it as of any change.

use std::collections::BTreeMap;

use serde_json::Value;

use super::objects::Objects;
use crate::{
    follow::bindings::record,
    manifest::{Kind, ObjectRef},
    status::{Condition, Status},
    world::{Phase, Waypoints, host},
};

/// The condition of a Service whose message is its phase.
pub const BINDING: &str = "ambit.dev/Binding";

/// The condition of a Gateway whose waypoint was ready once.
pub const READY: &str = "ambit.dev/WaypointWasReady";

/// What objects say that is recorded.
pub fn recorded(objects: &Objects) -> Waypoints {
    let mut recorded = Waypoints::default();
    for (reference, written) in objects.all_written() {
        let key = || match reference.kind {
            Kind::ServiceEntry => host::all(&reference.namespace, &reference.name),
            _ => (reference.namespace.clone(), reference.name.clone()),
        };
        match reference.kind {
            Kind::Service | Kind::ServiceEntry => {
                if let Some(said) = condition(&written.status, BINDING) {
                    let phase = said["message"].as_str().map(record::read_line);
                    // Something is recorded, and nobody can say what: it might be a denial.
                    let phase = phase.and_then(Result::ok).unwrap_or(Phase::Closed);
                    recorded.phases.insert(key(), phase);
                }
            }
            Kind::Gateway => {
                let said = condition(&written.status, READY);
                if said.is_some_and(|said| said["status"] == "True") {
                    recorded.ready.insert(key());
                }
            }
            _ => {}
        }
    }
    recorded
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|it| it["type"] == kind)
}

/// Adds to the statuses of objects what is to be recorded with them, in place of what is `recorded`.
pub fn add(wanted: &Waypoints, recorded: &Waypoints, statuses: &mut BTreeMap<ObjectRef, Status>) {
    let services = wanted.phases.iter().map(|(service, phase)| {
        let condition = Condition::holds(BINDING, phase.name(), record::line(phase));
        (host::object(service), condition)
    });
    let gateways = wanted.ready.iter().map(|gateway| {
        let message = "its waypoint was ready once";
        (
            ObjectRef::new(Kind::Gateway, &gateway.0, &gateway.1),
            Condition::holds(READY, "Ready", message),
        )
    });
    for (reference, condition) in services.chain(gateways) {
        let status = statuses.entry(reference).or_default();
        status.conditions.push(condition);
        status.conditions.sort_by_key(|it| it.kind);
    }
    // What is recorded and is not to be any more: the status of that object has to be looked at.
    let services = recorded.phases.keys().map(host::object);
    let gateways = recorded.ready.iter();
    let gateways = gateways.map(|it| ObjectRef::new(Kind::Gateway, &it.0, &it.1));
    for reference in services.chain(gateways) {
        statuses.entry(reference).or_default();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::OffsetDateTime;

    use super::*;
    use crate::kubernetes::{
        objects::{Change, Stored},
        write::writes,
    };
    use crate::world::Key;

    fn key(name: &str) -> Key {
        ("shop".to_owned(), name.to_owned())
    }

    fn object(kind: Kind, name: &str, status: &Value) -> Stored {
        let api_version = match kind {
            Kind::Gateway => "gateway.networking.k8s.io/v1",
            _ => "v1",
        };
        let mut tree = json!({
            "apiVersion": api_version, "kind": kind.as_str(),
            "metadata": {"name": name, "namespace": "shop", "resourceVersion": "7"},
            "spec": {"ports": [{"port": 80}]},
        });
        if !status.is_null() {
            tree["status"] = status.clone();
        }
        Stored::read(kind, &tree).unwrap()
    }

    fn objects(services: Vec<Stored>, gateways: Vec<Stored>) -> Objects {
        let mut objects = Objects::default();
        objects.apply(Change::All(Kind::Service, services));
        objects.apply(Change::All(Kind::Gateway, gateways));
        objects
    }

    #[test]
    fn what_is_written_is_read_by_every_replica() {
        let wanted = Waypoints {
            ready: [key("waypoint")].into(),
            phases: [(
                key("orders"),
                Phase::Enforced {
                    gateway: key("waypoint"),
                },
            )]
            .into(),
        };
        let bare = objects(
            vec![object(Kind::Service, "orders", &Value::Null)],
            vec![object(Kind::Gateway, "waypoint", &Value::Null)],
        );
        assert_eq!(recorded(&bare), Waypoints::default());
        let mut statuses = BTreeMap::new();
        add(&wanted, &recorded(&bare), &mut statuses);
        let written = writes(&bare, &statuses, OffsetDateTime::UNIX_EPOCH);
        let status = |kind, name| &written[&ObjectRef::new(kind, "shop", name)].status;
        let said = objects(
            vec![object(
                Kind::Service,
                "orders",
                status(Kind::Service, "orders"),
            )],
            vec![object(
                Kind::Gateway,
                "waypoint",
                status(Kind::Gateway, "waypoint"),
            )],
        );
        assert_eq!(recorded(&said), wanted);
        let mut statuses = BTreeMap::new();
        add(&wanted, &recorded(&said), &mut statuses);
        assert!(writes(&said, &statuses, OffsetDateTime::UNIX_EPOCH).is_empty());
    }

    #[test]
    fn what_is_not_recorded_any_more_is_taken_back() {
        let line = record::line(&Phase::Leaving {
            gateway: key("waypoint"),
        });
        let status = json!({"conditions": [{"type": BINDING, "status": "True", "message": line}]});
        let before = objects(vec![object(Kind::Service, "orders", &status)], Vec::new());
        let mut statuses = BTreeMap::new();
        add(&Waypoints::default(), &recorded(&before), &mut statuses);
        let written = writes(&before, &statuses, OffsetDateTime::UNIX_EPOCH);
        let orders = ObjectRef::new(Kind::Service, "shop", "orders");
        assert_eq!(written[&orders].status, json!({"conditions": []}));
    }

    #[test]
    fn a_record_that_nobody_can_read_closes_its_service() {
        for message in [json!("{}"), json!("enforced"), json!(7), Value::Null] {
            let status =
                json!({"conditions": [{"type": BINDING, "status": "True", "message": message}]});
            let objects = objects(vec![object(Kind::Service, "orders", &status)], Vec::new());
            assert_eq!(recorded(&objects).phases[&key("orders")], Phase::Closed);
        }
    }
}
