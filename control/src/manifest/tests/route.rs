//! What routes may say.

use std::time::Duration;

use super::*;
use crate::manifest::route::{BackendRef, Filter, PathEdit, PathMatch, Redirect, Text};

fn of_kind(kind: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: r, namespace: shop}}, spec: {spec}}}"
    )
}

fn rule(fields: &str) -> String {
    of_kind("HTTPRoute", &format!("{{rules: [{{{fields}}}]}}"))
}

fn grpc(fields: &str) -> String {
    of_kind("GRPCRoute", &format!("{{rules: [{{{fields}}}]}}"))
}

fn matching(fields: &str) -> String {
    rule(&format!("matches: [{{{fields}}}]"))
}

fn filter(fields: &str) -> String {
    rule(&format!("filters: [{{{fields}}}]"))
}

fn route(text: &str) -> Route {
    match good(text) {
        Object::Route(route) => route,
        other => panic!("{other:?}"),
    }
}

/// Each is refused for exactly one reason, at that place, in such words.
fn refuses(cases: &[(String, &str, &str)]) {
    for (text, field, reason) in cases {
        let refused = refused(text);
        let [fault] = refused.faults.as_slice() else {
            panic!("{text}\n{:?}", refused.faults)
        };
        assert_eq!(fault.field, *field, "{text}: {fault}");
        assert!(fault.reason.contains(reason), "{text}: {fault}");
    }
}

fn many(n: usize, item: &str) -> String {
    vec![item; n].join(", ")
}

#[test]
fn a_routes_frame_has_to_be_valid() {
    let http = |spec: &str| of_kind("HTTPRoute", spec);
    refuses(&[
        (http("null"), "spec", "required"),
        (http("{colour: red}"), "spec.colour", "no such field"),
        (
            http("{parentRefs: [{kind: Service}]}"),
            "spec.parentRefs[0].name",
            "required",
        ),
        (
            http("{parentRefs: [{name: a, hue: 1}]}"),
            "spec.parentRefs[0].hue",
            "no such field",
        ),
        (
            http("{parentRefs: [{name: a, port: 0}]}"),
            "spec.parentRefs[0].port",
            "port number",
        ),
        (
            http("{parentRefs: [{name: a, namespace: A}]}"),
            "spec.parentRefs[0].namespace",
            "DNS label",
        ),
        (
            http("{parentRefs: [{name: a}, {name: a}]}"),
            "spec.parentRefs[1]",
            "twice",
        ),
        (
            http("{hostnames: [10.0.0.1]}"),
            "spec.hostnames[0]",
            "host name",
        ),
        (
            http("{hostnames: ['a.*.b']}"),
            "spec.hostnames[0]",
            "host name",
        ),
        (
            http("{hostnames: ['a:80']}"),
            "spec.hostnames[0]",
            "host name",
        ),
        (
            http(&format!("{{hostnames: [{}]}}", many(17, "a.b"))),
            "spec.hostnames",
            "more than 16",
        ),
        (
            http(&format!("{{rules: [{}]}}", many(17, "{}"))),
            "spec.rules",
            "more than 16",
        ),
        (
            http("{rules: [{name: a}, {name: a}]}"),
            "spec.rules[1].name",
            "twice",
        ),
        (
            http("{rules: [{name: A_}]}"),
            "spec.rules[0].name",
            "DNS subdomain",
        ),
        (
            rule("macthes: []"),
            "spec.rules[0].macthes",
            "no such field",
        ),
        (
            rule(&format!("matches: [{}]", many(65, "{}"))),
            "spec.rules[0].matches",
            "more than 64",
        ),
        (
            of_kind("TCPRoute", "{rules: []}"),
            "spec.rules",
            "at least one",
        ),
        (
            of_kind("TCPRoute", "{rules: [{}]}"),
            "spec.rules[0].backendRefs",
            "at least one",
        ),
        (
            of_kind("TCPRoute", "{hostnames: [a]}")
                .replace("[a]", "[a], rules: [{backendRefs: [{name: a, port: 1}]}]"),
            "spec.hostnames",
            "no such field",
        ),
        (
            of_kind(
                "TCPRoute",
                "{rules: [{matches: [], backendRefs: [{name: a, port: 1}]}]}",
            ),
            "spec.rules[0].matches",
            "no such field",
        ),
    ]);
    let rules = vec![format!("{{matches: [{}]}}", many(43, "{}")); 3].join(", ");
    refuses(&[(
        http(&format!("{{rules: [{rules}]}}")),
        "spec.rules",
        "more than 128",
    )]);
}

