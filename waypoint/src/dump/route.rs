//! Tables, routes and backends as `/config_dump` shows them: in words of the Gateway API where it has them.

use std::{collections::BTreeMap, sync::Arc};

use mesh::{
    http::{
        edit::{Filter, HeaderEdits, PathEdit},
        host::Scheme,
        route::{FieldMatch, HostMatch, Match, PathMatch, Route, Rule, Text},
        weight::{self, Target},
    },
    name::Name,
    waypoint::{Backend, Generation, Port, Protocol, Routes, Table},
};
use net::dump::object;
use serde_json::{Value, json};

use super::list;

pub(super) fn table(table: &Arc<Table>) -> Value {
    let port = |port: &Port| {
        let (routes, refused) = match &port.routes {
            Routes::None => (Value::Null, Value::Null),
            Routes::Refused(why) => (Value::Null, json!(why)),
            Routes::Http(routes) => (names(routes.routes()), Value::Null),
            Routes::Tcp(routes) => (names(routes), Value::Null),
        };
        object([
            ("number", json!(port.number)),
            ("name", text(&port.name)),
            ("protocol", json!(protocol(port.protocol))),
            ("routes", routes),
            ("refused", refused),
        ])
    };
    object([
        ("namespace", json!(table.service.namespace.as_str())),
        ("hostname", json!(table.service.hostname.as_str())),
        ("ports", table.ports.iter().map(port).collect()),
        (
            "policies",
            list(&table.policies, |policy| json!(policy.name.as_str())),
        ),
        ("tellsIdentity", json!(table.tells_identity.then_some(true))),
        (
            "gateways",
            list(&table.gateways, |identity| json!(identity.to_string())),
        ),
        (
            "waypoints",
            list(&table.waypoints, |identity| json!(identity.to_string())),
        ),
        ("refused", json!(table.refused)),
    ])
}

fn names(routes: &[Arc<Route>]) -> Value {
    routes.iter().map(|route| json!(name(route))).collect()
}

/// `<kind>/<namespace>/<name>`.
fn name(route: &Route) -> String {
    format!("{}/{}/{}", route.kind.as_str(), route.namespace, route.name)
}

/// A route and the ports of services that it is for.
type Placed = (Arc<Route>, Vec<String>);

/// Every route in force once, with the ports of services that it is for.
pub(super) fn routes(generation: &Generation) -> Vec<Value> {
    // One object has a route for each of its parents, which differ in nothing but that.
    let mut all: BTreeMap<String, Vec<Placed>> = BTreeMap::new();
    for table in generation.tables() {
        for port in &table.ports {
            let routes = match &port.routes {
                Routes::Http(routes) => routes.routes(),
                Routes::Tcp(routes) => routes,
                Routes::None | Routes::Refused(_) => &[],
            };
            for route in routes {
                let same = all.entry(name(route)).or_default();
                let parent = format!("{}:{}", table.key, port.number);
                match same.iter_mut().find(|(other, _)| other == route) {
                    Some((_, parents)) => parents.push(parent),
                    None => same.push((Arc::clone(route), vec![parent])),
                }
            }
        }
    }
    let all = all.into_values().flatten();
    all.map(|(one, parents)| route(&one, &parents)).collect()
}

fn route(route: &Route, parents: &[String]) -> Value {
    let host = |host: &HostMatch| match host {
        HostMatch::Exact(name) => json!(name),
        HostMatch::Below(below) => json!(format!("*{below}")),
    };
    object([
        ("kind", json!(route.kind.as_str())),
        ("namespace", json!(route.namespace.as_str())),
        ("name", json!(route.name)),
        ("created", json!(route.created)),
        ("clientNamespace", json!(route.client.map(Name::as_str))),
        ("parents", json!(parents)),
        ("hostnames", list(&route.hosts, host)),
        ("rules", route.rules.iter().map(rule).collect()),
    ])
}

fn rule(rule: &Rule) -> Value {
    let milliseconds = |time: Option<std::time::Duration>| {
        time.map_or(Value::Null, |time| json!(format!("{}ms", time.as_millis())))
    };
    object([
        ("name", text(&rule.name)),
        ("matches", list(&rule.matches, one_match)),
        ("filters", list(&rule.filters, filter)),
        ("backends", list(&rule.backends, weighted)),
        ("requestTimeout", milliseconds(rule.timeouts.request)),
        ("backendTimeout", milliseconds(rule.timeouts.backend)),
        ("invalid", json!(rule.invalid)),
    ])
}

