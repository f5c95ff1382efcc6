//! Facts about files and those who write them.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Instant,
};

use super::*;

/// A file for one test, removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ambit-file-{}-{number}", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }

    /// Waits until nobody writes. A child that another test starts has all files of this process until it is its own.
    fn closed(&self) {
        let latest = Instant::now() + Duration::from_secs(10);
        while being_written(&self.open()).unwrap() {
            assert!(Instant::now() < latest, "still being written");
            thread::yield_now();
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Late enough for every file to have settled.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

#[test]
fn a_file_is_being_written_for_as_long_as_somebody_has_it_open_for_that() {
    let scratch = Scratch::new("old");
    let _reader = scratch.open();
    scratch.closed();
    for options in [
        File::options().write(true),
        File::options().write(true).truncate(true),
        File::options().append(true),
        File::options().read(true).write(true),
    ] {
        let writer = options.open(&scratch.0).unwrap();
        assert!(being_written(&scratch.open()).unwrap());
        drop(writer);
        scratch.closed();
    }
}

#[test]
fn a_file_that_cannot_be_leased_is_not_being_written() {
    assert!(!being_written(&File::open("/proc/self/status").unwrap()).unwrap());
    assert!(!being_written(&File::open(std::env::temp_dir()).unwrap()).unwrap());
}

#[test]
fn a_writer_that_ends_the_lease_ends_no_process() {
    let scratch = Scratch::new("old");
    let file = scratch.open();
    control(&file, F_SETSIG, libc::SIGURG).unwrap();
    control(&file, libc::F_SETLEASE, libc::F_RDLCK).unwrap();
    let path = scratch.0.clone();
    let writer = thread::spawn(move || drop(File::options().write(true).open(path).unwrap()));
    // The kernel asks for the lease back, which is when it tells: what is leased reads as F_UNLCK from then on.
    // SAFETY: as in `control`.
    while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } != libc::F_UNLCK {
        thread::yield_now();
    }
    control(&file, libc::F_SETLEASE, libc::F_UNLCK).unwrap();
    writer.join().unwrap();
}

#[test]
fn writers_and_those_who_ask_do_not_harm_each_other() {
    let scratch = Scratch::new("old");
    let path = scratch.0.clone();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                fs::write(&path, "new").unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            being_written(&scratch.open()).unwrap();
        }
    });
    scratch.closed();
}

#[test]
fn what_is_read_counts_if_it_is_old_and_nobody_writes_or_wrote() {
    let scratch = Scratch::new("old");
    let before = Stamp::of(&fs::metadata(&scratch.0).unwrap()).unwrap();
    let (soon, long) = (SETTLED - Duration::from_millis(1), Duration::from_secs(60));
    let wrote = Stamp {
        length: 0,
        ..before
    };
    let written = before.modified;
    for (now, being_written, after, expected) in [
        (written + SETTLED, false, before, true),
        (written + soon, false, before, false),
        (written + long, true, before, false),
        (written + long, false, wrote, false),
        (written - soon, false, before, false),
        (written - long, false, before, true),
    ] {
        let facts = Facts {
            before,
            now,
            being_written,
            after,
        };
        assert_eq!(whole(&facts), expected, "{facts:?}");
    }
}

#[test]
fn a_truncated_file_is_read_only_when_its_writer_is_done() {
    let scratch = Scratch::new("old");
    scratch.closed();
    let read = |limit| read(&scratch.open(), limit, later()).unwrap();
    assert!(matches!(read(99), Content::Whole(_, text) if text == b"old"));
    let mut writer = File::create(&scratch.0).unwrap();
    assert!(matches!(read(99), Content::Unsettled(stamp) if stamp.length() == 0));
    writer.write_all(b"half").unwrap();
    assert!(matches!(read(99), Content::Unsettled(_)));
    writer.write_all(b" and half").unwrap();
    drop(writer);
    scratch.closed();
    assert!(matches!(read(99), Content::Whole(_, text) if text == b"half and half"));
    assert!(matches!(read(4), Content::Whole(_, text) if text == b"half"));
}
