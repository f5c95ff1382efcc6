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

use mesh::local::Local;

use self::loading::Loading;
use crate::{
    compile::Settings,
    manifest::{self, Fault, Kind, LIMITS, ObjectRef},
    world::World,
};

pub mod check;
pub mod files;
mod guess;
mod loading;
mod nameless;

/// What was made of the files.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force.
    pub world: World,
    /// What is wrong, in the order of files and documents.
    pub problems: Vec<Problem>,
    /// Kinds that are there and are not used, as `apiVersion/kind`.
    pub unused: BTreeSet<String>,
    /// Files without content that held nothing before.
    pub empty: BTreeSet<PathBuf>,
    /// Where each object, or denial, came from.
    origins: BTreeMap<ObjectRef, PathBuf>,
    /// What is defined more than once, and not alike.
    doubles: BTreeSet<ObjectRef>,
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

impl Problem {
    fn of_file(file: &Path, reason: String) -> Self {
        Self {
            file: file.to_owned(),
            document: None,
            object: None,
            field: String::new(),
            reason,
        }
    }
}

/// Reads the files of a directory that end in `.yaml`, `.yml` or `.json`, not those of directories below it; or a
/// single file. Names that begin with a dot are left out, because editors put half-written files there. A file that
/// goes away meanwhile counts as not there, and so does a link to nowhere; one that cannot be looked at is an error. Each is read as it is now, even if somebody is writing it: whoever reads
/// more than once uses [`Files`](files::Files).
pub fn read_dir(path: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    each(path, |path| {
        let mut bytes = Vec::new();
        let file = fs::File::open(path)?;
        file.take(LIMITS.file as u64 + 1).read_to_end(&mut bytes)?;
        Ok(text(&bytes))
    })
}

/// How often a directory is listed at most until nothing changes meanwhile.
const LISTINGS: usize = 8;

/// What `read` makes of each file. It reads at most one byte more than is allowed, which [`load`] then sees.
fn each<T>(path: &Path, read: impl Fn(&Path) -> io::Result<T>) -> io::Result<BTreeMap<PathBuf, T>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok([(path.to_owned(), read(path)?)].into());
    }
    let mut files = BTreeMap::new();
    let mut listed = list(path)?;
    // A listing is no snapshot: of what is renamed meanwhile it may have neither name. The next one has the new name.
    for _ in 0..LISTINGS {
        files.clear();
        for path in &listed {
            match read(path) {
                Ok(found) => drop(files.insert(path.clone(), found)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(of(path, &error)),
            }
        }
        let now = list(path)?;
        if now == listed && files.len() == listed.len() {
            break;
        }
        listed = now;
    }
    Ok(files)
}

/// The manifests of a directory.
fn list(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if !hidden && manifest && is_file(&path)? {
            files.insert(path);
        }
    }
    Ok(files)
}

/// Whether there is a file. Of what nobody can say so, nobody can say either that it holds nothing.
fn is_file(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(of(path, &error)),
    }
}

/// The error, with the file that it is about.
fn of(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Bytes that are not UTF-8 become U+FFFD, which [`load`] sees.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Makes a world of all files. `previous` is what the last call returned: the source of last good versions.
pub fn load(files: &BTreeMap<PathBuf, String>, previous: Option<&Loaded>) -> Loaded {
    let nothing = Loaded::default();
    let mut loading = Loading {
        previous: previous.unwrap_or(&nothing),
        loaded: Loaded::default(),
        read: BTreeSet::new(),
        unclear: Vec::new(),
    };
    let (empty, full): (Vec<_>, Vec<_>) =
        files.iter().partition(|(_, text)| text.trim().is_empty());
    for (file, text) in full {
        loading.file(file, text);
    }
    let empty: Vec<_> = empty.into_iter().map(|(file, _)| file).collect();
    loading.missing(&empty);
    let Loading { mut loaded, .. } = loading;
    loaded.problems.sort_by(|a, b| a.file.cmp(&b.file));
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

/// As [`load`], for a control plane with these settings: a configuration of the mesh that does not fit them is refused too.
pub fn load_for(
    files: &BTreeMap<PathBuf, String>,
    previous: Option<&Loaded>,
    settings: &Settings,
) -> Loaded {
    let mut loaded = load(files, previous);
    let key = (
        settings.root_namespace.clone(),
        manifest::mesh::NAME.to_owned(),
    );
    let Some(config) = loaded.world.mesh_configs.get(&key) else {
        return loaded;
    };
    let generation = config.meta.generation;
    let faults = config.faults(&settings.root_namespace, &settings.trust_domain);
    if faults.is_empty() {
        return loaded;
    }
    let reference = ObjectRef::new(Kind::ConfigMap, &key.0, &key.1);
    let world = &mut loaded.world;
    match previous.and_then(|previous| previous.world.object(&reference)) {
        Some(object) => world.insert(object),
        None => world.remove(&reference),
    }
    for Fault { field, reason } in &faults {
        loaded.problems.push(Problem {
            file: loaded.origins[&reference].clone(),
            document: None,
            object: Some(reference.clone()),
            field: field.clone(),
            reason: reason.clone(),
        });
    }
    let all = world.faults.entry(reference).or_default();
    all.add(generation, faults);
    loaded.problems.sort_by(|a, b| a.file.cmp(&b.file));
    loaded
}

#[cfg(test)]
mod tests;
