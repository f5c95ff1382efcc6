//! What comes from outside the mesh to pods that take only mutual TLS: calls of webhooks by the API server, and whatever
//! NodePorts and load balancers bring. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::rules::{Finding, name, namespace};
use crate::status::{Namespace, Pod};

type Labels = BTreeMap<String, String>;

/// What was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Namespace of the mesh itself.
    pub(super) root: &'a str,
    /// Pods of the mesh.
    pub(super) mesh: &'a [Namespace],
    /// PeerAuthentications.
    pub(super) policies: &'a [Value],
    pub(super) services: &'a [Value],
    /// MutatingWebhookConfigurations.
    pub(super) mutating: &'a [Value],
    /// ValidatingWebhookConfigurations.
    pub(super) validating: &'a [Value],
}

/// Whatever is refused there.
pub(super) fn refused(asked: Asked<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let kinds = [
        ("MutatingWebhookConfiguration", asked.mutating),
        ("ValidatingWebhookConfiguration", asked.validating),
    ];
    for (kind, all) in kinds {
        for configuration in all {
            let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
            for webhook in webhooks {
                found.extend(webhook_refused(asked, kind, name(configuration), webhook));
            }
        }
    }
    for service in asked.services {
        let kind = service["spec"]["type"].as_str().unwrap_or_default();
        if !["NodePort", "LoadBalancer"].contains(&kind) {
            continue;
        }
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        for port in ports {
            let Some(into) = Into::of(asked, service, port) else {
                continue;
            };
            let place = format!("Service {}/{}", namespace(service), name(service));
            let what = format!(
                "a {kind}, whose clients have no identity, leads to {}",
                into.what()
            );
            let repair = into.repair(service);
            found.push(Finding::warning("strict", what, repair).at(place));
        }
    }
    if found.is_empty() {
        let what = "nothing from outside leads to pods that take only mutual TLS";
        found.push(Finding::ok("strict", what));
    }
    found
}

fn webhook_refused(
    asked: Asked<'_>,
    kind: &str,
    configuration: &str,
    webhook: &Value,
) -> Option<Finding> {
    let to = &webhook["clientConfig"]["service"];
    let number = to["port"].as_u64().unwrap_or(443);
    let is_it =
        |it: &&Value| it["metadata"]["name"] == to["name"] && namespace(it) == to["namespace"];
    let service = asked.services.iter().find(is_it)?;
    let mut ports = service["spec"]["ports"].as_array()?.iter();
    let port = ports.find(|it| it["port"] == number)?;
    let into = Into::of(asked, service, port)?;
    let what = format!(
        "the API server, which has no identity, calls {} of {}",
        webhook["name"].as_str().unwrap_or_default(),
        into.what()
    );
    let repair = into.repair(service);
    Some(Finding::error("strict", what, repair).at(format!("{kind} {configuration}")))
}

/// Pods behind a port of a service that take only mutual TLS there.
#[derive(Clone, Debug)]
struct Into {
    pods: usize,
    /// The pods' own; `None` if it is known by name.
    port: Option<u64>,
}

impl Into {
    fn of(asked: Asked<'_>, service: &Value, port: &Value) -> Option<Self> {
        let selector = &service["spec"]["selector"];
        if selector.as_object().is_none_or(serde_json::Map::is_empty) {
            return None;
        }
        let target = &port["targetPort"];
        let port = if target.is_null() {
            &port["port"]
        } else {
            target
        };
        let port = port.as_u64();
        let namespace = namespace(service);
        let members = asked.mesh.iter().find(|it| it.name == namespace)?;
        let is_refused = |pod: &&Pod| {
            pod.is_in()
                && has(&pod.labels, selector)
                && is_strict(asked, namespace, &pod.labels, port)
        };
        let pods = members.pods.iter().filter(is_refused).count();
        (pods > 0).then_some(Self { pods, port })
    }

    fn what(&self) -> String {
        let pods = self.pods;
        match self.port {
            Some(port) => format!("port {port} of {pods} pods that take only mutual TLS (STRICT)"),
            None => format!("{pods} pods that take only mutual TLS (STRICT)"),
        }
    }

    /// Plain text to that port of those pods alone.
    fn repair(&self, service: &Value) -> String {
        let permissive = json!({"mode": "PERMISSIVE"});
        let selector = json!({"matchLabels": service["spec"]["selector"]});
        let spec = match self.port {
            Some(port) => {
                json!({"selector": selector, "portLevelMtls": {port.to_string(): permissive}})
            }
            None => json!({"selector": selector, "mtls": permissive}),
        };
        let policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": format!("{}-from-outside", name(service)), "namespace": namespace(service)},
            "spec": spec,
        });
        format!("echo '{policy}' | kubectl apply -f -")
    }
}

