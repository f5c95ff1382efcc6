//! What a pod says of its capture, and what becomes of connections that were open before it, on a real cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::Path, process::Command, thread, time::Duration};

use serde_json::Value;
use tests_kube::{
    Cluster, Pod,
    load::Counts,
    mesh,
    pod::{self, HTTP},
    program::{run, wait},
};

const SOON: Duration = Duration::from_secs(60);
const SETTINGS: [&str; 1] = ["control.replicas=1"];
const OPEN: &str = "3 connections that were open before are outside of the mesh until they end";
const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

#[test]
fn open_connections_go_on_counted_until_a_policy_or_their_time_ends_them() {
    let Some(cluster) = Cluster::start("open connections on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &SETTINGS);
    let pods = [
        pod::namespace("shop", false),
        Pod::echo("shop", "server").on("kn2").to_string(),
    ];
    cluster.apply(&pods.concat());
    pod::ready(&cluster, "shop");
    let to = pod::address(&cluster, "shop", "server");
    let url = format!("http://{to}:{HTTP}/");
    let load = [
        "load",
        &url,
        "--connections",
        "3",
        "--rate",
        "12",
        "--duration",
        "900s",
    ];
    cluster.apply(&Pod::running("shop", "client", &load).on("kn1").to_string());
    pod::ready(&cluster, "shop");
    let before = settled(&cluster);
    assert_eq!(condition(&cluster, "client"), Value::Null);

    label(&cluster, true);
    for pod in ["client", "server"] {
        says(&cluster, pod, "True", "Captured", OPEN);
    }
    quiet(&cluster);
    assert_eq!(settled(&cluster).failed, before.failed, "they were cut");

    cluster.apply(STRICT);
    for pod in ["client", "server"] {
        says(&cluster, pod, "True", "Captured", "");
    }
    told(&cluster, "ConnectionsCut", "because a policy is for it");
    // Each that was cut is opened again, and is in the mesh.
    let cut = settled(&cluster);
    assert!(cut.failed > before.failed, "{cut:?}");

    label(&cluster, false);
    for pod in ["client", "server"] {
        wait("the condition to go", SOON, || {
            let found = condition(&cluster, pod);
            found
                .is_null()
                .then_some(())
                .ok_or_else(|| found.to_string())
        });
        pod::captured(&cluster, "shop", pod, false);
    }
    told(&cluster, "LeftMesh", "3 connections were cut");

    late(&cluster);
    obstructed(&cluster);
}

/// Without any policy, after their time.
fn late(cluster: &Cluster) {
    cluster.does(&["-n", "shop", "delete", "peerauthentication", "default"]);
    mesh::install(cluster, &[SETTINGS[0], "node.cutAfterSeconds=8"]);
    let before = settled(cluster);
    label(cluster, true);
    says(cluster, "client", "True", "Captured", OPEN);
    assert_eq!(settled(cluster).failed, before.failed);
    says(cluster, "client", "True", "Captured", "");
    told(cluster, "ConnectionsCut", "may not last longer");
}

/// Rules of another tool keep a pod out, which says so.
fn obstructed(cluster: &Cluster) {
    cluster.apply(&Pod::echo("default", "odd").on("kn1").to_string());
    pod::ready(cluster, "default");
    let netns = cluster.pod_netns("kn1", pod::address(cluster, "default", "odd"));
    let inside = |line: &str| {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net={}", netns.display()));
        run(enter.args(["sh", "-c", line]), "").unwrap();
    };
    inside(
        "nft 'add table ip other; add chain ip other out { type nat hook output priority -100; }; add rule ip other out tcp dport 9 redirect to :10'",
    );
    cluster.does(&["label", "pod", "odd", "istio.io/dataplane-mode=ambient"]);
    let found = wait("the pod to say why", SOON, || {
        let found = condition_of(cluster, "default", "odd");
        (found["status"] == "False")
            .then_some(found.clone())
            .ok_or_else(|| found.to_string())
    });
    let why = "nftables chain out of table ip other has rules of another tool";
    assert!(found["message"].as_str().unwrap().contains(why), "{found}");
    assert_eq!(found["reason"], "NotCaptured");
    pod::captured(cluster, "default", "odd", false);
    wait("a warning", SOON, || {
        let events = events(cluster, "default");
        let is = |event: &&Value| event["type"] == "Warning" && event["reason"] == "NotCaptured";
        let found = events.iter().find(is);
        found
            .filter(|it| it["message"].to_string().contains(why))
            .map(drop)
            .ok_or_else(|| format!("{events:?}"))
    });
    inside("nft delete table ip other");
    wait("the pod to be captured", SOON, || {
        let found = condition_of(cluster, "default", "odd");
        (found["status"] == "True")
            .then_some(())
            .ok_or_else(|| found.to_string())
    });
}

fn label(cluster: &Cluster, enrolled: bool) {
    let label = if enrolled {
        "istio.io/dataplane-mode=ambient"
    } else {
        "istio.io/dataplane-mode-"
    };
    cluster.does(&["label", "namespace", "shop", label]);
}

fn condition(cluster: &Cluster, pod: &str) -> Value {
    condition_of(cluster, "shop", pod)
}

fn condition_of(cluster: &Cluster, namespace: &str, pod: &str) -> Value {
    let found = cluster.get(&["-n", namespace, "pod", pod]);
    let conditions = found["status"]["conditions"].as_array().unwrap();
    let own = conditions
        .iter()
        .find(|it| it["type"] == "ambit.dev/Captured");
    own.cloned().unwrap_or_default()
}

fn says(cluster: &Cluster, pod: &str, status: &str, reason: &str, message: &str) {
    wait(&format!("{pod}: {status} {reason} {message}"), SOON, || {
        let found = condition(cluster, pod);
        let is = found["status"] == status
            && found["reason"] == reason
            && found["message"].as_str().unwrap_or_default() == message;
        is.then_some(()).ok_or_else(|| found.to_string())
    });
}

/// Nothing is written while nothing changes.
fn quiet(cluster: &Cluster) {
    let version = || {
        let found = cluster.get(&["-n", "shop", "pod", "client"]);
        found["metadata"]["resourceVersion"].clone()
    };
    let first = version();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(version(), first);
}

fn events(cluster: &Cluster, namespace: &str) -> Vec<Value> {
    cluster.get(&["-n", namespace, "events"])["items"]
        .as_array()
        .unwrap()
        .clone()
}

/// Waits until an event says this.
fn told(cluster: &Cluster, reason: &str, words: &str) {
    wait(&format!("{reason}: {words}"), SOON, || {
        let events = events(cluster, "shop");
        let said = |event: &Value| {
            event["reason"] == reason
                && event["message"]
                    .as_str()
                    .unwrap_or_default()
                    .contains(words)
        };
        events.iter().any(said).then_some(()).ok_or_else(|| {
            let all = events
                .iter()
                .map(|it| format!("{} {}", it["reason"], it["message"]));
            all.collect::<Vec<_>>().join("\n")
        })
    });
}

/// What the client has counted when it has counted some more, all of which was answered.
fn settled(cluster: &Cluster) -> Counts {
    let counts = || {
        let said = cluster.does(&["-n", "shop", "logs", "client", "--tail=1"]);
        Counts::read(&said).ok_or(said)
    };
    let mut last: Option<Counts> = None;
    wait("the client to be answered", SOON, || {
        let now = counts()?;
        let more = last
            .replace(now.clone())
            .filter(|then| now.ok >= then.ok + 12 && now.failed == then.failed);
        thread::sleep(Duration::from_secs(2));
        more.map(|_| now.clone()).ok_or_else(|| format!("{now:?}"))
    })
}
