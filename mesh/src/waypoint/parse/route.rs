//! `Route`. A rule that cannot be carried out stays where it is and is answered with 500, so that what it matches goes
//! nowhere else; of a match that cannot be read, what can be read of it still counts.

use std::time::Duration;

use proto::waypoint as wire;

use crate::{
    http::{
        edit::{Filter, HeaderEdits, PathEdit, Redirect, Rewrite},
        host::Scheme,
        path,
        pattern::Pattern,
        route::{FieldMatch, HostMatch, Kind, Match, PathMatch, Route, Rule, Text, Timeouts},
        weight::{Backend, Target},
    },
    name::Name,
    waypoint::parse,
};

/// Reads a route. What of it cannot be carried out is in [`Rule::invalid`]; the second are the reasons that are not the
/// sender's own.
pub(in crate::waypoint) fn route(bytes: &[u8]) -> Result<(Route, Vec<String>), String> {
    let message: wire::Route = parse::decoded(bytes)?;
    let kind = match message.kind.as_str() {
        "HTTPRoute" => Kind::Http,
        "GRPCRoute" => Kind::Grpc,
        "TCPRoute" => Kind::Tcp,
        other => return Err(format!("is of the unknown kind {other:?}")),
    };
    let whole = parse::has_all(&message.requires);
    let whole = whole.and_then(|()| parse::lost_nothing(&message, bytes));
    let mut reasons: Vec<String> = whole.clone().err().into_iter().collect();
    let mut rules = Vec::with_capacity(message.rules.len());
    for (at, rule) in message.rules.iter().enumerate() {
        let (mut rule, reason) = self::rule(rule);
        reasons.extend(reason.map(|reason| format!("rule {at}: {reason}")));
        if let (Err(why), None) = (&whole, &rule.invalid) {
            rule.invalid = Some(why.as_str().into());
        }
        rules.push(rule);
    }
    let hosts = message.hostnames.iter();
    let route = Route {
        kind,
        namespace: Name::new(&message.namespace),
        name: message.name.as_str().into(),
        created: message.created,
        client: (!message.consumer.is_empty()).then(|| Name::new(&message.consumer)),
        hosts: hosts.map(|host| HostMatch::read(host)).collect(),
        rules: rules.into(),
    };
    Ok((route, reasons))
}

/// A rule, and why it is invalid if it does not say so itself.
fn rule(message: &wire::Rule) -> (Rule, Option<String>) {
    let mut faults = Vec::new();
    faults.extend(parse::has_all(&message.requires).err());
    let matches = message.matches.iter().map(|m| a_match(m, &mut faults));
    let matches = matches.collect();
    let filters = filters(&message.filters).unwrap_or_else(|why| {
        faults.push(why);
        Box::default()
    });
    let timeout = |millis: u64| (millis != 0).then(|| Duration::from_millis(millis));
    let said = (!message.invalid.is_empty()).then(|| message.invalid.clone());
    let reason = faults.into_iter().next();
    let rule = Rule {
        name: message.name.as_str().into(),
        matches,
        filters,
        backends: message.backends.iter().map(backend).collect(),
        timeouts: Timeouts {
            request: timeout(message.request_timeout),
            backend: timeout(message.backend_timeout),
        },
        invalid: said.or_else(|| reason.clone()).map(String::into_boxed_str),
    };
    (rule, reason)
}

/// A match. What cannot be read of it does not make it narrower: the rule is invalid then, and answers for all it may be for.
fn a_match(message: &wire::Match, faults: &mut Vec<String>) -> Match {
    let path = path_match(message).unwrap_or_else(|why| {
        faults.push(why);
        any_path()
    });
    let method = (!message.method.is_empty()).then(|| message.method.as_str().into());
    Match {
        path,
        method,
        headers: fields(&message.headers, faults),
        query: fields(&message.query, faults),
    }
}

fn any_path() -> PathMatch {
    PathMatch::prefix("/").expect("a slash is a path")
}

fn path_match(message: &wire::Match) -> Result<PathMatch, String> {
    use wire::r#match::Path;
    let malformed = |text: &str, e: path::Malformed| format!("path {text:?}: {e}");
    match &message.path {
        None => Ok(any_path()),
        Some(Path::Exact(text)) => PathMatch::exact(text).map_err(|e| malformed(text, e)),
        Some(Path::Prefix(text)) => PathMatch::prefix(text).map_err(|e| malformed(text, e)),
        Some(Path::Regex(text)) => pattern(text).map(PathMatch::Regex),
        Some(Path::Grpc(call)) => Ok(PathMatch::Grpc {
            service: call.service.as_ref().map(text).transpose()?,
            method: call.method.as_ref().map(text).transpose()?,
        }),
    }
}

fn fields(list: &[wire::Field], faults: &mut Vec<String>) -> Box<[FieldMatch]> {
    let mut read = Vec::with_capacity(list.len());
    for field in list {
        let value = field
            .value
            .as_ref()
            .ok_or_else(|| "has no value".to_owned());
        match value.and_then(text) {
            Ok(value) => read.push(FieldMatch {
                name: field.name.as_str().into(),
                value,
            }),
            Err(why) => faults.push(format!("{:?}: {why}", field.name)),
        }
    }
    read.into()
}

