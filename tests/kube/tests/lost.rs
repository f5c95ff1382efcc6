//! A node that is lost and comes back, and an address that another pod takes over, also where that is not known yet.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use tests_kube::{
    Cluster, Load, Pod,
    load::Counts,
    mesh::{self, NAMESPACE},
    pod,
    program::wait,
    token::pod_on,
};

const SOON: Duration = Duration::from_secs(60);
/// A connection to nowhere has failed by then.
const DEADLINE: Duration = Duration::from_secs(30);
/// Where the control plane runs; the other node has the clients.
const NEAR: &str = "kn1";
const FAR: &str = "kn2";

/// A cluster with a mesh whose control plane runs on this node, and with these manifests, whose pods are all of the namespace
/// `shop`, which is in the mesh.
fn started(what: &str, control: &str, pods: &[Pod], more: &str) -> Option<Cluster> {
    let cluster = Cluster::start(what, 2)?;
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    let place = format!("control.nodeSelector.kubernetes\\.io/hostname={control}");
    mesh::install(&cluster, &["control.replicas=1", &place]);
    let pods: String = pods.iter().map(Pod::to_string).collect();
    cluster.apply(&[pod::namespace("shop", true), pods, more.to_owned()].concat());
    pod::ready(&cluster, "shop");
    Some(cluster)
}

fn url(cluster: &Cluster, pod: &str) -> String {
    let address = pod::address(cluster, "shop", pod);
    format!("http://{address}:{}/", pod::HTTP)
}

/// What the client is answered.
fn asked(cluster: &Cluster, load: &Load) -> Counts {
    let counts = load.run(cluster, "shop", "client");
    counts.unwrap_or_else(|failed| panic!("{failed}"))
}

/// Waits until the client is answered whatever it asks.
fn answered(cluster: &Cluster, url: &str) {
    wait(&format!("{url} to answer"), SOON, || {
        let counts = asked(cluster, &Load::fresh(url));
        let all = counts.all_answered();
        all.then_some(()).ok_or_else(|| format!("{counts:?}"))
    });
}

#[test]
fn a_node_that_is_lost_takes_nobody_with_it_and_comes_back_captured() {
    let pods = [
        Pod::echo("shop", "client").on(NEAR),
        Pod::echo("shop", "near").on(NEAR).part_of("both"),
        Pod::echo("shop", "far").on(FAR).part_of("both"),
    ];
    let both = pod::service("shop", "both");
    let Some(cluster) = started("a node that is lost", NEAR, &pods, &both) else {
        return;
    };
    for name in ["client", "near", "far"] {
        pod::captured(&cluster, "shop", name, true);
    }
    let [near, far] = ["near", "far"].map(|pod| url(&cluster, pod));
    let both = format!("http://{}/", pod::service_address(&cluster, "shop", "both"));
    for url in [&near, &far, &both] {
        answered(&cluster, url);
    }

    let link = |state: &str| {
        cluster
            .node("cp", &["ip", "link", "set", FAR, state])
            .unwrap()
    };
    let going_on = Load::fresh(&near).rate(20).lasting(Duration::from_secs(45));
    let client = ("shop", "client");
    let (counts, ()) = going_on.while_doing(&cluster, client, || {
        link("down");
        let lost = Load::fresh(&far).connections(5).patient(2 * DEADLINE);
        let counts = asked(&cluster, &lost);
        assert!(counts.none_answered(), "{counts:?}");
        // The client's own patience would have ended otherwise.
        let why = counts.error.unwrap();
        assert!(why.contains("reset"), "{why}");
    });
    assert!(counts.all_answered(), "{counts:?}");
    // Once the cluster has noticed, what has another endpoint goes there.
    wait("the node to be missed", SOON, || {
        let node = cluster.get(&["node", FAR]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|it| it["type"] == "Ready").unwrap();
        let missed = ready["status"] != "True";
        missed.then_some(()).ok_or_else(|| ready.to_string())
    });
    answered(&cluster, &both);
    let counts = asked(&cluster, &Load::fresh(&both).rate(20).patient(DEADLINE));
    assert!(counts.all_answered(), "{counts:?}");

    link("up");
    answered(&cluster, &far);
    for object in ["daemonset/ztunnel", "daemonset/ambit-node"] {
        cluster.rolled_out(NAMESPACE, object);
    }
    cluster.apply(&Pod::echo("shop", "late").on(FAR).to_string());
    pod::phase(&cluster, "shop", "late", "Running");
    for name in ["client", "near", "far", "late"] {
        pod::captured(&cluster, "shop", name, true);
    }
    answered(&cluster, &url(&cluster, "late"));
}

/// Nobody may talk to the old pod.
const CLOSED: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {app: old}}
  action: DENY
  rules: [{}]
