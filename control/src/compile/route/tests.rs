//! Facts about routes: manifests in, what a waypoint is told and what is said of the routes beside them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{super::json as printed, *};
use crate::{
    compile::{Settings, Told, compile},
    source::load,
    world::World,
};

/// Services `web` with ports of all kinds, `api` and one of another namespace.
const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [
  {name: http, port: 80}, {name: grpc, port: 90}, {name: tcp-db, port: 100}, {name: any, port: 110}, {name: u, port: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bare, namespace: shop}, spec: {clusterIP: None, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: shop}, spec: {type: ExternalName, externalName: a.b, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: far, namespace: bank}, spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}}
";

fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}

fn of_kind(kind: &str, namespace: &str, name: &str, parents: &str, rules: &str) -> String {
    let spec = format!("{{parentRefs: [{parents}], rules: [{rules}]}}");
    object(kind, namespace, name, &spec)
}

/// An HTTPRoute of namespace shop.
fn http(name: &str, parents: &str, rules: &str) -> String {
    of_kind("HTTPRoute", "shop", name, parents, rules)
}

const WEB: &str = "{group: '', kind: Service, name: web}";
const TO_API: &str = "{backendRefs: [{name: api, port: 80}]}";
/// What `TO_API` becomes.
const API: &str = "shop/api.shop.svc.cluster.local";

fn at_port(port: u16) -> String {
    WEB.replace('}', &format!(", port: {port}}}"))
}

/// Of shop/web, seen from elsewhere.
fn from_afar(port: u16) -> String {
    at_port(port).replace('}', ", namespace: shop}")
}

fn world(text: &str) -> World {
    let files = [(PathBuf::from("test.yaml"), format!("{SERVICES}{text}"))];
    let loaded = load(&files.into(), None);
    assert_eq!(loaded.problems, [], "{text}");
    loaded.world
}

fn with_routes<T>(world: &World, see: impl FnOnce(&Routes) -> T) -> T {
    let settings = Settings::default();
    let made = BTreeMap::new();
    let scope = Scope {
        world,
        settings: &settings,
        made: &made,
    };
    let attached = super::super::policy::Attached::new(scope);
    see(&Routes::new(scope, &Bindings::new(scope, &attached)))
}

fn web() -> Key {
    ("shop".to_owned(), "web".to_owned())
}

/// Names of the routes that hold for a port of shop/web, and their kind.
fn names(text: &str, port: u16) -> (Option<RouteKind>, Vec<String>) {
    with_routes(&world(text), |routes| {
        let found = routes.of(&web(), port);
        let names = found.routes.into_iter().map(|(name, _)| name);
        (found.kind, names.collect())
    })
}

/// The rules of the only route that holds for port 80 of shop/web.
fn rules(text: &str) -> Value {
    with_routes(&world(text), |routes| {
        let mut found = routes.of(&web(), 80).routes;
        assert_eq!(found.len(), 1, "{text}");
        let (name, route) = found.remove(0);
        let told = Told {
            routes: [(name.clone(), route)].into(),
            ..Told::default()
        };
        let mut all = printed::told([(&web(), &told)]);
        all["shop/web"]["routes"][&name]["rules"].take()
    })
}

/// Of each parent of a route: type, whether it holds and reason of each condition, but that there is no waypoint.
fn conditions(text: &str, route: &str) -> Value {
    let statuses = &printed::compiled(&compile(&world(text), &Settings::default()))["status"];
    let parents = statuses[route]["parents"].as_array().cloned();
    let word = |it: &Value| {
        let [kind, holds, reason] =
            ["type", "status", "reason"].map(|key| it[key].as_str().unwrap());
        let sign = if holds == "True" { "" } else { "!" };
        format!("{sign}{kind} {reason}")
    };
    let words = |parent: &Value| {
        let all = parent["conditions"].as_array().unwrap().iter().map(word);
        all.filter(|it| !it.contains("Waypoint"))
            .collect::<Vec<_>>()
    };
    parents.unwrap_or_default().iter().map(words).collect()
}

fn message(text: &str, route: &str, kind: &str) -> String {
    let compiled = compile(&world(text), &Settings::default());
    let mut statuses = compiled.statuses.iter();
    let (_, status) = statuses.find(|(it, _)| it.to_string() == route).unwrap();
    let mut conditions = status.parents[0].conditions.iter();
    conditions
        .find(|it| it.kind == kind)
        .unwrap()
        .message
        .clone()
}

