//! Node proxies that are replaced under load, and one that is killed: what that costs the connections of their pods, and what the
//! process may do while it runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use cli::lab::sniffer::Sniffer;
use tests_kube::{
    Cluster, Load, Pod,
    load::Counts,
    mesh::{self, NAMESPACE},
    pod, process,
    program::wait,
    token::pod_on,
};

const SOON: Duration = Duration::from_secs(60);
const NODES: [&str; 2] = ["kn1", "kn2"];
/// The server's name, which is in all that it answers.
const SERVER: &str = "said-in-the-clear";
/// Longer than it takes to replace the proxies of both nodes.
const LONG: Duration = Duration::from_secs(60);

/// A client in the mesh and one outside on one node, a server in the mesh on the other.
fn started() -> Option<Cluster> {
    let cluster = Cluster::start("node proxies replaced on a cluster", 2)?;
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    let grace = "ztunnel.terminationGracePeriodSeconds=15";
    mesh::install(&cluster, &["control.replicas=1", grace]);
    let pods = [
        pod::namespace("shop", true),
        pod::namespace("outside", false),
        Pod::echo("shop", "client").on("kn1").to_string(),
        Pod::echo("shop", SERVER).on("kn2").to_string(),
        Pod::echo("outside", "plain").on("kn1").to_string(),
    ];
    cluster.apply(&pods.concat());
    for namespace in ["shop", "outside"] {
        pod::ready(&cluster, namespace);
    }
    for name in ["client", SERVER] {
        pod::captured(&cluster, "shop", name, true);
    }
    let url = url(&cluster);
    wait("the server", SOON, || {
        let counts = Load::fresh(&url).run(&cluster, "shop", "client");
        let counts = counts.map_err(|failed| failed.to_string())?;
        counts
            .all_answered()
            .then_some(())
            .ok_or_else(|| format!("{counts:?}"))
    });
    Some(cluster)
}

fn url(cluster: &Cluster) -> String {
    let address = pod::address(cluster, "shop", SERVER);
    format!("http://{address}:{}/", pod::HTTP)
}

/// What was counted: requests on connections of their own, inside the mesh and from outside, and on connections that stay.
#[derive(Debug)]
struct Seen {
    captured: Counts,
    plain: Counts,
    kept: Counts,
}

/// How many connections stay open.
const KEPT: usize = 20;

/// Sends all kinds of load while something is done, which must be over before the load is.
fn under_load(cluster: &Cluster, time: Duration, something: impl FnOnce()) -> Seen {
    let url = &url(cluster);
    let fresh = || {
        let load = Load::fresh(url).connections(20).rate(100);
        load.lasting(time).patient(Duration::from_secs(10))
    };
    let kept = Load::kept(url, KEPT).rate(40).lasting(time);
    let (fresh_in, fresh_out) = (fresh(), fresh());
    thread::scope(|scope| {
        let begun = Instant::now();
        let captured = scope.spawn(move || fresh_in.run(cluster, "shop", "client").unwrap());
        let plain = scope.spawn(move || fresh_out.run(cluster, "outside", "plain").unwrap());
        let kept = scope.spawn(move || kept.run(cluster, "shop", "client").unwrap());
        // Whoever is connected already counts as open.
        thread::sleep(Duration::from_secs(2));
        something();
        let took = begun.elapsed();
        assert!(took < time, "the load was over before: {took:?}");
        Seen {
            captured: captured.join().unwrap(),
            plain: plain.join().unwrap(),
            kept: kept.join().unwrap(),
        }
    })
}

