//! What one waypoint believes, as tables: `ambit wp`.
//!
//! As `zc` it reads `/config_dump` and decides nothing.

use serde_json::{Value, json};

use crate::{
    Failure,
    zc::{self, Table, field, list, or_dash, table, text},
};

/// A part of a waypoint's configuration.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Part {
    /// The services that it stands before, port by port.
    #[value(alias = "table", alias = "t")]
    Tables,
    /// What becomes of requests and connections, rule by rule.
    #[value(alias = "route", alias = "r")]
    Routes,
    /// The services that routes lead to, and their endpoints.
    #[value(alias = "backend", alias = "b")]
    Backends,
    /// Who may do what, at layer 7 and at layer 4.
    #[value(alias = "policy", alias = "p")]
    Policies,
}

/// One of the tables of a dump.
pub(crate) fn print(dump: &Value, what: Part, as_json: bool) -> Result<String, Failure> {
    let part = |key: &str| {
        let part = zc::part(dump, key);
        part.map_err(|what| Failure::Failed(format!("this is no dump of a waypoint: {what}")))
    };
    let (value, table) = match what {
        Part::Tables => (part("tables")?.clone(), tables(dump)),
        Part::Routes => (part("routes")?.clone(), routes(dump)),
        Part::Backends => (part("backends")?.clone(), backends(dump)),
        Part::Policies => {
            let (requests, connections) = (part("requestPolicies")?, part("policies")?);
            let both = json!({ "requestPolicies": requests, "policies": connections });
            (both, policies(dump))
        }
    };
    Ok(if as_json {
        format!("{value:#}\n")
    } else {
        table.to_string()
    })
}

/// NAMESPACE, SERVICE, PORT, PROTOCOL, ROUTES, POLICIES; a row for each port.
fn tables(dump: &Value) -> Table {
    let rows = list(dump, "tables").iter().flat_map(|it| {
        let row = |port: &Value| {
            let routes = match &port["refused"] {
                Value::Null => words(port, "routes"),
                why => format!("refused: {}", text(why)),
            };
            vec![
                field(it, "namespace"),
                field(it, "hostname"),
                field(port, "number"),
                field(port, "protocol"),
                match &it["refused"] {
                    Value::Null => routes,
                    why => format!("refused: {}", text(why)),
                },
                words(it, "policies"),
            ]
        };
        list(it, "ports").iter().map(row).collect::<Vec<_>>()
    });
    let header = vec![
        "NAMESPACE",
        "SERVICE",
        "PORT",
        "PROTOCOL",
        "ROUTES",
        "POLICIES",
    ];
    table(header, rows)
}

/// NAMESPACE, ROUTE, RULE, MATCHES, TO, FOR; a row for each rule, in the order of the object.
fn routes(dump: &Value) -> Table {
    let mut rows = Vec::new();
    for it in list(dump, "routes") {
        let parents = words(it, "parents");
        let client = match text(&it["clientNamespace"]) {
            none if none.is_empty() => String::new(),
            namespace => format!(", clients of {namespace}"),
        };
        for (at, rule) in list(it, "rules").iter().enumerate() {
            rows.push(vec![
                field(it, "namespace"),
                format!("{}/{}", field(it, "kind"), field(it, "name")),
                match text(&rule["name"]) {
                    none if none.is_empty() => at.to_string(),
                    name => name,
                },
                joined(list(rule, "matches"), " or ", matched, "all"),
                leads_to(rule),
                format!("{parents}{client}"),
            ]);
        }
    }
    // Not sorted: the rules of an object belong together.
    Table {
        header: vec!["NAMESPACE", "ROUTE", "RULE", "MATCHES", "TO", "FOR"],
        rows,
    }
}

/// What one match of a rule wants of a request.
fn matched(it: &Value) -> String {
    let mut words = Vec::new();
    words.extend(it["method"].as_str().map(str::to_owned));
    for (kind, mark) in [("exact", "="), ("prefix", ""), ("regex", "~")] {
        words.extend(it["path"][kind].as_str().map(|it| format!("{mark}{it}")));
    }
    for kind in ["service", "method"] {
        let value = &it["path"][kind];
        if !value.is_null() {
            words.push(format!("{kind}{}", valued(value)));
        }
    }
    for (key, mark) in [("headers", ""), ("query", "?")] {
        let all = list(it, key).iter();
        words.extend(all.map(|it| format!("{mark}{}{}", text(&it["name"]), valued(&it["value"]))));
    }
    words.join(" ")
}

