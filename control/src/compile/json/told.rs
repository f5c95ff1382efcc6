//! What waypoints are told, as JSON; in the form of the file above.

use proto::waypoint::{
    self, Action, Authorization, AuthorizationOperation, AuthorizationRule, AuthorizationSource,
    Backend, Field, Filter, HeaderEdits, Match, PathEdit, Policy, Port, Protocol, Redirect,
    Reference, Rewrite, Route, Rule, Table, Text, WeightedBackend, filter, r#match::Path,
    path_edit::Edit, policy, text, weighted_backend::Target,
};
use serde_json::{Map, Value, json};

use super::{Fields, authorization, service_fields, workload_fields};
use crate::{compile::Told, world::Key};

/// `{"<namespace>/<gateway>": {"tables": {NAME: …}, "routes": …, "policies": …, "backends": …}}`, everything sorted by name.
pub fn told<'a>(told: impl IntoIterator<Item = (&'a Key, &'a Told)>) -> Value {
    let one = |told: &Told| {
        json!({
            "tables": by_name(&told.tables, table),
            "routes": by_name(&told.routes, route),
            "policies": by_name(&told.policies, policy),
            "backends": by_name(&told.backends, backend),
        })
    };
    let all: Map<_, _> = told
        .into_iter()
        .map(|((namespace, name), told)| (format!("{namespace}/{name}"), one(told)))
        .collect();
    all.into()
}

fn by_name<'a, T: 'a>(
    all: impl IntoIterator<Item = (&'a String, &'a T)>,
    value: impl Fn(&T) -> Value,
) -> Value {
    let all: Map<_, _> = all
        .into_iter()
        .map(|(name, it)| (name.clone(), value(it)))
        .collect();
    all.into()
}

fn table(it: &Table) -> Value {
    let mut fields = Fields::default();
    fields.text("backend", &it.backend);
    fields.list("ports", &it.ports, |port: &Port| {
        let mut fields = Fields::default();
        fields.number("number", port.number);
        fields.word("protocol", port.protocol, |n| {
            Some(Protocol::try_from(n).ok()?.as_str_name())
        });
        fields.list("routes", &port.routes, reference);
        fields.text("name", &port.name);
        fields.0.into()
    });
    fields.list("policies", &it.policies, reference);
    texts(&mut fields, "backends", &it.backends);
    texts(&mut fields, "requires", &it.requires);
    fields.0.into()
}

fn reference(it: &Reference) -> Value {
    json!({ "name": it.name, "version": it.version })
}

fn route(it: &Route) -> Value {
    let mut fields = Fields::default();
    fields.text("kind", &it.kind);
    fields.text("namespace", &it.namespace);
    fields.text("name", &it.name);
    if it.created != 0 {
        fields.put("created", it.created);
    }
    fields.text("consumer", &it.consumer);
    texts(&mut fields, "hostnames", &it.hostnames);
    fields.list("rules", &it.rules, rule);
    texts(&mut fields, "requires", &it.requires);
    fields.0.into()
}

fn rule(it: &Rule) -> Value {
    let mut fields = Fields::default();
    fields.text("name", &it.name);
    fields.list("matches", &it.matches, matches);
    fields.list("filters", &it.filters, filter);
    fields.list("backends", &it.backends, weighted);
    for (key, value) in [
        ("request_timeout", it.request_timeout),
        ("backend_timeout", it.backend_timeout),
    ] {
        if value != 0 {
            fields.put(key, value);
        }
    }
    texts(&mut fields, "requires", &it.requires);
    fields.text("invalid", &it.invalid);
    fields.0.into()
}

fn matches(it: &Match) -> Value {
    let mut fields = Fields::default();
    match &it.path {
        Some(Path::Exact(path)) => fields.put("exact", path.as_str()),
        Some(Path::Prefix(path)) => fields.put("prefix", path.as_str()),
        Some(Path::Regex(path)) => fields.put("regex", path.as_str()),
        Some(Path::Grpc(call)) => {
            let mut inner = Fields::default();
            inner.message("service", call.service.as_ref(), text);
            inner.message("method", call.method.as_ref(), text);
            fields.put("grpc", inner.0);
        }
        None => {}
    }
    fields.text("method", &it.method);
    let field = |it: &Field| json!({ "name": it.name, "value": it.value.as_ref().map(text) });
    fields.list("headers", &it.headers, field);
    fields.list("query", &it.query, field);
    fields.0.into()
}

fn text(it: &Text) -> Value {
    match &it.text {
        Some(text::Text::Exact(text)) => json!({ "exact": text }),
        Some(text::Text::Regex(text)) => json!({ "regex": text }),
        None => json!({}),
    }
}

