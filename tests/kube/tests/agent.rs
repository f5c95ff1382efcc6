//! What an agent finds that starts again: rules that a reboot took, and addresses that have gone to another pod.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::IpAddr, path::Path, process::Command, time::Duration};

use cli::lab::sniffer::Sniffer;
use tests_kube::{
    Cluster, Load, Pod,
    load::Counts,
    mesh::{self, NAMESPACE},
    pod::{self, HTTP},
    process,
    program::{run, wait},
    token::pod_on,
};

const SOON: Duration = Duration::from_secs(60);
/// The server's name, which is in all that it answers.
const SERVER: &str = "said-in-the-clear";

#[test]
fn an_agent_puts_back_what_a_reboot_took_and_an_address_does_not_keep_an_identity() {
    let Some(cluster) = Cluster::start("an agent that starts again on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=1"]);
    let pods = [
        pod::namespace("shop", true),
        Pod::echo("shop", "client")
            .on("kn1")
            .account("one")
            .to_string(),
        Pod::echo("shop", SERVER).on("kn2").to_string(),
    ];
    cluster.apply(&pods.concat());
    pod::ready(&cluster, "shop");
    for name in ["client", SERVER] {
        pod::captured(&cluster, "shop", name, true);
    }
    let url = url(&cluster);
    answered(&cluster, &url, "client");
    rebooted(&cluster, &url);
    reused(&cluster, &url);
}

fn url(cluster: &Cluster) -> String {
    format!("http://{}:{HTTP}/", pod::address(cluster, "shop", SERVER))
}

fn answered(cluster: &Cluster, url: &str, client: &str) {
    wait("the server", SOON, || {
        let counts = ask(cluster, url, client);
        counts
            .all_answered()
            .then_some(())
            .ok_or_else(|| format!("{counts:?}"))
    });
}

fn ask(cluster: &Cluster, url: &str, client: &str) -> Counts {
    Load::fresh(url).run(cluster, "shop", client).unwrap()
}

/// The pod says that it is captured, and nothing of that is there: an agent that starts then has it captured again.
fn rebooted(cluster: &Cluster, url: &str) {
    let agent = pod_on(cluster, NAMESPACE, "ambit-node", "kn1");
    let old = process::of_pod(cluster, "kn1", (NAMESPACE, &agent)).unwrap();
    process::signal(cluster, "kn1", old, "STOP");
    let netns = cluster.pod_netns("kn1", pod::address(cluster, "shop", "client"));
    let inside = |line: &str| {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net={}", netns.display()));
        run(enter.args(["sh", "-c", line]), "").unwrap()
    };
    inside("nft flush ruleset; ip rule del pref 32764; ip route flush table 100");
    assert!(sniffed(cluster, url) > 0, "nothing holds it in the mesh");
    let found = cluster.get(&["-n", "shop", "pod", "client"]);
    assert!(pod::is_captured(&found), "it still says so");

    process::signal(cluster, "kn1", old, "KILL");
    wait("the rules to be back", SOON, || {
        let tables = inside("nft list tables; ip rule show");
        let all = tables.contains("table inet ambit") && tables.contains("32764");
        all.then_some(()).ok_or(tables)
    });
    pod::captured(cluster, "shop", "client", true);
    answered(cluster, url, "client");
    assert_eq!(sniffed(cluster, url), 0);
}

/// Frames in which the server's answers can be read while the client asks.
fn sniffed(cluster: &Cluster, url: &str) -> u64 {
    let sniffer = Sniffer::start(&cluster.netns("kn2"), "eth0", SERVER.as_bytes()).unwrap();
    let counts = ask(cluster, url, "client");
    let seen = sniffer.finish().unwrap();
    assert!(counts.ok > 0, "{counts:?}");
    seen.canaries
}

const ONLY_ONE: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-one, namespace: shop}
spec:
  selector: {matchLabels: {app: said-in-the-clear}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/one]}}]
";

/// A pod gets the address that another one had, and is somebody else.
fn reused(cluster: &Cluster, url: &str) {
    cluster.apply(ONLY_ONE);
    let before = pod::address(cluster, "shop", "client");
    answered(cluster, url, "client");
    cluster.does(&["-n", "shop", "delete", "pod", "client"]);
    let last = before_it(before);
    // Addresses are given in turn: this says which was the last.
    let last = format!("printf %s {last} > $(ls /var/lib/cni/networks/*/last_reserved_ip.0)");
    cluster.node("kn1", &["sh", "-c", &last]).unwrap();
    cluster.apply(
        &Pod::echo("shop", "other")
            .on("kn1")
            .account("two")
            .to_string(),
    );
    pod::ready(cluster, "shop");
    pod::captured(cluster, "shop", "other", true);
    assert_eq!(
        pod::address(cluster, "shop", "other"),
        before,
        "it has the address"
    );
    let counts = ask(cluster, url, "other");
    assert!(counts.none_answered(), "{counts:?}");
    cluster.does(&["-n", "shop", "delete", "authorizationpolicy", "only-one"]);
    answered(cluster, url, "other");
}

/// The address before this one.
fn before_it(address: IpAddr) -> IpAddr {
    let IpAddr::V4(four) = address else {
        panic!("{address} is of IPv6");
    };
    std::net::Ipv4Addr::from(u32::from(four) - 1).into()
}
