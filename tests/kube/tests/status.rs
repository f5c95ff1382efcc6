//! What policies say of themselves on a real cluster: written once, by one replica, and right after that one is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path, process::Command, time::Duration};

use control::manifest::{Manifest, manifest};
use serde_json::{Value, json};
use tests_kube::{
    Cluster, Load, Pod,
    mesh::{self, NAMESPACE},
    pod,
    program::{run, wait},
};

const SOON: Duration = Duration::from_secs(60);
const ACCEPTED: &str = "ZtunnelAccepted";
const LEASE: &str = "ambit-control-leader";

fn policy(name: &str, spec: &Value) -> String {
    object("AuthorizationPolicy", name, spec).to_string()
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

fn allow(principal: &str) -> Value {
    json!({"rules": [{"from": [{"source": {"principals": [principal]}}]}]})
}

fn get(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&["-n", "shop", "authorizationpolicy", name])
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|it| it["type"] == kind).cloned()
}

/// The policy, once its condition is this one and about its latest version.
fn told(cluster: &Cluster, name: &str, status: &str) -> Value {
    wait(&format!("{name} to be {status}"), SOON, || {
        let object = get(cluster, name);
        let found = condition(&object, ACCEPTED).unwrap_or_default();
        let is = found["status"] == status
            && found["observedGeneration"] == object["metadata"]["generation"];
        if is {
            Ok(object)
        } else {
            Err(format!("{}", object["status"]))
        }
    })
}

fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

#[test]
fn policies_say_whether_they_are_in_force() {
    let Some(cluster) = Cluster::start("statuses on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=2"]);
    cluster.does(&["create", "namespace", "shop"]);
    cluster.does(&[
        "label",
        "namespace",
        "shop",
        "istio.io/dataplane-mode=ambient",
    ]);

    what_the_api_server_refuses_is_refused_by_the_reader(&cluster);
    a_status_is_written_once_beside_those_of_others(&cluster);
    an_invalid_policy_denies_for_its_scope_and_says_so(&cluster);
    a_leader_that_is_lost_loses_nothing(&cluster);
    a_schema_that_takes_fields_away_closes_its_kind(&cluster);
}

/// Kind, spec, and whether the API server refuses it. What it lets pass may still be refused by the reader, in a status.
fn specs() -> Vec<(&'static str, Value, bool)> {
    let ap = |spec: Value, refused: bool| ("AuthorizationPolicy", spec, refused);
    let pa = |spec: Value, refused: bool| ("PeerAuthentication", spec, refused);
    let rule = |rule: Value, refused: bool| ap(json!({"rules": [rule]}), refused);
    let source = |source: Value| json!({"from": [{"source": source}]});
    let to = |operation: Value| json!({"to": [{"operation": operation}]});
    let web = json!({"matchLabels": {"app": "web"}});
    let target = json!({"group": "", "kind": "Service", "name": "web"});
    vec![
        ap(json!({}), false),
        ap(json!({"action": "DENY", "rules": [{}]}), false),
        ap(json!({"action": "Deny"}), true),
        ap(json!({"action": "CUSTOM"}), true),
        ap(
            json!({"action": "CUSTOM", "provider": {"name": "ext"}}),
            false,
        ),
        ap(json!({"provider": {"name": "ext"}}), true),
        ap(json!({"rulez": []}), false),
        ap(json!({"rules": vec![json!({}); 513]}), true),
        ap(json!({"selector": web}), false),
        ap(json!({"selector": {"matchLabels": {"app": "w*"}}}), true),
        ap(
            json!({"selector": {"matchLabels": {"app": "w".repeat(64)}}}),
            true,
        ),
        ap(json!({"selector": web, "targetRef": target}), true),
        ap(json!({"selector": web, "targetRefs": []}), false),
        ap(json!({"targetRefs": [target, target]}), false),
        ap(json!({"targetRefs": vec![target.clone(); 17]}), true),
        ap(json!({"targetRef": {"kind": "Pod", "name": "web"}}), true),
        ap(
            json!({"targetRef": {"kind": "Service", "name": "web", "namespace": "bank"}}),
            true,
        ),
        ap(
            json!({"targetRef": {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "wp"}}),
            false,
        ),
        rule(
            source(
                json!({"principals": ["a"], "notNamespaces": ["b"], "ipBlocks": ["10.0.0.0/8"]}),
            ),
            false,
        ),
        rule(source(json!({"principals": [""]})), true),
        rule(source(json!({"principalz": ["a"]})), false),
        rule(source(json!({"ipBlocks": ["ten"]})), false),
        rule(source(json!({"serviceAccounts": ["a", "shop/b"]})), false),
        rule(source(json!({"serviceAccounts": ["a/b/c"]})), true),
        rule(
            source(json!({"serviceAccounts": ["a"], "principals": ["b"]})),
            true,
        ),
        rule(json!({"from": [{}]}), true),
        rule(
            to(json!({"ports": ["0", "80", "65535"], "methods": ["GET"], "paths": ["/a/*"]})),
            false,
        ),
        rule(to(json!({"ports": ["65536"]})), true),
        rule(to(json!({"ports": [80]})), true),
        rule(to(json!({"ports": ["http"]})), true),
        rule(json!({"to": [{}]}), true),
        rule(
            json!({"when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}),
            false,
        ),
        rule(
            json!({"when": [{"key": "source.ip", "values": [], "notValues": ["10.0.0.1"]}]}),
            false,
        ),
        rule(json!({"when": [{"key": "source.ip", "values": []}]}), true),
        rule(json!({"when": [{"values": ["x"]}]}), true),
        rule(
            json!({"when": [{"key": "no.such", "values": ["x"]}]}),
            false,
        ),
        pa(json!({}), false),
        pa(json!({"mtls": {"mode": "STRICT"}}), false),
        pa(json!({"mtls": {"mode": "strict"}}), true),
        pa(
            json!({"selector": web, "portLevelMtls": {"80": {"mode": "DISABLE"}}}),
            false,
        ),
        pa(json!({"selector": web, "portLevelMtls": {"0": {}}}), true),
        pa(
            json!({"selector": web, "portLevelMtls": {"http": {}}}),
            true,
        ),
        pa(json!({"portLevelMtls": {"80": {}}}), true),
        (
            "RequestAuthentication",
            json!({"selector": web, "targetRef": target}),
            true,
        ),
        (
            "RequestAuthentication",
            json!({"jwtRules": [{"issuer": "a", "anything": 1}]}),
            false,
        ),
    ]
}

fn what_the_api_server_refuses_is_refused_by_the_reader(cluster: &Cluster) {
    for (kind, spec, refused) in specs() {
        let object = object(kind, "x", &spec);
        let arguments = ["create", "--dry-run=server", "-f", "-"];
        let answer = cluster.kubectl_with(&arguments, &object.to_string());
        assert_eq!(answer.is_err(), refused, "{object} {answer:?}");
        let read = manifest(&object, "");
        assert!(
            !refused || matches!(read, Manifest::Refused(_)),
            "{object} {read:?}"
        );
    }
}

/// How many statuses of policies the API server has been sent that it took, by whomever.
fn writes(cluster: &Cluster) -> f64 {
    let metrics = cluster.does(&["get", "--raw", "/metrics"]);
    let parts = [
        "apiserver_request_total{",
        "code=\"200\"",
        "resource=\"authorizationpolicies\"",
        "subresource=\"status\"",
        "verb=\"PATCH\"",
    ];
    let lines = metrics
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)));
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum()
}

