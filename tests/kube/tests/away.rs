//! What goes on while something is away: the API server, a watch, the control plane; and whatever somebody writes there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests_kube::{
    Cluster, Load, Pod, api,
    load::Counts,
    mesh::{self, NAMESPACE},
    pod,
    program::wait,
    subscriber::{self, Answers, NODE, Replica, Subscriber},
};

const SOON: Duration = Duration::from_secs(60);
/// Within this a replica notices that nothing comes any more.
const NOTICED: Duration = Duration::from_secs(120);
const ACCEPTED: &str = "ZtunnelAccepted";

#[test]
fn traffic_goes_on_whatever_is_away() {
    let Some(cluster) = Cluster::start("what is away on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=2"]);
    cluster.apply(&shop());
    pod::ready(&cluster, "shop");

    an_api_server_that_is_away_stops_nothing_and_nothing_flaps(&cluster);
    what_a_watch_has_missed_is_listed_again(&cluster);
    control_planes_are_replaced_without_a_request_that_fails(&cluster);
}

fn shop() -> String {
    [
        pod::namespace("shop", true),
        Pod::echo("shop", "orders").on("kn2").to_string(),
        pod::service("shop", "orders"),
    ]
    .concat()
}

fn policy(name: &str, principal: &str) -> String {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {"principals": [principal]}}]}]},
    })
    .to_string()
}

