//! Facts about what a control plane does not start with.

use super::{check::Refusal, *};
use crate::manifest::UnservedKind;

fn refusal(text: &str) -> Option<Refusal> {
    check::refusal(&one(text, None), false, &Settings::default())
}

const TOKENS: Kind = Kind::Unserved(UnservedKind::RequestAuthentication);
const SERVICE: &str = "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: x}]}}\n";

fn attached(kind: &str, name: &str) -> String {
    policy(
        "p",
        &format!("{{targetRefs: [{{group: '', kind: {kind}, name: {name}}}]}}"),
    )
}

#[test]
fn what_checks_tokens_and_is_not_understood_refuses_a_start_as_any_policy_does() {
    let tokens = |text: String| text.replace("AuthorizationPolicy", "RequestAuthentication");
    for text in [
        policy("p", "{action: 7, jwtRules: 7}"),
        policy("p", "{targetRefs: 7}"),
        policy("p", "{targetRefs: [{kind: Service, name: web}], no: such}"),
        TORN.replace("torn", "p"),
        policy("p", "{}").replace("security.istio.io/v1", "security.istio.io/v9"),
    ] {
        for (text, kind) in [
            (text.clone(), Kind::AuthorizationPolicy),
            (tokens(text), TOKENS),
        ] {
            let expected = Refusal::Policy(ObjectRef::new(kind, "shop", "p"));
            assert_eq!(refusal(&text), Some(expected), "{text}");
        }
    }
    let hidden = SERVICE.to_owned() + &attached("Service", "web");
    for (text, kind) in [
        (hidden.clone(), Kind::AuthorizationPolicy),
        (tokens(hidden), TOKENS),
    ] {
        let object = ObjectRef::new(Kind::Service, "shop", "web");
        let policy = ObjectRef::new(kind, "shop", "p");
        assert_eq!(
            refusal(&text),
            Some(Refusal::Attached { object, policy }),
            "{text}"
        );
    }
}

#[test]
fn what_policies_are_attached_to_refuses_a_start_if_it_is_not_even_yaml() {
    let torn = |kind: &str| format!("---\nkind: {kind}\nmetadata: {{name: web, namespace: shop\n");
    for kind in ["Service", "Gateway"] {
        let text = attached(kind, "web");
        let text = match kind {
            "Gateway" => text.replace("group: ''", "group: gateway.networking.k8s.io"),
            _ => text,
        };
        assert_eq!(refusal(&text), None, "{text}");
        for torn in [torn(kind), torn(kind).replace("name:", "nam")] {
            let found = refusal(&(text.clone() + &torn));
            assert!(
                matches!(found, Some(Refusal::Attached { .. })),
                "{torn}: {found:?}"
            );
        }
        let other = torn(kind).replace("shop", "bank");
        let found = refusal(&(text + &other));
        assert_eq!(found, Some(Refusal::Unknown("a.yaml".into(), 2)), "{other}");
    }
}

/// What a file holds that cannot be read as text, or not whole.
#[test]
fn a_file_that_cannot_be_read_refuses_a_start_and_denies_what_can_be_seen_of_it_later() {
    for text in [
        "\u{fffd}\n".to_owned(),
        "#".repeat(LIMITS.file + 1) + "\n",
        "---\na: b\n".repeat(LIMITS.documents + 1),
    ] {
        let found = refusal(&text);
        assert_eq!(found, Some(Refusal::Unread("a.yaml".into())));
        assert!(found.unwrap().to_string().contains("a.yaml"));
        let before = load(&files(&[("b.yaml", NAMESPACE)]), None);
        let with = text + &policy("p", DENY_BANK);
        let later = load(
            &files(&[("a.yaml", &with), ("b.yaml", NAMESPACE)]),
            Some(&before),
        );
        assert_eq!(
            later.world.denials.keys().collect::<Vec<_>>(),
            [&reference("p")]
        );
        assert_eq!(later.problems.len(), 1);
        assert_eq!(
            load(&files(&[("b.yaml", NAMESPACE)]), Some(&later)).world,
            before.world
        );
    }
}

