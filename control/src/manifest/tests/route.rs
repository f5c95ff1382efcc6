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

fn filter(fields: &str) -> String {
    rule(&format!("filters: [{{{fields}}}]"))
}

fn route(text: &str) -> Route {
    match good(text) {
        Object::Route(route) => route,
        other => panic!("{other:?}"),
    }
}

/// Each line is `what is written => field: reason`: it is refused for exactly one reason, at that place below `at`, in
/// such words.
fn refuses(write: impl Fn(&str) -> String, at: &str, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (written, expected) = line.split_once(" => ").unwrap();
        let (field, reason) = expected.split_once(": ").unwrap();
        refuses_one(&write(written), &format!("{at}{field}"), reason);
    }
}

fn refuses_one(text: &str, field: &str, reason: &str) {
    let refused = refused(text);
    let [fault] = refused.faults.as_slice() else {
        panic!("{text}\n{:?}", refused.faults)
    };
    assert_eq!(fault.field, field, "{text}: {fault}");
    assert!(fault.reason.contains(reason), "{text}: {fault}");
}

fn many(n: usize, item: &str) -> String {
    vec![item; n].join(", ")
}

#[test]
fn a_routes_frame_has_to_be_valid() {
    let lines = "
        colour: red => colour: no such field
        parentRefs: [{kind: Service}] => parentRefs[0].name: required
        parentRefs: [{name: a, hue: 1}] => parentRefs[0].hue: no such field
        parentRefs: [{name: a, port: 0}] => parentRefs[0].port: port number
        parentRefs: [{name: a, namespace: A}] => parentRefs[0].namespace: DNS label
        parentRefs: [{name: a}, {name: a}] => parentRefs[1]: twice
        hostnames: [10.0.0.1] => hostnames[0]: host name
        hostnames: ['a.*.b'] => hostnames[0]: host name
        hostnames: ['a:80'] => hostnames[0]: host name
        rules: [{name: a}, {name: a}] => rules[1].name: twice
        rules: [{name: A_}] => rules[0].name: DNS subdomain
        rules: [{macthes: []}] => rules[0].macthes: no such field
    ";
    let write = |spec: &str| of_kind("HTTPRoute", &format!("{{{spec}}}"));
    refuses(write, "spec.", lines);
    refuses_one(&of_kind("HTTPRoute", "null"), "spec", "required");
    for (field, n, item, reason) in [
        ("hostnames", 16, "a.b", "more than 16"),
        ("parentRefs", 32, "{name: a}", "more than 32"),
        ("rules", 16, "{}", "more than 16"),
    ] {
        let text = write(&format!("{field}: [{}]", many(n + 1, item)));
        let faults = refused(&text).faults;
        let found = faults
            .iter()
            .any(|it| it.field == format!("spec.{field}") && it.reason == reason);
        assert!(found, "{faults:?}");
        assert!(!refused_for(
            &write(&format!("{field}: [{}]", many(n, item))),
            reason
        ));
    }
    let rules = vec![format!("{{matches: [{}]}}", many(43, "{}")); 3].join(", ");
    refuses_one(
        &write(&format!("rules: [{rules}]")),
        "spec.rules",
        "more than 128",
    );
}

fn refused_for(text: &str, reason: &str) -> bool {
    match read(text) {
        Manifest::Refused(refused) => refused.faults.iter().any(|it| it.reason == reason),
        _ => false,
    }
}

#[test]
fn a_tcp_route_has_one_rule_that_says_where_to() {
    let lines = "
        rules: [] => rules: at least one
        rules: [{}] => rules[0].backendRefs: at least one
        rules: [{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: a, port: 1}]}] => rules: more than 1
        hostnames: [a], rules: [{backendRefs: [{name: a, port: 1}]}] => hostnames: no such field
        rules: [{matches: [], backendRefs: [{name: a, port: 1}]}] => rules[0].matches: no such field
        rules: [{backendRefs: [{name: a, port: 80, filters: []}]}] => rules[0].backendRefs[0].filters: no such field
    ";
    refuses(
        |spec| of_kind("TCPRoute", &format!("{{{spec}}}")),
        "spec.",
        lines,
    );
}

