//! Facts about whom workloads deny for going around a waypoint, and about what policies say of themselves.

use super::{
    bound::{GET, LABEL, WEB, WP, attached, gateway, key, namespace, ready, recorded, web},
    *,
};
use crate::world::Phase;

const WAYPOINT: &str = "cluster.local/ns/shop/sa/wp";

/// Of each generated policy that a pod of `shop` lists: its port, and whom it lets through.
fn denied(out: &Value, pod: &str) -> Vec<(Value, Vec<Value>)> {
    let workload = &out["addresses"][format!("Kubernetes//Pod/shop/{pod}")]["workload"];
    let names = workload["authorization_policies"].as_array();
    let names = names
        .into_iter()
        .flatten()
        .map(|name| name.as_str().unwrap());
    let generated = names.filter(|name| name.starts_with("shop/ambit_waypoint_"));
    let told = generated.map(|name| {
        let policy = &out["authorizations"][name];
        assert_eq!(
            (&policy["action"], &policy["scope"]),
            (&json!("DENY"), &json!("WORKLOAD_SELECTOR"))
        );
        let [group] = policy["groups"].as_array().unwrap().as_slice() else {
            panic!("{policy}")
        };
        let found = &group["rules"][0]["matches"][0];
        let except = found["not_principals"].as_array();
        let except = except.into_iter().flatten().map(|it| it["exact"].clone());
        (found["destination_ports"].clone(), except.collect())
    });
    told.collect()
}

fn condition(out: &Compiled, name: &str) -> Condition {
    let reference = ObjectRef::new(Kind::AuthorizationPolicy, "shop", name);
    out.statuses[&reference].conditions[0].clone()
}

#[test]
fn workloads_deny_whoever_goes_around_an_enforced_policy() {
    for target in [WEB, WP] {
        let text = web(LABEL) + &ready("wp", "shop", "", "") + &attached("p", target, GET);
        let out = resources(&world(&text));
        assert_eq!(
            denied(&out, "web"),
            [(json!([8080]), vec![json!(WAYPOINT)])],
            "{target}"
        );
    }
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let class = policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"));
    let out = resources(&world(
        &(web(LABEL) + &ready("wp", "shop", "", "") + &class),
    ));
    assert_eq!(denied(&out, "web").len(), 1, "a policy of the class");
}

#[test]
fn without_an_enforced_policy_nobody_is_denied() {
    let bound = web(LABEL) + &ready("wp", "shop", "", "");
    let dry = attached("p", WEB, GET).replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    for more in [
        String::new(),
        dry,
        attached("p", WEB, "action: AUDIT, rules: [{}]"),
    ] {
        let out = resources(&world(&(bound.clone() + &more)));
        assert_eq!(denied(&out, "web"), [], "{more}");
    }
}

#[test]
fn nobody_is_denied_before_everybody_knows_the_way() {
    let text = web(LABEL) + &gateway("wp", "shop", "", "") + &attached("p", WEB, GET);
    let gateway = || key("shop", "wp");
    let cases = [
        (None, false),
        (Some(Phase::Told { gateway: gateway() }), false),
        (Some(Phase::Published { gateway: gateway() }), false),
        (Some(Phase::Enforced { gateway: gateway() }), true),
        (Some(Phase::Leaving { gateway: gateway() }), false),
    ];
    for (phase, denies) in cases {
        let out = resources(&recorded(&text, &[gateway()], phase.clone()));
        assert_eq!(!denied(&out, "web").is_empty(), denies, "{phase:?}");
    }
}

#[test]
fn between_two_waypoints_both_are_let_through() {
    let text = web("labels: {istio.io/use-waypoint: new}")
        + &gateway("wp", "shop", "", "")
        + &gateway("new", "shop", "", "")
        + &attached("p", WEB, GET);
    for arrived in [false, true] {
        let moving = Phase::Moving {
            from: key("shop", "wp"),
            to: key("shop", "new"),
            arrived,
            enforced: true,
        };
        let out = resources(&recorded(&text, &[], Some(moving)));
        let both = vec![json!("cluster.local/ns/shop/sa/new"), json!(WAYPOINT)];
        assert_eq!(denied(&out, "web"), [(json!([8080]), both)]);
    }
}

