//! What is said of an AuthorizationPolicy: whether node proxies enforce it, and if not quite, why.

use std::collections::BTreeSet;

use super::{ACCEPTED, Scope, is_dry_run};
use crate::{
    manifest::{
        AuthorizationPolicy,
        authorization::{Action, Condition as When, PolicyTarget, TargetKind, TargetRef},
    },
    status::Condition,
};

const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
const UNSUPPORTED: &str = "UnsupportedValue";

pub(super) fn condition(scope: Scope<'_>, policy: &AuthorizationPolicy) -> Condition {
    if let PolicyTarget::Objects(targets) = &policy.target {
        return attachment(scope, policy, targets);
    }
    match policy.action {
        Action::Audit => {
            return Condition::fails(
                ACCEPTED,
                UNSUPPORTED,
                "action AUDIT is not served by node proxies",
            );
        }
        Action::Custom => {
            return Condition::fails(
                ACCEPTED,
                UNSUPPORTED,
                "action CUSTOM is not served by node proxies",
            );
        }
        Action::Allow | Action::Deny => {}
    }
    if is_dry_run(policy) {
        return Condition::fails(
            ACCEPTED,
            UNSUPPORTED,
            "a dry run is not served by node proxies: it is not enforced",
        );
    }
    let beyond = beyond(policy);
    if beyond.is_empty() {
        return Condition::holds(ACCEPTED, "Accepted", "");
    }
    let effect = match policy.action {
        Action::Deny => "these count as matching, so more is denied",
        _ => "rules with these let nobody in",
    };
    Condition::holds(
        ACCEPTED,
        UNSUPPORTED,
        format!("node proxies cannot judge {}: {effect}", beyond.join(", ")),
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

/// What becomes of a policy that is for waypoints, as long as those are not served: of every target why it is not.
fn attachment(scope: Scope<'_>, policy: &AuthorizationPolicy, targets: &[TargetRef]) -> Condition {
    let namespace = &policy.meta.namespace;
    // None is served, so the first speaks for all.
    let Some(target) = targets.first() else {
        return Condition::fails(
            WAYPOINT_ACCEPTED,
            "TargetNotFound",
            "it is attached to nothing",
        );
    };
    let (reason, message) = match target.kind {
        TargetKind::Service => {
            let there = scope
                .world
                .services
                .contains_key(&(namespace.clone(), target.name.clone()));
            if there {
                ("AncestorNotBound", "it is not behind a waypoint")
            } else {
                ("TargetNotFound", "it is not there")
            }
        }
        TargetKind::GatewayClass if !scope.is_root(namespace) => (
            "Invalid",
            "only policies of the root namespace are attached to a class",
        ),
        _ => ("TargetNotFound", "waypoints are not served yet"),
    };
    let message = format!(
        "{:?} {}: {message}: the policy is not enforced",
        target.kind, target.name
    );
    Condition::fails(WAYPOINT_ACCEPTED, reason, message)
}