#[test]
fn matches_have_to_be_valid() {
    let lines = "
        path: {type: Glob, value: /a} => path.type: Exact, PathPrefix, RegularExpression
        path: {value: a} => path.value: not a path
        path: {value: //a} => path.value: not a path
        path: {value: /a/../b} => path.value: not a path
        path: {value: /a/..} => path.value: not a path
        path: {value: '/a%2fb'} => path.value: not a path
        path: {value: '/a?b'} => path.value: not a path
        path: {value: '/a%zz'} => path.value: not a path
        path: {type: RegularExpression, value: '('} => path.value: regular expression
        method: get => method: GET
        headers: [{name: 'a b', value: x}] => headers[0].name: not a name
        headers: [{name: a}] => headers[0].value: required
        headers: [{name: a, value: ''}] => headers[0].value: empty
        headers: [{name: a, value: x, type: Prefix}] => headers[0].type: Exact
        headers: [{name: a, value: '[', type: RegularExpression}] => headers[0].value: regular expression
        queryParams: [{name: a, value: 1}] => queryParams[0].value: quotes
        query: [] => query: no such field
    ";
    let write = |fields: &str| rule(&format!("matches: [{{{fields}}}]"));
    const AT: &str = "spec.rules[0].matches[0].";
    refuses(write, AT, lines);
    let long = write(&format!("path: {{value: /{}}}", "a".repeat(1024)));
    refuses_one(&long, &format!("{AT}path.value"), "longer than 1024");
    let headers = write(&format!("headers: [{}]", many(17, "{name: a, value: b}")));
    refuses_one(&headers, &format!("{AT}headers"), "more than 16");
    let matches = rule(&format!("matches: [{}]", many(65, "{}")));
    refuses_one(&matches, "spec.rules[0].matches", "more than 64");
    let calls = "
        method: {} => method: at least one of service, method
        method: {service: a/b} => method.service: not a name
        method: {method: '1a'} => method.method: not a name
        method: {type: RegularExpression, method: '('} => method.method: regular expression
        method: {type: Prefix, method: a} => method.type: neither Exact nor
        path: {value: /a} => path: no such field
    ";
    refuses(
        |fields| grpc(&format!("matches: [{{{fields}}}]")),
        AT,
        calls,
    );
}

#[test]
fn filters_have_to_be_valid() {
    let lines = "
        type: Magic => type: RequestHeaderModifier
        type: CORS => cors: required
        type: CORS, cors: {}, urlRewrite: {} => urlRewrite: does not go with
    ";
    const AT: &str = "spec.rules[0].filters[0].";
    refuses(filter, AT, lines);
    let lines = "
        {name: a} => [0].value: required
        {name: Host, value: a} => [0].name: may change
        {name: Transfer-Encoding, value: a} => [0].name: may change
        {name: a, value: \"b\\r\\nc\"} => [0].value: header's value
        {name: a, value: b}, {name: A, value: c} => [1].name: twice
    ";
    let set = |pairs: &str| {
        filter(&format!(
            "type: RequestHeaderModifier, requestHeaderModifier: {{set: [{pairs}]}}"
        ))
    };
    refuses(set, &format!("{AT}requestHeaderModifier.set"), lines);
    let lines = "
        scheme: ftp => scheme: neither http nor https
        statusCode: 200 => statusCode: 301, 302, 303, 307, 308
        hostname: '*.a' => hostname: host name
        path: {type: ReplaceFullPath} => path.replaceFullPath: required
        path: {type: ReplaceFullPath, replaceFullPath: a} => path.replaceFullPath: not a path
        path: {type: ReplaceFullPath, replaceFullPath: /x/../admin} => path.replaceFullPath: \"/x/../admin\" is not a path
        path: {type: ReplaceFullPath, replaceFullPath: //admin} => path.replaceFullPath: \"//admin\" is not a path
        path: {type: ReplaceFullPath, replaceFullPath: '/a%2Fb'} => path.replaceFullPath: \"/a%2Fb\" is not a path
        path: {type: ReplaceFullPath, replaceFullPath: '/%61dmin'} => path.replaceFullPath: \"/%61dmin\" is to be written \"/admin\"
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /a/.} => path.replacePrefixMatch: \"/a/.\" is not a path
        path: {type: ReplaceFullPath, replaceFullPath: /a, replacePrefixMatch: /b} => path.replacePrefixMatch: does not go
    ";
    let redirect = |fields: &str| {
        filter(&format!(
            "type: RequestRedirect, requestRedirect: {{{fields}}}"
        ))
    };
    refuses(redirect, &format!("{AT}requestRedirect."), lines);
}

#[test]
fn what_a_path_is_rewritten_to_has_one_reading() {
    let lines = "
        type: ReplaceFullPath, replaceFullPath: '/a;b' => replaceFullPath: second reading, \"/a\"
        type: ReplaceFullPath, replaceFullPath: '/a%00' => replaceFullPath: second reading
        type: ReplaceFullPath, replaceFullPath: '/a%5Cb' => replaceFullPath: second reading, \"/a/b\"
        type: ReplaceFullPath, replaceFullPath: '/a%3Bb' => replaceFullPath: second reading
        type: ReplaceFullPath, replaceFullPath: '/a%252Fb' => replaceFullPath: second reading
        type: ReplaceFullPath, replaceFullPath: '/a%40b' => replaceFullPath: second reading, \"/a@b\"
        type: ReplaceFullPath, replaceFullPath: '/a%2fb' => replaceFullPath: is not a path
        type: ReplaceFullPath, replaceFullPath: '/a//b' => replaceFullPath: is not a path
        type: ReplaceFullPath, replaceFullPath: '/a\\b' => replaceFullPath: is not a path
        type: ReplacePrefixMatch, replacePrefixMatch: '/a;b' => replacePrefixMatch: second reading
        type: ReplacePrefixMatch, replacePrefixMatch: '/a//' => replacePrefixMatch: is not a path
    ";
    let rewrite = |path: &str| {
        let rewrite = format!("{{type: URLRewrite, urlRewrite: {{path: {{{path}}}}}}}");
        rule(&format!(
            "matches: [{{path: {{value: /x}}}}], filters: [{rewrite}]"
        ))
    };
    refuses(rewrite, "spec.rules[0].filters[0].urlRewrite.path.", lines);
    for path in ["/a@b", "/a%20b", "/a%25", "/a=1,b", "/"] {
        good(&rewrite(&format!(
            "type: ReplaceFullPath, replaceFullPath: '{path}'"
        )));
    }
    // Whoever is sent to it asks anew.
    good(&filter(
        "type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: '/a;b'}}",
    ));
}

#[test]
fn the_parts_of_a_rule_have_to_go_together() {
    const PREFIX: &str =
        "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}";
    let lines = "
        filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}, {type: RequestHeaderModifier, requestHeaderModifier: {}}] => filters[1].type: only once
        filters: [PREFIX, {type: RequestRedirect, requestRedirect: {}}] => filters: exclude
        filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}] => backendRefs: RequestRedirect
        matches: [{path: {type: Exact, value: /a}}], filters: [PREFIX] => filters: PathPrefix
        matches: [{}, {}], filters: [PREFIX] => filters: PathPrefix
        timeouts: {request: 1.5s} => timeouts.request: not a duration
        timeouts: {request: 5} => timeouts.request: quotes
        timeouts: {request: 1s, backendRequest: 2s} => timeouts.backendRequest: longer than request
        timeouts: {idle: 1s} => timeouts.idle: no such field
        backendRefs: [{port: 80}] => backendRefs[0].name: required
        backendRefs: [{name: a}] => backendRefs[0].port: needs one
        backendRefs: [{name: a, port: 80, weight: -1}] => backendRefs[0].weight: 0 to 1000000
        backendRefs: [{name: a, port: 80, weight: 1000001}] => backendRefs[0].weight: 0 to 1000000
        backendRefs: [{name: a, port: 80, weigth: 1}] => backendRefs[0].weigth: no such field
    ";
    refuses(
        |fields| rule(&fields.replace("PREFIX", PREFIX)),
        "spec.rules[0].",
        lines,
    );
    let backends = rule(&format!(
        "backendRefs: [{}]",
        many(17, "{name: a, port: 80}")
    ));
    refuses_one(&backends, "spec.rules[0].backendRefs", "more than 16");
    good(&rule(&format!("matches: [{{}}], filters: [{PREFIX}]")));
    good(&rule(&format!("filters: [{PREFIX}]")));
    let rewrite = grpc("filters: [{type: URLRewrite, extensionRef: {}}]");
    refuses_one(&rewrite, "spec.rules[0].filters[0].type", "is none of");
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
    let spec = |kind: &'static str| move |fields: &str| of_kind(kind, &format!("{{{fields}}}"));
    let gateway = "
        gatewayClassName: c => listeners: at least one
        listeners: [{name: a, port: 15008, protocol: HBONE}] => gatewayClassName: required
    ";
    refuses(spec("Gateway"), "spec.", gateway);
    let listeners = "
        {name: a, protocol: HBONE} => [0].port: required
        {name: a, port: 1, protocol: HBONE, prot: x} => [0].prot: no such field
        {name: a, port: 1, protocol: HBONE, allowedRoutes: {namespaces: {from: Any}}} => [0].allowedRoutes.namespaces.from: All, Same, Selector, None
        {name: a, port: 1, protocol: HBONE, allowedRoutes: {namespaces: {from: Selector}}} => [0].allowedRoutes.namespaces.selector: required
        {name: a, port: 1, protocol: HBONE}, {name: a, port: 2, protocol: HBONE} => [1].name: twice
    ";
    let listener = |items: &str| {
        of_kind(
            "Gateway",
            &format!("{{gatewayClassName: c, listeners: [{items}]}}"),
        )
    };
    refuses(listener, "spec.listeners", listeners);
    refuses_one(
        &of_kind("GatewayClass", "{}"),
        "spec.controllerName",
        "required",
    );
    let grants = "
        from: [{kind: HTTPRoute, namespace: a}] => to: at least one
        from: [{kind: HTTPRoute}], to: [{kind: Service}] => from[0].namespace: required
    ";
    refuses(spec("ReferenceGrant"), "spec.", grants);
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
