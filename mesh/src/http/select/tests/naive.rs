//! A second way to select, written from the Gateway API: look at every match, keep those that hold, take the best. It shares
//! no code with the index, and speaks of routes in values of its own.

use std::cmp::Reverse;

use proptest::prelude::*;

/// A route object.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    pub namespace: &'static str,
    pub name: String,
    pub created: i64,
    pub client: Option<&'static str>,
    pub hosts: Vec<&'static str>,
    pub rules: Vec<Vec<MatchOf>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct MatchOf {
    pub path: PathOf,
    pub method: Option<&'static str>,
    pub headers: Vec<(&'static str, &'static str)>,
    pub query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum PathOf {
    Exact(&'static str),
    Prefix(&'static str),
    /// An expression, and what it means.
    Regex(&'static str, fn(&str) -> bool),
    Grpc(Option<&'static str>, Option<&'static str>),
}

impl Default for PathOf {
    fn default() -> Self {
        Self::Prefix("/")
    }
}

impl PathOf {
    pub(super) fn text(self) -> (u8, &'static str) {
        match self {
            Self::Exact(text) => (0, text),
            Self::Prefix(text) => (1, text),
            Self::Regex(text, _) => (2, text),
            Self::Grpc(service, _) => (3, service.unwrap_or_default()),
        }
    }
}

/// A request, all of it in canonical spelling.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub client: Option<&'a str>,
    pub method: &'a str,
    pub host: &'a str,
    pub target: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self {
            client: None,
            method: "GET",
            host: "a",
            target: "/",
            headers: Vec::new(),
        }
    }
}

/// `<route>/<rule>`.
pub(super) fn select(objects: &[Object], asked: &Asked<'_>) -> Option<String> {
    let of_client = |object: &&Object| object.client == asked.client && asked.client.is_some();
    let consumer = objects.iter().any(|object| of_client(&object));
    let applicable = objects.iter().filter(|object| match consumer {
        true => of_client(object),
        false => object.client.is_none(),
    });
    let everything = [MatchOf::default()];
    let mut found = Vec::new();
    for object in applicable {
        let Some(host) = best_host(object, asked.host) else {
            continue;
        };
        for (at, matches) in object.rules.iter().enumerate() {
            let matches = if matches.is_empty() {
                &everything[..]
            } else {
                matches
            };
            for (order, m) in matches.iter().enumerate() {
                if holds(m, asked) {
                    let name = format!("{}/{at}", object.name);
                    let tie = (object.created, object.namespace, &object.name, at, order);
                    found.push(((Reverse(host), Reverse(specific(m)), tie), name));
                }
            }
        }
    }
    found.sort();
    found.into_iter().next().map(|(_, name)| name)
}

/// Characters of a host that is no wildcard, then of any.
fn best_host(object: &Object, host: &str) -> Option<(usize, usize)> {
    if object.hosts.is_empty() {
        return Some((0, 0));
    }
    let of = |pattern: &&str| match pattern.strip_prefix("*") {
        Some(end) => (host.ends_with(end) && host != end).then_some((0, pattern.len())),
        None => (*pattern == host).then_some((pattern.len(), pattern.len())),
    };
    object.hosts.iter().filter_map(of).max()
}

fn distinct(fields: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for field in fields {
        if !kept.iter().any(|(name, _)| *name == field.0) {
            kept.push(*field);
        }
    }
    kept
}

fn holds(m: &MatchOf, asked: &Asked<'_>) -> bool {
    let (path, query) = asked.target.split_once('?').unwrap_or((asked.target, ""));
    let pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    holds_path(m.path, path)
        && m.method.is_none_or(|method| method == asked.method)
        && distinct(&m.headers)
            .iter()
            .all(|field| asked.headers.contains(field))
        && distinct(&m.query).iter().all(|(name, value)| {
            pairs
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, value)| value)
                == Some(value)
        })
}

fn holds_path(m: PathOf, path: &str) -> bool {
    match m {
        PathOf::Exact(exact) => path == exact,
        PathOf::Prefix(prefix) => {
            let segments = |text: &str| -> Vec<String> {
                text.trim_end_matches('/')
                    .split('/')
                    .map(str::to_owned)
                    .collect()
            };
            segments(path).starts_with(&segments(prefix))
        }
        PathOf::Regex(_, means) => means(path),
        PathOf::Grpc(service, method) => match path.split('/').collect::<Vec<_>>()[..] {
            ["", s, m] if !s.is_empty() && !m.is_empty() => {
                service.is_none_or(|service| service == s)
                    && method.is_none_or(|method| method == m)
            }
            _ => false,
        },
    }
}

