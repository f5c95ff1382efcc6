//! Rules, routes and edits in few words.

use std::time::Duration;

use mesh::{
    http::{
        edit::{Edit, HeaderEdits},
        route::{FieldMatch, Match, PathMatch, Text, Timeouts},
        select::Selected,
        weight::{Backend, Target},
    },
    name::Name,
    waypoint::Protocol,
};

/// `HTTPRoute shop/orders, rule 1 (testers)`.
pub(super) fn route(selected: &Selected<'_>) -> String {
    let route = selected.route;
    let kind = route.kind.as_str();
    let mut words = format!(
        "{kind} {}/{}, rule {}",
        route.namespace, route.name, selected.at
    );
    if !selected.rule.name.is_empty() {
        words.push_str(&format!(" ({})", selected.rule.name));
    }
    if let Some(client) = route.client {
        words.push_str(&format!(", for clients of {client} alone"));
    }
    words
}

/// What the rule wants of a request.
pub(super) fn matched(matched: Option<&Match>) -> String {
    let Some(matched) = matched else {
        return "whatever is asked".to_owned();
    };
    let mut words = vec![path(&matched.path)];
    words.extend(matched.method.as_ref().map(|it| format!("method {it}")));
    let field = |kind: &str, it: &FieldMatch| format!("{kind} {} {}", it.name, text(&it.value));
    words.extend(matched.effective_headers().map(|it| field("header", it)));
    words.extend(matched.effective_query().map(|it| field("parameter", it)));
    words.retain(|word| !word.is_empty());
    if words.is_empty() {
        "whatever is asked".to_owned()
    } else {
        words.join(", ")
    }
}

/// Empty: any.
fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(literal) => format!("path = {}", literal.as_str()),
        PathMatch::Prefix(literal) if literal.as_str().is_empty() => String::new(),
        PathMatch::Prefix(literal) => format!("path {} and below", literal.as_str()),
        PathMatch::Regex(pattern) => format!("path ~ {}", pattern.as_str()),
        PathMatch::Grpc { service, method } => {
            let both = [("service", service), ("method", method)];
            let both = both.iter().filter_map(|(what, value)| {
                let value = value.as_ref()?;
                Some(format!("gRPC {what} {}", text(value)))
            });
            both.collect::<Vec<_>>().join(", ")
        }
    }
}

fn text(value: &Text) -> String {
    match value {
        Text::Exact(text) => format!("= {text}"),
        Text::Regex(pattern) => format!("~ {}", pattern.as_str()),
    }
}

/// `shop/orders-v1:80`, or why it is none.
pub(super) fn target(backend: &Backend) -> String {
    match &backend.target {
        Target::Service { service, port } => format!("{}:{port}", short(*service)),
        Target::Invalid(why) => format!("nowhere ({why})"),
    }
}

/// `namespace/name` of a service's key, `namespace/hostname`.
pub(super) fn short(key: Name) -> String {
    match key.as_str().split_once('/') {
        Some((namespace, hostname)) => {
            let own = hostname.split_once(&format!(".{namespace}.svc."));
            format!("{namespace}/{}", own.map_or(hostname, |(name, _)| name))
        }
        None => key.to_string(),
    }
}

/// One for each edit.
pub(super) fn edits(edits: &[&HeaderEdits]) -> Vec<String> {
    let all = edits.iter().flat_map(|it| it.edits());
    let one = |edit| match edit {
        Edit::Remove(name) => format!("without {name}"),
        Edit::Set(name, value) => format!("with {name}: {value}, in place of others"),
        Edit::Add(name, value) => format!("with another {name}: {value}"),
    };
    all.map(one).collect()
}

/// One for each limit.
pub(super) fn timeouts(timeouts: &Timeouts) -> Vec<String> {
    let late = "what takes longer is answered with 504 (flags UT)";
    let limit = |what: &str, limit: Duration| format!("{what} {limit:?}; {late}");
    let request = timeouts.request.map(|it| limit("the whole request", it));
    let backend = timeouts.backend.map(|it| limit("each try", it));
    request.into_iter().chain(backend).collect()
}

/// What is spoken, in words.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "whatever its first bytes are",
        Protocol::Http => "HTTP",
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Tcp => "TCP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_called_by_its_own_name() {
        for (key, short_name) in [
            ("shop/orders.shop.svc.cluster.local", "shop/orders"),
            ("shop/api.example.com", "shop/api.example.com"),
        ] {
            assert_eq!(short(key.into()), short_name);
        }
    }
}