#[test]
fn a_rule_is_told_with_all_its_parts() {
    let route = http(
        "r",
        WEB,
        "{name: one, timeouts: {request: 2s, backendRequest: 500ms}, \
          matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: X-A, value: b}], queryParams: [{type: RegularExpression, name: q, value: 'x+'}]}, {path: {type: RegularExpression, value: '/b.*'}}, {path: {value: /c}}], \
          filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}, {type: URLRewrite, urlRewrite: {hostname: h, path: {type: ReplaceFullPath, replaceFullPath: /z}}}], \
          backendRefs: [{name: api, port: 80, weight: 9, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [f]}}]}, {name: web, port: 80, weight: 0}]}, \
         {filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: i, port: 1, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}]}",
    );
    let expected = json!([
        {
            "name": "one",
            "matches": [
                {"exact": "/a", "method": "GET",
                 "headers": [{"name": "X-A", "value": {"exact": "b"}}],
                 "query": [{"name": "q", "value": {"regex": "x+"}}]},
                {"regex": "/b.*"},
                {"prefix": "/c"},
            ],
            "filters": [
                {"request_headers": {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}], "remove": ["e"]}},
                {"rewrite": {"hostname": "h", "path": {"full": "/z"}}},
            ],
            "backends": [
                {"weight": 9, "destination": {"backend": API, "port": 80}, "filters": [{"response_headers": {"remove": ["f"]}}]},
                {"weight": 0, "destination": {"backend": "shop/web.shop.svc.cluster.local", "port": 80}},
            ],
            "request_timeout": 2000,
            "backend_timeout": 500,
        },
        {
            "matches": [{"prefix": "/"}],
            "filters": [{"redirect": {"scheme": "https", "hostname": "i", "port": 1, "status": 301, "path": {"prefix": ""}}}],
        },
    ]);
    assert_eq!(rules(&route), expected);
    let backends = with_routes(&world(&route), |routes| routes.of(&web(), 80).backends);
    assert_eq!(
        backends,
        [("shop".to_owned(), "api".to_owned()), web()].into()
    );
}

#[test]
fn a_route_tells_who_it_is_and_how_old() {
    let text = of_kind(
        "GRPCRoute",
        "shop",
        "g",
        WEB,
        "{matches: [{method: {service: a.B, method: C}}]}",
    )
    .replace(
        "name: g,",
        "name: g, creationTimestamp: '2026-01-01T00:00:01Z', generation: 3,",
    )
    .replace("{parentRefs", "{hostnames: ['*.a.b'], parentRefs");
    let world = world(&text);
    let route = with_routes(&world, |routes| routes.of(&web(), 90).routes.remove(0));
    assert_eq!(route.0, "GRPCRoute/shop/g/shop/web");
    let route = route.1;
    assert_eq!(
        (route.kind.as_str(), route.name.as_str()),
        ("GRPCRoute", "g")
    );
    assert_eq!(
        (route.created, route.consumer.as_str()),
        (1_767_225_601, "")
    );
    assert_eq!(route.hostnames, ["*.a.b"]);
    let compiled = compile(&world, &Settings::default());
    let status = compiled
        .statuses
        .values()
        .find(|it| !it.parents.is_empty())
        .unwrap();
    assert_eq!(status.generation, 3);
    let written = printed::status(status);
    let parent = &written["parents"][0];
    assert_eq!(parent["controllerName"], crate::status::CONTROLLER);
    assert_eq!(
        parent["parentRef"],
        json!({"group": "", "kind": "Service", "name": "web"})
    );
    assert_eq!(parent["conditions"][0]["observedGeneration"], 3);
}