#[test]
fn the_waypoints_of_all_services_on_a_port_are_let_through() {
    let other = |label: &str| {
        let metadata = format!("labels: {{istio.io/use-waypoint: {label}}}");
        let ports = "clusterIP: 10.0.1.2, selector: {app: web}, ports: [{port: 81, targetPort: 8080}, {port: 82, targetPort: 8082}]";
        service("other", &metadata, ports)
    };
    let text = web(LABEL)
        + &ready("wp", "shop", "", "")
        + &ready("wp2", "shop", "", "")
        + &attached("p", WEB, GET);
    let out = resources(&world(&(text.clone() + &other("wp2"))));
    let both = vec![json!(WAYPOINT), json!("cluster.local/ns/shop/sa/wp2")];
    assert_eq!(
        denied(&out, "web"),
        [(json!([8080]), both)],
        "and 8082 is untouched"
    );
    let out = resources(&world(&(text + &other("none"))));
    assert_eq!(
        denied(&out, "web"),
        [(json!([8080]), vec![json!(WAYPOINT)])]
    );
}

#[test]
fn an_annotation_lets_peers_go_around() {
    let metadata = format!("{LABEL}, annotations: {{ambit.dev/waypoint-bypass: allowed}}");
    let text = web(&metadata) + &ready("wp", "shop", "", "") + &attached("p", WEB, GET);
    assert_eq!(denied(&resources(&world(&text)), "web"), []);
    let compiled = compile(&recorded(&text, &[], None), &settings());
    assert!(!compiled.wanted[&key("shop", "web")].deny);
}

#[test]
fn a_closed_service_lets_nobody_through() {
    let closed = [
        // Without a label.
        web("") + &ready("wp", "shop", "", ""),
        // A waypoint that does not admit it.
        web(LABEL)
            + &ready(
                "wp",
                "shop",
                "",
                "allowedRoutes: {namespaces: {from: None}}",
            ),
    ];
    for text in closed {
        for recording in [false, true] {
            let text = text.clone() + &attached("p", WEB, GET);
            let world = if recording {
                recorded(&text, &[key("shop", "wp")], None)
            } else {
                world(&text)
            };
            assert_eq!(denied(&resources(&world), "web"), [(json!([8080]), vec![])]);
        }
    }
}

/// The other service's waypoint cannot judge what is meant for this one.
#[test]
fn the_workloads_of_a_headless_service_with_a_policy_refuse_every_peer() {
    let headless = |ports: &str| {
        service(
            "own",
            LABEL,
            &format!("clusterIP: None, selector: {{app: web}}, ports: [{ports}]"),
        )
    };
    let text = web(LABEL)
        + &ready("wp", "shop", "", "")
        + &attached("p", "{kind: Service, name: own}", GET);
    let cases = [
        ("{port: 80, targetPort: 8080}", json!([8080])),
        ("", Value::Null),
    ];
    for (ports, denies) in cases {
        let world = world(&(text.clone() + &headless(ports)));
        let compiled = compile(&world, &settings());
        assert_eq!(
            denied(&json::compiled(&compiled), "web"),
            [(denies, vec![])],
            "{ports}"
        );
        let service = ObjectRef::new(Kind::Service, "shop", "own");
        let said = &compiled.statuses[&service].conditions[0];
        assert!(!said.holds && said.message.contains("headless"), "{said:?}");
        assert!(said.message.contains("refuse every peer"), "{said:?}");
        assert_eq!(condition(&compiled, "p").reason, "AncestorNotBound");
    }
}

#[test]
fn nodes_understand_what_is_generated() {
    let text = web(LABEL) + &ready("wp", "shop", "", "") + &attached("p", WEB, GET);
    let compiled = compile(&world(&text), &settings());
    let (name, policy) = compiled.authorizations.iter().next().unwrap();
    let bytes = prost::Message::encode_to_vec(policy);
    let parsed = mesh::parse::authorization(name, &bytes, mesh::name::Name::new("root"));
    assert!(
        matches!(parsed.effect, mesh::model::Effect::Rules { .. }),
        "{parsed:?}"
    );
    assert!(parsed.is_generated());
}

