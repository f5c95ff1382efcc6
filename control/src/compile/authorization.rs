//! AuthorizationPolicy: what a node proxy can judge of it.
//!
//! A rule becomes a group, whose clauses are one for all operations, one for all sources, one per condition, in this
//! order. What only a waypoint can judge makes an ALLOW rule match nothing and a DENY rule match more: either way fewer
//! peers get in than were meant to, never more.

use std::{collections::BTreeMap, sync::Arc};

use proto::security::{
    Action as WireAction, Address, Authorization, Group, Match, Presence, Rules, Scope as Reach,
    ServiceAccountMatch, StringMatch, string_match::MatchType,
};

use super::{Compiled, Scope, binding::Bindings, octets};
use crate::{
    manifest::{
        AuthorizationPolicy, Kind, Labels, ObjectRef, Selector,
        authorization::{
            Action, Block, Condition as When, Operation, PolicyTarget, Rule, Source, Values,
        },
    },
    status::Status,
};

mod condition;

pub(super) use condition::WAYPOINT_ACCEPTED;

/// The condition that says whether node proxies enforce a policy.
pub(super) const ACCEPTED: &str = "ZtunnelAccepted";
const DRY_RUN: &str = "istio.io/dry-run";

pub(super) fn compile(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    for policy in scope
        .world
        .authorization_policies
        .values()
        .filter(|policy| scope.sees(&policy.meta.namespace))
    {
        let reference = ObjectRef::new(
            Kind::AuthorizationPolicy,
            &policy.meta.namespace,
            &policy.meta.name,
        );
        compiled.statuses.insert(
            reference,
            Status {
                generation: policy.meta.generation,
                conditions: vec![condition::condition(scope, bindings, policy)],
                ..Status::default()
            },
        );
        if is_sent(policy) {
            let authorization = resource(scope, policy);
            compiled
                .authorizations
                .insert(key(&authorization), authorization);
        }
    }
    for (reference, denial) in scope
        .world
        .denials
        .iter()
        // One that is attached to objects denies those who ask them: see `policy`.
        .filter(|(reference, denial)| denial.targets.is_empty() && scope.sees(&reference.namespace))
    {
        let everybody = Group { rules: Vec::new() };
        let authorization = Authorization {
            name: denial_name(reference),
            namespace: reference.namespace.clone(),
            scope: reach(scope, &reference.namespace, denial.selector.is_some()).into(),
            action: WireAction::Deny.into(),
            groups: vec![everybody],
            ..Authorization::default()
        };
        compiled
            .authorizations
            .insert(key(&authorization), authorization);
    }
}

/// Name of the resource that stands in for a policy. Objects of other kinds may have the policy's name, so theirs get a
/// prefix that no object's name can have.
fn denial_name(reference: &ObjectRef) -> String {
    match reference.kind {
        Kind::PeerAuthentication => format!("refused_peer_authentication_{}", reference.name),
        Kind::Unserved(_) => format!("refused_request_authentication_{}", reference.name),
        _ => reference.name.clone(),
    }
}

fn key(authorization: &Authorization) -> String {
    format!("{}/{}", authorization.namespace, authorization.name)
}

fn reach(scope: Scope<'_>, namespace: &str, selects: bool) -> Reach {
    match (selects, scope.is_root(namespace)) {
        (true, _) => Reach::WorkloadSelector,
        (false, true) => Reach::Global,
        (false, false) => Reach::Namespace,
    }
}

/// The policies that are for some workloads only, and so are listed by those.
pub(super) struct Selecting<'a> {
    root: &'a str,
    by_namespace: BTreeMap<&'a str, Vec<Arc<Named>>>,
}

/// A policy that workloads list: whom it selects, and its name.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    selector: Selector,
    name: String,
}

impl<'a> Selecting<'a> {
    pub(super) fn new(scope: Scope<'a>) -> Self {
        let mut by_namespace: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut add = |namespace: &'a str, selector: &Selector, name: &str| {
            by_namespace
                .entry(namespace)
                .or_default()
                .push(Arc::new(Named {
                    selector: selector.clone(),
                    name: format!("{namespace}/{name}"),
                }));
        };
        for policy in scope
            .world
            .authorization_policies
            .values()
            .filter(|policy| is_sent(policy))
        {
            if let PolicyTarget::Workloads(selector) = &policy.target {
                add(&policy.meta.namespace, selector, &policy.meta.name);
            }
        }
        for (reference, denial) in &scope.world.denials {
            if let Some(selector) = &denial.selector {
                add(&reference.namespace, selector, &denial_name(reference));
            }
        }
        Self {
            root: &scope.settings.root_namespace,
            by_namespace,
        }
    }

    /// Those that may select workloads of a namespace: its own, and those of the root namespace.
    pub(super) fn of(&self, own: &str) -> Vec<Arc<Named>> {
        let namespaces = [Some(own), (own != self.root).then_some(self.root)];
        let policies = namespaces
            .into_iter()
            .flatten()
            .filter_map(|namespace| self.by_namespace.get(namespace));
        policies.flatten().cloned().collect()
    }
}

/// Names of those that select a workload, sorted.
pub(super) fn names(policies: &[Arc<Named>], labels: &Labels) -> Vec<String> {
    let selecting = policies.iter().filter(|it| it.selector.matches(labels));
    let mut names: Vec<_> = selecting.map(|it| it.name.clone()).collect();
    names.sort();
    names
}