#[test]
fn a_route_holds_for_the_ports_that_its_parent_means() {
    let named = WEB.replace('}', ", sectionName: any}");
    let wrong = WEB.replace('}', ", sectionName: any, port: 80}");
    for (parents, expected, outcome) in [
        // Not for what is declared not to be HTTP, nor for UDP.
        (WEB, [true, true, false, true, false], "Accepted Accepted"),
        (
            &at_port(80),
            [true, false, false, false, false],
            "Accepted Accepted",
        ),
        (
            &named,
            [false, false, false, true, false],
            "Accepted Accepted",
        ),
        (&wrong, [false; 5], "!Accepted NoMatchingParent"),
        (&at_port(81), [false; 5], "!Accepted NoMatchingParent"),
        (&at_port(53), [false; 5], "!Accepted NoMatchingParent"),
        (&at_port(100), [false; 5], "!Accepted UnsupportedProtocol"),
    ] {
        let text = http("r", parents, TO_API);
        let held = [80, 90, 100, 110, 53].map(|port| !names(&text, port).1.is_empty());
        assert_eq!(held, expected, "{parents}");
        let conditions = conditions(&text, "HTTPRoute/shop/r");
        assert_eq!(
            conditions,
            json!([[outcome, "ResolvedRefs ResolvedRefs"]]),
            "{parents}"
        );
    }
}

#[test]
fn a_tcp_route_holds_where_nothing_says_http() {
    let text = of_kind("TCPRoute", "shop", "t", WEB, TO_API);
    let held = [80, 90, 100, 110].map(|port| names(&text, port).0);
    let tcp = Some(RouteKind::Tcp);
    assert_eq!(held, [None, None, tcp, tcp]);
}

#[test]
fn parents_that_cannot_have_routes_say_so() {
    let gateway = object(
        "Gateway",
        "shop",
        "wp",
        "{gatewayClassName: ambit-waypoint, listeners: [{name: a, port: 15008, protocol: HBONE}]}",
    ) + &object(
        "Gateway",
        "shop",
        "edge",
        "{gatewayClassName: nginx, listeners: [{name: a, port: 80, protocol: HTTP}]}",
    );
    for (parent, expected) in [
        (
            "{group: '', kind: Service, name: absent}",
            json!(["!Accepted NoMatchingParent"]),
        ),
        (
            "{group: '', kind: Service, name: bare}",
            json!(["!Accepted UnsupportedValue"]),
        ),
        (
            "{group: '', kind: Service, name: alias}",
            json!(["!Accepted UnsupportedValue"]),
        ),
        (
            "{kind: Service, name: web}",
            json!(["!Accepted InvalidKind"]),
        ),
        ("{name: wp}", json!(["!Accepted NotAllowedByListeners"])),
        // Somebody else's, so nothing is said.
        ("{name: edge}", Value::Null),
        ("{name: absent}", Value::Null),
        ("{group: other.example, kind: Mesh, name: web}", Value::Null),
    ] {
        let text = gateway.clone() + &http("r", parent, TO_API);
        let mut all = expected.as_array().cloned().unwrap_or_default();
        if !all.is_empty() {
            all.push("ResolvedRefs ResolvedRefs".into());
        }
        let conditions = conditions(&text, "HTTPRoute/shop/r");
        let first = conditions.get(0).cloned().unwrap_or(json!([]));
        assert_eq!(first, Value::from(all), "{parent}");
    }
}

#[test]
fn each_parent_that_is_ours_has_one_entry() {
    let parents = format!("{}, {{name: edge}}, {}", at_port(80), at_port(81));
    let text = http("r", &parents, TO_API);
    let expected = json!([
        ["Accepted Accepted", "ResolvedRefs ResolvedRefs"],
        ["!Accepted NoMatchingParent", "ResolvedRefs ResolvedRefs"],
    ]);
    assert_eq!(conditions(&text, "HTTPRoute/shop/r"), expected);
}

#[test]
fn one_kind_of_routes_prevails_at_a_port() {
    let route =
        |kind: &str, port| of_kind(kind, "shop", &kind.to_lowercase(), &at_port(port), TO_API);
    let all = |port| {
        ["HTTPRoute", "GRPCRoute", "TCPRoute"]
            .map(|kind| route(kind, port))
            .concat()
    };
    for (port, text, prevails) in [
        (110, all(110), "GRPCRoute"),
        (
            110,
            route("HTTPRoute", 110) + &route("TCPRoute", 110),
            "HTTPRoute",
        ),
        (80, all(80), "GRPCRoute"),
    ] {
        let (_, names) = names(&text, port);
        assert_eq!(
            names,
            [format!(
                "{prevails}/shop/{}/shop/web",
                prevails.to_lowercase()
            )]
        );
        let accepted = format!("{prevails}/shop/{}", prevails.to_lowercase());
        assert_eq!(conditions(&text, &accepted)[0][0], "Accepted Accepted");
    }
    assert_eq!(
        conditions(&all(110), "HTTPRoute/shop/httproute")[0][0],
        "!Accepted Conflicted"
    );
    assert_eq!(
        conditions(&all(110), "TCPRoute/shop/tcproute")[0][0],
        "!Accepted Conflicted"
    );
}