#[test]
fn matches_have_to_be_valid() {
    const AT: &str = "spec.rules[0].matches[0]";
    let path = |path: &str| matching(&format!("path: {{{path}}}"));
    for (text, field, reason) in [
        (
            path("type: Glob, value: /a"),
            "path.type",
            "Exact, PathPrefix, RegularExpression",
        ),
        (path("value: a"), "path.value", "not a path"),
        (path("value: //a"), "path.value", "not a path"),
        (path("value: /a/../b"), "path.value", "not a path"),
        (path("value: /a/.."), "path.value", "not a path"),
        (path("value: '/a%2fb'"), "path.value", "not a path"),
        (path("value: '/a?b'"), "path.value", "not a path"),
        (path("value: '/a%zz'"), "path.value", "not a path"),
        (
            path(&format!("value: /{}", "a".repeat(1024))),
            "path.value",
            "longer than 1024",
        ),
        (
            path("type: RegularExpression, value: '('"),
            "path.value",
            "regular expression",
        ),
        (matching("method: get"), "method", "GET"),
        (
            matching("headers: [{name: 'a b', value: x}]"),
            "headers[0].name",
            "not a name",
        ),
        (
            matching("headers: [{name: a}]"),
            "headers[0].value",
            "required",
        ),
        (
            matching("headers: [{name: a, value: ''}]"),
            "headers[0].value",
            "empty",
        ),
        (
            matching("headers: [{name: a, value: x, type: Prefix}]"),
            "headers[0].type",
            "Exact",
        ),
        (
            matching("headers: [{name: a, value: '[', type: RegularExpression}]"),
            "headers[0].value",
            "regular expression",
        ),
        (
            matching(&format!("headers: [{}]", many(17, "{name: a, value: b}"))),
            "headers",
            "more than 16",
        ),
        (
            matching("queryParams: [{name: a, value: 1}]"),
            "queryParams[0].value",
            "quotes",
        ),
        (matching("query: []"), "query", "no such field"),
        (
            grpc("matches: [{method: {}}]"),
            "method",
            "at least one of service, method",
        ),
        (
            grpc("matches: [{method: {service: a/b}}]"),
            "method.service",
            "not a name",
        ),
        (
            grpc("matches: [{method: {method: '1a'}}]"),
            "method.method",
            "not a name",
        ),
        (
            grpc("matches: [{path: {value: /a}}]"),
            "path",
            "no such field",
        ),
    ] {
        refuses(&[(text, &format!("{AT}.{field}"), reason)]);
    }
}

#[test]
fn filters_have_to_be_valid() {
    const AT: &str = "spec.rules[0].filters[0]";
    let set = |pair: &str| {
        filter(&format!(
            "type: RequestHeaderModifier, requestHeaderModifier: {{set: [{pair}]}}"
        ))
    };
    let redirect = |fields: &str| {
        filter(&format!(
            "type: RequestRedirect, requestRedirect: {{{fields}}}"
        ))
    };
    for (text, field, reason) in [
        (filter("type: Magic"), "type", "RequestHeaderModifier"),
        (filter("type: CORS"), "cors", "required"),
        (
            filter("type: CORS, cors: {}, urlRewrite: {}"),
            "urlRewrite",
            "does not go with",
        ),
        (
            set("{name: a}"),
            "requestHeaderModifier.set[0].value",
            "required",
        ),
        (
            set("{name: Host, value: a}"),
            "requestHeaderModifier.set[0].name",
            "may change",
        ),
        (
            set("{name: Transfer-Encoding, value: a}"),
            "requestHeaderModifier.set[0].name",
            "may change",
        ),
        (
            set("{name: a, value: \"b\\r\\nc: d\"}"),
            "requestHeaderModifier.set[0].value",
            "header's value",
        ),
        (
            set("{name: a, value: b}, {name: A, value: c}"),
            "requestHeaderModifier.set[1].name",
            "twice",
        ),
        (
            redirect("scheme: ftp"),
            "requestRedirect.scheme",
            "neither http nor https",
        ),
        (
            redirect("statusCode: 200"),
            "requestRedirect.statusCode",
            "301, 302, 303, 307, 308",
        ),
        (
            redirect("hostname: '*.a'"),
            "requestRedirect.hostname",
            "host name",
        ),
        (
            redirect("path: {type: ReplaceFullPath}"),
            "requestRedirect.path.replaceFullPath",
            "required",
        ),
        (
            redirect("path: {type: ReplaceFullPath, replaceFullPath: a}"),
            "requestRedirect.path.replaceFullPath",
            "not a path",
        ),
        (
            redirect("path: {type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /b}"),
            "requestRedirect.path.replacePrefixMatch",
            "does not go",
        ),
    ] {
        refuses(&[(text, &format!("{AT}.{field}"), reason)]);
    }
    let edit = "type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}";
    let rewrite =
        "type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}";
    refuses(&[
        (
            rule(&format!("filters: [{{{edit}}}, {{{edit}}}]")),
            "spec.rules[0].filters[1].type",
            "only once",
        ),
        (
            rule(&format!(
                "filters: [{{{rewrite}}}, {{type: RequestRedirect, requestRedirect: {{}}}}]"
            )),
            "spec.rules[0].filters",
            "exclude",
        ),
        (
            rule(
                "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]",
            ),
            "spec.rules[0].backendRefs",
            "RequestRedirect",
        ),
        (
            rule(&format!(
                "matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{{rewrite}}}]"
            )),
            "spec.rules[0].filters",
            "PathPrefix",
        ),
        (
            rule(&format!("matches: [{{}}, {{}}], filters: [{{{rewrite}}}]")),
            "spec.rules[0].filters",
            "PathPrefix",
        ),
        (
            grpc(&format!("filters: [{{{rewrite}}}]")).replace("urlRewrite", "extensionRef"),
            "spec.rules[0].filters[0].type",
            "is none of",
        ),
    ]);
}

