//! Several replicas of the control plane: they serve the same, whoever writes, and whoever is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use control::phase::PATIENCE;
use serde_json::{Value, json};
use tests_kube::{
    Cluster, Pod, gateway,
    mesh::{self, NAMESPACE},
    pod,
    program::wait,
    subscriber::{self, Answers, NODE, Replica, State, Subscriber, WAYPOINT},
};

const SOON: Duration = Duration::from_secs(60);

/// Nobody can say whom it denies.
const INVALID: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: slip, namespace: shop}
spec:
  selector: {matchLabels: {app: other}}
  action: DENY
  rules: [{from: [{source: {namespacez: [bank]}}]}]
";

/// Whoever is behind that waypoint denies who goes around it.
const GUARD: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

#[test]
fn replicas_serve_the_same_whoever_is_lost() {
    let Some(cluster) = Cluster::start("replicas on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=2"]);
    cluster.apply(&gateway::api());
    cluster.apply(&shop());
    let own = "gateway.networking.k8s.io/gateway-name=wp";
    cluster.does(&["-n", "shop", "label", "pod", "wp", own]);
    // The kinds of Gateways may not be served yet.
    wait("the Gateway", SOON, || {
        let applied = cluster.kubectl_with(&["apply", "-f", "-"], gateway::WAYPOINT);
        applied.map_err(|failed| failed.to_string())
    });
    cluster.apply(INVALID);
    cluster.apply(GUARD);
    pod::ready(&cluster, "shop");

    both_serve_the_same_bytes(&cluster);
    both_serve_the_same_while_a_binding_is_under_way(&cluster);
    a_step_takes_no_longer_than_its_answers(&cluster);
    one_that_says_nothing_is_waited_for_until_its_lease_is_over(&cluster);
    a_binding_goes_on_without_its_leader(&cluster);
    one_that_is_started_again_serves_the_same(&cluster);
    statuses_go_on_without_their_leader(&cluster);
    owners_are_warned_once(&cluster);
    a_faulty_configuration_is_told_once(&cluster);
}

fn shop() -> String {
    [
        pod::namespace("shop", true),
        Pod::echo("shop", "orders")
            .on("kn1")
            .account("orders")
            .to_string(),
        Pod::echo("shop", "other").on("kn2").to_string(),
        Pod::echo("shop", "wp").on("kn2").account("wp").to_string(),
        pod::service("shop", "orders"),
        pod::service("shop", "other"),
    ]
    .concat()
}

/// What each replica tells a proxy of a node, and a waypoint.
fn told(cluster: &Cluster) -> Vec<(String, State)> {
    let node = subscriber::node_token(cluster);
    let waypoint = subscriber::token(cluster, ("shop", "wp"), "wp");
    let replicas = Replica::all(cluster);
    assert_eq!(replicas.len(), 2);
    let open = replicas.iter().map(|replica| {
        let node = replica.subscribe(cluster, &node, NODE, Answers::Accepts);
        let waypoint = replica.subscribe(cluster, &waypoint, WAYPOINT, Answers::Accepts);
        (replica.name.clone(), node, waypoint)
    });
    let open: Vec<_> = open.collect();
    let all = open.into_iter().map(|(name, node, waypoint)| {
        let mut state = node.all(NODE);
        state.extend(waypoint.all(WAYPOINT));
        (name, state)
    });
    all.collect()
}

/// What differs, in words.
fn difference(one: &State, other: &State) -> Vec<String> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name));
    let version = |state: &State, name| state.get(name).map(|(version, _)| version.clone());
    let shown = differ.map(|name| {
        format!(
            "{name:?}: {:?} {:?}",
            version(one, name),
            version(other, name)
        )
    });
    shown.collect()
}

/// Waits until both serve the same, and what.
fn same(cluster: &Cluster, what: &str) -> State {
    wait(what, SOON, || {
        let all = told(cluster);
        let [(one, first), (other, second)] = &all[..] else {
            return Err("not two".to_owned());
        };
        let difference = difference(first, second);
        match difference.is_empty() {
            true => Ok(first.clone()),
            false => Err(format!("{one} and {other}: {difference:#?}")),
        }
    })
}