#[test]
fn what_a_policy_for_waypoints_says_of_itself() {
    let base = web(LABEL) + &ready("wp", "shop", "", "") + &gateway("cold", "shop", "", "");
    let base = base
        + &ready(
            "pods",
            "shop",
            "labels: {istio.io/waypoint-for: workload}",
            "",
        );
    let gone = "{kind: Service, name: gone}";
    let pods = WP.replace("name: wp", "name: pods");
    let cold = WP.replace("name: wp", "name: cold");
    let both = format!("{WEB}, {gone}");
    let cases = [
        (WEB, GET, true, "Accepted"),
        (WP, GET, true, "Accepted"),
        (gone, GET, false, "TargetNotFound"),
        (&cold, GET, false, "TargetNotFound"),
        (&pods, GET, false, "AncestorNotBound"),
        (&both, GET, true, "PartiallyInvalid"),
        (WEB, "action: AUDIT, rules: [{}]", true, "Accepted"),
        (
            WEB,
            "action: CUSTOM, provider: {name: x}, rules: [{}]",
            false,
            "UnsupportedValue",
        ),
        (
            WEB,
            "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
            true,
            "UnsupportedValue",
        ),
        (
            WEB,
            "rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]",
            true,
            "Accepted",
        ),
    ];
    for (target, spec, holds, reason) in cases {
        let text = base.clone() + &attached("p", target, spec);
        let said = condition(&compile(&world(&text), &settings()), "p");
        assert_eq!(
            (said.kind, said.holds, said.reason),
            ("WaypointAccepted", holds, reason),
            "{target} {spec}"
        );
    }
}

#[test]
fn a_policy_of_requests_without_a_target_is_not_accepted_and_denies() {
    let text =
        web(LABEL) + &ready("wp", "shop", "", "") + &policy("p", "shop", &format!("{{{GET}}}"));
    let compiled = compile(&world(&text), &settings());
    let said = condition(&compiled, "p");
    assert_eq!((said.kind, said.holds), ("ZtunnelAccepted", false));
    assert!(
        said.message.contains("methods") && said.message.contains("targetRefs"),
        "{said:?}"
    );
    let sent = &compiled.authorizations["shop/p"];
    assert_eq!(
        (sent.action, sent.groups.len()),
        (0, 0),
        "an ALLOW that lets nobody in"
    );
}

#[test]
fn an_allow_policy_that_lacks_the_waypoint_says_whom_other_proxies_need() {
    let from = |principal: &str| {
        let spec = format!("{{rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}");
        policy("p", "shop", &spec)
    };
    let base = web(LABEL) + &ready("wp", "shop", "", "");
    let cases = [
        ("cluster.local/ns/shop/sa/client", true),
        (WAYPOINT, false),
        ("*", false),
        ("cluster.local/ns/shop/*", false),
    ];
    for (principal, hint) in cases {
        let compiled = compile(&world(&(base.clone() + &from(principal))), &settings());
        let said = condition(&compiled, "p");
        assert!(said.holds, "ours need nothing");
        assert_eq!(
            said.message.contains(WAYPOINT),
            hint,
            "{principal}: {said:?}"
        );
    }
    let unbound = web("") + &from("cluster.local/ns/shop/sa/client");
    let compiled = compile(&world(&unbound), &settings());
    assert_eq!(condition(&compiled, "p").message, "");
}

#[test]
fn what_was_never_good_denies_those_whom_it_is_attached_to_and_nobody_else() {
    let bad = attached("p", WEB, "action: NO, rules: [{}]");
    let other = service(
        "other",
        LABEL,
        "clusterIP: 10.0.1.2, selector: {app: other}, ports: [{port: 80}]",
    ) + &pod("other", "shop", "labels: {app: other}", "");
    let text = web(LABEL) + &other + &ready("wp", "shop", "", "") + &bad;
    let files = [(PathBuf::from("test.yaml"), text)].into();
    let compiled = compile(&load(&files, None).world, &settings());
    let told = &compiled.told[&key("shop", "wp")];
    let table = |name: &str| &told.tables[&format!("shop/{name}.shop.svc.cluster.local")];
    assert_eq!(table("web").policies.len(), 1);
    assert_eq!(table("other").policies, []);
    let policy = &told.policies[&table("web").policies[0].name];
    let Some(waypoint::policy::Policy::Http(policy)) = &policy.policy else {
        panic!("{policy:?}")
    };
    assert!(!policy.deny_all.is_empty() && !policy.dry_run);
    let out = json::compiled(&compiled);
    assert_eq!(denied(&out, "web").len(), 1);
    assert_eq!(denied(&out, "other"), []);
    assert_eq!(condition(&compiled, "p").kind, "WaypointAccepted");
    assert!(
        !compiled.authorizations.contains_key("shop/p"),
        "the namespace goes on"
    );
}