/// Names of the node proxies' pods, those that end included.
fn proxies(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.get(&["-n", NAMESPACE, "pods", "-l", "app=ztunnel"]);
    let pods = pods["items"].as_array().unwrap().iter();
    pods.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn node_proxies_are_replaced_without_the_loss_of_a_new_connection_and_do_not_fail_open_when_killed()
{
    let Some(cluster) = started() else { return };
    has_no_right_that_it_does_not_use(&cluster);
    replaced(&cluster);
    agents_killed(&cluster);
    killed(&cluster);
}

/// CAP_NET_ADMIN for marks and foreign addresses, CAP_SYS_ADMIN to enter namespaces.
const RIGHTS: u64 = 1 << 12 | 1 << 21;

fn has_no_right_that_it_does_not_use(cluster: &Cluster) {
    for node in NODES {
        let pod = pod_on(cluster, NAMESPACE, "ztunnel", node);
        let found = process::of_pod(cluster, node, (NAMESPACE, &pod)).expect("it runs");
        let says = |line: &str| process::status(cluster, node, found, line);
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let rights = u64::from_str_radix(&says(set), 16).unwrap();
            assert_eq!(rights, RIGHTS, "{node}: {set} is {rights:x}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(says(set), "0000000000000000", "{node}: {set}");
        }
        assert_eq!(says("NoNewPrivs"), "1", "{node}");
        // A filter of system calls.
        assert_eq!(says("Seccomp"), "2", "{node}");
        let root = format!("/proc/{found}/mountinfo");
        let mounts = cluster.node(node, &["cat", &root]).unwrap();
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"));
        let options = root.unwrap().split(' ').nth(5).unwrap();
        assert!(options.split(',').any(|it| it == "ro"), "{node}: {options}");
        let pod = cluster.get(&["-n", NAMESPACE, "pod", &pod]);
        assert_eq!(pod["spec"]["priorityClassName"], "system-node-critical");
    }
}

fn replaced(cluster: &Cluster) {
    let before = proxies(cluster);
    let begun = Instant::now();
    let mut took = Duration::ZERO;
    let seen = under_load(cluster, LONG, || {
        cluster.does(&["-n", NAMESPACE, "rollout", "restart", "daemonset/ztunnel"]);
        cluster.rolled_out(NAMESPACE, "daemonset/ztunnel");
        wait("the proxies of before to be gone", SOON, || {
            let left = proxies(cluster);
            let gone = left.len() == NODES.len() && !left.iter().any(|it| before.contains(it));
            gone.then_some(()).ok_or_else(|| format!("{left:?}"))
        });
        took = begun.elapsed();
    });
    println!("rolled out in {took:?}: {seen:#?}");
    println!(
        "a rolling restart lost {} of {} new connections, {} of {} from outside, and {} of {KEPT} open ones",
        seen.captured.failed,
        seen.captured.ok + seen.captured.failed,
        seen.plain.failed,
        seen.plain.ok + seen.plain.failed,
        seen.kept.failed,
    );
    assert!(seen.captured.all_answered(), "{seen:#?}");
    assert!(seen.plain.all_answered(), "{seen:#?}");
    // Once for each proxy that an open connection goes through.
    assert!(seen.kept.failed <= 2 * KEPT as u64, "{seen:#?}");
}

/// Pods go on without the agents, and these find them as they were.
fn agents_killed(cluster: &Cluster) {
    let seen = under_load(cluster, Duration::from_secs(30), || {
        for node in NODES {
            let pod = pod_on(cluster, NAMESPACE, "ambit-node", node);
            restarted(cluster, node, &pod);
        }
        cluster.rolled_out(NAMESPACE, "daemonset/ambit-node");
    });
    for counts in [&seen.captured, &seen.plain, &seen.kept] {
        assert!(counts.all_answered(), "{seen:#?}");
    }
    for name in ["client", SERVER] {
        pod::captured(cluster, "shop", name, true);
    }
}

/// Kills the process of a pod, and waits until there is another one.
fn restarted(cluster: &Cluster, node: &str, pod: &str) {
    let pod = (NAMESPACE, pod);
    let found = process::of_pod(cluster, node, pod).expect("it runs");
    process::signal(cluster, node, found, "KILL");
    wait(&format!("{pod:?} to be started again"), SOON, || {
        let again = process::of_pod(cluster, node, pod);
        let again = again.filter(|again| *again != found);
        again.map(drop).ok_or_else(|| "it is not".to_owned())
    });
}

fn killed(cluster: &Cluster) {
    let node = "kn2";
    let pod = pod_on(cluster, NAMESPACE, "ztunnel", node);
    let sniffer = Sniffer::start(&cluster.netns(node), "eth0", SERVER.as_bytes());
    let sniffer = sniffer.expect("frames can be seen");
    let url = &url(cluster);
    let load = Load::fresh(url).connections(20).rate(100);
    let load = load.lasting(Duration::from_secs(20));
    let kept = Load::kept(url, KEPT)
        .rate(40)
        .lasting(Duration::from_secs(20));
    let (fresh, kept) = thread::scope(|scope| {
        let fresh = scope.spawn(|| load.run(cluster, "shop", "client").unwrap());
        let kept = scope.spawn(|| kept.run(cluster, "shop", "client").unwrap());
        thread::sleep(Duration::from_secs(2));
        restarted(cluster, node, &pod);
        cluster.rolled_out(NAMESPACE, "daemonset/ztunnel");
        (fresh.join().unwrap(), kept.join().unwrap())
    });
    println!(
        "a killed proxy lost {} of {} new connections, and {} requests on {KEPT} open ones ({:?}, {:?})",
        fresh.failed,
        fresh.ok + fresh.failed,
        kept.failed,
        fresh.error,
        kept.error,
    );
    assert!(fresh.failed > 0 && kept.failed > 0, "it was killed");
    let seen = sniffer.finish().expect("frames were seen");
    assert_eq!(seen.canaries, 0, "nothing goes in the clear: {seen:?}");
    let after = Load::fresh(url)
        .rate(50)
        .run(cluster, "shop", "client")
        .unwrap();
    assert!(after.all_answered(), "{after:?}");
    for name in ["client", SERVER] {
        pod::captured(cluster, "shop", name, true);
    }
}
