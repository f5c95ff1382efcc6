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
    let mut ways = Vec::new();
    let kinds = [
        ("MutatingWebhookConfiguration", asked.mutating),
        ("ValidatingWebhookConfiguration", asked.validating),
    ];
    for (kind, all) in kinds {
        for configuration in all {
            let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
            let place = format!("{kind} {}", name(configuration));
            ways.extend(webhooks.filter_map(|it| of_webhook(asked, &place, it)));
        }
    }
    for service in asked.services {
        let kind = service["spec"]["type"].as_str().unwrap_or_default();
        if ["NodePort", "LoadBalancer"].contains(&kind) {
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            ways.extend(ports.filter_map(|port| of_service(asked, service, port)));
        }
    }
    if ways.is_empty() {
        let what = "nothing from outside leads to pods that take only mutual TLS";
        return vec![Finding::ok("strict", what)];
    }
    ways.iter().map(|way| way.finding(&ways)).collect()
}

/// A way from outside to pods that take only mutual TLS.
#[derive(Clone, Debug)]
struct Way<'a> {
    /// Whoever comes by it.
    who: String,
    place: String,
    /// It is a fault, and not only maybe one.
    fault: bool,
    service: &'a Value,
    pods: usize,
    /// The pods' own; `None` if it is known by name.
    port: Option<u64>,
    /// The policy that decides for the pods, if it is for some of the namespace only.
    policy: Option<&'a str>,
}

fn of_webhook<'a>(asked: Asked<'a>, place: &str, webhook: &Value) -> Option<Way<'a>> {
    let to = &webhook["clientConfig"]["service"];
    let number = to["port"].as_u64().unwrap_or(443);
    let is_it =
        |it: &&Value| it["metadata"]["name"] == to["name"] && namespace(it) == to["namespace"];
    let service = asked.services.iter().find(is_it)?;
    let mut ports = service["spec"]["ports"].as_array()?.iter();
    let way = Way::of(asked, service, ports.find(|it| it["port"] == number)?)?;
    let called = webhook["name"].as_str().unwrap_or_default();
    Some(Way {
        who: format!("the API server, which has no identity, calls {called} of"),
        place: place.to_owned(),
        fault: true,
        ..way
    })
}

fn of_service<'a>(asked: Asked<'a>, service: &'a Value, port: &Value) -> Option<Way<'a>> {
    let way = Way::of(asked, service, port)?;
    let kind = service["spec"]["type"].as_str().unwrap_or_default();
    Some(Way {
        who: format!("a {kind}, whose clients have no identity, leads to"),
        place: format!("Service {}/{}", namespace(service), name(service)),
        ..way
    })
}

impl<'a> Way<'a> {
    fn of(asked: Asked<'a>, service: &'a Value, port: &Value) -> Option<Self> {
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
        let of = namespace(service);
        let members = asked.mesh.iter().find(|it| it.name == of)?;
        let is_refused = |pod: &&Pod| {
            pod.is_in() && has(&pod.labels, selector) && is_strict(asked, of, &pod.labels, port)
        };
        let mut refused = members.pods.iter().filter(is_refused);
        let first = refused.next()?;
        Some(Self {
            who: String::new(),
            place: String::new(),
            fault: false,
            service,
            pods: 1 + refused.count(),
            port,
            policy: narrow(asked, of, &first.labels).map(name),
        })
    }

    fn finding(&self, all: &[Self]) -> Finding {
        let port = self.port.map(|port| format!("port {port} of "));
        let what = format!(
            "{} {}{} pods that take only mutual TLS (STRICT)",
            self.who,
            port.unwrap_or_default(),
            self.pods
        );
        let found = if self.fault {
            Finding::error
        } else {
            Finding::warning
        };
        found("strict", what, self.repair(all)).at(self.place.as_str())
    }