#[test]
fn backends_and_timeouts_have_to_be_valid() {
    let backend = |fields: &str| rule(&format!("backendRefs: [{{{fields}}}]"));
    let timeouts = |fields: &str| rule(&format!("timeouts: {{{fields}}}"));
    refuses(&[
        (
            backend("port: 80"),
            "spec.rules[0].backendRefs[0].name",
            "required",
        ),
        (
            backend("name: a"),
            "spec.rules[0].backendRefs[0].port",
            "needs one",
        ),
        (
            backend("name: a, port: 80, weight: -1"),
            "spec.rules[0].backendRefs[0].weight",
            "0 to 1000000",
        ),
        (
            backend("name: a, port: 80, weight: 1000001"),
            "spec.rules[0].backendRefs[0].weight",
            "0 to 1000000",
        ),
        (
            backend("name: a, port: 80, weigth: 1"),
            "spec.rules[0].backendRefs[0].weigth",
            "no such field",
        ),
        (
            rule(&format!(
                "backendRefs: [{}]",
                many(17, "{name: a, port: 80}")
            )),
            "spec.rules[0].backendRefs",
            "more than 16",
        ),
        (
            timeouts("request: 1.5s"),
            "spec.rules[0].timeouts.request",
            "not a duration",
        ),
        (
            timeouts("request: 5"),
            "spec.rules[0].timeouts.request",
            "quotes",
        ),
        (
            timeouts("request: 1s, backendRequest: 2s"),
            "spec.rules[0].timeouts.backendRequest",
            "longer than request",
        ),
        (
            timeouts("idle: 1s"),
            "spec.rules[0].timeouts.idle",
            "no such field",
        ),
        (
            of_kind(
                "TCPRoute",
                "{rules: [{backendRefs: [{name: a, port: 80, filters: []}]}]}",
            ),
            "spec.rules[0].backendRefs[0].filters",
            "no such field",
        ),
    ]);
}

#[test]
fn a_route_gets_the_defaults_of_the_api() {
    let read = route(&rule(
        "matches: [{path: {}}, {path: {type: Exact, value: /a}}], backendRefs: [{name: a, port: 80}], timeouts: {request: 0s, backendRequest: 2s}",
    ));
    let rule = &read.rules[0];
    let paths: Vec<_> = rule.matches.iter().map(|it| it.path.clone()).collect();
    let [prefix, exact] = [
        PathMatch::Prefix("/".to_owned()),
        PathMatch::Exact("/a".to_owned()),
    ];
    assert_eq!(paths, [Some(prefix), Some(exact)]);
    let backend = BackendRef {
        group: String::new(),
        kind: "Service".to_owned(),
        namespace: None,
        name: "a".to_owned(),
        port: Some(80),
        weight: 1,
        filters: Vec::new(),
    };
    assert_eq!(rule.backends, [backend]);
    // Zero is no limit, so nothing is longer.
    assert_eq!(rule.request_timeout, Some(Duration::ZERO));
    assert_eq!(rule.backend_timeout, Some(Duration::from_secs(2)));
    assert_eq!(route(&of_kind("HTTPRoute", "{}")).rules.len(), 1);
    let call = route(&grpc("matches: [{method: {service: a.B, method: ''}}]"));
    let service = Some(Text::Exact("a.B".to_owned()));
    assert_eq!(
        call.rules[0].matches[0].path,
        Some(PathMatch::Grpc(service, None))
    );
}

