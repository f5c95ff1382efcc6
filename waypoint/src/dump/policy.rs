//! Policies about requests as `/config_dump` shows them: in words of AuthorizationPolicy.

use std::{collections::BTreeMap, sync::Arc};

use mesh::{
    http::authorize::{Action, Condition, Effect, Operation, PathPattern, Policy, Rule, Source},
    model::StringMatch,
    waypoint::Generation,
};
use net::dump::{matched, object};
use serde_json::{Value, json};

use super::list;

/// Every policy in force once.
pub(super) fn policies(generation: &Generation) -> Vec<Value> {
    let tables = generation.tables().flat_map(|table| table.policies.iter());
    let backends = generation
        .backends()
        .flat_map(|backend| backend.policies.iter());
    let all = tables
        .chain(backends)
        .map(|policy| (policy.name.as_str(), policy));
    let all: BTreeMap<&str, &Arc<Policy>> = all.collect();
    all.into_values().map(|one| policy(one)).collect()
}

fn policy(policy: &Policy) -> Value {
    let (namespace, name) = policy.name.as_str().split_once('/').unwrap_or_default();
    match &policy.effect {
        Effect::DenyAll(reason) => json!({
            "namespace": namespace, "name": name, "action": "Deny", "dryRun": false, "rules": [{}],
            "notUnderstood": reason,
        }),
        Effect::Rules {
            action,
            dry_run,
            rules,
        } => {
            let action = match action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
                Action::Audit => "Audit",
            };
            json!({
                "namespace": namespace, "name": name, "action": action, "dryRun": dry_run,
                "rules": rules.iter().map(rule).collect::<Vec<_>>(),
            })
        }
    }
}

fn rule(rule: &Rule) -> Value {
    object([
        ("from", list(&rule.from, source)),
        ("to", list(&rule.to, operation)),
        ("when", list(&rule.when, condition)),
    ])
}

fn source(source: &Source) -> Value {
    object([
        ("peer", matched(&source.peer)),
        ("unserved", json!(source.unserved)),
    ])
}

fn operation(operation: &Operation) -> Value {
    let port = |port: &u16| json!(port);
    object([
        ("hosts", list(&operation.hosts, text)),
        ("notHosts", list(&operation.not_hosts, text)),
        ("ports", list(&operation.ports, port)),
        ("notPorts", list(&operation.not_ports, port)),
        ("methods", list(&operation.methods, text)),
        ("notMethods", list(&operation.not_methods, text)),
        ("paths", list(&operation.paths, path)),
        ("notPaths", list(&operation.not_paths, path)),
    ])
}

fn condition(condition: &Condition) -> Value {
    match condition {
        Condition::Peer(peer) => json!({ "peer": matched(peer) }),
        Condition::Operation(asked) => json!({ "operation": operation(asked) }),
        Condition::Header {
            name,
            values,
            not_values,
        } => object([
            ("header", json!(name)),
            ("values", list(values, text)),
            ("notValues", list(not_values, text)),
        ]),
        Condition::Unserved(what) => json!({ "unserved": what }),
    }
}

fn path(pattern: &PathPattern) -> Value {
    match pattern {
        PathPattern::Text(matched) => text(matched),
        PathPattern::Template(template) => json!(template.to_string()),
    }
}

/// As it is written in the object.
fn text(matched: &StringMatch) -> Value {
    match matched {
        StringMatch::Exact(value) => json!(value),
        StringMatch::Prefix(value) => json!(format!("{value}*")),
        StringMatch::Suffix(value) => json!(format!("*{value}")),
        StringMatch::Presence => json!("*"),
    }
}
