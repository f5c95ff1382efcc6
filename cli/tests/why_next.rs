//! What `ambit why` says is to be done, of manifests in which something is in the way: it names the object that is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, process::Command};

use serde_json::Value;

const BASE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: infra}}
---
{apiVersion: v1, kind: Service, metadata: {name: orders, namespace: shop, labels: {istio.io/use-waypoint: wp}}, \
 spec: {clusterIP: 10.96.0.30, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: orders, namespace: shop, labels: {app: orders}}, spec: {nodeName: n1, serviceAccountName: orders}, \
 status: {podIPs: [{ip: 10.1.0.1}], conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, serviceAccountName: web}, \
 status: {podIPs: [{ip: 10.1.0.2}], conditions: [{type: Ready, status: 'True'}]}}
";

fn gateway(namespace: &str, metadata: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: wp, namespace: {namespace}, {metadata}}}, \
         spec: {{gatewayClassName: ambit-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}}}\n"
    )
}

fn policy(kind: &str, name: &str) -> String {
    let group = match kind {
        "Gateway" => "group: gateway.networking.k8s.io, ",
        _ => "",
    };
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, \
         spec: {{targetRefs: [{{{group}kind: {kind}, name: {name}}}], action: DENY, rules: [{{to: [{{operation: {{paths: [/admin*]}}}}]}}]}}}}\n"
    )
}

/// The answer for what pod `web` of `shop` asks.
fn why(name: &str, text: &str, asked: &[&str]) -> Value {
    let path = std::env::temp_dir().join(format!("ambit-next-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("all.yaml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ambit"))
        .args(["why", "shop/web"])
        .args(asked)
        .args(["-o", "json", "-f"])
        .arg(&path)
        .env("AMBIT_RUN_DIR", "/nowhere")
        .output()
        .unwrap();
    let _ = fs::remove_dir_all(&path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn next(answer: &Value) -> &str {
    answer["ways"][0]["end"]["next"]
        .as_str()
        .unwrap_or_default()
}

#[test]
fn a_waypoint_that_does_not_serve_the_service_is_not_to_be_made_again() {
    let elsewhere = BASE.replace(
        "use-waypoint: wp}",
        "use-waypoint: wp, istio.io/use-waypoint-namespace: infra}",
    );
    let text = elsewhere + &gateway("infra", "") + &policy("Service", "orders");
    let answer = why("denied", &text, &["shop/orders"]);
    let said = next(&answer);
    assert!(said.contains("allowedRoutes"), "{answer:#}");
    let shared = BASE.replace("serviceAccountName: web", "serviceAccountName: wp");
    let text = shared + &gateway("shop", "") + &policy("Service", "orders");
    let answer = why("shared", &text, &["shop/orders"]);
    let said = next(&answer);
    assert!(said.contains("service account"), "{answer:#}");
    let unlabelled = BASE.replace("istio.io/use-waypoint: wp", "a: b");
    let text = unlabelled + &gateway("shop", "") + &policy("Service", "orders");
    let answer = why("unlabelled", &text, &["shop/orders"]);
    let said = next(&answer);
    assert!(
        said.contains("no label istio.io/use-waypoint"),
        "{answer:#}"
    );
}

#[test]
fn a_headless_service_with_a_policy_is_not_to_be_asked_by_an_address() {
    let bare = BASE.replace("clusterIP: 10.96.0.30", "clusterIP: None");
    let text = bare + &gateway("shop", "") + &policy("Service", "orders");
    let answer = why("headless", &text, &["10.1.0.1:8080"]);
    let said = next(&answer);
    assert!(said.contains("take the policy away"), "{answer:#}");
    assert!(!said.contains("ask the service"), "{answer:#}");
}

#[test]
fn an_object_that_is_not_understood_is_to_be_corrected() {
    let faulty = BASE.replace("targetPort: 8080", "targetPort: [8080]");
    let text = faulty + &gateway("shop", "") + &policy("Service", "orders");
    let answer = why("faulty", &text, &["10.1.0.1:8080"]);
    let said = next(&answer);
    assert!(said.contains("correct Service shop/orders"), "{answer:#}");
}

#[test]
fn a_pod_of_a_waypoint_for_workloads_is_to_be_relabelled() {
    let labelled = BASE.replace(
        "labels: {app: orders}}",
        "labels: {app: orders, istio.io/use-waypoint: wp}}",
    );
    let text = labelled
        + &gateway("shop", "labels: {istio.io/waypoint-for: workload}")
        + &policy("Gateway", "wp");
    let answer = why("pods", &text, &["10.1.0.1:9999"]);
    let said = next(&answer);
    assert!(said.contains("from the pod"), "{answer:#}");
}

#[test]
fn a_rule_without_a_backend_is_the_one_that_matched() {
    let route = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: nowhere, namespace: shop}, \
         spec: {parentRefs: [{group: '', kind: Service, name: orders}], rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: b}]}}]}]}}\n";
    let text = BASE.to_owned() + &gateway("shop", "") + route;
    let answer = why("nowhere", &text, &["shop/orders"]);
    assert_eq!(answer["ways"][0]["end"]["status"], 500, "{answer:#}");
    assert_eq!(answer["steps"][1]["route"]["name"], "nowhere", "{answer:#}");
}

