//! A directory of manifests as a [`World`]: the pure part, and a thin reader of files.
//!
//! What is faulty costs only itself. An object whose newest version is refused keeps its last good version; a policy
//! that never had one is replaced by a denial. Watching for changes is done elsewhere: whoever does it calls [`load`]
//! with all files and with what was loaded before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use mesh::local::{self, Local};
use serde_json::Value;

use crate::{
    manifest::{self, Document, Fault, LIMITS, Manifest, ObjectRef, Refused},
    world::{Denial, World},
};

pub mod check;
mod guess;

/// What was made of the files.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force.
    pub world: World,
    /// What is wrong, in the order of files and documents.
    pub problems: Vec<Problem>,
    /// Kinds that are there and are not used, as `apiVersion/kind`.
    pub unused: BTreeSet<String>,
    /// Where each object, or denial, came from.
    origins: BTreeMap<ObjectRef, PathBuf>,
    /// Stored resources by file.
    stored: BTreeMap<PathBuf, Local>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As given to [`load`].
    pub file: PathBuf,
    /// From 1; `None` if the whole file is meant.
    pub document: Option<usize>,
    /// The object, if that much could be read.
    pub object: Option<ObjectRef>,
    /// Path of the field, or a line; may be empty.
    pub field: String,
    /// What is wrong, in words.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ", {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Reads the files of a directory that end in `.yaml`, `.yml` or `.json`, not those of directories below it; or a
