//! What is said of an AuthorizationPolicy: whether node proxies enforce it, and if not quite, why.

use std::collections::BTreeSet;

use super::{ACCEPTED, Scope, is_dry_run};
use crate::{
    compile::{
        binding::{Bindings, Denied},
        gateway,
    },
    manifest::{
        AuthorizationPolicy, Kind, ObjectRef,
        authorization::{Action, Condition as When, PolicyTarget, TargetKind, TargetRef},
    },
    status::Condition,
    world::Key,
};

pub(in crate::compile) const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
const UNSUPPORTED: &str = "UnsupportedValue";
const CUSTOM: &str = "action CUSTOM is not served yet: what it matches is denied";

pub(super) fn condition(
    scope: Scope<'_>,
    bindings: &Bindings,
    policy: &AuthorizationPolicy,
) -> Condition {
    if let PolicyTarget::Objects(targets) = &policy.target {
        return attachment(scope, bindings, policy, targets);
    }
    match policy.action {
        Action::Audit => {
            return Condition::fails(
                ACCEPTED,
                UNSUPPORTED,
                "action AUDIT is not served by node proxies",
            );
        }
        Action::Allow | Action::Deny | Action::Custom => {}
    }
    if is_dry_run(policy) {
        return Condition::fails(
            ACCEPTED,
            UNSUPPORTED,
            "a dry run is not served by node proxies: it is not enforced",
        );
    }
    if policy.action == Action::Custom {
        return Condition::fails(ACCEPTED, UNSUPPORTED, CUSTOM);
    }
    let beyond = beyond(policy);
    if beyond.is_empty() {
        return Condition::holds(ACCEPTED, "Accepted", "");
    }
    let effect = match policy.action {
        Action::Deny => "these count as matching, so more is denied",
        _ => "rules with these let nobody in",
    };
    Condition::fails(
        ACCEPTED,
        UNSUPPORTED,
        format!(
            "node proxies cannot judge {}: {effect}; a policy for these is attached to a service by targetRefs",
            beyond.join(", ")
        ),
    )
}

/// The fields of a policy that cannot be judged, each once.
fn beyond(policy: &AuthorizationPolicy) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rule in &policy.rules {
        found.extend(
            rule.from
                .iter()
                .flat_map(|source| &source.beyond)
                .map(|&field| field.to_owned()),
        );
        found.extend(
            rule.to
                .iter()
                .flat_map(|operation| &operation.beyond)
                .map(|&field| field.to_owned()),
        );
        found.extend(rule.when.iter().filter_map(|when| match when {
            When::Beyond(key, _) => Some(key.clone()),
            _ => None,
        }));
    }
    found.into_iter().collect()
}

/// The fields of a policy that a waypoint cannot judge either, each once.
fn unserved(policy: &AuthorizationPolicy) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rule in &policy.rules {
        let sources = rule.from.iter().flat_map(|source| &source.beyond);
        found.extend(sources.map(|&field| field.to_owned()));
        found.extend(rule.when.iter().filter_map(|when| match when {
            When::Beyond(key, _) if !is_served(key) => Some(key.clone()),
            _ => None,
        }));
    }
    found.into_iter().collect()
}

fn is_served(key: &str) -> bool {
    key.starts_with("request.headers[") || key == "source.serviceAccount"
}

/// What becomes of a policy that is for waypoints. Whatever is said, nothing that it is for is left open: see `binding`.
fn attachment(
    scope: Scope<'_>,
    bindings: &Bindings,
    policy: &AuthorizationPolicy,
    targets: &[TargetRef],
) -> Condition {
    let mut failures = Vec::new();
    for target in targets {
        if let Err((reason, message)) = found(scope, bindings, policy, target) {
            let TargetRef { kind, name } = target;
            failures.push((reason, format!("{kind:?} {name}: {message}")));
        }
    }
    let all: Vec<_> = failures.iter().map(|(_, text)| text.as_str()).collect();
    let text = all.join("; ");
    match failures.first() {
        None if targets.is_empty() => Condition::fails(
            WAYPOINT_ACCEPTED,
            "TargetNotFound",
            "it is attached to nothing",
        ),
        None => served(policy),
        Some(_) if failures.len() < targets.len() => {
            Condition::holds(WAYPOINT_ACCEPTED, "PartiallyInvalid", text)
        }
        Some(&(reason, _)) => Condition::fails(WAYPOINT_ACCEPTED, reason, text),
    }
}

/// What is said of a policy whose targets are all there.
fn served(policy: &AuthorizationPolicy) -> Condition {
    if policy.action == Action::Custom {
        return Condition::fails(WAYPOINT_ACCEPTED, UNSUPPORTED, CUSTOM);
    }
    let unserved = unserved(policy);
    if !unserved.is_empty() {
        let effect = match policy.action {
            Action::Allow => "rules with these let nobody in",
            _ => "these count as matching",
        };
        let message = format!("not served yet: {}: {effect}", unserved.join(", "));
        return Condition::holds(WAYPOINT_ACCEPTED, UNSUPPORTED, message);
    }
    let message = if is_dry_run(policy) {
        "a dry run: it is told, and not enforced"
    } else {
        ""
    };
    Condition::holds(WAYPOINT_ACCEPTED, "Accepted", message)
}

