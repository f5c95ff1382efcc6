//! Rules of an AuthorizationPolicy as a waypoint reads them: the texts of the API.

use proto::waypoint::{
    AuthorizationCondition, AuthorizationOperation, AuthorizationRule, AuthorizationSource,
};

use super::Requests;
use crate::manifest::authorization::{Block, Condition, Operation, Rule, Source, Values};

pub(super) fn rule(rule: &Rule) -> AuthorizationRule {
    AuthorizationRule {
        from: rule.from.iter().map(source).collect(),
        to: rule.to.iter().map(operation).collect(),
        when: rule.when.iter().map(condition).collect(),
    }
}

/// Where rules look at more than the connection: on the ports that they name, or everywhere.
pub(super) fn requests(rules: &[Rule]) -> Requests {
    let mut all = Vec::new();
    for rule in rules.iter().filter(|rule| looks_at_requests(rule)) {
        let named = rule
            .to
            .iter()
            .all(|operation| !operation.ports.any.is_empty());
        if rule.to.is_empty() || !named {
            return Requests::Everywhere;
        }
        let ports = rule.to.iter().flat_map(|operation| &operation.ports.any);
        all.extend(ports.copied());
    }
    if all.is_empty() {
        Requests::Nowhere
    } else {
        Requests::On(all)
    }
}

fn looks_at_requests(rule: &Rule) -> bool {
    let of_request = |condition: &Condition| matches!(condition, Condition::Beyond(key, _) if key.starts_with("request."));
    rule.to.iter().any(|operation| !operation.beyond.is_empty())
        || rule.from.iter().any(|source| !source.beyond.is_empty())
        || rule.when.iter().any(of_request)
}

fn source(source: &Source) -> AuthorizationSource {
    let account = |(namespace, name): &(String, String)| format!("{namespace}/{name}");
    AuthorizationSource {
        principals: source.principals.any.clone(),
        not_principals: source.principals.none.clone(),
        namespaces: source.namespaces.any.clone(),
        not_namespaces: source.namespaces.none.clone(),
        service_accounts: source.service_accounts.any.iter().map(account).collect(),
        not_service_accounts: source.service_accounts.none.iter().map(account).collect(),
        ip_blocks: texts(&source.blocks.any, block),
        not_ip_blocks: texts(&source.blocks.none, block),
        unserved: texts(&source.beyond, |field| (*field).to_owned()),
    }
}

fn operation(operation: &Operation) -> AuthorizationOperation {
    AuthorizationOperation {
        hosts: operation.hosts.any.clone(),
        not_hosts: operation.hosts.none.clone(),
        ports: texts(&operation.ports.any, u16::to_string),
        not_ports: texts(&operation.ports.none, u16::to_string),
        methods: operation.methods.any.clone(),
        not_methods: operation.methods.none.clone(),
        paths: operation.paths.any.clone(),
        not_paths: operation.paths.none.clone(),
    }
}

fn condition(condition: &Condition) -> AuthorizationCondition {
    match condition {
        Condition::SourceIp(values) => condition_of("source.ip", values, block),
        Condition::SourceNamespace(values) => {
            condition_of("source.namespace", values, String::clone)
        }
        Condition::SourcePrincipal(values) => {
            condition_of("source.principal", values, String::clone)
        }
        Condition::DestinationIp(values) => condition_of("destination.ip", values, block),
        Condition::DestinationPort(values) => {
            condition_of("destination.port", values, u16::to_string)
        }
        Condition::Beyond(key, values) => condition_of(key, values, String::clone),
    }
}

fn condition_of<T>(
    key: &str,
    values: &Values<T>,
    text: impl Fn(&T) -> String,
) -> AuthorizationCondition {
    AuthorizationCondition {
        key: key.to_owned(),
        values: texts(&values.any, &text),
        not_values: texts(&values.none, &text),
    }
}

fn texts<T>(values: &[T], text: impl Fn(&T) -> String) -> Vec<String> {
    values.iter().map(text).collect()
}

fn block(block: &Block) -> String {
    format!("{}/{}", block.address, block.length)
}
