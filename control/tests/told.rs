//! Cases of waypoints: manifests, and beside them all that they become for node proxies and for waypoints.
//!
//! `UPDATE=1` writes what comes out; whoever does that reads the difference. A waypoint without an address counts as ready.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, env, fs, path::Path, path::PathBuf};

use control::{
    compile::{Settings, compile, json, presume_ready},
    source::load,
};
use serde_json::Value;

#[test]
fn what_is_told_is_what_is_written_beside_it() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/told");
    let update = env::var_os("UPDATE").is_some();
    let mut cases = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let input = entry.unwrap().path();
        let name = input.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(case) = name.strip_suffix(".in.yaml") else {
            continue;
        };
        let output = dir.join(format!("{case}.out.json"));
        let found = told(&fs::read_to_string(&input).unwrap());
        if update {
            fs::write(&output, format!("{found:#}\n")).unwrap();
        }
        let written: Value = serde_json::from_str(&fs::read_to_string(&output).unwrap()).unwrap();
        assert_eq!(found, written, "{case}: see the difference after UPDATE=1");
        cases += 1;
    }
    assert!(cases >= 2, "the cases are there");
}

fn told(text: &str) -> Value {
    let files: BTreeMap<_, _> = [(PathBuf::from("case.yaml"), text.to_owned())].into();
    let mut loaded = load(&files, None);
    assert_eq!(loaded.problems, []);
    let settings = Settings {
        deploys: true,
        ..Settings::default()
    };
    presume_ready(&mut loaded.world, &settings);
    let compiled = compile(&loaded.world, &settings);
    let mut value = json::compiled(&compiled);
    value["told"] = json::told(&compiled.told);
    value
}