fn is_sent(policy: &AuthorizationPolicy) -> bool {
    let objects = matches!(policy.target, PolicyTarget::Objects(_));
    !objects && policy.action != Action::Audit && !is_dry_run(policy)
}

/// Only the spellings of true of Go's `strconv.ParseBool`; anything else is an ordinary policy.
pub(super) fn is_dry_run(policy: &AuthorizationPolicy) -> bool {
    let value = policy.meta.annotations.get(DRY_RUN).map(String::as_str);
    matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn resource(scope: Scope<'_>, policy: &AuthorizationPolicy) -> Authorization {
    let selects = matches!(policy.target, PolicyTarget::Workloads(_));
    let (action, groups) = match policy.action {
        // Whom CUSTOM would ask cannot be asked yet, so what it matches is denied.
        Action::Deny | Action::Custom => {
            (WireAction::Deny, policy.rules.iter().map(deny).collect())
        }
        Action::Allow | Action::Audit => (
            WireAction::Allow,
            policy.rules.iter().filter_map(allow).collect(),
        ),
    };
    Authorization {
        name: policy.meta.name.clone(),
        namespace: policy.meta.namespace.clone(),
        scope: reach(scope, &policy.meta.namespace, selects).into(),
        action: action.into(),
        groups,
        ..Authorization::default()
    }
}

/// `None` if the rule asks for something that cannot be judged: it then lets nobody in.
fn allow(rule: &Rule) -> Option<Group> {
    if is_beyond(rule) {
        return None;
    }
    Some(deny(rule))
}

/// What cannot be judged counts as matching, so a clause in which that leaves an alternative empty is left out.
fn deny(rule: &Rule) -> Group {
    let to = any_of(
        rule.to
            .iter()
            .map(|operation| (operation_match(operation), !operation.beyond.is_empty())),
    );
    let from = any_of(
        rule.from
            .iter()
            .map(|source| (source_match(source), !source.beyond.is_empty())),
    );
    let when = rule.when.iter().filter_map(when_match).map(|found| Rules {
        matches: vec![found],
    });
    Group {
        rules: to.into_iter().chain(from).chain(when).collect(),
    }
}

/// A clause of alternatives; none if there are none, or if one of them is always so.
fn any_of(alternatives: impl Iterator<Item = (Match, bool)>) -> Option<Rules> {
    let mut matches = Vec::new();
    for (found, beyond) in alternatives {
        if beyond && found == Match::default() {
            return None;
        }
        matches.push(found);
    }
    (!matches.is_empty()).then_some(Rules { matches })
}

fn is_beyond(rule: &Rule) -> bool {
    rule.from.iter().any(|source| !source.beyond.is_empty())
        || rule.to.iter().any(|operation| !operation.beyond.is_empty())
        || rule
            .when
            .iter()
            .any(|when| matches!(when, When::Beyond(..)))
}

fn source_match(source: &Source) -> Match {
    let account = |(namespace, name): &(String, String)| ServiceAccountMatch {
        namespace: namespace.clone(),
        service_account: name.clone(),
    };
    Match {
        namespaces: words(&source.namespaces.any),
        not_namespaces: words(&source.namespaces.none),
        principals: words(&source.principals.any),
        not_principals: words(&source.principals.none),
        source_ips: blocks(&source.blocks.any),
        not_source_ips: blocks(&source.blocks.none),
        service_accounts: source.service_accounts.any.iter().map(account).collect(),
        not_service_accounts: source.service_accounts.none.iter().map(account).collect(),
        ..Match::default()
    }
}

fn operation_match(operation: &Operation) -> Match {
    let Values { any, none } = &operation.ports;
    Match {
        destination_ports: numbers(any),
        not_destination_ports: numbers(none),
        ..Match::default()
    }
}

fn when_match(when: &When) -> Option<Match> {
    let none = Match::default();
    Some(match when {
        When::SourceIp(v) => Match {
            source_ips: blocks(&v.any),
            not_source_ips: blocks(&v.none),
            ..none
        },
        When::SourceNamespace(v) => Match {
            namespaces: words(&v.any),
            not_namespaces: words(&v.none),
            ..none
        },
        When::SourcePrincipal(v) => Match {
            principals: words(&v.any),
            not_principals: words(&v.none),
            ..none
        },
        When::DestinationIp(v) => Match {
            destination_ips: blocks(&v.any),
            not_destination_ips: blocks(&v.none),
            ..none
        },
        When::DestinationPort(v) => Match {
            destination_ports: numbers(&v.any),
            not_destination_ports: numbers(&v.none),
            ..none
        },
        When::Beyond(..) => return None,
    })
}

fn words(values: &[String]) -> Vec<StringMatch> {
    values
        .iter()
        .map(|value| StringMatch {
            match_type: Some(word(value)),
        })
        .collect()
}

/// A `*` alone, first or last is a wildcard; anywhere else it is itself.
fn word(value: &str) -> MatchType {
    if value == "*" {
        MatchType::Presence(Presence {})
    } else if let Some(suffix) = value.strip_prefix('*') {
        MatchType::Suffix(suffix.to_owned())
    } else if let Some(prefix) = value.strip_suffix('*') {
        MatchType::Prefix(prefix.to_owned())
    } else {
        MatchType::Exact(value.to_owned())
    }
}

fn numbers(ports: &[u16]) -> Vec<u32> {
    ports.iter().copied().map(u32::from).collect()
}

fn blocks(blocks: &[Block]) -> Vec<Address> {
    blocks
        .iter()
        .map(|block| Address {
            address: octets(block.address),
            length: block.length.into(),
        })
        .collect()
}
