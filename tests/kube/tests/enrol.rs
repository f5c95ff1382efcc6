//! A label on a namespace puts its running pods into the mesh, on a real cluster.

use std::{path::Path, time::Duration};

use cli::lab::sniffer::Sniffer;
use tests_kube::{
    Cluster,
    mesh::{self, IMAGE},
    program::wait,
};

const SOON: Duration = Duration::from_secs(30);
const CANARY: &str = "said-in-the-clear";

fn pods() -> String {
    let pod = |name: &str, node: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: echo, image: \"{IMAGE}\", imagePullPolicy: Never, args: [echo, --name, {CANARY}]}}]
---"
        )
    };
    format!(
        "{}{}
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: shop}}
spec: {{selector: {{app: server}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
",
        pod("client", "kn1"),
        pod("server", "kn2")
    )
}

/// What a request of the client's is answered, on a connection of its own.
fn ask(cluster: &Cluster) -> Result<String, String> {
    let service = cluster.get(&["-n", "shop", "service", "server"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let url = format!("http://{address}/");
    let load = [
        "/usr/bin/ambit",
        "load",
        &url,
        "--fresh",
        "--rate",
        "10",
        "--duration",
        "1s",
    ];
    let said = cluster.exec("shop", "client", &load);
    said.map_err(|failed| failed.to_string())
}

fn is_captured(cluster: &Cluster, pod: &str) -> bool {
    let pod = cluster.get(&["-n", "shop", "pod", pod]);
    pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled"
}

#[test]
fn a_label_takes_running_pods_into_the_mesh_and_its_removal_takes_them_out() {
    let Some(cluster) = Cluster::start("enrolment on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=1"]);
    cluster.does(&["create", "namespace", "shop"]);
    cluster.apply(&pods());
    cluster.does(&[
        "-n",
        "shop",
        "wait",
        "pod",
        "--all",
        "--for=condition=Ready",
        "--timeout=60s",
    ]);
    let restarts = || {
        let pod = cluster.get(&["-n", "shop", "pod", "server"]);
        (
            pod["metadata"]["uid"].clone(),
            pod["status"]["containerStatuses"][0]["restartCount"].clone(),
        )
    };
    let before = restarts();
    // Ready says that its process runs, not that it listens, nor that the node knows the service.
    wait("the server", SOON, || {
        let said = ask(&cluster)?;
        let all = said.contains("\"failed\":0");
        all.then_some(()).ok_or(said)
    });

    let (plain, _) = seen(&cluster);
    assert!(
        plain.canaries > 0,
        "without the mesh everybody reads it: {plain:?}"
    );

    cluster.does(&[
        "label",
        "namespace",
        "shop",
        "istio.io/dataplane-mode=ambient",
    ]);
    captured(&cluster, true);
    let (hidden, answers) = seen(&cluster);
    assert_eq!(hidden.canaries, 0, "{answers}\n{hidden:?}");
    let to = |port: u16| {
        hidden
            .flows
            .keys()
            .filter(|flow| flow.destination.port() == port)
            .count()
    };
    assert!(to(15008) > 0 && to(8080) == 0, "{hidden:?}");
    assert_eq!(restarts(), before, "no pod was restarted");

    cluster.does(&["label", "namespace", "shop", "istio.io/dataplane-mode-"]);
    captured(&cluster, false);
    let (plain, _) = seen(&cluster);
    assert!(plain.canaries > 0, "{plain:?}");
}

fn captured(cluster: &Cluster, wanted: bool) {
    wait("both pods to say so", SOON, || {
        let is = ["client", "server"].map(|pod| is_captured(cluster, pod));
        (is == [wanted; 2])
            .then_some(())
            .ok_or_else(|| format!("{is:?}"))
    });
}

/// What goes over the link of the server's node while the client asks, and what it is answered.
fn seen(cluster: &Cluster) -> (cli::lab::sniffer::Seen, String) {
    let node = cluster.netns("kn2");
    let sniffer = Sniffer::start(&node, "eth0", CANARY.as_bytes());
    let sniffer = sniffer.expect("root may look at any link");
    let answers = ask(cluster).unwrap_or_else(|failed| panic!("{failed}"));
    assert!(answers.contains("\"failed\":0"), "{answers}");
    let seen = sniffer.finish().expect("the link is there");
    (seen, answers)
}
