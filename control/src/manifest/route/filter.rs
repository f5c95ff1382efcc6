//! What a rule does to requests and responses.

use mesh::http::edit::is_editable;

use super::{
    super::read::{At, Faults},
    Filter, HeaderEdits, PathEdit, Redirect, Rewrite, RouteKind,
    http::{is_path, no_path},
    parent::is_hostname,
};

/// The API's own limits.
const MOST_FILTERS: usize = 16;
const MOST_HEADERS: usize = 16;
const LONGEST_VALUE: usize = 4096;
const LONGEST_NAME: usize = 256;
const LONGEST_PATH: usize = 1024;

/// A filter's type, the field that goes with it, and whether one may come more than once.
struct Type {
    name: &'static str,
    field: &'static str,
    repeats: bool,
    grpc: bool,
}

const TYPES: [Type; 8] = [
    Type {
        name: "RequestHeaderModifier",
        field: "requestHeaderModifier",
        repeats: false,
        grpc: true,
    },
    Type {
        name: "ResponseHeaderModifier",
        field: "responseHeaderModifier",
        repeats: false,
        grpc: true,
    },
    Type {
        name: "RequestMirror",
        field: "requestMirror",
        repeats: true,
        grpc: true,
    },
    Type {
        name: "RequestRedirect",
        field: "requestRedirect",
        repeats: false,
        grpc: false,
    },
    Type {
        name: "URLRewrite",
        field: "urlRewrite",
        repeats: false,
        grpc: false,
    },
    Type {
        name: "CORS",
        field: "cors",
        repeats: false,
        grpc: false,
    },
    Type {
        name: "ExternalAuth",
        field: "externalAuth",
        repeats: false,
        grpc: false,
    },
    Type {
        name: "ExtensionRef",
        field: "extensionRef",
        repeats: true,
        grpc: true,
    },
];

/// The field `filters` of a rule or a backend.
pub(super) fn filters(owner: &At<'_>, kind: RouteKind, faults: &mut Faults) -> Vec<Filter> {
    let (mut filters, mut seen) = (Vec::new(), Vec::new());
    for at in owner.at_most("filters", MOST_FILTERS, faults) {
        let Some(known) = of_type(&at, kind, faults) else {
            continue;
        };
        if !known.repeats && seen.contains(&known.name) {
            faults.add(
                &at,
                "type",
                format!("{} can be there only once", known.name),
            );
        }
        seen.push(known.name);
        filters.extend(filter(&at, known, faults));
    }
    if seen.contains(&"RequestRedirect") && seen.contains(&"URLRewrite") {
        faults.add(
            owner,
            "filters",
            "RequestRedirect and URLRewrite exclude each other",
        );
    }
    filters
}

fn of_type(at: &At<'_>, kind: RouteKind, faults: &mut Faults) -> Option<&'static Type> {
    let known = || TYPES.iter().filter(|it| it.grpc || kind == RouteKind::Http);
    let mut fields: Vec<_> = known().map(|it| it.field).collect();
    fields.push("type");
    at.only(&fields, faults);
    let name = at.required("type", faults);
    let found = known().find(|it| it.name == name);
    match found {
        Some(found) => {
            for other in known().filter(|it| it.name != name && at.get(it.field).is_some()) {
                let reason = format!("does not go with type {}", found.name);
                faults.add(at, other.field, reason);
            }
        }
        None if name.is_empty() => {}
        None => {
            let names: Vec<_> = known().map(|it| it.name).collect();
            let reason = format!("{name:?} is none of {}", names.join(", "));
            faults.add(at, "type", reason);
        }
    }
    found
}

fn filter(at: &At<'_>, known: &'static Type, faults: &mut Faults) -> Option<Filter> {
    let Some(inner) = at.mapping(known.field, faults) else {
        if at.get(known.field).is_none() {
            faults.add(at, known.field, "required");
        }
        return None;
    };
    Some(match known.name {
        "RequestHeaderModifier" => Filter::RequestHeaders(edits(&inner, faults)),
        "ResponseHeaderModifier" => Filter::ResponseHeaders(edits(&inner, faults)),
        "RequestRedirect" => Filter::Redirect(redirect(&inner, faults)),
        "URLRewrite" => Filter::Rewrite(rewrite(&inner, faults)),
        name => Filter::Unserved(name),
    })
}

fn edits(at: &At<'_>, faults: &mut Faults) -> HeaderEdits {
    at.only(&["set", "add", "remove"], faults);
    let mut seen = Vec::new();
    let mut edits = HeaderEdits {
        set: pairs(at, "set", &mut seen, faults),
        add: pairs(at, "add", &mut seen, faults),
        remove: Vec::new(),
    };
    for item in at.at_most("remove", MOST_HEADERS, faults) {
        if let Some(name) = item.as_text(faults) {
            editable(&item, "", name, &mut seen, faults);
            edits.remove.push(name.to_owned());
        }
    }
    edits
}

fn pairs(
    at: &At<'_>,
    key: &str,
    seen: &mut Vec<String>,
    faults: &mut Faults,
) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for item in at.at_most(key, MOST_HEADERS, faults) {
        item.only(&["name", "value"], faults);
        let name = item.required("name", faults);
        let value = item.required("value", faults);
        if !name.is_empty() {
            editable(&item, "name", name, seen, faults);
        }
        header_value(&item, value, faults);
        pairs.push((name.to_owned(), value.to_owned()));
    }
    pairs
}