#[test]
fn a_route_that_loses_some_ports_holds_for_the_others() {
    let text = http("r", WEB, TO_API) + &of_kind("GRPCRoute", "shop", "g", &at_port(90), TO_API);
    assert_eq!(names(&text, 80).1, ["HTTPRoute/shop/r/shop/web"]);
    assert_eq!(names(&text, 90).1, ["GRPCRoute/shop/g/shop/web"]);
    assert_eq!(
        conditions(&text, "HTTPRoute/shop/r")[0][0],
        "Accepted Accepted"
    );
    let note = message(&text, "HTTPRoute/shop/r", "Accepted");
    assert!(note.contains("port 90 has a GRPCRoute"), "{note}");
}

#[test]
fn an_invalid_reference_keeps_its_weight_and_says_why() {
    for (reference, reason, words) in [
        (
            "{name: absent, port: 80}",
            "BackendNotFound",
            "Service shop/absent is not there",
        ),
        ("{name: api, port: 81}", "BackendNotFound", "no TCP port 81"),
        ("{name: web, port: 53}", "BackendNotFound", "no TCP port 53"),
        (
            "{name: alias, port: 80}",
            "UnsupportedValue",
            "something outside",
        ),
        (
            "{kind: Secret, name: a}",
            "InvalidKind",
            "Secret is not a kind",
        ),
        (
            "{group: net.example, kind: Service, name: a}",
            "InvalidKind",
            "net.example/Service",
        ),
        (
            "{name: far, namespace: bank, port: 80}",
            "RefNotPermitted",
            "ReferenceGrant of namespace bank",
        ),
        // Who may not refer is not told what there is.
        (
            "{name: none, namespace: bank, port: 80}",
            "RefNotPermitted",
            "ReferenceGrant of namespace bank",
        ),
    ] {
        let reference = reference.replace('}', ", weight: 3}");
        let rule = format!("{{backendRefs: [{{name: api, port: 80, weight: 7}}, {reference}]}}");
        let text = http("r", WEB, &rule);
        let backends = &rules(&text)[0]["backends"];
        assert_eq!(backends[0]["destination"]["backend"], API);
        assert_eq!(backends[1]["weight"], 3, "{reference}");
        let invalid = backends[1]["invalid"].as_str().unwrap();
        assert!(invalid.contains(words), "{reference}: {invalid}");
        let conditions = conditions(&text, "HTTPRoute/shop/r");
        let expected = json!([["Accepted Accepted", format!("!ResolvedRefs {reason}")]]);
        assert_eq!(conditions, expected, "{reference}");
        let said = message(&text, "HTTPRoute/shop/r", "ResolvedRefs");
        assert!(said.starts_with("rules[0].backendRefs[1]: "), "{said}");
    }
}

#[test]
fn a_grant_lets_routes_of_a_namespace_refer_to_services() {
    let rule = "{backendRefs: [{name: far, namespace: bank, port: 80}]}";
    for (from, to, granted) in [
        ("shop", "{group: '', kind: Service}", true),
        ("shop", "{group: '', kind: Service, name: far}", true),
        ("shop", "{group: '', kind: Service, name: near}", false),
        ("shop", "{group: '', kind: Secret}", false),
        ("other", "{group: '', kind: Service}", false),
    ] {
        let grant = |namespace| {
            let spec = format!(
                "{{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], to: [{to}]}}"
            );
            object("ReferenceGrant", namespace, "g", &spec)
        };
        let destination =
            |text: String| rules(&text)[0]["backends"][0].get("destination").is_some();
        assert_eq!(
            destination(http("r", WEB, rule) + &grant("bank")),
            granted,
            "{from} {to}"
        );
        // Not where it is only wished for.
        assert!(!destination(http("r", WEB, rule) + &grant("shop")));
    }
}

