//! Facts about Gateways: which are ours, whom their waypoints are trusted by, what they get and what they say.

use super::{
    bound::{GET, HOST, LABEL, WEB, attached, bound, gateway, key, ready, recorded, web},
    *,
};
use crate::world::Phase;

#[test]
fn somebody_elses_waypoint_is_published_and_not_told() {
    let class = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: ambit-waypoint}, spec: {controllerName: example.com/other}}\n";
    let text = web(LABEL) + &ready("wp", "shop", "", "") + class;
    for world in [world(&text), recorded(&text, &[], None)] {
        let compiled = compile(&world, &settings());
        let out = json::compiled(&compiled);
        assert_eq!(
            bound(&out, "shop/web"),
            (json!(HOST), json!("WaypointAccepted"))
        );
        assert!(compiled.told.is_empty());
        let service = &out["addresses"]["shop/web.shop.svc.cluster.local"]["service"];
        assert_eq!(
            service["extensions"],
            Value::Null,
            "and trusted with nothing"
        );
    }
}

/// Whom the ztunnels of a service's workloads believe to have decided its policies.
#[test]
fn a_waypoint_of_another_namespace_is_trusted_only_if_the_mesh_says_so() {
    let label = "labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}";
    let foreign = web(label)
        + &ready(
            "wp",
            "infra",
            "",
            "allowedRoutes: {namespaces: {from: All}}",
        );
    let own = web(LABEL) + &ready("wp", "shop", "", "");
    let listed = |namespace: &str| {
        let config = "{trustedWaypointNamespaces: [shop, infra]}";
        foreign.clone() + &mesh(namespace, config)
    };
    let cases = [
        (own, Some("spiffe://cluster.local/ns/shop/sa/wp")),
        (listed("infra"), None),
        (listed("shop"), None),
        (
            listed("root"),
            Some("spiffe://cluster.local/ns/infra/sa/wp"),
        ),
        (foreign, None),
    ];
    for (text, identity) in cases {
        let out = resources(&world(&text));
        let service = &out["addresses"]["shop/web.shop.svc.cluster.local"]["service"];
        let trusted = &service["extensions"][0]["config"]["identities"][0];
        assert_eq!(trusted, &json!(identity));
    }
}

#[test]
fn a_waypoint_is_trusted_from_before_anybody_is_sent_to_it_until_nobody_is() {
    let text = web(LABEL) + &gateway("wp", "shop", "", "");
    let phases = [
        (None, false),
        (
            Some(Phase::Told {
                gateway: key("shop", "wp"),
            }),
            true,
        ),
        (
            Some(Phase::Enforced {
                gateway: key("shop", "wp"),
            }),
            true,
        ),
    ];
    for (phase, trusted) in phases {
        let out = resources(&recorded(&text, &[key("shop", "wp")], phase.clone()));
        let service = &out["addresses"]["shop/web.shop.svc.cluster.local"]["service"];
        assert_eq!(!service["extensions"].is_null(), trusted, "{phase:?}");
    }
}

#[test]
fn a_gateway_without_a_service_gets_one() {
    let deploys = Settings {
        deploys: true,
        ..settings()
    };
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: wp-1, namespace: shop, \
               labels: {gateway.networking.k8s.io/gateway-name: wp, networking.istio.io/tunnel: http}}, \
               spec: {nodeName: n1, serviceAccountName: wp}, \
               status: {podIP: 10.0.0.9, conditions: [{type: Ready, status: 'True'}]}}\n";
    let text = gateway("wp", "shop", "", "") + pod;
    let out = json::compiled(&compile(&world(&text), &deploys));
    assert_eq!(
        out["addresses"]["shop/wp.shop.svc.cluster.local"]["service"],
        json!({
            "name": "wp", "namespace": "shop", "hostname": "wp.shop.svc.cluster.local", "canonical": true,
            "ports": [{"service_port": 15008, "target_port": 15008}]
        })
    );
    let workload = &out["addresses"]["Kubernetes//Pod/shop/wp-1"]["workload"];
    assert_eq!(
        workload["services"]["shop/wp.shop.svc.cluster.local"]["ports"],
        json!([{"service_port": 15008, "target_port": 15008}])
    );
    let without = json::compiled(&compile(&world(&text), &settings()));
    assert_eq!(
        without["addresses"]["shop/wp.shop.svc.cluster.local"],
        Value::Null
    );
}

#[test]
fn a_gateway_says_what_it_is_ready_for() {
    let listeners = "}, {name: web, port: 80, protocol: HTTP";
    let text = web(LABEL) + &gateway("wp", "shop", "generation: 3", listeners);
    let reference = ObjectRef::new(Kind::Gateway, "shop", "wp");
    for (ready, reason) in [(false, "AddressNotAssigned"), (true, "Programmed")] {
        let ready: &[Key] = if ready { &[key("shop", "wp")] } else { &[] };
        let compiled = compile(&recorded(&text, ready, None), &settings());
        let status = &compiled.statuses[&reference];
        assert_eq!(status.generation, 3);
        let reasons: Vec<_> = status.conditions.iter().map(|it| it.reason).collect();
        assert_eq!(reasons, ["Accepted", reason]);
        let listeners: Vec<_> = status
            .listeners
            .iter()
            .map(|it| (it.name.as_str(), it.attached, it.conditions[0].reason))
            .collect();
        assert_eq!(
            listeners,
            [("mesh", 1, "Accepted"), ("web", 0, "UnsupportedProtocol")]
        );
    }
}

