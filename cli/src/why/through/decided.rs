//! What a waypoint's judge says, as facts of a step.

use std::sync::Arc;

use mesh::{
    http::{
        authorize::{Action, Effect, Policy},
        select::Selected,
        weight::Backend,
    },
    plan::Plan,
    waypoint::{Answer, Denial, Forward, Judgement, Port, Routes, Table},
};
use serde_json::{Value, json};

use super::Judge;
use crate::why::{
    ends::called,
    text::percent,
    trace::{Choice, Step},
    words,
};

impl Judge<'_> {
    /// How the path is read, where that is not as it is written.
    pub(super) fn tell_path(&self, step: &mut Step) {
        let Some(head) = self.head else {
            return;
        };
        let written = self.arriving.request.target.as_bytes();
        let read = String::from_utf8_lossy(&head.target()).into_owned();
        if read.as_bytes() != written {
            step.tell("path", format!("read as {read}"));
        }
        let others: Vec<_> = head.path.readings().skip(1).collect();
        if !others.is_empty() {
            let line = format!(
                "a server may take it for {}, so both are judged",
                others.join(" or ")
            );
            step.list("readings", vec![line], json!(others));
        }
    }

    /// Each policy as if it were alone, on a port without routes: what the judge says then is what it decides.
    pub(super) fn tell_policies(&self, step: &mut Step) {
        let port = Port {
            routes: Routes::None,
            ..self.port.clone()
        };
        let mut lines = Vec::new();
        let mut values = Vec::new();
        for policy in &self.table.policies {
            let alone = Table {
                policies: Box::new([Arc::clone(policy)]),
                refused: None,
                ..self.table.clone()
            };
            let judgement = self.ask_of(&alone, &port, 0, &[]);
            let (line, value) = told(policy, &judgement);
            lines.push(line);
            values.push(value);
        }
        if lines.is_empty() {
            lines.push("none applies".to_owned());
        }
        step.list("policies", lines, json!(values));
    }

    pub(super) fn tell_route(
        &self,
        step: &mut Step,
        selected: Option<Selected<'_>>,
        outcome: &Result<Forward<'_>, Answer>,
    ) {
        let line = match (selected, &self.port.routes) {
            (Some(selected), _) => {
                let matched = words::matched(selected.matched);
                let route = words::route(&selected);
                let value = json!({
                    "kind": selected.route.kind.as_str(),
                    "namespace": selected.route.namespace.as_str(),
                    "name": selected.route.name,
                    "rule": selected.at,
                    "ruleName": selected.rule.name,
                    "match": matched,
                });
                let line = if self.head.is_some() {
                    format!("{route}: {matched}")
                } else {
                    route
                };
                step.list("route", vec![line], value);
                let timeouts = words::timeouts(&selected.rule.timeouts);
                let value = json!(timeouts);
                step.list("timeouts", timeouts, value);
                return;
            }
            (None, Routes::None) if outcome.is_ok() => "none: to the service's own endpoints",
            (None, _) if matches!(outcome, Err(Answer::Denied(_))) => {
                "not looked for: policies come first"
            }
            (None, Routes::Http(_) | Routes::Tcp(_)) => "none matches",
            (None, Routes::Refused(why)) => why,
            (None, Routes::None) => "none",
        };
        step.list("route", vec![line.to_owned()], Value::Null);
    }

    pub(super) fn tell_forward(&self, step: &mut Step, forward: &Forward<'_>) {
        if let (Some(target), Some(head)) = (&forward.target, self.head)
            && *target != head.target()
        {
            let target = String::from_utf8_lossy(target);
            step.tell("path", format!("rewritten to {target}"));
        }
        if let Some(host) = &forward.host {
            step.tell("host", format!("rewritten to {host}"));
        }
        for (key, edits) in [
            ("request", &forward.request_edits),
            ("response", &forward.response_edits),
        ] {
            let lines = words::edits(edits);
            let value = json!(lines);
            step.list(key, lines, value);
        }
        let workload = forward.plan.workload();
        let is_hop = matches!(&forward.plan, Plan::Tunnel(hop) if hop.waypoint);
        if let (Some(workload), false) = (workload, is_hop) {
            let to = match &forward.plan {
                Plan::Tunnel(hop) => hop.authority,
                plan => plan.address(),
            };
            step.tell(
                "endpoint",
                format!("{} at {to} on {}", called(workload), workload.node),
            );
        }
    }
}

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
    if judgement.is_consumers() && !table.policies.is_empty() {
        let line = "for these clients alone: the policies of the service judge what it makes of the request, too";
        step.tell("route", line);
    }
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