/// Neither with a certificate nor without one.
#[test]
fn an_address_that_another_namespace_lists_leads_nowhere() {
    let steal = "---\n{apiVersion: v1, kind: Service, metadata: {name: steal, namespace: evil}, spec: {clusterIP: 10.96.0.66, ports: [{name: http, port: 80, targetPort: 8080}]}}\n\
         ---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: steal-1, namespace: evil, labels: {kubernetes.io/service-name: steal}}, \
         addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.1]}]}\n";
    let answer = why("steal", &(BASE.to_owned() + steal), &["evil/steal"]);
    let all = answer.to_string();
    assert!(!all.contains("in plain text"), "{answer:#}");
    assert_eq!(answer["ways"][0]["end"]["outcome"], "refused", "{answer:#}");
    let said = next(&answer);
    assert!(said.contains("pods of other namespaces"), "{answer:#}");
}

fn route(rules: &str) -> String {
    let parent = "{group: '', kind: Service, name: orders}";
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, \
         spec: {{parentRefs: [{parent}], rules: [{rules}]}}}}\n"
    )
}

#[test]
fn a_rule_that_leads_nowhere_is_named_with_what_is_wrong_with_it() {
    const AT: &str = "backendRefs[0] of rule 0 of HTTPRoute shop/r";
    let guard = "{filters: [{type: ExternalAuth, externalAuht: {}}], backendRefs: [{name: orders, port: 80}]}";
    let served = guard.replace("externalAuht", "externalAuth");
    let to = |backend: &str| format!("{{backendRefs: [{{{backend}}}]}}");
    let pay = "---\n{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: infra}, spec: {clusterIP: 10.96.0.31, ports: [{port: 80}]}}\n";
    for (at, (rule, expected)) in [
        (
            guard.to_owned(),
            ["correct HTTPRoute shop/r", "externalAuht: no such field"],
        ),
        (
            served,
            ["rule 0 of HTTPRoute shop/r", "ExternalAuth is not served"],
        ),
        (
            "{matches: [{path: {value: /}}]}".to_owned(),
            ["rule 0 of HTTPRoute shop/r", "names no backend"],
        ),
        (to("name: nope, port: 80"), [AT, "make Service shop/nope"]),
        (to("name: orders, port: 8080"), [AT, "it has 80"]),
        (
            to("name: orders, port: 80, weight: 0"),
            ["rule 0 of HTTPRoute shop/r", "a weight above 0"],
        ),
        (
            to("name: pay, namespace: infra, port: 80"),
            [AT, "make a ReferenceGrant in namespace infra"],
        ),
        (
            to("kind: Bucket, name: orders"),
            [AT, "Bucket is not a kind"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let text = BASE.to_owned() + &gateway("shop", "") + pay + &route(&rule);
        let answer = why(&format!("rule-{at}"), &text, &["shop/orders"]);
        let said = next(&answer);
        assert!(
            expected.iter().all(|it| said.contains(it)),
            "{rule}: {answer:#}"
        );
    }
}

/// Also where two have the name, and the one that is refused stands in for itself.
#[test]
fn of_two_routes_of_a_name_the_faulty_one_is_to_be_corrected() {
    let guard = "{filters: [{type: ExternalAuth, externalAuht: {}}], backendRefs: [{name: orders, port: 80}]}";
    let good = "{backendRefs: [{name: orders, port: 80}]}";
    let text = BASE.to_owned() + &gateway("shop", "") + &route(good) + &route(guard);
    let answer = why("twice", &text, &["shop/orders"]);
    let said = next(&answer);
    assert!(said.contains("correct HTTPRoute shop/r:"), "{answer:#}");
}

#[test]
fn a_waypoint_that_cannot_be_is_told_by_what_is_wrong_with_its_gateway() {
    let policed = |gateway: &str| BASE.to_owned() + gateway + &policy("Service", "orders");
    let of_class = |class: &str| gateway("shop", "").replace("ambit-waypoint", class);
    let faulty = gateway("shop", "").replace("port: 15008", "port: x");
    for (name, gateway, expected) in [
        ("missing", String::new(), "make Gateway shop/wp"),
        (
            "foreign",
            of_class("istio"),
            "Gateway shop/wp is there, but its class istio is not ours",
        ),
        (
            "no-gateway",
            faulty,
            "correct Gateway shop/wp: spec.listeners[0].port",
        ),
    ] {
        let answer = why(name, &policed(&gateway), &["shop/orders"]);
        assert_eq!(answer["ways"][0]["end"]["outcome"], "refused", "{answer:#}");
        assert!(next(&answer).contains(expected), "{answer:#}");
        // Without a policy it is not refused, and told all the same.
        let answer = why(name, &(BASE.to_owned() + &gateway), &["shop/orders"]);
        assert_eq!(answer["arrives"], true, "{answer:#}");
        let said = answer["steps"][0]["status"].to_string();
        assert!(
            said.contains(expected) && said.contains("straight to the endpoints"),
            "{answer:#}"
        );
    }
}

#[test]
fn what_objects_say_of_a_service_is_told_also_where_nothing_is_refused() {
    let elsewhere = "use-waypoint: wp, istio.io/use-waypoint-namespace: infra}";
    let good = route("{backendRefs: [{name: orders, port: 80}]}");
    let mesh = BASE.to_owned() + &gateway("shop", "");
    let cases = [
        (
            BASE.replace("use-waypoint: wp}", elsewhere) + &gateway("infra", ""),
            "allowedRoutes",
        ),
        (
            mesh.clone() + &policy("Service", "order"),
            "AuthorizationPolicy/shop/p: Service order: it is not there",
        ),
        (
            mesh.clone() + &good.replace("name: orders}]", "name: orders, port: 81}]"),
            "it has 80 (http)",
        ),
        (
            mesh.clone() + &good.replace("{group: '', kind: Service, name: orders}", "{name: wp}"),
            "name the Service as parent",
        ),
        (
            mesh.replace("istio.io/use-waypoint: wp", "a: b") + &good,
            "label istio.io/use-waypoint",
        ),
    ];
    for (at, (text, expected)) in cases.into_iter().enumerate() {
        let answer = why(&format!("said-{at}"), &text, &["shop/orders"]);
        assert_eq!(answer["arrives"], true, "{answer:#}");
        let said = answer["steps"][0]["status"].to_string();
        assert!(said.contains(expected), "{expected}: {answer:#}");
    }
    // Not of others.
    let fine = why("fine", &(mesh + &good), &["shop/orders"]);
    assert!(fine["steps"][0]["status"].is_null(), "{fine:#}");
}

#[test]
fn a_policy_that_wants_what_no_node_proxy_sees_says_so_where_it_denies() {
    let selecting = policy("Service", "orders").replace(
        "targetRefs: [{kind: Service, name: orders}], action: DENY",
        "selector: {matchLabels: {app: orders}}, action: ALLOW",
    );
    let text = BASE.to_owned() + &gateway("shop", "") + &selecting;
    let answer = why("selector", &text, &["shop/orders"]);
    let said = next(&answer);
    assert!(
        said.contains("shop/p") && said.contains("targetRefs"),
        "{answer:#}"
    );
}

#[test]
fn a_port_that_is_not_there_is_answered_with_those_that_are() {
    let text = BASE.to_owned() + &gateway("shop", "");
    let answer = why("port", &text, &["shop/orders:8080"]);
    assert!(next(&answer).ends_with("that it has: 80"), "{answer:#}");
}

#[test]
fn whoever_goes_around_a_waypoint_is_told_which_service_leads_there() {
    let other = "---\n{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop, labels: {istio.io/use-waypoint: wp}}, \
         spec: {clusterIP: 10.96.0.40, selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 9090}]}}\n";
    let text = BASE.to_owned() + other + &gateway("shop", "") + &policy("Service", "orders");
    let answer = why("around", &text, &["10.1.0.1:8080"]);
    let said = next(&answer);
    assert!(said.starts_with("ask shop/orders, which"), "{answer:#}");
}
