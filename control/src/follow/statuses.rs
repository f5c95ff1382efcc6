//! What there is to be said of files, objects and pods, as one page for operators. Not what is logged: that is each change.

use serde_json::{Map, Value, json};

use super::Source;
use crate::{
    compile::{self, Compiled},
    manifest::{Kind, ObjectRef},
    placements::Placements,
    reports::{self, ByNode},
};

/// What nodes say of those of their pods that something is wrong with: mostly, why one is not captured.
pub(super) fn unwell(reports: &ByNode, placements: &Placements) -> Vec<(ObjectRef, Value)> {
    let mut all = Vec::new();
    for (node, report) in reports {
        let (own, _) = reports::own(node, report, placements);
        let telling = own.into_iter().filter(|pod| !pod.reason.is_empty());
        all.extend(telling.map(|pod| {
            let said = json!({"name": node, "captured": pod.captured, "reason": pod.reason});
            (ObjectRef::new(Kind::Pod, &pod.namespace, &pod.name), said)
        }));
    }
    all
}

impl Source {
    /// JSON that ends in a newline: what is wrong with the files, and by object what its status and its node say.
    pub(super) fn statuses(&self, compiled: &Compiled, unwell: Vec<(ObjectRef, Value)>) -> String {
        let problems = self.problems.iter().chain(&self.late).map(|problem| {
            json!({
                "file": problem.file.display().to_string(),
                "document": problem.document,
                "object": problem.object.as_ref().map(ObjectRef::to_string),
                "field": problem.field,
                "reason": problem.reason,
            })
        });
        let objects = compiled.statuses.iter();
        let objects =
            objects.map(|(object, status)| (object.to_string(), compile::json::status(status)));
        let mut objects: Map<_, _> = objects.collect();
        for (pod, said) in unwell {
            let pod = objects.entry(pod.to_string());
            pod.or_insert_with(|| json!({}))["node"] = said;
        }
        let page = json!({
            "heldBack": self.held_back,
            "unreadable": self.unreadable,
            "problems": problems.collect::<Vec<Value>>(),
            "unused": self.loaded.unused,
            "empty": self.loaded.empty.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
            "objects": objects,
        });
        format!("{page:#}\n")
    }
}
