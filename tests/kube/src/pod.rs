//! Pods of tests: what they run, where, and as whom; and what becomes of them.

use std::{fmt, net::IpAddr, time::Duration};

use serde_json::Value;

use crate::{Cluster, mesh::IMAGE, program::wait};

/// How long a pod may take to become what it is to be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where an echoing pod answers HTTP.
pub const HTTP: u16 = 8080;

/// A pod of the image under test. Shown, it is a manifest, with the document's end: several can follow each other.
#[derive(Clone, Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    node: Option<String>,
    account: Option<String>,
    app: String,
    restart: &'static str,
    arguments: Vec<String>,
}

impl Pod {
    /// A pod that answers on [`HTTP`] with its name, and echoes bytes on port 9000. Its label `app` is its name.
    pub fn echo(namespace: &str, name: &str) -> Self {
        Self::running(namespace, name, &["echo", "--name", name])
    }

    /// A pod whose only process is `ambit` with these arguments; it is not started again when it ends.
    pub fn once(namespace: &str, name: &str, arguments: &[&str]) -> Self {
        Self {
            restart: "Never",
            ..Self::running(namespace, name, arguments)
        }
    }

    /// A pod whose only process is `ambit` with these arguments.
    pub fn running(namespace: &str, name: &str, arguments: &[&str]) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: None,
            account: None,
            app: name.to_owned(),
            restart: "Always",
            arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
        }
    }

    /// Without it, the scheduler decides.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Its label `app`, by which a Service finds it, instead of its name.
    #[must_use]
    pub fn part_of(mut self, app: &str) -> Self {
        self.app = app.to_owned();
        self
    }

    /// Runs as this service account, which the manifest brings along.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            app,
            restart,
            arguments,
            ..
        } = self;
        if let Some(account) = &self.account {
            writeln!(
                f,
                "\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: {namespace}}}\n---"
            )?;
        }
        let node = self.node.iter().map(|node| format!("\n  nodeName: {node}"));
        let account = self.account.iter();
        let account = account.map(|account| format!("\n  serviceAccountName: {account}"));
        let more: String = node.chain(account).collect();
        writeln!(
            f,
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}
spec:{more}
  restartPolicy: {restart}
  terminationGracePeriodSeconds: 1
  containers: [{{name: it, image: \"{IMAGE}\", imagePullPolicy: Never, args: {arguments:?}}}]
---"
        )
    }
}

/// The manifest of a Service with port 80 for the pods whose label `app` is its name.
pub fn service(namespace: &str, name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: {HTTP}}}]}}
---
"
    )
}

/// The manifest of a namespace, in the mesh or not.
pub fn namespace(name: &str, enrolled: bool) -> String {
    let labels = if enrolled {
        "istio.io/dataplane-mode: ambient"
    } else {
        ""
    };
    format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{{labels}}}}}
---
"
    )
}

/// Waits until all pods of a namespace are ready.
///
/// # Panics
/// If they do not become it.
pub fn ready(cluster: &Cluster, namespace: &str) {
    let pods = ["wait", "pod", "--all", "--for=condition=Ready"];
    cluster.does(&[&["-n", namespace, "--timeout=60s"], &pods[..]].concat());
}

/// Waits until a pod is in this phase.
///
/// # Panics
/// If it is not in time.
pub fn phase(cluster: &Cluster, namespace: &str, pod: &str, wanted: &str) {
    wait(&format!("{namespace}/{pod}: {wanted}"), PATIENCE, || {
        let found = cluster.get(&["-n", namespace, "pod", pod]);
        let is = found["status"]["phase"] == wanted;
        is.then_some(()).ok_or_else(|| found["status"].to_string())
    });
}

/// Waits until a pod says that it is captured, or not any more.
///
/// # Panics
/// If it does not in time.
pub fn captured(cluster: &Cluster, namespace: &str, pod: &str, wanted: bool) {
    let what = format!("{namespace}/{pod}: captured {wanted}");
    wait(&what, PATIENCE, || {
        let found = cluster.get(&["-n", namespace, "pod", pod]);
        let conditions = &found["status"]["conditions"];
        let said = || format!("{} {conditions}", found["metadata"]["annotations"]);
        (is_captured(&found) == wanted)
            .then_some(())
            .ok_or_else(said)
    });
}

/// Whether this pod says that it is captured.
pub fn is_captured(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled"
}

/// The address of a pod.
///
/// # Panics
/// If it has none.
pub fn address(cluster: &Cluster, namespace: &str, pod: &str) -> IpAddr {
    let found = cluster.get(&["-n", namespace, "pod", pod]);
    let address = found["status"]["podIP"].as_str();
    let address = address.and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| panic!("{namespace}/{pod} has no address"))
}

/// The address of a Service.
///
/// # Panics
/// If it has none.
pub fn service_address(cluster: &Cluster, namespace: &str, service: &str) -> IpAddr {
    let found = cluster.get(&["-n", namespace, "service", service]);
    let address = found["spec"]["clusterIP"].as_str();
    let address = address.and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| panic!("{namespace}/{service} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_says_what_was_asked_for_and_nothing_else() {
        let plain = Pod::echo("shop", "web").to_string();
        assert!(
            plain.contains("args: [\"echo\", \"--name\", \"web\"]"),
            "{plain}"
        );
        assert!(
            !plain.contains("nodeName") && !plain.contains("ccount"),
            "{plain}"
        );
        let full = Pod::echo("shop", "web")
            .on("kn1")
            .account("web")
            .to_string();
        assert!(
            full.contains("spec:\n  nodeName: kn1\n  serviceAccountName: web\n"),
            "{full}"
        );
        assert!(full.contains("kind: ServiceAccount"), "{full}");
    }
}