#[test]
fn a_kind_that_nobody_knows_among_policies_is_one() {
    for (kind, taken) in [
        ("authorizationpolicy", Kind::AuthorizationPolicy),
        ("AuthorizationPolicies", Kind::AuthorizationPolicy),
        ("peerauthentication", Kind::PeerAuthentication),
        ("RequestAuthentications", TOKENS),
        ("NewPolicy", Kind::AuthorizationPolicy),
    ] {
        let text = policy("p", DENY_BANK).replace("AuthorizationPolicy", kind);
        let torn = format!(
            "{text}---\n{}",
            text.replace("---\n", "").replace("}}\n", "\n")
        );
        let without_version = text.replace("security.istio.io/v1", "v1");
        let without_number = text.replace("security.istio.io/v1", "security.istio.io");
        let other_group = text.replace("security.istio.io", "Security.Istio.IO");
        let expected = ObjectRef::new(taken, "shop", "p");
        for text in [text, torn, without_version, without_number, other_group] {
            if kind == "NewPolicy" && text.contains("apiVersion: v1") {
                continue;
            }
            assert_eq!(
                refusal(&text),
                Some(Refusal::Policy(expected.clone())),
                "{text}"
            );
            // While it runs, all of its namespace is denied.
            let before = one(NAMESPACE, None);
            let later = one(&(NAMESPACE.to_owned() + &text), Some(&before));
            assert_eq!(later.world.denials[&expected], Default::default(), "{text}");
        }
    }
    // What is not even YAML.
    for text in [
        TORN.replace("AuthorizationPolicy", "authorizationpolicy"),
        TORN.replace("AuthorizationPolicy", "AuthorizationPolicies"),
        TORN.replace("kind: AuthorizationPolicy", "kinds: NewPolicy"),
    ] {
        let expected = ObjectRef::new(Kind::AuthorizationPolicy, "shop", "torn");
        assert_eq!(refusal(&text), Some(Refusal::Policy(expected)), "{text}");
    }
    // A list of them by another name.
    let list = |kind: &str, items: &str| {
        let policy = policy("p", DENY_BANK).replace("---\n", "");
        format!(
            "---\n{{apiVersion: v1, kind: {kind}, {items}: [{}]}}\n",
            policy.trim()
        )
    };
    assert_eq!(refusal(&list("List", "items")), None);
    assert_eq!(refusal(&list("list", "items")), None);
    assert_eq!(
        one(&list("list", "items"), None)
            .world
            .authorization_policies
            .len(),
        1
    );
    let expected = Refusal::Policy(reference("p"));
    assert_eq!(refusal(&list("List", "item")), Some(expected));
}

fn gateway(spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: wp, namespace: shop}}, \
         spec: {{gatewayClassName: own, {spec}: [{{name: mesh, port: 15008, protocol: HBONE}}]}}}}\n"
    )
}

const CLASS: &str = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: own}, spec: {controllerName: 7}}\n";
const LABELLED: &str = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: wp, x: 5}}}\n";

/// What cannot be understood, and which object it is.
fn hidden() -> [(String, ObjectRef); 6] {
    let service = || ObjectRef::new(Kind::Service, "shop", "web");
    let labelled = SERVICE.replace(
        "namespace: shop",
        "namespace: shop, labels: {istio.io/use-waypoint: wp}",
    );
    let namespace = || ObjectRef::new(Kind::Namespace, "", "shop");
    let address = labelled
        .replace("port: x", "port: 80")
        .replace("spec: {", "spec: {clusterIP: 10.96.0.999, ");
    let torn = "---\nkind: Namespace\nmetadata: {name: shop, labels: {a: b\n";
    [
        (labelled, service()),
        (address, service()),
        (LABELLED.to_owned(), namespace()),
        (torn.to_owned(), namespace()),
        (
            gateway("listenerz"),
            ObjectRef::new(Kind::Gateway, "shop", "wp"),
        ),
        (
            CLASS.to_owned(),
            ObjectRef::new(Kind::GatewayClass, "", "own"),
        ),
    ]
}

fn tokens(policy: &str) -> String {
    policy.replace("AuthorizationPolicy", "RequestAuthentication")
}

