//! Pods and namespaces from a directory of Kubernetes manifests (`*.yaml`, `*.yml`, `*.json`; several documents a file).
//!
//! Other kinds are passed over. A document that cannot be read keeps its last good version in force, and is told once. So
//! does a file that somebody is writing ([`sys::file`]) or has emptied.
//! Nothing here waits: [`watch`](crate::watch) says when to look again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mesh::enrol::{self, Enrolment, Reason, enrolled};
use serde::Deserialize;
use sys::file::{self, Content, Stamp};

/// The annotation that names a pod's network namespace: a file in the agent's directory of namespaces.
pub const NETNS_ANNOTATION: &str = "ambit.dev/netns";

/// Whoever writes a file for longer than this is told about.
const PATIENCE: Duration = Duration::from_secs(2);

/// A file larger than this is not read.
const LARGEST_FILE: u64 = 16 << 20;

/// Namespace and name of a pod.
pub type Key = (String, String);

/// What the agent needs of a pod's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The pod's uid; without one in the manifest, one made of its names.
    pub uid: String,
    /// Service account.
    pub service_account: String,
    /// In the mesh, or why not.
    pub enrolment: Enrolment,
    /// The file name of its network namespace, if it has one of its own.
    pub netns: Option<String>,
    /// Its manifest does not say that it is not ready.
    pub ready: bool,
}

/// All documents as last read.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<PathBuf, File>,
}

/// What a look at the directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What cannot be read and was not told before.
    pub faults: Vec<Fault>,
    /// Some files are being written: look again soon.
    pub unsettled: bool,
    /// Some files are not read yet and may be any moment: what is known is not all.
    pub incomplete: bool,
}

/// A document, or a whole file, that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The document in it, from 1; none if the file as a whole is meant.
    pub document: Option<usize>,
    /// Why, in words.
    pub reason: String,
}

#[derive(Debug, Default)]
struct File {
    /// As read last; none before.
    stamp: Option<Stamp>,
    /// Since when it is known that it is being written, if it is.
    unsettled: Option<SystemTime>,
    documents: Vec<Option<Object>>,
    faults: Vec<Fault>,
}

/// A document of a kind that counts, with the fields that count.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Namespace {
        name: String,
        labels: BTreeMap<String, String>,
    },
    Pod(Box<Manifest>),
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Manifest {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
    service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Manifests {
    /// Reads what has changed in `directory` as of `now`.
    ///
    /// # Errors
    /// If the directory cannot be read: then all stays as it was.
    pub fn look(&mut self, directory: &Path, now: SystemTime) -> io::Result<Looked> {
        let mut looked = Looked::default();
        let mut present = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden || !matches!(extension, Some("yaml" | "yml" | "json")) {
                continue;
            }
            self.look_at(&path, now, &mut looked);
            present.push(path);
        }
        self.files.retain(|path, _| present.contains(path));
        Ok(looked)
    }

    fn look_at(&mut self, path: &Path, now: SystemTime, looked: &mut Looked) {
        let file = self.files.entry(path.to_owned()).or_default();
        let fault = |reason: String| Fault {
            file: path.to_owned(),
            document: None,
            reason,
        };
        let since = file.unsettled.take();
        let faults = match look(path, file.stamp, now) {
            Err(reason) => vec![fault(reason)],
            Ok(Found::Same) => return,
            Ok(Found::Unsettled) => {
                // A clock that was set back begins anew.
                let since = since.map_or(now, |since| since.min(now));
                file.unsettled = Some(since);
                looked.unsettled = true;
                if now
                    .duration_since(since)
                    .is_ok_and(|so_far| so_far < PATIENCE)
                {
                    looked.incomplete |= file.stamp.is_none();
                    return;
                }
                vec![fault(WRITTEN.to_owned())]
            }
            Ok(Found::Whole(stamp, text)) => {
                file.stamp = Some(stamp);
                let held = file.documents.iter().any(Option::is_some);
                if held && text.trim().is_empty() {
                    vec![fault(EMPTY.to_owned())]
                } else {
                    read(path, &text, &mut file.documents)
                }
            }
        };
        looked.faults.extend(
            faults
                .iter()
                .filter(|fault| !file.faults.contains(fault))
                .cloned(),
        );
        file.faults = faults;
    }

    /// The pods of a node. Of two manifests for one pod the one in the file whose name sorts last counts.
    pub fn pods(&self, node: &str) -> BTreeMap<Key, Pod> {
        let objects = || {
            self.files
                .values()
                .flat_map(|file| file.documents.iter().flatten())
        };
        let mut namespaces = BTreeMap::new();
        for object in objects() {
            if let Object::Namespace { name, labels } = object {
                namespaces.insert(name.as_str(), labels);
            }
        }
        let (mut pods, none) = (BTreeMap::new(), BTreeMap::new());
        for object in objects() {
            let Object::Pod(manifest) = object else {
                continue;
            };
            let namespace = manifest.metadata.namespace.as_deref().unwrap_or("default");
            if manifest.spec.node_name.as_deref() == Some(node) {
                let pod = manifest.pod(
                    namespace,
                    namespaces.get(namespace).copied().unwrap_or(&none),
                );
                pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
            }
        }
        pods
    }
}

