//! Warning Events about objects whose owner must act. The leader alone makes them, and each once.
//!
//! An Event is made for what stays wrong until somebody changes the object itself, or takes it away. What only waits for
//! something that is not there yet, mostly since it is on its way, is told by a status alone. The name of an Event says what
//! it is about, so another replica, or this one after a restart, makes the same, which the API server refuses: as long as it
//! keeps an Event there is one of each object, reason and generation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::objects::Objects;
use crate::{
    manifest::{Kind, ObjectRef},
    publish::Version,
    status::{Condition, Status},
};

/// Who reports.
const CONTROLLER: &str = "ambit.dev/control";
/// Where Events are of objects that have no namespace (Event v1).
const NOWHERE: &str = "default";
/// Bytes of a note (Event v1), and of a part of an object's name in an Event's.
const NOTE: usize = 1024;
const NAME: usize = 200;
/// How long a request may take, and until what failed is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);

/// Reasons that end by themselves as soon as something else comes.
const WAITING: [&str; 8] = [
    "AddressNotAssigned",
    "BackendNotFound",
    "MissingWaypoint",
    "NoMatchingParent",
    "NoReadyEndpoint",
    "Pending",
    "TargetNotFound",
    "WaypointIsNotReady",
];

/// Reasons of a condition that holds, and of something beside it that does not.
const PARTLY: [&str; 4] = [
    "ListenersNotValid",
    "NoWaypointForWildcardService",
    "PartiallyInvalid",
    "UnsupportedValue",
];

/// A dry run is what its owner wants.
const DRY_RUN: &str = "a dry run";

/// What somebody has to be warned of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub note: String,
}

/// An Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// `apiVersion`.
    api_version: String,
    /// `metadata.uid`.
    uid: String,
    /// What it is about, beside the object: its generation, or, where an object has none, what is said.
    state: String,
    warning: Warning,
}

/// By object and reason.
pub type Warnings = BTreeMap<(ObjectRef, &'static str), About>;

/// What the owner of an object has to be warned of, by what its status is to say. Each reason once.
pub fn deserved(kind: Kind, status: &Status) -> BTreeSet<Warning> {
    // Of a kind that nobody here serves only policies are missed; anything else may be there for another mesh.
    if matches!(kind, Kind::Unserved(_)) && !kind.is_policy() && status.refused.is_none() {
        return BTreeSet::new();
    }
    let parents = status.parents.iter().map(|it| &it.conditions);
    let listeners = status.listeners.iter().map(|it| &it.conditions);
    let all = [&status.conditions]
        .into_iter()
        .chain(parents)
        .chain(listeners);
    let all = all.flatten().filter(|it| is_wrong(kind, it));
    let mut found: BTreeMap<&'static str, Warning> = BTreeMap::new();
    for condition in all {
        let Condition {
            reason, message, ..
        } = condition;
        let entry = found.entry(reason).or_insert_with(|| Warning {
            reason,
            note: message.clone(),
        });
        if entry.note.is_empty() {
            entry.note.clone_from(message);
        }
    }
    found.into_values().collect()
}

fn is_wrong(kind: Kind, condition: &Condition) -> bool {
    let Condition {
        holds,
        reason,
        message,
        ..
    } = condition;
    if message.is_empty() || WAITING.contains(reason) {
        return false;
    }
    // What is said of a policy that is in force is whom or what it does not reach.
    let is_partly = kind.is_policy() && !message.starts_with(DRY_RUN);
    !holds || PARTLY.contains(reason) || is_partly
}

/// What all owners have to be warned of.
pub fn warnings(objects: &Objects, statuses: &BTreeMap<ObjectRef, Status>) -> Warnings {
    let mut all = Warnings::new();
    for (reference, status) in statuses {
        let deserved = deserved(reference.kind, status);
        let Some(written) = objects.written(reference).filter(|_| !deserved.is_empty()) else {
            continue;
        };
        for warning in deserved {
            let state = match status.refused.unwrap_or(status.generation) {
                0 => warning.note.clone(),
                generation => generation.to_string(),
            };
            let about = About {
                api_version: written.api_version.clone(),
                uid: written.uid.clone(),
                state,
                warning,
            };
            all.insert((reference.clone(), about.warning.reason), about);
        }
    }
    all
}

/// The name of an Event, and where it is to be.
fn place(object: &ObjectRef, about: &About) -> (String, String) {
    let parts = [
        object.kind.as_str(),
        object.kind.group(),
        &about.uid,
        about.warning.reason,
        &about.state,
    ];
    let end = object.name.floor_char_boundary(NAME);
    let begins = object.name[..end].trim_end_matches(['.', '-']);
    let name = format!("{begins}.{}", Version::of(parts.join("\0").as_bytes()));
    let namespace = match object.namespace.as_str() {
        "" => NOWHERE,
        namespace => namespace,
    };
    (namespace.to_owned(), name)
}

fn event(object: &ObjectRef, about: &About, me: &str) -> Event {
    let (namespace, name) = place(object, about);
    let text = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
    let note = &about.warning.note;
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: text(CONTROLLER),
        reporting_instance: text(me),
        action: text("Compile"),
        reason: text(about.warning.reason),
        regarding: Some(ObjectReference {
            api_version: text(&about.api_version),
            kind: text(object.kind.as_str()),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&about.uid),
            ..ObjectReference::default()
        }),
        note: text(&note[..note.floor_char_boundary(NOTE)]),
        type_: text("Warning"),
        ..Event::default()
    }
}

