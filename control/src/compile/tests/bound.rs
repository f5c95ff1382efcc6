//! Facts about which services are bound to which waypoint, and about what stays closed.

use super::*;
use crate::world::{Phase, Waypoints};

/// A Gateway of our class; `metadata` and `more` are added to its metadata and to its only listener.
pub(super) fn gateway(name: &str, namespace: &str, metadata: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: {namespace}, {metadata}}}, \
         spec: {{gatewayClassName: ambit-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, {more}}}]}}}}\n"
    )
}

/// The same with an address, so that it counts as ready.
pub(super) fn ready(name: &str, namespace: &str, metadata: &str, more: &str) -> String {
    let status = format!(
        "]}}, status: {{addresses: [{{type: Hostname, value: {name}.{namespace}.svc.cluster.local}}]}}}}\n"
    );
    gateway(name, namespace, metadata, more).replace("]}}\n", &status)
}

pub(super) fn namespace(name: &str, labels: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}\n"
    )
}

/// A Service `web` of `shop` with a pod, an address, and the port 80, which leads to 8080.
pub(super) fn web(metadata: &str) -> String {
    service(
        "web",
        metadata,
        "clusterIP: 10.0.1.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]",
    ) + &pod("web", "shop", "labels: {app: web}", "")
}

pub(super) const LABEL: &str = "labels: {istio.io/use-waypoint: wp}";
/// Allows nothing but GET.
pub(super) const GET: &str = "rules: [{to: [{operation: {methods: [GET]}}]}]";

pub(super) fn attached(name: &str, target: &str, spec: &str) -> String {
    policy(name, "shop", &format!("{{targetRefs: [{target}], {spec}}}"))
}

pub(super) const WEB: &str = "{kind: Service, name: web}";
pub(super) const WP: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}";

pub(super) fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

/// The mesh as a control plane sees it that records what happens.
pub(super) fn recorded(text: &str, ready: &[Key], phase: Option<Phase>) -> World {
    let phases = phase.map(|phase| (key("shop", "web"), phase));
    World {
        waypoints: Some(Waypoints {
            ready: ready.iter().cloned().collect(),
            phases: phases.into_iter().collect(),
        }),
        ..world(text)
    }
}

/// The host name that a service is published with, and the reason of its condition.
pub(super) fn bound(out: &Value, service: &str) -> (Value, Value) {
    let (namespace, name) = service.split_once('/').unwrap();
    let key = format!("{namespace}/{name}.{namespace}.svc.cluster.local");
    let waypoint = &out["addresses"][key]["service"]["waypoint"];
    let condition = &out["status"][format!("Service/{service}")]["conditions"][0];
    (
        waypoint["hostname"]["hostname"].clone(),
        condition["reason"].clone(),
    )
}

pub(super) const HOST: &str = "wp.shop.svc.cluster.local";
const NOWHERE: &str = "no-waypoint.invalid";

#[test]
fn a_label_binds_to_a_waypoint_that_is_ready() {
    let cases = [
        (
            web(LABEL) + &ready("wp", "shop", "", ""),
            Some(HOST),
            "WaypointAccepted",
        ),
        (
            web(LABEL) + &gateway("wp", "shop", "", ""),
            None,
            "WaypointIsNotReady",
        ),
        (web(LABEL), None, "WaypointIsNotReady"),
        // The namespace's label is for those without one of their own.
        (
            web("")
                + &namespace("shop", "istio.io/use-waypoint: wp")
                + &ready("wp", "shop", "", ""),
            Some(HOST),
            "WaypointAccepted",
        ),
    ];
    for (text, host, reason) in cases {
        let out = resources(&world(&text));
        assert_eq!(
            bound(&out, "shop/web"),
            (json!(host), json!(reason)),
            "{text}"
        );
    }
}

#[test]
fn the_word_none_opts_out_of_the_namespaces_waypoint() {
    let text = web("labels: {istio.io/use-waypoint: none}")
        + &namespace("shop", "istio.io/use-waypoint: wp")
        + &ready("wp", "shop", "", "");
    assert_eq!(
        bound(&resources(&world(&text)), "shop/web"),
        (Value::Null, Value::Null)
    );
}