/// Whether a pod takes only mutual TLS on a port: the oldest policy for it decides, then that of its namespace, then that of
/// the mesh.
fn is_strict(asked: Asked<'_>, of: &str, labels: &Labels, port: Option<u64>) -> bool {
    let selector = |it: &Value| it["spec"]["selector"]["matchLabels"].clone();
    let is_wide = |it: &Value| {
        selector(it)
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    };
    let mut all: Vec<_> = asked.policies.iter().collect();
    all.sort_by_key(|it| {
        let created = it["metadata"]["creationTimestamp"].as_str();
        (created.unwrap_or_default().to_owned(), name(it).to_owned())
    });
    let wide = |namespace_of: &str| {
        let mut own = all.iter().filter(|it| namespace(it) == namespace_of);
        own.find(|it| is_wide(it)).copied()
    };
    let narrow = all.iter().find(|it| {
        namespace(it) == of && of != asked.root && !is_wide(it) && has(labels, &selector(it))
    });
    let mode = |it: &Value, pointer: &str| {
        let mode = it.pointer(pointer).and_then(Value::as_str);
        mode.filter(|mode| *mode != "UNSET").map(str::to_owned)
    };
    let by_port = narrow
        .zip(port)
        .and_then(|(it, port)| mode(it, &format!("/spec/portLevelMtls/{port}/mode")));
    let whole = |it: Option<&Value>| it.and_then(|it| mode(it, "/spec/mtls/mode"));
    let decided = by_port
        .or_else(|| whole(narrow.copied()))
        .or_else(|| whole(wide(of)))
        .or_else(|| whole(wide(asked.root)));
    decided.as_deref() == Some("STRICT")
}

/// Whether labels have all that is wanted.
fn has(labels: &Labels, wanted: &Value) -> bool {
    let wanted = wanted.as_object().into_iter().flatten();
    wanted
        .into_iter()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::rules::Level, status::State};

    fn members() -> Vec<Namespace> {
        let pod = |app: &str, state| Pod {
            name: app.to_owned(),
            node: "n1".to_owned(),
            runs: true,
            labels: [("app".to_owned(), app.to_owned())].into(),
            state,
        };
        let out = State::Out("not asked".to_owned());
        vec![Namespace {
            name: "shop".to_owned(),
            mode: None,
            pods: vec![pod("web", State::Captured), pod("plain", out)],
        }]
    }

    fn policy(namespace: &str, spec: &Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec})
    }

    fn service(kind: &str, app: &str) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {
            "type": kind, "selector": {"app": app}, "ports": [{"port": 443, "targetPort": 8443}],
        }})
    }

    fn level(policies: &[Value], service: &Value, webhook: bool) -> (Level, String) {
        let to = json!({"name": "web", "namespace": "shop"});
        let hook = json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b.c", "clientConfig": {"service": to}}]});
        let hooks = if webhook { vec![hook] } else { Vec::new() };
        let found = refused(Asked {
            root: "ambit-system",
            mesh: &members(),
            policies,
            services: std::slice::from_ref(service),
            mutating: &[],
            validating: &hooks,
        });
        (found[0].level, found[0].repair.clone())
    }

    #[test]
    fn where_strict_holds_what_has_no_identity_is_found() {
        let strict = json!({"mtls": {"mode": "STRICT"}});
        let open = |port: &str| json!({"selector": {"matchLabels": {"app": "web"}}, "portLevelMtls": {port: {"mode": "PERMISSIVE"}}});
        let mesh = policy("ambit-system", &strict);
        let shop = policy("shop", &strict);
        let permissive = policy("shop", &json!({"mtls": {"mode": "PERMISSIVE"}}));
        for (policies, expected) in [
            (vec![], Level::Ok),
            (vec![shop.clone()], Level::Warning),
            (vec![mesh.clone()], Level::Warning),
            (vec![mesh, permissive], Level::Ok),
            (vec![shop.clone(), policy("shop", &open("8443"))], Level::Ok),
            (
                vec![shop.clone(), policy("shop", &open("80"))],
                Level::Warning,
            ),
            (vec![policy("other", &strict)], Level::Ok),
        ] {
            let (found, _) = level(&policies, &service("NodePort", "web"), false);
            assert_eq!(found, expected, "{policies:?}");
        }
        let all = [shop];
        assert_eq!(
            level(&all, &service("ClusterIP", "web"), false).0,
            Level::Ok
        );
        assert_eq!(
            level(&all, &service("LoadBalancer", "plain"), false).0,
            Level::Ok
        );
        assert_eq!(
            level(&all, &service("ClusterIP", "web"), true).0,
            Level::Error
        );
        assert_eq!(level(&[], &service("ClusterIP", "web"), true).0, Level::Ok);
    }

    #[test]
    fn the_repair_lets_plain_text_to_that_port_of_those_pods_alone() {
        let all = [policy("shop", &json!({"mtls": {"mode": "STRICT"}}))];
        let (_, repair) = level(&all, &service("NodePort", "web"), false);
        let text = repair.strip_prefix("echo '").unwrap();
        let text = text.strip_suffix("' | kubectl apply -f -").unwrap();
        let mut policies = all.to_vec();
        policies.push(serde_json::from_str(text).unwrap());
        let (found, _) = level(&policies, &service("NodePort", "web"), false);
        assert_eq!(found, Level::Ok, "{repair}");
    }
}
