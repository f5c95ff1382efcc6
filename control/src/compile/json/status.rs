//! Statuses as JSON.

use serde_json::{Map, Value, json};

use crate::{
    manifest::route::ParentRef,
    status::{CONTROLLER, Condition, ListenerStatus, ParentStatus, Status},
};

/// For comparing: types, statuses and reasons only. What is not there is left out, `conditions` only beside something else.
pub(super) fn compared(status: &Status) -> Value {
    let condition =
        |it: &Condition| json!({ "type": it.kind, "status": word(it), "reason": it.reason });
    let parent = |it: &ParentStatus| {
        let conditions: Vec<_> = it.conditions.iter().map(condition).collect();
        json!({ "parent": parent_ref(&it.parent), "conditions": conditions })
    };
    let conditions = status.conditions.iter().map(condition).collect();
    together(
        conditions,
        status.parents.iter().map(parent).collect(),
        Vec::new(),
    )
}

/// As a controller writes it into the object.
pub fn status(status: &Status) -> Value {
    let condition = |it: &Condition, generation: i64| {
        let mut fields = json!({
            "type": it.kind, "status": word(it), "reason": it.reason, "message": it.message,
        });
        if generation != 0 {
            fields["observedGeneration"] = generation.into();
        }
        fields
    };
    let about = |all: &[Condition], generation| {
        let all = all.iter().map(|it| condition(it, generation));
        all.collect::<Vec<_>>()
    };
    let conditions = |all: &[Condition]| about(all, status.generation);
    let parent = |it: &ParentStatus| {
        json!({
            "parentRef": parent_ref(&it.parent),
            "controllerName": CONTROLLER,
            "conditions": conditions(&it.conditions),
        })
    };
    let listener = |it: &ListenerStatus| {
        json!({
            "name": it.name,
            "attachedRoutes": it.attached,
            "conditions": conditions(&it.conditions),
        })
    };
    together(
        about(
            &status.conditions,
            status.refused.unwrap_or(status.generation),
        ),
        status.parents.iter().map(parent).collect(),
        status.listeners.iter().map(listener).collect(),
    )
}

fn together(conditions: Vec<Value>, parents: Vec<Value>, listeners: Vec<Value>) -> Value {
    let mut fields = Map::new();
    if !conditions.is_empty() || parents.is_empty() && listeners.is_empty() {
        fields.insert("conditions".to_owned(), conditions.into());
    }
    for (key, values) in [("parents", parents), ("listeners", listeners)] {
        if !values.is_empty() {
            fields.insert(key.to_owned(), values.into());
        }
    }
    fields.into()
}

fn word(condition: &Condition) -> &'static str {
    if condition.holds { "True" } else { "False" }
}

/// As it was written.
fn parent_ref(parent: &ParentRef) -> Value {
    let mut fields = Map::new();
    let texts = [
        ("group", &parent.group),
        ("kind", &parent.kind),
        ("namespace", &parent.namespace),
        ("sectionName", &parent.section),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            fields.insert(key.to_owned(), text.clone().into());
        }
    }
    fields.insert("name".to_owned(), parent.name.clone().into());
    if let Some(port) = parent.port {
        fields.insert("port".to_owned(), port.into());
    }
    fields.into()
}
