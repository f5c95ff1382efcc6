//! NetworkPolicies that let applications' ports through and not the tunnels' port, which carries them once pods are in the
//! mesh. Pure.
//!
//! A policy that lets nothing through is left alone: it means it.

use std::collections::BTreeMap;

use mesh::keys::Keys;
use serde_json::Value;

use super::rules::{Finding, name, namespace};
use crate::status;

/// Where tunnels end.
const TUNNEL: u64 = 15008;

/// Port of names, which are not asked through tunnels.
const DNS: u64 = 53;

#[derive(Clone, Copy, Debug)]
struct Direction {
    policy_type: &'static str,
    rules: &'static str,
    peers: &'static str,
}

const DIRECTIONS: [Direction; 2] = [
    Direction {
        policy_type: "Ingress",
        rules: "ingress",
        peers: "from",
    },
    Direction {
        policy_type: "Egress",
        rules: "egress",
        peers: "to",
    },
];

/// Policies in the way of pods that are in the mesh.
pub(super) fn blocking(
    root: (&str, Keys),
    namespaces: &[Value],
    pods: &[Value],
    policies: &[Value],
) -> Vec<Finding> {
    let mesh = status::mesh(root, namespaces, pods, &[]);
    let mut found = Vec::new();
    for policy in policies {
        let Some(members) = mesh.iter().find(|it| it.name == namespace(policy)) else {
            continue;
        };
        let selected = members
            .pods
            .iter()
            .filter(|pod| pod.is_in() && selects(&policy["spec"]["podSelector"], &pod.labels));
        let count = selected.count();
        if count == 0 {
            continue;
        }
        for direction in DIRECTIONS {
            let beside = policies
                .iter()
                .filter(|it| namespace(it) == namespace(policy));
            found.extend(verdict(policy, direction, beside, count));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(
            "network-policies",
            "none stops tunnels of pods in the mesh",
        ));
    }
    found
}

fn verdict<'a>(
    policy: &Value,
    direction: Direction,
    beside: impl Iterator<Item = &'a Value>,
    pods: usize,
) -> Option<Finding> {
    if !is_for(policy, direction) {
        return None;
    }
    let same = |it: &&Value| {
        is_for(it, direction) && it["spec"]["podSelector"] == policy["spec"]["podSelector"]
    };
    let others: Vec<_> = beside
        .filter(same)
        .flat_map(|it| rules(it, direction))
        .collect();
    let mut patches = Vec::new();
    for (at, rule) in rules(policy, direction).iter().enumerate() {
        let covered = others.iter().any(|other| {
            let reaches =
                other[direction.peers].is_null() || other[direction.peers] == rule[direction.peers];
            reaches && lets_tunnels(other)
        });
        if !covered && is_for_applications(rule, direction) {
            patches.push(format!(
                r#"{{"op":"add","path":"/spec/{}/{at}/ports/-","value":{{"protocol":"TCP","port":{TUNNEL}}}}}"#,
                direction.rules
            ));
        }
    }
    if patches.is_empty() {
        return None;
    }
    let what = format!(
        "lets {} to or from {pods} pods of the mesh through, and not port {TUNNEL}, through which it goes; which ports peers may use is then for an AuthorizationPolicy to say",
        direction.rules
    );
    let repair = format!(
        "kubectl -n {} patch networkpolicy {} --type=json -p '[{}]'",
        namespace(policy),
        name(policy),
        patches.join(",")
    );
    let place = format!("NetworkPolicy {}/{}", namespace(policy), name(policy));
    Some(Finding::error("network-policies", what, repair).at(place))
}

/// Without `policyTypes` a policy is for ingress, and for egress if it has rules of that.
fn is_for(policy: &Value, direction: Direction) -> bool {
    match policy["spec"]["policyTypes"].as_array() {
        Some(types) => types.iter().any(|it| it == direction.policy_type),
        None => direction.policy_type == "Ingress" || !policy["spec"][direction.rules].is_null(),
    }
}

