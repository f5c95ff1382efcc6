//! The rules of an HTTPRoute.

use mesh::http::{head::is_token, pattern::Pattern, route};

use super::{
    super::read::{At, Faults},
    FieldMatch, Filter, Match, PathEdit, PathMatch, RouteKind, Rule, Text, backend,
    duration::duration,
    filter,
};

/// The API's own limits.
const MOST_MATCHES: usize = 64;
const MOST_FIELDS: usize = 16;
const LONGEST_NAME: usize = 256;
const LONGEST_PATH: usize = 1024;
const LONGEST_QUERY: usize = 1024;
const LONGEST_HEADER: usize = 4096;
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
/// Fields of a rule that are not served.
const UNSERVED: [&str; 2] = ["retry", "sessionPersistence"];

pub(super) fn rule(at: &At<'_>, faults: &mut Faults) -> Rule {
    at.only(
        &[
            "name",
            "matches",
            "filters",
            "backendRefs",
            "timeouts",
            "retry",
            "sessionPersistence",
        ],
        faults,
    );
    let matches = at.at_most("matches", MOST_MATCHES, faults);
    let mut rule = Rule {
        name: backend::name(at, faults),
        matches: matches.iter().map(|at| of_request(at, faults)).collect(),
        filters: filter::filters(at, RouteKind::Http, faults),
        backends: backend::backends(at, RouteKind::Http, faults),
        unserved: UNSERVED
            .into_iter()
            .filter(|field| at.get(field).is_some())
            .collect(),
        ..Rule::default()
    };
    if rule.matches.is_empty() {
        rule.matches.push(everything());
    }
    if let Some(timeouts) = at.mapping("timeouts", faults) {
        self::timeouts(&timeouts, &mut rule, faults);
    }
    coherent(at, &rule, faults);
    rule
}

/// What a rule without matches is for.
pub(super) fn everything() -> Match {
    Match {
        path: Some(PathMatch::Prefix("/".to_owned())),
        ..Match::default()
    }
}

fn timeouts(at: &At<'_>, rule: &mut Rule, faults: &mut Faults) {
    at.only(&["request", "backendRequest"], faults);
    let mut read = |key| {
        let text = at.text(key, faults)?;
        duration(text)
            .map_err(|reason| faults.add(at, key, reason))
            .ok()
    };
    rule.request_timeout = read("request");
    rule.backend_timeout = read("backendRequest");
    let limits = rule.request_timeout.zip(rule.backend_timeout);
    if limits.is_some_and(|(request, backend)| !request.is_zero() && backend > request) {
        faults.add(at, "backendRequest", "longer than request");
    }
}

/// What the parts of a rule ask of each other.
fn coherent(at: &At<'_>, rule: &Rule, faults: &mut Faults) {
    let redirects = |filters: &[Filter]| filters.iter().any(|it| matches!(it, Filter::Redirect(_)));
    if redirects(&rule.filters) && !rule.backends.is_empty() {
        faults.add(at, "backendRefs", "not together with RequestRedirect");
    }
    let backends = rule.backends.iter().map(|backend| &backend.filters);
    let of_prefix = backends
        .chain([&rule.filters])
        .flatten()
        .any(replaces_prefix);
    let prefix = |only: &Match| matches!(only.path, Some(PathMatch::Prefix(_)));
    let prefix = matches!(rule.matches.as_slice(), [only] if prefix(only));
    if of_prefix && !prefix {
        let reason = "ReplacePrefixMatch needs exactly one match, by PathPrefix";
        faults.add(at, "filters", reason);
    }
}

fn replaces_prefix(filter: &Filter) -> bool {
    let edit = match filter {
        Filter::Redirect(redirect) => &redirect.path,
        Filter::Rewrite(rewrite) => &rewrite.path,
        _ => return false,
    };
    matches!(edit, Some(PathEdit::Prefix(_)))
}

