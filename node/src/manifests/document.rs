//! From the text of a file to the namespaces and pods in it, each read well or with what is wrong with it.
//!
//! As strict as the control plane: text is text, a flag is a flag, and what is no kind or field of metadata is a slip. Which
//! of several versions counts is not decided here but in [`rule`](super::rule).

use std::{collections::BTreeMap, fmt};

use mesh::manifest::{METADATA, POD_SPEC, built_in, group, in_case, is_built_in, is_family, near};
use serde_json::{Map, Value};

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
    /// Nobody can say what it runs as, or where.
    pub(super) vague: bool,
}

impl Key {
    fn is_incomplete(&self) -> bool {
        match self {
            Self::Namespace(name) => name.is_empty(),
            Self::Pod((namespace, name)) => namespace.is_empty() || name.is_empty(),
        }
    }
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
                let gap = match is_other(&document) {
                    true => Gap::Own,
                    false => Gap::Any,
                };
                contents.gap = contents.gap.max(gap);
                told.push(reason);
            }
        }
        faults.extend(told.into_iter().map(|reason| (at + 1, reason)));
    }
    (contents, faults)
}

/// The limits are the control plane's: neither may read what the other refuses.
fn tree(document: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_nodes: 1 << 22,
            max_events: 2 << 22,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 1 << 16 },
        with_snippet: false,
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| error.to_string())
}

/// Takes in what a document holds; nothing if it is of a kind that does not count here.
fn object(tree: &Value, contents: &mut Contents, faults: &mut Vec<String>) {
    let mut missing = |gap, reason: String| {
        contents.gap = contents.gap.max(gap);
        faults.push(reason);
    };
    let version = tree.get("apiVersion").and_then(Value::as_str);
    let group = version.map(group).unwrap_or_default();
    let grouped = !group.is_empty();
    let items = tree.get("items").unwrap_or(tree).as_array();
    let kind = match (tree.get("kind"), items) {
        // What has items is read as a list, whatever it is called.
        (None | Some(Value::Null), Some(items)) => {
            missing(Gap::Any, "it has items, and is no List".to_owned());
            return items.iter().for_each(|item| object(item, contents, faults));
        }
        (None | Some(Value::Null), None) => {
            let gap = if grouped { Gap::Own } else { Gap::Any };
            return missing(gap, "it has no kind".to_owned());
        }
        (Some(Value::String(kind)), _) => kind.as_str(),
        (Some(_), _) => return missing(Gap::Any, expected("kind", "text")),
    };
    let mut kinds = KINDS.into_iter();
    let Some(meant) = kinds.find(|known| is_called(known, kind)) else {
        if may_count(group, kind) {
            missing(Gap::Any, strange(version, kind));
            let items = items.into_iter().flatten();
            items.for_each(|item| object(item, contents, faults));
        }
        return;
    };
    if meant == "List" {
        let Some(items) = items else {
            return missing(Gap::Any, expected("items", "a list"));
        };
        return items.iter().for_each(|item| object(item, contents, faults));
    }
    if grouped {
        if may_count(group, kind) {
            missing(Gap::Any, strange(version, kind));
        }
        return;
    }
    whole(tree, (version, kind, meant), contents, faults);
}

/// Takes in an object of a kind that counts here.
fn whole(
    tree: &Value,
    (version, kind, meant): (Option<&str>, &str, &str),
    contents: &mut Contents,
    faults: &mut Vec<String>,
) {
    let mut unnamed = Vec::new();
    let metadata = section(tree, "metadata", &mut unnamed);
    let named = name(metadata, "name", &mut unnamed).unwrap_or_default();
    let mut wrong = Vec::new();
    only(metadata, &METADATA, &mut wrong);
    let key = if meant == "Pod" {
        let namespace = name(metadata, "namespace", &mut unnamed);
        if namespace.is_none() {
            // One of the fields that there are not may have been meant to be it.
            unnamed.extend_from_slice(&wrong);
        }
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        Key::Pod((namespace, named))
    } else {
        Key::Namespace(named)
    };
    if !unnamed.is_empty() || key.is_incomplete() {
        contents.gap = Gap::Any;
        return faults.push(format!("nobody can say which {meant} this is"));
    }
    if version != Some("v1") {
        wrong.push(expected("apiVersion", "v1"));
    }
    if kind != meant {
        wrong.push(format!("kind {kind:?} is written {meant:?}"));
    }
    let labels = labels(metadata, "labels", &mut wrong);
    let object = match key {
        Key::Pod(_) => Object::Pod(Box::new(pod(tree, metadata, labels, &mut wrong))),
        Key::Namespace(_) => Object::Namespace(labels),
    };
    contents.objects.push(Found {
        key,
        object,
        faulty: !wrong.is_empty(),
    });
    faults.append(&mut wrong);
}

