//! Objects that nobody in their senses would write: each is told so, and none stops another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::Path, time::Duration};

use serde_json::Value;
use tests_kube::{
    Cluster, gateway,
    mesh::{self, NAMESPACE},
    pod,
    program::wait,
    subscriber::Replica,
};

const SOON: Duration = Duration::from_secs(60);

const GATEWAY: &str = "gateway.networking.k8s.io";
const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";

/// An object, as it is sent.
struct Object {
    group: &'static str,
    kind: &'static str,
    /// As fields of JSON, each after a comma.
    metadata: String,
    spec: String,
}

impl Object {
    fn new(group: &'static str, kind: &'static str, spec: impl Into<String>) -> Self {
        Self {
            group,
            kind,
            metadata: String::new(),
            spec: spec.into(),
        }
    }

    fn policy(spec: impl Into<String>) -> Self {
        Self::new(SECURITY, "AuthorizationPolicy", spec)
    }

    /// A policy whose first rule has this source.
    fn source(source: &str) -> Self {
        Self::policy(format!(
            r#"{{"rules":[{{"from":[{{"source":{source}}}]}}]}}"#
        ))
    }

    fn gateway(listeners: &str) -> Self {
        let spec = format!(r#"{{"gatewayClassName":"ambit-waypoint","listeners":{listeners}}}"#);
        Self::new(GATEWAY, "Gateway", spec)
    }

    /// With as many bytes of annotations as an API server takes.
    fn annotated(mut self) -> Self {
        let huge = "é".repeat(120_000);
        self.metadata = format!(r#","annotations":{{"example.com/huge":"{huge}"}}"#);
        self
    }

    fn path(&self) -> String {
        let stem = self.kind.to_ascii_lowercase();
        let plural = match self.kind {
            "GatewayClass" => format!("{stem}es"),
            "Gateway" | "PeerAuthentication" | "RequestAuthentication" => format!("{stem}s"),
            _ => format!("{}ies", stem.trim_end_matches('y')),
        };
        let within = match self.kind {
            "GatewayClass" => "",
            _ => "namespaces/shop/",
        };
        format!("/apis/{}/v1/{within}{plural}", self.group)
    }

    /// Whether the API server takes it.
    fn is_stored(&self, cluster: &Cluster, name: &str) -> bool {
        let Self {
            group,
            kind,
            metadata,
            spec,
        } = self;
        let text = format!(
            r#"{{"apiVersion":"{group}/v1","kind":"{kind}","metadata":{{"name":"{name}"{metadata}}},"spec":{spec}}}"#
        );
        let created = cluster.kubectl_with(&["create", "--raw", &self.path(), "-f", "-"], &text);
        if let Err(failed) = &created {
            let said: String = failed.said.chars().take(300).collect();
            println!("{name}: the API server refuses it: {said}");
        }
        created.is_ok()
    }

    /// Whether there is something to say of it, whatever it is.
    fn is_told(&self) -> bool {
        !["GatewayClass", "PeerAuthentication"].contains(&self.kind)
    }
}

fn nested(depth: usize) -> String {
    format!("{}7{}", r#"{"a":["#.repeat(depth), "]}".repeat(depth))
}

fn policies() -> Vec<Object> {
    let strange = [
        "\\u0000",
        "\\u202e",
        "\u{1f4a5}",
        "../..",
        "*",
        "a\\nb",
        "cluster.local/ns/é/sa/💥",
    ];
    let strange = strange.map(|it| format!("\"{it}\"")).join(",");
    let deep = |depth| format!(r#"{{"namespaces":["a"],"x":{}}}"#, nested(depth));
    let long = "n".repeat(1_000_000);
    let rule = |n| format!(r#"{{"from":[{{"source":{{"namespaces":["{n}"]}}}}]}}"#);
    let many: Vec<_> = (0..500).map(rule).collect();
    let tokens = format!(r#"{{"jwtRules":[{{"issuer":"a","x":{}}}]}}"#, nested(2000));
    vec![
        Object::source(&deep(100)),
        Object::source(&deep(2000)),
        Object::source(&format!(r#"{{"principals":[{strange}]}}"#)),
        Object::source(&format!(
            r#"{{"namespaces":[{strange}],"":null,"\u0000":null}}"#
        )),
        Object::source(&format!(r#"{{"namespaces":["{long}"]}}"#)),
        Object::policy(format!(r#"{{"rules":[{}]}}"#, many.join(","))),
        Object::policy("null"),
        Object::source(r#"{"namespaces":["a"]}"#).annotated(),
        Object::new(SECURITY, "PeerAuthentication", r#"{"mtls":{}}"#).annotated(),
        Object::new(SECURITY, "PeerAuthentication", "null"),
        Object::new(SECURITY, "RequestAuthentication", tokens),
    ]
}

fn others() -> Vec<Object> {
    let mesh = r#""name":"a","port":15008,"protocol":"HBONE""#;
    let listener = |more: &str, deep| format!("[{{{mesh},\"{more}\":{}}}]", nested(deep));
    let entry = |spec: &str| Object::new(NETWORKING, "ServiceEntry", spec);
    vec![
        Object::gateway("null"),
        Object::gateway("7"),
        Object::gateway(r#"[null,7,{},[],{"name":7,"port":"15008","protocol":null}]"#),
        Object::gateway(r#"[{"name":"a","port":99999999999999999999,"protocol":"hbone"}]"#),
        Object::gateway(&listener("x", 3000)),
        Object::gateway(&listener("allowedRoutes", 3000)),
        Object::gateway(&format!(r#"[{{"{}":{{}}}}]"#, "k".repeat(100_000))),
        Object::new(GATEWAY, "Gateway", "7"),
        Object::new(GATEWAY, "Gateway", "null").annotated(),
        Object::new(GATEWAY, "GatewayClass", "[]"),
        Object::new(GATEWAY, "GatewayClass", nested(3000)),
        entry(r#"{"hosts":["*"],"ports":[],"resolution":"SOMEHOW"}"#),
        entry(r#"{"hosts":["💥.example.com"],"addresses":["0.0.0.0/0","::/0"]}"#),
        entry(r#"{"hosts":["a.example.com"],"ports":[{"number":80,"name":"a"}],"endpoints":[{}]}"#),
        Object::new(NETWORKING, "WorkloadEntry", r#"{"address":"unix:///x"}"#),
    ]
}

#[test]
fn no_object_stops_another() {
    let Some(cluster) = Cluster::start("hostile objects on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=1"]);
    cluster.apply(&gateway::api());
    cluster.apply(&pod::namespace("shop", true));
    for kind in ["gateways", "gatewayclasses"] {
        let path = format!("/apis/{GATEWAY}/v1/{kind}");
        wait(kind, SOON, || {
            let served = cluster.kubectl(&["get", "--raw", &path]);
            served.map_err(|failed| failed.to_string())
        });
    }
    let all = policies().into_iter().chain(others()).enumerate();
    let named = all.map(|(number, object)| (format!("h{number}"), object));
    let stored: Vec<_> = named
        .filter(|(name, object)| object.is_stored(&cluster, name))
        .collect();
    println!("{} objects are stored", stored.len());
    assert!(stored.len() >= 20);

    for (name, object) in stored.iter().filter(|(_, object)| object.is_told()) {
        // All of it would be too deep for whoever reads it here.
        let reasons = "jsonpath={.status.conditions[*].reason}";
        let kind = format!("{}.{}", object.kind, object.group);
        wait(&format!("{kind} {name} to have a status"), SOON, || {
            let said = cluster.kubectl(&["get", "-n", "shop", &kind, name, "-o", reasons]);
            let said = said.map_err(|failed| failed.to_string())?;
            let is = !said.trim().is_empty();
            is.then_some(()).ok_or_else(|| "it has none".to_owned())
        });
    }
    good_ones_are_accepted(&cluster, "good");
    // One that is started now finds all of them.
    let replica = Replica::all(&cluster).remove(0);
    replica.remove(&cluster);
    cluster.rolled_out(NAMESPACE, "deployment/ambit-control");
    good_ones_are_accepted(&cluster, "better");
    let pods = cluster.get(&["-n", NAMESPACE, "pods", "-l", "app=ambit-control"]);
    let container = &pods["items"][0]["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0);
}

fn good_ones_are_accepted(cluster: &Cluster, name: &str) {
    let policy = Object::source(r#"{"namespaces":["a"]}"#);
    let gateway = Object::gateway(r#"[{"name":"mesh","port":15008,"protocol":"HBONE"}]"#);
    for (object, condition) in [(policy, "ZtunnelAccepted"), (gateway, "Accepted")] {
        assert!(object.is_stored(cluster, name));
        wait(object.kind, SOON, || {
            let found = cluster.get(&["-n", "shop", object.kind, name]);
            let conditions = found["status"]["conditions"].as_array();
            let is = |it: &Value| it["type"] == condition && it["status"] == "True";
            let is = conditions.is_some_and(|all| all.iter().any(is));
            is.then_some(()).ok_or_else(|| found["status"].to_string())
        });
    }
}