fn a_status_is_written_once_beside_those_of_others(cluster: &Cluster) {
    cluster.apply(&policy("readers", &allow("a")));
    let first = told(cluster, "readers", "True");
    let since = condition(&first, ACCEPTED).unwrap()["lastTransitionTime"].clone();
    assert!(since.is_string(), "{first}");

    let theirs =
        json!({"type": "example.com/Seen", "status": "True", "reason": "Yes", "message": ""});
    let patch = json!([{"op": "add", "path": "/status/conditions/-", "value": theirs}]).to_string();
    let patch = [
        "patch",
        "authorizationpolicy",
        "readers",
        "--subresource=status",
        "--type=json",
        "-p",
        &patch,
    ];
    cluster.does(&[&["-n", "shop"], &patch[..]].concat());
    cluster.apply(&policy("readers", &allow("b")));
    let second = told(cluster, "readers", "True");
    assert_eq!(second["metadata"]["generation"], 2);
    assert_eq!(
        condition(&second, ACCEPTED).unwrap()["lastTransitionTime"],
        since
    );
    assert_eq!(condition(&second, "example.com/Seen"), Some(theirs));

    // Whoever has said this of a later object has seen that one.
    cluster.apply(&policy("later", &allow("c")));
    told(cluster, "later", "True");
    // Two versions of one policy, one of the other, and what another controller wrote here.
    assert_eq!(writes(cluster), 4.0);
    assert_eq!(
        version(&get(cluster, "readers")),
        version(&second),
        "it was written again"
    );
}

fn shop() -> String {
    let echo = |name, node| Pod::running("shop", name, &["echo"]).on(node).to_string();
    [
        echo("client", "kn1"),
        echo("server", "kn2"),
        echo("other", "kn2"),
    ]
    .concat()
}

/// Whether requests of the client are answered.
fn reaches(cluster: &Cluster, pod: &str) -> bool {
    let address = pod::address(cluster, "shop", pod);
    let url = format!("http://{address}:{}/", pod::HTTP);
    let counts = Load::fresh(&url).rate(5).run(cluster, "shop", "client");
    counts.is_ok_and(|counts| counts.failed == 0)
}

