//! The rules of a route as a waypoint is told them.

use std::collections::BTreeSet;

use mesh::http::edit::is_editable_in_requests;
use proto::waypoint::{
    self as wire, filter::Filter as Kind, r#match::Path, path_edit::Edit, text::Text as Value,
};

use super::{
    super::{Scope, feature},
    backend::{self, Unresolved},
    tls::Tls,
};
use crate::{
    manifest::{
        Route, RouteKind,
        route::{
            FieldMatch, Filter, HeaderEdits, Match, PathEdit, PathMatch, Redirect, Rewrite, Rule,
            Text,
        },
    },
    world::Key,
};

/// What became of the rules of a route.
#[derive(Default)]
pub(super) struct Converted {
    pub(super) rules: Vec<wire::Rule>,
    /// The services that they lead to.
    pub(super) backends: BTreeSet<Key>,
    /// Why a reference leads nowhere: a reason for programs, and all of them in words.
    pub(super) unresolved: Option<(&'static str, String)>,
    /// Of each rule that cannot be carried out, why.
    pub(super) unserved: Vec<String>,
    /// The rules that lead nowhere, though nothing of them is wrong.
    pub(super) nowhere: Vec<String>,
    /// Of each rule whose edits of request headers are not all carried out, what has no effect.
    pub(super) idle: Vec<String>,
    /// The rules that make something else of a request.
    pub(super) changing: Vec<String>,
    /// Whether one of those is about who may talk, so that it must not be passed over.
    pub(super) guards: bool,
    /// Whether nothing else may hold where it does: it cannot be understood which requests it guards.
    pub(super) shuts: bool,
}

impl Converted {
    /// Whether none of its rules can be carried out.
    pub(super) fn is_refused(&self) -> bool {
        self.unserved.len() == self.rules.len()
    }

    /// Whether it is told to waypoints. A route of which nothing is served counts as if it were not there, unless that
    /// let through what one of its filters might stop.
    pub(super) fn takes_part(&self) -> bool {
        self.guards || !self.is_refused()
    }
}

pub(super) fn convert(scope: Scope<'_>, route: &Route, tls: &Tls<'_>) -> Converted {
    let mut converted = Converted {
        rules: Vec::new(),
        backends: BTreeSet::new(),
        unresolved: None,
        unserved: Vec::new(),
        nowhere: Vec::new(),
        idle: Vec::new(),
        changing: Vec::new(),
        guards: false,
        shuts: false,
    };
    let mut failures: Vec<Unresolved> = Vec::new();
    for (i, rule) in route.rules.iter().enumerate() {
        let unserved = unserved(rule);
        converted.guards |= rule.guards();
        let mut invalid = String::new();
        if !unserved.is_empty() {
            invalid = format!("{} is not served", unserved.join(", "));
            converted.unserved.push(format!("rules[{i}]: {invalid}"));
        } else if is_nowhere(rule) && route.kind != RouteKind::Tcp {
            "it names no backend".clone_into(&mut invalid);
            converted.nowhere.push(format!("rules[{i}]"));
        }
        let (idle, changes) = changed(rule);
        if !idle.is_empty() {
            let names: Vec<_> = idle.into_iter().collect();
            let words = format!("rules[{i}]: its edits of {}", names.join(", "));
            converted.idle.push(words);
        }
        if changes {
            converted.changing.push(format!("rules[{i}]"));
        }
        let mut backends = Vec::new();
        for (j, reference) in rule.backends.iter().enumerate() {
            let target = backend::target(scope, route, reference, tls);
            backends.push(weighted(scope, reference, &target));
            match target {
                Ok((service, _)) => drop(converted.backends.insert(service)),
                Err(mut failure) => {
                    failure.message = format!("rules[{i}].backendRefs[{j}]: {}", failure.message);
                    failures.push(failure);
                }
            }
        }
        let mut told = wire::Rule {
            name: rule.name.clone(),
            matches: rule.matches.iter().map(of_match).collect(),
            filters: rule.filters.iter().filter_map(filter).collect(),
            backends,
            request_timeout: millis(rule.request_timeout),
            backend_timeout: millis(rule.backend_timeout),
            requires: Vec::new(),
            invalid,
        };
        told.requires = feature::of_rule(&told);
        converted.rules.push(told);
    }
    if let Some(first) = failures.first() {
        let words: Vec<_> = failures.iter().map(|it| it.message.as_str()).collect();
        converted.unresolved = Some((first.reason, words.join("; ")));
    }
    converted
}

/// What of a rule is not served. Of a backend only changes of headers are.
fn unserved(rule: &Rule) -> Vec<&'static str> {
    let own = rule.filters.iter().filter_map(|filter| match filter {
        Filter::Unserved(name) => Some(*name),
        _ => None,
    });
    let backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    let backends = backends.filter_map(|filter| match filter {
        Filter::Unserved(name) => Some(*name),
        Filter::Redirect(_) => Some("RequestRedirect of a backend"),
        Filter::Rewrite(_) => Some("URLRewrite of a backend"),
        Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => None,
    });
    let mut found: Vec<_> = rule
        .unserved
        .iter()
        .copied()
        .chain(own)
        .chain(backends)
        .collect();
    found.dedup();
    found
}