fn has(state: &State, name: &str) -> bool {
    state.keys().any(|(_, it)| it.contains(name))
}

fn both_serve_the_same_bytes(cluster: &Cluster) {
    // What a replica has not seen yet the other may have.
    let state = wait("all that is there", SOON, || {
        let state = same(cluster, "the same of both");
        let all = [
            "shop/orders.shop.svc.cluster.local",
            "/shop/other",
            "shop/slip",
        ];
        let lacks: Vec<_> = all.into_iter().filter(|it| !has(&state, it)).collect();
        match lacks.is_empty() {
            true => Ok(state),
            false => Err(format!("{lacks:?} of {:?}", state.keys())),
        }
    });
    assert!(state.len() > 8, "{:?}", state.keys());
}

/// The phase of the binding of the service, as it is stored.
fn phase(cluster: &Cluster) -> Option<String> {
    let service = cluster.get(&["-n", "shop", "service", "orders"]);
    let conditions = service["status"]["conditions"].as_array()?.clone();
    let said = conditions
        .iter()
        .find(|it| it["type"] == "ambit.dev/Binding")?;
    let line: Value = serde_json::from_str(said["message"].as_str()?).ok()?;
    Some(line["phase"].as_str()?.to_owned())
}

fn reaches(cluster: &Cluster, wanted: Option<&str>) {
    wait(&format!("the binding to be {wanted:?}"), SOON, || {
        let found = phase(cluster);
        let is = found.as_deref() == wanted;
        is.then_some(()).ok_or_else(|| format!("{found:?}"))
    });
}

fn label(cluster: &Cluster, label: &str) {
    cluster.does(&["-n", "shop", "label", "service", "orders", label]);
}

/// A waypoint that accepts all that it is told, at each replica.
fn waypoints(cluster: &Cluster) -> Vec<Subscriber> {
    let token = subscriber::token(cluster, ("shop", "wp"), "wp");
    let replicas = Replica::all(cluster);
    let open = replicas
        .iter()
        .map(|replica| replica.subscribe(cluster, &token, WAYPOINT, Answers::Accepts));
    open.collect()
}

fn both_serve_the_same_while_a_binding_is_under_way(cluster: &Cluster) {
    let _waypoints = waypoints(cluster);
    let node = subscriber::node_token(cluster);
    let replicas = Replica::all(cluster);
    let silent: Vec<_> = replicas
        .iter()
        .map(|replica| replica.subscribe(cluster, &node, NODE, Answers::Silent))
        .collect();
    silent.iter().for_each(|it| drop(it.all(NODE)));
    label(cluster, "istio.io/use-waypoint=wp");
    reaches(cluster, Some("told"));
    let begun = Instant::now();
    let state = same(cluster, "the same of both while the waypoint is told");
    assert_eq!(
        phase(cluster).as_deref(),
        Some("told"),
        "after {:?}",
        begun.elapsed()
    );
    let tables = state.keys().filter(|(kind, _)| kind == proto::TABLE_TYPE);
    assert_eq!(tables.count(), 1, "{:?}", state.keys());
    drop(silent);
    reaches(cluster, Some("enforced"));
    same(cluster, "the same of both once it is bound");
}

fn unbind(cluster: &Cluster) {
    label(cluster, "istio.io/use-waypoint-");
    reaches(cluster, None);
}

/// How long a binding takes from its wish to its end.
fn bind(cluster: &Cluster) -> Duration {
    let _waypoints = waypoints(cluster);
    let begun = Instant::now();
    label(cluster, "istio.io/use-waypoint=wp");
    reaches(cluster, Some("enforced"));
    let took = begun.elapsed();
    println!("bound within {took:?}");
    took
}

fn a_step_takes_no_longer_than_its_answers(cluster: &Cluster) {
    unbind(cluster);
    let took = bind(cluster);
    assert!(took < PATIENCE, "{took:?}");
}

