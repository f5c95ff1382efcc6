//! What routes are attached to, and which of them hold there.

use super::{super::attach::MOST_CONSUMERS, *};

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
    let many: String = (0..=MOST_CONSUMERS).map(dated).collect();
    let own = http("r", WEB, TO_API);
    let (_, held) = names(&(many.clone() + &own), 80);
    assert_eq!(held.len(), MOST_CONSUMERS + 1);
    let last = format!("HTTPRoute/bank/c{}", MOST_CONSUMERS);
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