fn rules(policy: &Value, direction: Direction) -> &[Value] {
    policy["spec"][direction.rules]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn lets_tunnels(rule: &Value) -> bool {
    let Some(ports) = rule["ports"].as_array().filter(|ports| !ports.is_empty()) else {
        return true;
    };
    ports
        .iter()
        .filter(|port| is_tcp(port))
        .any(|port| match port["port"].as_u64() {
            Some(first) => (first..=port["endPort"].as_u64().unwrap_or(first)).contains(&TUNNEL),
            // A name is one of a container's, and no container has the tunnels' port; without either it is all ports.
            None => port["port"].is_null(),
        })
}

/// Whether a rule is about connections that the mesh carries.
fn is_for_applications(rule: &Value, direction: Direction) -> bool {
    let ports = rule["ports"].as_array();
    let is_dns = |port: &Value| direction.policy_type == "Egress" && port["port"] == DNS;
    ports.is_some_and(|ports| ports.iter().any(|port| is_tcp(port) && !is_dns(port)))
}

fn is_tcp(port: &Value) -> bool {
    port["protocol"].as_str().unwrap_or("TCP") == "TCP"
}

/// Whether a label selector matches. What it cannot read it takes to match: a check rather says too much.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = wanted
        .into_iter()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    let expressions = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    equal
        && expressions.into_iter().all(|it| {
            let value = labels.get(it["key"].as_str().unwrap_or_default());
            let is_listed = value.is_some_and(|value| {
                it["values"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|it| it == value))
            });
            match it["operator"].as_str() {
                Some("In") => is_listed,
                Some("NotIn") => !is_listed,
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => true,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::rules::Level;

    fn found(spec: &Value) -> Vec<Finding> {
        let namespaces = [
            json!({"metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}}),
        ];
        let pods = [
            json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "cart"}}, "spec": {}, "status": {}}),
        ];
        let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        blocking(
            ("ambit-system", Keys::Shared),
            &namespaces,
            &pods,
            &[policy],
        )
    }

    fn stops(spec: &Value) -> bool {
        found(spec)[0].level == Level::Error
    }

    /// A policy for all pods with these rules of ingress.
    fn ingress(rules: &Value) -> Value {
        json!({"podSelector": {}, "ingress": rules})
    }

    #[test]
    fn a_policy_for_an_applications_port_stops_tunnels() {
        let from = json!([{"podSelector": {}}]);
        for rules in [
            json!([{"ports": [{"protocol": "TCP", "port": 80}]}]),
            json!([{"ports": [{"port": 80}], "from": from}]),
            json!([{"ports": [{"port": "http"}]}]),
            json!([{"ports": [{"port": 80}]}, {"ports": [{"port": 15008}], "from": from}]),
        ] {
            assert!(stops(&ingress(&rules)), "{rules}");
        }
        for rules in [
            json!([{"from": from}]),
            json!([{"ports": [{"port": 15008}]}]),
            json!([{"ports": [{"port": 15000, "endPort": 15010}]}]),
            json!([{"ports": [{"protocol": "TCP"}]}]),
            json!([{"ports": [{"port": 80}]}, {"ports": [{"port": 15008}]}]),
            json!([{"ports": [{"protocol": "UDP", "port": 80}]}]),
            // Denies all, and means it.
            json!([]),
        ] {
            assert!(!stops(&ingress(&rules)), "{rules}");
        }
    }

    #[test]
    fn a_policy_counts_for_the_pods_and_the_directions_that_it_is_for() {
        let port = |number: u64| json!([{"ports": [{"port": number}]}]);
        let selecting =
            |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}, "ingress": port(80)});
        let egress = |kind: &str, number| json!({"podSelector": {}, "policyTypes": [kind], "egress": port(number)});
        for (spec, expected) in [
            (selecting("cart"), true),
            (selecting("other"), false),
            (egress("Egress", 443), true),
            (egress("Egress", 53), false),
            (egress("Ingress", 443), false),
        ] {
            assert_eq!(stops(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn the_repair_lets_the_same_peers_use_tunnels_and_nobody_else() {
        let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}, {"ports": [{"port": 80}]}]});
        let repair = &found(&spec)[0].repair;
        assert_eq!(
            repair,
            r#"kubectl -n shop patch networkpolicy p --type=json -p '[{"op":"add","path":"/spec/ingress/1/ports/-","value":{"protocol":"TCP","port":15008}}]'"#
        );
    }
}
