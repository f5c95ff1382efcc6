//! What a waypoint's judge says, as facts of a step.

use mesh::{
    http::{
        authorize::{Action, Effect, Policy},
        weight::Backend,
    },
    waypoint::{Answer, Denial, Judgement, Table},
};
use serde_json::{Value, json};

use crate::why::{
    text::percent,
    trace::{Choice, Step},
    words,
};

/// What a policy alone does.
pub(super) fn told(policy: &Policy, judgement: &Judgement<'_>) -> (String, Value) {
    let (kind, dry) = match &policy.effect {
        Effect::DenyAll(_) => ("DENY", false),
        Effect::Rules {
            action, dry_run, ..
        } => {
            let kind = match action {
                Action::Allow => "ALLOW",
                Action::Deny => "DENY",
                Action::Audit => "AUDIT",
            };
            (kind, *dry_run)
        }
    };
    let denial = match &judgement.outcome {
        Err(Answer::Denied(Denial::Request(denial))) => Some(*denial),
        _ => judgement.dry_run.first().copied(),
    };
    let denied_by = denial.and_then(|denial| Denial::Request(denial).rule());
    let audited = judgement.audit.first().map(|matched| matched.rule);
    let rule = judgement.allowed_by.map(|matched| matched.rule);
    let rule = rule.or(denied_by).or(audited);
    let result = match (&policy.effect, rule) {
        (Effect::DenyAll(why), _) => format!("denies, because it cannot be understood: {why}"),
        (_, Some(rule)) => format!("rule {rule} matches"),
        (_, None) => "no rule matches".to_owned(),
    };
    let note = if dry { " (dry run: not enforced)" } else { "" };
    let value = json!({
        "policy": policy.name.as_str(),
        "action": kind,
        "dryRun": dry,
        "rule": rule,
        "matches": rule.is_some() || matches!(policy.effect, Effect::DenyAll(_)),
    });
    (format!("{kind} {}: {result}{note}", policy.name), value)
}

/// What was decided about one backend and endpoint.
pub(super) fn tell_judgement(step: &mut Step, judgement: &Judgement<'_>, table: &Table) {
    let other = judgement.backend.filter(|it| it.key != table.key);
    if let Some(backend) = other {
        let names: Vec<_> = backend
            .policies
            .iter()
            .map(|it| it.name.to_string())
            .collect();
        let lines = match (judgement.backend_allowed_by, names.as_slice()) {
            (_, []) => Vec::new(),
            (Some(matched), _) => vec![format!(
                "of that service, with this client: allowed by {}, rule {}",
                matched.policy, matched.rule
            )],
            (None, names) => vec![format!(
                "of that service, with this client: {}",
                names.join(", ")
            )],
        };
        step.list("policies", lines, json!(names));
    }
    if let Some(policy) = judgement.connection_allowed_by {
        let line = format!("allowed by {policy}, with this client");
        step.list(
            "layer4",
            vec![line],
            json!({ "allowedBy": policy.as_str() }),
        );
    }
    if let Err(Answer::Denied(Denial::Connection(denial))) = &judgement.outcome {
        let line = format!("{denial}, with this client");
        step.list(
            "layer4",
            vec![line],
            json!({ "denied": denial.policy().as_str() }),
        );
    }
    let dry: Vec<_> = judgement
        .connection_dry_run
        .iter()
        .map(ToString::to_string)
        .collect();
    let lines = dry.iter().map(|it| format!("{it} would deny it")).collect();
    step.list("dryRun", lines, json!(dry));
}

pub(super) fn tell_backends(step: &mut Step, backends: &[Backend]) {
    let sum: u64 = backends.iter().map(|it| u64::from(it.weight)).sum();
    let line = |it: &Backend| {
        format!(
            "{} to {}",
            percent(it.weight.into(), sum),
            words::target(it)
        )
    };
    let value = |it: &Backend| json!({ "to": words::target(it), "weight": it.weight });
    let lines = backends.iter().map(line).collect();
    step.list("backends", lines, backends.iter().map(value).collect());
}

/// For each backend that has a share: a seed from the middle of it.
pub(super) fn shares(backends: &[Backend]) -> Vec<(u64, Choice)> {
    let sum: u64 = backends.iter().map(|it| u64::from(it.weight)).sum();
    let mut before = 0;
    let mut all = Vec::new();
    for backend in backends {
        let weight = u64::from(backend.weight);
        if weight > 0 {
            let middle = (u128::from(2 * before + weight) << u64::BITS) / u128::from(2 * sum);
            let seed = u64::try_from(middle).unwrap_or(u64::MAX);
            let choice = Choice {
                what: words::target(backend),
                share: (weight, sum),
                endpoint: false,
            };
            all.push((seed, choice));
        }
        before += weight;
    }
    all
}
