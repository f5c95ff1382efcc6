//! What is said of objects, as a page for operators. It is made when somebody asks for it, not with every change.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use crate::{compile::json, manifest::ObjectRef, status::Status, world::Faulty};

/// What is said of all objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Statuses {
    /// The page.
    Page(String),
    /// What it is made of.
    Objects {
        /// What is wrong with stored objects.
        faults: BTreeMap<ObjectRef, Faulty>,
        /// Their statuses.
        statuses: Arc<BTreeMap<ObjectRef, Status>>,
    },
}

impl Default for Statuses {
    fn default() -> Self {
        Self::Page(String::new())
    }
}

impl Statuses {
    /// JSON that ends in a newline.
    pub fn page(&self) -> Cow<'_, str> {
        match self {
            Self::Page(page) => page.into(),
            Self::Objects { faults, statuses } => page(faults, statuses).into(),
        }
    }
}

fn page(faults: &BTreeMap<ObjectRef, Faulty>, statuses: &BTreeMap<ObjectRef, Status>) -> String {
    let problems = faults.iter().flat_map(|(object, faulty)| {
        faulty.faults.iter().map(move |fault| {
            json!({
                "object": ObjectRef::to_string(object),
                "field": fault.field,
                "reason": fault.reason,
            })
        })
    });
    let all = statuses.iter();
    let all = all.map(|(object, status)| (object.to_string(), json::status(status)));
    let page = json!({
        "problems": problems.collect::<Vec<Value>>(),
        "objects": Map::from_iter(all),
    });
    format!("{page:#}\n")
}