    /// Plain text to those ports of those pods alone. One policy decides for a pod, so all ways to the same pods get the same.
    fn repair(&self, all: &[Self]) -> String {
        let permissive = json!({"mode": "PERMISSIVE"});
        let (of, selector) = (namespace(self.service), &self.service["spec"]["selector"]);
        let same = all.iter().filter(|it| {
            namespace(it.service) == of
                && it.service["spec"]["selector"] == *selector
                && it.policy == self.policy
        });
        let ports: Option<BTreeMap<_, _>> = same
            .map(|it| Some((it.port?.to_string(), permissive.clone())))
            .collect();
        let open = match ports {
            Some(ports) => json!({"portLevelMtls": ports}),
            None => json!({"mtls": permissive}),
        };
        if let Some(policy) = self.policy {
            let patch = json!({"spec": open});
            return format!(
                "kubectl -n {of} patch peerauthentication {policy} --type=merge -p '{patch}'"
            );
        }
        let mut policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": format!("{}-from-outside", name(self.service)), "namespace": of},
            "spec": open,
        });
        policy["spec"]["selector"] = json!({"matchLabels": selector});
        format!("echo '{policy}' | kubectl apply -f -")
    }
}

/// Policies, the oldest first.
fn oldest(asked: Asked<'_>) -> Vec<&Value> {
    let mut all: Vec<_> = asked.policies.iter().collect();
    all.sort_by_key(|it| {
        let created = it["metadata"]["creationTimestamp"].as_str();
        (created.unwrap_or_default().to_owned(), name(it).to_owned())
    });
    all
}

fn selector(policy: &Value) -> &Value {
    &policy["spec"]["selector"]["matchLabels"]
}

fn is_wide(policy: &Value) -> bool {
    let labels = selector(policy).as_object();
    labels.is_none_or(serde_json::Map::is_empty)
}

/// The policy for a pod that is not for all of its namespace.
fn narrow<'a>(asked: Asked<'a>, of: &str, labels: &Labels) -> Option<&'a Value> {
    let is_it = |it: &&Value| {
        namespace(it) == of && of != asked.root && !is_wide(it) && has(labels, selector(it))
    };
    oldest(asked).into_iter().find(is_it)
}

/// Whether a pod takes only mutual TLS on a port: the oldest policy for it decides, then that of its namespace, then that of
/// the mesh.
fn is_strict(asked: Asked<'_>, of: &str, labels: &Labels, port: Option<u64>) -> bool {
    let wide = |namespace_of: &str| {
        let mut all = oldest(asked).into_iter();
        all.find(|it| namespace(it) == namespace_of && is_wide(it))
    };
    let narrow = narrow(asked, of, labels);
    let mode = |it: &Value, pointer: &str| {
        let mode = it.pointer(pointer).and_then(Value::as_str);
        mode.filter(|mode| *mode != "UNSET").map(str::to_owned)
    };
    let by_port = narrow
        .zip(port)
        .and_then(|(it, port)| mode(it, &format!("/spec/portLevelMtls/{port}/mode")));
    let whole = |it: Option<&Value>| it.and_then(|it| mode(it, "/spec/mtls/mode"));
    let decided = by_port
        .or_else(|| whole(narrow))
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
    fn the_repair_lets_plain_text_to_those_ports_of_those_pods_alone() {
        let all = [policy("shop", &json!({"mtls": {"mode": "STRICT"}}))];
        let mut two = service("NodePort", "web");
        let ports = two["spec"]["ports"].as_array_mut().unwrap();
        ports.push(json!({"port": 80}));
        let (_, repair) = level(&all, &two, false);
        let text = repair.strip_prefix("echo '").unwrap();
        let text = text.strip_suffix("' | kubectl apply -f -").unwrap();
        let mut policies = all.to_vec();
        policies.push(serde_json::from_str(text).unwrap());
        let (found, _) = level(&policies, &two, false);
        assert_eq!(found, Level::Ok, "{repair}");
        let other = json!({"port": 81});
        let ports = two["spec"]["ports"].as_array_mut().unwrap();
        ports.push(other);
        let (found, repair) = level(&policies, &two, false);
        assert_eq!(found, Level::Warning);
        assert_eq!(
            repair,
            r#"kubectl -n shop patch peerauthentication web-from-outside --type=merge -p '{"spec":{"portLevelMtls":{"81":{"mode":"PERMISSIVE"}}}}'"#
        );
    }
}
