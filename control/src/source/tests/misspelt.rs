//! Facts about objects of which nobody can say of which kind or namespace they are.

use super::{check::Refusal, *};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";

fn object(version: &str, kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

fn service(name: &str) -> String {
    object("v1", "Service", name, "{ports: [{port: 80}]}")
}

/// A good object of each kind that policies are for, and one slip after the other in its first two lines.
fn slips() -> Vec<(String, ObjectRef, Vec<String>)> {
    let listeners =
        "{gatewayClassName: c, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}";
    let all = [
        (Kind::Service, "v1", "{ports: [{port: 80}]}"),
        (Kind::Namespace, "v1", "{}"),
        (Kind::Pod, "v1", "{nodeName: n}"),
        (Kind::Gateway, GATEWAY, listeners),
    ];
    let all = all.into_iter().map(|(kind, version, spec)| {
        let name = kind.as_str();
        let namespace = if kind.namespaced() { "shop" } else { "" };
        let mut slips = vec![
            (version, name.replacen(['v', 'm', 'e'], "", 1)),
            (version, format!("{name}List")),
            (version, format!("{}{}", &name[..1], name)),
        ];
        if version == "v1" {
            slips.push(("apps/v1", name.to_owned()));
            slips.push(("core/v1", name.to_owned()));
            slips.push(("v1", "Thing".to_owned()));
            slips.push(("lib.k8s.io/v1", name.to_owned()));
        }
        // A pod's name is too short for that.
        slips.retain(|(version, slip)| slip != name || *version != "v1");
        let slips = slips.into_iter();
        (
            object(version, name, "web", spec),
            ObjectRef::new(kind, namespace, "web"),
            slips
                .map(|(version, slip)| object(version, &slip, "web", spec))
                .collect(),
        )
    });
    all.collect()
}

#[test]
fn an_object_whose_kind_is_misspelt_keeps_its_last_good_version_wherever_it_is() {
    for (good, reference, slips) in slips() {
        let before = one(&good, None);
        assert_eq!(before.problems, [], "{good}");
        for slip in slips {
            for file in ["a.yaml", "b.yaml"] {
                let after = load(&files(&[(file, &slip)]), Some(&before));
                let kept = after.world.object(&reference);
                assert_eq!(kept, before.world.object(&reference), "{slip}");
                assert_eq!(after.problems.len(), 1, "{:?}", after.problems);
                assert_eq!(after.problems[0].field, "kind");
                let again = load(&files(&[(file, &slip)]), Some(&after));
                assert_eq!(again.world, after.world, "{slip}");
                let mended = load(&files(&[(file, &good)]), Some(&again));
                assert_eq!(mended.world, before.world, "{slip}");
                let removed = load(&files(&[]), Some(&again));
                assert_eq!(removed.world, World::default(), "{slip}");
            }
        }
    }
}

#[test]
fn what_is_misspelt_keeps_nothing_that_is_elsewhere() {
    let before = one(&(service("web") + &service("other")), None);
    let slip = service("web").replace("Service", "Servce");
    let elsewhere = service("web").replace("port: 80", "port: 81");
    let moved = load(
        &files(&[("a.yaml", &slip), ("b.yaml", &elsewhere)]),
        Some(&before),
    );
    let now: Vec<_> = moved.world.services.iter().collect();
    let both = one(&(elsewhere + &service("other")), None);
    let expected: Vec<_> = both.world.services.iter().collect();
    assert_eq!(now, expected);
}

#[test]
fn what_is_misspelt_refuses_a_start_if_a_policy_may_be_for_it() {
    let of = |target: &str| policy("p", &format!("{{targetRefs: [{target}]}}"));
    let plain = policy("p", DENY_BANK);
    for (_, reference, slips) in slips() {
        let policy = match reference.kind {
            Kind::Service => of("{group: '', kind: Service, name: web}"),
            Kind::Gateway => of("{group: gateway.networking.k8s.io, kind: Gateway, name: web}"),
            Kind::Namespace => plain.replace("namespace: shop", "namespace: web"),
            _ => plain.clone(),
        };
        for slip in slips {
            let alone = one(&slip, None);
            assert_eq!(
                check::refusal(&alone, false, &Settings::default()),
                None,
                "{slip}"
            );
            let loaded = one(&(policy.clone() + &slip), None);
            let refusal = check::refusal(&loaded, false, &Settings::default());
            let Some(Refusal::Attached { object, .. }) = refusal else {
                panic!("{slip}: {refusal:?}")
            };
            assert_eq!(object, reference, "{slip}");
        }
    }
}

#[test]
fn the_nearest_kind_is_told() {
    let reason = |version: &str, kind: &str| {
        let loaded = one(&object(version, kind, "web", "{}"), None);
        loaded.problems[0].to_string()
    };
    for (version, kind, said) in [
        (
            "v1",
            "Servce",
            r#"Service/shop/web, kind: "Servce" is not a kind of v1: the nearest is "Service""#,
        ),
        (
            "apps/v1",
            "Pod",
            r#"Pod/shop/web, kind: "Pod" is not a kind of apps/v1: that is one of v1"#,
        ),
        (
            "v1",
            "Secrt",
            r#"document 1, kind: "Secrt" is not a kind of v1: the nearest is "Secret""#,
        ),
    ] {
        let reason = reason(version, kind);
        assert!(reason.contains(said), "{reason}");
    }
}

#[test]
fn a_policy_whose_kind_is_misspelt_keeps_whichever_of_its_name_there_was() {
    let peer =
        policy("p", "{mtls: {mode: STRICT}}").replace("AuthorizationPolicy", "PeerAuthentication");
    let before = one(&peer, None);
    assert_eq!(before.problems, []);
    for slip in ["PeerAuthentification", "Peers", "Authentication", "STRICT"] {
        let text = peer.replace("PeerAuthentication", slip);
        let after = one(&text, Some(&before));
        assert_eq!(
            after.world.peer_authentications, before.world.peer_authentications,
            "{slip}"
        );
        assert_eq!(after.world.denials.len(), 0, "{slip}");
        let [problem] = after.problems.as_slice() else {
            panic!("{:?}", after.problems)
        };
        assert_eq!(problem.field, "kind");
        let denials = one(&text, None).world.denials;
        let kinds: Vec<_> = denials.keys().map(|it| it.kind).collect();
        let nearest = match slip.starts_with("Peer") {
            true => Kind::PeerAuthentication,
            false => Kind::AuthorizationPolicy,
        };
        assert_eq!(kinds, [nearest], "{slip}");
    }
}

#[test]
fn what_may_be_of_any_namespace_keeps_the_last_good_version_of_its_name() {
    let lost = [
        "metadata: {name: web, namespace: [shop]}",
        "metadata: {name: web, namespace: 7}",
        "metadata: {name: web, namespace: Shop}",
        "metadata: {name: web, namespce: shop}",
        "metdata: {name: web, namespace: shop}",
    ];
    for (good, reference, _) in slips() {
        if reference.kind == Kind::Namespace {
            continue;
        }
        let before = one(&good, None);
        for metadata in lost {
            let text = good.replace("metadata: {name: web, namespace: shop}", metadata);
            for file in ["a.yaml", "b.yaml"] {
                let after = load(&files(&[(file, &text)]), Some(&before));
                let kept = after.world.object(&reference);
                assert_eq!(kept, before.world.object(&reference), "{text}");
                assert!(!after.world.faults.contains_key(&ObjectRef::new(
                    reference.kind,
                    "default",
                    "web"
                )));
            }
        }
    }
    let before = one(&policy("web", DENY_BANK), None);
    for metadata in lost {
        let text =
            policy("web", DENY_BANK).replace("metadata: {name: web, namespace: shop}", metadata);
        let after = one(&text, Some(&before));
        assert_eq!(
            after.world.authorization_policies, before.world.authorization_policies,
            "{text}"
        );
        assert_eq!(after.world.denials.len(), 0, "{text}");
    }
}

#[test]
fn what_may_be_of_any_namespace_refuses_a_start_if_a_policy_may_be_for_it() {
    let gateway = "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]}";
    let named = "{targetRefs: [{group: '', kind: Service, name: web}]}";
    let pod = object("v1", "Pod", "web", "{nodeName: n}");
    for (text, policy) in [
        (service("web"), policy("p", gateway)),
        (service("web"), policy("p", named)),
        (pod, policy("p", DENY_BANK)),
    ] {
        for namespace in ["namespace: [shop]", "namespce: shop"] {
            let text = policy.clone() + &text.replace("namespace: shop", namespace);
            let refusal = check::refusal(&one(&text, None), false, &Settings::default());
            assert!(
                matches!(refusal, Some(Refusal::Attached { .. })),
                "{text}: {refusal:?}"
            );
        }
    }
}

#[test]
fn a_mode_of_the_data_plane_that_nobody_knows_is_worth_a_note() {
    let labelled = |mode: &str| {
        let labels = format!("namespace: shop, labels: {{istio.io/dataplane-mode: {mode}}}");
        let pod = object("v1", "Pod", "web", "{}").replace("namespace: shop", &labels);
        let namespace = object("v1", "Namespace", "shop", "{}").replace("namespace: shop", &labels);
        check::check_files(
            &files(&[("a.yaml", &(pod + &namespace))]),
            &Settings::default(),
        )
    };
    for mode in ["Ambient", "on", "''"] {
        let check = labelled(mode);
        assert_eq!((check.problems.len(), check.refusal), (0, None));
        let told = |start: &str| {
            let mut notes = check.notes.iter();
            notes.any(|it| it.starts_with(start) && it.contains("istio.io/dataplane-mode"))
        };
        assert!(
            told("Namespace/shop") && told("Pod/shop/web"),
            "{:?}",
            check.notes
        );
    }
    for mode in ["ambient", "none"] {
        let told = labelled(mode).notes;
        assert!(
            !told.iter().any(|it| it.contains("dataplane-mode")),
            "{told:?}"
        );
    }
}