/// What a Gateway or its class is asked about may be any Service's, whose label nobody can read.
#[test]
fn what_a_policy_of_a_gateway_may_be_for_refuses_a_start_too() {
    let of = |kind: &str, namespace: &str, name: &str| {
        attached(kind, name)
            .replace("group: ''", "group: gateway.networking.k8s.io")
            .replace("namespace: shop", &format!("namespace: {namespace}"))
    };
    let of_gateway = of("Gateway", "shop", "wp");
    let of_class = of("GatewayClass", "ambit-system", "own");
    for (text, hidden) in hidden() {
        let torn = !one(&text, None).unknown.is_empty();
        assert_eq!(refusal(&text).is_some(), torn, "{text}");
        for policy in [
            &of_gateway,
            &of_class,
            &tokens(&of_gateway),
            &tokens(&of_class),
        ] {
            let found = refusal(&(text.clone() + policy));
            let Some(Refusal::Attached { object, .. }) = found else {
                panic!("{text}{policy}")
            };
            assert_eq!(object, hidden, "{text}{policy}");
        }
    }
    let good = SERVICE.replace("port: x", "port: 80")
        + &LABELLED.replace("x: 5", "x: y")
        + &gateway("listeners")
        + &CLASS.replace("controllerName: 7", "controllerName: ambit.dev/waypoint")
        + &of_gateway
        + &of_class
        + &policy("q", DENY_BANK);
    assert_eq!(refusal(&good), None);
}

/// By their Namespace workloads are in the mesh.
#[test]
fn a_namespace_that_is_not_understood_refuses_a_start_with_any_policy_of_its_own() {
    let strict = policy("p", "{mtls: {mode: STRICT}}");
    for (policy, counts) in [
        (policy("p", DENY_BANK), true),
        (tokens(&policy("p", "{}")), true),
        (
            strict.replace("AuthorizationPolicy", "PeerAuthentication"),
            true,
        ),
        (policy("p", "{}").replace("shop", "ambit-system"), true),
        (policy("p", "{}").replace("shop", "bank"), false),
    ] {
        for (text, hidden) in hidden() {
            let found = refusal(&(text.clone() + &policy));
            let torn = !one(&text, None).unknown.is_empty();
            let expected = torn || counts && hidden.kind == Kind::Namespace;
            assert_eq!(found.is_some(), expected, "{text}{policy}");
        }
    }
}

/// By its own label, or that of its namespace.
#[test]
fn a_service_that_is_not_understood_is_a_matter_of_its_own_waypoint_alone() {
    let policy = |kind: &str, home: &str| {
        attached(kind, "wp")
            .replace("group: ''", "group: gateway.networking.k8s.io")
            .replace("namespace: shop", &format!("namespace: {home}"))
    };
    let of_gateway = policy("Gateway", "shop");
    let of_class = policy("GatewayClass", "ambit-system");
    let elsewhere = policy("Gateway", "infra");
    let by_namespace = LABELLED.replace("x: 5", "x: y");
    let with = |labels: &str| {
        SERVICE.replace(
            "namespace: shop",
            &format!("namespace: shop, labels: {{{labels}}}"),
        )
    };
    let far = "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra";
    for (text, [here, class, there]) in [
        (SERVICE.to_owned(), [false; 3]),
        (SERVICE.to_owned() + &by_namespace, [true, true, false]),
        (
            with("istio.io/use-waypoint: none") + &by_namespace,
            [false; 3],
        ),
        (with("istio.io/use-waypoint: wp"), [true, true, false]),
        (with("istio.io/use-waypoint: other"), [false, true, false]),
        (with(far), [false, true, true]),
        (with("istio.io/use-waypoint: 7"), [true; 3]),
        (SERVICE.replace("name: web,", "name: WEB,"), [true; 3]),
    ] {
        for (policy, counts) in [(&of_gateway, here), (&of_class, class), (&elsewhere, there)] {
            let found = refusal(&(text.clone() + policy));
            assert_eq!(found.is_some(), counts, "{text}{policy}");
        }
    }
}

