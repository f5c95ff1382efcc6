//! What a route that cannot be understood wants guarded: requests that somebody else is to be asked about, as far as it can be
//! read which. The rest of such a route is not kept.
//!
//! What is not known may be a guard; what is known to change no more than a request or its answer is none.

use serde_json::Value;

use super::{
    super::{
        Fault,
        read::{At, Faults},
    },
    Match, Route, RouteKind, Rule, grpc, http, parent,
};

/// Types of filters that guard nothing, and their fields.
const HARMLESS: [(&str, &str); 6] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
];
/// What is in the names of guards, in lower case.
const WORDS: [&str; 4] = ["auth", "jwt", "tls", "extensionref"];
/// Parts of a manifest in which there is no rule.
const OTHERS: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];
/// Fields of a rule.
const FIELDS: [&str; 7] = [
    "name",
    "matches",
    "filters",
    "backendRefs",
    "timeouts",
    "retry",
    "sessionPersistence",
];

/// Of a faulty route, with which parents it says it has: a rule for each that is guarded, with its matches; with none if they
/// cannot be read, or if what is guarded is in no rule.
pub(in crate::manifest) fn guarded(mut route: Route, root: &At<'_>) -> Route {
    let kind = route.kind;
    route.rules = rules(kind, root);
    if route.rules.is_empty() {
        route.parents.retain(|parent| !parent.name.is_empty());
    }
    let mut faults = Faults::default();
    let spec = root.mapping("spec", &mut faults);
    let hostnames = spec.map(|spec| parent::hostnames(&spec, &mut faults));
    route.hostnames = hostnames.filter(|_| faults.is_empty()).unwrap_or_default();
    route
}

fn rules(kind: RouteKind, root: &At<'_>) -> Vec<Rule> {
    let (mut rules, mut elsewhere) = (Vec::new(), false);
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (key, value) in fields(root.value()) {
        if key != "spec" && !OTHERS.contains(&key.as_str()) {
            elsewhere |= is_guard(&key, &value);
        }
    }
    let mut items = Vec::new();
    if let Some(spec) = root.get("spec") {
        items = spec.items("rules", &mut Faults::default());
        let is_list = !items.is_empty();
        match spec.value().as_object() {
            None => elsewhere |= has_guard(spec.value()),
            Some(spec) => {
                let mut rest = spec.iter().filter(|(key, _)| !is_list || *key != "rules");
                elsewhere |= rest.any(|(key, value)| is_guard(key, value));
            }
        }
    }
    if elsewhere {
        rules.push(Rule::default());
    }
    let guarded = items.iter().filter(|at| has_guard(at.value()));
    rules.extend(guarded.map(|at| Rule {
        matches: matches(kind, at),
        ..Rule::default()
    }));
    rules
}

/// The matches of a rule, none if not all of them can be read.
fn matches(kind: RouteKind, at: &At<'_>) -> Vec<Match> {
    let mut faults = Faults::default();
    let read = match kind {
        RouteKind::Http => http::rule(at, &mut faults),
        RouteKind::Grpc => grpc::rule(at, &mut faults),
        RouteKind::Tcp => Rule::default(),
    };
    let faults: Vec<Fault> = faults.into();
    let path = at.field("matches");
    let misread = faults.iter().any(|fault| fault.field.starts_with(&path));
    let mut keys = at.value().as_object().into_iter().flat_map(|it| it.keys());
    let misspelt = at.get("matches").is_none() && keys.any(|key| !FIELDS.contains(&key.as_str()));
    if misread || misspelt {
        return Vec::new();
    }
    match read.matches.is_empty() {
        true => vec![Match::default()],
        false => read.matches,
    }
}

fn is_guard(key: &str, value: &Value) -> bool {
    let key = key.to_ascii_lowercase();
    let is_named = |text: &str| WORDS.iter().any(|word| text.contains(word));
    let is_type = key == "type"
        && value
            .as_str()
            .is_some_and(|it| is_named(&it.to_ascii_lowercase()));
    is_named(&key) || is_type || key.starts_with("filter") && has_filter(value) || has_guard(value)
}

fn has_guard(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| is_guard(key, value)),
        Value::Array(items) => items.iter().any(has_guard),
        _ => false,
    }
}

/// Whether there is one among filters that may be a guard.
fn has_filter(filters: &Value) -> bool {
    match filters {
        Value::Null => false,
        Value::Array(items) => items.iter().any(|item| !is_harmless(item)),
        other => !is_harmless(other),
    }
}

fn is_harmless(filter: &Value) -> bool {
    let Some(fields) = filter.as_object() else {
        return false;
    };
    match fields.get("type") {
        Some(name) => HARMLESS.iter().any(|(known, _)| name == known),
        None => fields
            .keys()
            .all(|key| HARMLESS.iter().any(|(_, known)| key == known)),
    }
}
