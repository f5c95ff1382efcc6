//! What fuzzing found worth keeping, and what was wrong once, goes through every parser again. Needs no fuzzer.

use std::{collections::BTreeSet, fs, path::Path};

use tests::parsers::TARGETS;

fn corpus() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| entry.expect("the folder can be listed").file_name())
        .map(|name| name.into_string().expect("names are plain"))
        .collect()
}

#[test]
fn what_was_kept_goes_through_every_parser() {
    for (name, target) in TARGETS {
        let folder = corpus().join(name);
        let inputs = names(&folder);
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for input in inputs {
            let path = folder.join(input);
            // Told only if the target panics.
            eprintln!("{}", path.display());
            target(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_binary_and_every_corpus_a_target() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(corpus()), targets);
    let sources = names(&corpus().join("../fuzz_targets"));
    let sources: BTreeSet<_> = sources
        .iter()
        .map(|it| it.trim_end_matches(".rs").to_owned())
        .collect();
    assert_eq!(sources, targets);
    let manifest = fs::read_to_string(corpus().join("../Cargo.toml")).unwrap();
    let bins = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    let bins: BTreeSet<_> = bins
        .map(|it| it.trim_end_matches(".rs\"").to_owned())
        .collect();
    assert_eq!(bins, targets);
}
