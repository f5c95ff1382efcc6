//! Facts about what policies of waypoints say of who gets past them.

use super::{
    bound::{GET, LABEL, WEB, WP, attached, bound, key, namespace, ready, web},
    *,
};

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";

/// What the policy `p` says, where the pod is in the mesh.
fn said(text: &str) -> String {
    let out = compile(&world(text), &settings());
    let reference = ObjectRef::new(Kind::AuthorizationPolicy, "shop", "p");
    out.statuses[&reference].conditions[0].message.clone()
}

fn mesh() -> String {
    namespace("shop", AMBIENT) + &ready("wp", "shop", "", "")
}

/// A service that leads to the pod of `web`, too.
fn sibling(metadata: &str, target: u16) -> String {
    let spec = format!(
        "clusterIP: 10.0.1.2, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: {target}}}]"
    );
    service("sibling", metadata, &spec)
}

#[test]
fn services_that_lead_past_a_policy_are_named_by_it() {
    let other = "labels: {istio.io/use-waypoint: other}";
    let text = mesh() + &web(LABEL) + &ready("other", "shop", "", "");
    let policy = |target: &str| attached("p", target, GET);
    for (more, target, named) in [
        (sibling(LABEL, 8080), WEB, true),
        (sibling(other, 8080), WEB, true),
        (sibling(other, 8080), WP, true),
        // It holds for both.
        (sibling(LABEL, 8080), WP, false),
        // Who comes by one that has no waypoint is denied there.
        (sibling("", 8080), WEB, false),
        (sibling(LABEL, 8081), WEB, false),
    ] {
        let said = said(&(text.clone() + &more + &policy(target)));
        assert_eq!(
            said.contains("shop/sibling"),
            named,
            "{more} {target}: {said}"
        );
        assert_eq!(said.is_empty(), !named, "{said}");
    }
    let tried = policy(WEB).replace(
        "name: p,",
        "name: p, annotations: {istio.io/dry-run: 'true'},",
    );
    let said = said(&(text + &sibling(LABEL, 8080) + &tried));
    assert!(!said.contains("sibling"), "not enforced anyway: {said}");
}

#[test]
fn pods_that_are_not_in_the_mesh_are_named_by_a_policy_for_them() {
    let policy = attached("p", WEB, GET);
    let service = service(
        "web",
        LABEL,
        "clusterIP: 10.0.1.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]",
    );
    for (pod, named) in [
        (pod("web", "shop", "labels: {app: web}", ""), false),
        (
            pod(
                "web",
                "shop",
                "labels: {app: web, istio.io/dataplane-mode: none}",
                "",
            ),
            true,
        ),
        (
            pod("web", "shop", "labels: {app: web}", "hostNetwork: true"),
            true,
        ),
    ] {
        let said = said(&(mesh() + &service + &pod + &policy));
        assert_eq!(said.contains("not in the mesh"), named, "{pod}: {said}");
        assert_eq!(said.contains("shop/web"), named, "{said}");
    }
}

/// Where both names of our class are served, a policy of either is for all Gateways, and says so of all their services.
#[test]
fn a_policy_of_a_class_names_pods_outside_the_mesh_behind_either_name() {
    let settings = Settings {
        deploys: true,
        ..settings()
    };
    let pod = pod(
        "web",
        "shop",
        "labels: {app: web, istio.io/dataplane-mode: none}",
        "",
    );
    let service = service(
        "web",
        LABEL,
        "clusterIP: 10.0.1.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]",
    );
    for class in ["ambit-waypoint", "istio-waypoint"] {
        let target =
            format!("{{group: gateway.networking.k8s.io, kind: GatewayClass, name: {class}}}");
        let policy = policy("p", "root", &format!("{{targetRefs: [{target}], {GET}}}"));
        let out = compile(&world(&(mesh() + &service + &pod + &policy)), &settings);
        let reference = ObjectRef::new(Kind::AuthorizationPolicy, "root", "p");
        let said = &out.statuses[&reference].conditions[0].message;
        assert!(said.contains("shop/web"), "{class}: {said}");
    }
}