fn valued(value: &Value) -> String {
    match &value["regex"] {
        Value::Null => format!("={}", text(&value["exact"])),
        regex => format!("~{}", text(regex)),
    }
}

/// What a rule does with a request.
fn leads_to(rule: &Value) -> String {
    let why = text(&rule["invalid"]);
    if !why.is_empty() {
        return format!("500: {why}");
    }
    let mut words = Vec::new();
    for filter in list(rule, "filters") {
        words.extend(filter.as_object().into_iter().flatten().map(edit));
    }
    let backend = |it: &Value| match &it["invalid"] {
        Value::Null => format!(
            "{} {}:{}",
            text(&it["weight"]),
            text(&it["service"]),
            text(&it["port"])
        ),
        why => format!("{} 500: {}", text(&it["weight"]), text(why)),
    };
    let backends = list(rule, "backends");
    if !backends.is_empty() {
        words.push(joined(backends, ", ", backend, "-"));
    }
    for (key, name) in [
        ("requestTimeout", "within"),
        ("backendTimeout", "each try within"),
    ] {
        words.extend(rule[key].as_str().map(|time| format!("{name} {time}")));
    }
    or_dash(words.join("; "))
}

/// A filter in few words; `-o json` has all of it.
fn edit((kind, of): (&String, &Value)) -> String {
    let path = ["full", "prefix"]
        .map(|kind| text(&of["path"][kind]))
        .concat();
    match kind.as_str() {
        "redirect" => {
            let part = |before: &str, it: &str, after: &str| match text(&of[it]) {
                none if none.is_empty() => none,
                it => format!("{before}{it}{after}"),
            };
            let to = [
                part("", "scheme", "://"),
                text(&of["hostname"]),
                part(":", "port", ""),
                path,
            ];
            format!(
                "{} to {}",
                or_dash(text(&of["status"])),
                or_dash(to.concat())
            )
        }
        "rewrite" => format!("rewritten to {}{path}", text(&of["hostname"])),
        "requestHeaders" => "edits request headers".to_owned(),
        "responseHeaders" => "edits response headers".to_owned(),
        other => other.to_owned(),
    }
}

/// NAMESPACE, SERVICE, PROTOCOLS, ENDPOINTS, WAYPOINT, POLICIES.
fn backends(dump: &Value) -> Table {
    let row = |it: &Value| {
        let protocols = it["protocols"].as_object().into_iter().flatten();
        let protocols: Vec<_> = protocols
            .map(|(port, spoken)| format!("{port}:{}", text(spoken)))
            .collect();
        vec![
            field(it, "namespace"),
            field(it, "hostname"),
            or_dash(protocols.join(",")),
            match &it["refused"] {
                Value::Null => list(it, "endpoints").len().to_string(),
                why => format!("refused: {}", text(why)),
            },
            field(it, "waypoint"),
            words(it, "policies"),
        ]
    };
    let header = vec![
        "NAMESPACE",
        "SERVICE",
        "PROTOCOLS",
        "ENDPOINTS",
        "WAYPOINT",
        "POLICIES",
    ];
    table(header, list(dump, "backends").iter().map(row))
}

/// NAMESPACE, POLICY, LAYER, ACTION, RULES.
fn policies(dump: &Value) -> Table {
    let of = |key: &'static str, layer: &'static str| {
        list(dump, key).iter().map(move |it| {
            let action = match it["dryRun"].as_bool() {
                Some(true) => format!("{} (dry run)", field(it, "action")),
                _ => field(it, "action"),
            };
            vec![
                field(it, "namespace"),
                field(it, "name"),
                layer.to_owned(),
                action,
                match &it["notUnderstood"] {
                    Value::Null => list(it, "rules").len().to_string(),
                    why => format!("denies all: {}", text(why)),
                },
            ]
        })
    };
    let header = vec!["NAMESPACE", "POLICY", "LAYER", "ACTION", "RULES"];
    table(
        header,
        of("requestPolicies", "7").chain(of("policies", "4")),
    )
}

fn words(of: &Value, key: &str) -> String {
    joined(list(of, key), ",", text, "-")
}

