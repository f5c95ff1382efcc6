//! Manifests that a check edits, and leaves as they were.

use std::{fs, path::PathBuf};

/// A file that is put back as it was.
pub(super) struct Restored {
    path: PathBuf,
    /// What stood in it.
    pub(super) text: String,
}

impl Restored {
    /// Reads it.
    pub(super) fn new(path: PathBuf) -> Result<Self, String> {
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, text })
    }

    /// As editors do: a new file in place of the old one.
    pub(super) fn write(&self, text: &str) -> Result<(), String> {
        let new = self.path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // A directory that is gone needs nothing back.
        let _ = self.write(&self.text);
    }
}