/// The kinds that count here.
const KINDS: [&str; 3] = ["Pod", "Namespace", "List"];

/// Whether this, which is no kind that there is, may be one that counts here.
fn may_count(group: &str, kind: &str) -> bool {
    let near = near(kind, built_in());
    let ours = near.iter().any(|it| KINDS.contains(it));
    match group.contains('.') {
        true => is_family(group) && ours,
        false => !is_built_in(group, kind) && (ours || near.is_empty()),
    }
}

fn strange(version: Option<&str>, kind: &str) -> String {
    let version = version.unwrap_or_default();
    format!("{kind:?} is not a kind of {version}")
}

/// Whether this is its name, in any case, of one or of several.
fn is_called(kind: &str, name: &str) -> bool {
    let one = name.strip_suffix(['s', 'S']).unwrap_or(name);
    kind.eq_ignore_ascii_case(one)
}

/// Whether a text that is not YAML says what it is, and names no kind that counts here. The last one may be cut.
fn is_other(text: &str) -> bool {
    let text = text.trim_end();
    let mut kinds = text.match_indices("kind").filter_map(|(at, key)| {
        let rest = text[at + key.len()..].trim_start_matches(QUOTES);
        let value = rest.trim_start().strip_prefix(':')?.trim_start();
        let value = value.trim_start_matches(QUOTES);
        let end = value.find(|c: char| !c.is_ascii_alphanumeric());
        Some(end.map_or("", |end| &value[..end]))
    });
    let counts = |kind: &str| {
        let mut known = KINDS.into_iter();
        let nearly = near(kind, built_in());
        kind.is_empty() || known.any(|known| is_called(known, kind) || nearly.contains(&known))
    };
    text.lines().any(|line| line.starts_with("kind:")) && !kinds.any(counts)
}

const QUOTES: [char; 2] = ['"', '\''];

fn pod(tree: &Value, metadata: &Value, of_pod: Labels, faults: &mut Vec<String>) -> Manifest {
    let mut vague = Vec::new();
    let uid = text(metadata, "uid", &mut vague).filter(|uid| !uid.is_empty());
    let annotations = labels(metadata, "annotations", &mut vague);
    cased(tree, &["spec", "status"], &mut vague);
    let spec = section(tree, "spec", &mut vague);
    cased(spec, &POD_SPEC, &mut vague);
    let node = name(spec, "nodeName", &mut vague);
    let service_account = name(spec, "serviceAccountName", &mut vague);
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
    let manifest = Manifest {
        uid,
        labels: of_pod,
        annotations,
        node,
        host_network: flag(spec, "hostNetwork", faults),
        service_account,
        ended: matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
        unready,
        vague: !vague.is_empty(),
    };
    faults.append(&mut vague);
    manifest
}

/// Refuses fields that there are not.
fn only(at: &Value, known: &[&str], faults: &mut Vec<String>) {
    let keys = at.as_object().into_iter().flat_map(Map::keys);
    let unknown = keys.filter(|key| !known.contains(&key.as_str()));
    faults.extend(unknown.map(|key| format!("{key}: no such field")));
}

/// Refuses what is read but for the case of its name.
fn cased(at: &Value, read: &[&str], faults: &mut Vec<String>) {
    let keys = at.as_object().into_iter().flat_map(Map::keys);
    let wrong = keys.filter_map(|key| Some((key, in_case(key, read)?)));
    faults.extend(wrong.map(|(key, meant)| format!("{key}: it is written {meant}")));
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

/// Text that an object may be called (RFC 1123, a subdomain), or none.
fn name(at: &Value, field: &str, faults: &mut Vec<String>) -> Option<String> {
    let name = text(at, field, faults)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let part = |part: &str| {
        let ends = part.starts_with('-') || part.ends_with('-');
        !part.is_empty() && part.bytes().all(allowed) && !ends
    };
    if name.is_empty() || name.len() <= 253 && name.split('.').all(part) {
        return Some(name);
    }
    faults.push(format!("{field}: {name:?} is not a name"));
    None
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
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    };
    documents.retain(|document| !document.lines().all(blank));
    documents
}

#[cfg(test)]
mod tests;
