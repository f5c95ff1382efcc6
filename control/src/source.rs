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
use sys::file::{self, Entry};

pub mod check;
pub mod files;
mod guess;
pub mod leaving;
mod loading;
mod nameless;
mod vague;

/// What was made of the files.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force.
    pub world: World,
    /// What is wrong, in the order of files and documents.
    pub problems: Vec<Problem>,
    /// Kinds that are there and are not used, as `apiVersion/kind`.
    pub unused: BTreeSet<String>,
    /// Files without any document that held nothing before.
    pub empty: BTreeSet<PathBuf>,
    /// What no document of these files has any more, and stays as long as nobody can say what all of these hold.
    pub kept: BTreeMap<PathBuf, BTreeSet<ObjectRef>>,
    /// Documents of which nobody can say which object they hold, with their files.
    pub unknown: BTreeSet<(PathBuf, usize)>,
    /// What is of a group that nobody knows, by file: what it would be in the group that is served.
    foreign: BTreeSet<(PathBuf, ObjectRef)>,
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

/// Reads the files of a directory that end in `.yaml`, `.yml` or `.json`, in any case, not those of directories below it;
/// or a single file. Names that begin with a dot are left out, because editors put half-written files there. A file that
/// goes away meanwhile counts as not there. What is there and is no file that can be read, such as a link to nowhere, gets
/// a text that [`load`] tells of; only directories are passed over. Each is read as it is now, even if somebody is writing
/// it: whoever reads more than once uses [`Files`](files::Files).
///
/// # Errors
/// The directory, or the single file, cannot be read.
pub fn read_dir(path: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let found = each(path, |file| {
        let mut bytes = Vec::new();
        file.take(LIMITS.file as u64 + 1).read_to_end(&mut bytes)?;
        Ok(text(&bytes))
    })?;
    let texts = found.into_iter().filter_map(|(path, found)| match found {
        Found::Read(text) => Some((path, text)),
        Found::Unread(reason) => Some((path, unread(&reason))),
        Found::Directory => None,
    });
    Ok(texts.collect())
}

/// What has the name of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found<T> {
    Read(T),
    /// It is there and cannot be read: why.
    Unread(String),
    Directory,
}

/// How often a directory is listed at most until nothing changes meanwhile.
const LISTINGS: usize = 8;

/// What `read` makes of each file. It reads at most one byte more than is allowed, which [`load`] then sees.
fn each<T>(
    path: &Path,
    read: impl Fn(fs::File) -> io::Result<T>,
) -> io::Result<BTreeMap<PathBuf, Found<T>>> {
    if fs::metadata(path)?.is_dir() {
        return listed(path, |path| found(path, &read));
    }
    let found = read(fs::File::open(path)?)?;
    Ok([(path.to_owned(), Found::Read(found))].into())
}

fn found<T>(path: &Path, read: impl Fn(fs::File) -> io::Result<T>) -> Option<Found<T>> {
    let opened = match file::open(path) {
        Ok(Entry::Gone) => return None,
        Ok(Entry::Directory) => return Some(Found::Directory),
        Ok(Entry::File(file)) => Ok(file),
        Err(error) => Err(error),
    };
    let unread = |error: io::Error| Found::Unread(error.to_string());
    Some(opened.and_then(read).map_or_else(unread, Found::Read))
}

/// What `look` finds under each name in a directory; nothing under one that is no more.
fn listed<T>(
    directory: &Path,
    look: impl Fn(&Path) -> Option<T>,
) -> io::Result<BTreeMap<PathBuf, T>> {
    let mut files = BTreeMap::new();
    let mut listed = list(directory)?;
    // A listing is no snapshot: of what is renamed meanwhile it may have neither name. The next one has the new name.
    for _ in 0..LISTINGS {
        files.clear();
        for path in &listed {
            if let Some(found) = look(path) {
                files.insert(path.clone(), found);
            }
        }
        let now = list(directory)?;
        if now == listed && files.len() == listed.len() {
            break;
        }
        listed = now;
    }
    Ok(files)
}

/// What is called like a manifest in a directory.
fn list(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path
            .extension()
            .is_some_and(|end| ENDS.iter().any(|known| end.eq_ignore_ascii_case(known)));
        if !hidden && manifest {
            files.insert(path);
        }
    }
    Ok(files)
}

const ENDS: [&str; 3] = ["yaml", "yml", "json"];

/// Bytes that are not UTF-8 become U+FFFD, which [`load`] sees.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of a file that cannot be read, which [`load`] sees.
fn unread(reason: &str) -> String {
    format!("{}: {reason}", loading::UNREAD)
}

/// Makes a world of all files. `previous` is what the last call returned: the source of last good versions.
pub fn load(files: &BTreeMap<PathBuf, String>, previous: Option<&Loaded>) -> Loaded {
    let nothing = Loaded::default();
    let mut loading = Loading {
        previous: previous.unwrap_or(&nothing),
        loaded: Loaded::default(),
        read: BTreeSet::new(),
        unclear: Vec::new(),
        foreign: Vec::new(),
        unsure: BTreeSet::new(),
    };
    let (empty, full): (Vec<_>, Vec<_>) =
        files.iter().partition(|(_, text)| loading::is_empty(text));
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
