//! Facts about routes: manifests in, what a waypoint is told and what is said of the routes beside them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{super::json as printed, *};
use crate::{
    compile::{Settings, Told, compile},
    source::load,
    world::World,
};

mod attach;
mod backend;
mod refused;

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
    let derived = crate::compile::Derived::new(world, &settings);
    let scope = Scope {
        world,
        settings: &settings,
        derived: &derived,
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
            "requires": ["header-edits", "regex", "rewrite", "timeouts"],
        },
        {
            "matches": [{"prefix": "/"}],
            "filters": [{"redirect": {"scheme": "https", "hostname": "i", "port": 1, "status": 301, "path": {"prefix": ""}}}],
            "requires": ["redirect"],
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
    let said = message(&http("r", WEB, "{}"), "HTTPRoute/shop/r", "Accepted");
    assert!(said.contains("rules[0]: without backendRefs"), "{said}");
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
    let entry = "---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: shop, labels: {istio.io/use-waypoint: wp}}, spec: {hosts: [a.example]}}\n";
    let compiled = compile(&world(entry), &Settings::default());
    let mut statuses = compiled.statuses.iter();
    let (_, status) = statuses
        .find(|(it, _)| it.to_string() == "ServiceEntry/shop/e")
        .unwrap();
    let message = &status.conditions[0].message;
    assert!(message.contains("past every waypoint"), "{message}");
}

#[test]
fn a_route_is_told_which_of_its_edits_have_no_effect() {
    let edits = "set: [{name: X-Forwarded-For, value: a}, {name: x-role, value: b}], add: [{name: expect, value: c}], remove: [Forwarded]";
    let modifier = format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}}}");
    let answers = modifier
        .replace("Request", "Response")
        .replace("request", "response");
    let backend = format!("{{name: api, port: 80, filters: [{modifier}]}}");
    let said = |rules: &str| message(&http("r", WEB, rules), "HTTPRoute/shop/r", "Accepted");
    for (rule, expected) in [
        (
            format!("{{filters: [{modifier}], backendRefs: [{{name: api, port: 80}}]}}"),
            true,
        ),
        (format!("{{backendRefs: [{backend}]}}"), true),
        (
            format!("{{filters: [{answers}], backendRefs: [{{name: api, port: 80}}]}}"),
            false,
        ),
    ] {
        let told = "rules[1]: its edits of expect, forwarded, x-forwarded-for of requests have no effect: they are not a route's to change";
        let expected = if expected { told } else { "" };
        assert_eq!(said(&format!("{TO_API}, {rule}")), expected, "{rule}");
    }
}

#[test]
fn a_consumers_route_is_told_that_what_it_changes_is_judged() {
    let rewrite = "{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}], backendRefs: [{name: far, port: 80}]}";
    let to_far = "{backendRefs: [{name: far, port: 80}]}";
    let set = rewrite.replace(
        "type: URLRewrite, urlRewrite: {hostname: a}",
        "type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-role]}",
    );
    let idle = set.replace("x-role", "expect");
    let judged = "rules[0], rules[2]: policies of Service shop/web judge what the route makes of a request, too";
    let rules = format!("{rewrite}, {to_far}, {set}");
    let said = |text: &str, name| message(text, name, "Accepted");
    let own = http("r", &from_afar(80), &rules);
    assert_eq!(said(&own, "HTTPRoute/shop/r"), "");
    let consumer = of_kind("HTTPRoute", "bank", "r", &from_afar(80), &rules);
    assert_eq!(said(&consumer, "HTTPRoute/bank/r"), judged);
    let consumer = of_kind("HTTPRoute", "bank", "r", &from_afar(80), to_far);
    assert_eq!(said(&consumer, "HTTPRoute/bank/r"), "");
    let consumer = of_kind("HTTPRoute", "bank", "r", &from_afar(80), &idle);
    assert!(!said(&consumer, "HTTPRoute/bank/r").contains("judge"));
}
