//! The files of a source as last read, each only while nobody writes it. Not what is in them.
//!
//! A file that somebody is writing keeps the text that it had, or stays unread if it is new; so a file that is saved in
//! place takes no object out of force on the way. A file that is gone may have moved into one that is not read yet: what
//! it held stays until all are read. [`sys::file`] knows which files those are.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use sys::file::{Content, Stamp};

use super::{Found, Problem, each, loading, text, unread};
use crate::manifest::LIMITS;

/// Whoever writes a file for longer than this is told about.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Until a file that is being written is looked at again.
const SOON: Duration = Duration::from_millis(50);
/// The same for one that has been written for longer than [`PATIENCE`].
const LATER: Duration = Duration::from_millis(250);

/// All files of a source.
#[derive(Clone, Debug, Default)]
pub struct Files {
    texts: BTreeMap<PathBuf, String>,
    /// Of each text that was read: the file as it was then.
    stamps: BTreeMap<PathBuf, Stamp>,
    /// Files that are not as read last, and since when that is known.
    unsettled: BTreeMap<PathBuf, Instant>,
    /// Files that are not there and keep their text, and since when that is known.
    gone: BTreeMap<PathBuf, Instant>,
}

impl Files {
    /// Looks at all files of a directory, or at a single one.
    pub fn look(&self, path: &Path, now: Instant) -> io::Result<Self> {
        let found = each(path, |file| {
            sys::file::read(&file, LIMITS.file as u64 + 1, SystemTime::now())
        })?;
        Ok(self.with(found, now))
    }

    fn with(&self, found: BTreeMap<PathBuf, Found<Content>>, now: Instant) -> Self {
        let mut next = Self::default();
        for (path, found) in found {
            let stamp = match found {
                Found::Read(Content::Whole(stamp, bytes)) => {
                    next.texts.insert(path.clone(), text(&bytes));
                    next.stamps.insert(path, stamp);
                    continue;
                }
                Found::Read(Content::Unsettled(stamp)) => stamp,
                Found::Unread(reason) => {
                    next.texts.insert(path, unread(&reason));
                    continue;
                }
                Found::Directory => {
                    if self.held(&path) {
                        next.texts.insert(path, unread("it is a directory now"));
                    }
                    continue;
                }
            };
            let before = next.keep(self, &path);
            // Who has it open for writing and has not written yet keeps nothing waiting.
            if before != Some(stamp) {
                let since = self.unsettled.get(&path).copied().unwrap_or(now);
                next.unsettled.insert(path, since);
            }
        }
        if !next.unsettled.is_empty() {
            next.keep_gone(self, now);
        }
        next
    }

    /// Whether there may have been any object in a file.
    fn held(&self, path: &Path) -> bool {
        let text = self.texts.get(path);
        text.is_some_and(|text| !loading::is_empty(text))
    }

    /// Keeps a text, and says of which file it is.
    fn keep(&mut self, before: &Self, path: &Path) -> Option<Stamp> {
        let text = before.texts.get(path)?.clone();
        self.texts.insert(path.to_owned(), text);
        let stamp = *before.stamps.get(path)?;
        self.stamps.insert(path.to_owned(), stamp);
        Some(stamp)
    }

    /// Keeps what files held that are gone, but none for longer than [`PATIENCE`]: somebody may always be writing.
    fn keep_gone(&mut self, before: &Self, now: Instant) {
        for path in before.texts.keys() {
            let since = before.gone.get(path).copied().unwrap_or(now);
            if self.texts.contains_key(path) || overdue(since, now) {
                continue;
            }
            self.keep(before, path);
            self.gone.insert(path.clone(), since);
        }
    }

    /// What was read, by file.
    pub fn texts(&self) -> &BTreeMap<PathBuf, String> {
        &self.texts
    }

    /// When to look again although nothing tells of a change; `None` if all files are as read.
    pub fn look_again(&self, now: Instant) -> Option<Duration> {
        let latest = self.unsettled.values().max()?;
        Some(if overdue(*latest, now) { LATER } else { SOON })
    }

    /// The files that somebody has been writing for too long.
    pub fn problems(&self, now: Instant) -> Vec<Problem> {
        let late = self
            .unsettled
            .iter()
            .filter(|(_, since)| overdue(**since, now));
        let problems = late.map(|(file, _)| {
            let now = match self.texts.contains_key(file) {
                true => "what it held before stays in force",
                false => "it is not read",
            };
            Problem::of_file(
                file,
                format!("still being written, by a program that has it open or changes it all the time; until that ends, {now}"),
            )
        });
        problems.collect()
    }
}

fn overdue(since: Instant, now: Instant) -> bool {
    now.duration_since(since) >= PATIENCE
}

#[cfg(test)]
mod tests;
