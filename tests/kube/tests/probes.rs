//! The kubelet's probes of pods in the mesh work where plain text is refused, and nothing else passes for one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::IpAddr, path::Path, process::Command, thread, time::Duration};

use cli::lab::sniffer::Sniffer;
use sys::netns::Netns;
use tests_kube::{
    Cluster, Load, Pod,
    mesh::{self, IMAGE, NAMESPACE},
    pod::{self, HTTP},
    program::{run, wait},
};

const NODE: &str = "kn1";
const SOON: Duration = Duration::from_secs(60);
/// Where an echoing pod answers too; no probe names it.
const OTHER: u16 = 9000;
const PROBE: &str = "169.254.7.127";
/// The port that a forger sends from.
const FORGED: u16 = 4444;

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
";

/// A pod with a probe of each kind that its port can answer.
fn probed() -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: probed, namespace: shop, labels: {{app: probed}}}}
spec:
  nodeName: {NODE}
  terminationGracePeriodSeconds: 1
  containers:
    - name: echo
      image: \"{IMAGE}\"
      imagePullPolicy: Never
      args: [echo, --name, probed]
      ports: [{{name: web, containerPort: {HTTP}}}]
      startupProbe: {{httpGet: {{path: /, port: web}}, periodSeconds: 1, failureThreshold: 30}}
      readinessProbe: {{tcpSocket: {{port: {HTTP}}}, periodSeconds: 1}}
      livenessProbe: {{httpGet: {{path: /, port: {HTTP}}}, periodSeconds: 1, failureThreshold: 2}}
---
"
    )
}

/// A pod that uses its node's network, and a container of it that ports of others are asked from.
fn on_the_node() -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: host, namespace: outside, labels: {{app: host}}}}
spec:
  nodeName: {NODE}
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{{name: it, image: \"{IMAGE}\", imagePullPolicy: Never, args: [echo, --http, \"18080\", --tcp, \"18081\"]}}]
---
"
    )
}

#[test]
fn probes_pass_where_plain_text_is_refused_and_nothing_else_does() {
    let Some(cluster) = Cluster::start("probes on a cluster", 1) else {
        return;
    };
    let before = tables(&cluster);
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=1"]);
    let namespaces = [
        pod::namespace("shop", true),
        pod::namespace("outside", false),
    ];
    cluster.apply(&[&namespaces.concat(), STRICT].concat());
    let plain = Pod::echo("outside", "plain").on(NODE).to_string();
    cluster.apply(
        &[
            plain,
            on_the_node(),
            Pod::echo("shop", "client").on(NODE).to_string(),
        ]
        .concat(),
    );
    pod::ready(&cluster, "outside");
    cluster.apply(&probed());
    pod::ready(&cluster, "shop");
    pod::captured(&cluster, "shop", "probed", true);

    let address = pod::address(&cluster, "shop", "probed");
    strict(&cluster, address);
    nobody_else(&cluster, address);
    forged(&cluster, address);

    stays_well(&cluster);
    host_rules_are_put_back(&cluster, address);

    let mut helm = cluster.command(mesh::helm());
    run(
        helm.args(["uninstall", "ambit", "-n", NAMESPACE, "--wait"]),
        "",
    )
    .unwrap();
    assert_eq!(tables(&cluster), before);
}

/// Waits until plain text is refused; who is in the mesh is answered.
fn strict(cluster: &Cluster, address: IpAddr) {
    let url = format!("http://{address}:{HTTP}/");
    wait("plain text to be refused", SOON, || {
        let counts = Load::fresh(&url).run(cluster, "outside", "plain").unwrap();
        counts
            .none_answered()
            .then_some(())
            .ok_or_else(|| format!("{counts:?}"))
    });
    let counts = Load::fresh(&url).run(cluster, "shop", "client").unwrap();
    assert!(counts.all_answered(), "{counts:?}");
}

fn nobody_else(cluster: &Cluster, address: IpAddr) {
    for port in [HTTP, OTHER] {
        let url = format!("http://{address}:{port}/");
        let counts = Load::fresh(&url).run(cluster, "outside", "host").unwrap();
        assert!(
            counts.none_answered(),
            "a pod on the node's network, {port}: {counts:?}"
        );
    }
    // Any other process of the host can do what the kubelet does, and no more.
    assert!(answered(cluster, address, HTTP));
    assert!(!answered(cluster, address, OTHER));
}

/// Whether a process of the node, in no pod, is answered.
fn answered(cluster: &Cluster, address: IpAddr, port: u16) -> bool {
    // One port answers HTTP, the other what it gets.
    let script = format!(
        "exec 3<>/dev/tcp/{address}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 3 head -c 3 <&3"
    );
    let said = cluster.node(NODE, &["bash", "-c", &script]);
    said.is_ok_and(|said| !said.is_empty())
}

/// A pod on the same bridge that sends with the source of probes, to a port that is probed.
fn forged(cluster: &Cluster, address: IpAddr) {
    let victim = Netns::open(cluster.pod_netns(NODE, address)).unwrap();
    let forger = cluster.pod_netns(NODE, pod::address(cluster, "outside", "plain"));
    let arrives = |source: &str| {
        let sniffer = Sniffer::start(&victim, "eth0", b"not looked for").unwrap();
        let send = format!(
            "ip addr add {source}/32 dev eth0 && python3 -c \"import socket as s; c = s.socket(); c.settimeout(1); c.bind(('{source}', {FORGED})); c.connect(('{address}', {HTTP}))\"; ip addr del {source}/32 dev eth0"
        );
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net={}", forger.display()));
        run(enter.args(["sh", "-c", &send]), "").unwrap();
        let seen = sniffer.finish().unwrap();
        let mut flows = seen.flows.keys();
        flows.any(|flow| flow.source.ip().to_string() == source && flow.source.port() == FORGED)
    };
    // Its neighbour, to see that it can.
    assert!(arrives("169.254.7.126"));
    assert!(!arrives(PROBE));
}

/// As after a reboot, or when another tool has flushed what it did not know.
fn host_rules_are_put_back(cluster: &Cluster, address: IpAddr) {
    for family in ["inet", "bridge"] {
        let table = ["nft", "delete", "table", family, "ambit"];
        cluster.node(NODE, &table).unwrap();
    }
    wait("the host's rules", SOON, || {
        let tables = tables(cluster);
        let all = ["inet", "bridge"]
            .iter()
            .all(|family| tables.contains(&format!("table {family} ambit")));
        all.then_some(()).ok_or(tables)
    });
    assert!(answered(cluster, address, HTTP));
}

/// Many more probes than a kubelet would forgive.
fn stays_well(cluster: &Cluster) {
    thread::sleep(Duration::from_secs(5));
    let pod = cluster.get(&["-n", "shop", "pod", "probed"]);
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["restartCount"], &status["ready"]),
        (&0.into(), &true.into()),
        "{status}"
    );
}

/// The tables of a node's packet rules.
fn tables(cluster: &Cluster) -> String {
    cluster.node(NODE, &["nft", "list", "tables"]).unwrap()
}