#[test]
fn tokens_that_nobody_checks_let_nobody_in() {
    let tokens = "---\n{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: t, namespace: shop}, spec: {targetRefs: [{kind: Service, name: web}], jwtRules: [{issuer: i}]}}\n";
    let text = web(LABEL) + &namespace("shop", "") + &ready("wp", "shop", "", "") + tokens;
    let compiled = compile(&world(&text), &settings());
    let told = &compiled.told[&key("shop", "wp")];
    let [(name, policy)] = told.policies.iter().collect::<Vec<_>>()[..] else {
        panic!("{:?}", told.policies)
    };
    assert!(
        name.contains('_'),
        "{name} is no AuthorizationPolicy's name"
    );
    let Some(waypoint::policy::Policy::Http(policy)) = &policy.policy else {
        panic!("{policy:?}")
    };
    assert!(
        policy.deny_all.contains("RequestAuthentication t"),
        "{}",
        policy.deny_all
    );
    assert_eq!(denied(&json::compiled(&compiled), "web").len(), 1);
    let said: Vec<_> = compiled
        .statuses
        .iter()
        .filter(|(it, _)| it.name == "t")
        .collect();
    assert!(
        matches!(said[..], [(_, status)] if !status.conditions[0].holds),
        "{said:?}"
    );
}

/// Every label, Gateway, address and phase with a policy that names the service: either nobody is sent past a waypoint and
/// whoever comes around is denied, or the steps of the binding are still to be gone, or it is headless and all are denied.
#[test]
fn no_combination_leaves_an_enforced_policy_open() {
    let gateways = [
        String::new(),
        gateway("wp", "shop", "", ""),
        ready("wp", "shop", "", ""),
        ready(
            "wp",
            "shop",
            "",
            "allowedRoutes: {namespaces: {from: None}}",
        ),
        ready(
            "wp",
            "shop",
            "labels: {istio.io/waypoint-for: workload}",
            "",
        ),
        ready("wp", "shop", "", "").replace("ambit-waypoint", "other"),
    ];
    let labels = ["", LABEL, "labels: {istio.io/use-waypoint: none}"];
    let phases = [
        None,
        Some(Phase::Told {
            gateway: key("shop", "wp"),
        }),
        Some(Phase::Published {
            gateway: key("shop", "wp"),
        }),
        Some(Phase::Enforced {
            gateway: key("shop", "wp"),
        }),
        Some(Phase::Leaving {
            gateway: key("shop", "wp"),
        }),
    ];
    let mut seen = 0;
    for (gateway, label) in gateways
        .iter()
        .flat_map(|it| labels.map(|label| (it, label)))
    {
        for headless in [false, true] {
            let web = if headless {
                web(label).replace("clusterIP: 10.0.1.1", "clusterIP: None")
            } else {
                web(label)
            };
            let text = web + gateway + &attached("p", WEB, GET);
            let recorded = phases
                .iter()
                .cloned()
                .map(|phase| (phase.clone(), recorded(&text, &[key("shop", "wp")], phase)));
            for (phase, world) in [(None, world(&text))].into_iter().chain(recorded) {
                let compiled = compile(&world, &settings());
                let out = json::compiled(&compiled);
                let denies = !denied(&out, "web").is_empty();
                let service = &out["addresses"]["shop/web.shop.svc.cluster.local"]["service"];
                let sent_past = service["waypoint"].is_null();
                let to_come = compiled.wanted.get(&key("shop", "web"));
                let to_come =
                    world.waypoints.is_some() && to_come.is_some_and(|it| it.policed && it.deny);
                let closed = denies && (headless || !sent_past);
                assert!(closed || to_come && !headless, "{phase:?} {text}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 6 * 3 * 2 * 6);
}

/// An EndpointSlice of `namespace` for its service `steal`; `endpoint` is what its only endpoint has.
fn slice(namespace: &str, endpoint: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: steal-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: steal}}}}, \
         addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: [{{{endpoint}}}]}}\n"
    )
}

/// The service `steal` of `namespace`, without a selector.
fn steal(namespace: &str, metadata: &str) -> String {
    service(
        "steal",
        metadata,
        "clusterIP: 10.0.9.9, ports: [{name: http, port: 80, targetPort: 8080}]",
    )
    .replace("namespace: shop", &format!("namespace: {namespace}"))
}