#[test]
fn a_waypoint_of_another_namespace_has_to_admit_the_services() {
    let label = "labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}";
    let from = |from: &str| format!("allowedRoutes: {{namespaces: {from}}}");
    let selector = from("{from: Selector, selector: {matchLabels: {team: blue}}}");
    let cases = [
        (from("{from: All}"), "", true),
        (from("{from: Same}"), "", false),
        (from("{from: None}"), "", false),
        (String::new(), "", false),
        (selector.clone(), "team: blue", true),
        (selector, "team: red", false),
    ];
    for (routes, labels, admitted) in cases {
        let text = web(label) + &namespace("shop", labels) + &ready("wp", "infra", "", &routes);
        let compiled = compile(&world(&text), &settings());
        let (host, reason) = bound(&json::compiled(&compiled), "shop/web");
        let expected = if admitted {
            "WaypointAccepted"
        } else {
            "AttachmentDenied"
        };
        assert_eq!(reason, expected, "{routes}");
        assert_eq!(host == "wp.infra.svc.cluster.local", admitted, "{routes}");
        let told = &compiled.told[&key("infra", "wp")];
        assert_eq!(
            !told.tables.is_empty(),
            admitted,
            "{routes}: it is told of nothing else"
        );
    }
}

#[test]
fn a_waypoint_for_workloads_alone_is_not_for_services() {
    for (kinds, reason) in [
        ("service", "WaypointAccepted"),
        ("all", "WaypointAccepted"),
        ("workload", "UnsupportedTrafficType"),
        ("none", "UnsupportedTrafficType"),
    ] {
        let labels = format!("labels: {{istio.io/waypoint-for: {kinds}}}");
        let text = web(LABEL) + &ready("wp", "shop", &labels, "");
        assert_eq!(
            bound(&resources(&world(&text)), "shop/web").1,
            reason,
            "{kinds}"
        );
    }
}

#[test]
fn a_bound_service_stays_published_while_its_gateway_is_gone() {
    let enforced = Phase::Enforced {
        gateway: key("shop", "wp"),
    };
    let out = resources(&recorded(&web(LABEL), &[], Some(enforced)));
    assert_eq!(
        bound(&out, "shop/web"),
        (json!(HOST), json!("WaypointIsNotReady"))
    );
}

#[test]
fn a_bound_service_stays_closed_when_its_waypoint_no_longer_admits_it() {
    let denied = "allowedRoutes: {namespaces: {from: None}}";
    let published = Phase::Published {
        gateway: key("shop", "wp"),
    };
    let text = web(LABEL) + &gateway("wp", "shop", "", denied);
    let world = recorded(&text, &[key("shop", "wp")], Some(published));
    let compiled = compile(&world, &settings());
    let out = json::compiled(&compiled);
    assert_eq!(
        bound(&out, "shop/web"),
        (json!(NOWHERE), json!("AttachmentDenied"))
    );
    assert!(
        compiled.wanted.contains_key(&key("shop", "web")),
        "it does not end"
    );
    assert!(compiled.told[&key("shop", "wp")].tables.is_empty());
}

#[test]
fn what_is_refused_does_not_begin() {
    let denied = "allowedRoutes: {namespaces: {from: None}}";
    let text = web(LABEL) + &gateway("wp", "shop", "", denied);
    let compiled = compile(&recorded(&text, &[key("shop", "wp")], None), &settings());
    assert!(compiled.wanted.is_empty());
}

#[test]
fn a_changed_label_is_published_with_the_new_waypoint_ready_or_not() {
    let text = web("labels: {istio.io/use-waypoint: other}") + &gateway("wp", "shop", "", "");
    let moving = |arrived| Phase::Moving {
        from: key("shop", "wp"),
        to: key("shop", "other"),
        arrived,
        enforced: false,
    };
    for (arrived, host) in [(false, HOST), (true, "other.shop.svc.cluster.local")] {
        let world = recorded(&text, &[key("shop", "wp")], Some(moving(arrived)));
        let compiled = compile(&world, &settings());
        assert_eq!(bound(&json::compiled(&compiled), "shop/web").0, host);
        let wanted = &compiled.wanted[&key("shop", "web")];
        assert_eq!(wanted.gateway, key("shop", "other"));
    }
}

#[test]
fn without_its_label_a_service_leaves_step_by_step() {
    let text = web("") + &gateway("wp", "shop", "", "");
    let gateway = || key("shop", "wp");
    let cases = [
        (Some(Phase::Leaving { gateway: gateway() }), json!(HOST), 1),
        (Some(Phase::Told { gateway: gateway() }), Value::Null, 1),
        (None, Value::Null, 0),
    ];
    for (phase, host, tables) in cases {
        let world = recorded(&text, &[gateway()], phase.clone());
        let compiled = compile(&world, &settings());
        assert_eq!(
            bound(&json::compiled(&compiled), "shop/web").0,
            host,
            "{phase:?}"
        );
        assert_eq!(compiled.told[&gateway()].tables.len(), tables, "{phase:?}");
        assert!(compiled.wanted.is_empty());
    }
}

