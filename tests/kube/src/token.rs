//! Tokens of service accounts, as the API server makes them, and `kubectl` as whoever has one.

use std::process::Command;

use crate::{
    Cluster,
    program::{Failed, run},
};

/// A token of a service account, bound to a pod if one is named, for an audience, or for the API server itself.
///
/// # Panics
/// If the API server makes none.
pub fn of(
    cluster: &Cluster,
    (namespace, account): (&str, &str),
    pod: Option<&str>,
    audience: Option<&str>,
) -> String {
    let mut arguments = vec!["-n", namespace, "create", "token", account];
    let uid = pod.map(|pod| {
        let pod = cluster.get(&["-n", namespace, "pod", pod]);
        pod["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    });
    if let (Some(pod), Some(uid)) = (pod, &uid) {
        arguments.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod]);
        arguments.extend(["--bound-object-uid", uid]);
    }
    let audience = audience.map(|audience| format!("--audience={audience}"));
    arguments.extend(audience.as_deref());
    cluster.does(&arguments).trim().to_owned()
}

/// `kubectl` as whoever has a token, and with no other credentials.
///
/// # Errors
/// If it fails, or is refused.
pub fn kubectl(cluster: &Cluster, token: &str, arguments: &[&str]) -> Result<String, Failed> {
    let server = cluster.does(&[
        "config",
        "view",
        "--minify",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ]);
    let mut command = Command::new(cluster.binary());
    command.args(["kubectl", "--kubeconfig=/dev/null", "--token", token]);
    command.args(["--server", &server, "--insecure-skip-tls-verify"]);
    run(command.args(arguments), "")
}

/// The pod of a DaemonSet or a Deployment, by its label `app`, that runs on a node.
///
/// # Panics
/// If there is none.
pub fn pod_on(cluster: &Cluster, namespace: &str, app: &str, node: &str) -> String {
    let label = format!("app={app}");
    let field = format!("spec.nodeName={node},status.phase=Running");
    let pods = cluster.get(&[
        "-n",
        namespace,
        "pods",
        "-l",
        &label,
        "--field-selector",
        &field,
    ]);
    let name = pods["items"][0]["metadata"]["name"].as_str();
    name.unwrap_or_else(|| panic!("no pod of {app} on {node}"))
        .to_owned()
}
