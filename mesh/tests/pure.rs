//! Holds the rule that makes every decision a table test: this crate has no runtime, socket, clock, chance, environment or
//! file, neither of its own nor through a dependency.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Crates that would bring one of them in.
const RUNTIMES: [&str; 14] = [
    "async-std",
    "fastrand",
    "getrandom",
    "h2",
    "hyper",
    "libc",
    "mio",
    "nix",
    "rand",
    "rustix",
    "rustls",
    "socket2",
    "time",
    "tokio",
];

/// What the standard library offers of them: types by name, modules by what they are called through.
const TYPES: [&str; 8] = [
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
];
const MODULES: [&str; 4] = ["env", "fs", "process", "thread"];

#[test]
fn no_dependency_has_a_runtime_socket_clock_or_chance() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "mesh",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--offline",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains(&"prost"), "not a dependency tree:\n{tree}");
    let found: Vec<_> = names
        .iter()
        .filter(|name| RUNTIMES.contains(name))
        .collect();
    assert!(found.is_empty(), "{found:?} in the tree of mesh:\n{tree}");
}

#[test]
fn no_source_reads_a_clock_draws_a_number_or_opens_anything() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 3, "sources not found");
    let found: Vec<_> = sources
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            impure(&text)
                .into_iter()
                .map(|(line, word)| format!("{}:{line}: {word}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_search_sees_what_it_must_and_no_more() {
    let seen = |text: &str| {
        impure(text)
            .into_iter()
            .map(|(_, word)| word)
            .collect::<Vec<_>>()
    };
    assert_eq!(seen("let t = std::time::Instant::now();"), ["Instant"]);
    assert_eq!(seen("use std::{fmt, time::SystemTime};"), ["SystemTime"]);
    assert_eq!(seen("std::thread::spawn(|| ());"), ["thread"]);
    assert_eq!(
        seen("let x = fs::read(path);\nenv::var(name);"),
        ["fs", "env"]
    );
    assert_eq!(
        seen("let x = prefs::read(path); // fs::read\nlet name = env!(\"X\"); Instantly::f()"),
        [""; 0]
    );
    assert_eq!(
        seen("fn f() {}\n#[cfg(test)]\nmod tests {\n    std::thread::spawn(f);\n}"),
        [""; 0]
    );
}

/// Lines and words of `source` that break the rule. Comments do not count, nor do tests, which stand last in a file.
fn impure(source: &str) -> Vec<(usize, &'static str)> {
    let code = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .expect("a split has a first part");
    let mut found = Vec::new();
    for (at, line) in code.lines().enumerate() {
        let line = line.split("//").next().expect("a split has a first part");
        let words = TYPES.iter().filter(|word| called(line, word, &[""]));
        let modules = MODULES
            .iter()
            .filter(|word| called(line, word, &["::"]) || line.contains(&format!("std::{word};")));
        found.extend(words.chain(modules).map(|word| (at + 1, *word)));
    }
    found
}

/// Whether `word` stands in `line` as a word of its own, followed by one of `ends`.
fn called(line: &str, word: &str, ends: &[&str]) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(part_of_a_word)
            && !after.starts_with(part_of_a_word)
            && ends.iter().any(|end| after.starts_with(end))
    })
}

/// All Rust files below `folder` that are not tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            found.push(path);
        }
    }
    found
}