fn one_that_says_nothing_is_waited_for_until_its_lease_is_over(cluster: &Cluster) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "silent", "namespace": NAMESPACE, "labels": {"app": "ambit-control"}},
        "spec": {"holderIdentity": "silent", "renewTime": "2020-01-01T00:00:00.000000Z"},
    });
    unbind(cluster);
    cluster.apply(&lease.to_string());
    let took = bind(cluster);
    assert!(took >= PATIENCE, "{took:?}");
    // Its clock is not ours: it is over as long after it was seen as it lasts.
    wait("nobody to wait for it", SOON, || {
        unbind(cluster);
        let took = bind(cluster);
        (took < PATIENCE)
            .then_some(())
            .ok_or_else(|| format!("{took:?}"))
    });
    cluster.does(&["-n", NAMESPACE, "delete", "lease", "silent"]);
}

fn leader(cluster: &Cluster) -> Replica {
    let name = Replica::leader(cluster);
    let mut all = Replica::all(cluster).into_iter();
    all.find(|it| it.name == name).unwrap()
}

fn a_binding_goes_on_without_its_leader(cluster: &Cluster) {
    unbind(cluster);
    let _waypoints = waypoints(cluster);
    let silent = subscriber::node_token(cluster);
    let silent = leader(cluster).subscribe(cluster, &silent, NODE, Answers::Silent);
    silent.all(NODE);
    label(cluster, "istio.io/use-waypoint=wp");
    reaches(cluster, Some("told"));
    let first = leader(cluster);
    first.remove(cluster);
    reaches(cluster, Some("enforced"));
    assert_ne!(Replica::leader(cluster), first.name);
    cluster.rolled_out(NAMESPACE, "deployment/ambit-control");
    same(cluster, "the same of both once it is bound");
}

fn policies(count: usize) -> Vec<Value> {
    let one = |number: usize| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("p{number}"), "namespace": "shop"},
            // Every third has a slip.
            "spec": {"action": "DENY", "rules": [{"from": [{"source":
                if number.is_multiple_of(3) { json!({"namespacez": ["a"]}) } else { json!({"namespaces": ["a"]}) }
            }]}]},
        })
    };
    (0..count).map(one).collect()
}

const OURS: &str = "ZtunnelAccepted";

/// What is said of each policy.
fn conditions(cluster: &Cluster) -> BTreeMap<String, Vec<Value>> {
    let all = cluster.get(&["-n", "shop", "authorizationpolicies"]);
    let all = all["items"].as_array().into_iter().flatten().map(|it| {
        let name = it["metadata"]["name"].as_str().unwrap_or_default();
        let conditions = it["status"]["conditions"].as_array();
        (name.to_owned(), conditions.cloned().unwrap_or_default())
    });
    all.collect()
}

fn statuses_go_on_without_their_leader(cluster: &Cluster) {
    const MANY: usize = 300;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": policies(MANY)});
    let theirs =
        json!({"type": "example.com/Seen", "status": "True", "reason": "Yes", "message": ""});
    let patch = json!({"status": {"conditions": [theirs]}}).to_string();
    let get = || conditions(cluster);
    let first = leader(cluster);
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.apply(&list.to_string()));
        // What another controller says stands there before ours, and what stood there of ours goes.
        let patched = wait("some of them", SOON, || {
            let first = [
                "-n",
                "shop",
                "patch",
                "authorizationpolicy",
                "p0",
                "--subresource=status",
            ];
            let patched = [&first[..], &["--type=merge", "-p", &patch]].concat();
            cluster
                .kubectl(&patched)
                .map_err(|failed| failed.to_string())
        });
        assert!(patched.contains("p0"), "{patched}");
        wait("some statuses", SOON, || {
            let written = get().values().filter(|it| !it.is_empty()).count();
            (written > 20)
                .then_some(())
                .ok_or_else(|| written.to_string())
        });
        first.remove(cluster);
        let written = get().values().filter(|it| !it.is_empty()).count();
        println!("{written} of {MANY} statuses were written");
    });
    wait("all statuses", SOON, || {
        let all = get();
        let wrong = (0..MANY).filter_map(|number| {
            let conditions = &all[&format!("p{number}")];
            let ours: Vec<_> = conditions.iter().filter(|it| it["type"] == OURS).collect();
            let expected = if number.is_multiple_of(3) {
                "False"
            } else {
                "True"
            };
            let is = ours.len() == 1 && ours[0]["status"] == expected;
            let is_alone = conditions.len() == if number == 0 { 2 } else { 1 };
            (!is || !is_alone).then(|| format!("p{number}: {conditions:?}"))
        });
        let wrong: Vec<_> = wrong.collect();
        wrong
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{} {:?}", wrong.len(), wrong.first()))
    });
    assert!(get()["p0"].contains(&theirs), "{:?}", get()["p0"]);
    assert_ne!(Replica::leader(cluster), first.name);
    cluster.rolled_out(NAMESPACE, "deployment/ambit-control");
    same(cluster, "the same of both with many policies");
}

