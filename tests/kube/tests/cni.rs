//! Pods that start in an enrolled namespace are in the mesh from their first packet on, on a real cluster; and the host's
//! network configuration is left as it was found.

use std::{path::Path, time::Duration};

use cli::lab::sniffer::Sniffer;
use tests_kube::{
    Cluster,
    mesh::{self, IMAGE, NAMESPACE},
    program::{run, wait},
};

const SOON: Duration = Duration::from_secs(60);
const CANARY: &str = "said-in-the-clear";
const NODES: [&str; 2] = ["kn1", "kn2"];
const CONFLIST: &str = "/etc/cni/net.d/10-ambitkube.conflist";
const SETTINGS: [&str; 1] = ["control.replicas=1"];

fn pod(namespace: &str, name: &str, node: &str, arguments: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{{name: it, image: \"{IMAGE}\", imagePullPolicy: Never, args: [{arguments}]}}]
---"
    )
}

fn server(namespace: &str, name: &str, node: &str) -> String {
    pod(namespace, name, node, &format!("echo, --name, {CANARY}"))
}

fn namespaces() -> String {
    let namespace = |name: &str, labels: &str, annotations: &str| {
        format!(
            "
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{{labels}}}, annotations: {{{annotations}}}}}
---"
        )
    };
    let enrolled = "istio.io/dataplane-mode: ambient";
    [
        namespace("shop", enrolled, ""),
        namespace("bank", enrolled, "ambit.dev/start: plain"),
        namespace("other", "", ""),
    ]
    .concat()
}

#[test]
fn a_pods_first_packet_is_in_the_mesh_and_the_host_is_left_as_it_was() {
    let Some(cluster) = Cluster::start("starting pods on a cluster", 2) else {
        return;
    };
    let before = NODES.map(|node| host(&cluster, node));
    let conflist = cluster.node("kn1", &["cat", CONFLIST]).unwrap();
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &SETTINGS);
    cluster.apply(&namespaces());

    cluster.apply(&server("shop", "server", "kn2"));
    running(&cluster, "shop", "server");
    captured(&cluster, "shop", "server", true);
    first_packet(&cluster, "client", || {});
    without_proxy(&cluster);
    overwritten(&cluster, &conflist);
    without_agent(&cluster);

    mesh::install(&cluster, &SETTINGS);
    for (namespace, name) in [("shop", "late"), ("bank", "late"), ("shop", "server")] {
        running(&cluster, namespace, name);
        captured(&cluster, namespace, name, true);
    }

    assert!(!rules(&cluster, "kn2").is_empty());
    let mut helm = cluster.command(mesh::helm());
    helm.args(["uninstall", "ambit", "-n", NAMESPACE, "--wait"]);
    run(&mut helm, "").unwrap();
    for (node, before) in NODES.iter().zip(before) {
        assert_eq!(host(&cluster, node), before, "{node}");
        assert_eq!(rules(&cluster, node), "", "{node}");
    }
    for (namespace, name) in [("shop", "late"), ("bank", "late"), ("shop", "server")] {
        captured(&cluster, namespace, name, false);
    }
    cluster.apply(&server("shop", "after", "kn1"));
    running(&cluster, "shop", "after");
}

/// A pod whose only process does nothing but send. `meanwhile` it is to start.
fn first_packet(cluster: &Cluster, client: &str, meanwhile: impl FnOnce()) {
    let to = cluster.get(&["-n", "shop", "pod", "server"]);
    let to = to["status"]["podIP"]
        .as_str()
        .expect("the server runs")
        .to_owned();
    let arguments = format!("load, \"http://{to}:8080/\", --fresh, --rate, \"20\", --duration, 2s");

    let sniffer = Sniffer::start(&cluster.netns("kn2"), "eth0", CANARY.as_bytes())
        .expect("frames can be seen");
    cluster.apply(&pod("shop", client, "kn1", &arguments));
    meanwhile();
    phase(cluster, "shop", client, "Succeeded");
    let seen = sniffer.finish().expect("frames were seen");
    let said = cluster.does(&["-n", "shop", "logs", client]);
    assert!(
        said.contains("\"failed\":0") && !said.contains("\"ok\":0,"),
        "{said}"
    );
    let flows = |port: u16| {
        let mut flows = seen.flows.keys();
        flows.any(|flow| flow.destination.port() == port)
    };
    assert_eq!(seen.canaries, 0, "{seen:?}");
    assert!(flows(15008) && !flows(8080), "{seen:?}");
}

