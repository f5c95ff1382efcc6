//! Facts about routes, and wishes for TLS, that never had a good version.

use super::*;
use crate::{manifest::UnservedKind, source::Loaded};

fn faulty(text: &str, previous: Option<&Loaded>) -> Loaded {
    let services = (PathBuf::from("services.yaml"), SERVICES.to_owned());
    let files = [services, (PathBuf::from("test.yaml"), text.to_owned())];
    let loaded = load(&files.into(), previous);
    assert_ne!(loaded.problems, [], "{text}");
    loaded
}

/// Whether port 80 of shop/web and of shop/api, and of bank/far, are answered with an error.
fn closed(loaded: &Loaded) -> [bool; 3] {
    with_routes(&loaded.world, |routes| {
        [("shop", "web"), ("shop", "api"), ("bank", "far")].map(|(namespace, name)| {
            let key = (namespace.to_owned(), name.to_owned());
            let found = routes.of(&key, 80).routes;
            found.iter().any(|(name, _)| name.contains("unserved_tls_"))
        })
    })
}

#[test]
fn a_wish_for_tls_that_is_not_understood_closes_what_can_be_read_of_its_targets() {
    let policy = |spec: &str| object("BackendTLSPolicy", "shop", "b", spec);
    let rule = |spec: &str| {
        policy(spec)
            .replace("BackendTLSPolicy", "DestinationRule")
            .replace("gateway.networking.k8s.io", "networking.istio.io")
    };
    let reference = ObjectRef::new(Kind::Unserved(UnservedKind::BackendTlsPolicy), "shop", "b");
    let simple = "trafficPolicy: {tls: {mode: SIMPLE}}";
    let web = policy("{targetRefs: [{kind: Service, name: web, sectionName: 7}]}");
    for (text, expected) in [
        (web.clone(), [true, false, false]),
        (
            policy(
                "{targetRefs: [{kind: Service, name: web, sectionName: 7}, {kind: Gateway, name: api}]}",
            ),
            [true, false, false],
        ),
        (
            policy("{targetRefs: [{kind: Service, name: web}, {kind: Service}]}"),
            [true, true, false],
        ),
        (policy("{targetRefs: api}"), [true, true, false]),
        (policy("[]"), [true, true, false]),
        (
            policy("{targetRefs: api}").replace("name: b,", ""),
            [true, true, false],
        ),
        (
            web.replace("sectionName: 7", "sectionName: http")
                + &policy("{targetRefs: [{kind: Service, name: api}]}"),
            [true, true, false],
        ),
        (
            rule(&format!("{{host: api, {simple}}}")).replace("name: b,", "name: b, labels: 7,"),
            [false, true, false],
        ),
        (rule(&format!("{{host: 7, {simple}}}")), [true, true, false]),
        (
            rule("{host: api}").replace("name: b,", "name: b, labels: 7,"),
            [false; 3],
        ),
    ] {
        let first = faulty(&text, None);
        assert_eq!(closed(&first), expected, "{text}");
        if first.world.object(&reference).is_some() {
            continue;
        }
        // What is read later counts, and what cannot be read at all takes nothing back.
        let later = policy("{targetRefs: [{kind: Service, name: api, sectionName: 7}]}");
        let later = faulty(&later, Some(&first));
        assert!(closed(&later)[1], "{text}");
        assert_eq!(closed(&faulty("a: [", Some(&first))), expected, "{text}");
    }
}

#[test]
fn a_wish_for_tls_that_is_not_even_yaml_closes_all_that_it_may_be_for() {
    let torn = |kind: &str, namespace: &str| {
        format!("kind: {kind}\nmetadata: {{name: b, namespace: {namespace}}}\nspec: {{[")
    };
    for (text, expected) in [
        (torn("BackendTLSPolicy", "shop"), [true, true, false]),
        (torn("DestinationRule", "shop"), [true, true, false]),
        (torn("DestinationRule", "bank"), [false, false, true]),
        (torn("DestinationRule", "ambit-system"), [true; 3]),
        (torn("BackendTLSPolicy", "ambit-system"), [false; 3]),
        (
            "\u{fffd}\n".to_owned() + &torn("DestinationRule", "shop"),
            [true, true, false],
        ),
        (torn("VirtualService", "shop"), [false; 3]),
    ] {
        assert_eq!(closed(&faulty(&text, None)), expected, "{text}");
    }
}