#[test]
fn a_rule_that_is_not_served_is_answered_with_an_error() {
    let cors = "{matches: [{path: {value: /c}}], filters: [{type: CORS, cors: {}}], backendRefs: [{name: api, port: 80}]}";
    let text = http("r", WEB, &format!("{TO_API}, {cors}"));
    let rules = rules(&text);
    assert_eq!(rules[0].get("invalid"), None);
    assert_eq!(rules[1]["invalid"], "CORS is not served");
    let expected = json!([[
        "Accepted Accepted",
        "PartiallyInvalid UnsupportedValue",
        "ResolvedRefs ResolvedRefs"
    ]]);
    assert_eq!(conditions(&text, "HTTPRoute/shop/r"), expected);
    let nowhere = self::rules(&http("r", WEB, "{}"));
    assert_eq!(nowhere[0]["invalid"], "it names no backend");
}

#[test]
fn a_route_of_which_nothing_is_served_is_not_there_unless_it_guards() {
    let rule = |fields: &str| format!("{{{fields}, backendRefs: [{{name: api, port: 80}}]}}");
    for (fields, told) in [
        ("retry: {attempts: 1}", false),
        ("sessionPersistence: {}", false),
        ("filters: [{type: RequestMirror, requestMirror: {}}]", false),
        ("filters: [{type: ExternalAuth, externalAuth: {}}]", true),
        ("filters: [{type: ExtensionRef, extensionRef: {}}]", true),
    ] {
        let text = http("r", &at_port(80), &rule(fields));
        assert_eq!(!names(&text, 80).1.is_empty(), told, "{fields}");
        let expected = json!([["!Accepted UnsupportedValue", "ResolvedRefs ResolvedRefs"]]);
        assert_eq!(conditions(&text, "HTTPRoute/shop/r"), expected, "{fields}");
        if told {
            assert!(rules(&text)[0]["invalid"].is_string(), "{fields}");
        }
        // Nor does it keep others away.
        let other = of_kind("TCPRoute", "shop", "t", &at_port(110), TO_API);
        let text = http("r", &at_port(110), &rule(fields)) + &other;
        let kind = if told {
            RouteKind::Http
        } else {
            RouteKind::Tcp
        };
        assert_eq!(names(&text, 110).0, Some(kind), "{fields}");
    }
    let rewrite = "{backendRefs: [{name: api, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]}";
    let text = http("r", WEB, rewrite);
    assert_eq!(
        conditions(&text, "HTTPRoute/shop/r")[0][0],
        "!Accepted UnsupportedValue"
    );
}

#[test]
fn a_route_of_another_namespace_is_for_its_own_clients() {
    let near = "{backendRefs: [{name: far, port: 80}]}";
    let text = http("r", WEB, TO_API) + &of_kind("HTTPRoute", "bank", "c", &from_afar(80), near);
    let routes = with_routes(&world(&text), |routes| routes.of(&web(), 80));
    let consumers: Vec<_> = routes
        .routes
        .iter()
        .map(|(name, it)| (name.as_str(), it.consumer.as_str()))
        .collect();
    assert_eq!(
        consumers,
        [
            ("HTTPRoute/bank/c/shop/web", "bank"),
            ("HTTPRoute/shop/r/shop/web", "")
        ]
    );
    assert_eq!(routes.kind, Some(RouteKind::Http));
    // Its references are its own namespace's.
    assert_eq!(
        conditions(&text, "HTTPRoute/bank/c"),
        json!([["Accepted Accepted", "ResolvedRefs ResolvedRefs"]])
    );
}