#[test]
fn filters_are_read_in_their_order_and_what_is_not_served_is_named() {
    let read = route(&rule(
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}}}, \
         {type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}], \
         retry: {attempts: 2}, sessionPersistence: {}",
    ));
    let redirect = Redirect {
        scheme: Some("https".to_owned()),
        hostname: None,
        path: Some(PathEdit::Prefix(String::new())),
        port: Some(8443),
        status: Some(301),
    };
    let filters = [
        Filter::Unserved("RequestMirror"),
        Filter::Redirect(redirect),
    ];
    assert_eq!(read.rules[0].filters, filters);
    assert_eq!(read.rules[0].unserved, ["retry", "sessionPersistence"]);
}

#[test]
fn gateways_classes_and_grants_have_to_be_valid() {
    let gateway = |spec: &str| of_kind("Gateway", spec);
    let listener = |fields: &str| {
        gateway(&format!(
            "{{gatewayClassName: c, listeners: [{{{fields}}}]}}"
        ))
    };
    let good = "name: a, port: 15008, protocol: HBONE";
    refuses(&[
        (
            gateway("{gatewayClassName: c}"),
            "spec.listeners",
            "at least one",
        ),
        (
            gateway(&format!("{{listeners: [{{{good}}}]}}")),
            "spec.gatewayClassName",
            "required",
        ),
        (
            listener("name: a, protocol: HBONE"),
            "spec.listeners[0].port",
            "required",
        ),
        (
            listener(&format!("{good}, prot: x")),
            "spec.listeners[0].prot",
            "no such field",
        ),
        (
            listener(&format!(
                "{good}, allowedRoutes: {{namespaces: {{from: Any}}}}"
            )),
            "spec.listeners[0].allowedRoutes.namespaces.from",
            "All, Same, Selector, None",
        ),
        (
            listener(&format!(
                "{good}, allowedRoutes: {{namespaces: {{from: Selector}}}}"
            )),
            "spec.listeners[0].allowedRoutes.namespaces.selector",
            "required",
        ),
        (
            listener(&format!("{good}}}, {{{good}")),
            "spec.listeners[1].name",
            "twice",
        ),
        (
            of_kind("GatewayClass", "{}"),
            "spec.controllerName",
            "required",
        ),
        (
            of_kind(
                "ReferenceGrant",
                "{from: [{kind: HTTPRoute, namespace: a}]}",
            ),
            "spec.to",
            "at least one",
        ),
        (
            of_kind(
                "ReferenceGrant",
                "{from: [{kind: HTTPRoute}], to: [{kind: Service}]}",
            ),
            "spec.from[0].namespace",
            "required",
        ),
    ]);
}

#[test]
fn a_listener_admits_namespaces_by_name_and_label() {
    let from = |text: &str| {
        let spec = format!(
            "{{gatewayClassName: c, listeners: [{{name: a, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {text}}}}}]}}"
        );
        match good(&of_kind("Gateway", &spec)) {
            Object::Gateway(gateway) => gateway.listeners[0].from.clone(),
            other => panic!("{other:?}"),
        }
    };
    let blue = Labels::from([("team".to_owned(), "blue".to_owned())]);
    for (text, own, labelled, other) in [
        ("{}", true, false, false),
        ("{from: Same}", true, false, false),
        ("{from: All}", true, true, true),
        ("{from: None}", false, false, false),
        (
            "{from: Selector, selector: {matchLabels: {team: blue}}}",
            false,
            true,
            false,
        ),
        (
            "{from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [blue]}]}}",
            false,
            true,
            false,
        ),
        (
            "{from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [blue]}]}}",
            true,
            false,
            true,
        ),
        (
            "{from: Selector, selector: {matchExpressions: [{key: team, operator: Exists}]}}",
            false,
            true,
            false,
        ),
        (
            "{from: Selector, selector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}",
            true,
            false,
            true,
        ),
    ] {
        let from = from(text);
        let none = Labels::new();
        let admitted = [
            from.admits("own", "own", &none),
            from.admits("own", "a", &blue),
            from.admits("own", "b", &none),
        ];
        assert_eq!(admitted, [own, labelled, other], "{text}");
    }
}