#[test]
fn the_word_none_ends_a_binding_and_nothing_else_does() {
    let gone = String::new();
    let cold = gateway("wp", "shop", "", "");
    let none = web("labels: {istio.io/use-waypoint: none}");
    for (text, ends) in [
        (none + &cold, true),
        (web(LABEL) + &cold, false),
        (web(LABEL) + &gone, false),
    ] {
        let enforced = Phase::Enforced {
            gateway: key("shop", "wp"),
        };
        let compiled = compile(&recorded(&text, &[], Some(enforced)), &settings());
        assert_eq!(compiled.wanted.is_empty(), ends, "{text}");
        let (host, _) = bound(&json::compiled(&compiled), "shop/web");
        assert_eq!(host, HOST, "until it has ended");
    }
}

#[test]
fn a_route_binds_to_nothing() {
    let route = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, \
                 spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}}\n";
    let out = resources(&world(&(web("") + &ready("wp", "shop", "", "") + route)));
    assert_eq!(bound(&out, "shop/web"), (Value::Null, Value::Null));
    let parent = &out["status"]["HTTPRoute/shop/r"]["parents"][0];
    let said = |it: &&Value| it["type"] == "ResolvedWaypoints";
    let said = parent["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(said)
        .unwrap();
    assert_eq!(said["status"], "False");
}

#[test]
fn where_it_is_recorded_a_service_is_published_only_once_its_waypoint_knows_it() {
    let text = web(LABEL) + &gateway("wp", "shop", "", "");
    let gateway = || key("shop", "wp");
    let cases = [
        (None, Value::Null),
        (Some(Phase::Told { gateway: gateway() }), Value::Null),
        (Some(Phase::Published { gateway: gateway() }), json!(HOST)),
    ];
    for (phase, host) in cases {
        let compiled = compile(&recorded(&text, &[gateway()], phase.clone()), &settings());
        assert_eq!(
            bound(&json::compiled(&compiled), "shop/web").0,
            host,
            "{phase:?}"
        );
        assert_eq!(
            compiled.told[&gateway()].tables.len(),
            1,
            "told of it whatever the phase"
        );
        assert_eq!(compiled.wanted[&key("shop", "web")].gateway, gateway());
    }
}

#[test]
fn a_policy_that_needs_a_waypoint_closes_a_service_without_a_label() {
    let text = web("") + &attached("p", WEB, GET);
    let out = resources(&world(&text));
    assert_eq!(
        bound(&out, "shop/web"),
        (json!(NOWHERE), json!("WaypointIsNotReady"))
    );
    let named = resources(&world(&(text + &ready("wp", "shop", "", ""))));
    assert_eq!(
        bound(&named, "shop/web").0,
        NOWHERE,
        "a waypoint that nobody named is no help"
    );
}

#[test]
fn a_policy_binds_to_a_waypoint_that_was_never_ready() {
    for target in [WEB, WP] {
        let text = web(LABEL) + &gateway("wp", "shop", "", "") + &attached("p", target, GET);
        let out = resources(&world(&text));
        assert_eq!(
            bound(&out, "shop/web"),
            (json!(HOST), json!("WaypointIsNotReady"))
        );
        let compiled = compile(&recorded(&text, &[], None), &settings());
        let wanted = &compiled.wanted[&key("shop", "web")];
        assert!(wanted.policed && wanted.deny, "{target}");
    }
}

#[test]
fn what_is_not_enforced_closes_nothing() {
    for (metadata, spec) in [
        ("annotations: {istio.io/dry-run: 'true'}", "rules: [{}]"),
        ("", "action: AUDIT, rules: [{}]"),
    ] {
        let policy = attached("p", WEB, spec).replace(
            "namespace: shop}",
            &format!("namespace: shop, {metadata}}}"),
        );
        let out = resources(&world(&(web("") + &policy)));
        assert_eq!(
            bound(&out, "shop/web"),
            (Value::Null, Value::Null),
            "{spec}"
        );
    }
}

#[test]
fn a_policy_of_another_namespace_says_nothing_of_a_service() {
    let policy = policy(
        "p",
        "bank",
        &format!("{{action: DENY, targetRefs: [{WEB}], rules: [{{}}]}}"),
    );
    let text = web(LABEL) + &ready("wp", "shop", "", "") + &policy;
    let compiled = compile(&world(&text), &settings());
    assert!(compiled.told[&key("shop", "wp")].policies.is_empty());
    let out = json::compiled(&compiled);
    let condition = &out["status"]["AuthorizationPolicy/bank/p"]["conditions"][0];
    assert_eq!(condition["reason"], "TargetNotFound");
}

#[test]
fn a_headless_service_is_never_bound() {
    let headless = service("web", LABEL, "clusterIP: None, ports: [{port: 80}]");
    let text = headless + &ready("wp", "shop", "", "");
    let compiled = compile(&world(&text), &settings());
    let out = json::compiled(&compiled);
    assert_eq!(
        bound(&out, "shop/web"),
        (Value::Null, json!("UnsupportedTrafficType"))
    );
    assert!(compiled.told[&key("shop", "wp")].tables.is_empty());
    assert!(compiled.wanted.is_empty());
}