#[test]
fn a_route_of_another_namespace_does_not_decide_what_a_port_speaks() {
    let near = "{backendRefs: [{name: far, port: 80}]}";
    let afar = |kind: &str, port| of_kind(kind, "bank", "c", &from_afar(port), near);
    let own = |kind: &str, port| of_kind(kind, "shop", "r", &at_port(port), TO_API);
    for (text, port, kind, route, outcome) in [
        (
            afar("HTTPRoute", 80),
            80,
            None,
            "HTTPRoute",
            "Accepted Accepted",
        ),
        (
            afar("GRPCRoute", 90),
            90,
            None,
            "GRPCRoute",
            "Accepted Accepted",
        ),
        (
            afar("TCPRoute", 100),
            100,
            None,
            "TCPRoute",
            "Accepted Accepted",
        ),
        (
            afar("HTTPRoute", 110),
            110,
            None,
            "HTTPRoute",
            "!Accepted Conflicted",
        ),
        (
            afar("GRPCRoute", 80),
            80,
            None,
            "GRPCRoute",
            "!Accepted Conflicted",
        ),
        (
            afar("GRPCRoute", 80) + &own("HTTPRoute", 80),
            80,
            Some(RouteKind::Http),
            "GRPCRoute",
            "!Accepted Conflicted",
        ),
        (
            afar("HTTPRoute", 110) + &own("TCPRoute", 110),
            110,
            Some(RouteKind::Tcp),
            "HTTPRoute",
            "!Accepted Conflicted",
        ),
        (
            afar("HTTPRoute", 110) + &own("HTTPRoute", 110),
            110,
            Some(RouteKind::Http),
            "HTTPRoute",
            "Accepted Accepted",
        ),
    ] {
        assert_eq!(names(&text, port).0, kind, "{text}");
        let conditions = conditions(&text, &format!("{route}/bank/c"));
        assert_eq!(conditions[0][0], outcome, "{text}");
    }
}

#[test]
fn a_namespace_has_so_many_routes_for_services_of_others() {
    let near = "{backendRefs: [{name: far, port: 80}]}";
    let dated = |i: usize| {
        of_kind("HTTPRoute", "bank", &format!("c{i}"), &from_afar(80), near).replace(
            "namespace: bank}",
            &format!(
                "namespace: bank, creationTimestamp: '2026-01-01T00:{:02}:{:02}Z'}}",
                i / 60,
                i % 60
            ),
        )
    };
    let many: String = (0..=attach::MOST_CONSUMERS).map(dated).collect();
    let own = http("r", WEB, TO_API);
    let (_, held) = names(&(many.clone() + &own), 80);
    assert_eq!(held.len(), attach::MOST_CONSUMERS + 1);
    let last = format!("HTTPRoute/bank/c{}", attach::MOST_CONSUMERS);
    assert_eq!(conditions(&many, &last)[0][0], "!Accepted TooManyRoutes");
    assert_eq!(
        conditions(&many, "HTTPRoute/bank/c0")[0][0],
        "Accepted Accepted"
    );
    assert!(held.contains(&"HTTPRoute/shop/r/shop/web".to_owned()));
    // And so many bytes.
    let value = "x".repeat(4000);
    let matches = vec![format!("{{headers: [{{name: a, value: {value}}}]}}"); 64].join(", ");
    let rule = format!("{{matches: [{matches}], backendRefs: [{{name: far, port: 80}}]}}");
    let large = of_kind("HTTPRoute", "bank", "l1", &from_afar(80), &rule)
        + &of_kind("HTTPRoute", "bank", "l2", &from_afar(80), &rule);
    assert_eq!(names(&large, 80).1, ["HTTPRoute/bank/l1/shop/web"]);
}

#[test]
fn nothing_is_sent_where_somebody_wants_tls() {
    let policy = |target: &str| {
        object(
            "BackendTLSPolicy",
            "shop",
            "b",
            &format!("{{targetRefs: [{{group: '', kind: Service, {target}}}], validation: {{}}}}"),
        )
    };
    let rule = |namespace: &str, host: &str, tls: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d, namespace: {namespace}}}, spec: {{host: {host}, {tls}}}}}\n"
        )
    };
    let simple = "trafficPolicy: {tls: {mode: SIMPLE}}";
    for (object, refused) in [
        (policy("name: api"), true),
        (policy("name: api, sectionName: http"), true),
        (policy("name: api, sectionName: other"), false),
        (policy("name: web"), false),
        (rule("shop", "api", simple), true),
        (rule("shop", "api.shop.svc.cluster.local", simple), true),
        (rule("shop", "'*.shop.svc.cluster.local'", simple), true),
        (
            rule("ambit-system", "api.shop.svc.cluster.local", simple),
            true,
        ),
        (
            rule(
                "shop",
                "api",
                "trafficPolicy: {portLevelSettings: [{tls: {mode: MUTUAL}}]}",
            ),
            true,
        ),
        (
            rule(
                "shop",
                "api",
                "subsets: [{name: a, trafficPolicy: {tls: {mode: MUTUAL}}}]",
            ),
            true,
        ),
        (
            rule("shop", "api", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"),
            false,
        ),
        (
            rule("shop", "api", "trafficPolicy: {tls: {mode: DISABLE}}"),
            false,
        ),
        // Who is neither the service's owner nor the mesh's cannot take it from its clients.
        (rule("bank", "api.shop.svc.cluster.local", simple), false),
    ] {
        let text = http("r", &at_port(80), TO_API) + &object;
        let backend = &rules(&text)[0]["backends"][0];
        assert_eq!(backend.get("invalid").is_some(), refused, "{object}");
        let expected = if refused {
            "!ResolvedRefs UnsupportedProtocol"
        } else {
            "ResolvedRefs ResolvedRefs"
        };
        assert_eq!(
            conditions(&text, "HTTPRoute/shop/r")[0][1],
            expected,
            "{object}"
        );
    }
}