/// It would be reached in plaintext, and nobody would keep whoever asks to its policies.
#[test]
fn a_pod_that_is_not_understood_refuses_a_start_if_a_policy_may_be_for_it() {
    let good = "---\n{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, status: {podIPs: [{ip: 10.0.0.1}]}}\n";
    let faulty = good.replace("10.0.0.1", "10.0.0.999");
    let selecting = "{action: DENY, selector: {matchLabels: {app: web}}, rules: [{}]}";
    let home = policy("p", selecting);
    for policed in [home.clone(), home.replace("shop", "ambit-system")] {
        assert_eq!(refusal(&(good.to_owned() + &policed)), None);
        let found = refusal(&(faulty.clone() + &policed)).unwrap();
        let told = found.to_string();
        let policy = if policed.contains("shop") {
            "shop"
        } else {
            "ambit-system"
        };
        for named in [
            "Pod/shop/web".to_owned(),
            format!("AuthorizationPolicy/{policy}/p"),
        ] {
            assert!(told.contains(&named), "{told}");
        }
        for text in [
            faulty.replace("name: web", "name: WEB"),
            good.replace("status: {", "status: {["),
        ] {
            let found = refusal(&(text.clone() + &policed));
            assert!(matches!(found, Some(Refusal::Attached { .. })), "{text}");
        }
    }
    let dry = home.replace(
        "name: p,",
        "name: p, annotations: {istio.io/dry-run: 'true'},",
    );
    for other in ["", &home.replace("shop", "bank"), &dry] {
        assert_eq!(refusal(&(faulty.clone() + other)), None, "{other}");
    }
    // Once there was a good version that stays.
    let before = one(&(good.to_owned() + &home), None);
    let later = one(&(faulty + &home), Some(&before));
    assert_eq!(later.world.pods, before.world.pods);
    assert_eq!(check::refusal(&later, false, &Settings::default()), None);
}

#[test]
fn two_of_one_name_that_are_not_alike_refuse_a_start_if_policies_are_found_by_them() {
    let object = |kind: &str, more: &str| {
        let version = match kind {
            "Gateway" | "GatewayClass" => "gateway.networking.k8s.io/v1",
            _ => "v1",
        };
        let spec = match kind {
            "Gateway" => {
                "{gatewayClassName: c, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}"
            }
            "GatewayClass" => "{controllerName: a/b}",
            "Service" => "{ports: [{port: 80}]}",
            "Pod" => "{nodeName: n}",
            _ => "{}",
        };
        format!(
            "---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: web, namespace: shop{more}}}, spec: {spec}}}\n"
        )
    };
    let other = ", labels: {a: b}";
    for (kind, namespace) in [
        (Kind::Service, "shop"),
        (Kind::Gateway, "shop"),
        (Kind::GatewayClass, ""),
        (Kind::Namespace, ""),
    ] {
        let name = format!("{kind:?}");
        let reference = ObjectRef::new(kind, namespace, "web");
        let good = object(&name, "");
        let twice = good.clone() + &object(&name, other);
        assert_eq!(refusal(&twice), Some(Refusal::Twice(reference)), "{twice}");
        let alike = good.clone() + &good;
        assert_eq!(refusal(&alike), None, "{alike}");
        let before = one(&good, None);
        let kept = one(&twice, Some(&before));
        let (kept, before) = (kept.world, before.world);
        assert_eq!(kept.namespaces, before.namespaces, "the last good version");
        assert_eq!(kept.services, before.services);
        assert_eq!(kept.gateways, before.gateways);
    }
    // Whichever of the two is faulty.
    let good = SERVICE.replace("port: x", "port: 80");
    for text in [good.clone() + SERVICE, SERVICE.to_owned() + &good] {
        let found = refusal(&text);
        assert!(matches!(found, Some(Refusal::Twice(_))), "{found:?}");
    }
    assert_eq!(refusal(&SERVICE.repeat(2)), None, "nor is there one");
    let pods = object("Pod", "") + &object("Pod", other);
    let of = |namespace: &str| pods.clone() + &policy("p", DENY_BANK).replace("shop", namespace);
    assert_eq!(refusal(&pods), None);
    assert_eq!(refusal(&of("bank")), None);
    for namespace in ["shop", &Settings::default().root_namespace] {
        let found = refusal(&of(namespace));
        assert!(matches!(found, Some(Refusal::Twice(_))), "{found:?}");
    }
}