#[test]
fn a_waypoints_own_service_is_never_bound() {
    let selector = "clusterIP: 10.0.1.9, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{port: 15008}]";
    let text = namespace("shop", "istio.io/use-waypoint: wp")
        + &service("wp", "", selector)
        + &ready("wp", "shop", "", "");
    assert_eq!(
        bound(&resources(&world(&text)), "shop/wp"),
        (Value::Null, Value::Null)
    );
}

/// Otherwise whoever may make a Gateway could take a service out of its policies.
#[test]
fn a_gateway_of_a_services_name_does_not_unbind_it() {
    let text = web(LABEL) + &ready("wp", "shop", "", "") + &gateway("web", "shop", "", "");
    assert_eq!(bound(&resources(&world(&text)), "shop/web").0, HOST);
}

#[test]
fn of_two_waypoints_of_one_name_the_labelled_one_is_told() {
    let all = "allowedRoutes: {namespaces: {from: All}}";
    let text = web(LABEL) + &ready("wp", "shop", "", "") + &ready("wp", "bank", "", all);
    let compiled = compile(&world(&text), &settings());
    assert_eq!(compiled.told[&key("shop", "wp")].tables.len(), 1);
    assert_eq!(compiled.told[&key("bank", "wp")], Told::default());
}

#[test]
fn a_canary_waypoint_is_told_to_be_no_such_thing() {
    let label = "labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: wp2}";
    let text = web(label) + &ready("wp", "shop", "", "") + &ready("wp2", "shop", "", "");
    let compiled = compile(&world(&text), &settings());
    let status = &compiled.statuses[&ObjectRef::new(Kind::Service, "shop", "web")];
    assert!(status.conditions[0].holds);
    assert!(status.conditions[0].message.contains("wp2"));
    assert!(compiled.told[&key("shop", "wp2")].tables.is_empty());
}

#[test]
fn a_denial_stays_while_nobody_can_tell_whether_a_policy_applies() {
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let class = policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"));
    let shut = "allowedRoutes: {namespaces: {from: None}}";
    let pods = "labels: {istio.io/waypoint-for: workload}";
    let gateways = [
        String::new(),
        gateway("wp", "shop", "", shut),
        gateway("wp", "shop", pods, ""),
        gateway("wp", "shop", "", "").replace("ambit-waypoint", "other"),
    ];
    let denies = |compiled: &Compiled| {
        let names = compiled.authorizations.keys();
        names
            .filter(|name| name.contains("ambit_waypoint_"))
            .count()
            == 1
    };
    let to = |name: &str| key("shop", name);
    let moving = Phase::Moving {
        from: to("old"),
        to: to("wp"),
        arrived: true,
        enforced: true,
    };
    for gateway in &gateways {
        for phase in [Phase::Enforced { gateway: to("wp") }, moving.clone()] {
            let text = web(LABEL) + gateway + &class;
            let compiled = compile(&recorded(&text, &[], Some(phase)), &settings());
            assert!(compiled.wanted[&to("web")].deny, "{gateway}");
            assert!(denies(&compiled), "{gateway}");
        }
    }
    // What can be told is heeded: without a policy, and without the label.
    let enforced = || Some(Phase::Enforced { gateway: to("wp") });
    let open = web(LABEL) + &gateway("wp", "shop", "", "");
    let unlabelled = web("") + &class;
    for text in [open, unlabelled] {
        let compiled = compile(&recorded(&text, &[], enforced()), &settings());
        assert!(!denies(&compiled), "{text}");
        let wanted = compiled.wanted.get(&to("web"));
        assert!(wanted.is_none_or(|it| !it.deny), "{text}");
    }
}

#[test]
fn a_policy_of_a_waypoint_for_workloads_closes_the_services_labelled_to_it() {
    for kinds in ["workload", "none"] {
        let labels = format!("labels: {{istio.io/waypoint-for: {kinds}}}");
        let text = web(LABEL) + &ready("wp", "shop", &labels, "");
        for target in [WP, WEB] {
            let text = text.clone() + &attached("p", target, GET);
            for world in [world(&text), recorded(&text, &[key("shop", "wp")], None)] {
                let out = resources(&world);
                assert_eq!(
                    bound(&out, "shop/web"),
                    (json!(NOWHERE), json!("UnsupportedTrafficType"))
                );
                let workload = &out["addresses"]["Kubernetes//Pod/shop/web"]["workload"];
                let policies = workload["authorization_policies"].to_string();
                assert!(policies.contains("ambit_waypoint_8080"), "{policies}");
            }
        }
    }
}
