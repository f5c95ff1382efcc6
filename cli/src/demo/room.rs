//! The demo's directory: one demo at a time has it, and it goes when that demo ends.
//!
//! A demo that was killed leaves it behind, but nothing that runs; the next one clears it away.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    Failure,
    mesh::{LOG, MANIFESTS, NETNS, STATE, ZDS},
};

/// Names another directory than the usual one.
pub(crate) const VARIABLE: &str = "AMBIT_RUN_DIR";
const USUAL: &str = "/run/ambit/demo";
const LOCK: &str = "lock";
/// The directories of a demo.
const PARTS: [&str; 5] = [MANIFESTS, STATE, NETNS, LOG, ZDS];

/// The most bytes of its path: what unix(7) leaves of a socket's path (108 with the NUL) after the directory [`ZDS`], a
/// node's name and, until the socket is complete, the process id of its maker, of 7 digits at most.
const LONGEST: usize = 107 - "/zds/n1.4194304".len();

/// A directory that this process has for itself.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

/// Where the directory is, whether or not a demo runs.
pub(crate) fn path() -> PathBuf {
    std::env::var_os(VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(USUAL), PathBuf::from)
}

/// The process id of the demo that has the directory.
pub(crate) fn holder(path: &Path) -> io::Result<Option<u32>> {
    let file = match File::open(path.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match file.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(written(&file)?)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Room {
    /// Takes the directory, with empty directories in it for what a demo puts there.
    ///
    /// # Errors
    /// If another demo has it, or if it holds something that is no demo's.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::Failed(format!(
                "cannot use {}: {error}\nChoose another directory with {VARIABLE}.",
                path.display()
            ))
        };
        let length = path.as_os_str().len();
        if length > LONGEST {
            return Err(Failure::Failed(format!(
                "{} is too long: with sockets in it, it may have {LONGEST} bytes, and has {length}\n\
                 Choose a shorter directory with {VARIABLE}.",
                path.display()
            )));
        }
        fs::create_dir_all(path).map_err(failed)?;
        let lock = lock(path).map_err(failed)?;
        let lock = lock.ok_or_else(|| {
            let by = holder(path).ok().flatten().map_or_else(String::new, |pid| format!(", process {pid}"));
            Failure::Failed(format!(
                "another demo runs in {}{by}\nEnd it with Ctrl-C (or kill {}), or give this one another directory with {VARIABLE}.",
                path.display(),
                by.rsplit(' ').next().unwrap_or_default()
            ))
        })?;
        // Before there is a room, whose end is the end of what is in it.
        foreign(path).map_err(failed)?;
        let room = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        for part in PARTS {
            remove_part(&path.join(part))
                .and_then(|()| fs::create_dir(path.join(part)))
                .map_err(failed)?;
        }
        Ok(room)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes a demo's directory with what demos put there. Others may still write into it: what they make meanwhile goes
/// too.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    for part in PARTS {
        remove_part(&path.join(part))?;
    }
    gone_is_fine(fs::remove_file(path.join(LOCK)))?;
    gone_is_fine(fs::remove_dir(path))?;
    if let (Some(parent), true) = (path.parent(), path == Path::new(USUAL)) {
        // Others may have something in it.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn remove_part(path: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..20 {
        outcome = gone_is_fine(fs::remove_dir_all(path));
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                thread::sleep(Duration::from_millis(10))
            }
            _ => break,
        }
    }
    outcome
}

fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Refuses a directory that holds what no demo puts there.
fn foreign(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK && !PARTS.iter().any(|part| name == *part) {
            fs::remove_file(path.join(LOCK))?;
            let text = format!("{} is in it, which no demo puts there", name.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
    }
    Ok(())
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("ambit: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// `None` if somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let path = path.join(LOCK);
    for attempt in 1.. {
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            // Whoever asks whether a demo runs holds it for a moment.
            Err(TryLockError::WouldBlock) if attempt < 5 => {
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it may have removed it between the two calls: then this is a lock on nothing.
        let same = fs::metadata(&path)
            .is_ok_and(|found| file.metadata().is_ok_and(|held| held.ino() == found.ino()));
        if same {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn written(mut file: &File) -> io::Result<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    text.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "its lock file holds no process id",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ambit-room-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_second_demo_is_told_whose_the_first_is() {
        let path = place("second");
        let room = Room::take(&path).unwrap();
        let refused = Room::take(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        assert_eq!(holder(&path).unwrap(), Some(std::process::id()));
        drop(room);
        assert!(!path.exists());
        assert_eq!(holder(&path).unwrap(), None);
    }

    #[test]
    fn a_directory_too_long_for_a_socket_is_refused_and_not_made() {
        let start = place("");
        let of = |length: usize| {
            let more = "x".repeat(length - start.as_os_str().len());
            PathBuf::from(format!("{}{more}", start.display()))
        };
        let refused = Room::take(&of(93)).unwrap_err().to_string();
        assert!(
            refused.contains("may have 92 bytes, and has 93"),
            "{refused}"
        );
        assert!(!of(93).exists());
        drop(Room::take(&of(92)).unwrap());
        let socket = of(92).join(ZDS).join("n1.4194304");
        assert!(std::os::unix::net::SocketAddr::from_pathname(socket).is_ok());
        let socket = of(93).join(ZDS).join("n1.4194304");
        assert!(std::os::unix::net::SocketAddr::from_pathname(socket).is_err());
    }

    #[test]
    fn what_a_killed_demo_left_goes_and_what_is_not_its_own_stays() {
        let path = place("left");
        fs::create_dir_all(path.join("log/old")).unwrap();
        fs::write(path.join("lock"), "1").unwrap();
        let room = Room::take(&path).unwrap();
        assert_eq!(fs::read_dir(path.join("log")).unwrap().count(), 0);
        drop(room);
        fs::create_dir_all(path.join("letters")).unwrap();
        assert!(
            Room::take(&path)
                .unwrap_err()
                .to_string()
                .contains("letters")
        );
        assert!(path.join("letters").exists() && !path.join("lock").exists());
        fs::remove_dir_all(path).unwrap();
    }
}