fn joined(all: &[Value], with: &str, one: impl Fn(&Value) -> String, none: &str) -> String {
    if all.is_empty() {
        return none.to_owned();
    }
    all.iter().map(one).collect::<Vec<_>>().join(with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> Value {
        json!({
            "tables": [{
                "namespace": "shop", "hostname": "orders.shop.svc", "policies": ["shop/api"],
                "ports": [
                    { "number": 80, "name": "http", "protocol": "HTTP1", "routes": ["HTTPRoute/shop/orders"] },
                    { "number": 90, "protocol": "TCP" },
                    { "number": 91, "protocol": "HTTP", "refused": "needs the feature x" },
                ],
            }],
            "routes": [{
                "kind": "HTTPRoute", "namespace": "shop", "name": "orders", "parents": ["shop/orders.shop.svc:80"],
                "clientNamespace": "bank",
                "rules": [
                    { "name": "canary", "requestTimeout": "500ms", "backends": [
                        { "service": "shop/v1", "port": 80, "weight": 90 }, { "invalid": "no such service", "weight": 10 },
                    ] },
                    { "matches": [
                        { "path": { "prefix": "/old" }, "method": "GET", "headers": [{ "name": "a", "value": { "regex": "x.*" } }] },
                        { "path": { "exact": "/e" }, "query": [{ "name": "q", "value": { "exact": "1" } }] },
                    ], "filters": [{ "redirect": { "status": 301, "path": { "prefix": "/new" } } }] },
                    { "invalid": "an unknown filter" },
                ],
            }],
            "backends": [{
                "namespace": "shop", "hostname": "v1", "protocols": { "80": "HTTP1" }, "endpoints": ["a", "b"],
            }],
            "requestPolicies": [
                { "namespace": "shop", "name": "api", "action": "Allow", "dryRun": true, "rules": [{}, {}] },
                { "namespace": "shop", "name": "odd", "action": "Deny", "rules": [{}], "notUnderstood": "rulez" },
            ],
            "policies": [{ "namespace": "shop", "name": "clients", "action": "Allow", "rules": [[]] }],
        })
    }

    #[test]
    fn the_tables_of_a_dump() {
        let dump = dump();
        assert_eq!(
            tables(&dump).rows,
            [
                [
                    "shop",
                    "orders.shop.svc",
                    "80",
                    "HTTP1",
                    "HTTPRoute/shop/orders",
                    "shop/api"
                ],
                ["shop", "orders.shop.svc", "90", "TCP", "-", "shop/api"],
                [
                    "shop",
                    "orders.shop.svc",
                    "91",
                    "HTTP",
                    "refused: needs the feature x",
                    "shop/api"
                ],
            ]
        );
        let parents = "shop/orders.shop.svc:80, clients of bank";
        assert_eq!(
            routes(&dump).rows,
            [
                [
                    "shop",
                    "HTTPRoute/orders",
                    "canary",
                    "all",
                    "90 shop/v1:80, 10 500: no such service; within 500ms",
                    parents
                ],
                [
                    "shop",
                    "HTTPRoute/orders",
                    "1",
                    "GET /old a~x.* or =/e ?q=1",
                    "301 to /new",
                    parents
                ],
                [
                    "shop",
                    "HTTPRoute/orders",
                    "2",
                    "all",
                    "500: an unknown filter",
                    parents
                ],
            ]
        );
        assert_eq!(
            backends(&dump).rows,
            [["shop", "v1", "80:HTTP1", "2", "-", "-"]]
        );
        assert_eq!(
            policies(&dump).rows,
            [
                ["shop", "api", "7", "Allow (dry run)", "2"],
                ["shop", "clients", "4", "Allow", "1"],
                ["shop", "odd", "7", "Deny", "denies all: rulez"],
            ]
        );
    }

    #[test]
    fn a_redirect_is_told_whatever_it_changes() {
        for (of, words) in [
            (
                json!({ "status": 301, "scheme": "https" }),
                "301 to https://",
            ),
            (json!({ "status": 302, "port": 8443 }), "302 to :8443"),
            (
                json!({ "scheme": "https", "hostname": "a", "port": 8443, "path": { "full": "/b" } }),
                "- to https://a:8443/b",
            ),
            (json!({ "status": 302 }), "302 to -"),
        ] {
            assert_eq!(edit((&"redirect".to_owned(), &of)), words);
        }
    }

    #[test]
    fn json_is_the_part_as_it_is_and_a_ztunnels_dump_is_refused() {
        let dump = dump();
        let printed: Value =
            serde_json::from_str(&print(&dump, Part::Routes, true).unwrap()).unwrap();
        assert_eq!(printed, dump["routes"]);
        let printed: Value =
            serde_json::from_str(&print(&dump, Part::Policies, true).unwrap()).unwrap();
        assert_eq!(printed["policies"], dump["policies"]);
        let refused = print(&json!({ "policies": [] }), Part::Policies, false).unwrap_err();
        assert!(refused.to_string().contains("requestPolicies is missing"));
    }
}