#[test]
fn the_last_good_wish_for_tls_stays_whatever_comes_after() {
    let policy = object(
        "BackendTLSPolicy",
        "shop",
        "b",
        "{targetRefs: [{kind: Service, name: api}]}",
    );
    let rule = object(
        "DestinationRule",
        "shop",
        "b",
        "{host: api, trafficPolicy: {tls: {mode: SIMPLE}}}",
    )
    .replace("gateway.networking.k8s.io", "networking.istio.io");
    let plain = rule.replace("SIMPLE", "DISABLE");
    let services = (PathBuf::from("services.yaml"), SERVICES.to_owned());
    for (good, expected) in [(policy, true), (rule, true), (plain, false)] {
        let files = [services.clone(), (PathBuf::from("test.yaml"), good.clone())];
        let first = load(&files.into(), None);
        assert_eq!(first.problems, [], "{good}");
        for bad in [
            good.replace("spec: {", "spec: {["),
            good.replace("name: b,", "name: b, labels: 7,"),
            "\u{fffd}".to_owned() + &good,
        ] {
            assert_eq!(
                closed(&faulty(&bad, Some(&first))),
                [false, expected, false],
                "{bad}"
            );
        }
    }
}

/// A rule of an HTTPRoute `r` for shop/web that guards /private, and cannot be understood.
const LOGIN: &str =
    "filters: [{type: ExtensionRef, extensionRef: {group: auth.example, kind: Login, name: z}}]";
const PRIVATE: &str = "matches: [{path: {type: PathPrefix, value: /private}}]";
const FAULT: &str = "timeouts: {request: 1.5s}, backendRefs: [{name: api, port: 80}]";

fn guarded(matches: &str, filters: &str) -> String {
    let open = "{matches: [{path: {value: /open}}], filters: [{type: CORS, cors: {}}], backendRefs: [{name: api, port: 80}]}";
    http(
        "r",
        &at_port(80),
        &format!("{{{matches}, {filters}, {FAULT}}}, {open}"),
    )
}

