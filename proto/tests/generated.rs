//! The committed code is what the `.proto` files say.

use std::{fs, path::Path};

/// Where each generated file belongs, from the workspace's root.
const MESSAGES: &str = "proto/src/gen";
/// Crates that hold gRPC stubs: directory, whether a client or a server, and the packages.
const STUBS: [(&str, bool, &[&str]); 3] = [
    (
        "net/src/gen",
        false,
        &["envoy.service.discovery.v3", "istio.v1.auth"],
    ),
    ("node/src/gen", false, &["ambit.node.v1"]),
    (
        "control/src/gen",
        true,
        &[
            "envoy.service.discovery.v3",
            "istio.v1.auth",
            "ambit.node.v1",
        ],
    ),
];
const FILES: [&str; 6] = [
    "workload.proto",
    "authorization.proto",
    "certificate.proto",
    "zds.proto",
    "discovery.proto",
    "report.proto",
];

/// Every message as `::proto::…`, for stubs that live in other crates.
const EXTERN: [(&str, &str); 6] = [
    (".envoy.service.discovery.v3", "::proto::discovery"),
    (".envoy.config.core.v3", "::proto::core"),
    (".google.rpc", "::proto::rpc"),
    (".istio.v1.auth", "::proto::auth"),
    (".ambit.node.v1", "::proto::node"),
    (".istio.workload", "::proto::workload"),
];

fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set = protox::compile(FILES, [root.join("proto")]).expect("the .proto files compile");
    let messages = out.join(MESSAGES);
    fs::create_dir_all(&messages).expect("a directory of our own");
    let mut config = prost_build::Config::new();
    config.out_dir(&messages).btree_map(["."]);
    for (package, path) in [
        (".envoy.config.core.v3", "crate::core"),
        (".google.rpc", "crate::rpc"),
    ] {
        // Packages see each other under the short module names of `lib.rs`.
        config.extern_path(package, path);
    }
    config.compile_fds(set.clone()).expect("messages");
    for (package, file) in [
        ("envoy.config.core.v3", "node.proto"),
        ("google.rpc", "status.proto"),
        ("ambit.waypoint.v1", "waypoint.proto"),
    ] {
        let set = protox::compile([file], [root.join("proto")]).expect("the .proto files compile");
        let mut config = prost_build::Config::new();
        config.out_dir(&messages).btree_map(["."]);
        if package == "ambit.waypoint.v1" {
            // Made above, with the other files of theirs.
            config.extern_path(".istio.workload", "crate::workload");
            config.extern_path(".istio.security", "crate::security");
        }
        config.compile_fds(set).expect(package);
    }
    for (dir, server, packages) in STUBS {
        let dir = out.join(dir);
        fs::create_dir_all(&dir).expect("a directory of our own");
        let mut builder = tonic_prost_build::configure()
            .build_client(!server)
            .build_server(server)
            .build_transport(false)
            .out_dir(&dir);
        for (package, path) in EXTERN {
            builder = builder.extern_path(package, path);
        }
        builder.compile_fds(set.clone()).expect("stubs");
        for entry in fs::read_dir(&dir).expect("just written") {
            let entry = entry.expect("just written").path();
            let package = entry
                .file_stem()
                .expect("a file")
                .to_string_lossy()
                .into_owned();
            if !packages.contains(&package.as_str()) {
                fs::remove_file(&entry).expect("just written");
            }
        }
    }
}

fn files(dir: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .map(|entries| entries.map(|e| e.expect("readable").path()).collect())
        .unwrap_or_else(|_| Vec::new());
    files.sort();
    let name = |p: &Path| {
        p.file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned()
    };
    files
        .iter()
        .map(|p| (name(p), fs::read_to_string(p).expect("readable")))
        .collect()
}

#[test]
fn committed_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    let out = std::env::temp_dir().join(format!("ambit-proto-{}", std::process::id()));
    generate(&out);
    let dirs = [MESSAGES].into_iter().chain(STUBS.iter().map(|s| s.0));
    let mut stale: Vec<&str> = dirs
        .filter(|dir| files(&out.join(dir)) != files(&root.join(dir)))
        .collect();
    if std::env::var_os("UPDATE").is_some() {
        for dir in &stale {
            fs::remove_dir_all(root.join(dir)).ok();
            fs::create_dir_all(root.join(dir)).expect("the workspace is writable");
            for (name, text) in files(&out.join(dir)) {
                fs::write(root.join(dir).join(name), text).expect("the workspace is writable");
            }
        }
        stale.clear();
    }
    fs::remove_dir_all(&out).expect("a directory of our own");
    assert!(
        stale.is_empty(),
        "{stale:?} differ from the .proto files: run `UPDATE=1 cargo test -p proto` and commit"
    );
}
