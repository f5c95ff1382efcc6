//! Policies as `/config_dump` shows them.

use mesh::model::{
    Action, Effect, Group, IpRange, Match, Policy, Rule, Scope, StringMatch, WorkloadAccount,
};
use serde_json::{Value, json};

use super::object;

/// A layer 4 policy.
pub fn policy(policy: &Policy) -> Value {
    let (namespace, name) = policy
        .name
        .as_str()
        .split_once('/')
        .unwrap_or(("", policy.name.as_str()));
    let scope = match policy.scope {
        Scope::Mesh => "Global",
        Scope::Namespace(_) => "Namespace",
        Scope::Selected => "WorkloadSelector",
    };
    match &policy.effect {
        Effect::DenyAll(reason) => json!({
            "name": name, "namespace": namespace, "scope": scope, "action": "Deny",
            "dryRun": false, "rules": [[]], "notUnderstood": reason,
        }),
        Effect::Rules {
            action,
            dry_run,
            groups,
        } => {
            let rules: Vec<Vec<Vec<Value>>> = groups
                .iter()
                .map(|Group(rules)| {
                    let rule = |Rule(matches): &Rule| matches.iter().map(matched).collect();
                    rules.iter().map(rule).collect()
                })
                .collect();
            let action = match action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            };
            json!({
                "name": name, "namespace": namespace, "scope": scope, "action": action,
                "dryRun": dry_run, "rules": rules,
            })
        }
    }
}

/// What has to hold of a connection, all of it.
pub fn matched(m: &Match) -> Value {
    fn list<T>(values: &[T], one: impl Fn(&T) -> Value) -> Value {
        if values.is_empty() {
            Value::Null
        } else {
            values.iter().map(one).collect()
        }
    }
    let text = |m: &StringMatch| match m {
        StringMatch::Exact(value) => json!({ "Exact": value }),
        StringMatch::Prefix(value) => json!({ "Prefix": value }),
        StringMatch::Suffix(value) => json!({ "Suffix": value }),
        StringMatch::Presence => json!("Presence"),
    };
    let range = |r: &IpRange| json!(format!("{}/{}", r.address, r.length));
    let account = |a: &WorkloadAccount| json!(format!("{}/{}", a.namespace, a.service_account));
    let port = |port: &u16| json!(port);
    object([
        ("namespaces", list(&m.namespaces, text)),
        ("notNamespaces", list(&m.not_namespaces, text)),
        ("principals", list(&m.principals, text)),
        ("notPrincipals", list(&m.not_principals, text)),
        ("sourceIps", list(&m.source_ips, range)),
        ("notSourceIps", list(&m.not_source_ips, range)),
        ("destinationIps", list(&m.destination_ips, range)),
        ("notDestinationIps", list(&m.not_destination_ips, range)),
        ("destinationPorts", list(&m.destination_ports, port)),
        ("notDestinationPorts", list(&m.not_destination_ports, port)),
        ("serviceAccounts", list(&m.service_accounts, account)),
        ("notServiceAccounts", list(&m.not_service_accounts, account)),
    ])
}