/// Whether a waypoint takes the policy for a target, or why not.
fn found(
    scope: Scope<'_>,
    bindings: &Bindings,
    policy: &AuthorizationPolicy,
    target: &TargetRef,
) -> Result<(), (&'static str, String)> {
    let not_found = |what: &str| Err(("TargetNotFound", what.to_owned()));
    let namespace = &policy.meta.namespace;
    let key = (namespace.clone(), target.name.clone());
    match target.kind {
        TargetKind::Service => match scope.service(&key) {
            None if scope
                .world
                .hides(&ObjectRef::new(Kind::Service, &key.0, &key.1)) =>
            {
                not_found(
                    "it cannot be understood: the pods that it selects, as far as that can be read, refuse every peer",
                )
            }
            None => not_found("it is not there"),
            Some(_) => behind(scope, bindings, &key),
        },
        TargetKind::Gateway => match gateway::find(scope, &key) {
            None => not_found("it is not there"),
            Some(found) => {
                own_class(scope, &key.1, &found.class)?;
                if !gateway::is_for_services(scope, found) {
                    let what = "it is not for services, and waypoints of workloads are not served yet: services and, if it is for workloads, pods that are labelled to it refuse everything";
                    return Err(("AncestorNotBound", what.to_owned()));
                }
                if gateway::is_ready(scope, &key) {
                    Ok(())
                } else {
                    not_found("its waypoint was not ready yet")
                }
            }
        },
        TargetKind::GatewayClass => match gateway::is_waypoint_class(scope, &target.name) {
            _ if !scope.is_root(namespace) => {
                let message = "only policies of the root namespace are attached to a class";
                Err(("Invalid", message.to_owned()))
            }
            None => not_found("it is not there"),
            Some(false) => Err(("Invalid", "it is not a class of waypoints".to_owned())),
            Some(true) => Ok(()),
        },
        TargetKind::ServiceEntry => entry(scope, bindings, &key),
    }
}

/// Whether all hosts of a ServiceEntry are behind one.
fn entry(scope: Scope<'_>, bindings: &Bindings, key: &Key) -> Result<(), (&'static str, String)> {
    let (namespace, name) = key;
    let reference = ObjectRef::new(Kind::ServiceEntry, namespace, name);
    let not_found = |what: &str| Err(("TargetNotFound", what.to_owned()));
    let unbound = |what: String| Err(("AncestorNotBound", what));
    if scope.world.hides(&reference) {
        return not_found(
            "it cannot be understood: what asks for its hosts and addresses is refused, and the pods that it selects refuse every peer, as far as these can be read",
        );
    }
    let hosts: Vec<_> = scope.derived.entries.hosts(namespace, name).collect();
    if hosts.is_empty() {
        return not_found("it is not there, or nobody sees it");
    }
    for host in hosts {
        if let Some(lack) = &host.lack {
            return unbound(format!("{lack}: {}", host.refusal()));
        }
        if host.addresses.is_empty() {
            let what = "it has no address: the pods that it selects refuse every peer on its target ports, and what is sent elsewhere is not kept to the policy";
            return unbound(what.to_owned());
        }
        behind(scope, bindings, &host.key)?;
    }
    Ok(())
}

/// Whether a service is behind a waypoint that takes policies.
fn behind(
    scope: Scope<'_>,
    bindings: &Bindings,
    service: &Key,
) -> Result<(), (&'static str, String)> {
    let unbound = |what: String| Err(("AncestorNotBound", what));
    let Some(binding) = bindings.binding(service) else {
        return unbound("it leads out of the mesh, past every waypoint".to_owned());
    };
    if binding.denied == Denied::Everybody {
        let what =
            "it cannot be behind a waypoint: its workloads refuse every peer on its target ports";
        return unbound(what.to_owned());
    }
    let effect = match &binding.published {
        Some(_) => "everything is refused until it is",
        None => "the policy is not enforced",
    };
    let Some(gateway) = bindings.of(service) else {
        return unbound(format!("it is not behind a waypoint: {effect}"));
    };
    let (namespace, name) = gateway;
    if let Some(found) = gateway::find(scope, gateway) {
        own_class(scope, name, &found.class)?;
    }
    if gateway::is_ready(scope, gateway) {
        Ok(())
    } else {
        unbound(format!(
            "its waypoint {namespace}/{name} was not ready yet: {effect}"
        ))
    }
}

fn own_class(scope: Scope<'_>, gateway: &str, class: &str) -> Result<(), (&'static str, String)> {
    if gateway::serves(scope, class) {
        return Ok(());
    }
    let what = format!("{gateway} is of class {class}, whose waypoints are told nothing from here");
    Err(("AncestorNotBound", what))
}