fn an_invalid_policy_denies_for_its_scope_and_says_so(cluster: &Cluster) {
    for name in ["readers", "later"] {
        cluster.does(&["-n", "shop", "delete", "authorizationpolicy", name]);
    }
    cluster.apply(&shop());
    pod::ready(cluster, "shop");
    let all = |wanted: [bool; 2]| {
        wait(&format!("the client to reach {wanted:?}"), SOON, || {
            let is = ["server", "other"].map(|pod| reaches(cluster, pod));
            (is == wanted)
                .then_some(())
                .ok_or_else(|| format!("{is:?}"))
        });
    };
    all([true, true]);
    // It denies nobody that there is, and its second rule has a slip.
    let spec = |key: &str| {
        json!({
            "selector": {"matchLabels": {"app": "server"}}, "action": "DENY",
            "rules": [{"from": [{"source": {"principals": ["nobody"]}}]}, {"from": [{"source": {key: ["nobody"]}}]}],
        })
    };
    cluster.apply(&policy("slip", &spec("namespacez")));
    let slip = told(cluster, "slip", "False");
    let found = condition(&slip, ACCEPTED).unwrap();
    let message = found["message"].as_str().unwrap();
    assert!(
        message.contains("spec.rules[1].from[0].source.namespacez"),
        "{found}"
    );
    all([false, true]);
    cluster.apply(&policy("slip", &spec("namespaces")));
    told(cluster, "slip", "True");
    all([true, true]);
    cluster.does(&["-n", "shop", "delete", "authorizationpolicy", "slip"]);
}

fn leader(cluster: &Cluster) -> String {
    let lease = cluster.get(&["-n", NAMESPACE, "lease", LEASE]);
    lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Kills the process of a replica, which gets to do nothing more.
fn kill(replica: &str) {
    let mine = format!("POD_NAME={replica}\0");
    let is_it = |pid: &str| {
        let of = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let environment = of("environ");
        let named = environment
            .windows(mine.len())
            .any(|it| it == mine.as_bytes());
        named && of("cmdline").starts_with(b"/usr/bin/ambit\0control\0")
    };
    let all = fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found: Vec<_> = all
        .filter(|pid| pid.parse::<u32>().is_ok() && is_it(pid))
        .collect();
    assert!(!found.is_empty(), "no process of {replica}");
    run(Command::new("kill").arg("-9").args(&found), "")
        .unwrap_or_else(|failed| panic!("{failed}"));
}

fn a_leader_that_is_lost_loses_nothing(cluster: &Cluster) {
    cluster.apply(&policy("before", &allow("a")));
    let before = told(cluster, "before", "True");
    let first = leader(cluster);
    let replicas = cluster.get(&["-n", NAMESPACE, "pods", "-l", "app=ambit-control"]);
    assert_eq!(replicas["items"].as_array().unwrap().len(), 2);
    let names: Vec<_> = (0..40).map(|i| format!("p{i}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| object("AuthorizationPolicy", name, &allow(name)))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
    cluster.apply(&list.to_string());
    kill(&first);
    // The one that takes its place has another name, as on another node.
    cluster.does(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        &first,
        "--force",
        "--grace-period=0",
    ]);
    cluster.apply(&policy("after", &allow("after")));
    told(cluster, "after", "True");
    for name in &names {
        told(cluster, name, "True");
    }
    assert_ne!(leader(cluster), first);
    assert_eq!(
        version(&get(cluster, "before")),
        version(&before),
        "the next leader wrote the same again"
    );
    let all = [
        &["-n", "shop", "delete", "authorizationpolicy", "before"],
        &names.iter().map(String::as_str).collect::<Vec<_>>()[..],
    ];
    cluster.does(&all.concat());
}

fn a_schema_that_takes_fields_away_closes_its_kind(cluster: &Cluster) {
    const CRD: &str = "authorizationpolicies.security.istio.io";
    let ours = cluster.get(&["crd", CRD]);
    let mut older =
        json!({"apiVersion": ours["apiVersion"], "kind": ours["kind"], "spec": ours["spec"]});
    older["metadata"] = json!({"name": CRD});
    for version in older["spec"]["versions"].as_array_mut().unwrap() {
        let source = "/schema/openAPIV3Schema/properties/spec/properties/rules/items/properties/from/items/properties/source";
        let source = version
            .pointer_mut(source)
            .unwrap()
            .as_object_mut()
            .unwrap();
        source.remove("x-kubernetes-preserve-unknown-fields");
        source.remove("x-kubernetes-validations");
        let properties = source["properties"].as_object_mut().unwrap();
        properties.retain(|key, _| !key.ends_with("erviceAccounts"));
    }
    let replace = |crd: &Value| {
        let done = cluster.kubectl_with(&["replace", "-f", "-"], &crd.to_string());
        done.unwrap_or_else(|failed| panic!("{failed}"));
    };
    replace(&older);
    let closed = told(cluster, "after", "False");
    let found = condition(&closed, ACCEPTED).unwrap();
    let message = found["message"].as_str().unwrap();
    for part in [
        "spec.rules[].from[].source.serviceAccounts",
        "kubectl apply",
    ] {
        assert!(message.contains(part), "{found}");
    }
    let mut again = ours;
    again["metadata"] = json!({"name": CRD});
    replace(&again);
    told(cluster, "after", "True");
}
