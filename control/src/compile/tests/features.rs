//! Facts about what is named as required of a waypoint.

use std::collections::BTreeSet;

use super::{
    bound::{GET, LABEL, WEB, attached, namespace, ready, web},
    *,
};

fn route(kind: &str, namespace: &str, service: &str, rules: &str) -> String {
    let name = format!("{}-{service}", kind.to_lowercase());
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, name: {service}, port: 80}}], rules: [{rules}]}}}}\n"
    )
}

fn named(name: &str, port: &str, label: &str) -> String {
    let label = format!("labels: {{istio.io/use-waypoint: {label}}}");
    service(
        name,
        &label,
        &format!("clusterIP: 10.0.2.1, ports: [{{{port}, port: 80}}]"),
    )
}

/// All names that the resources of all waypoints require.
fn required(text: &str) -> BTreeSet<String> {
    let compiled = compile(&world(text), &settings());
    let mut all = Vec::new();
    for told in compiled.told.values() {
        all.extend(told.tables.values().flat_map(|it| &it.requires));
        all.extend(told.backends.values().flat_map(|it| &it.requires));
        all.extend(told.policies.values().flat_map(|it| &it.requires));
        let routes = told.routes.values();
        all.extend(routes.clone().flat_map(|it| &it.requires));
        all.extend(routes.flat_map(|it| &it.rules).flat_map(|it| &it.requires));
    }
    all.into_iter().cloned().collect()
}

/// What a route of shop/web asks for.
fn routes() -> Vec<(&'static str, String)> {
    let http = |rule: &str| route("HTTPRoute", "shop", "web", rule);
    let to = |more: &str| {
        http(&format!(
            "{{{more}, backendRefs: [{{name: web, port: 80}}]}}"
        ))
    };
    vec![
        (
            "header-edits",
            to("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}]"),
        ),
        (
            "redirect",
            http("{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}"),
        ),
        (
            "regex",
            to("matches: [{headers: [{type: RegularExpression, name: x, value: a.*}]}]"),
        ),
        (
            "regex",
            to("matches: [{path: {type: RegularExpression, value: /a.*}}]"),
        ),
        (
            "rewrite",
            to("filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}]"),
        ),
        ("timeouts", to("timeouts: {request: 1s}")),
    ]
}

/// What other routes, and what is no route, asks for.
fn others() -> Vec<(&'static str, String)> {
    let dry = attached("p", WEB, GET).replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    let call =
        "{matches: [{method: {service: s, method: m}}], backendRefs: [{name: calls, port: 80}]}";
    let bytes = "{backendRefs: [{name: bytes, port: 80}]}";
    let here = "{backendRefs: [{name: web, namespace: shop, port: 80}]}";
    let back = named("back", "name: http", "wp2");
    let own = "clusterIP: 10.0.2.2, selector: {gateway.networking.k8s.io/gateway-name: wp2}, ports: [{port: 15008}]";
    let second = ready("wp2", "shop", "", "") + &service("wp2", "", own);
    let led = route(
        "HTTPRoute",
        "shop",
        "web",
        "{backendRefs: [{name: back, port: 80}]}",
    );
    let telling = "annotations: {ambient.istio.io/xfcc-include-client-identity: 'true'}";
    vec![
        ("audit", attached("p", WEB, "action: AUDIT, rules: [{}]")),
        ("client-identity", ready("wp2", "shop", telling, "") + &back),
        (
            "consumer-routes",
            namespace("bank", "") + &route("HTTPRoute", "bank", "web", here),
        ),
        (
            "declared-gateways",
            mesh("root", "gateways: [edge/gateway]"),
        ),
        ("dry-run", dry),
        (
            "grpc",
            named("calls", "appProtocol: grpc", "wp") + &route("GRPCRoute", "shop", "calls", call),
        ),
        ("second-waypoint", back + &second + &led),
        (
            "tcp-routes",
            named("bytes", "name: tcp", "wp") + &route("TCPRoute", "shop", "bytes", bytes),
        ),
    ]
}

#[test]
fn every_feature_that_is_asked_for_is_known_to_the_waypoint_and_only_that_is_asked_for() {
    let base = web(LABEL) + &ready("wp", "shop", "", "");
    assert_eq!(
        required(&(base.clone() + &attached("p", WEB, GET))),
        BTreeSet::new()
    );
    let mut named = BTreeSet::new();
    for (feature, text) in routes().into_iter().chain(others()) {
        assert_eq!(
            required(&(base.clone() + &text)),
            [feature.to_owned()].into(),
            "{text}"
        );
        named.insert(feature);
    }
    assert_eq!(named, mesh::waypoint::FEATURES.iter().copied().collect());
}