fn one_match(m: &Match) -> Value {
    let path = match &m.path {
        PathMatch::Exact(path) => json!({ "exact": path.as_str() }),
        // Without its slash at the end, which means nothing.
        PathMatch::Prefix(path) if path.as_str().is_empty() => json!({ "prefix": "/" }),
        PathMatch::Prefix(path) => json!({ "prefix": path.as_str() }),
        PathMatch::Regex(pattern) => json!({ "regex": pattern.as_str() }),
        PathMatch::Grpc { service, method } => object([
            ("service", service.as_ref().map_or(Value::Null, value)),
            ("method", method.as_ref().map_or(Value::Null, value)),
        ]),
    };
    object([
        ("path", path),
        ("method", json!(m.method)),
        ("headers", list(&m.headers, field)),
        ("query", list(&m.query, field)),
    ])
}

fn field(field: &FieldMatch) -> Value {
    json!({ "name": field.name, "value": value(&field.value) })
}

fn value(text: &Text) -> Value {
    match text {
        Text::Exact(text) => json!({ "exact": text }),
        Text::Regex(pattern) => json!({ "regex": pattern.as_str() }),
    }
}

fn filter(filter: &Filter) -> Value {
    match filter {
        Filter::RequestHeaders(edits) => json!({ "requestHeaders": headers(edits) }),
        Filter::ResponseHeaders(edits) => json!({ "responseHeaders": headers(edits) }),
        Filter::Redirect(redirect) => {
            let scheme = redirect.scheme.map(|scheme| match scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            });
            let redirect = object([
                ("scheme", json!(scheme)),
                ("hostname", json!(redirect.host)),
                ("port", json!(redirect.port)),
                ("path", redirect.path.as_ref().map_or(Value::Null, path)),
                ("status", json!(redirect.status)),
            ]);
            json!({ "redirect": redirect })
        }
        Filter::Rewrite(rewrite) => {
            let rewrite = object([
                ("hostname", json!(rewrite.host)),
                ("path", rewrite.path.as_ref().map_or(Value::Null, path)),
            ]);
            json!({ "rewrite": rewrite })
        }
    }
}

fn headers(edits: &HeaderEdits) -> Value {
    let pair = |(name, value): &(Box<str>, Box<str>)| json!({ "name": name, "value": value });
    object([
        ("set", list(&edits.set, pair)),
        ("add", list(&edits.add, pair)),
        ("remove", list(&edits.remove, |name| json!(name))),
    ])
}

fn path(edit: &PathEdit) -> Value {
    match edit {
        PathEdit::Full(path) => json!({ "full": path }),
        PathEdit::Prefix(path) => json!({ "prefix": path }),
    }
}

fn weighted(backend: &weight::Backend) -> Value {
    let edits = |edits: &HeaderEdits| match edits == &HeaderEdits::default() {
        true => Value::Null,
        false => headers(edits),
    };
    let (service, port, invalid) = match &backend.target {
        Target::Service { service, port } => (json!(service.as_str()), json!(port), Value::Null),
        Target::Invalid(why) => (Value::Null, Value::Null, json!(why)),
    };
    object([
        ("service", service),
        ("port", port),
        ("invalid", invalid),
        ("weight", json!(backend.weight)),
        ("requestHeaders", edits(&backend.request_headers)),
        ("responseHeaders", edits(&backend.response_headers)),
    ])
}

pub(super) fn backend(generation: &Generation, backend: &Arc<Backend>) -> Value {
    let (namespace, hostname) = backend.key.as_str().split_once('/').unwrap_or_default();
    let endpoints = generation.mesh.endpoints(backend.key);
    let protocols = backend.protocols.iter();
    let protocols = protocols.map(|(port, spoken)| (port.to_string(), json!(protocol(*spoken))));
    object([
        ("namespace", json!(namespace)),
        ("hostname", json!(hostname)),
        ("protocols", Value::Object(protocols.collect())),
        (
            "policies",
            list(&backend.policies, |policy| json!(policy.name.as_str())),
        ),
        (
            "endpoints",
            endpoints.iter().map(|e| json!(&*e.workload.uid)).collect(),
        ),
        (
            "waypoint",
            json!(
                backend
                    .waypoint
                    .as_ref()
                    .map(|service| service.key.as_str())
            ),
        ),
        ("refused", json!(backend.refused)),
    ])
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "DETECT",
        Protocol::Http => "HTTP",
        Protocol::Http1 => "HTTP1",
        Protocol::Http2 => "HTTP2",
        Protocol::Tcp => "TCP",
    }
}

/// A text, or nothing if it is empty.
fn text(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        json!(text)
    }
}
