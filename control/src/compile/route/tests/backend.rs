//! Where routes lead, and where they must not.

use super::*;

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

const SIMPLE: &str = "trafficPolicy: {tls: {mode: SIMPLE}}";

/// A DestinationRule.
fn rule(namespace: &str, host: &str, tls: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d, namespace: {namespace}}}, spec: {{host: {host}, {tls}}}}}\n"
    )
}

/// Whether a backend is, where this object is there too.
fn is_refused(object: &str, refused: bool) {
    let text = http("r", &at_port(80), TO_API) + object;
    let backend = &rules(&text)[0]["backends"][0];
    assert_eq!(backend.get("invalid").is_some(), refused, "{object}");
    let expected = if refused {
        "!ResolvedRefs UnsupportedProtocol"
    } else {
        "ResolvedRefs ResolvedRefs"
    };
    let said = &conditions(&text, "HTTPRoute/shop/r")[0][1];
    assert_eq!(said, expected, "{object}");
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
    let simple = SIMPLE;
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
        is_refused(&object, refused);
    }
}

#[test]
fn the_host_of_a_rule_is_every_service_that_it_may_be() {
    let simple = SIMPLE;
    for (object, refused) in [
        // As a resolver would take it, and in whatever case.
        (rule("shop", "api.shop", simple), true),
        (rule("shop", "api.shop.svc", simple), true),
        (rule("shop", "API", simple), true),
        (rule("shop", "Api.Shop.SVC.cluster.local.", simple), true),
        (rule("shop", "'*'", simple), true),
        (rule("shop", "'*.shop'", simple), true),
        (rule("shop", "'ap*'", simple), true),
        (rule("ambit-system", "api.shop", simple), true),
        (rule("ambit-system", "api", simple), false),
        (rule("shop", "api.bank", simple), false),
        (rule("shop", "api.shop.svc.example.com", simple), false),
        (rule("bank", "api.shop", simple), false),
    ] {
        is_refused(&object, refused);
    }
    for (object, said) in [
        (rule("shop", "api.shop", simple), "answer with 500"),
        (rule("bank", "api.shop", simple), "it changes nothing"),
        (rule("shop", "api.example", simple), "it changes nothing"),
    ] {
        let out = compile(&world(&object), &Settings::default());
        let mut statuses = out.statuses.iter();
        let (_, status) = statuses
            .find(|(it, _)| matches!(it.kind, Kind::Unserved(_)))
            .unwrap();
        let message = &status.conditions[0].message;
        assert!(message.contains(said), "{object}: {message}");
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
