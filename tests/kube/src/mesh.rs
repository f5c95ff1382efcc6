//! Our mesh on a cluster: installed from the chart, with an image of the executable under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, id},
};

use crate::{Cluster, image, program::run};

/// Where the mesh is installed.
pub const NAMESPACE: &str = "ambit-system";

/// The image of everything that runs in tests: the mesh and applications.
pub const IMAGE: &str = "docker.io/library/ambit:test";

/// Gives every node the image of `executable`.
///
/// # Panics
/// If it cannot be made.
pub fn load(cluster: &Cluster, executable: &Path) {
    let root = env::temp_dir().join(format!("ambit-image-{}", id()));
    let laid = image::lay_out(executable, &root);
    laid.unwrap_or_else(|error| panic!("no image of {}: {error}", executable.display()));
    cluster.image(IMAGE, &root, "/usr/bin/ambit");
    let _ = std::fs::remove_dir_all(root);
}

/// Installs the chart, and waits until all of it runs.
///
/// # Panics
/// If it does not.
pub fn install(cluster: &Cluster, settings: &[&str]) {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/ambit");
    let (repository, tag) = IMAGE.rsplit_once(':').expect("it has a tag");
    let image = format!("image.repository={repository},image.tag={tag}");
    let mut helm = Command::new(helm());
    helm.env("KUBECONFIG", cluster.kubeconfig());
    helm.args(["upgrade", "--install", "ambit"]).arg(chart);
    helm.args(["-n", NAMESPACE, "--create-namespace", "--set", &image]);
    for setting in settings {
        helm.args(["--set", setting]);
    }
    run(&mut helm, "").unwrap_or_else(|failed| panic!("{failed}"));
    for object in [
        "deployment/ambit-control",
        "daemonset/ztunnel",
        "daemonset/ambit-node",
    ] {
        cluster.rolled_out(NAMESPACE, object);
    }
}

/// `helm` of Go's binaries, or of the PATH.
pub fn helm() -> PathBuf {
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    let own = home.join("go/bin/helm");
    if own.exists() { own } else { "helm".into() }
}