/// Of the rules that hold for a port of a Service, prefixes that are matched, `*` for all, if they are refused.
fn refused(loaded: &Loaded, service: &str, port: u16) -> Vec<String> {
    let told = with_routes(&loaded.world, |routes| {
        let key = ("shop".to_owned(), service.to_owned());
        routes.of(&key, port).routes
    });
    let rules = told.into_iter().flat_map(|(_, route)| route.rules);
    let rules = rules.filter(|rule| !rule.invalid.is_empty());
    let prefix = |it: &waypoint::Match| match &it.path {
        Some(waypoint::r#match::Path::Prefix(prefix)) => prefix.clone(),
        other => format!("{other:?}"),
    };
    let all = rules.map(|rule| match rule.matches.as_slice() {
        [] => "*".to_owned(),
        matches => matches.iter().map(prefix).collect(),
    });
    all.collect()
}

#[test]
fn what_a_new_route_that_is_not_understood_wants_guarded_is_refused() {
    for (matches, filters, expected) in [
        (PRIVATE, LOGIN, Some("/private")),
        (PRIVATE, "filters: [{type: ExternalAuth}]", Some("/private")),
        (
            PRIVATE,
            "filters: [{type: externalauth, externalAuth: {}}]",
            Some("/private"),
        ),
        (
            PRIVATE,
            "filters: [{type: Login, login: {}}]",
            Some("/private"),
        ),
        (PRIVATE, "filters: [{type: 7}]", Some("/private")),
        (PRIVATE, "filters: 7", Some("/private")),
        (PRIVATE, "filterz: [{type: ExtensionRef}]", Some("/private")),
        (PRIVATE, "jwt: {issuer: x}", Some("/private")),
        (
            PRIVATE,
            "filters: [{extensionRef: {name: z}}]",
            Some("/private"),
        ),
        ("name: 7", LOGIN, Some("/")),
        ("matches: [{path: {value: private}}]", LOGIN, Some("*")),
        (
            "matches: [{path: {value: /private}}, {path: 7}]",
            LOGIN,
            Some("*"),
        ),
        ("matches: 7", LOGIN, Some("*")),
        ("matchez: [{path: {value: /private}}]", LOGIN, Some("*")),
        (PRIVATE, "filters: [{type: CORS}]", None),
        (
            PRIVATE,
            "filters: [{requestHeaderModifier: {remove: [authorization]}}]",
            None,
        ),
        (PRIVATE, "name: 7", None),
    ] {
        let text = guarded(matches, filters);
        let loaded = faulty(&text, None);
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(refused(&loaded, "web", 80), expected, "{text}");
        assert_eq!(refused(&loaded, "web", 110), [""; 0], "{text}");
        assert_eq!(refused(&loaded, "api", 80), [""; 0], "{text}");
        let compiled = compile(&loaded.world, &Settings::default());
        let reference = ObjectRef::new(Kind::Route(RouteKind::Http), "shop", "r");
        let status = &compiled.statuses[&reference];
        for condition in [&status.conditions[0], &status.parents[0].conditions[0]] {
            let said = condition.message.contains("is answered with 500");
            assert_eq!(said, !expected.is_empty(), "{}", condition.message);
        }
        // Once it is good it is as any other.
        let good = http("r", WEB, "{matches: [{path: {value: /private}}]}");
        let files = [
            (PathBuf::from("services.yaml"), SERVICES.to_owned()),
            (PathBuf::from("test.yaml"), good),
        ];
        assert_eq!(
            load(&files.into(), Some(&loaded)).world.refused,
            BTreeMap::new()
        );
    }
}

#[test]
fn nothing_else_holds_where_nobody_can_tell_what_a_route_wants_guarded() {
    let other = http(
        "a",
        WEB,
        "{matches: [{path: {type: Exact, value: /private/x}}], backendRefs: [{name: api, port: 80}]}",
    );
    let text = guarded("matches: 7", LOGIN) + &other;
    let loaded = faulty(&text, None);
    let names = with_routes(&loaded.world, |routes| {
        let names = [80, 110].map(|port| routes.of(&web(), port).routes.len());
        assert_eq!(names, [1, 1]);
        routes.of(&web(), 80).routes[0].0.clone()
    });
    assert_eq!(names, "HTTPRoute/shop/r/shop/web");
    let compiled = compile(&loaded.world, &Settings::default());
    let status = &compiled.statuses[&ObjectRef::new(Kind::Route(RouteKind::Http), "shop", "a")];
    let said = &status.parents[0].conditions[0].message;
    assert!(said.contains("HTTPRoute r cannot be understood"), "{said}");
}

#[test]
fn a_guard_that_does_not_say_whose_closes_its_namespace_and_refuses_a_start() {
    let whole = guarded(PRIVATE, LOGIN);
    let nameless = whole.replace(", name: web", "");
    let torn = "---\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\nspec: {rules: [{filters: [{type: ExtensionRef";
    let elsewhere = object(
        "HTTPRoute",
        "shop",
        "r",
        &format!("{{parentRefs: [{WEB}], {LOGIN}}}"),
    );
    let settings = Settings::default();
    let starts = |loaded: &Loaded| crate::source::check::refusal(loaded, false, &settings);
    for (text, web, api, starting) in [
        (whole.clone(), "/private", None, true),
        (elsewhere, "*", None, true),
        (nameless.clone(), "/private", Some("/private"), false),
        (
            whole.replace("parentRefs", "parentRefz"),
            "/private",
            Some("/private"),
            false,
        ),
        (torn.to_owned(), "*", Some("*"), false),
        (
            nameless.replace("rules: [", "rulez: ["),
            "*",
            Some("*"),
            false,
        ),
        (
            whole.replace("name: r,", "name: R,"),
            "/private",
            None,
            true,
        ),
    ] {
        let loaded = faulty(&text, None);
        assert_eq!(refused(&loaded, "web", 80), [web], "{text}");
        let expected: Vec<_> = api.into_iter().map(str::to_owned).collect();
        assert_eq!(refused(&loaded, "api", 80), expected, "{text}");
        assert_eq!(starts(&loaded).is_none(), starting, "{text}");
    }
    let said = starts(&faulty(torn, None)).unwrap().to_string();
    assert!(
        said.contains("HTTPRoute/shop/r cannot be understood"),
        "{said}"
    );
}

/// Which of them is meant nobody can say.
#[test]
fn of_two_routes_of_one_name_what_either_wants_guarded_is_refused() {
    let plain = http(
        "r",
        &at_port(80),
        &format!("{{{PRIVATE}, backendRefs: [{{name: api, port: 80}}]}}"),
    );
    let faulty_one = guarded(PRIVATE, LOGIN);
    let good = faulty_one.replace("1.5s", "1s");
    for other in [&faulty_one, &good] {
        for text in [plain.clone() + other, other.clone() + &plain] {
            let first = faulty(&text, None);
            let again = faulty(&text, Some(&first));
            for loaded in [first, again] {
                let told = with_routes(&loaded.world, |routes| routes.of(&web(), 80).routes);
                // What is first among equals is in force.
                let mut rules: Vec<_> = told
                    .iter()
                    .flat_map(|(name, route)| {
                        route
                            .rules
                            .iter()
                            .map(move |rule| (route.created, name, rule))
                    })
                    .filter(|(.., rule)| format!("{:?}", rule.matches).contains("/private"))
                    .collect();
                rules.sort_by_key(|(created, name, _)| (*created, *name));
                assert_ne!(rules[0].2.invalid, "", "{text}");
            }
        }
    }
}

#[test]
fn a_route_that_never_was_good_says_so_at_each_of_its_parents() {
    let other = "{group: other.example, kind: Thing, name: t}";
    let text = http("r", &format!("{WEB}, {other}"), "{matches: 7}");
    let compiled = compile(&faulty(&text, None).world, &Settings::default());
    let reference = ObjectRef::new(Kind::Route(RouteKind::Http), "shop", "r");
    let status = &compiled.statuses[&reference];
    let [parent] = status.parents.as_slice() else {
        panic!("{:?}", status.parents)
    };
    assert_eq!(parent.parent.name, "web");
    let [condition] = parent.conditions.as_slice() else {
        panic!("{:?}", parent.conditions)
    };
    assert_eq!(
        (condition.kind, condition.holds, condition.reason),
        ("Accepted", false, "Invalid")
    );
    assert!(
        condition.message.contains("spec.rules[0].matches"),
        "{}",
        condition.message
    );
}
