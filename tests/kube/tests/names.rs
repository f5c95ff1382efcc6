//! Beside another mesh on a cluster, whose objects are faked: ours goes by names of its own, and leaves alone what is said
//! to the other.

use std::{path::Path, time::Duration};

use tests_kube::{
    Cluster, Pod,
    mesh::{self, IMAGE},
    pod,
    program::wait,
    shell::Shell,
};

const SOON: Duration = Duration::from_secs(60);

/// What a mesh has on a cluster that its operator sees.
const OTHER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}
spec:
  replicas: 0
  selector: {matchLabels: {app: istiod}}
  template:
    metadata: {labels: {app: istiod}}
    spec: {containers: [{name: it, image: none}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: istio-cni-node, namespace: istio-system, labels: {k8s-app: istio-cni-node}}
spec:
  selector: {matchLabels: {k8s-app: istio-cni-node}}
  template:
    metadata: {labels: {k8s-app: istio-cni-node}}
    spec: {nodeSelector: {none: such}, containers: [{name: it, image: none}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-ca-root-cert, namespace: default, labels: {istio.io/config: \"true\"}}
data: {root-cert.pem: theirs}
";

fn namespaces() -> String {
    let namespace = |name: &str, label: &str| {
        format!(
            "
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{{label}: ambient}}}}
---
{}{}{}",
            Pod::echo(name, "web").on("kn1"),
            Pod::echo(name, "client").on("kn1"),
            pod::service(name, "web"),
        )
    };
    format!(
        "{}{}",
        namespace("theirs", "istio.io/dataplane-mode"),
        namespace("ours", "ambit.dev/dataplane-mode")
    )
}

#[test]
fn beside_another_mesh_ours_goes_by_names_of_its_own() {
    let Some(cluster) = Cluster::start("names beside another mesh", 1) else {
        return;
    };
    let ambit = Path::new(env!("CARGO_BIN_EXE_ambit"));
    mesh::load(&cluster, ambit);
    let shell = Shell::of(&cluster, ambit);
    cluster.apply(OTHER);

    names_that_another_holds_are_refused(&shell);
    let said = shell.does(&format!(
        "ambit install --image {IMAGE} --set control.replicas=1"
    ));
    for word in [
        "compat.istioNames=false: Deployment istio-system/istiod",
        "ambit.dev/dataplane-mode=ambient",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = shell.does("ambit check");
    assert!(
        !said.contains('✗') && said.contains("other names than ours"),
        "{said}"
    );

    cluster.apply(&namespaces());
    let elsewhere = Pod::echo("ours", "elsewhere").on("kn1").to_string();
    let metadata = "labels: {app: elsewhere}";
    let captured = format!("annotations: {{ambient.istio.io/redirection: enabled}}, {metadata}");
    cluster.apply(&elsewhere.replacen(metadata, &captured, 1));
    for namespace in ["theirs", "ours"] {
        pod::ready(&cluster, namespace);
    }
    only_ours_is_captured(&cluster, &shell);
    only_our_label_asks_for_a_waypoint(&cluster);

    let said = shell.fails("ambit upgrade --set compat.istioNames=true", 1);
    assert!(said.contains("ambit uninstall"), "{said}");
    shell.does("ambit uninstall");
    let after = annotation(&cluster, "ours", "web", "ambit.dev/redirection");
    assert_eq!(after, "null");
    theirs_is_as_it_was(&cluster);
    let left = cluster.does(&["get", "configmap", "-A"]);
    assert!(!left.contains("ambit-ca-root-cert"), "{left}");
}

fn names_that_another_holds_are_refused(shell: &Shell<'_>) {
    let said = shell.fails("ambit install --set compat.istioNames=true", 1);
    let repair = "ambit install --set compat.istioNames=false";
    assert!(
        said.contains("Deployment istio-system/istiod") && said.contains(repair),
        "{said}"
    );
    // By helm alone too, which decides nothing by itself.
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/ambit");
    let helm = format!("helm install ambit {chart} -n ambit-system --create-namespace");
    let said = shell.fails(&helm, 1);
    assert!(said.contains("Deployment istio-system/istiod"), "{said}");
    let said = shell.fails("kubectl get configmap ambit-ca-root-cert", 1);
    assert!(said.contains("NotFound"), "{said}");
}

fn annotation(cluster: &Cluster, namespace: &str, pod: &str, key: &str) -> String {
    let found = cluster.get(&["-n", namespace, "pod", pod]);
    found["metadata"]["annotations"][key].to_string()
}

fn only_ours_is_captured(cluster: &Cluster, shell: &Shell<'_>) {
    wait("our pods to be captured", SOON, || {
        let is =
            ["web", "client"].map(|it| annotation(cluster, "ours", it, "ambit.dev/redirection"));
        (is == ["\"enabled\""; 2])
            .then_some(())
            .ok_or_else(|| format!("{is:?}"))
    });
    for (namespace, name) in [
        ("theirs", "web"),
        ("theirs", "client"),
        ("ours", "elsewhere"),
    ] {
        let ours = annotation(cluster, namespace, name, "ambit.dev/redirection");
        assert_eq!(ours, "null", "{namespace}/{name}");
    }
    theirs_is_as_it_was(cluster);
    let said = shell.does("ambit status ours");
    assert!(said.contains("another mesh has captured the pod"), "{said}");
    let said =
        shell.does("kubectl -n ours exec client -- ambit load http://web/ --fresh --duration=1s");
    assert!(said.contains("\"failed\":0,"), "{said}");
    let log = shell.does("kubectl -n ambit-system logs --selector=app=ztunnel --tail=-1");
    assert!(log.contains("spiffe://cluster.local/ns/ours/sa/default"));
    let said =
        shell.does("kubectl -n theirs exec client -- ambit load http://web/ --fresh --duration=1s");
    assert!(said.contains("\"failed\":0,"), "{said}");
    let log = shell.does("kubectl -n ambit-system logs --selector=app=ztunnel --tail=-1");
    assert!(!log.contains("spiffe://cluster.local/ns/theirs/"), "{log}");
}

/// Of services whose Gateway is not there, that with our label alone is told so.
fn only_our_label_asks_for_a_waypoint(cluster: &Cluster) {
    for (service, label) in [
        ("theirs", "istio.io/use-waypoint=none-such"),
        ("ours", "ambit.dev/use-waypoint=none-such"),
    ] {
        cluster.does(&[
            "-n",
            "ours",
            "create",
            "service",
            "clusterip",
            service,
            "--tcp=80",
        ]);
        cluster.does(&["-n", "ours", "label", "service", service, label]);
    }
    let conditions = |service: &str| {
        let found = cluster.get(&["-n", "ours", "service", service]);
        found["status"]["conditions"].to_string()
    };
    wait("the condition of our service", SOON, || {
        let said = conditions("ours");
        said.contains("WaypointBound").then_some(()).ok_or(said)
    });
    assert!(!conditions("theirs").contains("WaypointBound"));
    cluster.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: theirs, namespace: ours}
spec: {targetRefs: [{kind: Service, group: '', name: theirs}], rules: [{}]}
",
    );
    wait("what the policy lacks", SOON, || {
        let said = conditions("theirs");
        let names_it = said.contains("no label ambit.dev/use-waypoint names one");
        names_it.then_some(()).ok_or(said)
    });
}

fn theirs_is_as_it_was(cluster: &Cluster) {
    let elsewhere = annotation(cluster, "ours", "elsewhere", "ambient.istio.io/redirection");
    assert_eq!(elsewhere, "\"enabled\"");
    let certificate = cluster.get(&["configmap", "istio-ca-root-cert"]);
    assert_eq!(certificate["data"]["root-cert.pem"], "theirs");
    let all = cluster.does(&["get", "configmap", "-A"]);
    assert_eq!(all.matches("istio-ca-root-cert").count(), 1, "{all}");
}
