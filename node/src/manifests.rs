//! Pods and namespaces from a directory of Kubernetes manifests (`*.yaml`, `*.yml`, `*.json` in any case; several documents
//! a file).
//!
//! Other kinds are passed over. What is faulty, double or out of sight keeps its last good version in force (see `rule`),
//! and is told once. So does a file that somebody is writing ([`sys::file`]) or has emptied, and what has taken its place
//! and is no file.
//! Nothing here waits: [`watch`](crate::watch) says when to look again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh::{
    enrol::{self, Enrolment, enrolled},
    keys::Keys,
};
use sys::{
    file::{self, Content, Entry, Stamp},
    netns::Netns,
};

mod document;
mod rule;

use crate::rules::Probed;
use document::{Contents, Gap, Labels, Manifest, Object};
use rule::{Files, Kept, Settled, settle};

pub use rule::GONE;

/// The annotation that names a pod's network namespace: a file in the agent's directory of namespaces.
pub const NETNS_ANNOTATION: &str = "ambit.dev/netns";

/// Whoever writes a file for longer than this is told about.
const PATIENCE: Duration = Duration::from_secs(2);

const ENDS: [&str; 3] = ["yaml", "yml", "json"];

/// A file larger than this is not read, here as by the control plane.
const LARGEST_FILE: u64 = 64 << 20;

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
    /// In the mesh, or why not; `None` if nobody can say, for what would say so cannot be read and never could.
    pub enrolment: Option<Enrolment>,
    /// Its network namespace, if it has one of its own and it is known where that is.
    pub netns: Option<Place>,
    /// Its manifest does not say that it is not ready.
    pub ready: bool,
    /// Where its node asks it how it is. From a directory of manifests: nowhere, as there is no kubelet.
    pub probed: Probed,
    /// It is probed, and its node cannot tell probes from other plain text: they are treated alike.
    pub is_probed_as_plain: bool,
    /// Something forbids it to speak in plain text. Not known from a directory of manifests.
    pub is_judged: bool,
}

/// Where a pod's network namespace is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file of this name in the agent's directory of namespaces.
    File(String),
    /// It was found, and is held.
    Held(Arc<Netns>),
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(two)) => one == two,
            (Self::Held(one), Self::Held(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for Place {}

/// All documents as last read.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<PathBuf, File>,
    /// What counts of them.
    settled: Settled,
    /// Doubles that were told.
    doubles: Vec<Fault>,
}

/// What a look at the directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What cannot be read and was not told before.
    pub faults: Vec<Fault>,
    /// Some files are being written, or some objects are about to go: look again soon.
    pub unsettled: bool,
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
    /// As read last.
    contents: Contents,
    /// It may have changed since, into what nobody can read yet.
    unreadable: bool,
    faults: Vec<Fault>,
}