impl Manifest {
    fn pod(&self, namespace: &str, namespace_labels: &BTreeMap<String, String>) -> Pod {
        let none = BTreeMap::new();
        let annotations = self.metadata.annotations.as_ref().unwrap_or(&none);
        let ended = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let facts = enrol::Pod {
            labels: self.metadata.labels.as_ref().unwrap_or(&none),
            annotations,
            host_network: self.spec.host_network.unwrap_or(false),
            ended,
        };
        let service_account = match self.spec.service_account_name.as_deref() {
            None | Some("") => "default",
            Some(name) => name,
        };
        let name = &self.metadata.name;
        let conditions = self.status.conditions.as_deref().unwrap_or_default();
        Pod {
            namespace: namespace.to_owned(),
            name: name.clone(),
            // A pod's service account never changes; where a manifest's does, it is another pod.
            uid: self
                .metadata
                .uid
                .clone()
                .unwrap_or_else(|| format!("{namespace}/{name}/{service_account}")),
            service_account: service_account.to_owned(),
            enrolment: enrolled(
                enrol::Namespace {
                    labels: namespace_labels,
                },
                facts,
            ),
            netns: annotations
                .get(NETNS_ANNOTATION)
                .filter(|_| !facts.host_network)
                .cloned(),
            ready: !ended
                && !conditions
                    .iter()
                    .any(|found| found.kind == "Ready" && found.status == "False"),
        }
    }
}

impl Pod {
    /// Why it is not in the mesh, if it is not.
    pub fn out(&self) -> Option<Reason> {
        match self.enrolment {
            Enrolment::In => None,
            Enrolment::Out(reason) => Some(reason),
        }
    }
}

const WRITTEN: &str =
    "still being written, by a program that has it open or changes it all the time";
const EMPTY: &str = "the file is empty; remove the file to remove its objects";

/// A file, compared with how it was when it was read last.
enum Found {
    Same,
    Unsettled,
    Whole(Stamp, String),
}

fn look(path: &Path, last: Option<Stamp>, now: SystemTime) -> Result<Found, String> {
    let words = |error: io::Error| error.to_string();
    let stamp = fs::metadata(path).and_then(|found| Stamp::of(&found));
    let stamp = stamp.map_err(words)?;
    if stamp.length() > LARGEST_FILE {
        return Err(format!("{} bytes is too large", stamp.length()));
    }
    // Who has it open for writing and has not written yet keeps nothing waiting.
    if last == Some(stamp) {
        return Ok(Found::Same);
    }
    let opened = fs::File::open(path).map_err(words)?;
    Ok(
        match file::read(&opened, LARGEST_FILE, now).map_err(words)? {
            Content::Unsettled(_) => Found::Unsettled,
            Content::Whole(stamp, bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
                Found::Whole(stamp, text)
            }
        },
    )
}

/// Reads a file's documents over those of its last version, and tells those that cannot be read.
fn read(path: &Path, text: &str, documents: &mut Vec<Option<Object>>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let found: Vec<_> = split(text);
    documents.resize(found.len(), None);
    for (at, (document, last)) in found.into_iter().zip(documents.iter_mut()).enumerate() {
        match object(&document) {
            Ok(object) => *last = object,
            Err(reason) => faults.push(Fault {
                file: path.to_owned(),
                document: Some(at + 1),
                reason,
            }),
        }
    }
    faults
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

/// The object of a document; none if it is of a kind that does not count here.
fn object(document: &str) -> Result<Option<Object>, String> {
    let reason = |error: serde_saphyr::Error| error.without_snippet().to_string();
    let head: Head = serde_saphyr::from_str(document).map_err(reason)?;
    Ok(match head.kind.as_str() {
        "Namespace" => {
            let manifest: Manifest = serde_saphyr::from_str(document).map_err(reason)?;
            let Metadata { name, labels, .. } = manifest.metadata;
            Some(Object::Namespace {
                name,
                labels: labels.unwrap_or_default(),
            })
        }
        "Pod" => Some(Object::Pod(Box::new(
            serde_saphyr::from_str(document).map_err(reason)?,
        ))),
        "" => return Err("it has no kind".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
