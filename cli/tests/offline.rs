//! What `ambit` does without a mesh: `compile`, `zc` on a saved dump, and exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

fn ambit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ambit"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn demo_manifests() -> String {
    format!("{}/../deploy/demo", env!("CARGO_MANIFEST_DIR"))
}

/// A directory or file of this test's own, removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ambit-offline-{}-{name}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0));
    }
}

#[test]
fn compile_prints_resources_in_both_forms() {
    let output = ambit(&["compile", "-f", &demo_manifests(), "-o", "json"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let resources: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(resources["addresses"]["Kubernetes//Pod/shop/web"]["workload"].is_object());
    assert!(resources["authorizations"]["shop/no-batch"].is_object());

    let output = ambit(&["compile", "-f", &demo_manifests(), "-o", "local"]);
    let local = String::from_utf8(output.stdout).unwrap();
    assert!(
        local.contains("workloads:") && local.contains("policies:"),
        "{local}"
    );
}

#[test]
fn the_root_namespace_is_a_choice() {
    let scratch = Scratch::new("root");
    fs::create_dir_all(&scratch.0).unwrap();
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: all, namespace: top}\nspec: {}\n";
    fs::write(scratch.0.join("p.yaml"), policy).unwrap();
    let scope = |arguments: &[&str]| {
        let path = scratch.0.display().to_string();
        let output = ambit(&[&["compile", "-f", &path, "-o", "json"], arguments].concat());
        let resources: Value = serde_json::from_slice(&output.stdout).unwrap();
        resources["authorizations"]["top/all"]["scope"].clone()
    };
    assert_ne!(scope(&[]), scope(&["--root-namespace", "top"]));
}

#[test]
fn compile_tells_what_a_control_plane_of_the_same_settings_would() {
    let resources = |arguments: &[&str]| -> Value {
        let output = ambit(&[&["compile", "-f", &demo_manifests()], arguments].concat());
        assert_eq!(output.status.code(), Some(0));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let all = resources(&[]);
    let made = &all["addresses"]["shop/waypoint.shop.svc.cluster.local"]["service"];
    assert!(made.is_object(), "the Gateway has no Service of its own");
    let other = resources(&["--trust-domain", "corp.example", "--cluster-id", "west"]);
    let web = &other["addresses"]["west//Pod/shop/web"]["workload"];
    assert_eq!(web["trust_domain"], "corp.example");
}

#[test]
fn a_bad_manifest_is_one_and_names_file_and_field() {
    let scratch = Scratch::new("bad");
    fs::create_dir_all(&scratch.0).unwrap();
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: y}\nspec: {rulez: []}\n";
    fs::write(scratch.0.join("p.yaml"), policy).unwrap();
    let output = ambit(&[
        "compile",
        "-f",
        &scratch.0.display().to_string(),
        "-o",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("p.yaml") && error.contains("rulez"),
        "{error}"
    );
    assert_eq!(ambit(&["compile", "-f", "/nowhere"]).status.code(), Some(1));
}

#[test]
fn compile_says_what_a_control_plane_would_do() {
    let scratch = Scratch::new("start");
    fs::create_dir_all(&scratch.0).unwrap();
    let (directory, file) = (scratch.0.clone(), scratch.0.join("a.yaml"));
    let last = |path: &std::path::Path| {
        let output = ambit(&["compile", "-f", &path.display().to_string()]);
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        error.lines().last().unwrap().to_owned()
    };
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: y}\nspec: {ports: 5}\n";
    fs::write(&file, service).unwrap();
    assert_eq!(
        last(&directory),
        "ambit: 1 problem; a control plane starts, without what is faulty, and logs this"
    );
    assert_eq!(
        last(&file),
        "ambit: 1 problem; a control plane does not start with this: one file as its source has to be all good"
    );
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: y}\nspec: {rulez: []}\n";
    fs::write(&file, format!("{service}---\n{policy}")).unwrap();
    assert_eq!(
        last(&directory),
        "ambit: 2 problems; a control plane does not start with this: AuthorizationPolicy/y/x cannot be understood, and denies for its scope"
    );
}

#[test]
fn zc_reads_a_saved_dump() {
    let scratch = Scratch::new("dump");
    let dump = json!({ "workloads": [{ "namespace": "shop", "name": "web", "workloadIps": ["10.0.0.1"], "node": "n1", "protocol": "HBONE" }] });
    fs::write(&scratch.0, dump.to_string()).unwrap();
    let file = scratch.0.display().to_string();
    let table = String::from_utf8(ambit(&["zc", "workloads", "-f", &file]).stdout).unwrap();
    assert!(
        table.starts_with("NAMESPACE  POD NAME") && table.contains("10.0.0.1"),
        "{table}"
    );
    let json: Value =
        serde_json::from_slice(&ambit(&["zc", "w", "-f", &file, "-o", "json"]).stdout).unwrap();
    assert_eq!(json, dump["workloads"]);
    for (wrong, named) in [
        ("no json", "expected"),
        ("[]", "an object"),
        ("{}", "workloads is missing"),
        (r#"{"workloads":5}"#, "workloads is not a list"),
        (r#"{"workloads":[{},5]}"#, "workloads[1] is not an object"),
    ] {
        fs::write(&scratch.0, wrong).unwrap();
        for form in ["table", "json"] {
            let output = ambit(&["zc", "w", "-f", &file, "-o", form]);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{wrong}");
            assert!(output.stdout.is_empty() && error.contains(named), "{error}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ambit"))
        .args(["compile", "-f", &demo_manifests()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn nobody_there_is_three_and_wrong_usage_two() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let output = ambit(&["zc", "workloads", "--address", &closed]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&closed));
    for wrong in [
        &["zc", "nothing"][..],
        &["compile"],
        &["demo", "--check", "nothing"],
        &["load", "ftp://x"],
    ] {
        assert_eq!(ambit(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn every_command_has_help_and_the_hidden_ones_do_not_show() {
    for command in [
        &[][..],
        &["demo"],
        &["demo", "exec"],
        &["compile"],
        &["zc"],
        &["wp"],
        &["why"],
        &["echo"],
        &["load"],
        &["control"],
        &["node"],
    ] {
        let output = ambit(&[command, &["--help"]].concat());
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{command:?}"
        );
    }
    let help = String::from_utf8(ambit(&["--help"]).stdout).unwrap();
    for (command, shown) in [
        ("demo", true),
        ("compile", true),
        ("zc", true),
        ("wp", true),
        ("  waypoint", false),
        ("ztunnel\n", false),
        ("  node", false),
        ("  control", false),
    ] {
        assert_eq!(help.contains(command), shown, "{command} in {help}");
    }
}