/// A header that a rule may edit, and does not edit twice.
fn editable(at: &At<'_>, key: &str, name: &str, seen: &mut Vec<String>, faults: &mut Faults) {
    let lower = name.to_ascii_lowercase();
    if name.len() > LONGEST_NAME || !is_editable(name) {
        let reason = format!("{name:?} is not a header that a route may change");
        faults.add(at, key, reason);
    } else if seen.contains(&lower) {
        faults.add(at, key, format!("{name:?} is changed twice"));
    }
    seen.push(lower);
}

/// The field `value` of a header (RFC 9110 §5.5).
pub(super) fn header_value(at: &At<'_>, value: &str, faults: &mut Faults) {
    let allowed = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if value.len() > LONGEST_VALUE {
        faults.add(at, "value", format!("longer than {LONGEST_VALUE} bytes"));
    } else if !value.bytes().all(allowed) {
        faults.add(at, "value", "not what a header's value can be");
    }
}

fn redirect(at: &At<'_>, faults: &mut Faults) -> Redirect {
    at.only(
        &["scheme", "hostname", "path", "port", "statusCode"],
        faults,
    );
    let scheme = at.text("scheme", faults).map(str::to_owned);
    if let Some(other) = scheme
        .as_deref()
        .filter(|it| !matches!(*it, "http" | "https"))
    {
        let reason = format!("{other:?} is neither http nor https");
        faults.add(at, "scheme", reason);
    }
    let status = at.whole("statusCode", faults);
    let status = status.map(|status| match status {
        301 | 302 | 303 | 307 | 308 => u16::try_from(status).unwrap_or_default(),
        _ => {
            faults.add(at, "statusCode", "none of 301, 302, 303, 307, 308");
            0
        }
    });
    Redirect {
        scheme,
        hostname: hostname(at, faults),
        path: path_edit(at, faults),
        port: at.port("port", faults),
        status,
    }
}

fn rewrite(at: &At<'_>, faults: &mut Faults) -> Rewrite {
    at.only(&["hostname", "path"], faults);
    let path = path_edit(at, faults);
    if let (Some(edit), Some(at)) = (&path, at.get("path")) {
        let (field, text) = match edit {
            PathEdit::Full(text) => ("replaceFullPath", text),
            PathEdit::Prefix(text) => ("replacePrefixMatch", text),
        };
        if let Some(other) = other_reading(text) {
            let reason = format!(
                "{text:?} has a second reading, {other:?}: backends do not agree what it is"
            );
            faults.add(&at, field, reason);
        }
    }
    Rewrite {
        hostname: hostname(at, faults),
        path,
    }
}

fn hostname(at: &At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text("hostname", faults)?;
    if !is_hostname(text) {
        faults.add(at, "hostname", format!("{text:?} is not a host name"));
    }
    Some(text.to_owned())
}

fn path_edit(owner: &At<'_>, faults: &mut Faults) -> Option<PathEdit> {
    let at = owner.mapping("path", faults)?;
    at.only(&["type", "replaceFullPath", "replacePrefixMatch"], faults);
    let (field, other) = match at.required("type", faults) {
        "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
        "ReplacePrefixMatch" => ("replacePrefixMatch", "replaceFullPath"),
        "" => return None,
        word => {
            let reason = format!("{word:?} is none of ReplaceFullPath, ReplacePrefixMatch");
            faults.add(&at, "type", reason);
            return None;
        }
    };
    if at.get(other).is_some() {
        faults.add(&at, other, "does not go with this type");
    }
    let Some(text) = at.text(field, faults) else {
        if at.get(field).is_none() {
            faults.add(&at, field, "required");
        }
        return None;
    };
    // What it results in is a path: beginning with a slash, or empty for a prefix that goes.
    let whole = if text.is_empty() { "/" } else { text };
    if text.len() > LONGEST_PATH {
        faults.add(&at, field, format!("longer than {LONGEST_PATH} bytes"));
    } else if !is_path(whole) {
        faults.add(&at, field, no_path(text));
    } else if let Some(normal) = other_form(whole) {
        faults.add(&at, field, format!("{text:?} is to be written {normal:?}"));
    }
    Some(match field {
        "replaceFullPath" => PathEdit::Full(text.to_owned()),
        _ => PathEdit::Prefix(text.to_owned()),
    })
}

/// What else a backend may take a path for that is sent to it. Clients may ask in two ways, and are judged in both; who
/// writes a route can write what he means. A redirect is asked anew, so it may be anything.
fn other_reading(path: &str) -> Option<String> {
    let is_good = is_path(path) && other_form(path).is_none();
    let judged = mesh::http::path::judge(path.as_bytes()).ok()?;
    judged.others.into_iter().next().filter(|_| is_good)
}

/// The normal form of a path, if it is not in that: what a rule makes of a path is sent as it is.
fn other_form(path: &str) -> Option<String> {
    let normal = mesh::http::path::normal(path.as_bytes()).ok()?;
    (*normal != *path).then(|| normal.to_string())
}
