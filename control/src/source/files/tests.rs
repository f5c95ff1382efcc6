//! What is kept, taken and told, as a table; and a directory whose files are saved in place.

use std::{fs, io::Write as _};

use super::*;
use crate::state::scratch::Scratch;

/// The stamp of a file of its own: no two are the same.
fn stamp(scratch: &Scratch, name: &str) -> Stamp {
    let path = scratch.path().join(name);
    fs::write(&path, name).unwrap();
    Stamp::of(&fs::metadata(path).unwrap()).unwrap()
}

#[test]
fn a_text_stays_until_the_file_is_whole_again() {
    let scratch = Scratch::new();
    let [first, second] = ["first", "second"].map(|name| stamp(&scratch, name));
    let whole = |stamp, text: &str| Some(Content::Whole(stamp, text.into()));
    let cases = [
        ("new", whole(first, "1"), Some("1"), false),
        ("the same", whole(first, "1"), Some("1"), false),
        (
            "truncated",
            Some(Content::Unsettled(second)),
            Some("1"),
            true,
        ),
        (
            "still so",
            Some(Content::Unsettled(second)),
            Some("1"),
            true,
        ),
        ("written", whole(second, "2"), Some("2"), false),
        (
            "open, not written",
            Some(Content::Unsettled(second)),
            Some("2"),
            false,
        ),
        ("emptied", whole(first, ""), Some(""), false),
        ("removed", None, None, false),
        (
            "new, being written",
            Some(Content::Unsettled(first)),
            None,
            true,
        ),
        ("removed again", None, None, false),
    ];
    let (path, now) = (PathBuf::from("a.yaml"), Instant::now());
    let mut files = Files::default();
    for (what, content, text, unsettled) in cases {
        let found = content.map(|content| (path.clone(), Found::Read(content)));
        files = files.with(found.into_iter().collect(), now);
        assert_eq!(files.texts().get(&path).map(String::as_str), text, "{what}");
        assert_eq!(files.look_again(now).is_some(), unsettled, "{what}");
    }
}

#[test]
fn one_that_is_written_for_too_long_is_told_and_looked_at_less_often() {
    let scratch = Scratch::new();
    let stamps = ["a", "b", "c"].map(|name| stamp(&scratch, name));
    let (old, new) = (PathBuf::from("a.yaml"), PathBuf::from("b.yaml"));
    let begun = Instant::now();
    let files = Files::default().with(
        [(old.clone(), Found::Read(Content::Whole(stamps[0], vec![])))].into(),
        begun,
    );
    let found = BTreeMap::from([
        (old.clone(), Found::Read(Content::Unsettled(stamps[1]))),
        (new.clone(), Found::Read(Content::Unsettled(stamps[2]))),
    ]);
    let files = files
        .with(found.clone(), begun)
        .with(found, begun + PATIENCE);
    assert_eq!(files.look_again(begun), Some(SOON));
    assert_eq!(files.problems(begun), []);
    assert_eq!(files.look_again(begun + PATIENCE), Some(LATER));
    let problems = files.problems(begun + PATIENCE);
    let told: Vec<_> = problems
        .iter()
        .map(|it| (&it.file, it.reason.as_str()))
        .collect();
    assert!(
        matches!(&told[..], [(first, stays), (second, unread)] if *first == &old && *second == &new
            && stays.ends_with("stays in force") && unread.ends_with("is not read")),
        "{told:?}"
    );
}

#[test]
fn what_is_gone_stays_until_every_other_file_is_read_but_not_forever() {
    let scratch = Scratch::new();
    let [first, second, third] = ["a", "b", "c"].map(|name| stamp(&scratch, name));
    let [old, new, other] = ["p.yaml", "z.yaml", "all.yaml"].map(PathBuf::from);
    let begun = Instant::now();
    let known = [(&old, first, "deny"), (&other, second, "")];
    let whole = |stamp, text: &str| Found::Read(Content::Whole(stamp, text.into()));
    let known = known.map(|(path, stamp, text)| (path.clone(), whole(stamp, text)));
    let before = Files::default().with(known.into(), begun);
    let there = (other.clone(), whole(second, ""));
    let written = || Found::Read(Content::Unsettled(third));
    let held = |files: &Files| -> Vec<PathBuf> {
        let texts = files.texts().iter().filter(|(_, text)| *text == "deny");
        texts.map(|(path, _)| path.clone()).collect()
    };
    // Copied to a new file, or to one that is there.
    for unsettled in [
        BTreeMap::from([(new.clone(), written()), there.clone()]),
        BTreeMap::from([(other.clone(), written())]),
    ] {
        let moving = before.with(unsettled.clone(), begun);
        assert_eq!(held(&moving), std::slice::from_ref(&old));
        assert!(moving.look_again(begun).is_some());
        let moved = BTreeMap::from([(new.clone(), whole(third, "deny")), there.clone()]);
        let moved = moving.with(moved, begun);
        assert_eq!(held(&moved), std::slice::from_ref(&new));
        let later = moving.with(unsettled.clone(), begun + PATIENCE / 2);
        assert_eq!(held(&later), std::slice::from_ref(&old));
        let late = later.with(unsettled, begun + PATIENCE);
        assert!(held(&late).is_empty());
    }
    let removed = before.with([there].into(), begun);
    assert!(held(&removed).is_empty(), "nothing else is written");
}