/// Makes the Events of warnings that are new, as long as this replica `leads`, until the task ends.
pub async fn run(
    client: Client,
    me: String,
    mut leads: watch::Receiver<bool>,
    mut warnings: watch::Receiver<Arc<Warnings>>,
) {
    let mut made = Warnings::new();
    loop {
        let list = Arc::clone(&warnings.borrow_and_update());
        let mut failed = false;
        if *leads.borrow_and_update() {
            made.retain(|key, about| list.get(key) == Some(about));
            for (key, about) in list.iter() {
                if made.contains_key(key) {
                    continue;
                }
                if !*leads.borrow() || !make(&client, &key.0, about, &me).await {
                    failed = true;
                    break;
                }
                made.insert(key.clone(), about.clone());
            }
        }
        tokio::select! {
            changed = leads.changed() => if changed.is_err() { return },
            changed = warnings.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
        }
    }
}

/// Whether nothing is left to do.
async fn make(client: &Client, object: &ObjectRef, about: &About, me: &str) -> bool {
    let event = event(object, about, me);
    let namespace = event.metadata.namespace.as_deref().unwrap_or(NOWHERE);
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    match timeout(PATIENCE, api.create(&params, &event)).await {
        Ok(Ok(_)) => true,
        // It is there; or it cannot be, as its namespace is on its way out.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404 | 409 | 422) => {
            if status.code != 409 {
                tracing::debug!(%object, %status, "no Event is made");
            }
            true
        }
        Ok(Err(error)) => {
            tracing::debug!(%object, %error, "an Event cannot be made yet");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        kubernetes::objects::{Change, Stored},
        manifest::{RouteKind, UnservedKind},
        status::{ListenerStatus, ParentStatus},
    };

    const POLICY: Kind = Kind::AuthorizationPolicy;

    fn fails(reason: &'static str) -> Condition {
        Condition::fails("Any", reason, "why")
    }

    fn holds(reason: &'static str, message: &str) -> Condition {
        Condition::holds("Any", reason, message)
    }

    fn status(conditions: Vec<Condition>) -> Status {
        Status {
            generation: 3,
            conditions,
            ..Status::default()
        }
    }

    fn reasons(kind: Kind, conditions: Vec<Condition>) -> Vec<&'static str> {
        let deserved = deserved(kind, &status(conditions));
        deserved.into_iter().map(|it| it.reason).collect()
    }

    #[test]
    fn who_must_act_is_warned_and_nobody_else() {
        let destination_rule = Kind::Unserved(UnservedKind::DestinationRule);
        let tokens = Kind::Unserved(UnservedKind::RequestAuthentication);
        for (kind, condition, warned) in [
            (POLICY, fails("Invalid"), true),
            (POLICY, fails("UnsupportedValue"), true),
            (POLICY, fails("TargetNotFound"), false),
            (POLICY, holds("Accepted", ""), false),
            (
                POLICY,
                holds("Accepted", "a dry run: it is told, and not enforced"),
                false,
            ),
            (
                POLICY,
                holds("Accepted", "pods outside the mesh are reached past it"),
                true,
            ),
            (POLICY, holds("PartiallyInvalid", "one of two"), true),
            (
                POLICY,
                holds("UnsupportedValue", "these count as matching"),
                true,
            ),
            (Kind::PeerAuthentication, fails("Invalid"), true),
            (Kind::Service, fails("AttachmentDenied"), true),
            (Kind::Service, fails("WaypointIsNotReady"), false),
            (
                Kind::Service,
                holds("WaypointAccepted", "canary waypoints are not served yet"),
                false,
            ),
            (Kind::ServiceEntry, fails("UnsupportedValue"), true),
            (
                Kind::ServiceEntry,
                holds("NoWaypointForWildcardService", "why"),
                true,
            ),
            (Kind::ServiceEntry, holds("Public", "why"), false),
            (Kind::Gateway, fails("AddressNotAssigned"), false),
            (Kind::Gateway, fails("AddressNotUsable"), true),
            (Kind::Gateway, holds("ListenersNotValid", "why"), true),
            (Kind::ConfigMap, fails("Invalid"), true),
            (destination_rule, fails("UnsupportedValue"), false),
            (tokens, fails("UnsupportedValue"), true),
        ] {
            let expected: Vec<_> = warned.then_some(condition.reason).into_iter().collect();
            assert_eq!(
                reasons(kind, vec![condition.clone()]),
                expected,
                "{kind:?} {condition:?}"
            );
        }
    }

    #[test]
    fn what_our_bindings_record_is_nothing_to_warn_of() {
        for phase in ["told", "enforced"] {
            let condition = Condition::holds(super::super::phases::BINDING, phase, "{}");
            assert!(deserved(Kind::Service, &status(vec![condition])).is_empty());
        }
    }

    #[test]
    fn a_reason_that_is_given_often_is_warned_of_once() {
        let mut of_route = status(Vec::new());
        let parent = |name: &str| ParentStatus {
            parent: crate::manifest::route::ParentRef {
                group: None,
                kind: None,
                namespace: None,
                name: name.to_owned(),
                section: None,
                port: None,
            },
            conditions: vec![fails("RefNotPermitted"), fails("BackendNotFound")],
        };
        of_route.parents = vec![parent("a"), parent("b")];
        let found = deserved(Kind::Route(RouteKind::Http), &of_route);
        assert_eq!(found.len(), 1);
        let mut of_gateway = status(vec![holds("Accepted", "")]);
        of_gateway.listeners = vec![ListenerStatus {
            name: "a".to_owned(),
            attached: 0,
            conditions: vec![
                Condition::fails("Programmed", "Invalid", ""),
                fails("UnsupportedProtocol"),
            ],
        }];
        let found = deserved(Kind::Gateway, &of_gateway);
        assert!(found.iter().map(|it| it.reason).eq(["UnsupportedProtocol"]));
    }

    #[test]
    fn an_unserved_object_that_is_refused_is_warned_of() {
        let refused = Status {
            refused: Some(2),
            ..status(vec![fails("Invalid")])
        };
        let kind = Kind::Unserved(UnservedKind::DestinationRule);
        assert_eq!(deserved(kind, &refused).len(), 1);
    }

    fn about(uid: &str, state: &str, note: &str) -> About {
        About {
            api_version: "v1".to_owned(),
            uid: uid.to_owned(),
            state: state.to_owned(),
            warning: Warning {
                reason: "Invalid",
                note: note.to_owned(),
            },
        }
    }

    #[test]
    fn the_name_of_an_event_is_that_of_its_object_reason_and_generation() {
        let object = ObjectRef::new(POLICY, "shop", "readers");
        let first = place(&object, &about("u", "1", "a"));
        assert_eq!(first.0, "shop");
        assert!(
            first.1.starts_with("readers.") && first.1.len() == 24,
            "{first:?}"
        );
        assert_eq!(first, place(&object, &about("u", "1", "in other words")));
        assert_ne!(first, place(&object, &about("u", "2", "a")));
        assert_ne!(
            first,
            place(&object, &about("v", "1", "a")),
            "it was made anew"
        );
        let everywhere = ObjectRef::new(Kind::GatewayClass, "", &"a.".repeat(126));
        let (namespace, name) = place(&everywhere, &about("u", "1", "a"));
        assert_eq!(namespace, "default");
        assert!(name.len() < 253 && !name.contains(".."), "{name}");
        let long = event(&object, &about("u", "1", &"é".repeat(1024)), "me");
        assert_eq!(long.note.map(|note| note.len()), Some(1024));
    }

    #[test]
    fn a_generation_is_that_of_the_refused_version_or_what_is_said() {
        let tree = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "readers", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
        });
        let mut objects = Objects::default();
        let stored = Stored::read(POLICY, &tree).unwrap();
        objects.apply(Change::All(POLICY, vec![stored]));
        let of = |status: Status| {
            let object = ObjectRef::new(POLICY, "shop", "readers");
            let all = warnings(&objects, &[(object, status)].into());
            all.into_values()
                .map(|it| (it.uid, it.state))
                .collect::<Vec<_>>()
        };
        let refused = Status {
            refused: Some(4),
            ..status(vec![fails("Invalid")])
        };
        assert_eq!(of(refused), [("u".to_owned(), "4".to_owned())]);
        let unversioned = Status {
            generation: 0,
            ..status(vec![fails("Invalid")])
        };
        assert_eq!(of(unversioned), [("u".to_owned(), "why".to_owned())]);
        assert_eq!(of(status(vec![holds("Accepted", "")])), []);
    }
}