/// What a waypoint would do is asked before there is one.
#[test]
fn a_gateway_can_be_presumed_ready() {
    let text = web(LABEL) + &gateway("wp", "shop", "", "") + &ready("old", "shop", "", "");
    let mut world = world(&text);
    assert_eq!(presume_ready(&mut world, &settings()), [key("shop", "wp")]);
    let out = resources(&world);
    assert_eq!(
        bound(&out, "shop/web"),
        (json!(HOST), json!("WaypointAccepted"))
    );
}

/// Whoever runs as it could go around it.
#[test]
fn a_gateway_whose_identity_a_pod_has_too_is_trusted_by_nobody_and_excepted_nowhere() {
    let thief = |label: &str, phase: &str| {
        pod("thief", "shop", label, "")
            .replace("serviceAccountName: sa", "serviceAccountName: wp")
            .replace("status: {", &format!("status: {{phase: {phase}, "))
    };
    let own = "labels: {gateway.networking.k8s.io/gateway-name: wp}";
    let cases = [
        (thief("", "Running"), true),
        (thief(own, "Running"), false),
        (thief("", "Succeeded"), false),
        (
            thief("", "Running").replace("namespace: shop", "namespace: other"),
            false,
        ),
    ];
    let text = web(LABEL) + &gateway("wp", "shop", "", "") + &attached("p", WEB, GET);
    for (thief, shared) in cases {
        let enforced = Phase::Enforced {
            gateway: key("shop", "wp"),
        };
        let world = recorded(
            &(text.clone() + &thief),
            &[key("shop", "wp")],
            Some(enforced),
        );
        let compiled = compile(&world, &settings());
        let denial = compiled.authorizations.iter();
        let denials: Vec<_> = denial
            .filter(|(name, _)| name.contains("ambit_waypoint_"))
            .collect();
        let [(_, denial)] = denials[..] else {
            panic!("{denials:?}")
        };
        let excepted = !denial.groups[0].rules[0].matches[0]
            .not_principals
            .is_empty();
        assert_eq!(excepted, !shared, "{thief}");
        let out = json::compiled(&compiled);
        let service = &out["addresses"]["shop/web.shop.svc.cluster.local"]["service"];
        assert_eq!(service["extensions"].is_null(), shared, "{thief}");
        assert_eq!(bound(&out, "shop/web").0 == HOST, !shared, "{thief}");
        let said = &compiled.statuses[&ObjectRef::new(Kind::Gateway, "shop", "wp")].conditions[1];
        assert_eq!(said.holds, !shared, "{said:?}");
        assert_eq!(said.message.contains("shop/thief"), shared, "{said:?}");
    }
}

/// Whoever may run a pod could otherwise have the requests of every service behind the waypoint.
#[test]
fn a_pod_that_only_names_a_gateway_is_no_endpoint_of_its_waypoint() {
    let named = |account: &str| {
        pod(
            "wp-1",
            "shop",
            "labels: {gateway.networking.k8s.io/gateway-name: wp, networking.istio.io/tunnel: http}",
            "",
        )
        .replace("serviceAccountName: sa", &format!("serviceAccountName: {account}"))
    };
    let deploys = Settings {
        deploys: true,
        ..settings()
    };
    let written = service(
        "wp",
        "",
        "clusterIP: 10.0.1.9, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{port: 15008}]",
    );
    for own_service in ["", &written] {
        for (account, is_own) in [("wp", true), ("sa", false), ("''", false)] {
            let text = web(LABEL) + &gateway("wp", "shop", "", "") + own_service + &named(account);
            let compiled = compile(&world(&text), &deploys);
            let out = json::compiled(&compiled);
            let services = &out["addresses"]["Kubernetes//Pod/shop/wp-1"]["workload"]["services"];
            let is_endpoint = !services["shop/wp.shop.svc.cluster.local"].is_null();
            assert_eq!(is_endpoint, is_own, "{account}");
            // A ready endpoint makes a waypoint ready where nobody records that.
            assert_eq!(bound(&out, "shop/web").0 == HOST, is_own, "{account}");
            let said =
                &compiled.statuses[&ObjectRef::new(Kind::Gateway, "shop", "wp")].conditions[1];
            assert_eq!(said.message.contains("wp-1"), !is_own, "{said:?}");
        }
    }
    // A Service that is not the Gateway's keeps its pods, and what they deny for its sake.
    let other = web("").replace("app: web", "gateway.networking.k8s.io/gateway-name: wp");
    let text = other + &gateway("wp", "shop", "", "");
    let out = resources(&world(&text));
    let services = &out["addresses"]["Kubernetes//Pod/shop/web"]["workload"]["services"];
    assert!(!services["shop/web.shop.svc.cluster.local"].is_null());
}