fn of_request(at: &At<'_>, faults: &mut Faults) -> Match {
    at.only(&["path", "headers", "queryParams", "method"], faults);
    let method = at.text("method", faults);
    if let Some(other) = method.filter(|it| !METHODS.contains(it)) {
        let reason = format!("{other:?} is none of {}", METHODS.join(", "));
        faults.add(at, "method", reason);
    }
    Match {
        path: match at.mapping("path", faults) {
            Some(at) => path(&at, faults),
            None => everything().path,
        },
        method: method.map(str::to_owned),
        headers: fields(at, "headers", LONGEST_HEADER, faults),
        query: fields(at, "queryParams", LONGEST_QUERY, faults),
    }
}

fn path(at: &At<'_>, faults: &mut Faults) -> Option<PathMatch> {
    at.only(&["type", "value"], faults);
    let kind = at.text("type", faults).unwrap_or("PathPrefix");
    let value = at.text("value", faults).unwrap_or("/").to_owned();
    if value.len() > LONGEST_PATH {
        faults.add(at, "value", format!("longer than {LONGEST_PATH} bytes"));
    }
    match kind {
        "RegularExpression" => {
            expression(at, "value", &value, faults);
            return Some(PathMatch::Regex(value));
        }
        "Exact" | "PathPrefix" => {}
        other => {
            let reason = format!("{other:?} is none of Exact, PathPrefix, RegularExpression");
            faults.add(at, "type", reason);
            return None;
        }
    }
    if !is_path(&value) {
        faults.add(at, "value", no_path(&value));
    }
    Some(match kind {
        "Exact" => PathMatch::Exact(value),
        _ => PathMatch::Prefix(value),
    })
}

/// Why a text is refused that is no path.
pub(super) fn no_path(text: &str) -> String {
    format!(
        "{text:?} is not a path: it begins with / and has no //, dot segments, %2F, or characters that a path cannot have"
    )
}

/// What the API lets pass: characters of a path (RFC 3986 §3.3), and nothing that has a second reading.
pub(super) fn is_path(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let double = ["//", "/./", "/../", "%2f"];
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    text.starts_with('/')
        && text.bytes().all(allowed)
        && !double.iter().any(|it| lower.contains(it))
        && !lower.ends_with("/.")
        && !lower.ends_with("/..")
        && route::PathMatch::exact(text).is_ok()
}

/// A list of headers or parameters.
pub(super) fn fields(
    owner: &At<'_>,
    key: &str,
    longest: usize,
    faults: &mut Faults,
) -> Vec<FieldMatch> {
    let items = owner.at_most(key, MOST_FIELDS, faults);
    items
        .iter()
        .map(|at| {
            at.only(&["type", "name", "value"], faults);
            let name = at.required("name", faults);
            if name.len() > LONGEST_NAME || !name.bytes().all(is_token) {
                faults.add(at, "name", format!("{name:?} is not a name of a header"));
            }
            FieldMatch {
                name: name.to_owned(),
                value: text(at, longest, faults),
            }
        })
        .collect()
}

fn text(at: &At<'_>, longest: usize, faults: &mut Faults) -> Text {
    let value = at.required("value", faults).to_owned();
    if value.len() > longest {
        faults.add(at, "value", format!("longer than {longest} bytes"));
    }
    match at.text("type", faults) {
        None | Some("Exact") => Text::Exact(value),
        Some("RegularExpression") => {
            expression(at, "value", &value, faults);
            Text::Regex(value)
        }
        Some(other) => {
            let reason = format!("{other:?} is neither Exact nor RegularExpression");
            faults.add(at, "type", reason);
            Text::Exact(value)
        }
    }
}

/// A field that is a regular expression.
pub(super) fn expression(at: &At<'_>, key: &str, text: &str, faults: &mut Faults) {
    if let Err(rejected) = Pattern::new(text) {
        let words = rejected.0.lines().last().unwrap_or_default().to_owned();
        faults.add(
            at,
            key,
            format!("not a regular expression that is taken: {words}"),
        );
    }
}