#[test]
fn a_service_that_wants_tls_itself_is_refused_without_a_route() {
    let policy = object(
        "BackendTLSPolicy",
        "shop",
        "b",
        "{targetRefs: [{group: '', kind: Service, name: web}]}",
    );
    for (port, kind) in [
        (80, RouteKind::Http),
        (90, RouteKind::Grpc),
        (100, RouteKind::Tcp),
        (110, RouteKind::Tcp),
    ] {
        assert_eq!(names(&policy, port).0, Some(kind), "{port}");
        assert_eq!(names("", port).0, None, "{port}");
    }
    let backend = &rules(&policy)[0]["backends"][0];
    assert!(
        backend["invalid"]
            .as_str()
            .unwrap()
            .contains("BackendTLSPolicy/shop/b")
    );
    // A route that leads elsewhere is the way out.
    let text = policy + &http("r", &at_port(80), TO_API);
    assert_eq!(names(&text, 80).1, ["HTTPRoute/shop/r/shop/web"]);
}

#[test]
fn a_faulty_route_keeps_its_last_good_version_and_its_parents() {
    let load_as = |text: &str, before: Option<&crate::source::Loaded>| {
        load(
            &[(PathBuf::from("a.yaml"), format!("{SERVICES}{text}"))].into(),
            before,
        )
    };
    let good = http("r", WEB, TO_API);
    let bad = good.replace("rules:", "ruels:");
    let never = load_as(&bad, None);
    assert!(with_routes(&never.world, |routes| routes
        .of(&web(), 80)
        .routes
        .is_empty()));
    let status = |world: &World| {
        let compiled = compile(world, &Settings::default());
        let found = compiled
            .statuses
            .into_iter()
            .find(|(it, _)| it.to_string() == "HTTPRoute/shop/r");
        found.unwrap().1
    };
    let said = status(&never.world);
    assert!(
        said.conditions[0]
            .message
            .contains("spec.ruels: no such field")
    );
    assert!(said.conditions[0].message.contains("left out"));
    let first = load_as(&good, None);
    let second = load_as(&bad, Some(&first));
    assert!(!with_routes(&second.world, |routes| routes
        .of(&web(), 80)
        .routes
        .is_empty()));
    let said = status(&second.world);
    assert!(said.conditions[0].message.contains("last good version"));
    assert_eq!(said.parents.len(), 1);
}

#[test]
fn a_route_for_a_service_without_a_waypoint_is_told_that() {
    let text = http("r", WEB, TO_API);
    let compiled = printed::compiled(&compile(&world(&text), &Settings::default()));
    let conditions = &compiled["status"]["HTTPRoute/shop/r"]["parents"][0]["conditions"];
    let last = conditions.as_array().unwrap().last().unwrap();
    assert_eq!(
        last,
        &json!({"type": "ResolvedWaypoints", "status": "False", "reason": "MissingWaypoint"})
    );
}

#[test]
fn a_kind_that_is_not_served_is_told_so() {
    let text = "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop}, spec: {hosts: [web]}}\n";
    let compiled = printed::compiled(&compile(&world(text), &Settings::default()));
    let expected = json!({"conditions": [{"type": "Accepted", "status": "False", "reason": "UnsupportedValue"}]});
    assert_eq!(compiled["status"]["VirtualService/shop/v"], expected);
}