---
";

/// Lets the next pod of a node have this address, which is free.
fn next_is(cluster: &Cluster, node: &str, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        panic!("{address} is none of the fixture's");
    };
    let before = Ipv4Addr::from(u32::from(address) - 1);
    let kept = "/var/lib/cni/networks/ambitkube/last_reserved_ip.0";
    let write = format!("printf %s {before} > {kept}");
    cluster.node(node, &["sh", "-c", &write]).unwrap();
}

/// Puts a pod with its own identity where another one was: at the same address.
fn taken_over(cluster: &Cluster, old: &str, new: &str) {
    let address = pod::address(cluster, "shop", old);
    cluster.does(&["-n", "shop", "delete", "pod", old, "--wait"]);
    wait(&format!("{new} at {address}"), SOON, || {
        next_is(cluster, FAR, address);
        cluster.apply(&Pod::echo("shop", new).on(FAR).account(new).to_string());
        pod::phase(cluster, "shop", new, "Running");
        let now = pod::address(cluster, "shop", new);
        if now == address {
            return Ok(());
        }
        // Somebody else was given an address meanwhile.
        cluster.does(&["-n", "shop", "delete", "pod", new, "--wait"]);
        Err(now.to_string())
    });
    pod::captured(cluster, "shop", new, true);
    // The fixture's CNI does not tell its bridge that the address has moved, which would take a minute to find out.
    let forget = ["ip", "neigh", "flush", "dev", "cni0"];
    cluster.node(FAR, &forget).unwrap();
}

/// Whether the node proxy of the far node says that somebody has reached this identity.
fn reached(cluster: &Cluster, account: &str) -> bool {
    let proxy = pod_on(cluster, NAMESPACE, "ztunnel", FAR);
    let log = cluster.does(&["-n", NAMESPACE, "logs", &proxy]);
    let identity = format!("dst.identity=\"spiffe://cluster.local/ns/shop/sa/{account}\"");
    let mut lines = log.lines().filter(|line| line.contains("inbound"));
    lines.any(|line| line.contains(&identity) && !line.contains("error"))
}

#[test]
fn an_address_that_another_identity_takes_over_keeps_nothing_of_the_old_one() {
    let pods = [
        Pod::echo("shop", "client").on(NEAR).account("client"),
        Pod::echo("shop", "old").on(FAR).account("old"),
    ];
    let Some(cluster) = started("an address taken over", FAR, &pods, "") else {
        return;
    };
    for name in ["client", "old"] {
        pod::captured(&cluster, "shop", name, true);
    }
    let url = url(&cluster, "old");
    answered(&cluster, &url);
    cluster.apply(CLOSED);
    wait("the policy to be in force", SOON, || {
        let counts = asked(&cluster, &Load::fresh(&url));
        let none = counts.none_answered();
        none.then_some(()).ok_or_else(|| format!("{counts:?}"))
    });

    taken_over(&cluster, "old", "new");
    answered(&cluster, &url);
    assert!(reached(&cluster, "new"));

    unknown_to_the_client(&cluster, &url);
}

/// The client's proxy is told nothing while a third identity takes the address: it trusts nobody but the second.
fn unknown_to_the_client(cluster: &Cluster, url: &str) {
    let proxy = pod_on(cluster, NAMESPACE, "ztunnel", NEAR);
    let address = pod::address(cluster, NAMESPACE, &proxy);
    let rules = format!(
        "add table ip cut; add chain ip cut forward {{ type filter hook forward priority -10; }}; add rule ip cut forward ip saddr {address} tcp dport 15012 drop; add rule ip cut forward ip daddr {address} tcp sport 15012 drop"
    );
    cluster.node(NEAR, &["nft", &rules]).unwrap();
    taken_over(cluster, "new", "third");
    // What the client knows is that nobody but `new` may answer there.
    let load = Load::fresh(url).lasting(Duration::from_secs(3));
    let counts = asked(cluster, &load);
    let log = ["--tail=20", &proxy];
    let log = || cluster.does(&[&["-n", NAMESPACE, "logs"], &log[..]].concat());
    assert!(counts.none_answered(), "{counts:?}\n{}", log());
    assert!(!reached(cluster, "third"));
    let log = cluster.does(&["-n", NAMESPACE, "logs", &proxy]);
    let mut lines = log.lines().filter(|line| line.contains("sa/third"));
    assert!(
        lines.any(|line| line.contains("sa/new")),
        "it does not say who answered instead of whom: {log}"
    );

    cluster
        .node(NEAR, &["nft", "delete", "table", "ip", "cut"])
        .unwrap();
    answered(cluster, url);
    assert!(reached(cluster, "third"));
}