fn text(message: &wire::Text) -> Result<Text, String> {
    match &message.text {
        Some(wire::text::Text::Exact(text)) => Ok(Text::Exact(text.as_str().into())),
        Some(wire::text::Text::Regex(text)) => pattern(text).map(Text::Regex),
        None => Err("says nothing that is known here".to_owned()),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|e| format!("{text:?}: {e}"))
}

fn filters(list: &[wire::Filter]) -> Result<Box<[Filter]>, String> {
    let filters: Box<[Filter]> = list.iter().map(filter).collect::<Result<_, _>>()?;
    let last_word = |filter: &&Filter| matches!(filter, Filter::Redirect(_) | Filter::Rewrite(_));
    if filters.iter().filter(last_word).count() > 1 {
        return Err("redirects and rewrites more than once".to_owned());
    }
    Ok(filters)
}

fn filter(message: &wire::Filter) -> Result<Filter, String> {
    use wire::filter::Filter as Wire;
    match &message.filter {
        Some(Wire::RequestHeaders(edits)) => {
            Ok(Filter::RequestHeaders(header_edits(edits).for_requests()))
        }
        Some(Wire::ResponseHeaders(edits)) => Ok(Filter::ResponseHeaders(header_edits(edits))),
        Some(Wire::Redirect(message)) => redirect(message).map(Filter::Redirect),
        Some(Wire::Rewrite(message)) => Ok(Filter::Rewrite(Rewrite {
            host: (!message.hostname.is_empty()).then(|| message.hostname.as_str().into()),
            path: message.path.as_ref().map(path_edit).transpose()?,
        })),
        None => Err("has a filter that is not known here".to_owned()),
    }
}

fn header_edits(message: &wire::HeaderEdits) -> HeaderEdits {
    let pairs = |list: &[wire::Header]| {
        let one = |header: &wire::Header| (header.name.as_str().into(), bare(&header.value).into());
        list.iter().map(one).collect()
    };
    HeaderEdits {
        set: pairs(&message.set),
        add: pairs(&message.add),
        remove: message
            .remove
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
    }
}

/// Blanks around a value are none of it (RFC 9110 §5.5): what is judged is what everybody reads.
fn bare(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

fn redirect(message: &wire::Redirect) -> Result<Redirect, String> {
    let scheme = match message.scheme.as_str() {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => return Err(format!("redirects to the scheme {other:?}")),
    };
    let status = match message.status {
        0 => 302,
        status @ (301 | 302 | 303 | 307 | 308) => u16::try_from(status).unwrap_or(302),
        other => return Err(format!("redirects with the status {other}")),
    };
    let port = match message.port {
        0 => None,
        number => Some(parse::port(number)?),
    };
    Ok(Redirect {
        scheme,
        host: (!message.hostname.is_empty()).then(|| message.hostname.as_str().into()),
        port,
        path: message.path.as_ref().map(path_edit).transpose()?,
        status,
    })
}

fn path_edit(message: &wire::PathEdit) -> Result<PathEdit, String> {
    use wire::path_edit::Edit;
    let checked = |text: &str| match text {
        "" => Ok("".into()),
        text => path::normal(text.as_bytes())
            .map(|_| text.into())
            .map_err(|e| format!("path {text:?}: {e}")),
    };
    match &message.edit {
        Some(Edit::Full(text)) => checked(text).map(PathEdit::Full),
        Some(Edit::Prefix(text)) => checked(text).map(PathEdit::Prefix),
        None => Err("has a path edit that is not known here".to_owned()),
    }
}

/// A backend. What is wrong with one takes its share only.
fn backend(message: &wire::WeightedBackend) -> Backend {
    let mut backend = Backend {
        target: Target::Invalid("leads nowhere that is known here".into()),
        weight: message.weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    backend.target =
        target(message, &mut backend).unwrap_or_else(|why| Target::Invalid(why.into()));
    backend
}

fn target(message: &wire::WeightedBackend, backend: &mut Backend) -> Result<Target, String> {
    use wire::weighted_backend::Target as Wire;
    let destination = match &message.target {
        Some(Wire::Destination(destination)) => destination,
        Some(Wire::Invalid(why)) => return Ok(Target::Invalid(why.as_str().into())),
        None => return Err("leads nowhere that is known here".to_owned()),
    };
    let mut seen = (false, false);
    for message in &message.filters {
        match filter(message)? {
            Filter::RequestHeaders(edits) if !std::mem::replace(&mut seen.0, true) => {
                backend.request_headers = edits;
            }
            Filter::ResponseHeaders(edits) if !std::mem::replace(&mut seen.1, true) => {
                backend.response_headers = edits;
            }
            _ => return Err("has a filter that a backend cannot have".to_owned()),
        }
    }
    Ok(Target::Service {
        service: Name::new(&destination.backend),
        port: parse::port(destination.port)?,
    })
}