impl Manifests {
    /// Reads what has changed in `directory` as of `now`, and decides what counts.
    ///
    /// # Errors
    /// If the directory cannot be read: then all stays as it was.
    pub fn look(&mut self, directory: &Path, now: SystemTime) -> io::Result<Looked> {
        let mut looked = Looked::default();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            let manifest = path
                .extension()
                .is_some_and(|end| ENDS.iter().any(|known| end.eq_ignore_ascii_case(known)));
            if !hidden && manifest && self.look_at(&path, now, &mut looked) {
                present.insert(path);
            }
        }
        self.files.retain(|path, _| present.contains(path));
        self.settle(now, &mut looked);
        Ok(looked)
    }

    fn settle(&mut self, now: SystemTime, looked: &mut Looked) {
        let files: Files<'_> = self
            .files
            .iter()
            .map(|(path, file)| {
                (
                    path.as_path(),
                    (file.contents.objects.as_slice(), file.gap()),
                )
            })
            .collect();
        self.settled = settle(&self.settled, &files, now);
        looked.unsettled |= rule::going(&self.settled);
        let doubles: Vec<_> = rule::doubles(&files)
            .into_iter()
            .map(|(key, first, last)| Fault {
                file: last,
                document: None,
                reason: format!("{key} has other content in {}", first.display()),
            })
            .collect();
        let new = doubles.iter().filter(|it| !self.doubles.contains(it));
        looked.faults.extend(new.cloned());
        self.doubles = doubles;
    }

    /// Says whether there is, or was and is not known to have gone, a file.
    fn look_at(&mut self, path: &Path, now: SystemTime, looked: &mut Looked) -> bool {
        let opened = file::open(path).map_err(|error| error.to_string());
        let opened = match opened {
            Ok(Entry::Gone) => return false,
            Ok(Entry::Directory) => {
                let was = self.files.get(path);
                if was.is_none_or(|was| was.contents == Contents::default()) {
                    return false;
                }
                Err("it is a directory now".to_owned())
            }
            Ok(Entry::File(file)) => Ok(file),
            Err(reason) => Err(reason),
        };
        let file = self.files.entry(path.to_owned()).or_default();
        let fault = |reason: String| Fault {
            file: path.to_owned(),
            document: None,
            reason,
        };
        let since = file.unsettled.take();
        let found = opened.and_then(|opened| look(&opened, file.stamp, now));
        file.unreadable = matches!(found, Err(_) | Ok(Found::Unsettled));
        let faults = match found {
            Err(reason) => {
                // Once it can be read again it is.
                file.stamp = None;
                vec![fault(reason)]
            }
            Ok(Found::Same) => return true,
            Ok(Found::Unsettled) => {
                // A clock that was set back begins anew.
                let since = since.map_or(now, |since| since.min(now));
                file.unsettled = Some(since);
                looked.unsettled = true;
                if now
                    .duration_since(since)
                    .is_ok_and(|so_far| so_far < PATIENCE)
                {
                    return true;
                }
                vec![fault(WRITTEN.to_owned())]
            }
            Ok(Found::Whole(stamp, text)) => {
                file.stamp = Some(stamp);
                if file.contents != Contents::default() && is_empty(&text) {
                    vec![fault(EMPTY.to_owned())]
                } else {
                    let (contents, faults) = document::read(&text);
                    file.contents = contents;
                    let faulty = faults.into_iter().map(|(document, reason)| Fault {
                        document: Some(document),
                        ..fault(reason)
                    });
                    faulty.collect()
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
        true
    }

    /// Whether there may be pods of the node that [`pods`](Self::pods) does not name, because they can be read neither
    /// now nor ever before.
    pub fn hides(&self, node: &str) -> bool {
        let vague = |kept: &Kept| {
            let mut versions = kept.versions.iter();
            versions.any(|version| match version {
                Object::Pod(pod) => pod.vague && pod.node.as_deref().is_none_or(|it| it == node),
                Object::Namespace(_) => false,
            })
        };
        !self.settled.seen || self.settled.objects.values().any(vague)
    }

    /// The pods of a node. One of which there are several versions is in the mesh if any of them is.
    pub fn pods(&self, node: &str) -> BTreeMap<Key, Pod> {
        let mut pods = BTreeMap::new();
        for (key, kept) in &self.settled.objects {
            let document::Key::Pod((namespace, name)) = key else {
                continue;
            };
            let here = kept.versions.iter().filter_map(|version| match version {
                Object::Pod(pod) if !pod.vague && pod.node.as_deref() == Some(node) => Some(pod),
                _ => None,
            });
            let all = here.map(|manifest| {
                let enrolment = self.enrolment(namespace, manifest, kept.doubtful);
                manifest.pod(namespace, name, enrolment)
            });
            let rank = |pod: &Pod| match pod.enrolment {
                Some(Enrolment::Out(_)) => 0,
                None => 1,
                Some(Enrolment::In) => 2,
            };
            // Of several, the last that is in.
            if let Some(pod) = all.max_by_key(rank) {
                pods.insert((namespace.clone(), name.clone()), pod);
            }
        }
        pods
    }

    fn enrolment(&self, namespace: &str, pod: &Manifest, doubtful: bool) -> Option<Enrolment> {
        let key = document::Key::Namespace(namespace.to_owned());
        let none = [Object::Namespace(Labels::new())];
        let (versions, hidden) = match self.settled.objects.get(&key) {
            Some(kept) => (kept.versions.as_slice(), kept.doubtful),
            None => (none.as_slice(), !self.settled.bare.contains(namespace)),
        };
        let all = versions.iter().filter_map(|version| match version {
            Object::Namespace(labels) => Some(pod.enrolled(labels)),
            Object::Pod(_) => None,
        });
        let found = all.max_by_key(|it| *it == Enrolment::In)?;
        let asks = Labels::from([(enrol::DATAPLANE_MODE.to_owned(), "ambient".to_owned())]);
        let may_be_in = doubtful || hidden && pod.enrolled(&asks) == Enrolment::In;
        (found == Enrolment::In || !may_be_in).then_some(found)
    }
}

/// Whether there is no document: nothing but comments, directives and markers.
fn is_empty(text: &str) -> bool {
    text.lines().all(|line| {
        let marked = line.strip_prefix("---");
        let after = marked.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
        let rest = after.unwrap_or(line).trim();
        rest.is_empty() || rest.starts_with(['#', '%']) || rest == "..."
    })
}

/// Whether a line ends in a carriage return alone. To YAML that is an end, to others not: a comment would hide all that
/// follows.
fn has_lone_return(text: &str) -> bool {
    let mut returns = text.match_indices('\r').map(|(at, _)| &text[at + 1..]);
    returns.any(|rest| !rest.starts_with('\n'))
}

impl File {
    fn gap(&self) -> Gap {
        if self.unreadable {
            Gap::Any
        } else {
            self.contents.gap
        }
    }
}

impl Manifest {
    fn enrolled(&self, namespace_labels: &Labels) -> Enrolment {
        let namespace = enrol::Namespace {
            labels: namespace_labels,
        };
        let pod = enrol::Pod {
            labels: &self.labels,
            annotations: &self.annotations,
            host_network: self.host_network,
            ended: self.ended,
        };
        enrolled(Keys::Shared, namespace, pod)
    }

    fn pod(&self, namespace: &str, name: &str, enrolment: Option<Enrolment>) -> Pod {
        let service_account = match self.service_account.as_deref() {
            None | Some("") => "default",
            Some(name) => name,
        };
        Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            // A pod's service account never changes; where a manifest's does, it is another pod.
            uid: self
                .uid
                .clone()
                .unwrap_or_else(|| format!("{namespace}/{name}/{service_account}")),
            service_account: service_account.to_owned(),
            enrolment,
            netns: self
                .annotations
                .get(NETNS_ANNOTATION)
                .filter(|_| !self.host_network)
                .cloned()
                .map(Place::File),
            ready: !self.ended && !self.unready,
            probed: Probed::new(),
            is_probed_as_plain: false,
            is_judged: false,
        }
    }
}

impl Pod {
    /// It is not in the mesh.
    pub fn is_out(&self) -> bool {
        matches!(self.enrolment, Some(Enrolment::Out(_)))
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

fn look(opened: &fs::File, last: Option<Stamp>, now: SystemTime) -> Result<Found, String> {
    let words = |error: io::Error| error.to_string();
    let stamp = opened.metadata().and_then(|found| Stamp::of(&found));
    let stamp = stamp.map_err(words)?;
    if stamp.length() > LARGEST_FILE {
        return Err(format!("{} bytes is too large", stamp.length()));
    }
    // Who has it open for writing and has not written yet keeps nothing waiting.
    if last == Some(stamp) {
        return Ok(Found::Same);
    }
    let (stamp, bytes) = match file::read(opened, LARGEST_FILE, now).map_err(words)? {
        Content::Unsettled(_) => return Ok(Found::Unsettled),
        Content::Whole(stamp, bytes) => (stamp, bytes),
    };
    // Nor the character that others put in the place of what is not.
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|it| !it.contains('\u{fffd}'));
    let text = text.ok_or("not UTF-8 text")?;
    if has_lone_return(&text) {
        return Err("lines that end in a lone carriage return".to_owned());
    }
    Ok(Found::Whole(stamp, text))
}

#[cfg(test)]
mod tests;
