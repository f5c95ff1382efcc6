//! A label on a namespace puts its running pods into the mesh, on a real cluster.

use std::{path::Path, time::Duration};

use cli::lab::sniffer::Sniffer;
use tests_kube::{
    Cluster, Load, Pod,
    load::Counts,
    mesh, pod,
    program::{Failed, wait},
};

const SOON: Duration = Duration::from_secs(30);
const CANARY: &str = "said-in-the-clear";

fn pods() -> String {
    let canary = |name, node| Pod::running("shop", name, &["echo", "--name", CANARY]).on(node);
    [
        canary("client", "kn1").to_string(),
        canary("server", "kn2").to_string(),
        pod::service("shop", "server"),
    ]
    .concat()
}

/// What becomes of requests of the client's, each on a connection of its own.
fn ask(cluster: &Cluster) -> Result<Counts, Failed> {
    let address = pod::service_address(cluster, "shop", "server");
    Load::fresh(&format!("http://{address}/")).run(cluster, "shop", "client")
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
    pod::ready(&cluster, "shop");
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
        let counts = ask(&cluster).map_err(|failed| failed.to_string())?;
        let all = counts.failed == 0;
        all.then_some(()).ok_or_else(|| format!("{counts:?}"))
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
    assert_eq!(hidden.canaries, 0, "{answers:?}\n{hidden:?}");
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
    for pod in ["client", "server"] {
        pod::captured(cluster, "shop", pod, wanted);
    }
}

/// What goes over the link of the server's node while the client asks, and what it is answered.
fn seen(cluster: &Cluster) -> (cli::lab::sniffer::Seen, Counts) {
    let node = cluster.netns("kn2");
    let sniffer = Sniffer::start(&node, "eth0", CANARY.as_bytes());
    let sniffer = sniffer.expect("root may look at any link");
    let answers = ask(cluster).unwrap_or_else(|failed| panic!("{failed}"));
    assert_eq!(answers.failed, 0, "{answers:?}");
    let seen = sniffer.finish().expect("the link is there");
    (seen, answers)
}
