//! Facts about services that a route leads to from behind another service's waypoint: they take that for their client.

use super::{
    bound::{LABEL, attached, ready, web},
    *,
};

const WAYPOINT: &str = "cluster.local/ns/shop/sa/wp";
const CLIENT: &str = "cluster.local/ns/shop/sa/client";

/// A service that a route of `web` leads to.
fn leg(metadata: &str) -> String {
    service(
        "leg",
        metadata,
        "clusterIP: 10.0.2.1, selector: {app: leg}, ports: [{name: http, port: 80}]",
    ) + &pod("leg", "shop", "labels: {app: leg}", "").replace("10.0.0.1", "10.0.0.2")
}

fn text(metadata: &str) -> String {
    let route = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, \
         spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: leg, port: 80}]}]}}\n";
    web(LABEL)
        + &ready("wp", "shop", "", "")
        + &ready("wp2", "shop", "", "")
        + &leg(metadata)
        + route
}

fn allows(principals: &str) -> String {
    format!("rules: [{{from: [{{source: {{principals: [{principals}]}}}}]}}]")
}

/// For pods of `leg`.
fn connections(principals: &str) -> String {
    let spec = allows(principals);
    policy(
        "p",
        "shop",
        &format!("{{selector: {{matchLabels: {{app: leg}}}}, {spec}}}"),
    )
}

/// What the route says of its references, and the policy `p` of itself.
fn said(text: &str) -> (Condition, Condition) {
    let out = compile(&world(text), &settings());
    let of = |name: &str| {
        let mut statuses = out.statuses.iter();
        let found = statuses.find(|(it, _)| it.to_string() == name);
        found.unwrap().1.clone()
    };
    let parent = of("HTTPRoute/shop/r").parents.remove(0);
    let mut refs = parent.conditions.into_iter();
    let refs = refs.find(|it| it.kind == "ResolvedRefs").unwrap();
    let policy = of("AuthorizationPolicy/shop/p").conditions.remove(0);
    (refs, policy)
}

#[test]
fn a_route_and_the_allow_policies_where_it_leads_name_the_waypoint_that_has_to_be_let_in() {
    let other = "labels: {istio.io/use-waypoint: wp2}";
    let target = "{kind: Service, name: leg}";
    let requests = |principals: &str| attached("p", target, &allows(principals));
    let both = format!("{CLIENT}, {WAYPOINT}");
    for (metadata, policy, lacks) in [
        ("", connections(CLIENT), true),
        ("", connections(&both), false),
        ("", connections("cluster.local/ns/shop/*"), false),
        (other, connections(CLIENT), true),
        (other, requests(CLIENT), true),
        (other, requests(&both), false),
        (other, requests("'*'"), false),
        // Behind the same waypoint the client is the client.
        (LABEL, requests(CLIENT), false),
    ] {
        let (route, policy) = said(&(text(metadata) + &policy));
        assert!(route.holds && policy.holds, "{route:?} {policy:?}");
        assert_eq!(
            route.message.contains(WAYPOINT),
            lacks,
            "{metadata}: {route:?}"
        );
        assert_eq!(route.message.contains("shop/leg"), lacks, "{route:?}");
        let routed = policy.message.contains("HTTPRoute/shop/r");
        assert_eq!(routed, lacks, "{metadata}: {policy:?}");
    }
}

#[test]
fn what_somebody_denies_is_no_matter_of_who_is_allowed() {
    let deny = connections(CLIENT).replace("selector:", "action: DENY, selector:");
    let (route, policy) = said(&(text("") + &deny));
    assert_eq!((route.message, policy.message), Default::default());
}