#[test]
fn what_takes_the_place_of_a_file_has_a_text_that_says_so() {
    let scratch = Scratch::new();
    let [first, second] = ["a", "b"].map(|name| stamp(&scratch, name));
    let whole = |stamp, text: &str| Some(Found::Read(Content::Whole(stamp, text.into())));
    let unread = |text: &str| Some(format!("{}: {text}", loading::UNREAD));
    let cases = [
        ("a directory", Some(Found::Directory), None, false),
        ("a file", whole(first, "1"), Some("1".to_owned()), false),
        (
            "a directory in its place",
            Some(Found::Directory),
            unread("it is a directory now"),
            false,
        ),
        (
            "still",
            Some(Found::Directory),
            unread("it is a directory now"),
            false,
        ),
        (
            "a pipe",
            Some(Found::Unread("no file".to_owned())),
            unread("no file"),
            false,
        ),
        (
            "a file again, being written",
            Some(Found::Read(Content::Unsettled(second))),
            unread("no file"),
            true,
        ),
        ("written", whole(second, "# 2"), Some("# 2".into()), false),
        ("a directory", Some(Found::Directory), None, false),
        ("removed", None, None, false),
    ];
    let (path, now) = (PathBuf::from("a.yaml"), Instant::now());
    let mut files = Files::default();
    for (what, found, text, unsettled) in cases {
        let found = found.map(|found| (path.clone(), found));
        files = files.with(found.into_iter().collect(), now);
        assert_eq!(files.texts().get(&path), text.as_ref(), "{what}");
        assert_eq!(files.look_again(now).is_some(), unsettled, "{what}");
    }
}

/// A file that nobody has touched for long.
fn age(file: &fs::File) {
    file.set_modified(SystemTime::now() - Duration::from_secs(60))
        .unwrap();
}

/// Looks until nothing is being written: a child that another test starts has all files of this process until it is its
/// own.
fn until_settled(mut files: Files, directory: &Path) -> Files {
    let begun = Instant::now();
    loop {
        files = files.look(directory, Instant::now()).unwrap();
        if files.look_again(begun).is_none() {
            return files;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{files:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_file_that_is_saved_in_place_keeps_its_text_until_it_is_closed_and_old_enough() {
    let scratch = Scratch::new();
    let path = scratch.path().join("a.yaml");
    fs::write(&path, "one\ntwo\n").unwrap();
    let mut files = until_settled(Files::default(), scratch.path());
    let look = |files: &mut Files| {
        *files = files.look(scratch.path(), Instant::now()).unwrap();
        (
            files.texts()[&path].clone(),
            files.look_again(Instant::now()).is_some(),
        )
    };
    let kept = ("one\ntwo\n".to_owned(), true);
    let mut writer = fs::File::create(&path).unwrap();
    age(&writer);
    assert_eq!(look(&mut files), kept, "truncated");
    writer.write_all(b"one\n").unwrap();
    age(&writer);
    assert_eq!(look(&mut files), kept, "the first half");
    writer.write_all(b"three\n").unwrap();
    drop(writer);
    files = until_settled(files, scratch.path());
    assert_eq!(files.texts()[&path], "one\nthree\n");
    // Closed, but only just changed, as in a loop of open, write and close.
    fs::File::create(&path)
        .unwrap()
        .set_modified(SystemTime::now() + Duration::from_secs(1))
        .unwrap();
    assert_eq!(look(&mut files), ("one\nthree\n".to_owned(), true), "young");
}

#[test]
fn a_file_that_is_renamed_into_its_place_is_taken_at_once() {
    let scratch = Scratch::new();
    let path = scratch.path().join("a.yaml");
    fs::write(&path, "1").unwrap();
    let files = until_settled(Files::default(), scratch.path());
    let new = scratch.path().join("new");
    fs::write(&new, "2").unwrap();
    age(&fs::File::open(&new).unwrap());
    fs::rename(new, &path).unwrap();
    // The old one, which somebody may still write, is another file.
    let files = until_settled(files, scratch.path());
    assert_eq!(files.texts()[&path], "2");
}
