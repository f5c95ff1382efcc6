//! What a waypoint has to be able to do for each resource, by name: one that lacks it answers with an error, or denies, for
//! the scope of that resource alone. Read from the messages themselves, so that nothing is named that is not asked for; all
//! names are among those of [`mesh::waypoint::FEATURES`].

use proto::waypoint::{
    Action, Authorization, Backend, Field, Filter, Match, Policy, Route, Rule, Table, Text,
    filter::Filter as Kind, r#match::Path, policy, text::Text as Value,
};

use crate::manifest::RouteKind;

pub(super) fn of_table(table: &Table) -> Vec<String> {
    named([
        ("client-identity", table.tells_identity),
        ("declared-gateways", !table.gateways.is_empty()),
        ("second-waypoint", !table.waypoints.is_empty()),
    ])
}

pub(super) fn of_backend(backend: &Backend) -> Vec<String> {
    named([("second-waypoint", backend.waypoint_service.is_some())])
}

/// Of the route as a whole; each of its rules names its own.
pub(super) fn of_route(route: &Route) -> Vec<String> {
    named([
        ("consumer-routes", !route.consumer.is_empty()),
        ("tcp-routes", route.kind == RouteKind::Tcp.as_str()),
    ])
}

pub(super) fn of_rule(rule: &Rule) -> Vec<String> {
    let backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    let filters: Vec<_> = rule.filters.iter().chain(backends).collect();
    let does = |wanted: fn(&Kind) -> bool| {
        let mut kinds = filters
            .iter()
            .filter_map(|Filter { filter }| filter.as_ref());
        kinds.any(wanted)
    };
    let edits = |it: &Kind| matches!(it, Kind::RequestHeaders(_) | Kind::ResponseHeaders(_));
    let is_call = |it: &Match| matches!(it.path, Some(Path::Grpc(_)));
    named([
        ("grpc", rule.matches.iter().any(is_call)),
        ("header-edits", does(edits)),
        ("redirect", does(|it| matches!(it, Kind::Redirect(_)))),
        ("regex", rule.matches.iter().any(has_regex)),
        ("rewrite", does(|it| matches!(it, Kind::Rewrite(_)))),
        (
            "timeouts",
            rule.request_timeout != 0 || rule.backend_timeout != 0,
        ),
    ])
}

pub(super) fn of_policy(policy: &Policy) -> Vec<String> {
    let Some(policy::Policy::Http(Authorization {
        action, dry_run, ..
    })) = &policy.policy
    else {
        return Vec::new();
    };
    named([
        ("audit", *action == Action::Audit as i32),
        ("dry-run", *dry_run),
    ])
}

fn has_regex(found: &Match) -> bool {
    let is = |text: &Text| matches!(text.text, Some(Value::Regex(_)));
    let path = match &found.path {
        Some(Path::Regex(_)) => true,
        Some(Path::Grpc(call)) => call.service.iter().chain(&call.method).any(is),
        Some(Path::Exact(_) | Path::Prefix(_)) | None => false,
    };
    let mut fields = found.headers.iter().chain(&found.query);
    path || fields.any(|Field { value, .. }| value.iter().any(is))
}

fn named<const N: usize>(all: [(&str, bool); N]) -> Vec<String> {
    let asked = all.into_iter().filter(|(_, asked)| *asked);
    asked.map(|(name, _)| name.to_owned()).collect()
}
