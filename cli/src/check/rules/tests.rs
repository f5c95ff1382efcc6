//! Each rule with clusters that break it, and one that breaks none.

use serde_json::json;

use super::*;

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
           "status": {"nodeInfo": {"kernelVersion": "6.8.0-31-generic"}, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn pod(app: &str, node: &str, ready: &str) -> Value {
    json!({"metadata": {"name": format!("{app}-x{node}"), "namespace": "ambit-system", "labels": {"app": app}},
           "spec": {"nodeName": node}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn daemon_set(name: &str) -> Value {
    json!({"kind": "DaemonSet", "metadata": {"name": name, "namespace": "ambit-system", "generation": 1},
           "status": {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1}})
}

fn control() -> Value {
    json!({"kind": "Deployment",
           "metadata": {"name": "ambit-control", "generation": 1, "labels": {"app.kubernetes.io/version": env!("CARGO_PKG_VERSION")}},
           "spec": {"replicas": 1},
           "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}})
}

/// A cluster and a mesh with which nothing is wrong.
fn well() -> Facts {
    Facts {
        server: "https://127.0.0.1:6443".to_owned(),
        namespace: "ambit-system".to_owned(),
        version: json!({"gitVersion": "v1.34.4"}),
        gateway_api: Some(json!({"gateway.networking.k8s.io/bundle-version": "v1.5.1"})),
        nodes: vec![node("n1")],
        namespaces: ["ambit-system", "shop"]
            .map(|name| json!({"metadata": {"name": name}}))
            .into(),
        workloads: vec![control(), daemon_set("ztunnel"), daemon_set("ambit-node")],
        daemon_sets: vec![daemon_set("ztunnel"), daemon_set("ambit-node")],
        own_pods: vec![
            pod("ztunnel", "n1", "True"),
            pod("ambit-node", "n1", "True"),
        ],
        ..Facts::default()
    }
}

/// What is not well, as `check level`, with its place and its repair.
fn wrong(facts: &Facts) -> Vec<(String, String, String)> {
    let wrong = all(facts).into_iter().filter(|it| it.level != Level::Ok);
    wrong
        .map(|it| {
            (
                format!("{} {}", it.check, it.level.as_str()),
                it.place,
                it.repair,
            )
        })
        .collect()
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(wrong(&well()), []);
}

/// A change of a well cluster; what it is found as, where, and a word of its repair.
type Case = (fn(&mut Facts), &'static str, &'static str, &'static str);

fn each_is_found(cases: &[Case]) {
    for (broken, expected, place, repair) in cases {
        let mut facts = well();
        broken(&mut facts);
        let found = wrong(&facts);
        let first = found
            .first()
            .unwrap_or_else(|| panic!("{expected} is not found"));
        assert_eq!(
            (first.0.as_str(), first.1.as_str()),
            (*expected, *place),
            "{found:?}"
        );
        assert!(first.2.contains(repair), "{found:?}");
    }
}

#[test]
fn a_cluster_that_lacks_something_is_told_so_with_the_repair() {
    each_is_found(&[
        (
            |it| it.version = json!({"gitVersion": "v1.28.9"}),
            "kubernetes error",
            "",
            "upgrade the cluster",
        ),
        (
            |it| it.gateway_api = None,
            "gateway-api warning",
            "",
            "kubectl apply",
        ),
        (
            |it| {
                it.gateway_api = Some(json!({"gateway.networking.k8s.io/bundle-version": "v1.0.0"}))
            },
            "gateway-api warning",
            "",
            "kubectl apply",
        ),
        (
            |it| {
                let schema = json!({"openAPIV3Schema": {"type": "object"}});
                let versions = json!([{"served": true, "schema": schema}]);
                let metadata = json!({"name": "peerauthentications.security.istio.io"});
                it.kinds = vec![json!({"metadata": metadata, "spec": {"versions": versions}})];
            },
            "kinds error",
            "",
            "ambit crds peerauthentications |",
        ),
        (
            |it| it.nodes[0]["status"]["nodeInfo"]["kernelVersion"] = "4.18.0".into(),
            "kernel error",
            "n1",
            "kernel",
        ),
        (
            |it| it.nodes[0]["status"]["nodeInfo"]["kernelVersion"] = "5.10.0-30-amd64".into(),
            "kernel warning",
            "n1",
            "kernel",
        ),
        (
            |it| it.cilium = Some(json!({"data": {"bpf-lb-sock-hostns-only": "true"}})),
            "cni warning",
            "ConfigMap kube-system/cilium-config",
            "--set cni.exclusive=false",
        ),
    ]);
}

#[test]
fn other_meshes_and_what_is_left_of_them_are_found() {
    each_is_found(&[
        (
            |it| {
                it.deployments = vec![
                    json!({"metadata": {"name": "istiod", "namespace": "istio-system", "labels": {"app": "istiod"}}}),
                ]
            },
            "other-mesh error",
            "Deployment istio-system/istiod",
            "istioctl uninstall",
        ),
        (
            |it| {
                it.daemon_sets
                    .push(json!({"metadata": {"name": "ztunnel", "namespace": "istio-system"}}))
            },
            "other-mesh error",
            "DaemonSet istio-system/ztunnel",
            "delete daemonset ztunnel",
        ),
        (
            |it| {
                it.root_certificates = vec![
                    json!({"metadata": {"namespace": "a", "labels": {"app.kubernetes.io/part-of": "ambit"}}}),
                    json!({"metadata": {"namespace": "b", "labels": {"istio.io/config": "true"}}}),
                ]
            },
            "other-mesh warning",
            "namespace b",
            "kubectl delete configmap",
        ),
    ]);
}

#[test]
fn what_does_not_run_of_the_mesh_is_found_where_it_is() {
    each_is_found(&[
        (
            |it| {
                it.webhooks = vec![
                    json!({"metadata": {"name": "w"}, "webhooks": [{"clientConfig": {"service": {"namespace": "gone"}}}]}),
                ]
            },
            "other-mesh warning",
            "MutatingWebhookConfiguration w",
            "kubectl delete mutatingwebhookconfiguration w",
        ),
        (|it| it.workloads.clear(), "mesh error", "", "ambit install"),
        (
            |it| it.workloads.truncate(2),
            "mesh error",
            "daemonset/ambit-node",
            "ambit upgrade",
        ),
        (
            |it| it.workloads[1]["status"]["numberReady"] = 0.into(),
            "mesh error",
            "daemonset/ztunnel",
            "logs daemonset/ztunnel",
        ),
        (
            |it| {
                it.workloads[0]["metadata"]["labels"]["app.kubernetes.io/version"] = "0.0.1".into()
            },
            "version warning",
            "",
            "ambit upgrade",
        ),
        (
            |it| it.own_pods[1] = pod("ambit-node", "n1", "False"),
            "nodes error",
            "n1",
            "logs ambit-node-xn1",
        ),
        (
            |it| it.nodes.push(node("n2")),
            "nodes error",
            "n2",
            "describe daemonset/ztunnel",
        ),
        (
            |it| {
                it.namespaces[1] = json!({"metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}});
                it.pods = vec![
                    json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}),
                ];
            },
            "pods error",
            "pod shop/a",
            "describe pod a",
        ),
    ]);
}

#[test]
fn before_an_installation_the_mesh_itself_is_not_missed() {
    let mut facts = well();
    facts.workloads.clear();
    assert!(before(&facts).iter().all(|it| it.level == Level::Ok));
}

#[test]
fn a_node_that_is_not_ready_or_not_linux_is_not_our_business() {
    for (path, value) in [("ready", "False"), ("os", "windows")] {
        let mut facts = well();
        let mut other = node("n2");
        match path {
            "os" => other["metadata"]["labels"]["kubernetes.io/os"] = value.into(),
            _ => other["status"]["conditions"][0]["status"] = value.into(),
        }
        facts.nodes.push(other);
        assert_eq!(wrong(&facts), [], "{path}");
    }
}

#[test]
fn a_version_is_its_first_two_numbers() {
    for (text, expected) in [
        ("v1.34.4", Some((1, 34))),
        ("v1.29.0-eks-123", Some((1, 29))),
        ("1.30+", Some((1, 30))),
        ("6.8.0-31-generic", Some((6, 8))),
        ("latest", None),
        ("", None),
    ] {
        assert_eq!(numbers(text), expected, "{text}");
    }
}

#[test]
fn beside_a_mesh_of_other_names_ours_is_well() {
    let mut facts = well();
    let env = json!([{"name": "AMBIT_ISTIO_NAMES", "value": "false"}]);
    let spec = json!({"template": {"spec": {"containers": [{"env": env}]}}});
    facts.workloads[2]["spec"] = spec;
    facts.deployments = vec![
        json!({"metadata": {"name": "istiod", "namespace": "istio-system", "labels": {"app": "istiod"}}}),
    ];
    facts.root_certificates = vec![json!({"metadata": {"namespace": "b"}})];
    assert_eq!(wrong(&facts), []);
    // Before there is one it is worth knowing.
    facts.workloads.clear();
    let before = before(&facts);
    assert!(before.iter().any(|it| it.level == Level::Warning));
    assert!(before.iter().all(|it| it.level != Level::Error));
}