fn filter(it: &Filter) -> Value {
    match &it.filter {
        Some(filter::Filter::RequestHeaders(it)) => json!({ "request_headers": header_edits(it) }),
        Some(filter::Filter::ResponseHeaders(it)) => {
            json!({ "response_headers": header_edits(it) })
        }
        Some(filter::Filter::Redirect(it)) => json!({ "redirect": redirect(it) }),
        Some(filter::Filter::Rewrite(it)) => json!({ "rewrite": rewrite(it) }),
        None => json!({}),
    }
}

fn header_edits(it: &HeaderEdits) -> Value {
    let mut fields = Fields::default();
    let header = |it: &waypoint::Header| json!({ "name": it.name, "value": it.value });
    fields.list("set", &it.set, header);
    fields.list("add", &it.add, header);
    texts(&mut fields, "remove", &it.remove);
    fields.0.into()
}

fn redirect(it: &Redirect) -> Value {
    let mut fields = Fields::default();
    fields.text("scheme", &it.scheme);
    fields.text("hostname", &it.hostname);
    fields.message("path", it.path.as_ref(), path_edit);
    fields.number("port", it.port);
    fields.number("status", it.status);
    fields.0.into()
}

fn rewrite(it: &Rewrite) -> Value {
    let mut fields = Fields::default();
    fields.text("hostname", &it.hostname);
    fields.message("path", it.path.as_ref(), path_edit);
    fields.0.into()
}

fn path_edit(it: &PathEdit) -> Value {
    match &it.edit {
        Some(Edit::Full(path)) => json!({ "full": path }),
        Some(Edit::Prefix(path)) => json!({ "prefix": path }),
        None => json!({}),
    }
}

/// A weight of 0 says something, so it is written.
fn weighted(it: &WeightedBackend) -> Value {
    let mut fields = Fields::default();
    fields.put("weight", it.weight);
    match &it.target {
        Some(Target::Destination(to)) => {
            fields.put(
                "destination",
                json!({ "backend": to.backend, "port": to.port }),
            );
        }
        Some(Target::Invalid(why)) => fields.put("invalid", why.as_str()),
        None => {}
    }
    fields.list("filters", &it.filters, filter);
    fields.0.into()
}

fn policy(it: &Policy) -> Value {
    let mut fields = Fields::default();
    match &it.policy {
        Some(policy::Policy::Http(it)) => fields.put("http", http_policy(it)),
        Some(policy::Policy::Connection(it)) => fields.put("connection", authorization(it)),
        None => {}
    }
    texts(&mut fields, "requires", &it.requires);
    fields.0.into()
}

fn http_policy(it: &Authorization) -> Value {
    let mut fields = Fields::default();
    fields.text("namespace", &it.namespace);
    fields.text("name", &it.name);
    fields.word("action", it.action, |n| {
        Some(Action::try_from(n).ok()?.as_str_name())
    });
    fields.flag("dry_run", it.dry_run);
    fields.list("rules", &it.rules, |rule: &AuthorizationRule| {
        let mut fields = Fields::default();
        fields.list("from", &rule.from, source);
        fields.list("to", &rule.to, operation);
        fields.list("when", &rule.when, |it| {
            let mut fields = Fields::default();
            fields.text("key", &it.key);
            texts(&mut fields, "values", &it.values);
            texts(&mut fields, "not_values", &it.not_values);
            fields.0.into()
        });
        fields.0.into()
    });
    fields.text("deny_all", &it.deny_all);
    fields.0.into()
}

fn source(it: &AuthorizationSource) -> Value {
    let mut fields = Fields::default();
    for (key, values) in [
        ("principals", &it.principals),
        ("not_principals", &it.not_principals),
        ("namespaces", &it.namespaces),
        ("not_namespaces", &it.not_namespaces),
        ("service_accounts", &it.service_accounts),
        ("not_service_accounts", &it.not_service_accounts),
        ("ip_blocks", &it.ip_blocks),
        ("not_ip_blocks", &it.not_ip_blocks),
        ("unserved", &it.unserved),
    ] {
        texts(&mut fields, key, values);
    }
    fields.0.into()
}

fn operation(it: &AuthorizationOperation) -> Value {
    let mut fields = Fields::default();
    for (key, values) in [
        ("hosts", &it.hosts),
        ("not_hosts", &it.not_hosts),
        ("ports", &it.ports),
        ("not_ports", &it.not_ports),
        ("methods", &it.methods),
        ("not_methods", &it.not_methods),
        ("paths", &it.paths),
        ("not_paths", &it.not_paths),
    ] {
        texts(&mut fields, key, values);
    }
    fields.0.into()
}

fn backend(it: &Backend) -> Value {
    let mut fields = Fields::default();
    fields.message("service", it.service.as_ref(), service_fields);
    fields.list("workloads", &it.workloads, workload_fields);
    fields.list("policies", &it.policies, reference);
    fields.message(
        "waypoint_service",
        it.waypoint_service.as_ref(),
        service_fields,
    );
    texts(&mut fields, "requires", &it.requires);
    fields.0.into()
}

fn texts(fields: &mut Fields, key: &str, values: &[String]) {
    fields.list(key, values, |text| json!(text));
}
