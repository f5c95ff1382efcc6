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
