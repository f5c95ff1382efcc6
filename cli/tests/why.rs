//! `ambit why` on the demo's manifests, compared with what it said before: one question for each thing that the demo checks at
//! layer 7. `UPDATE=1 cargo test -p cli --test why` writes the answers anew; they are in `why/`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

const DEMO: &str = "deploy/demo";

/// In the root of the repository, so that answers name no place of this machine.
fn why(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ambit"))
        .arg("why")
        .args(arguments)
        .current_dir(format!("{}/..", env!("CARGO_MANIFEST_DIR")))
        .env("NO_COLOR", "1")
        .env("AMBIT_RUN_DIR", "/nowhere")
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = why(&[arguments, &["-o", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Compares with the file of this name.
fn golden(name: &str, arguments: &[&str], code: i32) {
    let output = why(&[arguments, &["-f", DEMO]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{name}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = format!("{}/tests/why/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = format!("$ ambit why {} -f {DEMO}\n{said}", quoted(arguments));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&file).unwrap();
    assert!(
        text == expected,
        "{file} says otherwise; UPDATE=1 writes it anew.\n--- is now\n{text}--- was\n{expected}"
    );
}

fn quoted(arguments: &[&str]) -> String {
    let one = |text: &&str| {
        if text.contains(' ') {
            format!("'{text}'")
        } else {
            (*text).to_owned()
        }
    };
    arguments.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn canary() {
    golden("canary.txt", &["web", "orders.shop"], 0);
    golden("canary.json", &["web", "orders.shop", "-o", "json"], 0);
}

#[test]
fn header_route() {
    let tester = "User-Agent: tester/1.0";
    golden(
        "header-route.txt",
        &["web", "shop/orders", "--header", tester],
        0,
    );
}

#[test]
fn l7_allow() {
    let checkout = ["--method", "POST", "--path", "/checkout/7"];
    let ask = |from| [&[from, "shop/orders"], &checkout[..]].concat();
    golden("l7-allow.txt", &ask("shop/web"), 0);
    golden("l7-not-allowed.txt", &ask("shop/cart"), 1);
}

#[test]
fn l7_deny() {
    let ask = |path| ["web", "orders.shop:http", "--path", path];
    golden("l7-deny.txt", &ask("/admin/users"), 1);
    golden("l7-deny-dots.txt", &ask("/x/../admin/users"), 1);
    golden("l7-deny-rewritten.txt", &ask("/api/v1/admin"), 1);
    golden(
        "l7-deny.json",
        &[&ask("/admin")[..], &["-o", "json"]].concat(),
        1,
    );
}

#[test]
fn rewrite() {
    let path = "/api/v1/items/7?all";
    golden("rewrite.txt", &["web", "orders.shop", "--path", path], 0);
}

#[test]
fn redirect() {
    golden(
        "redirect.txt",
        &["web", "orders.shop", "--path", "/old/page"],
        1,
    );
}

#[test]
fn timeout() {
    golden(
        "timeout.txt",
        &["web", "orders.shop", "--path", "/delay/4s"],
        0,
    );
}

#[test]
fn l4_behind_waypoint() {
    golden(
        "l4-behind-waypoint.txt",
        &["web", "orders.shop", "--path", "/headers"],
        0,
    );
    golden("l4-not-allowed.txt", &["batch", "orders.shop"], 1);
}

#[test]
fn around_waypoint() {
    golden("around-waypoint.txt", &["web", "shop/orders-v1"], 1);
    golden("around-by-address.txt", &["web", "10.71.1.13:8080"], 1);
    golden(
        "around-in-plain-text.txt",
        &["legacy", "10.71.2.12:8080"],
        1,
    );
}

#[test]
fn no_waypoint() {
    golden("no-waypoint.txt", &["web", "cart.shop:http"], 0);
    golden("l4-deny.txt", &["batch", "cart.shop:http"], 1);
    golden("strict.txt", &["legacy", "10.71.1.20:8080"], 1);
    golden("outside.txt", &["web", "203.0.113.7:443"], 0);
}

/// Manifests of this test's own, removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ambit-why-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let demo = format!("{}/../{DEMO}", env!("CARGO_MANIFEST_DIR"));
        for file in fs::read_dir(demo).unwrap() {
            let file = file.unwrap().path();
            fs::copy(&file, path.join(file.file_name().unwrap())).unwrap();
        }
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let file = self.0.join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{} has no {from}", file.display());
        fs::write(file, text.replace(from, to)).unwrap();
    }

    fn add(&self, text: &str) {
        fs::write(self.0.join("more.yaml"), text).unwrap();
    }

    fn why(&self, arguments: &[&str]) -> Value {
        json(&[arguments, &["-f", self.path()]].concat())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shares(answer: &Value) -> Vec<(String, f64)> {
    let ways = answer["ways"].as_array().unwrap().iter();
    let each = ways.map(|way| {
        let name = way["choices"][0]["name"].as_str().unwrap_or_default();
        (name.to_owned(), way["share"].as_f64().unwrap())
    });
    each.collect()
}

#[test]
fn edited_manifests_change_the_answer() {
    let scratch = Scratch::new("edit");
    let ask = ["web", "orders.shop"];
    assert_eq!(shares(&scratch.why(&ask))[1].1, 0.1);
    scratch.edit("orders.yaml", "weight: 90", "weight: 30");
    assert_eq!(shares(&scratch.why(&ask))[1].1, 0.25);
    scratch.edit("orders.yaml", "methods: [GET]", "methods: [PUT]");
    let denied = scratch.why(&ask);
    assert_eq!(denied["ways"][0]["end"]["status"], 403, "{denied:#}");
    scratch.edit(
        "orders.yaml",
        "labels: {istio.io/use-waypoint: waypoint}",
        "labels: {}",
    );
    // A policy about requests is not gone around by taking the label away.
    let unlabelled = scratch.why(&ask);
    let end = &unlabelled["ways"][0]["end"];
    assert_eq!(end["outcome"], "refused", "{unlabelled:#}");
}

#[test]
fn an_unknown_waypoint_is_refused_and_not_gone_around() {
    let scratch = Scratch::new("unknown");
    scratch.edit(
        "orders.yaml",
        "istio.io/use-waypoint: waypoint",
        "istio.io/use-waypoint: missing",
    );
    let answer = scratch.why(&["web", "orders.shop"]);
    let end = &answer["ways"][0]["end"];
    assert_eq!(end["outcome"], "refused", "{answer:#}");
    assert!(
        end["next"]
            .as_str()
            .is_some_and(|it| it.contains("Gateway")),
        "{end:#}"
    );
}

/// Sends all of it to another service of the shop.
fn send_to(scratch: &Scratch, other: &str) {
    let backends = "    - {name: orders-v1, port: 80, weight: 90}\n    - {name: orders-v2, port: 80, weight: 10}\n";
    let to = format!("    - {{name: {other}, port: 80}}\n");
    scratch.edit("orders.yaml", backends, &to);
}

#[test]
fn a_backend_that_does_not_let_the_waypoint_in_names_it() {
    let scratch = Scratch::new("backend");
    send_to(&scratch, "cart");
    scratch.add(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]
",
    );
    let answer = scratch.why(&["web", "orders.shop"]);
    let end = &answer["ways"][0]["end"];
    assert_eq!(
        (&end["status"], &end["flags"]),
        (&503.into(), &"UF".into()),
        "{answer:#}"
    );
    let next = end["next"].as_str().unwrap();
    assert!(
        next.contains("spiffe://cluster.local/ns/shop/sa/waypoint")
            && next.contains("shop/only-web"),
        "{next}"
    );
}

#[test]
fn a_chain_goes_through_the_other_waypoint_with_the_first_as_its_client() {
    let scratch = Scratch::new("chain");
    send_to(&scratch, "cart");
    scratch.edit(
        "shop.yaml",
        "metadata: {name: cart, namespace: shop}\nspec:\n  clusterIP",
        "metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: second}}\nspec:\n  clusterIP",
    );
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: second, namespace: shop}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart-api, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  action: ALLOW
  rules: [{from: [{source: {principals: [CLIENTS]}}]}]
";
    let (web, waypoint) = (
        "cluster.local/ns/shop/sa/web",
        "cluster.local/ns/shop/sa/waypoint",
    );
    let mut outcomes = Vec::new();
    for clients in [
        web.to_owned(),
        waypoint.to_owned(),
        format!("{web}, {waypoint}"),
    ] {
        scratch.add(&gateway.replace("CLIENTS", &clients));
        let answer = scratch.why(&["web", "orders.shop"]);
        let way = &answer["ways"][0];
        let steps = way["steps"].as_array().unwrap().iter();
        let at = steps.filter(|step| step["at"] == "waypoint").count();
        let end = &way["end"];
        outcomes.push((at, end["outcome"].as_str().unwrap().to_owned()));
        let next = end["next"].as_str().unwrap_or_default();
        let missing = if clients == web { waypoint } else { web };
        assert!(
            end["next"].is_null() || next.contains(missing),
            "{answer:#}"
        );
    }
    // The first waypoint asks for web, and the second one is asked by the first.
    let told = |at, outcome: &str| (at, outcome.to_owned());
    assert_eq!(
        outcomes,
        [
            told(2, "denied"),
            told(1, "denied"),
            told(3, "reaches the application")
        ]
    );
}

#[test]
fn a_consumers_route_is_judged_by_what_it_makes_of_a_request() {
    let scratch = Scratch::new("consumer");
    let clients = "cluster.local/ns/shop/sa/cart]";
    let more = "cluster.local/ns/shop/sa/cart, cluster.local/ns/bank/sa/audit]";
    scratch.edit("orders.yaml", clients, more);
    scratch.edit(
        "orders.yaml",
        "namespaces: [shop]",
        "namespaces: [shop, bank]",
    );
    scratch.add(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: bank}
spec:
  parentRefs: [{group: '', kind: Service, name: orders, namespace: shop}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /open}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /admin}}}]
    backendRefs: [{name: orders, namespace: shop, port: 80}]
  - backendRefs: [{name: orders, namespace: shop, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: bank, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank}]
  to: [{group: '', kind: Service}]
",
    );
    let ask = |path| scratch.why(&["bank/audit", "shop/orders", "--path", path]);
    let answer = ask("/x");
    let end = &answer["ways"][0]["end"];
    assert_eq!(end["outcome"], "reaches the application", "{answer:#}");
    let answer = ask("/open/x");
    let way = &answer["ways"][0];
    let text = way["end"]["text"].as_str().unwrap();
    assert_eq!(way["end"]["status"], 403, "{answer:#}");
    assert!(text.contains("shop/orders-no-admin"), "{text}");
    let steps = serde_json::to_string(&way["steps"]).unwrap();
    assert!(
        steps.contains("judge what it makes of the request, too"),
        "{steps}"
    );
}

#[test]
fn problems_are_told_beside_the_answer() {
    let scratch = Scratch::new("problem");
    scratch.add(
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: y}\nspec: {ports: 5}\n",
    );
    let output = why(&["web", "orders.shop", "-f", scratch.path()]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("more.yaml") && said.contains("ports"),
        "{said}"
    );
}

#[test]
fn wrong_questions_are_two_and_nobody_there_three() {
    for wrong in [
        &["nobody", "orders.shop"][..],
        &["web", "nobody.shop"],
        &["web", "cart.shop"],
        &["web", "orders.shop:grpc"],
        &["web", "orders.shop", "--header", "x"],
        &["web", "orders.shop", "--header", "Content-Length: 5"],
        &[
            "web",
            "orders.shop",
            "--header",
            "transfer-encoding: chunked",
        ],
        &[
            "web",
            "orders.shop",
            "--header",
            "host: a",
            "--header",
            "Host: b",
        ],
        &["web", "orders.shop", "--method", "G T"],
        &["web", "orders.shop", "--method", "CONNECT"],
    ] {
        let output = why(&[wrong, &["-f", DEMO]].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    let output = why(&["web", "orders.shop"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(!Path::new("/nowhere").exists());
    let output = why(&["web", "orders.shop", "-f", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
}