/// The Events that warn of an object.
fn warned(cluster: &Cluster, (namespace, kind): (&str, &str), name: &str) -> Vec<Value> {
    let field = format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning");
    let events = cluster.get(&["-n", namespace, "events", "--field-selector", &field]);
    events["items"].as_array().cloned().unwrap_or_default()
}

const POLICY: (&str, &str) = ("shop", "AuthorizationPolicy");

/// Also with a third leader, each object that is refused has one.
fn owners_are_warned_once(cluster: &Cluster) {
    for name in ["slip", "p0", "p3", "p297"] {
        let events = wait(name, SOON, || {
            let events = warned(cluster, POLICY, name);
            (!events.is_empty())
                .then_some(events)
                .ok_or_else(String::new)
        });
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["reason"], "Invalid");
        let message = events[0]["message"].as_str().unwrap();
        assert!(message.contains("namespacez"), "{message}");
    }
    assert_eq!(warned(cluster, POLICY, "p1"), Vec::<Value>::new());
    cluster.apply(&INVALID.replace("namespacez", "namezpaces"));
    wait("what is wrong in another way", SOON, || {
        let events = warned(cluster, POLICY, "slip");
        (events.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{events:?}"))
    });
}

fn a_faulty_configuration_is_told_once(cluster: &Cluster) {
    let mesh = "rootNamespace: elsewhere";
    let patch = json!({"data": {"mesh": mesh}}).to_string();
    cluster.does(&["-n", NAMESPACE, "patch", "configmap", "ambit", "-p", &patch]);
    let of_mesh = || warned(cluster, (NAMESPACE, "ConfigMap"), "ambit").len();
    wait("a warning of the configuration", SOON, || {
        (of_mesh() == 1)
            .then_some(())
            .ok_or_else(|| of_mesh().to_string())
    });
    // What follows is compiled with the same configuration.
    cluster.apply(&INVALID.replace("namespacez", "namespazes"));
    wait("a third way", SOON, || {
        (warned(cluster, POLICY, "slip").len() == 3)
            .then_some(())
            .ok_or_else(String::new)
    });
    assert_eq!(of_mesh(), 1);
    for replica in Replica::all(cluster) {
        let said = cluster.does(&["-n", NAMESPACE, "logs", &replica.name]);
        let times = said.matches("the mesh is not configured by it").count();
        assert_eq!(times, 1, "{said}");
    }
}

fn one_that_is_started_again_serves_the_same(cluster: &Cluster) {
    let before = same(cluster, "the same of both");
    for replica in Replica::all(cluster) {
        replica.kill();
        wait("it to serve again", SOON, || {
            let pods = cluster.get(&["-n", NAMESPACE, "pod", &replica.name]);
            let it = &pods["status"]["containerStatuses"][0];
            let again = it["ready"] == true && it["restartCount"] == json!(1);
            again.then_some(()).ok_or_else(|| it.to_string())
        });
        let after = same(cluster, "the same of both after a start");
        assert_eq!(difference(&before, &after), Vec::<String>::new());
    }
}