/// Exact, then the longest prefix, then expressions, then `/`; or service, then method. Then method, headers, parameters.
fn specific(m: &MatchOf) -> ((u8, usize, usize), bool, usize, usize) {
    let path = match m.path {
        PathOf::Exact(_) => (3, 0, 0),
        PathOf::Prefix("/") => (0, 0, 0),
        PathOf::Prefix(prefix) => (2, prefix.trim_end_matches('/').len(), 0),
        PathOf::Regex(text, _) => (1, text.len(), 0),
        PathOf::Grpc(service, method) => {
            (0, service.map_or(0, str::len), method.map_or(0, str::len))
        }
    };
    (
        path,
        m.method.is_some(),
        distinct(&m.headers).len(),
        distinct(&m.query).len(),
    )
}

const FIELDS: [(&str, &str); 5] = [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"), ("c", "3")];

fn http_path() -> impl Strategy<Value = PathOf> {
    let exact = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab"]);
    let prefix = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b"]);
    let regex = prop::sample::select(vec![
        PathOf::Regex("/a.*", |path| path.starts_with("/a")),
        PathOf::Regex(".*/b", |path| path.ends_with("/b")),
        PathOf::Regex("/[ab]", |path| path == "/a" || path == "/b"),
    ]);
    prop_oneof![
        exact.prop_map(PathOf::Exact),
        prefix.prop_map(PathOf::Prefix),
        regex
    ]
}

fn grpc_path() -> impl Strategy<Value = PathOf> {
    let service = prop::option::of(prop::sample::select(vec!["a", "b", "ab"]));
    let method = prop::option::of(prop::sample::select(vec!["b", "bc"]));
    (service, method).prop_map(|(service, method)| PathOf::Grpc(service, method))
}

fn match_of(path: impl Strategy<Value = PathOf>) -> impl Strategy<Value = MatchOf> {
    let fields = || prop::collection::vec(prop::sample::select(FIELDS.to_vec()), 0..3);
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
    (path, method, fields(), fields()).prop_map(|(path, method, headers, query)| {
        let grpc = matches!(path, PathOf::Grpc(..));
        MatchOf {
            path,
            method: method.filter(|_| !grpc),
            headers,
            query: if grpc { Vec::new() } else { query },
        }
    })
}

fn object(path: impl Strategy<Value = PathOf>) -> impl Strategy<Value = Object> {
    let hosts = prop::sample::select(vec!["a.com", "b.a.com", "*.com", "*.a.com", "shop"]);
    let rules = prop::collection::vec(prop::collection::vec(match_of(path), 0..4), 0..4);
    (
        prop::sample::select(vec!["x", "y"]),
        0..3_i64,
        prop::option::weighted(0.2, prop::sample::select(vec!["bank", "shop"])),
        prop::collection::vec(hosts, 0..3),
        rules,
    )
        .prop_map(|(namespace, created, client, hosts, rules)| Object {
            namespace,
            name: String::new(),
            created,
            client,
            hosts,
            rules,
        })
}

/// Routes of one kind: kinds do not mix on a port. Their names are in no order.
pub(super) fn objects() -> impl Strategy<Value = Vec<Object>> {
    let http = prop::collection::vec(object(http_path()), 0..6);
    let grpc = prop::collection::vec(object(grpc_path()), 0..6);
    (
        prop_oneof![3 => http.boxed(), 1 => grpc.boxed()],
        0..7_usize,
    )
        .prop_map(|(mut objects, turn)| {
            for (at, object) in objects.iter_mut().enumerate() {
                object.name = format!("r{}", (at * 5 + turn) % 7);
            }
            objects
        })
}

pub(super) fn asked() -> impl Strategy<Value = Asked<'static>> {
    let hosts = prop::sample::select(vec![
        "a.com",
        "b.a.com",
        "c.b.a.com",
        "c.com",
        "shop",
        "com",
    ]);
    let targets = prop::sample::select(vec![
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/",
        "/a/b/c",
        "/a/b/c/d",
        "/ab",
        "/ab/b",
        "/ab/bc",
        "/b",
        "/b/b",
        "/c",
        "/a/bc",
        "/a?a=1",
        "/a/b?a=2&b=1",
        "/a?c=3&c=1&a=1",
        "/ab?b=1",
    ]);
    (
        prop::option::of(prop::sample::select(vec!["bank", "shop", "other"])),
        prop::sample::select(vec!["GET", "POST"]),
        hosts,
        targets,
        prop::collection::vec(prop::sample::select(FIELDS.to_vec()), 0..5),
    )
        .prop_map(|(client, method, host, target, headers)| Asked {
            client,
            method,
            host,
            target,
            headers,
        })
}
