//! Whether a file that others write in place is whole, and its content if it is.
//!
//! A writer that truncates a file and fills it again, with pauses, leaves it half-written for as long as it likes, and
//! nothing in the content tells. What tells is the time since the last change, and whether somebody has the file open for
//! writing, which the kernel knows when asked for a read lease (fcntl(2), "Leases"). A writer that closes a half-written
//! file and comes back later cannot be told from one that is done.
#![allow(unsafe_code)]

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use nix::{errno::Errno, libc};

/// A file that changed less than this long ago may be in the middle of being written, even if nobody has it open.
pub const SETTLED: Duration = Duration::from_millis(40);

/// A change this little ahead of the clock is a clock that was set, or read before the change: it is as good as now.
const AHEAD: Duration = Duration::from_secs(2);

/// fcntl(2): which signal tells of a lease's end. The C library's binding lacks it.
const F_SETSIG: libc::c_int = 10;

/// What changes when a file does. The time of the last change of the inode cannot be set back by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    changed: (i64, i64),
    length: u64,
    inode: (u64, u64),
}

/// What is known about a file around one reading of it.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Before the reading.
    pub before: Stamp,
    /// When `before` was taken, or earlier.
    pub now: SystemTime,
    /// Between `before` and the reading.
    pub being_written: bool,
    /// After the reading.
    pub after: Stamp,
}

/// The outcome of [`read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it, or as much as was asked for.
    Whole(Stamp, Vec<u8>),
    /// Somebody is writing, or did just now.
    Unsettled(Stamp),
}

/// What has a name in a directory.
#[derive(Debug)]
pub enum Entry {
    /// A regular file, or a link to one, opened for reading only.
    File(File),
    /// A directory; not a link to one.
    Directory,
    /// Nothing any more, not even a link to nowhere.
    Gone,
}

impl Stamp {
    /// The stamp of a file.
    pub fn of(found: &Metadata) -> io::Result<Self> {
        Ok(Self {
            modified: found.modified()?,
            changed: (found.ctime(), found.ctime_nsec()),
            length: found.len(),
            inode: (found.dev(), found.ino()),
        })
    }

    /// In bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn old_enough(&self, now: SystemTime) -> bool {
        match now.duration_since(self.modified) {
            Ok(age) => age >= SETTLED,
            // Further ahead the time says nothing: it would hold the file back for years.
            Err(ahead) => ahead.duration() > AHEAD,
        }
    }
}

/// Whether what was read is all that the writer meant to write, as far as can be known.
pub fn whole(facts: &Facts) -> bool {
    // One who opened the file after it was asked whether somebody has, and wrote, has changed the stamp: that is newer
    // than one which is old enough.
    facts.before.old_enough(facts.now) && !facts.being_written && facts.before == facts.after
}

/// Opens what has a name in a directory. Waits for nobody, so no pipe in a file's place holds up its reader.
///
/// # Errors
/// It is there, and is no regular file that can be opened.
pub fn open(path: &Path) -> io::Result<Entry> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match entry(path) {
        Err(error) if gone(&error) => match fs::symlink_metadata(path) {
            Err(error) if gone(&error) => Ok(Entry::Gone),
            _ => Err(io::Error::new(error.kind(), "a link to nothing")),
        },
        found => found,
    }
}

fn entry(path: &Path) -> io::Result<Entry> {
    if fs::symlink_metadata(path)?.is_dir() {
        return Ok(Entry::Directory);
    }
    let regular = |found: &Metadata| match found.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("not a regular file")),
    };
    // To open a device may be to do something with it.
    regular(&fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    regular(&file.metadata()?)?;
    Ok(Entry::File(file))
}

/// Reads at most `limit` bytes of a file that was opened for reading only. `now` is the time now, or earlier.
pub fn read(file: &File, limit: u64, now: SystemTime) -> io::Result<Content> {
    let before = Stamp::of(&file.metadata()?)?;
    if !before.old_enough(now) {
        return Ok(Content::Unsettled(before));
    }
    let being_written = being_written(file)?;
    let mut bytes = Vec::new();
    if !being_written {
        file.take(limit).read_to_end(&mut bytes)?;
    }
    let after = Stamp::of(&file.metadata()?)?;
    let facts = Facts {
        before,
        now,
        being_written,
        after,
    };
    Ok(if whole(&facts) {
        Content::Whole(before, bytes)
    } else {
        Content::Unsettled(after)
    })
}

/// Whether somebody, this process included, has the file open for writing. `file` must be open for reading only.
///
/// A writer that comes in the middle waits for the moment that this takes; one that opens without blocking is refused then
/// (`EWOULDBLOCK`). False where it cannot be known: leases are for the owner of a file or CAP_LEASE (`EACCES`), for
/// regular files, and not for every file system (`EINVAL`); such files are no worse off than before they were asked about,
/// and must still be readable.
pub fn being_written(file: &File) -> io::Result<bool> {
    // The end of a lease is told by SIGIO, which would end the process. SIGURG is passed over by default; and never lease
    // without that.
    if control(file, F_SETSIG, libc::SIGURG).is_err() {
        return Ok(false);
    }
    match control(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            control(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(Errno::EAGAIN) => Ok(true),
        Err(_) => Ok(false),
    }
}

fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; both commands take an int and touch no memory.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests;
