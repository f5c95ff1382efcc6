//! The rules of a GRPCRoute.

use super::{
    super::read::{At, Faults},
    Match, PathMatch, RouteKind, Rule, Text, backend, filter,
    http::{expression, fields},
};

/// The API's own limits.
const MOST_MATCHES: usize = 64;
const LONGEST_HEADER: usize = 4096;
const LONGEST_NAME: usize = 1024;

pub(super) fn rule(at: &At<'_>, faults: &mut Faults) -> Rule {
    at.only(
        &[
            "name",
            "matches",
            "filters",
            "backendRefs",
            "sessionPersistence",
        ],
        faults,
    );
    let matches = at.at_most("matches", MOST_MATCHES, faults);
    let unserved = at.get("sessionPersistence").map(|_| "sessionPersistence");
    Rule {
        name: backend::name(at, faults),
        matches: matches.iter().map(|at| of_call(at, faults)).collect(),
        filters: filter::filters(at, RouteKind::Grpc, faults),
        backends: backend::backends(at, RouteKind::Grpc, faults),
        unserved: unserved.into_iter().collect(),
        ..Rule::default()
    }
}

fn of_call(at: &At<'_>, faults: &mut Faults) -> Match {
    at.only(&["method", "headers"], faults);
    Match {
        path: at
            .mapping("method", faults)
            .and_then(|at| call(&at, faults)),
        headers: fields(at, "headers", LONGEST_HEADER, faults),
        ..Match::default()
    }
}

fn call(at: &At<'_>, faults: &mut Faults) -> Option<PathMatch> {
    at.only(&["type", "service", "method"], faults);
    let regex = match at.text("type", faults) {
        None | Some("Exact") => false,
        Some("RegularExpression") => true,
        Some(other) => {
            let reason = format!("{other:?} is neither Exact nor RegularExpression");
            faults.add(at, "type", reason);
            return None;
        }
    };
    let mut part = |key: &str, is_name: fn(&str) -> bool| {
        let text = at.text(key, faults).filter(|text| !text.is_empty())?;
        if text.len() > LONGEST_NAME {
            faults.add(at, key, format!("longer than {LONGEST_NAME} bytes"));
        } else if regex {
            expression(at, key, text, faults);
        } else if !is_name(text) {
            faults.add(at, key, format!("{text:?} is not a name of a gRPC {key}"));
        }
        Some(match regex {
            true => Text::Regex(text.to_owned()),
            false => Text::Exact(text.to_owned()),
        })
    };
    let service = part("service", is_service);
    let method = part("method", is_word);
    if service.is_none() && method.is_none() {
        faults.add(at, "", "at least one of service, method");
    }
    Some(PathMatch::Grpc(service, method))
}

fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Words with dots between them.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.')
        .unwrap_or(text)
        .split('.')
        .all(is_word)
}