#[test]
fn a_service_that_may_be_bypassed_is_named_by_a_policy_for_it() {
    let may = format!("annotations: {{ambit.dev/waypoint-bypass: allowed}}, {LABEL}");
    for (metadata, named) in [(may.as_str(), true), (LABEL, false)] {
        let said = said(&(mesh() + &web(metadata) + &attached("p", WEB, GET)));
        assert_eq!(said.contains("annotated"), named, "{said}");
    }
}

#[test]
fn a_headless_service_and_the_policy_of_its_namespaces_waypoint_say_that_nothing_is_enforced() {
    let labelled = format!("{AMBIENT}, istio.io/use-waypoint: wp");
    let text = namespace("shop", &labelled)
        + &ready("wp", "shop", "", "")
        + &service(
            "bare",
            "",
            "clusterIP: None, selector: {app: web}, ports: [{port: 80}]",
        );
    let out = compile(&world(&(text + &attached("p", WP, GET))), &settings());
    let message = |kind, name: &str| {
        let reference = ObjectRef::new(kind, "shop", name);
        out.statuses[&reference].conditions[0].message.clone()
    };
    let service = message(Kind::Service, "bare");
    assert!(service.contains("Gateway shop/wp"), "{service}");
    assert!(service.contains("not enforced"), "{service}");
    let policy = message(Kind::AuthorizationPolicy, "p");
    assert!(policy.contains("headless services"), "{policy}");
    assert!(policy.contains("shop/bare"), "{policy}");
    assert!(!policy.contains("shop/wp"), "{policy}");
}

#[test]
fn a_label_alone_makes_no_service_that_of_a_waypoint() {
    let managed = LABEL.replace(
        "wp}",
        "wp, gateway.istio.io/managed: istio.io-mesh-controller}",
    );
    let text = mesh() + &web(&managed) + &attached("p", WEB, GET);
    let out = compile(&world(&text), &settings());
    let (host, reason) = bound(&json::compiled(&out), "shop/web");
    assert_eq!(host, "wp.shop.svc.cluster.local");
    assert_eq!(reason, "WaypointAccepted");
    assert!(out.wanted[&key("shop", "web")].deny);
}

/// Pods of a namespace that discovery leaves out are published to nobody, so their own proxies let nobody in.
#[test]
fn a_policy_of_a_gateway_holds_also_if_discovery_leaves_out_its_namespace() {
    let for_pods = "labels: {istio.io/waypoint-for: workload}";
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let class = policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"));
    let own = policy("p", "infra", &format!("{{targetRefs: [{WP}], {GET}}}"));
    let tokens = own
        .replace(GET, "jwtRules: [{issuer: i}]")
        .replace("AuthorizationPolicy", "RequestAuthentication");
    let dry = own.replace(
        "namespace: infra}",
        "namespace: infra, annotations: {istio.io/dry-run: 'true'}}",
    );
    let all = "allowedRoutes: {namespaces: {from: All}}";
    let selected = super::mesh("root", "{discoverySelectors: [{matchLabels: {mesh: on}}]}");
    for (policed, routes, closed) in [
        (&class, all, true),
        (&own, all, true),
        (&tokens, all, true),
        (&dry, all, false),
        // It does not admit them.
        (&own, "", false),
        (&String::new(), all, false),
    ] {
        for config in ["", &selected] {
            let text = |metadata| {
                let gateway = ready("wp", "infra", metadata, routes);
                format!("{}{gateway}{policed}{config}", labelled_to_infra())
            };
            let out = resources(&world(&text(for_pods)));
            let pod = |pod: &str| out["addresses"][format!("Kubernetes//Pod/{pod}")].clone();
            let denied = &pod("shop/web")["workload"]["authorization_policies"];
            assert_eq!(denied.is_array(), closed, "{out:#}");
            assert_eq!(pod("infra/hid").is_null(), !config.is_empty(), "{out:#}");
            if closed {
                let out = resources(&world(&text("")));
                assert!(bound(&out, "shop/front").0.is_string(), "{out:#}");
            }
        }
    }
}

/// A pod and a service of another namespace, and a pod of its own.
fn labelled_to_infra() -> String {
    let far = "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra";
    let spec = "clusterIP: 10.0.1.9, ports: [{name: http, port: 80}]";
    namespace("shop", "mesh: on")
        + &pod("web", "shop", &format!("labels: {{{far}}}"), "")
        + &pod("hid", "infra", LABEL, "")
        + &service("front", &format!("labels: {{{far}}}"), spec)
}
