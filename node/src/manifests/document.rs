//! From the text of a file to the namespaces and pods in it, each read well or with what is wrong with it.
//!
//! As strict as the control plane: text is text, and a flag is a flag. Which of several versions counts is not decided
//! here but in [`rule`](super::rule).

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

/// What one file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) objects: Vec<Found>,
    pub(super) gap: Gap,
}

/// What a file may hold beside what could be read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    /// Nothing.
    #[default]
    None,
    /// What it held before.
    Own,
    /// Any object.
    Any,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Namespace(String),
    /// Namespace and name.
    Pod(super::Key),
}

/// An object as a document has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: Key,
    /// What could be read of it.
    pub(super) object: Object,
    /// Something in it could not.
    pub(super) faulty: bool,
}

/// The fields that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Namespace(Labels),
    Pod(Box<Manifest>),
}

/// Labels or annotations.
pub(super) type Labels = BTreeMap<String, String>;

/// The fields that count of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) uid: Option<String>,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) node: Option<String>,
    pub(super) host_network: bool,
    pub(super) service_account: Option<String>,
    pub(super) ended: bool,
    pub(super) unready: bool,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Pod((namespace, name)) => write!(f, "pod {namespace}/{name}"),
        }
    }
}

/// Why a document, by its number from 1, cannot be read.
pub(super) type Fault = (usize, String);

/// Reads a file's documents.
pub(super) fn read(text: &str) -> (Contents, Vec<Fault>) {
    let (mut contents, mut faults) = (Contents::default(), Vec::new());
    for (at, document) in split(text).into_iter().enumerate() {
        let mut told = Vec::new();
        match tree(&document) {
            Ok(tree) => object(&tree, &mut contents, &mut told),
            Err(reason) => {
                contents.gap = Gap::Any;
                told.push(reason);
            }
        }
        faults.extend(told.into_iter().map(|reason| (at + 1, reason)));
    }
    (contents, faults)
}

fn tree(document: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| error.to_string())
}

/// Takes in what a document holds; nothing if it is of a kind that does not count here.
fn object(tree: &Value, contents: &mut Contents, faults: &mut Vec<String>) {
    let mut missing = |gap, reason: String| {
        contents.gap = contents.gap.max(gap);
        faults.push(reason);
    };
    let kind = match tree.get("kind") {
        None | Some(Value::Null) => return missing(Gap::Own, "it has no kind".to_owned()),
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => return missing(Gap::Any, expected("kind", "text")),
    };
    let is_pod = match kind {
        "Pod" => true,
        "Namespace" => false,
        "List" => {
            let Some(items) = tree.get("items").and_then(Value::as_array) else {
                return missing(Gap::Any, expected("items", "a list"));
            };
            return items.iter().for_each(|item| object(item, contents, faults));
        }
        other => {
            let mut kinds = ["Pod", "Namespace", "List"].into_iter();
            if let Some(meant) = kinds.find(|kind| kind.eq_ignore_ascii_case(other)) {
                missing(Gap::Own, format!("kind {other:?} is written {meant:?}"));
            }
            return;
        }
    };
    let mut wrong = Vec::new();
    let metadata = section(tree, "metadata", &mut wrong);
    let name = text(metadata, "name", &mut wrong);
    let namespace = text(metadata, "namespace", &mut wrong);
    let (Some(name), true) = (name.filter(|name| !name.is_empty()), wrong.is_empty()) else {
        return missing(Gap::Any, format!("nobody can say which {kind} this is"));
    };
    let labels = labels(metadata, "labels", &mut wrong);
    let (key, object) = if is_pod {
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let manifest = pod(tree, metadata, labels, &mut wrong);
        (Key::Pod((namespace, name)), Object::Pod(Box::new(manifest)))
    } else {
        (Key::Namespace(name), Object::Namespace(labels))
    };
    contents.objects.push(Found {
        key,
        object,
        faulty: !wrong.is_empty(),
    });
    faults.append(&mut wrong);
}

fn pod(tree: &Value, metadata: &Value, of_pod: Labels, faults: &mut Vec<String>) -> Manifest {
    let uid = text(metadata, "uid", faults);
    let annotations = labels(metadata, "annotations", faults);
    let spec = section(tree, "spec", faults);
    let status = section(tree, "status", faults);
    let phase = text(status, "phase", faults);
    let mut unready = false;
    match status.get("conditions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(conditions)) => {
            for condition in conditions {
                let kind = text(condition, "type", faults);
                let status = text(condition, "status", faults);
                unready |= kind.as_deref() == Some("Ready") && status.as_deref() == Some("False");
            }
        }
        Some(_) => faults.push(expected("conditions", "a list")),
    }
    Manifest {
        uid,
        labels: of_pod,
        annotations,
        node: text(spec, "nodeName", faults),
        host_network: flag(spec, "hostNetwork", faults),
        service_account: text(spec, "serviceAccountName", faults),
        ended: matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
        unready,
    }
}

fn expected(field: &str, what: &str) -> String {
    format!("{field}: expected {what}")
}

fn section<'a>(at: &'a Value, field: &str, faults: &mut Vec<String>) -> &'a Value {
    match at.get(field) {
        None | Some(Value::Null) => &Value::Null,
        Some(section @ Value::Object(_)) => section,
        Some(_) => {
            faults.push(expected(field, "fields"));
            &Value::Null
        }
    }
}

fn text(at: &Value, field: &str, faults: &mut Vec<String>) -> Option<String> {
    match at.get(field)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        _ => {
            faults.push(expected(field, "text"));
            None
        }
    }
}

fn flag(at: &Value, field: &str, faults: &mut Vec<String>) -> bool {
    match at.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(_) => {
            faults.push(expected(field, "true or false"));
            false
        }
    }
}

fn labels(at: &Value, field: &str, faults: &mut Vec<String>) -> Labels {
    let Value::Object(all) = section(at, field, faults) else {
        return Labels::new();
    };
    let mut labels = Labels::new();
    for (key, value) in all {
        if let Value::String(value) = value {
            labels.insert(key.clone(), value.clone());
        } else {
            faults.push(expected(&format!("{field}[{key:?}]"), "text"));
        }
    }
    labels
}

/// Cuts a file at its document markers, which stand at the start of a line (YAML 1.2.2 §9.1). Documents without content
/// are left out.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        let after = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
        let content = match after {
            Some(rest) => {
                documents.push(String::new());
                rest
            }
            None => line,
        };
        if let Some(document) = documents.last_mut() {
            document.push_str(content);
            document.push('\n');
        }
    }
    let blank = |line: &str| {
        line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with("...")
    };
    documents.retain(|document| !document.lines().all(blank));
    documents
}
