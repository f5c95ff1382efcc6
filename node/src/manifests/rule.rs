//! Which version of each object counts, by what counted before and what the files hold now.
//!
//! A pod that leaves the mesh stands open. So nothing does for what is faulty, double or out of sight: only a version
//! that is read well, or an object's absence from files that can all be read, takes something back.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::document::{Found, Gap, Key, Object};

/// An object that is in no file for less than this may be on its way to another. The control plane waits as long, so that
/// both take it out at about the same time.
pub const GONE: Duration = Duration::from_secs(1);

/// What each file holds.
pub(super) type Files<'a> = BTreeMap<&'a Path, (&'a [Found], Gap)>;

/// All that counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Settled {
    pub(super) objects: BTreeMap<Key, Kept>,
    /// Once there was no document that may have been any object: nothing is hidden that was there before.
    pub(super) seen: bool,
    /// The namespaces with pods that are known to have no object of their own.
    pub(super) bare: BTreeSet<String>,
}

/// An object that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// One if it was ever read well; else all that may be meant.
    pub(super) versions: Vec<Object>,
    /// It was read well.
    good: bool,
    /// It never was, and part of what is meant cannot be read.
    pub(super) doubtful: bool,
    /// Where it is or was last.
    files: BTreeSet<PathBuf>,
    /// Since when it is in no file, if it is in none and all can be read.
    missing: Option<SystemTime>,
}

/// The objects that count now.
pub(super) fn settle(previous: &Settled, files: &Files<'_>, now: SystemTime) -> Settled {
    let hidden = files.values().any(|(_, gap)| *gap == Gap::Any);
    let torn = |file: &Path| files.get(file).is_some_and(|(_, gap)| *gap != Gap::None);
    let found = by_key(files);
    let mut objects = BTreeMap::new();
    for (key, here) in &found {
        let was = previous.objects.get(key);
        // A file that has it cannot hide it.
        let out_of_sight: BTreeSet<_> = was
            .into_iter()
            .flat_map(|was| &was.files)
            .filter(|file| torn(file) && !here.iter().any(|(at, _)| at == file))
            .cloned()
            .collect();
        objects.insert(key.clone(), kept(was, here, out_of_sight));
    }
    for (key, was) in &previous.objects {
        if found.contains_key(key) {
            continue;
        }
        let stays = hidden || was.files.iter().any(|file| torn(file));
        // A clock that was set back begins anew.
        let missing = (!stays).then(|| was.missing.map_or(now, |since| since.min(now)));
        if missing.is_none_or(|since| now.duration_since(since).is_ok_and(|away| away < GONE)) {
            let was = was.clone();
            objects.insert(key.clone(), Kept { missing, ..was });
        }
    }
    let bare = match hidden {
        true => previous.bare.clone(),
        false => bare(&objects),
    };
    Settled {
        objects,
        seen: previous.seen || !hidden,
        bare,
    }
}

fn bare(objects: &BTreeMap<Key, Kept>) -> BTreeSet<String> {
    let pods = objects.keys().filter_map(|key| match key {
        Key::Pod((namespace, _)) => Some(namespace),
        Key::Namespace(_) => None,
    });
    let bare = pods.filter(|it| !objects.contains_key(&Key::Namespace((*it).clone())));
    bare.cloned().collect()
}

/// Whether an object is about to go.
pub(super) fn going(settled: &Settled) -> bool {
    let mut all = settled.objects.values();
    all.any(|kept| kept.missing.is_some())
}

/// The objects that have different content in several places: which, the first file and the last.
pub(super) fn doubles(files: &Files<'_>) -> Vec<(Key, PathBuf, PathBuf)> {
    let doubles = by_key(files).into_iter().filter_map(|(key, here)| {
        let ((first, one), (last, _)) = (here.first()?, here.last()?);
        let differ = here.iter().any(|(_, other)| other.object != one.object);
        differ.then(|| (key, first.to_path_buf(), last.to_path_buf()))
    });
    doubles.collect()
}

fn by_key<'a>(files: &Files<'a>) -> BTreeMap<Key, Vec<(&'a Path, &'a Found)>> {
    let mut all: BTreeMap<Key, Vec<_>> = BTreeMap::new();
    for (file, (objects, _)) in files {
        for found in *objects {
            all.entry(found.key.clone())
                .or_default()
                .push((*file, found));
        }
    }
    all
}

fn kept(was: Option<&Kept>, here: &[(&Path, &Found)], out_of_sight: BTreeSet<PathBuf>) -> Kept {
    let mut versions: Vec<Object> = Vec::new();
    for (_, found) in here {
        if !versions.contains(&found.object) {
            versions.push(found.object.clone());
        }
    }
    let faulty = here.iter().any(|(_, it)| it.faulty);
    let mut good = versions.len() == 1 && out_of_sight.is_empty() && !faulty;
    match was {
        Some(was) if !good && was.good => {
            versions.clone_from(&was.versions);
            good = true;
        }
        Some(was) if !out_of_sight.is_empty() => versions.extend_from_slice(&was.versions),
        _ => {}
    }
    let doubtful = !good && (faulty || !out_of_sight.is_empty());
    let files = here.iter().map(|(file, _)| file.to_path_buf());
    Kept {
        versions,
        good,
        doubtful,
        files: files.chain(out_of_sight).collect(),
        missing: None,
    }
}

#[cfg(test)]
mod tests;