/// No proxy takes the pods of a node: they wait.
fn without_proxy(cluster: &Cluster) {
    let only = |node: &str| {
        let selector = format!(
            "{{\"spec\":{{\"template\":{{\"spec\":{{\"nodeSelector\":{{\"kubernetes.io/hostname\":{node}}}}}}}}}}}"
        );
        cluster.does(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "ztunnel",
            "-p",
            &selector,
        ]);
        cluster.rolled_out(NAMESPACE, "daemonset/ztunnel");
    };
    only("\"kn2\"");
    pods(cluster, "ztunnel", 1);
    first_packet(cluster, "early", || {
        refused(
            cluster,
            "pod shop/early is to start in the mesh, and cannot: it is not captured after 20 s: the node proxy has not acknowledged the pod yet;",
        );
        only("null");
    });
}

/// Another CNI writes its configuration anew, as it was before us.
fn overwritten(cluster: &Cluster, before: &str) {
    let is_chained = || {
        let text = cluster
            .node("kn1", &["cat", CONFLIST])
            .expect("it is there");
        text.contains("ambit-cni").then_some(()).ok_or(text)
    };
    is_chained().expect("it is chained");
    let write = format!("printf %s '{before}' > {CONFLIST}");
    cluster
        .node("kn1", &["sh", "-c", &write])
        .expect("it is written");
    wait("the plugin to be chained again", SOON, is_chained);
}

/// Nobody answers the plugin.
fn without_agent(cluster: &Cluster) {
    cluster.does(&["-n", NAMESPACE, "delete", "daemonset", "ambit-node"]);
    pods(cluster, "ambit-node", 0);
    for namespace in ["shop", "bank", "other"] {
        cluster.apply(&server(namespace, "late", "kn1"));
    }
    refused(
        cluster,
        "namespace shop is in the mesh and this node's agent, which would take the pod in, does not answer (",
    );
    running(cluster, "bank", "late");
    running(cluster, "other", "late");
    let late = cluster.get(&["-n", "shop", "pod", "late"]);
    assert_eq!(late["status"]["phase"], "Pending");
}

/// Waits until so many pods of the mesh are left.
fn pods(cluster: &Cluster, app: &str, wanted: usize) {
    wait(&format!("{wanted} pods of {app}"), SOON, || {
        let found = cluster.get(&["-n", NAMESPACE, "pods", "-l", &format!("app={app}")]);
        let left = found["items"].as_array().expect("a list").len();
        (left == wanted)
            .then_some(())
            .ok_or_else(|| left.to_string())
    });
}

/// Waits until somebody who asks what is wrong with their pods is told so.
fn refused(cluster: &Cluster, sentence: &str) {
    wait("a pod to be refused", SOON, || {
        let events = cluster.get(&["-n", "shop", "events"]);
        let events = events["items"].as_array().expect("a list").iter();
        let said: Vec<_> = events.map(|event| event["message"].to_string()).collect();
        let is_said = said.iter().any(|message| message.contains(sentence));
        is_said.then_some(()).ok_or_else(|| said.join("\n"))
    });
}

fn phase(cluster: &Cluster, namespace: &str, pod: &str, wanted: &str) {
    wait(&format!("{namespace}/{pod} to be {wanted}"), SOON, || {
        let found = cluster.get(&["-n", namespace, "pod", pod]);
        let is = found["status"]["phase"] == wanted;
        is.then_some(()).ok_or_else(|| found["status"].to_string())
    });
}

fn running(cluster: &Cluster, namespace: &str, pod: &str) {
    phase(cluster, namespace, pod, "Running");
}

fn captured(cluster: &Cluster, namespace: &str, pod: &str, wanted: bool) {
    wait(
        &format!("{namespace}/{pod}: captured {wanted}"),
        SOON,
        || {
            let found = cluster.get(&["-n", namespace, "pod", pod]);
            let says = &found["metadata"]["annotations"]["ambient.istio.io/redirection"];
            let is = says == "enabled";
            (is == wanted).then_some(()).ok_or_else(|| says.to_string())
        },
    );
}

/// What a host has of the CNI: configurations, binaries, and what is left of ours beside them.
fn host(cluster: &Cluster, node: &str) -> String {
    let look = "cd /etc/cni/net.d && for file in $(ls -A); do stat -c '%n %a' $file; cat $file; echo; done; ls -A /opt/cni/bin; ls -A /var/lib/ambit 2>/dev/null || true";
    cluster
        .node(node, &["sh", "-c", look])
        .expect("the node is there")
}

/// What is in the network namespaces of a node's pods that mentions us.
fn rules(cluster: &Cluster, node: &str) -> String {
    let look = "for it in /run/netns/*; do nsenter --net=$it sh -c 'nft list tables; ip rule show' | grep -e ambit -e 0x111; done; true";
    cluster
        .node(node, &["sh", "-c", look])
        .expect("the node is there")
}