fn accepted(cluster: &Cluster, name: &str) {
    wait(&format!("{name} to be accepted"), SOON, || {
        let policy = cluster.get(&["-n", "shop", "authorizationpolicy", name]);
        let conditions = policy["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let mut said = conditions.filter(|it| it["type"] == ACCEPTED);
        let is = said.any(|it| it["status"] == "True");
        is.then_some(()).ok_or_else(|| policy["status"].to_string())
    });
}

/// A pod that sends requests, each on a connection of its own, for so long; once it does.
fn sends(cluster: &Cluster, name: &str, time: Duration) {
    let service = cluster.get(&["-n", "shop", "service", "orders"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let load = Load::fresh(&format!("http://{address}/"))
        .rate(20)
        .lasting(time);
    let pod = Pod::once("shop", name, &load.arguments()).on("kn1");
    cluster.apply(&pod.to_string());
    wait("the first answers", SOON, || {
        let said = counted(cluster, name)?;
        (said.ok > 20)
            .then_some(())
            .ok_or_else(|| format!("{said:?}"))
    });
}

fn counted(cluster: &Cluster, name: &str) -> Result<Counts, String> {
    let said = cluster.kubectl(&["-n", "shop", "logs", name]);
    let said = said.map_err(|failed| failed.to_string())?;
    Counts::read(&said).ok_or(said)
}

/// What it has counted at its end.
fn sent(cluster: &Cluster, name: &str) -> Counts {
    pod::phase(cluster, "shop", name, "Succeeded");
    counted(cluster, name).unwrap()
}

/// Subscribers of all replicas, as node proxies are.
fn subscribers(cluster: &Cluster) -> Vec<Subscriber> {
    let token = subscriber::node_token(cluster);
    let replicas = Replica::all(cluster);
    assert_eq!(replicas.len(), 2);
    let open = replicas
        .iter()
        .map(|replica| replica.subscribe(cluster, &token, NODE, Answers::Accepts));
    open.collect()
}

/// How often each container was started, and each pod of the shop was written.
fn marks(cluster: &Cluster) -> Vec<Value> {
    let own = cluster.get(&["-n", NAMESPACE, "pods"]);
    let own = own["items"].as_array().unwrap().iter().map(|pod| {
        let it = &pod["status"]["containerStatuses"][0];
        json!([pod["metadata"]["name"], it["restartCount"], it["ready"]])
    });
    let shop = cluster.get(&["-n", "shop", "pod", "orders"]);
    let shop = [
        &shop["metadata"]["name"],
        &shop["metadata"]["resourceVersion"],
    ];
    own.chain([json!(shop)]).collect()
}

fn an_api_server_that_is_away_stops_nothing_and_nothing_flaps(cluster: &Cluster) {
    sends(cluster, "load-api", Duration::from_secs(60));
    let open = subscribers(cluster);
    let before: Vec<_> = open.iter().map(Subscriber::settled).collect();
    let marked = marks(cluster);
    let begun = Instant::now();
    // At first it does not answer, and then nobody listens.
    api::freeze(cluster);
    thread::sleep(Duration::from_secs(8));
    api::stop(cluster);
    thread::sleep(Duration::from_secs(10));
    for (subscriber, before) in open.iter().zip(&before) {
        let told = subscriber.told();
        assert_eq!(told.ended, None);
        assert_eq!(told.responses, before.responses);
    }
    api::start(cluster);
    println!("away for {:?}", begun.elapsed());

    cluster.apply(&policy("after-api", "a"));
    accepted(cluster, "after-api");
    for (subscriber, before) in open.iter().zip(&before) {
        let told = subscriber.settled();
        assert_eq!(told.ended, None);
        let addresses = |told: &subscriber::Told| told.responses[proto::ADDRESS_TYPE];
        let now = told
            .state
            .iter()
            .filter(|it| before.state.get(it.0) != Some(it.1));
        let now: Vec<_> = now.map(|(name, _)| name).collect();
        assert_eq!(addresses(&told), addresses(before), "flapped: {now:?}");
        let policies = |told: &subscriber::Told| told.responses[proto::AUTHORIZATION_TYPE];
        assert_eq!(policies(&told), policies(before) + 1);
    }
    assert_eq!(marks(cluster), marked);
    let counts = sent(cluster, "load-api");
    assert!(counts.all_answered(), "{counts:?}");
}

fn logs(cluster: &Cluster, replica: &Replica) -> String {
    cluster.does(&["-n", NAMESPACE, "logs", &replica.name])
}

fn what_a_watch_has_missed_is_listed_again(cluster: &Cluster) {
    cluster.apply(&policy("goes", "a"));
    accepted(cluster, "goes");
    let replicas = Replica::all(cluster);
    let open = subscribers(cluster);
    let before = marks(cluster);
    let has = |subscriber: &Subscriber, name: &str| {
        let state = subscriber.told().state;
        state.keys().any(|(_, it)| it == name)
    };
    for subscriber in &open {
        subscriber.all(NODE);
        assert!(has(subscriber, "shop/goes"));
    }
    for replica in &replicas {
        api::cut(cluster, &replica.node, &replica.address, true);
    }
    cluster.does(&["-n", "shop", "delete", "authorizationpolicy", "goes"]);
    cluster.apply(&policy("comes", "b"));
    // One that is new knows nothing of what was before its start.
    api::stop(cluster);
    api::start(cluster);
    for subscriber in &open {
        assert!(has(subscriber, "shop/goes") && !has(subscriber, "shop/comes"));
    }
    for replica in &replicas {
        api::cut(cluster, &replica.node, &replica.address, false);
    }
    for (subscriber, replica) in open.iter().zip(&replicas) {
        wait("what was missed", NOTICED, || {
            let is = [has(subscriber, "shop/goes"), has(subscriber, "shop/comes")];
            (is == [false, true])
                .then_some(())
                .ok_or_else(|| format!("{is:?}"))
        });
        assert_eq!(subscriber.told().ended, None);
        let said = logs(cluster, replica);
        assert!(said.contains("too old resource version"), "{said}");
    }
    accepted(cluster, "comes");
    assert_eq!(marks(cluster), before);
}

fn control_planes_are_replaced_without_a_request_that_fails(cluster: &Cluster) {
    sends(cluster, "load-control", Duration::from_secs(40));
    for replica in Replica::all(cluster) {
        replica.kill();
    }
    cluster.does(&[
        "-n",
        NAMESPACE,
        "rollout",
        "restart",
        "deployment/ambit-control",
    ]);
    cluster.rolled_out(NAMESPACE, "deployment/ambit-control");
    cluster.apply(&policy("after-control", "a"));
    accepted(cluster, "after-control");
    let counts = sent(cluster, "load-control");
    assert!(counts.all_answered(), "{counts:?}");
}