/// The headers of requests that a rule edits in vain, because they are not its to edit; and whether it changes anything of a
/// request.
fn changed(rule: &Rule) -> (BTreeSet<String>, bool) {
    let (mut idle, mut changes) = (BTreeSet::new(), false);
    let backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    for filter in rule.filters.iter().chain(backends) {
        match filter {
            Filter::RequestHeaders(edits) => {
                let names = edits.set.iter().chain(&edits.add).map(|(name, _)| name);
                for name in names.chain(&edits.remove) {
                    match is_editable_in_requests(name) {
                        true => changes = true,
                        false => drop(idle.insert(name.to_ascii_lowercase())),
                    }
                }
            }
            Filter::Rewrite(_) => changes = true,
            _ => {}
        }
    }
    (idle, changes)
}

fn is_nowhere(rule: &Rule) -> bool {
    let redirects = |filter: &Filter| matches!(filter, Filter::Redirect(_));
    rule.backends.is_empty() && !rule.filters.iter().any(redirects)
}

fn weighted(
    scope: Scope<'_>,
    reference: &crate::manifest::route::BackendRef,
    target: &Result<(Key, u16), Unresolved>,
) -> wire::WeightedBackend {
    use wire::weighted_backend::Target;
    let target = match target {
        Ok(((namespace, name), port)) => Target::Destination(wire::Destination {
            backend: scope.service_key(namespace, name),
            port: (*port).into(),
        }),
        Err(failure) => Target::Invalid(failure.message.clone()),
    };
    wire::WeightedBackend {
        weight: reference.weight,
        target: Some(target),
        filters: reference.filters.iter().filter_map(filter).collect(),
    }
}

fn millis(duration: Option<std::time::Duration>) -> u64 {
    duration.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn of_match(it: &Match) -> wire::Match {
    let path = it.path.as_ref().map(|path| match path {
        PathMatch::Exact(text) => Path::Exact(text.clone()),
        PathMatch::Prefix(text) => Path::Prefix(text.clone()),
        PathMatch::Regex(text) => Path::Regex(text.clone()),
        PathMatch::Grpc(service, method) => Path::Grpc(wire::GrpcCall {
            service: service.as_ref().map(text),
            method: method.as_ref().map(text),
        }),
    });
    wire::Match {
        path,
        method: it.method.clone().unwrap_or_default(),
        headers: it.headers.iter().map(field).collect(),
        query: it.query.iter().map(field).collect(),
    }
}

fn field(it: &FieldMatch) -> wire::Field {
    wire::Field {
        name: it.name.clone(),
        value: Some(text(&it.value)),
    }
}

fn text(it: &Text) -> wire::Text {
    let text = match it {
        Text::Exact(text) => Value::Exact(text.clone()),
        Text::Regex(text) => Value::Regex(text.clone()),
    };
    wire::Text { text: Some(text) }
}

/// `None` if it is not served: its rule says so.
fn filter(it: &Filter) -> Option<wire::Filter> {
    let filter = match it {
        Filter::RequestHeaders(edits) => Kind::RequestHeaders(header_edits(edits)),
        Filter::ResponseHeaders(edits) => Kind::ResponseHeaders(header_edits(edits)),
        Filter::Redirect(it) => Kind::Redirect(redirect(it)),
        Filter::Rewrite(it) => Kind::Rewrite(rewrite(it)),
        Filter::Unserved(_) => return None,
    };
    Some(wire::Filter {
        filter: Some(filter),
    })
}

fn header_edits(edits: &HeaderEdits) -> wire::HeaderEdits {
    let headers = |pairs: &[(String, String)]| {
        let header = |(name, value): &(String, String)| wire::Header {
            name: name.clone(),
            value: value.clone(),
        };
        pairs.iter().map(header).collect()
    };
    wire::HeaderEdits {
        set: headers(&edits.set),
        add: headers(&edits.add),
        remove: edits.remove.clone(),
    }
}

fn redirect(it: &Redirect) -> wire::Redirect {
    wire::Redirect {
        scheme: it.scheme.clone().unwrap_or_default(),
        hostname: it.hostname.clone().unwrap_or_default(),
        path: it.path.as_ref().map(path_edit),
        port: it.port.unwrap_or_default().into(),
        status: it.status.unwrap_or_default().into(),
    }
}

fn rewrite(it: &Rewrite) -> wire::Rewrite {
    wire::Rewrite {
        hostname: it.hostname.clone().unwrap_or_default(),
        path: it.path.as_ref().map(path_edit),
    }
}

fn path_edit(it: &PathEdit) -> wire::PathEdit {
    let edit = match it {
        PathEdit::Full(text) => Edit::Full(text.clone()),
        PathEdit::Prefix(text) => Edit::Prefix(text.clone()),
    };
    wire::PathEdit { edit: Some(edit) }
}