#[test]
fn what_another_namespace_writes_neither_opens_a_pod_nor_closes_it() {
    let endpoint = "addresses: [10.0.0.1], targetRef: {kind: Pod, name: web, namespace: shop}";
    let foreign = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: evil}, spec: {targetRefs: [{kind: Service, name: steal}], rules: [{}]}}\n";
    let theirs = steal("evil", LABEL)
        + &slice("evil", endpoint)
        + &ready("wp", "evil", "", "")
        + "---\n"
        + foreign;
    let ours = web(LABEL) + &ready("wp", "shop", "", "") + &attached("p", WEB, GET);
    for (ours, except) in [(ours, true), (web(""), false)] {
        let out = resources(&world(&(ours + &theirs)));
        let expected = except.then(|| (json!([8080]), vec![json!(WAYPOINT)]));
        assert_eq!(denied(&out, "web"), Vec::from_iter(expected));
        let pod = &out["addresses"]["Kubernetes//Pod/shop/web"]["workload"];
        assert_eq!(
            pod["services"]["evil/steal.evil.svc.cluster.local"],
            Value::Null
        );
        let said = &out["status"]["Service/evil/steal"]["conditions"];
        assert!(said.to_string().contains("RefNotPermitted"), "{said}");
    }
}

/// Whatever made it a member.
#[test]
fn a_member_of_a_foreign_service_is_neither_opened_nor_closed_by_it() {
    let theirs = steal("evil", LABEL) + &ready("wp", "evil", "", "");
    let policy = policy(
        "p",
        "evil",
        &format!("{{targetRefs: [{{kind: Service, name: steal}}], {GET}}}"),
    );
    let mut world = world(&(theirs + &policy));
    let services = [(
        "evil/steal.evil.svc.cluster.local".to_owned(),
        Default::default(),
    )];
    let member = Workload {
        uid: "stored".to_owned(),
        namespace: "shop".to_owned(),
        services: services.into(),
        ..Workload::default()
    };
    let member = Address {
        r#type: Some(Type::Workload(member)),
    };
    world.stored.addresses.insert("stored".to_owned(), member);
    let out = resources(&world);
    let stolen = &out["addresses"]["evil/steal.evil.svc.cluster.local"]["service"];
    assert_eq!(
        stolen["waypoint"]["hostname"]["hostname"],
        "wp.evil.svc.cluster.local"
    );
    assert_eq!(
        stolen["extensions"],
        Value::Null,
        "its waypoint is trusted with no pod of ours"
    );
    let member = &out["addresses"]["stored"]["workload"];
    assert_eq!(member["authorization_policies"], Value::Null);
}

#[test]
fn an_address_of_a_pod_is_that_pod_or_nothing() {
    let captured = "annotations: {ambient.istio.io/redirection: enabled}";
    let policy = |namespace: &str| {
        let target = "{kind: Service, name: steal}";
        policy(
            "p",
            namespace,
            &format!("{{targetRefs: [{target}], {GET}}}"),
        )
    };
    let text = |metadata: &str, namespace: &str, label: &str| {
        pod("web", "shop", metadata, "")
            + &steal(namespace, label)
            + &slice(namespace, "addresses: [192.0.2.1, 10.0.0.1]")
            + &ready("wp", namespace, "", "")
    };
    let listed = |out: &Value| out["addresses"].to_string().contains("/EndpointSlice/");
    let own = resources(&world(&(text(captured, "shop", LABEL) + &policy("shop"))));
    assert_eq!(
        denied(&own, "web"),
        [(json!([8080]), vec![json!(WAYPOINT)])]
    );
    assert!(!listed(&own));
    let foreign = resources(&world(&(text(captured, "evil", LABEL) + &policy("evil"))));
    assert_eq!(denied(&foreign, "web"), []);
    assert!(!listed(&foreign), "bound: never in the clear");
    for metadata in [captured, ""] {
        let foreign = resources(&world(&text(metadata, "evil", "")));
        assert!(!listed(&foreign), "unbound: nor then ({metadata})");
        let pod = &foreign["addresses"]["Kubernetes//Pod/shop/web"]["workload"];
        assert_eq!(pod["services"], Value::Null);
        let said = foreign["status"]["Service/evil/steal"]["conditions"].to_string();
        assert!(said.contains("RefNotPermitted"), "{said}");
        let own = resources(&world(&text(metadata, "shop", "")));
        assert!(!listed(&own));
        let pod = &own["addresses"]["Kubernetes//Pod/shop/web"]["workload"];
        assert!(pod["services"]["shop/steal.shop.svc.cluster.local"].is_object());
    }
}
