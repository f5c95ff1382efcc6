//! The state directory: what a restarted control plane must find again: its root, the tokens it gave, the nodes' last
//! reports, and how far bindings to waypoints have come.
//!
//! It is not a cache: a file is replaced whole, by a rename after an fsync, so that a crash leaves the old or the new one.
//! One process at a time holds the directory.

use std::{
    fmt, fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// For the owner's eyes only: keys and tokens.
pub const SECRET: u32 = 0o600;
/// For every reader: certificates and statuses.
pub const PUBLIC: u32 = 0o644;

/// A directory that this process holds, or looks into.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked as long as it is open, by whoever may write.
    _lock: fs::File,
}

/// The state directory, or a file in it, cannot be used.
#[derive(Debug)]
pub struct StateError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl StateDir {
    /// Makes the directory if it is missing, and takes it for this process.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |what: &str, error: io::Error| StateError {
            path: path.to_owned(),
            reason: format!("{what}: {error}"),
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755);
        builder
            .create(path)
            .map_err(|error| failed("cannot make the state directory", error))?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(SECRET)
            .open(path.join("lock"));
        let lock = lock.map_err(|error| failed("cannot write to the state directory", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError {
                path: path.to_owned(),
                reason: "another control plane uses this state directory; end it or give --state-dir another".to_owned(),
            }),
            Err(fs::TryLockError::Error(error)) => Err(failed("cannot lock the state directory", error)),
        }
    }

    /// The directory that another process may hold: to be read, never to be written.
    pub fn look(path: &Path) -> Result<Self, StateError> {
        let lock = fs::File::open(path.join("lock")).map_err(|error| StateError {
            path: path.to_owned(),
            reason: format!("no control plane keeps its state there: {error}"),
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file's bytes; `None` if there is no such file.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(name, "cannot be read", &error)),
        }
    }

    /// The names in a folder of the directory, without those that are being written; none if the folder is missing.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, StateError> {
        let entries = match fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(folder, "cannot be listed", &error)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// Replaces a file. When this returns, a crash or a power cut no longer loses it.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StateError> {
        self.replace(&self.path(name), bytes, mode)
            .map_err(|error| self.failed(name, "cannot be written", &error))
    }

    /// Removes a file, if it is there. When this returns, a crash or a power cut does not bring it back.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| fs::File::open(path.parent().unwrap_or(&self.path))?.sync_all())
            .map_err(|error| self.failed(name, "cannot be removed", &error))
    }

    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.path);
        if !folder.is_dir() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)?;
            fs::File::open(&self.path)?.sync_all()?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let written = folder.join(format!(".{name}.new"));
        // Left by a crash: its mode may not be the one asked for.
        match fs::remove_file(&written) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&written)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&written, path)?;
        fs::File::open(folder)?.sync_all()
    }

    fn failed(&self, name: &str, what: &str, error: &io::Error) -> StateError {
        StateError {
            path: self.path(name),
            reason: format!("{what}: {error}"),
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for StateError {}

/// A directory for one test, removed with the value.
#[cfg(test)]
pub(crate) mod scratch {
    use std::{
        fs,
        path::{Path, PathBuf},
        sync::atomic::{AtomicU32, Ordering},
    };

    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("ambit-control-{}-{number}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{scratch::Scratch, *};

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let scratch = Scratch::new();
        let state = StateDir::open(scratch.path()).unwrap();
        assert_eq!(state.read("tokens/n1").unwrap(), None);
        state.write("tokens/n1", b"long before", SECRET).unwrap();
        fs::write(state.path("tokens/.n1.new"), "half a fi").unwrap();
        state.write("tokens/n1", b"after", SECRET).unwrap();
        assert_eq!(state.read("tokens/n1").unwrap().unwrap(), b"after");
        assert_eq!(
            fs::metadata(state.path("tokens/n1"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            SECRET
        );
        assert_eq!(state.list("tokens").unwrap(), ["n1"]);
        state.remove("tokens/n1").unwrap();
        state.remove("tokens/n1").unwrap();
        assert_eq!(state.read("tokens/n1").unwrap(), None);
    }

    #[test]
    fn a_second_process_is_refused_until_the_first_lets_go() {
        let scratch = Scratch::new();
        let first = StateDir::open(scratch.path()).unwrap();
        let error = StateDir::open(scratch.path()).unwrap_err().to_string();
        assert!(error.contains("another control plane"), "{error}");
        drop(first);
        StateDir::open(scratch.path()).unwrap();
    }
}