/// single file. Names that begin with a dot are left out, because editors put half-written files there. A file that
/// goes away meanwhile counts as not there.
pub fn read_dir(path: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    if !fs::metadata(path)?.is_dir() {
        files.insert(path.to_owned(), read(path)?);
        return Ok(files);
    }
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if hidden || !manifest || !path.is_file() {
            continue;
        }
        match read(&path) {
            Ok(text) => drop(files.insert(path, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
    }
    Ok(files)
}

/// At most one byte more than is allowed, which [`load`] then sees; bytes that are not UTF-8 become U+FFFD, which it
/// sees too.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(LIMITS.file as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a world of all files. `previous` is what the last call returned: the source of last good versions.
pub fn load(files: &BTreeMap<PathBuf, String>, previous: Option<&Loaded>) -> Loaded {
    let nothing = Loaded::default();
    let mut loading = Loading {
        previous: previous.unwrap_or(&nothing),
        loaded: Loaded::default(),
    };
    for (file, text) in files {
        loading.file(file, text);
    }
    let Loading { mut loaded, .. } = loading;
    for stored in loaded.stored.values().cloned() {
        loaded.world.stored.addresses.extend(stored.addresses);
        loaded
            .world
            .stored
            .authorizations
            .extend(stored.authorizations);
    }
    loaded
}

struct Loading<'a> {
    previous: &'a Loaded,
    loaded: Loaded,
}

impl Loading<'_> {
    fn file(&mut self, file: &Path, text: &str) {
        let whole = |reason: String| Fault {
            field: String::new(),
            reason,
        };
        if text.len() > LIMITS.file {
            self.problem(
                file,
                None,
                None,
                whole(format!("larger than {} bytes", LIMITS.file)),
            );
            return self.keep(file);
        }
        if text.contains('\u{fffd}') {
            self.problem(file, None, None, whole("not UTF-8 text".to_owned()));
            return self.keep(file);
        }
        let documents = manifest::documents(text);
        if documents.len() > LIMITS.documents {
            self.problem(
                file,
                None,
                None,
                whole(format!("more than {} documents", LIMITS.documents)),
            );
            return self.keep(file);
        }
        let mut broken = Vec::new();
        for document in &documents {
            match manifest::tree(document) {
                Ok(tree) if is_stored(&tree) => self.stored(file, document),
                Ok(tree) => self.tree(file, document, &tree),
                Err(fault) => {
                    self.problem(file, Some(document.number), None, fault);
                    broken.push(document);
                }
            }
        }
        if !broken.is_empty() {
            // Which object a broken document held nobody knows: it is among those that are missing now.
            self.keep(file);
            for document in broken {
                self.deny_guess(file, document);
            }
        }
    }

    fn tree(&mut self, file: &Path, document: &Document<'_>, tree: &Value) {
        let is_list = tree
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind == "List");
        match tree
            .get("items")
            .and_then(Value::as_array)
            .filter(|_| is_list)
        {
            Some(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.manifest(
                        file,
                        document.number,
                        manifest::manifest(item, &format!("items[{i}]")),
                    );
                }
            }
            None => self.manifest(file, document.number, manifest::manifest(tree, "")),
        }
    }

    fn manifest(&mut self, file: &Path, document: usize, manifest: Manifest) {
        match manifest {
            Manifest::Object(object) => {
                let reference = object.reference();
                match self.loaded.origins.get(&reference) {
                    Some(first) => {
                        let reason = format!(
                            "defined twice, first in {}, which is the one in force",
                            first.display()
                        );
                        self.problem(
                            file,
                            Some(document),
                            Some(reference),
                            Fault {
                                field: String::new(),
                                reason,
                            },
                        );
                    }
                    None => {
                        self.loaded.origins.insert(reference, file.to_owned());
                        self.loaded.world.insert(*object);
                    }
                }
            }
            Manifest::Refused(refused) => self.refused(file, document, refused),
            Manifest::Unused(kind) => drop(self.loaded.unused.insert(kind)),
            Manifest::Alien(fault) => self.problem(file, Some(document), None, fault),
        }
    }

    fn refused(&mut self, file: &Path, document: usize, refused: Refused) {
        let Refused {
            kind,
            namespace,
            name,
            selector,
            faults,
        } = refused;
        let named = name.map(|name| ObjectRef {
            kind,
            namespace: namespace.clone(),
            name,
        });
        for fault in &faults {
            self.problem(file, Some(document), named.clone(), fault.clone());
        }
        let reference = match named {
            Some(reference) => reference,
            // It has to be called something, and no object can be called this.
            None if kind.is_policy() => ObjectRef {
                kind,
                namespace,
                name: unreadable(file, document),
            },
            None => return,
        };
        if self.loaded.origins.contains_key(&reference) {
            return;
        }
        if let Some(object) = self.previous.world.object(&reference) {
            self.loaded.world.insert(object);
        } else if kind.is_policy() {
            self.loaded
                .world
                .denials
                .insert(reference.clone(), Denial { selector });
        }
        self.loaded
            .origins
            .insert(reference.clone(), file.to_owned());
        self.loaded.world.faults.insert(reference, faults);
    }

    /// Keeps what the file held before and is not there now.
    fn keep(&mut self, file: &Path) {
        let before = self
            .previous
            .origins
            .iter()
            .filter(|(_, origin)| *origin == file);
        for (reference, _) in before {
            if self.loaded.origins.contains_key(reference) {
                continue;
            }
            let (was, now) = (&self.previous.world, &mut self.loaded.world);
            match (was.object(reference), was.denials.get(reference)) {
                (Some(object), _) => now.insert(object),
                (None, Some(denial)) => drop(now.denials.insert(reference.clone(), denial.clone())),
                (None, None) => continue,
            }
            if let Some(faults) = was.faults.get(reference) {
                now.faults.insert(reference.clone(), faults.clone());
            }
            self.loaded
                .origins
                .insert(reference.clone(), file.to_owned());
        }
        if let Some(stored) = self.previous.stored.get(file) {
            self.loaded
                .stored
                .entry(file.to_owned())
                .or_insert_with(|| stored.clone());
        }
    }

    /// Denies for a document that is not even YAML but looks like a policy, unless an earlier version is in force.
    fn deny_guess(&mut self, file: &Path, document: &Document<'_>) {
        let Some(guess) = guess::policy(document.text) else {
            return;
        };
        let name = guess
            .name
            .unwrap_or_else(|| unreadable(file, document.number));
        let reference = ObjectRef {
            kind: guess.kind,
            namespace: guess.namespace,
            name,
        };
        if self.loaded.origins.contains_key(&reference) {
            return;
        }
        let fault = Fault {
            field: String::new(),
            reason: "not YAML that can be read".to_owned(),
        };
        self.loaded
            .world
            .denials
            .insert(reference.clone(), Denial::default());
        self.loaded
            .world
            .faults
            .insert(reference.clone(), vec![fault]);
        self.loaded.origins.insert(reference, file.to_owned());
    }

    fn stored(&mut self, file: &Path, document: &Document<'_>) {
        match local::parse(document.text) {
            Ok(stored) => {
                let all = self.loaded.stored.entry(file.to_owned()).or_default();
                all.addresses.extend(stored.addresses);
                all.authorizations.extend(stored.authorizations);
            }
            Err(error) => {
                let fault = Fault {
                    field: error.field,
                    reason: error.reason,
                };
                self.problem(file, Some(document.number), None, fault);
                self.keep(file);
            }
        }
    }

    fn problem(
        &mut self,
        file: &Path,
        document: Option<usize>,
        object: Option<ObjectRef>,
        fault: Fault,
    ) {
        let Fault { field, reason } = fault;
        self.loaded.problems.push(Problem {
            file: file.to_owned(),
            document,
            object,
            field,
            reason,
        });
    }
}

/// A local workload file has none of what makes a manifest.
fn is_stored(tree: &Value) -> bool {
    let has = |key: &str| tree.get(key).is_some();
    !has("kind") && !has("apiVersion") && ["workloads", "services", "policies"].into_iter().any(has)
}

fn unreadable(file: &Path, document: usize) -> String {
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    let stem: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("unreadable_{stem}_{document}")
}

#[cfg(test)]
mod tests;
